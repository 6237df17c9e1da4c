"""Files of ours: whether one holds what its readers count on, and why one cannot be written.

What is read from JSON has a shape, or is damaged. A shape is a type, a list of one shape (of all
items), or a mapping: by key, where `?` marks a key that may be missing, and `*` stands for all
keys. No torch here.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that the next file in the same place meets too."""


class NotWrittenError(OSError):
    """A file that cannot be written; the text is a sentence that says which, why and the mend."""

    def __init__(self, number: int | None, sentence: str) -> None:
        super().__init__(number, sentence)

    def __str__(self) -> str:
        return str(self.strerror)


def not_written(path: Path, num_bytes: int, error: OSError) -> NotWrittenError:
    """What to raise where a file of `num_bytes` (0: not known) could not be written."""
    if isinstance(error, NotWrittenError):
        return error
    why = _why_not_written(path, num_bytes, error)
    return NotWrittenError(error.errno, f"{path} cannot be written: {why}")


def _why_not_written(path: Path, num_bytes: int, error: OSError) -> str:
    folder = path
    while not os.path.isdir(folder) and folder != folder.parent:  # without error for long names
        folder = folder.parent
    room = [f"{_mb(num_bytes)} wanted"] if num_bytes else []
    if error.errno == errno.EDQUOT:
        return f"your quota in {folder} is used up{_within(room)}; make room there"
    if error.errno == errno.ENOSPC:
        with suppress(OSError):
            room.insert(0, f"{_mb(shutil.disk_usage(folder).free)} free")
        return f"the disk of {folder} is full{_within(room)}; make room there"
    if error.errno == errno.EROFS:
        return f"{folder} is read-only; give a folder that can be written to"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"you may not write to {folder}; give a folder that is yours"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        in_the_way = folder / next(iter(path.relative_to(folder).parts), "")
        return f"{in_the_way} is a file; give another folder"
    if error.errno in (errno.EISDIR, errno.EBUSY) and folder == path:
        return "it is a folder; name a file"
    if error.errno == errno.ENAMETOOLONG:
        longest = max(path.parts, key=lambda part: len(os.fsencode(part)))
        return f"{longest!r}, or the whole path, is too long a name; give a shorter one"
    return f"{error.strerror or error}{_within(room)}"


def _within(parts: list[str]) -> str:
    return f" ({', '.join(parts)})" if parts else ""


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def fault(value: Any, shape: Any, where: str = "it") -> str:
    """The first thing that keeps a value from having the shape, in words; empty if nothing does."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        parts = [("", i, part, shape[0]) for i, part in enumerate(value)]
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is no mapping"
        parts = []
        for key, its_shape in (dict.fromkeys(value, shape["*"]) if "*" in shape else shape).items():
            name = key.removesuffix("?")
            if name in value:
                parts.append((name, 0, value[name], its_shape))
            elif name == key:
                return f"{where}.{name} is missing".removeprefix("it.")
    else:
        return "" if isinstance(value, shape) else f"{where} is {value!r}"
    for name, i, part, its in parts:
        if isinstance(its, dict | list) or not isinstance(part, its):  # where it is, is said late
            place = f"{where}.{name}".removeprefix("it.") if name else f"{where}[{i}]"
            if found := fault(part, its, place):
                return found
    return ""


def print_any_name() -> None:
    """Let this process print names of files that are not UTF-8; their other bytes as \\udcNN."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
