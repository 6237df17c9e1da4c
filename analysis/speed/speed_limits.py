"""How much `measure_speed` measures, checked before anything is run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Limits(NamedTuple):
    """How many rounds are run: see `measure_speed`."""

    warm_up: int
    min_runs: int
    min_seconds: float
    max_seconds: float
    beside: Collection[str]


def check(
    limits: Limits,
    names: Collection[str],
    batch_sizes: Sequence[int],
    phases: Sequence[str],
    modes: Sequence[str],
    num_threads: int | None,
) -> None:
    """Raise ValueError for what would measure nothing, or without an end."""
    for name, rows in (("batch_sizes", batch_sizes), ("phases", phases), ("modes", modes)):
        if not len(rows):
            raise ValueError(f"{name} is empty; give at least one")
    threads = 1 if num_threads is None else num_threads
    counts = [("warm_up", limits.warm_up, 0), ("min_runs", limits.min_runs, 1)]
    counts += [("num_threads", threads, 1), *(("batch_sizes", size, 1) for size in batch_sizes)]
    for name, count, least in counts:
        if not hasattr(count, "__index__") or count < least:
            raise ValueError(f"{name}={count!r} must be a whole number of at least {least}")
    if not limits.min_seconds >= 0:
        raise ValueError(f"min_seconds={limits.min_seconds} must be at least 0")
    if not limits.max_seconds > 0:
        raise ValueError(f"max_seconds={limits.max_seconds} must be more than 0")
    if not set(names) - set(limits.beside):
        raise ValueError(
            f"beside={list(limits.beside)} leaves no model of {list(names)} to wait for; leave one "
            "out"
        )
