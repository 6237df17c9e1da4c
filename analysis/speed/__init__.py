"""How long a model takes, measured side by side on the machine at hand.

In go models or modules; out come rows of times with their spread, and what limits them.
Read `speed.py` first, then `roofline.py`; the `bench*` files are what the command line runs.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
