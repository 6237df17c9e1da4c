"""Student's t over a few seeds: intervals, tests, corrections, and the seeds that a claim needs.

With so few seeds a bootstrap and 1.96 standard errors are both too narrow; t is exact for normal
values. From ten seeds on a bootstrap stands beside it, which supposes no normal values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

SIGNIFICANCE = 0.05
FAR_SIGNIFICANCE = 0.01
POWER = 0.8
MOST_SEEDS = 1000
BOOTSTRAP_SEEDS = 10
"""The fewest differences that are worth resampling."""
NUM_RESAMPLES = 9_999
Array = NDArray[np.float64]
FAR = 1e3  # a t-statistic beyond which every power is 0 or 1


def t_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of `values` and its t-interval, (mean, low, high), in their unit.

    mean -+ t s / sqrt(n), with s their standard deviation over n - 1 and t the quantile of
    Student's distribution of n - 1 degrees of freedom. Source: Student, The probable error of a
    mean, 1908. One value has a mean but no spread: low and high are NaN. Raises ValueError for no
    values, for NaN among them, and for a confidence that is not between 0 and 1.
    """
    array = np.asarray(values, dtype=float).ravel()
    if not array.size or np.isnan(array).any():
        raise ValueError(
            f"t_interval needs numbers, not {array.tolist()}; drop what is missing first, "
            "for example with df.dropna(subset=[metric])"
        )
    check_confidence(confidence)
    mean = float(array.mean())
    if array.size == 1:
        return mean, np.nan, np.nan
    error = float(array.std(ddof=1)) / np.sqrt(array.size)
    margin = float(special.stdtrit(array.size - 1, (1 + confidence) / 2) * error)
    return mean, mean - margin, mean + margin


def check_confidence(confidence: float) -> None:
    """Raise ValueError for a confidence that is not between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, for example 0.95")


def bootstrap_interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """BCa bootstrap interval of the mean, (low, high), the same whenever it is called.

    NaN for fewer than BOOTSTRAP_SEEDS values. Source: Efron, Better bootstrap confidence
    intervals, 1987; the arithmetic is scipy's.
    """
    if len(values) < BOOTSTRAP_SEEDS:
        return np.nan, np.nan
    if values.std() == 0:
        return float(values.mean()), float(values.mean())
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=NUM_RESAMPLES, rng=0
    ).confidence_interval
    return float(found.low), float(found.high)


def t_test(differences: NDArray[np.float64]) -> float:
    """Two-sided p of a t-test of the mean against 0; without any spread 0, or 1 if all are 0."""
    error = _standard_error(differences)
    return _two_sided(float(differences.mean()), error, len(differences) - 1)


def equivalence_p(differences: NDArray[np.float64], margin: float) -> float:
    """p of two one-sided t-tests that the true mean lies between -margin and margin.

    Below 0.05 where the 90% t-interval lies between them. Source: Schuirmann, A comparison of the
    two one-sided tests procedure, 1987.
    """
    error = _standard_error(differences)
    return _within(float(differences.mean()), error, len(differences) - 1, margin)


def welch(x: Array, y: Array, margin: float | None) -> dict[str, float]:
    """The mean of x minus that of y, of runs that no seed pairs: what a paired row would have.

    n (the fewer runs of the two), unpaired, mean (of x), difference, and with two runs of each its
    95% interval (low, high), p, spread (of a difference of two runs), and with a margin p_equal.
    Source: Welch, The generalization of Student's problem, 1947.
    """
    row = {"n": min(len(x), len(y)), "unpaired": len(x) + len(y), "mean": float(x.mean())}
    row["difference"] = row["mean"] - float(y.mean())
    if row["n"] < 2:
        return row
    variances = np.array([x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)])
    error, middle = float(np.sqrt(variances.sum())), row["difference"]
    freedom = variances.sum() ** 2 / (variances**2 / [len(x) - 1, len(y) - 1]).sum() if error else 1
    half = float(special.stdtrit(freedom, 0.975)) * error
    row |= {"low": middle - half, "high": middle + half}
    row["spread"] = float(np.sqrt(x.var(ddof=1) + y.var(ddof=1)))
    row["p"] = _two_sided(middle, error, freedom)
    if margin is not None:
        row["p_equal"] = _within(middle, error, freedom, margin)
    return row


def _two_sided(mean: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(freedom, -abs(mean) / error))


def _within(mean: float, error: float, freedom: float, margin: float) -> float:
    room = margin - abs(mean)
    if error == 0:
        return 0.0 if room > 0 else 1.0
    return float(special.stdtr(freedom, -room / error))


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def check_margin(margin: float | None) -> None:
    """Raise ValueError for a margin within which nothing could be equal."""
    if margin is not None and not margin > 0:
        raise ValueError(f"margin={margin} must be above 0, for example 0.02; or None for no test")


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction of the p-values that are not NaN.

    The k-th smallest of n becomes the largest of (n - i + 1) p_i over i <= k, at most 1. Source:
    Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    corrected, tested = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    rising = tested[p[tested].argsort()]
    steps = np.arange(len(rising), 0, -1) * p[rising]
    corrected[rising] = np.maximum.accumulate(steps).clip(max=1)
    return corrected


def corrected_interval(row: Mapping[str, Any]) -> tuple[float, float]:
    """The interval that leaves out 0 exactly where Holm's test finds a difference, (low, high).

    `row`: n, low and high of the 95% t-interval, p and p_holm. Student's quantile is taken at
    0.05 p / p_holm in place of 0.05. Where nothing was corrected the interval is the row's own.
    """
    low, high, p, p_holm = (float(row.get(name, np.nan)) for name in ("low", "high", "p", "p_holm"))
    if not (row.get("n", 0) > 1 and p > 0 and p_holm > p and high > low):
        return low, high
    freedom, level = row["n"] - 1, SIGNIFICANCE * p / p_holm
    wider = stats.t.isf(level / 2, freedom) / stats.t.isf(SIGNIFICANCE / 2, freedom)
    middle, half = (low + high) / 2, (high - low) / 2
    return float(middle - wider * half), float(middle + wider * half)


def far_value(values: ArrayLike) -> int | None:
    """The place of the one value that lies far from the others; None if there is none.

    It is called far where normal values would have one so far in fewer than FAR_SIGNIFICANCE of
    samples: Student's t of its distance to the others' mean, times the number of values. Source:
    Grubbs, Sample criteria for testing outlying observations, 1950. Fewer than three values, or
    others without spread, show nothing.
    """
    array = np.asarray(values, dtype=float).ravel()
    if array.size < 3 or not np.isfinite(array).all():
        return None
    place = int(abs(array - array.mean()).argmax())
    others = np.delete(array, place)
    error = others.std(ddof=1) * np.sqrt(1 + 1 / others.size)
    if error == 0:
        return None
    p = 2 * stats.t.sf(abs(array[place] - others.mean()) / error, others.size - 1)
    return place if p * array.size < FAR_SIGNIFICANCE else None


def detectable_effect(num_seeds: int, power: float = 0.8) -> float:
    """The true difference that a paired t-test over `num_seeds` finds with probability `power`.

    In standard deviations of the paired differences, two-sided at 0.05: the d for which a
    non-central t of n - 1 degrees of freedom and non-centrality d sqrt(n) lies beyond the critical
    values with that probability. Source: Cohen, Statistical power analysis, 1988. Raises ValueError
    for seeds that are no whole number of at least 2, or a power that is not between 0.05 and 1.
    """
    if not (num_seeds >= 2 and num_seeds % 1 == 0):
        raise ValueError(
            f"num_seeds={num_seeds} must be a whole number of at least 2: one leaves no spread to "
            "test with"
        )
    _check_power(power, SIGNIFICANCE)
    highest = 1.0
    while _power(highest, num_seeds, SIGNIFICANCE) < power:
        highest *= 2
    found = optimize.brentq(lambda d: _power(d, num_seeds, SIGNIFICANCE) - power, 0, highest)
    return float(found)


def seeds_needed(effect: float, power: float = 0.8, significance: float = SIGNIFICANCE) -> int:
    """The fewest seeds at which a paired t-test finds `effect` with probability `power`.

    `effect` is in standard deviations of the paired differences; the power is that of
    `detectable_effect`. Raises ValueError if more than MOST_SEEDS would be needed, as for an effect
    of 0, for an effect that is not finite, and for a power or significance that no test has.
    """
    if not np.isfinite(effect):
        raise ValueError(f"effect={effect} must be a finite number, for example 0.5")
    _check_power(power, significance)
    found = _fewest_seeds(lambda num: _power(np.abs([effect]), num, significance), power)
    if np.isnan(found).any():
        raise ValueError(
            f"effect={effect} needs more than {MOST_SEEDS} seeds; no run of seeds will show it"
        )
    return int(found.item())


def _check_power(power: float, significance: float) -> None:
    if not 0 < significance < 1:
        raise ValueError(f"significance={significance} must lie between 0 and 1, for example 0.05")
    if not significance < power < 1:
        raise ValueError(f"power={power} must lie between {significance} and 1, for example 0.8")


def _fewest_seeds(power_of: Callable[[Array], Array], power: float) -> Array:
    """The fewest seeds with at least that power, which rises with the seeds; NaN above 1000.

    `power_of`: the powers of several cases, each at its number of seeds.
    """
    reached = power_of(np.array(MOST_SEEDS)) >= power
    few, enough = np.ones(reached.shape), np.full(reached.shape, float(MOST_SEEDS))
    while (enough - few > 1).any():
        middle = np.maximum((few + enough) // 2, 2)  # of one seed nothing is known
        is_enough = power_of(middle) >= power
        few, enough = np.where(is_enough, few, middle), np.where(is_enough, middle, enough)
    return np.where(reached, enough, np.nan)


def _power(effect: ArrayLike, num_seeds: ArrayLike, significance: float) -> Array:
    """Probability that a two-sided paired t-test rejects when the true effect is `effect`."""
    freedom = np.asarray(num_seeds) - 1.0
    critical = -special.stdtrit(freedom, significance / 2)
    shift = np.asarray(effect) * np.sqrt(freedom + 1)  # at least 0
    # scipy gives NaN for the far tail where it is too small to compute
    far_tail = np.nan_to_num(stats.nct.cdf(-critical, freedom, shift))
    return np.asarray(stats.nct.sf(critical, freedom, shift) + far_tail)


def _power_to_equal(effect: Array, margin: Array, num_seeds: Array, significance: float) -> Array:
    """At least the probability that both one-sided tests reject; exact where it is near 1."""
    freedom = num_seeds - 1.0
    critical = -special.stdtrit(freedom, significance)
    both = 0.0
    for room in (margin - effect, margin + effect):
        shift = np.clip(room * np.sqrt(num_seeds), -FAR, FAR)
        both = both + np.nan_to_num(stats.nct.sf(critical, freedom, shift))
    return np.maximum(0.0, both - 1)


def verdict(
    row: Mapping[str, Any],
    words: tuple[str, str],
    num_tests: int,
    margin: float | None,
    unit: str = "",
) -> str:
    """What a paired difference shows: one of `words` (below 0, above 0), equality, or nothing yet.

    `row`: n, difference, p_holm, spread (standard deviation of the paired differences), and with a
    margin p_equal_holm; needed, where `seeds_to_decide` was asked for all rows at once.
    """
    certain = row["n"] > 1 and row["p_holm"] < SIGNIFICANCE
    equal = margin is not None and row["n"] > 1 and row["p_equal_holm"] < SIGNIFICANCE
    if certain:
        found = words[row["difference"] > 0]
        return f"{found}, but by less than {margin:g}{unit}" if equal else found
    if equal:
        return f"equal within {margin:g}{unit}"
    return _undecided(row, num_tests, margin)


def _undecided(row: Mapping[str, Any], num_tests: int, margin: float | None) -> str:
    """What a test that found nothing would need, if the difference seen is the true one."""
    if row["n"] == 1:
        return "cannot tell: needs about 3 seeds at the least, one shows no spread"
    if row["difference"] == 0 and margin is None:
        return "cannot tell: the means are equal"
    needed = row.get("needed")
    if needed is None:
        needed = seeds_to_decide(row["difference"], row["spread"], margin, SIGNIFICANCE / num_tests)
    if np.isnan(needed):
        return f"cannot tell: needs more than {MOST_SEEDS} seeds"
    return f"cannot tell: needs about {int(needed)} seeds"


def seeds_to_decide(
    difference: ArrayLike, spread: ArrayLike, margin: float | None, significance: float
) -> Array:
    """The fewest seeds that show a difference, or that there is none, with 80% power.

    If differences and spreads (above 0) are the true ones; NaN for more than MOST_SEEDS.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread, or none that is known
        effect, room = np.divide(difference, spread), np.divide(margin or 0.0, spread)
    needed = _fewest_seeds(lambda num: _power(abs(effect), num, significance), POWER)
    if margin is not None:
        to_equal = _fewest_seeds(
            lambda num: _power_to_equal(effect, room, num, significance), POWER
        )
        needed = np.fmin(needed, to_equal)
    return needed


def needed(table: pd.DataFrame, margin: float | None, num_tests: int) -> Array:
    """What `seeds_to_decide` says of every row that `verdict` may find undecided; else NaN."""
    found = np.full(len(table), np.nan)
    is_open = (table["p_holm"] >= SIGNIFICANCE).to_numpy()
    if is_open.any():
        rows = table[is_open]
        at = rows["difference"].to_numpy(float), rows["spread"].to_numpy(float)
        found[is_open] = seeds_to_decide(*at, margin, SIGNIFICANCE / num_tests)
    return found
