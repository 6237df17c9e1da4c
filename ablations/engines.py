"""How jobs are run: in this process, or in worker processes that may die. Engines know no more.

Each yields (job, result) as jobs finish. A pool was written rather than taken over: when an idle
worker is killed, pebble, loky and concurrent.futures all give up the jobs that are waiting.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from ablations import worker
from ablations.grid import Job
from ablations.store import Result
from ablations.worker import Place

MAX_STARTS = 3


class Task(Protocol):
    """Runs one job; must be importable where workers run."""

    def log_path(self, job: Job) -> Path: ...

    def __call__(self, job: Job, place: Place) -> Result: ...


class EngineError(RuntimeError):
    """Workers cannot be started, or cannot store what they compute: going on makes no sense."""


@dataclass(frozen=True)
class WorkerDied:
    """Comes in place of a result when the worker process ended in the middle of a job."""

    place: Place
    cause: str
    pid: int
    seconds: float


Outcome = Result | WorkerDied


def in_process(jobs: Sequence[Job], task: Task, place: Place) -> Iterator[tuple[Job, Result]]:
    """One job after the other, here; what they print goes to their logs."""
    for job in jobs:
        log = task.log_path(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file, _printing_to(file):
            result = task(job, place)
        _drop_if_empty(log)
        yield job, result


@contextlib.contextmanager
def _printing_to(file: TextIO) -> Iterator[None]:
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


def pool(jobs: Sequence[Job], task: Task, places: Sequence[Place]) -> Iterator[tuple[Job, Outcome]]:
    """Jobs in worker processes, one a place; a worker that dies is replaced.

    Raises EngineError if workers cannot start, or a job's result cannot be stored.
    """
    crew = _Crew(jobs, task, places)
    try:
        for _ in jobs:
            finished = crew.finished.get()
            if isinstance(finished, BaseException):
                raise finished
            yield finished
    finally:
        crew.stop()


class _Crew:
    """A thread for each worker process, which feeds it and starts it again when it dies."""

    def __init__(self, jobs: Sequence[Job], task: Task, places: Sequence[Place]) -> None:
        self.task = task
        self.waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            self.waiting.put(job)
        self.finished: queue.SimpleQueue[tuple[Job, Outcome] | BaseException] = queue.SimpleQueue()
        self.stopping = False
        self.lock = threading.Lock()
        self.workers: dict[Place, _Worker] = {}
        self.threads = [
            threading.Thread(target=self._serve, args=(place,), daemon=True) for place in places
        ]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """End all workers, in the middle of a job if they have one."""
        with self.lock:
            self.stopping = True
            for member in self.workers.values():
                member.process.kill()
        for thread in self.threads:
            thread.join()

    def _serve(self, place: Place) -> None:
        try:
            while not self.stopping:
                try:
                    job = self.waiting.get_nowait()
                except queue.Empty:
                    return
                self._start(place)
                outcome = self.workers[place].run(job)
                if not self.stopping:
                    _drop_if_empty(self.task.log_path(job))
                    self.finished.put((job, outcome))
        except BaseException as error:
            self.finished.put(error)
        finally:
            if place in self.workers:
                self.workers[place].close()

    def _start(self, place: Place) -> None:
        """Have a worker that is alive; idle ones that were killed are replaced without a word."""
        for _ in range(MAX_STARTS):
            with self.lock:
                if self.stopping:
                    return
                if place not in self.workers or self.workers[place].process.poll() is not None:
                    self.workers[place] = _Worker(self.task, place)
            if self.workers[place].wait_ready():
                return
        raise EngineError(
            f"worker {place.worker} ended {MAX_STARTS} times before it could take a job "
            f"({self.workers[place].cause()}); what it printed stands above"
        )


class _Worker:
    """The driver's end of one worker process."""

    def __init__(self, task: Task, place: Place) -> None:
        self.place = place
        self.ready = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C and hang-up reach the driver alone
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )
        self._send(pickle.dumps((task, place)))

    def wait_ready(self) -> bool:
        if not self.ready:
            self.ready = self._receive() is not None
        return self.ready

    def run(self, job: Job) -> Outcome:
        """The job's result, or WorkerDied. Raises EngineError if the task itself raised."""
        started = time.perf_counter()
        reply = self._receive() if self._send(job) else None
        if reply is None:
            seconds = time.perf_counter() - started
            return WorkerDied(self.place, self.cause(), self.process.pid, seconds)
        kind, content = reply
        if kind == worker.ERROR:
            raise EngineError(f"{job}: {content[0]}")
        return content

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


def _drop_if_empty(log: Path) -> None:
    if log.exists() and not log.stat().st_size:
        log.unlink()
