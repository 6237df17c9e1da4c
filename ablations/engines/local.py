"""How jobs are run: in this process, or in worker processes that may die. Engines know no more.

Each yields the jobs that have finished, with their results, a batch at a time, so that the
results of quick jobs can be stored together: a batch is what finished while the one before was
stored. A job that runs out of memory comes again as lighter ones (see `ladder`); it is yielded
when nothing is left to try. `ray_engine` is the third engine, for several machines.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from ablations.engines.ladder import is_out_of_memory, lighter, with_step
from ablations.engines.processes import (
    GRACE_S,
    MAX_STARTS,
    EngineError,
    Outcome,
    Task,
    WorkerDied,
    WorkerProcess,
    drop_if_empty,
    is_devices_fault,
)
from ablations.engines.worker import Place
from ablations.grid.grid import Job
from ablations.store.store import Result

MAX_FAULTS = 3
TOGETHER_S = 0.05
"""Successful jobs in this process that are quicker wait for the next, to be stored with it."""

__all__ = ["EngineError", "Faults", "Outcome", "Task", "WorkerDied", "in_process", "pool"]


Claim = Callable[[Job], bool]
"""Whether a job may be run here, asked when its turn has come."""


def anyone(job: Job) -> bool:
    """The claim of a runner that is alone."""
    return True


class Faults:
    """Counts the failures in a row that are a device's own: its worker died, or it gave up."""

    def __init__(self) -> None:
        self.in_a_row: Counter[str] = Counter()
        self.set_aside: set[str] = set()

    def add(self, device: str, outcome: Outcome) -> bool:
        """Whether this outcome is the one for which the device is set aside."""
        self.in_a_row[device] = self.in_a_row[device] + 1 if is_devices_fault(outcome) else 0
        if self.in_a_row[device] < MAX_FAULTS or device in self.set_aside:
            return False
        self.set_aside.add(device)
        return True


def device_of(place: Place) -> str:
    """What is set aside when a place fails: a GPU with all its workers, or one worker of a CPU."""
    return place.device if place.device != "cpu" else f"worker {place.worker} (cpu)"


def none_left(faults: Faults) -> EngineError:
    """The error for when every device is set aside."""
    names = ", ".join(sorted(faults.set_aside))
    return EngineError(
        f"no device is left: {MAX_FAULTS} jobs in a row failed on {names} because a worker died or "
        "the device gave up; see `ablations why`, and go on with --retry-failed when it is mended"
    )


def in_process(
    jobs: Sequence[Job], task: Task, place: Place, claim: Claim = anyone
) -> Iterator[list[tuple[Job, list[Result]]]]:
    """One job after the other, here, of those that `claim` gives; what they print goes to logs.

    Raises EngineError after several device errors in a row; after one, if the device is a GPU, as
    this process cannot compute there any more.
    """
    faults, waiting = Faults(), deque(jobs)
    finished: list[tuple[Job, list[Result]]] = []
    began = time.perf_counter()
    while waiting:
        job = waiting.popleft()
        if not claim(job):
            continue
        log = task.log_path(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("a", errors="backslashreplace") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            results = task(job, place)
        drop_if_empty(log)
        again = lighter(job) if is_out_of_memory(results) else []
        if again:
            waiting.extendleft(reversed(again))
            continue
        finished.append((job, results))
        is_quick = time.perf_counter() - began < TOGETHER_S
        if not (waiting and is_quick and all(r.get("failure") is None for r in results)):
            yield finished
            finished, began = [], time.perf_counter()
        if faults.add(device_of(place), results) and waiting:
            raise none_left(faults)
        if is_devices_fault(results) and waiting and place.device != "cpu":
            raise EngineError(
                f"{job} failed on {place.device}, which this process cannot use after such an "
                "error; see `ablations why`, and give the same command to go on, or --workers 2, "
                "whose processes are replaced"
            )
    if finished:
        yield finished


def pool(
    jobs: Sequence[Job], task: Task, places: Sequence[Place], claim: Claim = anyone
) -> Iterator[list[tuple[Job, Outcome]]]:
    """Jobs that `claim` gives in worker processes, one a place; a worker that dies is replaced.

    A device on which several jobs in a row fail by its own fault is set aside with a warning.
    Raises EngineError if workers cannot start, a result cannot be stored, or no device is left.
    """
    crew = _Crew(jobs, task, places, claim)
    try:
        while crew.num_open:
            news = crew.take_news()
            finished = [each for each in news if isinstance(each, tuple)]
            with crew.changed:
                crew.num_open -= len(finished)
            if finished := [each for each in finished if each[1]]:  # else it was not claimed
                yield finished
            for each in news:
                if isinstance(each, BaseException):
                    raise each
                if isinstance(each, str):
                    warnings.warn(each, stacklevel=2)
    finally:
        crew.stop()


class _Crew:
    """A thread for each worker process, which feeds it and starts it again when it dies."""

    def __init__(
        self, jobs: Sequence[Job], task: Task, places: Sequence[Place], claim: Claim
    ) -> None:
        self.task, self.claim = task, claim
        self.waiting = deque(jobs)
        self.num_open = len(self.waiting)
        """Jobs whose outcome has not been yielded."""
        self.news: queue.SimpleQueue[tuple[Job, Outcome] | str | BaseException]
        self.news = queue.SimpleQueue()
        self.stopping = False
        self.changed = threading.Condition()
        self.faults = Faults()
        self.devices = {device_of(place) for place in places}
        self.running: Counter[str] = Counter()
        self.at_once = Counter(place.device for place in places)
        """By device, as `running`: how many jobs it may have; fewer once memory ran out."""
        self.crowds: dict[Place, int] = {}
        """The most jobs that the device had at once since this place's job began."""
        self.workers: dict[Place, WorkerProcess] = {}
        self.threads = [
            threading.Thread(target=self._serve, args=(place,), daemon=True) for place in places
        ]
        for thread in self.threads:
            thread.start()

    def take_news(self) -> list[tuple[Job, Outcome] | str | BaseException]:
        """All that has come, of which there is at least one: wait for it."""
        news = [self.news.get()]
        while not self.news.empty():
            news.append(self.news.get())
        return news

    def stop(self) -> None:
        """End all workers; one in the middle of a training has `GRACE_S` to store that."""
        with self.changed:
            self.stopping = True
            for member in self.workers.values():
                member.process.terminate()
            self.changed.notify_all()
        deadline = time.monotonic() + GRACE_S
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for member in self.workers.values():
            member.process.kill()
        for thread in self.threads:
            thread.join()

    def _serve(self, place: Place) -> None:
        try:
            while job := self._next(place):
                self._start(place)
                outcome = self.workers[place].run(job)
                if self.stopping:
                    return
                if isinstance(outcome, WorkerDied) and outcome.stopped:
                    self._put_back(place, job)
                    continue
                drop_if_empty(self.task.log_path(job))
                self._hand_in(place, job, outcome)
        except BaseException as error:
            self.news.put(error)
        finally:
            if place in self.workers:
                self.workers[place].close()

    def _next(self, place: Place) -> Job | None:
        """The next job, as soon as the device may have one more; None when this worker is done."""
        device = place.device
        with self.changed:
            while self.waiting and self.running[device] >= self.at_once[device]:
                self.changed.wait()
            set_aside = device_of(place) in self.faults.set_aside
            if self.stopping or set_aside:
                return None
            while self.waiting and not self.claim(self.waiting[0]):
                self.news.put((self.waiting.popleft(), []))
            if not self.waiting:
                return None
            self.running[device] += 1
            for busy in (place, *self.crowds):
                if busy.device == device:
                    self.crowds[busy] = max(self.crowds.get(busy, 0), self.running[device])
            return self.waiting.popleft()

    def _put_back(self, place: Place, job: Job) -> None:
        """Have a job go on whose worker was asked to stop, and the driver was not."""
        with self.changed:
            self.crowds.pop(place)
            self.waiting.appendleft(job)
            self.running[place.device] -= 1
            self.changed.notify_all()

    def _hand_in(self, place: Place, job: Job, outcome: Outcome) -> None:
        """Pass an outcome on, or try again in less memory, and judge the device by it."""
        if is_devices_fault(outcome) or is_out_of_memory(outcome):
            # After a device error it cannot compute; and only its end gives back all memory.
            self.workers[place].process.kill()
            self.workers[place].process.wait()
        with self.changed:
            again = self._again(place.device, job, outcome, self.crowds.pop(place))
            self.waiting.extendleft(reversed(again))
            self.running[place.device] -= 1
            self.changed.notify_all()
            if again:
                self.num_open += len(again) - 1
                return
            is_last_straw = self.faults.add(device_of(place), outcome)
            is_none_left = self.faults.set_aside == self.devices and bool(self.waiting)
        if is_last_straw:
            self.news.put(
                f"{device_of(place)} is set aside: {MAX_FAULTS} jobs in a row failed on it, the "
                f"last being {job}; what is left goes to the other devices"
            )
        self.news.put((job, outcome))
        if is_last_straw and is_none_left:
            self.news.put(none_left(self.faults))

    def _again(self, device: str, job: Job, outcome: Outcome, num_at_once: int) -> list[Job]:
        """What to run for a job that ran out of memory: with fewer beside it, then lighter."""
        if not is_out_of_memory(outcome):
            return []
        if num_at_once == 1:
            return lighter(job)
        fewer = num_at_once // 2
        self.at_once[device] = min(self.at_once[device], fewer)
        return [with_step(job, f"at once on {device} {num_at_once} -> {fewer}")]

    def _start(self, place: Place) -> None:
        """Have a worker that is alive; idle ones that were killed are replaced without a word."""
        for _ in range(MAX_STARTS):
            with self.changed:
                if self.stopping:
                    return
                if place in self.workers and self.workers[place].process.poll() is not None:
                    self.workers.pop(place).close()
                if place not in self.workers:
                    self.workers[place] = WorkerProcess(self.task, place)
            if self.workers[place].wait_ready():
                return
        raise EngineError(
            f"worker {place.worker} ended {MAX_STARTS} times before it could take a job "
            f"({self.workers[place].cause()}); what it printed stands above"
        )
