"""How long a model takes and how much it holds, measured side by side on the machine at hand.

In go models, or the work of a command; out come rows of times with their spread.
Read `speed.py` first (the timing loop), then `bench.py` and `contenders.py` (what people run,
beside its yardsticks), `scaling.py` and `count_step.py` (how time grows), `peers.py`.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
