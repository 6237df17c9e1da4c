"""Where a model looks: which pixels of which frames its answer rests on.

In go a model and clips; out come attributions, scores of how far to believe them, and figures.
Read `attribution.py` first, then `methods.py`; `faithfulness.py` and `localisation.py` hold the
scores.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
