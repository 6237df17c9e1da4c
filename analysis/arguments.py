"""Types of arguments on the command line: what is unusable is told before anything is computed."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path


def folder(path: str) -> str:
    """A place for a folder."""
    if Path(path).exists() and not Path(path).is_dir():
        raise ArgumentTypeError(f"{path} is a file; name a folder")
    return path


def file(path: str) -> str:
    """A place for a file."""
    if Path(path).is_dir():
        raise ArgumentTypeError(f"{path} is a folder; name a file")
    return path


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def device(text: str) -> str:
    """A device that is here; nothing is computed on it yet."""
    from posmlp.train.fitting import usable_device

    try:
        return str(usable_device(text))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
