"""A grid as populations against the pool with a training a job: the time of the whole command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ablations.grid.grid import read_grid
from ablations.progress import duration
from ablations.store.table import load


def bench_grid(path: Path, device: str, workers: int, num_runs: int = 1) -> Iterator[str]:
    """Lines that say how long `ablations run` takes each way, in turns, and how they differ.

    Raises ValueError for a grid that cannot be run, or if a training of it fails.
    """
    grid = read_grid(path)
    count = len(grid.cells) * len(grid.seeds)
    yield f"{len(grid.cells)} cells x {len(grid.seeds)} seeds = {count} trainings on {device}"
    pool = ["--workers", str(workers), "--together", "1"]
    ways = {f"pool of {workers}, a training a job": pool, "populations": ["--together", str(count)]}
    best = dict.fromkeys(ways, float("inf"))
    for run in range(num_runs):
        with tempfile.TemporaryDirectory() as folder:
            tables = {}
            for i, (way, options) in enumerate(ways.items()):
                out = Path(folder) / str(i)
                seconds = _run(path, out, [*options, "--device", device])
                best[way] = min(best[way], seconds)
                tables[way] = load(out)
                most = tables[way].together.max()
                yield f"run {run + 1}: {way}, up to {most} together: {duration(seconds)}"
            apart = [table.set_index(["id", "seed"]).test_loss for table in tables.values()]
            yield f"largest difference in test loss: {(apart[0] - apart[1]).abs().max():.2g}"
    one, other = best.values()
    yield f"populations are {one / other:.2f} times as fast (the quickest run of each way)"


def _run(path: Path, out: Path, options: list[str]) -> float:
    """Seconds that the command takes, from its start to its end."""
    command = [sys.executable, "-m", "ablations", "run", str(path), "--out", str(out), "--quiet"]
    began = time.perf_counter()
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join([*command, *options])} failed: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - began
