"""Answers to lesson 07: reading learned biases honestly."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]


def effective_reach(table: Array) -> float:
    """Root mean squared dt, each offset weighted by its share of the table's energy."""
    dt = np.arange(len(table)) - len(table) // 2
    share = table**2 / (table**2).sum()
    return float(np.sqrt((share * dt**2).sum()))


def odd_part(table: Array) -> Array:
    """What the past weighs more than the future: b(dt) less b(-dt), halved."""
    return (table - table[::-1]) / 2


def rank_agreement(sizes: Array, losses: Array) -> float:
    """Spearman's correlation: Pearson's, of ranks; equal values share the mean of theirs."""
    ranks = [pd.Series(values).rank() for values in (sizes, losses)]
    return float(np.corrcoef(*ranks)[0, 1])
