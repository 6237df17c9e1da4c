"""Answers to lesson 10: your own ablation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats


def my_grid(base: dict[str, Any]) -> dict[str, Any]:
    """One axis with two values, the first of them the baseline, both at the same seeds."""
    return {
        "question": "Does the model need a bias of its own for each token?",
        "prediction": "Without it within-pair accuracy falls by a few points.",
        "base": base,
        "axes": {"token_bias": [True, False]},
        "seeds": [0, 1, 2],
        "baseline": {"token_bias": True},
    }


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Student's 95% interval of a mean over few seeds."""
    count, mean = len(differences), np.mean(differences)
    error = np.std(differences, ddof=1) / np.sqrt(count)
    reach = stats.t.ppf(0.975, count - 1) * error
    return float(mean - reach), float(mean + reach)


def conclusion(low: float, high: float, margin: float) -> str:
    """What an interval of a difference allows one to say; `margin`: what would not matter."""
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "equal" if -margin < low and high < margin else "cannot tell"
