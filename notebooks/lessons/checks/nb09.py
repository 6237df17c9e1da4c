"""Checks of lesson 09: speed against accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis import pareto
from lessons.checks.verdict import Case, Verdict, judge

Numbers = Sequence[float]


def median_and_spread(yours: Callable[[Numbers], tuple[float, float]]) -> Verdict:
    """Your median of times, and their inter-quartile range as a share of it."""
    samples = {
        "steady": [5.0, 5.1, 4.9, 5.0, 5.2],
        "one hiccup": [5.0, 5.0, 5.1, 4.9, 90.0],
        "not in order": [9.0, 1.0, 5.0, 3.0, 7.0],
    }
    cases = []
    for name, times in samples.items():
        median = float(np.median(times))
        cases.append(Case(name, (times,), (median, float(stats.iqr(times)) / median)))
    return judge(yours, cases)


def num_inversions(yours: Callable[[Numbers, Numbers], int]) -> Verdict:
    """Your number of pairs that the two lists rank differently."""
    latencies = {
        "same order": [4.0, 5.0, 6.0, 7.0],
        "one pair turned": [5.0, 4.0, 6.0, 7.0],
        "last is fastest": [5.0, 6.0, 7.0, 4.0],
        "all turned": [7.0, 6.0, 5.0, 4.0],
        "a tie": [4.0, 6.0, 5.0, 5.0],
    }
    expected = dict(zip(latencies, (0, 1, 3, 6, 2), strict=True))
    gmacs = [1.0, 2.0, 3.0, 4.0]
    return judge(yours, [Case(name, (gmacs, ms), expected[name]) for name, ms in latencies.items()])


def pareto_front(yours: Callable[[Numbers, Numbers], list[int]]) -> Verdict:
    """Your variants that no other beats, by their place in the lists, cheapest first."""
    points = {
        "dearer is better": ([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]),
        "one beats all": ([2.0, 1.0, 3.0], [0.5, 0.9, 0.4]),
        "not sorted": ([5.0, 1.0, 3.0, 4.0, 2.0], [0.9, 0.3, 0.6, 0.5, 0.2]),
        "equal cost": ([1.0, 1.0, 2.0], [0.4, 0.6, 0.7]),
        "equal score": ([1.0, 2.0], [0.5, 0.5]),
    }
    cases = []
    for name, (costs, scores) in points.items():
        table = pd.DataFrame({"cost": costs, "score": scores})
        cases.append(Case(name, (costs, scores), pareto(table, "cost", "score").index.tolist()))
    return judge(yours, cases)
