"""The file of a cache entry: decoded frames that are mapped into memory, and what they are.

KEY.frames holds all frames of all videos of a split, resized, one after another as uint8; then JSON
that says what they are; then the length of that and a check sum of everything before. KEY stands
for all that the content depends on. Processes that map it share its pages. No torch here.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import shutil
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from posmlp.data.files.video import VideoFrames
from posmlp.data.layouts.listing import FRAME_SUFFIXES

try:
    import fcntl
except ImportError:  # Windows, which by itself removes no file that is in use
    fcntl = None  # type: ignore[assignment]

FORMAT = 1  # raise it when the same files come to give other frames, or the file is laid out anew
MIN_FREE_BYTES = 2**30  # that are left free on the disk
SUFFIXES = (".frames", ".partial")  # whole, and in the making
_DECODERS = ("decord", "decord2", "av", "pillow")
_MARK = b"posmlp-frames"
_TAIL = struct.Struct(f"<{len(_MARK)}sQI")  # mark, length of the JSON, check sum of all before


@dataclass(frozen=True)
class Kept:
    """Decoded frames and where they are; `why` says why they are not on disk.

    `frames` (bytes,) uint8 holds those of all `videos`, one after another.
    """

    where: Literal["disk", "memory", "nowhere"]
    why: str = ""
    videos: list[VideoFrames] = field(default_factory=list)
    frames: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))

    @property
    def num_long(self) -> int:
        """Videos that are too long to be decoded whole: their clips are read one by one."""
        return sum(not len(video.frames) for video in self.videos)

    def __str__(self) -> str:
        size = f"{len(self.frames) / 2**20:,.1f} MiB of decoded frames"
        if self.num_long:
            size += f" (but of {self.num_long} long films, whose clips are decoded one by one)"
        if self.where == "disk":
            return f"{size} on disk, shared by all processes"
        if self.where == "memory":
            return f"{size} in this process's memory, not on disk: {self.why}"
        return f"no decoded frames are kept, every batch is decoded: {self.why}"


def entry_key(paths: Sequence[Path], scale: str) -> str:
    """32 hexadecimal digits for all that the frames of `paths` depend on, at a scale.

    These are files and their order, sizes and times of change, the decoders' versions and FORMAT.
    """
    made_by = [FORMAT, scale, platform.machine(), [version_of(name) for name in _DECODERS]]
    digest = hashlib.sha256(json.dumps(made_by).encode())
    for path in paths:
        for file in _files(path):
            try:
                status = os.stat(file)
            except OSError:
                digest.update(os.fsencode(f"{file}\0missing\n"))
            else:
                digest.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return digest.hexdigest()[:32]


def _files(path: Path) -> list[str]:
    """The files of an item, which is one file or a folder of images."""
    whole = os.path.abspath(path)
    try:
        names = sorted(name for name in os.listdir(whole) if name.lower().endswith(FRAME_SUFFIXES))
    except OSError:  # no folder, or one that cannot be read
        return [whole]
    return [whole, *(os.path.join(whole, name) for name in names)]


def version_of(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def about(video: VideoFrames) -> dict[str, Any]:
    """What an entry says of a video that it has all frames of."""
    names = ("num_frames", "fps", "backend", "num_damaged")
    return {"shape": list(video.frames.shape)} | {name: getattr(video, name) for name in names}


def videos_of(frames: NDArray[np.uint8], described: Sequence[dict[str, Any]]) -> list[VideoFrames]:
    """The videos whose frames lie one after another in `frames` (bytes,), as views of it."""
    ends = np.cumsum([math.prod(each["shape"]) for each in described])
    videos = []
    for part, each in zip(np.split(frames, ends), described, strict=False):
        facts = {name: value for name, value in each.items() if name != "shape"}
        places = np.arange(each["shape"][0])
        videos.append(VideoFrames(part.reshape(each["shape"]), places, **facts))
    return videos


def tail_of(key: str, described: Sequence[dict[str, Any]], checksum: int) -> bytes:
    """What follows the frames, whose CRC-32 is `checksum`."""
    text = json.dumps({"key": key, "videos": described}).encode()
    return text + _TAIL.pack(_MARK, len(text), zlib.crc32(text, checksum))


def mapped(file: IO[bytes], key: str) -> Kept:
    """The entry in an open file, all of it read once to check it.

    Raises ValueError if the file is not whole, or not the entry `key`.
    """
    # Copy on write: pages are shared as long as nobody writes, and never written back.
    content = np.asarray(np.memmap(file, np.uint8, mode="c"))
    if len(content) < _TAIL.size:
        raise ValueError("it was cut off")
    mark, length, checksum = _TAIL.unpack(content[-_TAIL.size :].tobytes())
    end = len(content) - _TAIL.size - length
    if mark != _MARK or end < 0:
        raise ValueError("it was cut off, or is something else")
    if zlib.crc32(content[: -_TAIL.size].data) != checksum:
        raise ValueError("its check sum is wrong")
    described = json.loads(content[end : -_TAIL.size].tobytes())
    if described["key"] != key:
        raise ValueError("it is that of other videos")
    return Kept("disk", "", videos_of(content[:end], described["videos"]), content[:end])


# ---- Room ----------------------------------------------------------------------------------------


def hold(file: IO[bytes], *, exclusive: bool) -> None:
    """Mark an open file as used: read by some, or else made or removed by one.

    The mark lasts as long as the file or a map of it is open in this process or ends with it.
    Raises OSError if an exclusive mark cannot be had at once.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)


def make_room(folder: Path, num_bytes: int, limit_bytes: int) -> None:
    """Remove the entries that were used longest ago until `num_bytes` more are within the limit.

    Raises OSError if those in use leave no room, or the disk is nearly full.
    """
    entries = sorted(
        (entry.stat().st_mtime_ns, entry.stat().st_size, entry.path)
        for entry in os.scandir(folder)
        if entry.name.endswith(SUFFIXES)
    )
    total = sum(size for _, size, _ in entries)
    for _, size, path in entries:
        if total + num_bytes <= limit_bytes:
            break
        if _removed(Path(path)):
            total -= size
    if total + num_bytes > limit_bytes:
        raise OSError(
            errno.ENOSPC,
            f"frames in use leave no room within {limit_bytes / 2**30:g} GiB (--cache-gib)",
        )
    if shutil.disk_usage(folder).free - num_bytes < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, f"the disk has less than {MIN_FREE_BYTES / 2**30:g} GiB free")


def _removed(path: Path) -> bool:
    """Remove a file that nobody uses."""
    try:
        with path.open("r+b") as file:
            hold(file, exclusive=True)
        path.unlink()
    except OSError:
        return False
    return True
