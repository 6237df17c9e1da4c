"""Student's t over a few seeds: intervals, tests, corrections, and the seeds that a claim needs.

With so few seeds a percentile bootstrap and 1.96 standard errors are both too narrow; t is exact
for normal values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

SIGNIFICANCE = 0.05
MOST_SEEDS = 1000


def t_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of `values` and its t-interval, (mean, low, high).

    One value has a mean but no spread: low and high are NaN. Raises ValueError for no values, for
    NaN among them, and for a confidence that is not between 0 and 1.
    """
    array = np.asarray(values, dtype=float).ravel()
    if not array.size or np.isnan(array).any():
        raise ValueError(
            f"t_interval needs numbers, not {array.tolist()}; drop what is missing first, "
            "for example with df.dropna(subset=[metric])"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, for example 0.95")
    mean = float(array.mean())
    if array.size == 1:
        return mean, np.nan, np.nan
    error = float(array.std(ddof=1)) / np.sqrt(array.size)
    margin = float(stats.t.ppf((1 + confidence) / 2, array.size - 1) * error)
    return mean, mean - margin, mean + margin


def t_test(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Two-sided p of a t-test against 0, and the mean in standard deviations."""
    mean, spread, count = differences.mean(), differences.std(ddof=1), len(differences)
    if spread == 0:
        return (1.0, 0.0) if mean == 0 else (0.0, np.inf)
    effect = float(mean / spread)
    return float(2 * stats.t.sf(abs(effect) * np.sqrt(count), count - 1)), effect


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction of the p-values that are not NaN."""
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def detectable_effect(num_seeds: int, power: float = 0.8) -> float:
    """The true difference that a paired t-test over `num_seeds` finds with probability `power`.

    In standard deviations of the paired differences, two-sided at 0.05. Raises ValueError for
    fewer than 2 seeds, or a power that is not between 0.05 and 1.
    """
    if num_seeds < 2:
        raise ValueError(f"num_seeds={num_seeds} leaves no spread to test with; use at least 2")
    if not SIGNIFICANCE < power < 1:
        raise ValueError(f"power={power} must lie between {SIGNIFICANCE} and 1, for example 0.8")
    highest = 1.0
    while _power(highest, num_seeds, SIGNIFICANCE) < power:
        highest *= 2
    found = optimize.brentq(lambda d: _power(d, num_seeds, SIGNIFICANCE) - power, 0, highest)
    return float(found)


def seeds_needed(effect: float, power: float = 0.8, significance: float = SIGNIFICANCE) -> int:
    """The fewest seeds at which a paired t-test finds `effect` with probability `power`.

    `effect` is in standard deviations of the paired differences. Raises ValueError if more than
    MOST_SEEDS would be needed, as for an effect of 0.
    """
    if _power(abs(effect), MOST_SEEDS, significance) < power:
        raise ValueError(
            f"effect={effect} needs more than {MOST_SEEDS} seeds; no run of seeds will show it"
        )
    few, enough = 1, MOST_SEEDS  # power rises with the number of seeds: halve the range
    while enough - few > 1:
        middle = (few + enough) // 2
        if _power(abs(effect), middle, significance) < power:
            few = middle
        else:
            enough = middle
    return enough


def _power(effect: float, num_seeds: int, significance: float) -> float:
    """Probability that a two-sided paired t-test rejects when the true effect is `effect`."""
    freedom = num_seeds - 1
    critical = stats.t.isf(significance / 2, freedom)
    shift = effect * np.sqrt(num_seeds)  # at least 0
    # scipy gives NaN for the far tail where it is too small to compute
    far_tail = np.nan_to_num(stats.nct.cdf(-critical, freedom, shift))
    return float(stats.nct.sf(critical, freedom, shift) + far_tail)


def undecided(num_seeds: int, effect: float, num_tests: int) -> str:
    """What a test that found nothing would need; `effect` is in sd of the paired differences."""
    if num_seeds == 1:
        return "cannot tell: needs about 3 seeds at the least, one shows no spread"
    if effect == 0:
        return "cannot tell: the means are equal"
    try:
        needed = seeds_needed(effect, significance=SIGNIFICANCE / num_tests)
    except ValueError:
        return f"cannot tell: needs more than {MOST_SEEDS} seeds"
    return f"cannot tell: needs about {needed} seeds"
