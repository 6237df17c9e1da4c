"""Run a grid: what is missing is trained, and what is finished is left alone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ablations import engines
from ablations.engines import WorkerDied
from ablations.grid import Grid, Job, read_grid
from ablations.job import Attempt, Training
from ablations.progress import reporter
from ablations.store import Result, Store, StoreError, load, write_json
from ablations.worker import Place
from posmlp.config import one_of

if TYPE_CHECKING:
    import pandas as pd

ENGINES = ("local",)


def run(
    grid: str | Path | Mapping[str, Any] | Grid,
    out: str | Path,
    *,
    data: str | None = None,
    engine: str = "local",
    workers: int = 1,
    device: str | None = None,
    num_threads: int = 1,
    retry_failed: bool = False,
    shard: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every cell of a grid at every seed, and return the table; running again is resuming.

    grid: a grid file, the same content as a mapping, or what `read_grid` made. data: replaces the
    grid's. workers: 1 runs in this process, more in as many worker processes, spread over the GPUs
    where the device is `cuda`. device: by default a GPU if there is one. num_threads: of each
    worker on the CPU; sums are rounded differently on another number, so that the default of 1 is
    what makes every number of workers give the same bits. retry_failed: also run what failed
    before. shard: "i/n" runs the i-th of n parts, for schedulers. progress: on stderr.

    A cell that fails has a row that says so, and the rest goes on. Raises ValueError, before
    anything runs, for a grid, a folder or arguments that cannot be; EngineError where results
    cannot be stored.
    """
    one_of(engine, ENGINES, "engine")
    if workers < 1 or num_threads < 1:
        raise ValueError(f"workers={workers} and num_threads={num_threads} must be at least 1")
    grid = grid if isinstance(grid, Grid) else read_grid(grid, data)
    grid.check_data()
    jobs = part(grid.jobs, shard)
    store = Store(out)
    command = _resume_command(grid, out, data, workers, device, num_threads)
    part_of_it = f" --shard {shard}" if shard else ""
    store.check(grid)
    with _alone(store, shard):
        store.declare(grid, command)
        todo, finished = _sorted_out(store, jobs, retry_failed)
        places = _places(min(workers, max(len(todo), 1)), device, num_threads)
        with reporter(len(jobs), finished, command + part_of_it, show=progress) as report:
            for job, result in _results(todo, Training(store.root), places, workers > 1):
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


def _results(
    jobs: list[Job], task: Training, places: list[Place], in_workers: bool
) -> Iterator[tuple[Job, Result]]:
    """Each job's result as it comes; a worker's death is written down as its job's failure."""
    if not jobs:
        return
    if not in_workers:
        with _threads_restored():
            yield from engines.in_process(jobs, task, places[0])
        return
    for job, outcome in engines.pool(jobs, task, places):
        if isinstance(outcome, WorkerDied):
            outcome = _obituary(job, outcome, task.root)
            Store(task.root).write_result(outcome)
        yield job, outcome


def _obituary(job: Job, death: WorkerDied, root: Path) -> Result:
    """The result of a job whose worker died, as far as the driver knows it."""
    attempt = Attempt(job, death.place, root, clock=time.perf_counter() - death.seconds)
    result = attempt.failed("worker killed", death.cause)
    result["worker"]["pid"] = death.pid
    return result | {"peak_memory_mb": None}


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


def _places(count: int, device: str | None, num_threads: int) -> list[Place]:
    """Where each worker runs: on the CPU, on one GPU, or on all GPUs in turn."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} but torch finds no GPU here; use cpu")
    if device != "cuda":
        return [Place(i, device, num_threads) for i in range(count)]
    return [Place(i, f"cuda:{i % torch.cuda.device_count()}", num_threads) for i in range(count)]


@contextmanager
def _threads_restored() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _resume_command(
    grid: Grid,
    out: str | Path,
    data: str | None,
    workers: int,
    device: str | None,
    num_threads: int,
) -> str:
    """The command that goes on with this run; all of it, where only a shard was asked for."""
    path = grid.file.path or Path(out) / "grid.yaml"
    words = ["ablations", "run", str(path), "--out", str(out)]
    for option, value, default in (
        ("--data", data, None),
        ("--workers", workers, 1),
        ("--device", device, None),
        ("--threads", num_threads, 1),
    ):
        words += [option, str(value)] if value != default else []
    return shlex.join(words)
