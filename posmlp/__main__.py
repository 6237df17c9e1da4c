"""`python -m posmlp` is the command `posmlp`."""

import sys

from posmlp.cli import main

sys.exit(main())
