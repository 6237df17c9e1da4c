"""The tidy table of an ablation: what its files say, a row a training."""

from __future__ import annotations

import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.grid.deciding import margin_in, metrics_in
from ablations.grid.settings import shown_value
from ablations.store.store import Result, Store, measured


def load(out: str | Path, *, repeats: bool = False, trials: bool = False) -> pd.DataFrame:
    """The tidy table of an ablation: a row for each cell and seed that is finished, or failed.

    repeats: also the rows of what was trained a second time under its seed, for the noise floor.
    trials: also the rows by which a grid that tunes has chosen. Columns: the axes, a null as the
    word "null"; in a grid that tunes, the tuned settings and role (final or trial); id, name,
    baseline, seed, repeat, status, failure, reason; the last epoch's metrics (train_*, val_*,
    test_*), also of what failed; test_clips, where it is known; params; seconds, train_seconds;
    peak_memory_mb; together (trainings of one population, whose time is shared out), micro_batches,
    memory_steps (what was done when memory ran out), reused_from; init_from, init_sha256 (where a
    model file was the start); device, num_threads, host, commit, dirty, versions, precision (of
    training and scoring), repeats (whether to the bit on this device).

    `attrs["compares"]` says what the grid compares and how, for `analysis.compare`. Damaged result
    files are named in a warning and have no row.
    """
    store = Store(out)
    plan = store.plan()
    rows, settings = [], []
    stored = chain(
        store.results(plan),
        store.repeats(plan) if repeats else (),
        store.trials(plan) if trials else (),
    )
    for cell, seed, result in stored:
        if isinstance(result, dict):
            rows.append(_row(cell, seed, result, plan))
            settings.append(_settings(cell))
        elif result != "to do":
            warnings.warn(f"{cell['name']} seed {seed} is {result}; it is not done", stacklevel=2)
    table = pd.DataFrame(rows)
    tuned = plan["trials"]["values"] if "trials" in plan else ()
    for axis in {*plan["axes"], *tuned} & set(table.columns):
        values = [each.get(axis, float("nan")) for each in settings]
        if any(isinstance(value, list) for value in values):
            values = [value if value is None else shown_value(value) for value in values]
            table[axis] = values
        if None in values:  # which pandas would take for a missing value
            table[axis] = pd.Series(["null" if v is None else v for v in values], dtype=object)
    table.attrs["compares"] = compares(plan)
    return table


def compares(plan: dict[str, Any]) -> dict[str, Any]:
    """What a plan compares and how, in the table's own units: shares, not percent."""
    found: dict[str, Any] = {"metrics": {}}
    for metric in metrics_in(plan):
        margin = margin_in(plan, metric)
        found["metrics"][metric.name] = {
            "higher_is_better": metric.direction == "higher",
            "margin": None if margin is None else margin * metric.points,
            "whole": 1.0 if metric.is_share else None,
        }
    if plan.get("until"):
        found |= {"until": plan["until"], "num_comparisons": len(plan["cells"]) - 1}
    return found | {"seeds": plan["seeds"]}


def _settings(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell's axes, and what it was tuned to or tries."""
    return cell["axes"] | (cell.get("tuned") or {})


def _row(cell: dict[str, Any], seed: int, result: Result, plan: dict[str, Any]) -> dict[str, Any]:
    environment = result.get("environment") or {}
    worker = result.get("worker") or {}
    variant = plan["cells"][cell["of"]] if "of" in cell else cell
    return {
        **_settings(cell),
        **({"role": "trial" if "of" in cell else "final"} if "trials" in plan else {}),
        "id": cell["id"],
        "name": cell["name"],
        "baseline": variant["id"] == plan["baseline"],
        "seed": seed,
        "repeat": result.get("repeat", 0),
        **{key: result.get(key) for key in ("status", "failure", "reason")},
        **measured(result),
        **({"test_clips": variant["test_clips"]} if "test_clips" in variant else {}),
        "together": result.get("together", 1),
        "micro_batches": result.get("micro_batches", 1),
        "memory_steps": "; ".join(result.get("memory_steps", [])),
        "reused_from": result.get("reused_from", ""),
        **{key: result[key] for key in ("init_from", "init_sha256") if key in result},
        **{key: worker.get(key) for key in ("device", "num_threads", "host")},
        **{key: environment.get(key) for key in ("commit", "dirty", "python", "gpu")},
        **{key: environment[key] for key in ("precision", "repeats") if key in environment},
        **(environment.get("packages") or {}),
    }
