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
    """A device that torch can compute on here."""
    import torch

    kind, _, number = text.partition(":")
    if kind not in ("cpu", "cuda") or not (number or "0").isdecimal():
        raise ArgumentTypeError(f"{text!r} is no device; use cpu, cuda or for example cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        num_gpus = torch.cuda.device_count()
        raise ArgumentTypeError(f"{text} is not here: torch sees {num_gpus} GPUs; use cpu")
    return text
