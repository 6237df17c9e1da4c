"""Checks of lesson 12: where the model reads the arrow of time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from analysis.inside.arrow import scaled_odd
from lessons.checks.verdict import Case, Verdict, judge


def turn_back(yours: Callable[[Tensor], Tensor]) -> Verdict:
    """Your activation (B, T, H, W, C) with its frames in reversed order."""
    x = torch.arange(12.0).reshape(1, 3, 1, 2, 2)
    frames = [x[:, t] for t in (2, 1, 0)]
    return judge(yours, [Case("a clip of 3 frames, 1 x 2 places", (x,), torch.stack(frames, 1))])


def share(yours: Callable[[Tensor, Tensor, Tensor], float]) -> Verdict:
    """Your share of the way from one answer to another that an exchange went."""
    before, other = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([3.0, 0.0, 1.0])
    d, aside = other - before, torch.tensor([0.5, 2.0, 1.0])
    ways = {
        "half of the way": (before + d / 2, 0.5),
        "nothing": (before, 0.0),
        "all of it": (other, 1.0),
        "backwards": (before - d, -1.0),
        "aside alone": (before + aside, 0.0),
        "a third,\nand aside": (before + d / 3 + aside, 1 / 3),
    }
    return judge(yours, [Case(name, (before, x, other), y) for name, (x, y) in ways.items()])


def turned(yours: Callable[[Tensor, float], Tensor]) -> Verdict:
    """Your table whose odd part in time is multiplied by a strength."""
    table = torch.tensor([0.0, 1.0, 4.0, 2.0, -1.0])
    words = {0.0: "blind", 1.0: "as learned", -1.0: "reversed", 0.5: "half"}
    return judge(
        yours,
        [
            Case(f"{word}, s = {s:g}", (table, s), scaled_odd(table, s, (0,)))
            for s, word in words.items()
        ],
    )
