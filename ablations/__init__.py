"""Ablation grids: declare a question, run it on whatever there is, and read the table.

Names are imported on first use, so that the command line stays quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.grid import Cell, Grid, read_grid
    from ablations.gridfile import GridError
    from ablations.plan import plan
    from ablations.run import run
    from ablations.store import load

_HOME_OF = {
    "Cell": "grid",
    "Grid": "grid",
    "GridError": "gridfile",
    "load": "store",
    "plan": "plan",
    "read_grid": "grid",
    "run": "run",
}

__all__ = ["Cell", "Grid", "GridError", "load", "plan", "read_grid", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ablations' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ablations.{_HOME_OF[name]}"), name)


class _Package(ModuleType):
    """Keeps `ablations.run` the function once the import system has loaded run.py; so `plan`."""

    def __setattr__(self, name: str, value: Any) -> None:
        shared = isinstance(value, ModuleType) and _HOME_OF.get(name) == name
        super().__setattr__(name, getattr(value, name) if shared else value)


sys.modules[__name__].__class__ = _Package
