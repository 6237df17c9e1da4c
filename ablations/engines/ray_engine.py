"""Jobs on several machines, as Ray Core tasks; Ray places them, and this file stores what returns.

On its machine each job runs in a worker process of the local engine, in a scratch folder. So a
crash is told as it is here, and an error of Ray's own means that a machine or its Ray was lost:
the job then runs again elsewhere. Where the driver stops, or a machine is asked to, the middle of a
training comes back and goes on from there. Machines need the same packages and data, but share no
folder.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from ablations.engines.ladder import is_out_of_memory, lighter, with_step
from ablations.engines.local import MAX_FAULTS, Faults, none_left
from ablations.engines.processes import GRACE_S, EngineError, Outcome, WorkerDied
from ablations.engines.ray_node import Bell, MovableTask, Parcel, run_there
from ablations.engines.worker import Place
from ablations.grid.grid import Job
from posmlp.data.user_cache import usable_cores
from posmlp.train.stopping import whole

MAX_TRIES = 3
LOOK_AGAIN_S = 2.0
CONNECT_S = 5.0


@dataclass(frozen=True)
class Request:
    """What one job takes of a machine."""

    num_cpus: int
    num_gpus: float

    def __str__(self) -> str:
        return f"{self.num_cpus} CPU(s)" + (f" and {self.num_gpus:g} GPU" if self.num_gpus else "")

    def larger(self) -> Request | None:
        """Twice the share of a machine, so that half as many jobs run there; None for no more."""
        if self.num_gpus:
            more = replace(self, num_gpus=min(2 * self.num_gpus, 1))
        else:
            more = replace(self, num_cpus=2 * self.num_cpus)
        try:
            num_at_once(more)
        except ValueError:
            return None
        return more if more != self else None


def _check_installed() -> None:
    """Raise ValueError, saying how to get it, if there is no Ray."""
    try:
        importlib.import_module("ray")
    except ImportError as error:
        raise ValueError(
            "engine='ray' needs Ray, which is not installed; "
            "get it with: pip install 'posmlp-workbench[ray]'"
        ) from error


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` ("auto": the one that runs here), or start Ray here for None.

    A connection that the caller has is used, and left open. Raises ValueError if none is there,
    or Ray is not installed.
    """
    _check_installed()
    import ray

    is_callers = ray.is_initialized()
    if not is_callers:
        _start(address)
    try:
        with _obeyable():
            yield
    finally:
        if not is_callers:
            ray.shutdown()


def _start(address: str | None) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")  # then it waits for ever
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:  # Ray itself does not ask the affinity
        options |= {"num_cpus": usable_cores(), "include_dashboard": False}
    try:
        _check_answers(address)
        # In the main thread Ray would have SIGTERM end the process, even in the midst of this.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(ray.init, address or "local", **options).result()
    except OSError as error:  # ConnectionError, where "auto" finds none
        raise ValueError(
            f"no Ray cluster answers at address={address!r} ({error}); start one with: "
            "ray start --head, or leave --address out to use this machine alone"
        ) from error


@contextmanager
def _obeyable() -> Iterator[None]:
    """SIGTERM does within the block what it does without Ray, whose own handlers obey nobody."""
    before = signal.getsignal(signal.SIGTERM)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    is_rays = getattr(before, "__module__", "").startswith("ray.")
    signal.signal(signal.SIGTERM, signal.SIG_DFL if is_rays else before)  # in place of Ray's in C++
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_answers(address: str | None) -> None:
    """Raise OSError if nobody listens there: Ray itself would try for minutes."""
    if address in (None, "auto"):
        return
    host, _, port = str(address).rpartition(":")
    if not (host and port.isdigit()):
        raise ValueError(f"address={address!r} must be auto or HOST:PORT, for example head:6379")
    socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


def cluster_has_gpu() -> bool:
    """Whether any machine of the connected cluster has a GPU."""
    return any(node.get("GPU") for node in _nodes().values())


def num_at_once(request: Request, set_aside: Collection[str] = ()) -> int:
    """How many jobs fit on the cluster; Ray would wait for ever for one that never fits.

    Raises ValueError if no machine, of those not set aside, is large enough for one.
    """
    nodes = [node for name, node in _nodes().items() if name not in set_aside]
    fits = [node.get("CPU", 0) // request.num_cpus for node in nodes]
    if request.num_gpus:
        on_gpus = [(node.get("GPU", 0) + 1e-3) // request.num_gpus for node in nodes]
        fits = [min(pair) for pair in zip(fits, on_gpus, strict=True)]
    if not sum(fits):
        sizes = [f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes]
        raise ValueError(
            f"a job asks for {request}, and no machine of the Ray cluster has that "
            f"(there are: {'; '.join(sizes) or 'none'}); lower --threads, or use --device cpu"
        )
    return int(sum(fits))


def on_ray(
    jobs: Sequence[Job],
    task: MovableTask,
    place: Place,
    request: Request,
    begun: Callable[[Job], dict[str, bytes]] = lambda _: {},
    keep: Callable[[Job, Parcel], object] = lambda *_: None,
) -> Iterator[tuple[Job, Parcel]]:
    """Jobs on the connected cluster, as many at once as fit.

    `keep` stores what a job had written that was stopped, here or on its machine, and `begun`
    gives that back. A machine on which several jobs in a row fail by its own fault is set aside
    with a warning. Raises EngineError if a machine cannot store results, or none is left that is
    large enough.
    """
    import ray
    from ray.exceptions import RayError

    on_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    here = on_node(ray.get_runtime_context().get_node_id(), soft=False)  # lost with this run alone
    options: dict[str, Any] = {"max_concurrency": 10_000, "scheduling_strategy": here}
    bell = ray.remote(num_cpus=0, **options)(Bell).remote()
    tries: Counter[Job] = Counter()
    faults = Faults()
    waiting, running = deque(jobs), dict[Any, Job]()
    requests: dict[Job, Request] = {}
    try:
        while waiting or running:
            with whole():  # Ray ends with another code where a signal's error passes through it
                room = _num_now(request, faults) if waiting else 0  # asks every machine
                while waiting and len(running) < room:
                    job = waiting.popleft()
                    tries[job] += 1
                    asked = requests.setdefault(job, request)
                    sent = _remote(asked, faults).remote(task, job, place, begun(job), bell)
                    running[sent] = job
                ready, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_AGAIN_S)
                if not (ready or waiting):
                    _num_now(request, faults)
            for reference in ready:
                job = running[reference]
                with whole():
                    parcel = _opened(reference, job, place, is_last=tries[job] == MAX_TRIES)
                del running[reference]
                if parcel is None or getattr(parcel.outcome, "stopped", False):
                    if parcel is not None:
                        keep(job, parcel)
                    waiting.appendleft(job)
                    continue
                again = _again(job, parcel.outcome, requests.pop(job))
                requests |= again
                waiting.extendleft(reversed(again))
                if again:
                    continue
                if faults.add(parcel.device, parcel.outcome):
                    _warn_of(parcel)
                yield job, parcel
    finally:
        bell.ring.remote()
        stopped, late = [], list(running)
        if running:
            stopped, late = ray.wait(list(running), num_returns=len(running), timeout=GRACE_S)
        for reference in stopped:
            with suppress(RayError):  # whatever it was, the run ends for another reason
                keep(running[reference], ray.get(reference))
        for reference in late:
            ray.cancel(reference, force=True)
        ray.kill(bell)


def _again(job: Job, outcome: Outcome, request: Request) -> dict[Job, Request]:
    """What to run in place of a job that ran out of memory: with fewer beside it, then lighter."""
    if not is_out_of_memory(outcome):
        return {}
    if more := request.larger():
        return {with_step(job, f"share of a machine: {request} -> {more}"): more}
    return dict.fromkeys(lighter(job), request)


def _nodes() -> dict[str, dict[str, float]]:
    """What each living machine has, by Ray's id of it."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def _num_now(request: Request, faults: Faults) -> int:
    """As `num_at_once`, in the middle of a run."""
    try:
        return num_at_once(request, nodes_aside(faults))
    except ValueError as error:
        if faults.set_aside:
            raise none_left(faults) from error
        raise EngineError(f"{error}; machines were lost") from error


def _remote(request: Request, faults: Faults) -> Any:
    """The function that runs a job on a machine that is not set aside."""
    import ray

    options: dict[str, Any] = {"num_cpus": request.num_cpus, "num_gpus": request.num_gpus}
    if faults.set_aside:
        options["label_selector"] = {"ray.io/node-id": f"!in({','.join(nodes_aside(faults))})"}
    # Ray's own retries would also repeat a job that brings its machine down, without end.
    # max_calls=0 keeps processes on GPUs, which Ray otherwise ends after each job.
    return ray.remote(max_retries=0, max_calls=0, **options)(run_there)


def _opened(reference: Any, job: Job, place: Place, *, is_last: bool) -> Parcel | None:
    """What came back; None if the machine was lost, so that the job has to run again."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise EngineError(f"{job}: {error.cause}") from error
    except RayError as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if not is_last:
            warnings.warn(f"{job} runs again, as its machine was lost ({reason})", stacklevel=3)
            return None
        cause = f"its machine was lost {MAX_TRIES} times ({reason})"
        return Parcel(WorkerDied(place, cause, None, 0.0), f"unknown to {job}", {})


def nodes_aside(faults: Faults) -> list[str]:
    """The machines that get no more jobs: of one with a bad GPU Ray cannot choose the others."""
    return sorted({device.partition(" ")[0] for device in faults.set_aside})


def _warn_of(parcel: Parcel) -> None:
    import ray

    node, where = parcel.node, parcel.gpu or "it"
    hosts = {n["NodeID"]: n["NodeManagerHostname"] for n in ray.nodes()}
    warnings.warn(
        f"{hosts.get(node, 'a machine')} (Ray node {node}) is set aside: {MAX_FAULTS} jobs in a "
        f"row failed on {where}; what is left goes to the other machines",
        stacklevel=3,
    )
