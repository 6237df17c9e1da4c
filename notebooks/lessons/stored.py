"""Results that came with the repository: what earlier runs measured, and by which command."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

import ablations

RESULTS = Path(ablations.__file__).parent / "results"


def rows(grid: str) -> pd.DataFrame:
    """A row a variant and seed, of those that finished: what `ablations.load` gives, as stored.

    `name` is the variant; the grid's axes, metrics, times, device, versions and commit have columns
    of their own. Raises FileNotFoundError, naming the command that measures them, where a grid's
    results are not stored.
    """
    found = pd.read_csv(_found(grid, "rows.csv"))
    return found[found["status"] == "done"].reset_index(drop=True)


def command(grid: str) -> str:
    """The command by which the stored results of a grid were made."""
    return json.loads(_found(grid, "cells.json").read_text())["plan"]["command"]


def _found(grid: str, name: str) -> Path:
    path = RESULTS / grid / name
    if not path.exists():
        raise FileNotFoundError(
            f"no {name} of grid {grid!r} in ablations/results; measure it by `ablations run "
            f"ablations/grids/{grid}.yaml --out runs/{grid}`, then `ablations publish runs/{grid} "
            f"ablations/results/{grid}`"
        )
    return path
