"""Decoded frames, made once and kept in a file that all processes share.

An entry is a file (`frame_file.py`) in the user's cache folder. Clips are cut from its frames when
they are asked for, so that models that differ in clips or sampling share an entry. Where no file
can be kept, the frames are kept in this process's memory, and `Kept.why` says why. No torch here.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout

from posmlp.data.files import frame_file
from posmlp.data.files.frame_file import Kept
from posmlp.data.files.video import VideoFrames
from posmlp.data.user_cache import cache_folder

PATIENCE_S = 1.0  # after which who waits for another process says so
MEMORY_BYTES = 2 * 2**30  # of a split's frames that a process keeps where the disk cannot


class FrameCache:
    """One entry: within `with` it is `found`, or else `add` its videos in order and `finish`.

    Within `with`, other processes that want the same entry wait, to find what was made. The folder
    is to hold at most `limit_bytes`: entries that were used longest ago are removed for it, but
    none that a process has open. A folder that cannot be used raises nothing: see `Kept.why`.
    """

    found: Kept | None = None

    def __init__(
        self,
        paths: Sequence[Path],
        scale: str,
        limit_bytes: int,
        tell: Callable[[str], None],
    ) -> None:
        self._key = frame_file.entry_key(paths, scale)
        self._limit_bytes, self._tell = limit_bytes, tell
        self._folder = cache_folder("frames")
        self._whole, self._partial = (
            self._folder / f"{self._key}{suffix}" for suffix in frame_file.SUFFIXES
        )
        self._lock = FileLock(self._folder / f"{self._key}.lock")
        self._sink: io.FileIO | io.BytesIO | None = io.BytesIO()  # None: given up
        self._described: list[dict[str, Any]] = []
        self._num_bytes, self._checksum = 0, 0
        self._why = ""

    def __enter__(self) -> Self:
        self.found = self._read()
        if self.found is not None:  # there is nothing to make, so no lock is needed
            return self
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=PATIENCE_S)
            except Timeout:
                self._tell(f"cache: waiting for {self._whole}, which another process is making")
                self._lock.acquire()
            self.found = self._read(self._tell)
            if self.found is None:
                self._sink = io.FileIO(self._partial, "w+")
                frame_file.hold(self._sink, exclusive=True)
        except (OSError, NotImplementedError) as error:
            self._to_memory(error)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_file()
        with contextlib.suppress(OSError):
            self._lock.release()

    @property
    def is_open(self) -> bool:
        """Whether videos may be added: it was not given up."""
        return self._sink is not None

    @property
    def room(self) -> int:
        """Bytes of frames that may still be added."""
        return self._limit_bytes - self._num_bytes if self.is_open else 0

    def add(self, video: VideoFrames) -> None:
        """Keep a video; all is given up where frames come to be too many, or this one lacks some.

        A reader lacks frames on purpose where they would be more than there is room for, and has
        none of a long film, which is then read anew for every clip.
        """
        data = np.ascontiguousarray(video.frames).data
        if data.nbytes > self.room or 0 < len(video.frames) < video.num_frames:
            self.give_up(over(self._limit_bytes))
        if isinstance(self._sink, io.FileIO):
            try:
                self._write(self._sink, data)
            except OSError as error:
                self._to_memory(error)
        if isinstance(self._sink, io.BytesIO):
            if self._num_bytes + data.nbytes > MEMORY_BYTES:
                self.give_up(f"{over(MEMORY_BYTES)}, and not on disk: {self._why}")
                return
            self._sink.write(data)
        self._num_bytes += data.nbytes
        self._checksum = zlib.crc32(data, self._checksum)
        self._described.append(frame_file.about(video))

    def give_up(self, why: str) -> None:
        """Drop what was added, and keep nothing more; the first reason stands."""
        if self._sink is not None:
            self._leave_file()
            self._sink, self._why = None, why

    def finish(self, *, is_complete: bool) -> Kept:
        """What was added; on disk where it is every video of the entry."""
        if isinstance(self._sink, io.FileIO):
            try:
                if is_complete:
                    return self._published(self._sink)
                self._to_memory(
                    OSError("some files cannot be read; `posmlp data check` lists them")
                )
            except (OSError, ValueError) as error:
                self._to_memory(error)
        if not isinstance(self._sink, io.BytesIO):
            return Kept("nowhere", self._why)
        frames = np.frombuffer(self._sink.getbuffer(), np.uint8)
        return Kept("memory", self._why, frame_file.videos_of(frames, self._described), frames)

    def _read(self, tell: Callable[[str], None] = lambda _: None) -> Kept | None:
        """The entry, or None where there is none, or it is damaged, or over the limit."""
        try:
            with self._whole.open("rb") as file:
                frame_file.hold(file, exclusive=False)
                found = frame_file.mapped(file, self._key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            tell(f"cache: {self._whole.name} cannot be used ({error}), so it is made again")
            return None
        if len(found.frames) > self._limit_bytes:
            return None
        with contextlib.suppress(OSError):
            os.utime(self._whole)  # when it was used last
        return found

    def _write(self, file: io.FileIO, data: memoryview) -> None:
        left = memoryview(data).cast("B") if data.nbytes else memoryview(b"")  # else no view of it
        frame_file.make_room(self._folder, len(left), self._limit_bytes)
        while left:
            left = left[file.write(left) :]

    def _published(self, file: io.FileIO) -> Kept:
        tail = frame_file.tail_of(self._key, self._described, self._checksum)
        self._write(file, memoryview(tail))
        frame_file.hold(file, exclusive=False)
        self._partial.replace(self._whole)
        return frame_file.mapped(file, self._key)

    def _to_memory(self, error: Exception) -> None:
        """Take back what was written, where it is not too much."""
        why = getattr(error, "strerror", None) or str(error)
        if self._num_bytes > MEMORY_BYTES:
            self.give_up(f"{over(MEMORY_BYTES)}, and not on disk: {why}")
            return
        memory = io.BytesIO()
        if isinstance(self._sink, io.FileIO):
            self._sink.truncate(self._num_bytes)
            self._sink.seek(0)
            shutil.copyfileobj(self._sink, memory)
        self._leave_file()
        self._sink, self._why = memory, why

    def _leave_file(self) -> None:
        """Close the file, which goes if it was not published."""
        if isinstance(self._sink, io.FileIO):
            self._sink.close()
            with contextlib.suppress(OSError):
                self._partial.unlink()


def over(num_bytes: int) -> str:
    """Why frames are not kept that are more than a limit."""
    return f"they are more than {num_bytes / 2**30:g} GiB"
