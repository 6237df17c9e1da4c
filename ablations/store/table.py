"""The tidy table of an ablation: what its files say, a row a training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.grid.settings import shown_value
from ablations.store.store import Result, Store


def load(out: str | Path, *, repeats: bool = False) -> pd.DataFrame:
    """The tidy table of an ablation: a row for each cell and seed that is finished, or failed.

    repeats: also the rows of what was trained a second time under its seed, for the noise floor.
    Columns: the axes, a null as the word "null"; id, name, baseline, seed, repeat, status, failure,
    reason; the last epoch's metrics (train_*, val_*, test_*), also of what failed; params; seconds,
    train_seconds; peak_memory_mb; together (trainings of one population, whose time is shared out),
    micro_batches, memory_steps (what was done when memory ran out), reused_from; init_from,
    init_sha256 (where a model file was the start); device, num_threads, host, commit, dirty,
    versions. Damaged result files are named in a warning and have no row.
    """
    store = Store(out)
    plan = store.plan()
    told = []
    for cell, seed, result in (*store.results(plan), *(store.repeats(plan) if repeats else ())):
        if isinstance(result, dict):
            told.append((cell, seed, result))
        elif result != "to do":
            warnings.warn(f"{cell['name']} seed {seed} is {result}; it is not done", stacklevel=2)
    table = pd.DataFrame(_row(*each, plan) for each in told)
    for axis in set(plan["axes"]) & set(table.columns):
        values = [cell["axes"].get(axis, float("nan")) for cell, *_ in told]
        if any(isinstance(value, list) for value in values):
            values = [value if value is None else shown_value(value) for value in values]
            table[axis] = values
        if None in values:  # which pandas would take for a missing value
            table[axis] = pd.Series(["null" if v is None else v for v in values], dtype=object)
    return table


def _row(cell: dict[str, Any], seed: int, result: Result, plan: dict[str, Any]) -> dict[str, Any]:
    environment = result.get("environment") or {}
    worker = result.get("worker") or {}
    return {
        **cell["axes"],
        "id": cell["id"],
        "name": cell["name"],
        "baseline": cell["id"] == plan["baseline"],
        "seed": seed,
        "repeat": result.get("repeat", 0),
        **{key: result.get(key) for key in ("status", "failure", "reason")},
        **result["metrics"],
        "params": result.get("params"),
        **(result.get("timings") or {}),
        "peak_memory_mb": result.get("peak_memory_mb"),
        "together": result.get("together", 1),
        "micro_batches": result.get("micro_batches", 1),
        "memory_steps": "; ".join(result.get("memory_steps", [])),
        "reused_from": result.get("reused_from", ""),
        **{key: result[key] for key in ("init_from", "init_sha256") if key in result},
        **{key: worker.get(key) for key in ("device", "num_threads", "host")},
        **{key: environment.get(key) for key in ("commit", "dirty", "python", "gpu")},
        **(environment.get("packages") or {}),
    }
