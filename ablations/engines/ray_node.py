"""The Ray engine on each machine: run a job in a worker process, send back what it wrote."""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from ablations.engines.processes import (
    EngineError,
    Outcome,
    Task,
    WorkerProcess,
    drop_if_empty,
    is_devices_fault,
)
from ablations.engines.worker import Place
from ablations.grid.grid import Job


class MovableTask(Task, Protocol):
    """A task that can write below another folder."""

    def moved_to(self, folder: Path) -> Self: ...


@dataclass(frozen=True)
class Parcel:
    """What comes back from a machine."""

    outcome: Outcome
    node: str
    """Ray's id of the machine."""
    files: dict[str, bytes]
    """By their paths below the task's folder."""


def run_there(task: MovableTask, job: Job, place: Place) -> Parcel:
    """On a machine of the cluster: run the job in a worker process, and pack what it wrote."""
    import ray

    scratch = _scratch()
    away = task.moved_to(scratch)
    worker = _worker(pickle.dumps(away), place, os.environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        outcome = worker.run(job)
        if is_devices_fault(outcome):  # after a device error it cannot compute any more
            worker.process.kill()
            worker.process.wait()
        drop_if_empty(away.log_path(job))
        files = {
            str(path.relative_to(scratch)): path.read_bytes()
            for path in scratch.rglob("*")
            if path.is_file()
        }
        return Parcel(outcome, ray.get_runtime_context().get_node_id(), files)
    finally:
        for path in scratch.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@functools.cache
def _scratch() -> Path:
    """This Ray process's folder, which goes when the process ends in order."""
    folder = tempfile.mkdtemp(prefix="ablations-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


_workers: dict[tuple[bytes, Place, str | None], WorkerProcess] = {}
"""This Ray process's only worker, kept warm from job to job."""


def _worker(task: bytes, place: Place, gpus: str | None) -> WorkerProcess:
    """The worker process for such jobs. Raises EngineError if it does not start."""
    key = task, place, gpus
    if key in _workers and _workers[key].process.poll() is None:
        return _workers[key]
    while _workers:
        _workers.popitem()[1].close()
    worker = WorkerProcess(pickle.loads(task), place)
    if not worker.wait_ready():
        raise EngineError(f"no worker starts on {socket.gethostname()}: {worker.cause()}")
    _workers[key] = worker
    return worker
