"""Folders of ablations with planted results: the store's real files, without the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.grid.grid import Cell, read_grid
from ablations.plan.rounds import with_chosen
from ablations.store.store import Store

BASE = {"preset": "toy", "data": "moving-digits:easy", "train": {"epochs": 2}}
Score = Callable[[Cell, int], dict[str, Any] | str | None]


def fill(root: Path, grid: dict[str, Any], score: Score, repeat: float | None = None) -> Path:
    """Store what `score` gives for each run: metrics, the reason of a failure, or None for to do.

    Metrics with a key "reason" are those of a training that diverged for that reason.
    Trials come first, and cells are chosen by them. `repeat`: how much the top-1 of a second run
    of the baseline's first seed differs.
    """
    grid = {"question": "Does it matter?", "base": BASE, "repeat": repeat is not None} | grid
    checked, store = read_grid(grid), Store(root)
    for job in checked.trial_jobs:
        _write(store, job.cells[0], job.seeds[0], score(job.cells[0], job.seeds[0]))
    checked = with_chosen(checked, store)
    store.declare(checked, "ablations run grid.yaml")
    for cell in checked.cells:
        for seed in checked.seeds:
            _write(store, cell, seed, score(cell, seed))
    if repeat is not None:
        found = score(checked.baseline, checked.seeds[0])
        again = {name: value + repeat for name, value in found.items()}
        _write(store, checked.baseline, checked.seeds[0], again, repeat=1)
    return root


def _write(
    store: Store, cell: Cell, seed: int, found: dict[str, Any] | str | None, repeat: int = 0
) -> None:
    if found is None:
        return
    metrics = {} if isinstance(found, str) else {k: v for k, v in found.items() if k != "reason"}
    reason = found if isinstance(found, str) else found.get("reason")
    failed = reason is not None
    folder = store.run_folder(cell.id, seed, repeat)
    folder.mkdir(parents=True)
    if not failed:
        rows = [{"epoch": epoch, "seed": seed, **metrics} for epoch in (1, 2)]
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    result = {
        "cell": cell.id,
        "name": cell.name,
        "seed": seed,
        "repeat": repeat,
        "status": "failed" if failed else "done",
        "failure": "exception" if failed else None,
        "reason": reason,
        "metrics": metrics,
        "history": None if failed else str((folder / "metrics.csv").relative_to(store.root)),
        "timings": {
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:01:00+00:00",
            "seconds": 60.0,
            "train_seconds": 50.0,
        },
        "environment": {"python": "3.11", "commit": "0123abc", "dirty": True},
        "worker": {"device": "cpu", "num_threads": 1, "host": "here"},
        "data": cell.data.spec,
        "log": f"cells/{cell.id}/seed{seed}.log",
        "command": f"ablations repeat {store.root} {cell.id} --seed {seed}",
    }
    store.write_results([result])


GATES = ["lrpe", "dense", "conv", "gqpe", "mean"]
OFFSETS = {"lrpe": 0.0, "dense": 0.1, "conv": -0.2, "gqpe": 0.001, "mean": 0.02}
JITTER = {
    "dense": [0.004, -0.004, 0.002, -0.002, 0.0],
    "conv": [0.01, -0.01, 0.0, 0.005, -0.005],
    "gqpe": [0.002, -0.002, 0.001, -0.001, 0.0],
    "mean": [0.06, -0.06, 0.04, -0.05, 0.03],
}


def planted(cell: Cell, seed: int) -> dict[str, float]:
    """dense is better, conv worse, gqpe equal, and mean too noisy to tell."""
    gate = cell.axes["gate"]
    noise = JITTER[gate][seed] if gate in JITTER else 0.0
    return {"test_top1": 0.5 + 0.03 * seed + OFFSETS[gate] + noise}


FIVE_GATES = {
    "prediction": "dense is better than lrpe; conv, too.",
    "axes": {"gate": GATES},
    "seeds": 5,
    "baseline": {"gate": "lrpe"},
}
