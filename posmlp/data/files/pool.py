"""Decoding in worker processes that may hang or crash without harm to the run.

No Python code can interrupt a decoder that hangs in native code, so it has to be a process that is
killed. This file does not import torch: its workers start quickly and stay small.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from posmlp.data.files.packets import GOT_STUCK, VideoError, pyav, watched

if TYPE_CHECKING:  # pebble is imported when the first worker is wanted
    from pebble import ProcessFuture, ProcessPool

P = ParamSpec("P")
T = TypeVar("T")


class DecodePool:
    """Workers that each read one file at a time, and are ended when that no longer gets on.

    `timeout_s` is for the next packet or frame of a file, however long it is.
    `num_workers=0` reads in this process, without protection from files that hang or crash.
    Workers start at the first `submit`, afresh (spawned), and end with `close`, with this process,
    or when the pool is garbage-collected.
    """

    def __init__(self, num_workers: int, timeout_s: float = 20.0) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers} is negative; use 0 to read in-process")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s} is not positive; use seconds for a frame")
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self._workers: ProcessPool | None = None
        self._stop: Callable[[], object] = lambda: None

    def submit(
        self, function: Callable[Concatenate[str, P], T], path: str, *args: P.args, **kw: P.kwargs
    ) -> Callable[[], T]:
        """Start `function(path, ...)`; calling what is returned waits for its value.

        That call raises VideoError if the worker got stuck for `timeout_s` or died, twice, and
        otherwise whatever the function raised. In-process, the call does the work.
        """
        read = partial(function, path, *args, **kw)
        if self.num_workers == 0:
            return read
        job = partial(_watched, read, self.timeout_s)
        return partial(self._wait, self._schedule(job), job, path)

    def close(self) -> None:
        """Stop the workers; work that is under way is lost. A later `submit` starts new ones."""
        self._stop()
        self._workers = None

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _schedule(self, job: Callable[[], T]) -> ProcessFuture[T]:
        from pebble import ProcessPool

        if self._workers is None or not self._workers.active:
            self.close()
            context = _Workers()
            self._workers = ProcessPool(
                max_workers=self.num_workers,
                context=context,
                initializer=_begin,
                initargs=(os.getpid(),),
            )
            self._stop = weakref.finalize(self, _stop, self._workers, context)
        return self._workers.schedule(job)

    def _wait(self, future: ProcessFuture[T], job: Callable[[], T], path: str) -> T:
        from pebble import ProcessExpired

        with suppress(ProcessExpired, BrokenProcessPool):
            return future.result()
        # Once more: the machine may have slept or been out of memory. In a new pool, if the death
        # of an idle worker has ended this one.
        try:
            return self._schedule(job).result()
        except ProcessExpired as error:
            code = error.exitcode
            cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            reason = f"its worker died while reading it, twice ({cause})"
            if code == GOT_STUCK:
                reason = f"no frame of it came for timeout_s={self.timeout_s:g} seconds, twice"
            raise VideoError(path, reason) from error
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"the {self.num_workers} decoding workers died before they read a file, of which "
                "the lines above may tell why; use num_workers=0 to read in this process"
            ) from error


def under_way(started: Iterable[T], num_ahead: int) -> Iterator[T]:
    """Yield the items of `started` in order, each after `num_ahead` later ones were taken."""
    waiting: deque[T] = deque()
    for item in started:
        waiting.append(item)
        if len(waiting) > num_ahead:
            yield waiting.popleft()
    yield from waiting


def _watched(read: Callable[[], T], timeout_s: float) -> T:
    with watched(timeout_s):
        return read()


class _Worker(SpawnProcess):
    """A process that neither the script that started it nor a terminal's Ctrl-C reaches.

    Without `if __name__ == "__main__":` each worker would begin that script again. Workers need
    nothing of it: their functions are this package's. What Ctrl-C means their parent decides.
    """

    _starting = threading.Lock()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _Worker._starting, _without_script(), _without_interrupts():
            return SpawnProcess._Popen(process_obj)


@contextmanager
def _without_script() -> Iterator[None]:
    """Hide what multiprocessing finds the caller's script by."""
    main, hidden = vars(sys.modules["__main__"]), ("__spec__", "__file__")
    before = {name: main[name] for name in hidden if name in main}
    main.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            main.pop(name)
        main.update(before)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT, which a process that is started inherits."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Workers(SpawnContext):
    """Starts processes, and knows them."""

    def __init__(self) -> None:
        self.started: list[_Worker] = []

    def Process(self, *arguments: Any, **options: Any) -> _Worker:  # type: ignore[override]
        self.started.append(_Worker(*arguments, **options))
        return self.started[-1]


def _stop(workers: ProcessPool, context: _Workers) -> None:
    workers.stop()
    for worker in context.started:  # before the pool takes the locks away that one may be loading
        if worker.pid is not None:
            worker.kill()
    workers.join()


def _begin(parent: int) -> None:
    """In a worker, before its first file: PyAV is imported, whose time shall be no file's.

    It ends soon after its parent, even if it then hangs in native code.
    """
    with suppress(ValueError):
        pyav()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
