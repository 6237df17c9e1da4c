"""What a video file's packets tell before any is decoded, and which files decord reads exactly.

No torch here: decoding workers import this file.
"""

from __future__ import annotations

import faulthandler
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOT_STUCK = 1
"""Exit code of a process that `watched` has ended."""
_TRUSTED = {"mp4", "matroska", "avi"}  # FFmpeg's names; mov and webm are read by the same two


def pyav() -> Any:
    """The package av, which is imported when a file is opened. Raises ValueError without it."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f"videos are read with PyAV ({error}); get it with: pip install av") from (
            error
        )
    return av


class VideoError(ValueError):
    """A video file that cannot be read: `path` names it and `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that the error can be pickled
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class PacketIndex:
    """What a file's packets say before any is decoded."""

    num_frames: int  # packets that are shown
    num_declared: int  # frames that the container or its packets promise, hidden ones not counted
    has_hidden_packets: bool
    reorders_across_keys: bool
    has_trusted_container: bool
    height: int
    width: int
    fps: float | None
    variable_rate: bool = False  # frames are not evenly spaced in time
    # Clock ticks of the shown frames, in order, and of key frames; None where some have none.
    times: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
    key_times: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
    tick_s: float = 0.0

    @property
    def decord_is_exact(self) -> bool:
        """Whether decord 0.6.0 returns the asked frames of this file.

        Hidden packets (an edit list) shift its count, freeze its clock or hang it. Frames out of
        order across key frames (open groups of pictures, packed MPEG-4), and containers without a
        table of their frames (MPEG streams, wmv, FLV), make its seeks land on other frames.
        """
        odd = self.has_hidden_packets or self.reorders_across_keys
        return self.has_trusted_container and not odd

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about a file that can be read all the same."""
        found = {
            "cut by stream copy: its hidden frames are left out": self.has_hidden_packets,
            "frames out of order across key frames": self.reorders_across_keys,
            "variable frame rate: frames are taken by number, not by time": self.variable_rate,
        }
        return tuple(note for note, holds in found.items() if holds)


def list_packets(path: str) -> PacketIndex:
    """Read a file's index, without decoding; raises VideoError if it has no usable video."""
    if not Path(path).is_file():
        kind = "a folder" if Path(path).is_dir() else "no such file"
        raise VideoError(path, f"{kind}; give the path of a video file")
    status = os.stat(path)
    if status.st_size == 0:
        raise VideoError(path, "the file is empty (0 bytes); fetch it again or remove it")
    return _list_packets(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)  # a long file is read to its end for this, and clips are taken one by one
def _list_packets(path: str, size_bytes: int, changed_ns: int) -> PacketIndex:
    av = pyav()
    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError(path, "no video stream; remove the file from the data set")
            if stream.codec_context is None:
                raise VideoError(path, "its codec is unknown here; encode it again, as H.264")
            return _index_of(container, stream)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be opened as a video ({in_short(error)})") from error


def _index_of(container: Any, stream: Any) -> PacketIndex:
    shown = hidden = 0
    reorders = False
    key_time: int | None = None
    times: set[int] = set()
    shown_times: list[int] = []
    key_times: list[int] = []
    for packet in packets_of(container, stream):
        shown += not packet.is_discard
        hidden += bool(packet.is_discard)
        if packet.pts is None or packet.pts in times:
            reorders = True  # without distinct times no order can be relied on
            continue
        times.add(packet.pts)
        if not packet.is_discard:
            shown_times.append(packet.pts)
        if packet.is_keyframe:
            key_time = packet.pts
            key_times.append(packet.pts)
        elif key_time is None or packet.pts < key_time:
            reorders = True
    is_timed = len(times) == shown + hidden
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    tick_s = float(stream.time_base or 0)
    length_s = (max(shown_times) - min(shown_times)) * tick_s if shown_times else 0
    if is_timed and shown > 10 and length_s:  # a header may tell a rate that no frame keeps
        measured = (shown - 1) / length_s
        rate = rate if abs(rate / measured - 1) < 0.05 else measured
    return PacketIndex(
        num_frames=shown,
        num_declared=max(shown, stream.frames - hidden),
        has_hidden_packets=hidden > 0,
        has_trusted_container=bool(_TRUSTED & set(container.format.name.split(","))),
        reorders_across_keys=reorders,
        height=stream.height,
        width=stream.width,
        fps=rate or None,
        variable_rate=_is_uneven(shown_times),
        times=np.sort(shown_times) if is_timed else None,
        key_times=np.sort(key_times) if is_timed else None,
        tick_s=tick_s,
    )


def _is_uneven(times: list[int]) -> bool:
    """Whether frames lie at uneven times, beyond what rounding to a clock's ticks does."""
    steps = np.diff(sorted(times))
    return len(steps) > 1 and bool(steps.max() - steps.min() > max(2, steps.min() / 2))


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets that hold data, up to where the file is cut short."""
    try:
        for packet in container.demux(stream):
            got_on()
            if packet.size:
                yield packet
    except pyav().error.InvalidDataError:
        return  # the frames that are missing from here on are counted as damaged


def in_short(error: Exception) -> str:
    """Return the error's first line, without the place in decord's or FFmpeg's sources."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].split("Check failed: ")[-1].strip()


# ---- Time limit ----------------------------------------------------------------------------------

_extend: Callable[[], None] | None = None


@contextmanager
def watched(patience_s: float) -> Iterator[None]:
    """Within the block, end this process with GOT_STUCK if `got_on` is not called for so long.

    A thread of native code does it, since a decoder that hangs may let no Python code run.
    """
    global _extend
    due = -math.inf
    with open(os.devnull, "w") as nowhere:

        def extend() -> None:
            nonlocal due
            if (now := time.monotonic()) >= due:  # arming it starts a thread: not for every packet
                due = now + patience_s / 10
                faulthandler.dump_traceback_later(1.1 * patience_s, exit=True, file=nowhere)

        _extend = extend
        extend()
        try:
            yield
        finally:
            _extend = None
            faulthandler.cancel_dump_traceback_later()


def got_on() -> None:
    """Say that the reading of a file has got on, by a packet or a frame."""
    if _extend is not None:
        _extend()
