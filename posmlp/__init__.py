"""PosMLP-Video as a readable reference model with switchable parts.

Read `positions.py`, `gating.py` and `model.py` first: they are the model. `train/` fits it, and
`data/` gives it clips.
Names are imported on first use, so that `import posmlp` and the command line stay quick.
"""

from __future__ import annotations

import os
import sys

import lazy_loader

# Threads that wait for each other let others compute: beside other load, spinning ones take many
# times as long. OpenMP reads this when torch is first imported; who sets it otherwise is obeyed.
if "torch" not in sys.modules:  # else see posmlp.train.execution.beside_others
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
