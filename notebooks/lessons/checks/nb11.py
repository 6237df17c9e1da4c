"""Checks of lesson 11: your own video."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lessons.checks.verdict import Case, Verdict, judge
from posmlp.data.digits.catalogue import CLASSES
from posmlp.data.sampling import segment_indices

TURNED = {"right", "left", "clockwise", "counterclockwise"}  # the rest look the same in a mirror


def frames_seen(yours: Callable[[int, int], list[int]]) -> Verdict:
    """Your indices of the frames that a clip of T takes from a video of N, one test view."""
    sizes = ((24, 8), (100, 8), (300, 16), (30, 4))
    return judge(
        yours, [Case(f"N = {n}, T = {t}", (n, t), segment_indices(n, t)) for n, t in sizes]
    )


def mirrored(yours: Callable[[str], str]) -> Verdict:
    """Your class of a clip whose frames are mirrored, left for right."""
    pairs = {name: CLASSES[label ^ 1] for label, name in enumerate(CLASSES)}
    return judge(
        yours, [Case(name, (name,), pairs[name] if name in TURNED else name) for name in CLASSES]
    )


def over_views(yours: Callable[[Tensor], Tensor]) -> Verdict:
    """Your probabilities (classes,) from the logits (views, classes) of one video."""
    views = torch.tensor([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    cases = {"two views": views, "one view": views[:1], "the same twice": views[[0, 0]]}
    return judge(
        yours,
        [
            Case(name, (logits,), (logits.sum(0) / len(logits)).softmax(-1))
            for name, logits in cases.items()
        ],
    )
