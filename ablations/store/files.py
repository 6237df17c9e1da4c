"""Small files that are whole or absent, whenever the machine stops."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from posmlp.shapes import not_written


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; FileNotFoundError if there is no file, ValueError if it holds none."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder, where a file belongs") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    write_all_json({path: value})


def write_all_json(values: Mapping[Path, Any]) -> None:
    """Write several JSON files as `write_all_durably` does."""
    write_all_durably(
        {path: (json.dumps(value, indent=2) + "\n").encode() for path, value in values.items()}
    )


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent even after a power cut: fsync, then rename."""
    write_all_durably({path: content})


def write_all_durably(contents: Mapping[Path, bytes]) -> None:
    """Write several files, each whole or absent even after a power cut, in the time of about one.

    They are written first and synchronised afterwards: a file system's first commit then takes
    most of what waits along. No threads, as none can be had where memory has run out. Raises
    NotWrittenError (an OSError) if a file cannot be written, when all others are.
    """
    staged: dict[Path, Path] = {}
    failed: list[OSError] = []
    for path, content in contents.items():
        try:
            staged[path] = _staged(path, content)
        except OSError as error:
            failed.append(not_written(path, len(content), error))
    for path, temporary in staged.items():
        try:
            _synchronise(temporary)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            failed.append(not_written(path, len(contents[path]), error))
    if os.name == "posix":  # elsewhere folders cannot be opened
        for folder in {path.parent for path in staged}:
            _synchronise(folder)
    if failed:
        raise failed[0]


def _staged(path: Path, content: bytes) -> Path:
    """A file beside `path` that holds the content, not yet safe."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid4().hex}.tmp"
    try:
        temporary.write_bytes(content)
    except BaseException:
        with suppress(OSError):  # it may never have come to be
            temporary.unlink()
        raise
    return temporary


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_checkout(path: Path) -> Path:
    """A path from the root of the git checkout that it lies in, so that it holds in every clone.

    As it is where there is no checkout.
    """
    whole = path.resolve()
    root = next((parent for parent in whole.parents if (parent / ".git").exists()), None)
    return whole.relative_to(root) if root else path
