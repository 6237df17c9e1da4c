"""A grid and its cells in plain values, as the store's files hold them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.grid.grid import Cell, Grid

_IN_PLAN = ("id", "name", "axes", "match")


def described_cell(cell: Cell) -> dict[str, Any]:
    """A cell in plain values."""
    return {
        "id": cell.id,
        "name": cell.name,
        "axes": {k: list(v) if isinstance(v, tuple) else v for k, v in cell.axes.items()},
        "model": cell.config.to_dict(),
        "train": cell.train.to_dict(),
        "data": asdict(cell.data),
        **started_from(cell),
        "identity": cell.identity,
        "match": asdict(cell.match) if cell.match else None,
    }


def started_from(cell: Cell) -> dict[str, str]:
    """The model file that the cell starts from, as the grid names it, and its hash; if any."""
    if not cell.init_sha256:
        return {}
    return {"init_from": cell.train.init_from, "init_sha256": cell.init_sha256}


def described(grid: Grid) -> dict[str, Any]:
    """A grid in plain values, for status and report."""
    return {
        "question": grid.question,
        "prediction": grid.prediction,
        "design": grid.options.design,
        "axes": list(grid.axes),
        "seeds": list(grid.seeds),
        "left_out_seeds": list(grid.left_out_seeds),
        "repeats": [[grid.baseline.id, grid.seeds[0]]] if grid.repeat else [],
        "match": grid.options.match,
        "baseline": grid.baseline.id,
        "cells": [
            {key: value for key, value in described_cell(cell).items() if key in _IN_PLAN}
            for cell in grid.cells
        ],
    }
