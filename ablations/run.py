"""Run a grid: what is missing is trained, and what is finished is left alone."""

from __future__ import annotations

import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.commands import shown
from ablations.engines.dispatch import Engine
from ablations.grid.grid import Cell, Grid, Job, read_grid
from ablations.plan.prediction import PROBE_S, Hindsight, fitted, predict
from ablations.plan.rounds import current, rounds, with_chosen
from ablations.progress import reporter, say
from ablations.store import reuse as other_runs
from ablations.store.alike import FAILED_ALIKE, unless_all_fail
from ablations.store.claims import Claims
from ablations.store.running import running
from ablations.store.store import Result, Store
from ablations.store.table import load
from posmlp.data.user_cache import CACHE_GIB
from posmlp.train.run_folder import alone
from posmlp.train.stopping import obeyed

if TYPE_CHECKING:
    import pandas as pd

LOOK_AGAIN_S = 5.0
"""Between two looks at what other runners have left."""


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
    together: int | None = None,
    cache_gib: float = CACHE_GIB,
    timeout: float | None = None,
    log: str | None = None,
    retry_failed: bool = False,
    reuse: str | Path | Sequence[str | Path] = (),
    shard: str | None = None,
    join: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train what a grid asks for, round by round, and return the table; running again is resuming.

    A round is every cell at every seed; with `tune` the trials come before, and with `until:
    verdict` a round is the seeds until the next look, of what is undecided and of the baseline.

    grid: a grid file, the same content as a mapping, or what `read_grid` made. data: replaces the
    grid's. workers: 1 runs in this process, more in as many worker processes, spread over the GPUs
    where the device is `cuda`. device: by default a GPU if there is one. num_threads: of each
    worker on the CPU; sums are rounded differently on another number, so that the default of 1 is
    what makes every number of workers give the same bits. engine: "local", or "ray" for several
    machines: address ("auto" or HOST:PORT) is the cluster's, None starts Ray here; per_gpu: that
    many trainings share a GPU. together: up to that many trainings advance in one population: seeds
    of a cell, and cells that differ in values alone (learning rate, drop path, ...); by default up
    to 32 on a GPU, as its memory allows and no worker is left idle, and one on a CPU, where a
    worker has one core and more would save nothing.
    cache_gib: decoded frames that each machine's cache folder is to hold, shared by its workers; no
    cell's id or numbers depend on it. timeout: seconds after which a training is ended, and failed;
    a population has them for each of its trainings. log: "tensorboard" (below OUT/tensorboard), or
    a function's name, which is given each epoch of each training (`posmlp.train.logs`).
    retry_failed: also run what failed before.
    reuse: a folder of another run, or several, from which finished trainings of the same content
    are taken over.
    shard: "i/n" runs the i-th of n parts, for machines that share no folder; a grid with a budget,
    with `tune` or `until: verdict` has none. join: share the work with all that join in this
    folder, on any machine: each takes trainings that no other has taken, and takes over those of
    one that died; not with a budget or Ray. progress: on stderr.

    A cell that fails has a row that says so, and the rest goes on. Raises ValueError, before
    anything runs, for a grid, a folder or arguments that cannot be; EngineError where results
    cannot be stored; FailedAlikeError where trainings fail for one cause and none succeeds.
    """
    where = (engine, workers, device, num_threads, address, per_gpu)
    runner = Engine(*where, together, cache_gib, timeout, log)
    part([], shard)  # or ValueError, before anything is read
    if engine == "local":
        runner.here()
    grid = grid if isinstance(grid, Grid) else read_grid(grid, data)
    _refuse_parts(grid, shard)
    _refuse_to_join(grid, join, engine, shard)
    grid.check_data()
    store = Store(out)
    store.check(grid)
    sources = other_runs.opened([reuse] if isinstance(reuse, str | Path) else reuse, grid)
    command = _resume_command(grid, out, data, runner)
    here = command + (f" --shard {shard}" if shard else " --join" if join else "")
    with _beside_others(store, shard, join) as claims, runner.connected():
        probe_s = PROBE_S if grid.options.budget_s else 0.0  # else only what is known already
        place = "cuda" if runner.on_gpu else "cpu"
        predictions = predict(grid, store, place, num_threads, probe_s, cache_gib)
        grid = fitted(with_chosen(grid, store), predictions, store, runner.at_once)
        declared = current(grid, store).grid
        with store.written():
            store.declare(declared, command)
        hindsight = Hindsight(predictions)
        alike = grid.options.failed_alike
        most, counts = FAILED_ALIKE if alike is None else alike, Counter[str]()
        for now in rounds(grid, store):
            num_parts = int(shard.partition("/")[2]) if shard else 1
            jobs = part(runner.grouped(list(now.jobs), num_parts), shard)
            todo = _missing(store, jobs, retry_failed, sources)
            if (todo or not now.jobs) and now.grid is not declared:
                declared = now.grid  # else this round is over, and what is stored may be further
                store.declare(declared, command)
            num_all, num_todo = (sum(len(job.trainings) for job in each) for each in (jobs, todo))
            with reporter(
                *(num_all, num_all - num_todo, here),
                metrics=now.metrics,
                running=partial(running, store),
                name=now.name,
                show=progress and bool(now.jobs),
            ) as report:
                told: set[tuple[str, int, int]] = set()
                while todo:
                    done = runner.run(todo, store.root, claims)
                    for result in unless_all_fail(done, store, most, counts):
                        hindsight.add(result)
                        report(result)
                        told.add((result["cell"], result["seed"], result["repeat"]))
                    todo = _left_by_others(store, todo, told, report) if claims else []
        if progress and str(hindsight):
            say(str(hindsight))
        hindsight.store(store, f"-{shard.replace('/', '-of-')}" if shard else "")
    return load(out)


def part(jobs: Sequence[Job], shard: str | None) -> list[Job]:
    """The jobs of one shard, "i/n" with i from 1 to n; all of them for None."""
    if shard is None:
        return list(jobs)
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ValueError(f"shard={shard!r} must be i/n with i from 1 to n, for example 1/4")
    return list(jobs[int(index) - 1 :: int(count)])


def _refuse_parts(grid: Grid, shard: str | None) -> None:
    """Refuse parts of a grid whose trainings depend on what comes out of other parts, or on time.

    By its own records and probes each part would choose other seeds for a budget than the next.
    """
    if shard is None:
        return
    for key, asked in (("tune", grid.options.tune), ("seeds", grid.options.until)):
        if asked is not None:
            what = "the values that trials choose" if key == "tune" else "seeds until the verdict"
            grid.file.fail(
                (key,),
                f"shard={shard!r} cannot be kept, as {what} depend on the results of all parts; "
                "let all runners share one folder with --join instead.",
                key=True,
            )
    if grid.options.budget_s is None:
        return
    count = int(shard.partition("/")[2])
    budget, in_all = (f"{s:.15g}s" for s in (grid.options.budget_s, grid.options.budget_s * count))
    grid.file.fail(
        ("budget",),
        f"budget={budget} cannot be kept in parts (shard={shard!r}), as each would choose its own "
        f"seeds. See which seeds `ablations plan` keeps with budget: {in_all}, the time of all "
        f"{count} parts. List these under seeds, and leave the budget out.",
    )


def _refuse_to_join(grid: Grid, join: bool, engine: str, shard: str | None) -> None:
    """Refuse what cannot be shared by runners that know each other through files alone."""
    if not join:
        return
    if shard is not None:
        raise ValueError(f"join and shard={shard!r} are two ways to divide a grid; use one")
    if engine != "local":
        raise ValueError(f"join is of engine='local'; engine={engine!r} divides the work itself")
    if grid.options.budget_s is not None:
        problem = "a budget cannot be kept by several runners; list the seeds, and leave it out."
        grid.file.fail(("budget",), problem, key=True)


def _missing(
    store: Store, jobs: list[Job], retry_failed: bool, sources: Sequence[Store]
) -> list[Job]:
    """The jobs that are to be run: cells that lack the same seeds of a job stay together."""

    def is_missing(cell: Cell, seed: int, repeat: int) -> bool:
        result = store.ended(cell.id, seed, repeat)  # the run folder may still be whole
        if result is not None and not (result["status"] == "failed" and retry_failed):
            return False
        if other_runs.take_over(cell, seed, repeat, store, sources):
            return False
        if result is not None:
            _clear(store, result)
        return True

    left = []
    for job in jobs:
        lacking: dict[tuple[int, ...], list[Cell]] = {}
        for cell in job.cells:
            seeds = tuple(seed for seed in job.seeds if is_missing(cell, seed, job.repeat))
            lacking.setdefault(seeds, []).append(cell)
        left += [replace(job, cells=tuple(c), seeds=s) for s, c in lacking.items() if s]
    return left


def _clear(store: Store, result: Result) -> None:
    """Make way for another attempt, which goes on from what was trained, if its numbers were."""
    which = result["cell"], result["seed"], result.get("repeat", 0)
    store.result_path(*which).unlink()
    if result["failure"] == "not finite":
        shutil.rmtree(store.run_folder(*which))


@contextmanager
def _beside_others(store: Store, shard: str | None, join: bool) -> Iterator[Claims | None]:
    """Refuse a second runner, but one that joins; the lock falls with its process, however it ends.

    Shards take no lock: they share no job, and some shared file systems have no locks.
    """
    if join:
        with ExitStack() as held:
            with store.written():
                claims = held.enter_context(Claims(store))
            yield claims
        return
    if shard is not None:
        yield None
        return
    advice = "wait for it, or stop it and give all runners --join, to share the work"
    lock = alone(store.root, store.lock_path, store.owner_path, "runner", advice)
    with ExitStack() as held:
        with store.written():
            held.enter_context(lock)
        yield None


def _left_by_others(
    store: Store, todo: list[Job], told: set[tuple[str, int, int]], report: Callable[[Result], None]
) -> list[Job]:
    """What neither this runner nor another has ended; what another has is reported, once.

    If there is any, a moment later: others are at it, and may die.
    """
    for job in todo:
        for cell, seed in job.trainings:
            result = store.ended(cell.id, seed, job.repeat)
            if result is not None and (cell.id, seed, job.repeat) not in told:
                told.add((cell.id, seed, job.repeat))
                report(result)
    left = _missing(store, todo, retry_failed=False, sources=())
    if left:
        with obeyed():  # a signal ends the wait as it ends a training
            time.sleep(LOOK_AGAIN_S)
    return left


def _resume_command(grid: Grid, out: str | Path, data: str | None, engine: Engine) -> str:
    """The command that goes on with this run; all of it, where only a shard was asked for."""
    path = grid.file.path or Path(out) / "grid.yaml"
    words = ["ablations", "run", shown(path), "--out", shown(Path(out))]
    words += ["--data", data] if data else []
    return shlex.join(words + engine.words)
