"""Checks of lesson 06: block layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lessons.checks.verdict import Case, Verdict, judge
from lessons.wiring import seen
from posmlp.config_checks import parse_layout
from posmlp.gating import PositionalGatingUnit

LAYOUTS = ("S", "T+S", "T>S", "ST+S>T", "T>S>ST")
WINDOWS = ((2, 2, 2), (8, 4, 4), (16, 7, 7))


def parse(yours: Callable[[str], Sequence[Sequence[str]]]) -> Verdict:
    """Your residual steps of a layout, each a list of its parallel branches."""
    return judge(yours, [Case(repr(each), (each,), parse_layout(each)) for each in LAYOUTS])


def st_params(yours: Callable[[tuple[int, int, int], int], int]) -> Verdict:
    """Your count of a joint unit's numbers: its tables, and its token biases."""
    cases = []
    for window in WINDOWS:
        for groups in (1, 4):
            unit = PositionalGatingUnit(groups, window, groups)
            count = sum(parameter.numel() for parameter in unit.parameters())
            name = f"{'x'.join(map(str, window))}\nG = {groups}"
            cases.append(Case(name, (window, groups), count))
    return judge(yours, cases)


def num_seen(yours: Callable[[str, int, int], int]) -> Verdict:
    """Your number of tokens of a window, T frames of n places, that one token depends on."""
    cases = [
        Case(f"{layout}\nT={num_frames}, n={side**2}", (layout, num_frames, side**2), count)
        for layout in ("S", "T", "T+S", "T>S", "ST+S", "T+S>T")
        for num_frames, side in ((8, 2),)
        for count in (int(seen(layout, num_frames=num_frames, side=side, place=0).sum()),)
    ]
    return judge(yours, cases)
