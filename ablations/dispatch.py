"""Which engine runs the jobs; whatever it is, each job ends as a stored result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ablations import engines
from ablations.grid import Job
from ablations.job import Attempt, Training, repeat_command
from ablations.processes import Outcome, WorkerDied
from ablations.store import Result, Store, write_durably
from ablations.worker import Place
from posmlp.config import one_of

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """Where jobs run: in this process, in worker processes of this machine, or on a Ray cluster."""

    kind: str = "local"
    workers: int = 1
    device: str | None = None
    num_threads: int = 1
    address: str | None = None
    per_gpu: int = 1

    def __post_init__(self) -> None:
        one_of(self.kind, ENGINES, "engine")
        for name in ("workers", "num_threads", "per_gpu"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.kind == "ray" and self.workers != 1:
            raise ValueError(
                f"workers={self.workers} is of the local engine; Ray runs as many jobs at once as "
                "the cluster's CPUs and GPUs hold, so leave it out"
            )
        if self.kind == "local" and (self.address is not None or self.per_gpu != 1):
            raise ValueError(
                f"address={self.address!r} and per_gpu={self.per_gpu} are of engine='ray'; "
                "here, workers are spread over the GPUs"
            )

    @property
    def words(self) -> list[str]:
        """The command-line options that differ from their defaults."""
        words = []
        for option, value, default in (
            ("--engine", self.kind, "local"),
            ("--address", self.address, None),
            ("--per-gpu", self.per_gpu, 1),
            ("--workers", self.workers, 1),
            ("--device", self.device, None),
            ("--threads", self.num_threads, 1),
        ):
            words += [option, str(value)] if value != default else []
        return words

    def run(self, jobs: list[Job], root: Path) -> Iterator[tuple[Job, Result]]:
        """Each job's result as it comes, stored below `root`; a worker's death is a result too."""
        if not jobs:
            return
        task = Training(root)
        if self.kind == "ray":
            yield from self._on_ray(jobs, task)
            return
        places = _places(min(self.workers, len(jobs)), self.device, self.num_threads)
        if self.workers == 1:
            with _threads_restored():
                yield from engines.in_process(jobs, task, places[0])
            return
        for job, outcome in engines.pool(jobs, task, places):
            result = _result_of(job, outcome, root)
            if isinstance(outcome, WorkerDied):
                Store(root).write_result(result)
            yield job, result

    def _on_ray(self, jobs: list[Job], task: Training) -> Iterator[tuple[Job, Result]]:
        from ablations import ray_engine

        store = Store(task.root)
        with ray_engine.connected(self.address):
            device = self.device or ("cuda" if ray_engine.cluster_has_gpu() else "cpu")
            if device not in ("cpu", "cuda"):
                raise ValueError(f"device={device!r} must be cpu or cuda: Ray chooses the GPUs")
            on_gpu = device == "cuda"
            place = Place(0, "cuda:0" if on_gpu else "cpu", self.num_threads)  # of those it sees
            request = ray_engine.Request(self.num_threads, 1 / self.per_gpu if on_gpu else 0)
            ray_engine.num_at_once(request)
            for job, parcel in ray_engine.on_ray(jobs, task, place, request):
                _unpack(store, job, parcel.files)
                result = _result_of(job, parcel.outcome, task.root)
                result["command"] = repeat_command(task.root, job.cell.id, job.seed, place)
                store.write_result(result)
                yield job, result


def _unpack(store: Store, job: Job, files: dict[str, bytes]) -> None:
    """Write what came from another machine; all but the result, which has to be the last."""
    shutil.rmtree(store.run_folder(job.cell.id, job.seed), ignore_errors=True)
    for name, content in files.items():
        if store.root / name != store.result_path(job.cell.id, job.seed):
            write_durably(store.root / name, content)


def _result_of(job: Job, outcome: Outcome, root: Path) -> Result:
    return _obituary(job, outcome, root) if isinstance(outcome, WorkerDied) else outcome


def _obituary(job: Job, death: WorkerDied, root: Path) -> Result:
    """The result of a job whose worker died, as far as the driver knows it."""
    attempt = Attempt(job, death.place, root, clock=time.perf_counter() - death.seconds)
    result = attempt.failed("worker killed", death.cause)
    result["worker"] |= {"pid": death.pid, "host": death.host}
    return result | {"peak_memory_mb": None}


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
