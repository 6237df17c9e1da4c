"""Answers to lesson 09: speed against accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def median_and_spread(times_ms: Sequence[float]) -> tuple[float, float]:
    """The median, and the inter-quartile range as a share of it."""
    low, median, high = np.percentile(times_ms, [25, 50, 75])
    return float(median), float((high - low) / median)


def num_inversions(gmacs: Sequence[float], latency_ms: Sequence[float]) -> int:
    """A pair is inverted where the two differences have opposite signs."""
    count = len(gmacs)
    return sum(
        (gmacs[i] - gmacs[j]) * (latency_ms[i] - latency_ms[j]) < 0
        for i in range(count)
        for j in range(i)
    )


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Go from cheap to dear, and keep whoever scores more than all before."""
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i])):
        if not front or scores[i] > scores[front[-1]]:
            front.append(i)
    return front
