"""Checks of lesson 03: the relative position index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lessons.checks.verdict import Case, Verdict, judge
from posmlp import relative_position_index


def index_1d(yours: Callable[[int], Any]) -> Verdict:
    """Your index of a window of w frames."""
    return judge(yours, [Case(f"w = {w}", (w,), relative_position_index((w,))) for w in (4, 6, 1)])


def index_2d(yours: Callable[[int, int], Any]) -> Verdict:
    """Your index of a window of `height` x `width` tokens; the second case is not square."""
    cases = []
    for window in ((2, 2), (2, 3), (4, 4)):
        name = f"{window[0]} x {window[1]} tokens"
        cases.append(Case(name, window, relative_position_index(window)))
    return judge(yours, cases)


def offset_of(yours: Callable[[int, int, int], Any]) -> Verdict:
    """Your offset (dy, dx) of a place in a flattened table."""
    cases = []
    for (height, width), entry in (((4, 4), 24), ((4, 4), 0), ((2, 3), 9), ((2, 3), 4)):
        dy, dx = divmod(entry, 2 * width - 1)
        name = f"entry {entry} of a {height} x {width} window"
        cases.append(Case(name, (entry, height, width), (dy - height + 1, dx - width + 1)))
    return judge(yours, cases)
