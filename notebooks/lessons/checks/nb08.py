"""Checks of lesson 08: attribution on video, scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis import baseline_clips, localisation
from lessons.checks.verdict import Case, Verdict, judge

Array = NDArray[np.float64]


def completeness_gap(yours: Callable[[Array, float, float], float]) -> Verdict:
    """Your relative gap between a map's sum and the change in score that it should explain."""
    values = np.array([[0.5, -0.25], [1.0, 0.75]])  # sums to 2
    return judge(
        yours,
        [
            Case("complete", (values, 3.0, 1.0), 0.0),
            Case("too little", (values, 6.0, 2.0), 0.5),
            Case("too much", (values, 1.0, 0.0), 1.0),
            Case("a falling score", (-values, 0.0, 4.0), 0.5),
        ],
    )


def mass_on_object(yours: Callable[[Array, Array], float]) -> Verdict:
    """Your share of a map's relevance that lies on the object, over a whole clip (T, H, W)."""
    generator = np.random.default_rng(0)
    mask = np.zeros((2, 4, 4), dtype=bool)
    mask[:, 1:3, 1:3] = True
    maps = {
        "all on it": mask.astype(float),
        "equal everywhere": np.ones(mask.shape),
        "for and against": np.where(mask, -1.0, 1.0),
        "noise": generator.normal(size=mask.shape),
    }
    cases = []
    for name, values in maps.items():
        expected = localisation(values[None], mask[None])["mass_on_object"].iloc[0]
        cases.append(Case(name, (values, mask), float(expected)))
    return judge(yours, cases)


def without_motion(yours: Callable[[Tensor], Tensor]) -> Verdict:
    """Your clip (3, T, H, W) that keeps the scene and has no motion: the mean frame, repeated."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(3, 3, 1, 4, generator=generator).round(decimals=1)
    expected = baseline_clips("mean_frame", clip[None])[0]
    return judge(yours, [Case("a clip of 3 frames, 1 x 4 pixels", (clip,), expected)])
