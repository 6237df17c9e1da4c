"""Answers to lesson 06: block layouts."""

from __future__ import annotations

import math

import numpy as np


def parse(layout: str) -> list[list[str]]:
    """`>` ends a residual step, `+` stands between the branches of one."""
    return [step.split("+") for step in layout.split(">")]


def st_params(window: tuple[int, int, int], num_groups: int) -> int:
    """A table entry for each offset and group, and a token bias for each of the N tokens."""
    return num_groups * math.prod(2 * side - 1 for side in window) + math.prod(window)


def num_seen(layout: str, num_frames: int, num_places: int) -> int:
    """Follow which of the T x n tokens the last one depends on, step by step."""
    same_time, same_place = np.eye(num_frames, dtype=int), np.eye(num_places, dtype=int)
    all_times = np.ones((num_frames, num_frames), dtype=int)
    all_places = np.ones((num_places, num_places), dtype=int)
    mixes = {
        "T": np.kron(all_times, same_place),
        "S": np.kron(same_time, all_places),
        "ST": np.kron(all_times, all_places),
    }
    identity = np.kron(same_time, same_place)
    seen = identity
    for step in parse(layout):
        seen = (identity + sum(mixes[branch] for branch in step)) @ seen
    return int(np.count_nonzero(seen[-1]))
