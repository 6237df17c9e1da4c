"""What came out: the files of an ablation, which every table is derived from.

In go results of jobs; out come tidy tables (`load`) and what a folder tells of its progress.
Read `store.py` first, which lists the files. Nothing here imports torch.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
