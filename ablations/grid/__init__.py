"""What to run: a grid file read into cells and jobs.

In goes a YAML file or a mapping; out comes a `Grid` of cells, whose ids only their content decides.
Read `grid.py` first, with its example of every key, then `expand.py` and `settings.py`.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
