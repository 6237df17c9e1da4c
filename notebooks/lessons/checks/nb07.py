"""Checks of lesson 07: reading learned biases honestly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lessons.checks.verdict import Case, Verdict, judge

Array = NDArray[np.float64]
OFFSETS = np.arange(-3, 4)
TABLES = {
    "one weight, at dt = 0": np.array([0, 0, 0, 1.0, 0, 0, 0]),
    "one weight, at dt = 2": np.array([0, 0, 0, 0, 0, -1.0, 0]),
    "equal weights": np.full(7, 0.5),
    "now less then": np.array([0, 0, -1.0, 2.0, 0, 0, 0.5]),
}


def effective_reach(yours: Callable[[Array], float]) -> Verdict:
    """Your reach of a table over offsets dt, in frames."""
    cases = []
    for name, table in TABLES.items():
        energy = np.average(OFFSETS**2, weights=table**2)
        cases.append(Case(name.replace(", ", ",\n"), (table,), float(energy) ** 0.5))
    return judge(yours, cases)


def odd_part(yours: Callable[[Array], Array]) -> Verdict:
    """Your antisymmetric part of a table over offsets dt."""
    cases = []
    for name, table in TABLES.items():
        even = np.array([(table[i] + table[-1 - i]) / 2 for i in range(len(table))])
        cases.append(Case(name, (table,), table - even))
    return judge(yours, cases[1:])


def rank_agreement(yours: Callable[[Array, Array], float]) -> Verdict:
    """Your rank correlation of two lists; equal values share the mean of their ranks."""
    sizes = np.array([0.2, 0.9, 0.4, 3.0])
    lists = {
        "same order": np.array([1.0, 3.0, 2.0, 50.0]),
        "opposite": np.array([9.0, 2.0, 4.0, 1.0]),
        "two swapped": np.array([1.0, 50.0, 2.0, 3.0]),
        "two equal": np.array([1.0, 1.0, 0.0, 3.0]),
    }
    return judge(
        yours,
        [
            Case(name, (sizes, losses), float(stats.spearmanr(sizes, losses).statistic))
            for name, losses in lists.items()
        ],
    )
