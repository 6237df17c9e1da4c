"""Which clip has which label, in each layout that data sets are distributed in.

In goes a folder, with the name of its layout or without; out comes a `Listing` of videos, labels
and classes. Read `listing.py` first, then `layouts.py`.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
