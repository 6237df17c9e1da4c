"""The driver's end of a worker process (`worker.py`): started, fed, and heard to its end."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ablations.engines import worker
from ablations.engines.worker import Place
from ablations.grid.grid import Job
from ablations.store.store import DEVICE_ERROR, Result
from posmlp.train.stopping import EXIT_CODE

MAX_STARTS = 3
GRACE_S = 20.0
"""For a worker to store the middle of its training; schedulers and containers leave about 30 s."""


def same_imports() -> dict[str, str]:
    """The environment in which a new Python finds the modules that this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}


class Task(Protocol):
    """Runs one job; must be importable where workers run."""

    def log_path(self, job: Job) -> Path: ...

    def limit_s(self, job: Job) -> float | None: ...

    def __call__(self, job: Job, place: Place) -> list[Result]: ...


class EngineError(RuntimeError):
    """Workers cannot be started, or cannot store what they compute: going on makes no sense."""


@dataclass(frozen=True)
class WorkerDied:
    """Comes in place of a result when the worker process ended in the middle of a job."""

    place: Place
    cause: str
    pid: int | None
    """None where a whole machine was lost."""
    seconds: float
    host: str = field(default_factory=socket.gethostname)
    stopped: bool = False
    """Whether it obeyed a signal: its job goes on from where it was."""
    late: bool = False
    """Whether it was ended because the job took longer than it may."""


Outcome = list[Result] | WorkerDied
"""A result for each training of the job."""


def is_devices_fault(outcome: Outcome) -> bool:
    """Whether a job failed for a reason that is its device's: the worker died, or CUDA gave up."""
    if isinstance(outcome, WorkerDied):
        return not (outcome.stopped or outcome.late)
    return any(result.get("failure") == DEVICE_ERROR for result in outcome)


class WorkerProcess:
    """One worker process, as its driver sees it."""

    def __init__(self, task: Task, place: Place) -> None:
        self.task, self.place = task, place
        self.ready = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C and hang-up reach the driver alone
            env=same_imports(),
        )
        self._send(pickle.dumps((task, place)))

    def wait_ready(self) -> bool:
        if not self.ready:
            self.ready = self._receive() is not None
        return self.ready

    def run(self, job: Job) -> Outcome:
        """The job's result, or WorkerDied. Raises EngineError if the task itself raised."""
        started, late = time.perf_counter(), threading.Event()
        limit_s = self.task.limit_s(job)
        alarm = threading.Timer(limit_s or 0, self._end, [late])
        if limit_s is not None:
            alarm.start()
        reply = self._receive() if self._send(job) else None
        alarm.cancel()
        if reply is None and late.is_set():
            seconds, cause = time.perf_counter() - started, f"took longer than {limit_s:g} s"
            return WorkerDied(self.place, cause, self.process.pid, seconds, late=True)
        if reply is None:
            seconds = time.perf_counter() - started
            stopped = self.process.wait() == EXIT_CODE
            pid = self.process.pid
            return WorkerDied(self.place, self.cause(), pid, seconds, stopped=stopped)
        kind, content = reply
        if kind == worker.ERROR:
            raise EngineError(f"{job}: {content[0]}")
        return content

    def _end(self, late: threading.Event) -> None:
        late.set()
        self.process.kill()

    def cause(self) -> str:
        """How the process ended."""
        code = self.process.wait()
        if code >= 0:
            return f"worker {self.place.worker} exited with code {code}"
        name = signal.Signals(-code).name
        hint = " (out of memory, or killed from outside)" if name == "SIGKILL" else ""
        return f"worker {self.place.worker} was killed by {name}{hint}"

    def close(self) -> None:
        """Let the worker end, which it does when its input closes."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(OSError):  # the process, and what was on its way, are gone
                    stream.close()
        self.process.wait()

    def _send(self, content: Any) -> bool:
        assert self.process.stdin
        try:
            pickle.dump(content, self.process.stdin)
            self.process.stdin.flush()
        except OSError:
            return False
        return True

    def _receive(self) -> tuple[str, Any] | None:
        assert self.process.stdout
        try:
            return pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError):
            self.process.wait()
            return None


def drop_if_empty(log: Path) -> None:
    """Remove the log of a job that printed nothing."""
    if log.exists() and not log.stat().st_size:
        log.unlink()
