"""A grid and its cells in plain values, as the store's files hold them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ablations.grid.costs import costs
from ablations.grid.datasets import num_tested

if TYPE_CHECKING:
    from ablations.grid.grid import Cell, Grid


def _in_plan(cell: Cell) -> dict[str, Any]:
    """What tells a cell from others, in plain values."""
    match = asdict(cell.match) if cell.match else None
    return {"id": cell.id, "name": cell.name, "axes": _plain(cell.axes), "match": match}


def described_cell(cell: Cell) -> dict[str, Any]:
    """A cell in plain values."""
    told = _in_plan(cell)
    return {
        **{key: told[key] for key in ("id", "name", "axes")},
        "model": cell.config.to_dict(),
        "train": cell.train.to_dict(),
        "data": asdict(cell.data),
        **started_from(cell),
        **({"costs": costs(cell.config)} if cell.config.code else {}),
        "identity": cell.identity,
        "match": told["match"],
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
        "metrics": [list(metric) for metric in grid.options.metrics],
        "equal_within": grid.options.equal_within,
        "until": list(grid.options.until) if grid.options.until else None,
        "baseline": grid.baseline.id,
        "cells": [_cell(grid, cell) for cell in grid.cells],
        **_trials(grid),
    }


def _cell(grid: Grid, cell: Cell) -> dict[str, Any]:
    """A cell of the plan, with what was chosen for it and how many seeds it was asked for."""
    asked = grid.asked.get(cell.id)
    tuned = {"tuned": _plain(cell.tuned)} if grid.trials else {}
    clips = {"test_clips": num_tested(cell.data, cell.train)}
    return _in_plan(cell) | clips | tuned | (asked._asdict() if asked else {})


def _trials(grid: Grid) -> dict[str, Any]:
    """What every cell tries; `of` is its place among the cells."""
    tune = grid.options.tune
    if tune is None:
        return {}
    cells = [
        _in_plan(trial) | {"of": of, "tuned": _plain(trial.tuned), "untuned": i == grid.untuned}
        for of, trials in enumerate(grid.trials)
        for i, trial in enumerate(trials)
    ]
    values = {name: list(each) for name, each in tune.values.items()}
    return {"trials": {"seeds": list(tune.seeds), "values": values, "cells": cells}}


def _plain(values: dict[str, Any] | None) -> dict[str, Any] | None:
    return values and {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
