"""Training: `fit` advances a population of one or more members, and `evaluate` scores a model.

In go a configuration, data and seeds; out come a history and a run folder.
Read `fitting.py` first, then `loop.py`, and in the order of a step `batches.py` (clips),
`population.py` (gradients), `optimisation.py` (weights), `scoring.py` (test scores),
`run_folder.py` (files).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
