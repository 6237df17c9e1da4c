"""The Ray engine on each machine: run a job in a worker process, send back what it wrote."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import pickle
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

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
from ablations.store.files import write_durably

LOOK_AGAIN_S = 0.5


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
    gpu: str = ""
    """Which of the machine's, where it ran on one."""

    @property
    def device(self) -> str:
        """What failed where a failure is the device's own: a GPU, or the machine."""
        return f"{self.node} {self.gpu}".strip()


class Bell:
    """A Ray actor that tells every machine when the driver stops."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    async def ring(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        await self._rung.wait()


def run_there(
    task: MovableTask, job: Job, place: Place, files: dict[str, bytes], bell: Any
) -> Parcel:
    """On a machine of the cluster: run the job in a worker process, and pack what it wrote.

    `files` is how far the job had come, if it had begun. When the `bell` rings, the worker stores
    how far it is, which is packed too.
    """
    import ray

    scratch = _scratch()
    for name, content in files.items():
        write_durably(scratch / name, content)
    away = task.moved_to(scratch)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    worker = _worker(pickle.dumps(away), place, gpus)
    ended = threading.Event()
    threading.Thread(target=_stop_when_rung, args=(bell, worker, ended), daemon=True).start()
    try:
        outcome = worker.run(job)
        ended.set()
        if is_devices_fault(outcome):  # after a device error it cannot compute any more
            worker.process.kill()
            worker.process.wait()
        drop_if_empty(away.log_path(job))
        files = {
            str(path.relative_to(scratch)): path.read_bytes()
            for path in scratch.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        gpu = f"GPU {gpus}" if place.device != "cpu" else ""
        return Parcel(outcome, ray.get_runtime_context().get_node_id(), files, gpu)
    finally:
        ended.set()
        for path in scratch.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _stop_when_rung(bell: Any, worker: WorkerProcess, ended: threading.Event) -> None:
    import ray
    from ray.exceptions import RayError

    rung = bell.wait.remote()
    while not ended.is_set():
        if ray.wait([rung], timeout=LOOK_AGAIN_S)[0]:
            with suppress(RayError):  # a bell that broke has not rung
                ray.get(rung)
                if not ended.is_set():
                    worker.process.terminate()
            return


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
