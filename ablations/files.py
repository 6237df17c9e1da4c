"""Small files that are whole or absent, whenever the machine stops."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NUM_WRITERS = 32


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; FileNotFoundError if there is no file, ValueError if it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    write_durably(path, (json.dumps(value, indent=2) + "\n").encode())


def write_all_json(values: Mapping[Path, Any]) -> None:
    """Write several JSON files durably, at once: file systems commit what waits as one.

    Raises OSError if one cannot be written, when all others are.
    """
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        writes = [writers.submit(write_json, *each) for each in values.items()]
    for write in writes:
        write.result()


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent even after a power cut: fsync, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
