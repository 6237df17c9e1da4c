"""Checks of lesson 10: your own ablation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ablations import read_grid
from analysis import t_interval
from lessons.checks.verdict import NOT_ANSWERED, OK, Case, Verdict, judge, wrong

BASE = {"preset": "toy", "data": "moving-digits:easy", "image_size": 16, "windows": [4, 2, 1, 1]}


def my_grid(yours: Callable[[dict[str, Any]], dict[str, Any]]) -> Verdict:
    """Your grid: one axis with two values, a baseline, two seeds or more, and a prediction."""
    try:
        values = yours(dict(BASE))
        grid = read_grid(values)
    except NotImplementedError:
        return NOT_ANSWERED
    except Exception as error:  # a grid's own message says what is wrong with it
        return wrong(str(error) or type(error).__name__)
    cells = ", ".join(cell.name for cell in grid.cells)
    if values.get("base") != BASE:
        return wrong("base must be the one that you are given, so that rows can be compared")
    if len(grid.cells) != 2 or len(grid.axes) != 1:
        return wrong(f"it has {len(grid.cells)} cells ({cells}); one axis with two values makes 2")
    if "baseline" not in values:
        return wrong("it names no baseline; without one nothing is compared with anything")
    if len(grid.seeds) < 2:
        return wrong(f"it has {len(grid.seeds)} seed; one seed leaves no spread to judge by")
    if not grid.question or not grid.prediction:
        return wrong(
            "write down question and prediction before the run: it guards you from stories"
        )
    return OK


def interval(yours: Callable[[Sequence[float]], tuple[float, float]]) -> Verdict:
    """Your 95% t-interval of the mean of paired differences."""
    samples = {
        "2 seeds": [0.02, 0.05],
        "3 seeds": [0.02, 0.05, -0.01],
        "5 seeds": [0.03, 0.04, 0.02, 0.03, 0.05],
    }
    return judge(
        yours, [Case(name, (each,), t_interval(each)[1:]) for name, each in samples.items()]
    )


def conclusion(yours: Callable[[float, float, float], str]) -> Verdict:
    """Your word for an interval of the difference to the baseline (more is better)."""
    margin = 0.02
    intervals = {
        "all above zero": ((0.01, 0.06), "better"),
        "all below zero": ((-0.30, -0.001), "worse"),
        "wide, around zero": ((-0.05, 0.20), "cannot tell"),
        "narrow, around zero": ((-0.01, 0.015), "equal"),
        "too low on one side": ((-0.03, 0.015), "cannot tell"),
    }
    return judge(
        yours, [Case(name, (*ends, margin), word) for name, (ends, word) in intervals.items()]
    )
