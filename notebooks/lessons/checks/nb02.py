"""Checks of lesson 02: token mixing is a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable

from analysis import relation_params
from lessons.checks.verdict import Case, Verdict, judge

WINDOWS = ((8,), (16,), (4, 4), (14, 14), (8, 4, 4))


def _name(window: tuple[int, ...]) -> str:
    return "x".join(map(str, window)) + (" frames" if len(window) == 1 else "")


def dense_params(yours: Callable[[tuple[int, ...]], int]) -> Verdict:
    """Your count of the numbers in one dense matrix over a window."""
    return judge(yours, [Case(_name(w), (w,), math.prod(w) ** 2) for w in WINDOWS])


def tied_params(yours: Callable[[tuple[int, ...], int], int]) -> Verdict:
    """Your count of the numbers in a table by offset, for a window and a number of groups."""
    cases = [(window, groups) for window in WINDOWS for groups in (1, 4)][:8]
    return judge(
        yours,
        [
            Case(
                f"{_name(w)}\nG = {groups}", (w, groups), relation_params("lrpe", w, groups, dim=8)
            )
            for w, groups in cases
        ],
    )


def most_groups(yours: Callable[[tuple[int, ...]], int]) -> Verdict:
    """Your largest number of groups at which the tables stay smaller than one dense matrix."""
    cases = []
    for window in WINDOWS:
        table = relation_params("lrpe", window, 1, dim=8)
        dense = relation_params("dense", window, 1, dim=8)
        cases.append(Case(_name(window), (window,), (dense - 1) // table))
    return judge(yours, cases)
