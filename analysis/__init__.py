"""Measures and figures of trained models: functions return tidy DataFrames, draw_* take them.

In go models, run folders and tables; out come rows, figures and pages. Each room answers a
question; its docstring says which. Read `cli.py` for the commands. A draw_* draws on `ax`, or on a
new figure, and returns the Axes; one of several panels puts them in the place of `ax`.
Names are imported on first use, so that `import analysis` and the command line stay quick.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
