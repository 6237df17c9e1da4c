"""What a model costs: parameters, multiply-adds and activation memory of one clip.

In goes a model or a configuration; out come exact counts, and nothing is timed.
Read `costs.py` first; `count.py` counts operations, and `memory.py` counts bytes.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
