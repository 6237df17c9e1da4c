"""Grids of many cells that have finished: what it takes to read, plan, resume and report them.

Nothing is trained. `python -m ablations.bench.scale STEP FOLDER` measures one step by itself.
"""

from __future__ import annotations

import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from ablations.engines.processes import same_imports
from ablations.grid.grid import Cell, read_grid
from ablations.store.store import Result, Store

NUM_SEEDS = 2
_RATES = [round(1e-3 * 1.3**i, 6) for i in range(10)]
_VALUES: dict[str, list[Any]] = {
    "train.lr": _RATES,
    "train.weight_decay": [round(0.01 * i, 2) for i in range(10)],
    "train.label_smoothing": [round(0.02 * i, 2) for i in range(10)],
    "train.warmup_epochs": [round(0.2 * i, 1) for i in range(10)],
}
_MODELS: dict[str, list[Any]] = {
    "train.lr": _RATES,
    "gate": [
        *("lrpe", "gqpe", "dense", "lrpe+dense", "attention", "conv", "mean"),
        *("qkv-attention", "centred-attention", "centred-gqpe"),
    ],
    "layout": ["T+S", "T>S", "S>T", "T", "S", "ST", "T+ST", "ST>T", "S>ST", "T+S+ST"],
    "mlp_ratio": [1 + 0.25 * i for i in range(10)],
}
AXES = {"one": _VALUES, "tenth": _MODELS}
"""By how many models the cells have: ten values of each axis."""
COLUMNS = ("cells", "models", "step", "wall_s", "cpu_s", "peak_mb", "page_mb")


def bench(counts: Sequence[int] = (1_000, 10_000)) -> Iterator[str]:
    """The lines of the table as they are measured: a row a grid and step.

    counts: cells, each a power of ten. Every step has a process of its own, with one thread, and
    importing is not counted. Raises ValueError for another count.
    """
    for count in counts:
        if count not in (10, 100, 1_000, 10_000):
            raise ValueError(f"cells={count} must be 10, 100, 1000 or 10000: axes have ten values")
    yield "  ".join(f"{name:>8}" for name in COLUMNS)
    for count in counts:
        for models in AXES:
            with tempfile.TemporaryDirectory() as folder:
                fabricate(Path(folder), count, models)
                for step in STEPS:
                    found = measured(step, Path(folder))
                    row = {"cells": count, "models": models, "step": step, **found}
                    yield "  ".join(f"{_shown(row.get(name)):>8}" for name in COLUMNS)


def _shown(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str("-" if value is None else value)


def fabricate(folder: Path, count: int, models: str) -> None:
    """A grid of `count` cells in grid.yaml, and in out/ what running it would have left."""
    axes = dict(list(AXES[models].items())[: round(math.log10(count))])
    grid = {
        "question": f"What do {len(axes)} axes change?",
        "base": {"data": "moving-digits", "train": {"epochs": 2}},
        "axes": axes,
        "seeds": NUM_SEEDS,
        "equal_within": 2,
        "metric": ["test_top1", "test_loss"],
    }
    path, store = folder / "grid.yaml", Store(folder / "out")
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    checked, chance = read_grid(path), random.Random(0)
    store.declare(checked, f"ablations run {path} --out {store.root}")
    for job in checked.jobs:
        for cell, seed in job.trainings:
            _finish(store, cell, seed, job.repeat, chance)


def _finish(store: Store, cell: Cell, seed: int, repeat: int, chance: random.Random) -> None:
    """The run folder of a training, written without waiting for the disk."""
    home = store.run_folder(cell.id, seed, repeat)
    home.mkdir(parents=True)
    places = [values.index(cell.axes[name]) for name, values in _axes_of(cell)]
    top1 = 0.4 + 0.002 * sum(places) + 0.01 * seed + chance.gauss(0, 0.004)
    metrics = {"val_top1": top1, "test_top1": top1, "test_loss": 3 - 2 * top1}
    config = {"model": cell.config.to_dict(), "train": cell.train.to_dict()}
    environment = {"python": "3.11", "commit": "0123abc", "packages": {"torch": "2"}}
    result: Result = {
        **{"cell": cell.id, "name": cell.name, "seed": seed, "repeat": repeat, "status": "done"},
        **{"failure": None, "reason": None, "traceback": None, "metrics": metrics},
        **{"params": 250_000, "history": str((home / "metrics.csv").relative_to(store.root))},
        **{"config": config, "data": cell.data.spec, "peak_memory_mb": 300.0, "together": 1},
        "timings": {
            **{"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00"},
            **{"seconds": 60.0, "train_seconds": 50.0},
        },
        "environment": environment,
        "worker": {"device": "cpu", "num_threads": 1, "host": "here"},
        "command": f"ablations repeat {store.root} {cell.id} --seed {seed}",
    }
    rows = [{"epoch": epoch, "seed": seed, **metrics} for epoch in (1, 2)]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (home / "metrics.csv").write_text("\n".join(lines) + "\n")
    for name, content in (("config", config), ("environment", environment), ("result", result)):
        (home / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _axes_of(cell: Cell) -> Iterator[tuple[str, list[Any]]]:
    known = _MODELS if "gate" in cell.axes else _VALUES
    return ((name, known[name]) for name in cell.axes)


def _of(module: str, name: str) -> Callable[..., object]:
    """What a module has by a name; it is imported now, by its step's process alone."""
    found: Callable[..., object] = getattr(import_module(f"ablations.{module}"), name)
    return found


def _plan(path: Path, out: Path) -> Callable[[], object]:
    plan = _of("plan.planned", "plan")
    return lambda: str(plan(path, out, device="cpu", probe_s=0))


STEPS: dict[str, Callable[[Path, Path], Callable[[], object]]] = {
    "read": lambda path, _: partial(read_grid, path),
    "check": lambda path, out: partial(Store(out).check, read_grid(path)),
    "declare": lambda path, out: partial(
        Store(out.with_name("new")).declare, read_grid(path), "ablations run"
    ),
    "status": lambda _, out: partial(_of("store.status", "status"), out),
    "load": lambda _, out: partial(_of("store.table", "load"), out),
    "resume": lambda path, out: partial(_of("run", "run"), path, out, device="cpu", progress=False),
    "plan": _plan,
    "report": lambda _, out: partial(_of("report.page", "write_report"), out),
}
"""What each step calls, once all that it needs is imported and read."""


def measured(step: str, folder: Path) -> dict[str, float]:
    """Time, memory and page of a step in a process of its own. Raises SubprocessError."""
    command = [sys.executable, "-m", __name__, step, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=same_imports())
    return dict(json.loads(done.stdout))


def measure(step: str, folder: Path) -> dict[str, float]:
    """The same in this process, whose peak of memory it is."""
    call = STEPS[step](folder / "grid.yaml", folder / "out")
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    found = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    page = folder / "out" / "report.html"
    return found | ({"page_mb": page.stat().st_size / 1e6} if step == "report" else {})


def main() -> None:
    import torch

    torch.set_num_threads(1)
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))


if __name__ == "__main__":
    main()
