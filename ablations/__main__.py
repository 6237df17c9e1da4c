"""`python -m ablations` is the command `ablations`."""

import sys

from ablations.cli import main

sys.exit(main())
