"""Ablation grids: declare a question, run it on whatever there is, and read the table.

In goes a grid file; out come a folder of results, tables and a report. Read `run.py` first, then
the rooms from top to bottom: `plan/`, `engines/`, `report/`, `store/`, `grid/`. `bench/` times
the engines.
Names are imported on first use, so that the command line stays quick.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
