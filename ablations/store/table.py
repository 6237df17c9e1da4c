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
    Columns: the axes; id, name, baseline, seed, repeat, status, failure, reason; the last epoch's
    metrics (test_top1, ...); params; seconds, train_seconds; peak_memory_mb; together (trainings
    of one population, whose time is shared out), micro_batches, memory_steps (what was done when
    memory ran out), reused_from; init_from, init_sha256 (where a model file was the start); device,
    num_threads, host, commit, dirty, versions. Damaged result files are named in a warning and have
    no row.
    """
    store = Store(out)
    plan = store.plan()
    rows = []
    for cell, seed, result in (*store.results(plan), *(store.repeats(plan) if repeats else ())):
        if isinstance(result, dict):
            rows.append(_row(cell, seed, result, plan))
        elif result != "to do":
            warnings.warn(f"{cell['name']} seed {seed} is {result}; it is not done", stacklevel=2)
    table = pd.DataFrame(rows)
    for axis in set(plan["axes"]) & set(table.columns):
        if table[axis].map(lambda value: isinstance(value, list)).any():
            table[axis] = table[axis].map(shown_value)
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
