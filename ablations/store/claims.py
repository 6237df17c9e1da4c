"""Several runners share one folder: each takes trainings that no other has taken.

DIR/claims/ID-seed{k}                who trains that now, and is there as long as it is trained

A claim is a file that only one runner can create, on shared file systems too. Its runner touches it
every few seconds; one that was not touched for `STALE_S` is of a runner that has died, and anyone
may take its training over, which goes on from what was stored. Times are compared as the file
system tells them, so that the machines' clocks may differ.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ablations.grid.grid import Job
from ablations.store.store import Result, Store

BEAT_S = 15.0
STALE_S = 120.0
Training = tuple[str, int, int]
"""A cell's id, a seed, and which repetition."""


class Claims:
    """Those of one runner; they fall when the block ends."""

    def __init__(self, store: Store) -> None:
        self._store, self._folder = store, store.root / "claims"
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: set[Training] = set()
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claims:
        while not self._clock_path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # the last of the others may have removed it
                self._clock_path.touch()
        self._beats.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._beats.join()
        self._drop(set(self._held))
        self._clock_path.unlink(missing_ok=True)
        with suppress(OSError):  # others have claims there
            self._folder.rmdir()

    def take(self, job: Job) -> bool:
        """Claim all of a job's trainings, or none: one is another's, or has ended meanwhile."""
        with self._changing:
            wanted = [(cell.id, seed, job.repeat) for cell, seed in job.trainings]
            taken: set[Training] = set()
            for training in wanted:
                if training not in self._held and not self._create(training):
                    break
                taken.add(training)
            is_whole = len(taken) == len(wanted)
            # only now can nobody else be training them
            if is_whole and not any(self._store.ended(*training) for training in wanted):
                self._held |= taken
                return True
            self._drop(taken - self._held)
            return False

    def release(self, results: Iterable[Result]) -> None:
        """Give up the claims of trainings whose results are stored."""
        with self._changing:
            self._drop({(r["cell"], r["seed"], r.get("repeat", 0)) for r in results} & self._held)

    def _path(self, training: Training) -> Path:
        cell, seed, repeat = training
        return self._folder / f"{cell}-seed{seed}{'-repeat' if repeat else ''}"

    @property
    def _clock_path(self) -> Path:
        return self._folder / f".{self._owner}"

    def _create(self, training: Training) -> bool:
        path = self._path(training)
        if not self._is_stale(path):
            return self._write(path)
        guard = path.with_suffix(".guard")  # of those who find it stale, one alone removes it
        if self._is_stale(guard):
            guard.unlink(missing_ok=True)
        if not self._write(guard):
            return False
        if self._is_stale(path):
            path.unlink(missing_ok=True)
        created = self._write(path)
        guard.unlink(missing_ok=True)
        return created

    def _write(self, path: Path) -> bool:
        """Whether the file is there now, and was not before."""
        try:
            with path.open("x") as file:
                file.write(self._owner)
        except FileExistsError:
            return False
        return True

    def _is_stale(self, path: Path) -> bool:
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return False
        self._clock_path.touch()
        return self._clock_path.stat().st_mtime - touched > STALE_S

    def _drop(self, trainings: set[Training]) -> None:
        for path in map(self._path, trainings):
            with suppress(FileNotFoundError):
                if path.read_text() == self._owner:  # else it was taken over, after a long pause
                    path.unlink()
        self._held -= trainings

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with self._changing:
                for training in self._held:
                    with suppress(OSError):
                        os.utime(self._path(training))
