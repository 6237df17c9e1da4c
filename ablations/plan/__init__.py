"""What running a grid would take, said before anything is run.

In goes a grid; out come its cells with parameters, multiply-adds, time and memory, and the effect
that its seeds can detect. Times come from records of earlier runs (`prediction.py`) or from a few
steps in a process of its own (`probe.py`). Read `planned.py` first.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
