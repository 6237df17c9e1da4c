"""Answers to lesson 08: attribution on video, scored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def completeness_gap(values: Array, score: float, baseline_score: float) -> float:
    """What the map's sum misses of the change in score, as a share of that change."""
    change = score - baseline_score
    return abs(float(values.sum()) - change) / abs(change)


def mass_on_object(values: Array, mask: Array) -> float:
    """Relevance counts by its size: evidence against a class is evidence, too."""
    size = np.abs(values)
    return float(size[mask].sum() / size.sum())


def without_motion(clip: Tensor) -> Tensor:
    """(3, T, H, W) -> the same, every frame the mean over time."""
    return clip.mean(dim=1, keepdim=True).expand_as(clip)
