"""Which engine runs the jobs; whatever it is, each job ends as a stored result."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.commands import repeat_command
from ablations.engines import local
from ablations.engines.job import Attempt, Training
from ablations.engines.population import grouped, training_mb
from ablations.engines.processes import Outcome, WorkerDied
from ablations.engines.worker import Place
from ablations.grid.grid import Job
from ablations.store.claims import Claims
from ablations.store.files import write_durably
from ablations.store.store import Result, Store
from posmlp.config_checks import one_of
from posmlp.data.user_cache import CACHE_GIB, usable_cores
from posmlp.train.logs import log_of
from posmlp.train.stopping import obeyed, whole

if TYPE_CHECKING:
    from ablations.engines.ray_engine import Request
    from ablations.engines.ray_node import Parcel

ENGINES = ("local", "ray")
CORES = usable_cores()
MOST_TOGETHER = 32
"""Trainings that a population has by default on a GPU at most: a death loses no more than these."""
ROOM_MB = 16_000
"""Memory that all populations of a GPU may need by estimate; the memory ladder does the rest."""
MOST_A_CORE = 16
"""Workers, or threads, that a core of this machine may be asked to share: more is a slip."""

MOST_SECONDS = 366 * 24 * 3600
"""A longer limit is none; clocks of some systems end before an endless one."""


@dataclass(frozen=True)
class Engine:
    """Where jobs run: in this process, in worker processes of this machine, or on a Ray cluster."""

    kind: str = "local"
    workers: int = 1
    device: str | None = None
    num_threads: int = 1
    address: str | None = None
    per_gpu: int = 1
    together: int | None = None
    """Trainings that a population has at most; None: as `grouped` says on a GPU, one on a CPU."""
    cache_gib: float = CACHE_GIB
    """Decoded frames that each machine's cache folder is to hold; all workers share them."""
    timeout_s: float | None = None
    """Seconds after which a training is given up; None: it may take any time."""
    log: str | None = None
    """What is given the values of each epoch: tensorboard, or a function's name."""

    def __post_init__(self) -> None:
        one_of(self.kind, ENGINES, "engine")
        for name in ("workers", "num_threads", "per_gpu", "together"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.timeout_s is not None and not 0 < self.timeout_s <= MOST_SECONDS:
            raise ValueError(
                f"timeout={self.timeout_s:g} must be more than 0 seconds, and a year at most; "
                "leave it out for no limit"
            )
        if not 0 <= self.cache_gib < math.inf:
            raise ValueError(
                f"cache_gib={self.cache_gib} must be a number of GiB, 0 to cache nothing"
            )
        if self.log is not None:
            log_of(self.log)  # or ValueError
        if self.kind == "ray" and self.workers != 1:
            raise ValueError(
                f"workers={self.workers} is of the local engine; Ray runs as many jobs at once as "
                "the cluster's CPUs and GPUs hold, so leave it out"
            )
        if self.kind == "ray" and self.device not in (None, "cpu", "cuda"):
            raise ValueError(f"device={self.device!r} must be cpu or cuda: Ray chooses the GPUs")
        if self.kind == "local" and (self.address is not None or self.per_gpu != 1):
            raise ValueError(
                f"address={self.address!r} and per_gpu={self.per_gpu} are of engine='ray'; "
                "here, workers are spread over the GPUs"
            )

    @property
    def words(self) -> list[str]:
        """The command-line options that differ from their defaults."""
        options = {"kind": "--engine", "num_threads": "--threads", "timeout_s": "--timeout"}
        words = []
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if value != field.default:
                words += [options.get(field.name, option), str(value)]
        return words

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Ray's cluster is joined meanwhile; the local engine needs nothing."""
        if self.kind == "local":
            yield
            return
        from ablations.engines import ray_engine

        with ray_engine.connected(self.address):
            yield

    @cached_property
    def on_gpu(self) -> bool:
        """Whether trainings run on a GPU; ask while `connected`."""
        if self.device is not None:
            return self.device.startswith("cuda")
        if self.kind == "ray":
            from ablations.engines import ray_engine

            return ray_engine.cluster_has_gpu()
        return self.here().startswith("cuda")

    def here(self) -> str:
        """The device of the local engine, untouched.

        Raises ValueError if this machine lacks it, or has far fewer cores than workers or threads.
        """
        from posmlp.train.fitting import usable_device

        self.check_cores()
        return str(usable_device(self.device))

    def check_cores(self) -> None:
        """Raise ValueError for more workers or threads than anyone wants of this machine."""
        for name in ("workers", "num_threads"):
            if getattr(self, name) > MOST_A_CORE * CORES:
                raise ValueError(
                    f"{name}={getattr(self, name)} is more than {MOST_A_CORE} for each of the "
                    f"{CORES} CPU cores that this process may use; use about {CORES}"
                )

    @property
    def at_once(self) -> int:
        """How many trainings run at the same time; ask while `connected`."""
        if self.kind == "local":
            return self.workers
        from ablations.engines import ray_engine

        return ray_engine.num_at_once(self._request)

    def grouped(self, jobs: list[Job], num_parts: int = 1) -> list[Job]:
        """Jobs of one training each, as populations: seeds of a cell, then cells that can join.

        Each stands where its first training stood. On a CPU a worker has one core, which a
        population would not use any better. A GPU has room for a population of small models: of
        `MOST_TOGETHER`, of as many as leave no place idle, that of the other `num_parts` neither,
        and of as many as its memory holds by estimate.
        """
        share = 1
        if self.on_gpu and not self.together:
            share = min(MOST_TOGETHER, -(-len(jobs) // (num_parts * self.at_once)))

        def most(job: Job) -> int:
            room = ROOM_MB / self._neighbours / training_mb(job) if share > 1 else 1
            return self.together or max(1, min(share, int(room)))

        return grouped(grouped(jobs, "seeds", most), "cells", most)

    @cached_property
    def _neighbours(self) -> int:
        """How many workers share a GPU."""
        import torch

        if self.kind == "ray":
            return self.per_gpu
        num_gpus = torch.cuda.device_count() if self.device in (None, "cuda") else 1
        return -(-self.workers // max(1, num_gpus))

    def run(self, jobs: list[Job], root: Path, claims: Claims | None = None) -> Iterator[Result]:
        """A result for each training of each job as it comes, stored below `root`.

        `claims`: other runners are at work there, and only what can be claimed is run. A worker's
        death is a result too, and so is what no rung of the memory ladder could help. A signal
        stops all jobs, which store how far they are (`posmlp.train.stopping`). Raises OSError if
        results cannot be stored.
        """
        if not jobs:
            return
        task = Training(root, cache_gib=self.cache_gib, timeout_s=self.timeout_s, log=self.log)
        store = Store(root)
        batches = self._on_ray(jobs, task) if self.kind == "ray" else self._here(jobs, task, claims)
        with obeyed():
            for batch in batches:
                with whole():
                    results = [result for each in batch for result in _results_of(*each, root)]
                    store.write_results(results)
                    if claims is not None:
                        claims.release(results)
                    for job, outcome in batch:
                        is_split = len(job.trainings) > 1 and not isinstance(outcome, WorkerDied)
                        if is_split:
                            shutil.rmtree(store.work_folder(job), ignore_errors=True)
                yield from results

    @property
    def _request(self) -> Request:
        from ablations.engines import ray_engine

        return ray_engine.Request(self.num_threads, 1 / self.per_gpu if self.on_gpu else 0)

    def _here(
        self, jobs: list[Job], task: Training, claims: Claims | None
    ) -> Iterator[Sequence[tuple[Job, Outcome]]]:
        claim = local.anyone if claims is None else claims.take
        places = _places(min(self.workers, len(jobs)), self.here(), self.num_threads)
        if self.workers > 1 or self.timeout_s is not None:  # only a process can be ended
            yield from local.pool(jobs, task, places, claim)
            return
        with _threads_restored():
            yield from local.in_process(jobs, task, places[0], claim)

    def _on_ray(self, jobs: list[Job], task: Training) -> Iterator[Sequence[tuple[Job, Outcome]]]:
        from ablations.engines import ray_engine

        with self.connected():
            place = Place(0, "cuda:0" if self.on_gpu else "cpu", self.num_threads)
            ray_engine.num_at_once(self._request)
            begun, keep = partial(_begun, task.root), partial(_unpacked, task.root)
            for job, parcel in ray_engine.on_ray(jobs, task, place, self._request, begun, keep):
                yield [(job, _unpacked(task.root, job, parcel))]


def _begun(root: Path, job: Job) -> dict[str, bytes]:
    """The files of a job that was stopped in its middle, by their paths below the root."""
    folder = Store(root).work_folder(job)
    found = folder.rglob("*") if (folder / "state.safetensors").is_file() else []
    files = (path for path in found if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def _unpacked(root: Path, job: Job, parcel: Parcel) -> Outcome:
    """Write the files that came from another machine; the outcome as of a job that ran here."""
    store = Store(root)
    for cell, seed in job.trainings:
        shutil.rmtree(store.run_folder(cell.id, seed, job.repeat), ignore_errors=True)
    for name, content in parcel.files.items():
        write_durably(root / name, content)
    if not isinstance(parcel.outcome, WorkerDied):
        for result in parcel.outcome:
            where = result["worker"]["device"], result["worker"]["num_threads"]
            result["command"] = repeat_command(root, result["cell"], result["seed"], *where)
    return parcel.outcome


def _results_of(job: Job, outcome: Outcome, root: Path) -> list[Result]:
    """A job's results; for one whose worker died, as far as the driver knows them."""
    if not isinstance(outcome, WorkerDied):
        return outcome
    attempt = Attempt(job, outcome.place, root, clock=time.perf_counter() - outcome.seconds)
    results = attempt.failed("timeout" if outcome.late else "worker killed", outcome.cause)
    for result in results:
        result["worker"] |= {"pid": outcome.pid, "host": outcome.host}
        result["peak_memory_mb"] = None
    return results


def _places(count: int, device: str, num_threads: int) -> list[Place]:
    """Where each worker runs: on the CPU, on one GPU, or on all GPUs in turn."""
    import torch

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
