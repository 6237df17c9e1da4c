"""Reading a whole data set before training on it.

In goes a data set; out comes a list of what is wrong in it. Read `check.py` first.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
