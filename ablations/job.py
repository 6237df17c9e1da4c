"""One cell at one seed -> one result. Failures are results too."""

from __future__ import annotations

import errno
import math
import os
import shlex
import shutil
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ablations import memory
from ablations.grid import Job
from ablations.store import DEVICE_ERROR, Result, Store, read_json
from ablations.worker import Place
from posmlp.model import create_model
from posmlp.runs import environment
from posmlp.train import fit

NOT_METRICS = ("epoch", "seed", "lr", "seconds", "data_wait_share")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass
class Training:
    """Trains jobs and stores their results under `root`; goes to worker processes by pickle."""

    root: Path
    num_decoders: int = 2

    def log_path(self, job: Job) -> Path:
        return Store(self.root).log_path(job.cell.id, job.seed)

    def moved_to(self, folder: Path) -> Training:
        """The same below another folder, on another machine."""
        return replace(self, root=folder)

    def __call__(self, job: Job, place: Place) -> Result:
        """Train, store and return the result. Raises OSError if it cannot be stored."""
        result = Attempt(job, place, self.root).finish(lambda folder: self._fit(job, place, folder))
        Store(self.root).write_result(result)
        return result

    def _fit(self, job: Job, place: Place, folder: Path) -> Result:
        torch.set_num_threads(place.num_threads)
        _clear_unless_resumable(folder, job)
        with torch.device("meta"):
            model = create_model(job.cell.config)
        history = fit(
            job.cell.config,
            job.cell.train,
            job.cell.data.spec,
            [job.seed],
            folder,
            device=place.device,
            num_workers=self.num_decoders,
            progress=False,
        )
        return {
            "metrics": {k: v for k, v in history[-1].items() if k not in NOT_METRICS},
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "train_seconds": sum(row["seconds"] for row in history),
            "history": str((folder / "metrics.csv").relative_to(self.root)),
        }


@dataclass
class Attempt:
    """What is recorded about running one job, however it ends."""

    job: Job
    place: Place
    root: Path
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    clock: float = field(default_factory=time.perf_counter)

    def finish(self, train: Callable[[Path], Result]) -> Result:
        """Call `train` with the run folder, and make a result of what it returns or raises."""
        memory.reset(self.place.device)
        try:
            outcome = train(Store(self.root).run_folder(self.job.cell.id, self.job.seed))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                raise
            reason = f"{type(error).__name__}: {error}"
            return self.failed(_kind(error), reason, traceback.format_exc())
        lost = [k for k, v in outcome["metrics"].items() if not math.isfinite(v)]
        if lost:
            said = ", ".join(f"{name} is {outcome['metrics'][name]}" for name in lost)
            outcome["metrics"] |= dict.fromkeys(lost)  # JSON has no NaN
            return self._result(status="failed", failure="not finite", reason=said, **outcome)
        return self._result(status="done", **outcome)

    def failed(self, failure: str, reason: str, trace: str = "") -> Result:
        """The result of a job that did not come to its end."""
        return self._result(status="failed", failure=failure, reason=reason, traceback=trace)

    def _result(self, train_seconds: float | None = None, **outcome: Any) -> Result:
        cell, seed = self.job.cell, self.job.seed
        model, train = _configs(self.job)
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        seconds = time.perf_counter() - self.clock
        timings = {"started": self.started, "finished": finished, "seconds": seconds}
        default: Result = {"failure": None, "reason": None, "traceback": None, "metrics": {}}
        return {
            "cell": cell.id,
            "name": cell.name,
            "seed": seed,
            **default,
            **outcome,
            "config": {"model": model, "train": train},
            "data": cell.data.spec,
            "timings": timings | {"train_seconds": train_seconds},
            "peak_memory_mb": memory.peak_mb(self.place.device),
            "environment": _environment(self.place.device),
            "worker": self.place._asdict() | {"pid": os.getpid(), "host": socket.gethostname()},
            "log": str(Store(self.root).log_path(cell.id, seed).relative_to(self.root)),
            "command": repeat_command(self.root, cell.id, seed, self.place),
        }


def _kind(error: Exception) -> str:
    """What sort of failure an exception is."""
    if memory.is_out_of_memory(error):
        return "out of memory"
    words = ("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS")
    if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
        return DEVICE_ERROR
    return "exception"


def _clear_unless_resumable(folder: Path, job: Job) -> None:
    """Remove what no training can go on from: a kill's scraps, or a run of before a new field."""
    try:
        stored = read_json(folder / "config.json")
    except (FileNotFoundError, ValueError):
        stored = {}
    if (stored.get("model"), stored.get("train")) != _configs(job):
        if stored:
            print(f"{folder} was begun with other configuration fields; it starts anew")
        shutil.rmtree(folder, ignore_errors=True)


def _configs(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    return job.cell.config.to_dict(), job.cell.train.to_dict()


def repeat_command(root: Path, cell_id: str, seed: int, place: Place) -> str:
    """What trains this job again in another folder, and compares."""
    words = ["ablations", "repeat", str(root), cell_id, "--seed", str(seed)]
    words += ["--device", place.device, "--threads", str(place.num_threads)]
    return shlex.join(words)


@cache
def _environment(device: str) -> dict[str, Any]:
    return environment(device)
