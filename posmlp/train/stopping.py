"""Signals that ask a training to stop: Ctrl-C, SIGTERM and SIGUSR1, as schedulers send them.

Within `obeyed` each raises, as Ctrl-C does everywhere in Python, so that what is trained can be
stored; within `whole` it waits for the block's end, so that what is stored is of whole steps. Only
a main thread obeys, and only signals that nobody else handles or ignores. No torch here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: stopped from outside; the same command goes on. Requeue on it."""


class Stopped(SystemExit):
    """A signal asked to stop; a program that lets this pass ends with `EXIT_CODE`, silently."""

    def __init__(self, cause: str) -> None:
        super().__init__(EXIT_CODE)
        self.cause = cause


class StoppedAtOnce(KeyboardInterrupt):
    """A second Ctrl-C, in the middle of a `whole` block."""


class _State:
    waiting: int | None = None
    """The signal that waits for the end of a `whole` block."""
    num_whole = 0
    patient = False
    """Whether a second Ctrl-C waits too."""
    stopping = False
    """Whether one was raised, so that a scheduler's next reminder does not disturb the end."""


@contextmanager
def obeyed() -> Iterator[None]:
    """Within the block SIGTERM and SIGUSR1 raise `Stopped`, and Ctrl-C KeyboardInterrupt."""
    if not _in_main_thread():
        yield
        return
    free = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGUSR1")]
    ours = [number for number in numbers if number and signal.getsignal(number) in free]
    before = {number: signal.signal(number, _handle) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            _State.waiting, _State.stopping = None, False


@contextmanager
def whole(*, patient: bool = False) -> Iterator[None]:
    """Within the block a signal waits for its end; a second Ctrl-C only if `patient`."""
    if not _in_main_thread():
        yield
        return
    was_patient, _State.patient = _State.patient, _State.patient or patient
    _State.num_whole += 1
    try:
        yield
    finally:
        _State.num_whole -= 1
        _State.patient = was_patient
    if _State.waiting is not None and not _State.num_whole:
        number, _State.waiting = _State.waiting, None
        raise _error(number)


def asked() -> str:
    """The signal that waits for the end of a `whole` block; empty if none does."""
    return "" if _State.waiting is None else signal.Signals(_State.waiting).name


def _handle(number: int, _: FrameType | None) -> None:
    if _State.stopping and number != signal.SIGINT:
        return
    if not _State.num_whole:
        raise _error(number)
    if number == signal.SIGINT == _State.waiting and not _State.patient:
        raise StoppedAtOnce
    if _State.waiting is None:
        _State.waiting = number


def _error(number: int) -> BaseException:
    _State.stopping = True
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(signal.Signals(number).name)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
