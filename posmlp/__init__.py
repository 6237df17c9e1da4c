"""PosMLP-Video as a readable reference model with switchable parts.

Read `positions.py`, `gating.py` and `model.py` first: they are the model. `train/` fits it, and
`data/` gives it clips.
Names are imported on first use, so that `import posmlp` and the command line stay quick.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
