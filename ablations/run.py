"""Run a grid: what is missing is trained, and what is finished is left alone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ablations.dispatch import Engine
from ablations.grid import Grid, Job, read_grid
from ablations.progress import reporter
from ablations.store import Result, Store, StoreError, load, write_json

if TYPE_CHECKING:
    import pandas as pd


def run(
    grid: str | Path | Mapping[str, Any] | Grid,
    out: str | Path,
    *,
    data: str | None = None,
    engine: str = "local",
    workers: int = 1,
    device: str | None = None,
    num_threads: int = 1,
    address: str | None = None,
    per_gpu: int = 1,
    retry_failed: bool = False,
    shard: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every cell of a grid at every seed, and return the table; running again is resuming.

    grid: a grid file, the same content as a mapping, or what `read_grid` made. data: replaces the
    grid's. workers: 1 runs in this process, more in as many worker processes, spread over the GPUs
    where the device is `cuda`. device: by default a GPU if there is one. num_threads: of each
    worker on the CPU; sums are rounded differently on another number, so that the default of 1 is
    what makes every number of workers give the same bits. engine: "local", or "ray" for several
    machines: address ("auto" or HOST:PORT) is the cluster's, None starts Ray here; per_gpu: that
    many trainings share a GPU. retry_failed: also run what failed before. shard: "i/n" runs the
    i-th of n parts, for schedulers. progress: on stderr.

    A cell that fails has a row that says so, and the rest goes on. Raises ValueError, before
    anything runs, for a grid, a folder or arguments that cannot be; EngineError where results
    cannot be stored.
    """
    runner = Engine(engine, workers, device, num_threads, address, per_gpu)
    grid = grid if isinstance(grid, Grid) else read_grid(grid, data)
    grid.check_data()
    jobs = part(grid.jobs, shard)
    store = Store(out)
    command = _resume_command(grid, out, data, runner)
    part_of_it = f" --shard {shard}" if shard else ""
    store.check(grid)
    with _alone(store, shard):
        store.declare(grid, command)
        todo, finished = _sorted_out(store, jobs, retry_failed)
        with reporter(len(jobs), finished, command + part_of_it, show=progress) as report:
            for job, result in runner.run(todo, store.root):
                report(job, result)
    return load(out)


def part(jobs: Sequence[Job], shard: str | None) -> list[Job]:
    """The jobs of one shard, "i/n" with i from 1 to n; all of them for None."""
    if shard is None:
        return list(jobs)
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ValueError(f"shard={shard!r} must be i/n with i from 1 to n, for example 1/4")
    return list(jobs[int(index) - 1 :: int(count)])


def _sorted_out(store: Store, jobs: list[Job], retry_failed: bool) -> tuple[list[Job], int]:
    """The jobs that are to be run, and how many of them all are not."""
    todo = []
    for job in jobs:
        try:
            result = store.result(job.cell.id, job.seed)
        except ValueError:  # damaged: as good as none, and the run folder may still be whole
            result = None
        if result is None:
            todo.append(job)
        elif result["status"] == "failed" and retry_failed:
            _clear(store, job, result)
            todo.append(job)
    return todo, len(jobs) - len(todo)


def _clear(store: Store, job: Job, result: Result) -> None:
    """Make way for another attempt; what a killed worker had trained is kept, to go on from."""
    store.result_path(job.cell.id, job.seed).unlink()
    if result["failure"] != "worker killed":
        shutil.rmtree(store.run_folder(job.cell.id, job.seed))


@contextmanager
def _alone(store: Store, shard: str | None) -> Iterator[None]:
    """Refuse a second runner; the lock falls with the process that holds it, however it ends.

    Shards take no lock: they share no job, and some shared file systems have no locks.
    """
    if shard is not None:
        yield
        return
    store.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(store.lock_path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreError(f"{store.root} is in use by {_owner(store.owner_path)}") from error
    try:
        write_json(store.owner_path, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        store.owner_path.unlink(missing_ok=True)
        lock.release()


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_bytes())
        who = f"another runner (process {owner['pid']} on {owner['host']})"
    except (OSError, ValueError, KeyError):
        who = "another runner"
    return f"{who}; wait for it, or stop it, or give each runner its shard with --shard i/n"


def _resume_command(grid: Grid, out: str | Path, data: str | None, engine: Engine) -> str:
    """The command that goes on with this run; all of it, where only a shard was asked for."""
    path = grid.file.path or Path(out) / "grid.yaml"
    words = ["ablations", "run", str(path), "--out", str(out)]
    words += ["--data", data] if data else []
    return shlex.join(words + engine.words)
