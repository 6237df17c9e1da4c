"""Seeds until the verdict: a group-sequential design over seed-paired differences.

Testing again after each new seed finds differences that are not there. So the looks are fixed
beforehand, and the error that a study may make is spent over them, little at first. The level of
each look comes from a Brownian motion and is held against Student's t of that look's seeds, which
errs by up to a tenth too often where seeds are few; so a tenth of the error is never spent.

Every comparison has its share of the error (Bonferroni). It is better, worse or equal in truth, and
can be taken for a wrong one in one way alone, so the shares bound every false verdict together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from analysis.results.paired import MOST_SEEDS, SIGNIFICANCE, check_margin, seeds_to_decide

VERDICTS = ("undecided", "better", "worse", "equal")
Array = NDArray[np.float64]
_FAR = 10.0  # standard deviations beyond which no path goes
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_NO_SPREAD = 1e-9  # of the largest difference: what rounding makes of equal ones
_NUM_SIMULATED = 2_000
_SPENT = 0.9
_TOO_WIDE = 10


@dataclass(frozen=True)
class Design:
    """When to look, and what error all looks at all comparisons may make together.

    `looks`: numbers of seeds at which verdicts are sought, rising. `num_comparisons`: how many
    variants are held against the baseline. `equal_within`: the largest true difference, either
    way, that counts as none, in the metric's unit; None: nothing is called equal. `alpha`: the
    probability of any false verdict. Raises ValueError for what is no design.
    """

    looks: tuple[int, ...]
    num_comparisons: int
    equal_within: float | None
    alpha: float = SIGNIFICANCE

    def __post_init__(self) -> None:
        looks = np.asarray(self.looks)
        if not (looks.size and looks[0] >= 2 and (np.diff(looks) > 0).all()):
            raise ValueError(f"looks={self.looks} must be rising numbers of seeds, from 2 on")
        if not self.num_comparisons >= 1:
            raise ValueError(f"num_comparisons={self.num_comparisons} must be at least 1")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha={self.alpha} must lie between 0 and 1, for example 0.05")
        check_margin(self.equal_within)

    @property
    def different(self) -> Array:
        """Level of each one-sided test for a difference, a look each."""
        return np.array(levels(self.looks, self.share / 2))

    @property
    def equal(self) -> Array:
        """Level of each of the two one-sided tests for equality, a look each."""
        return np.array(levels(self.looks, self.share))

    @property
    def share(self) -> float:
        """The error that one comparison may make over all looks."""
        return self.alpha / self.num_comparisons * (_SPENT if len(self.looks) > 1 else 1)


def looks(first: int, last: int) -> tuple[int, ...]:
    """The numbers of seeds at which to look: by a third more each time, and 2 at the least."""
    if not 2 <= first <= last:
        raise ValueError(f"looks from {first} to {last} seeds: give 2 at the least, then no fewer")
    found = [first]
    while found[-1] < last:
        step = max(2, round(found[-1] / 3))
        found.append(found[-1] + step if found[-1] + 1.5 * step < last else last)
    return tuple(found)


def spent(time: ArrayLike, level: float) -> Array:
    """The share of a one-sided `level` that is spent at a share of the seeds, O'Brien-Fleming type.

    Source: Lan & DeMets, Discrete sequential boundaries for clinical trials, 1983; the shape is
    that of O'Brien & Fleming, A multiple testing procedure for clinical trials, 1979.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(2 * stats.norm.sf(stats.norm.isf(level / 2) / np.sqrt(time)))


@lru_cache(maxsize=256)
def levels(looks: tuple[int, ...], level: float) -> tuple[float, ...]:
    """The level of a one-sided test at each look, so that all together err with `level`.

    Under the null a sum of n values is a Brownian motion at time n. Its density over the paths that
    have not crossed is carried from look to look. Source: Armitage, McPherson & Rowe, Repeated
    significance tests on accumulating data, 1969.
    """
    shares = np.diff(spent(np.array(looks) / looks[-1], level), prepend=0)
    found, before = [], 0
    places, mass = np.zeros(1), np.ones(1)
    for count, share in zip(looks, shares, strict=True):
        step, scale = np.sqrt(count - before), np.sqrt(count)

        def too_many(bound: float, step: float = step, scale: float = scale) -> float:
            return float(mass @ stats.norm.sf((bound * scale - places) / step)) - share  # noqa: B023

        bound = optimize.brentq(too_many, -_FAR, 4 * _FAR, xtol=1e-10)
        low, high = -_FAR * scale, bound * scale
        reached = (high - low) / 2 * _NODES + (high + low) / 2
        density = stats.norm.pdf((reached[:, None] - places) / step) / step @ mass
        places, mass, before = reached, density * _WEIGHTS * (high - low) / 2, count
        found.append(float(stats.norm.sf(bound)))
    return tuple(found)


class Found(NamedTuple):
    """An array of each: what the last look taken shows of a path of differences."""

    verdict: NDArray[np.int64]
    """Its place in `VERDICTS`."""
    look: NDArray[np.int64]
    """The number of seeds at that look; 0 before the first."""
    n: NDArray[np.int64]
    difference: Array
    low: Array
    high: Array


def judged(differences: Array, design: Design, lengths: ArrayLike | None = None) -> Found:
    """Verdicts over paths of differences, (paths, seeds): the first look that decides stands.

    `lengths`: how many seeds of each path have been run, all by default. A NaN among them is a seed
    without a result: it counts as looked at, and gives no difference. Differences that are all one
    have no spread to divide by; their signs are tested instead, which takes 2^-n for n of them.
    """
    paths, num_seeds = differences.shape
    reached = np.broadcast_to(num_seeds if lengths is None else np.asarray(lengths), paths)
    found = Found(
        *(np.zeros(paths, dtype=int) for _ in range(3)),
        *(np.full(paths, np.nan) for _ in range(3)),
    )
    margin = design.equal_within
    levels = zip(design.looks, design.different, design.equal, strict=True)
    for count, different, equal in levels:
        (going,) = np.nonzero((found.verdict == 0) & (reached >= count))
        if not going.size:
            break
        n, mean, error, same = _moments(differences[going, :count])
        with np.errstate(invalid="ignore"):
            width = stats.t.isf(different, n - 1) * error
            room = np.inf if margin is None else stats.t.isf(equal, n - 1) * error
        signs = 0.5**n
        low, high = mean - width, mean + width
        is_different = np.where(same, (mean != 0) & (signs <= different), (low > 0) | (high < 0))
        is_equal = np.zeros(len(n), dtype=bool)
        if margin is not None:
            is_equal = (abs(mean) + room < margin) & (~same | (signs <= equal))
        verdict = np.where(is_different, np.where(mean > 0, 1, 2), np.where(is_equal, 3, 0))
        for column, values in zip(
            found, (verdict, np.full(len(n), count), n, mean, low, high), strict=True
        ):
            column[going] = values
    return found


def _moments(values: Array) -> tuple[NDArray[np.int64], Array, Array, NDArray[np.bool_]]:
    """Of each row's numbers: how many, mean, standard error, and whether they are all one."""
    there = ~np.isnan(values)
    n = there.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(axis=1) / n
        apart = np.where(there, values - mean[:, None], 0)
        error = np.sqrt((apart**2).sum(axis=1) / (n - 1) / n)
    same = (n > 1) & (abs(apart).max(axis=1) <= _NO_SPREAD * abs(mean))
    return n, mean, np.where(same, 0.0, np.where(n > 1, error, np.nan)), same


def judge(differences: Mapping[str, Sequence[float]], design: Design) -> pd.DataFrame:
    """The verdict on each comparison, as far as its seeds have come.

    Parameters
    ----------
    differences : mapping
        A comparison's name -> its seed-paired differences, variant minus baseline, larger being
        better, in the order of the seeds. NaN: a seed at which one of the two has failed.
    design : Design
        The looks, and the error that all of them may make.

    Returns
    -------
    DataFrame
        One row a comparison: comparison; n, the differences that were used; difference, their mean;
        low, high, the repeated confidence interval; look, the number of seeds at the last look, 0
        before the first; verdict, one of `VERDICTS`.

        The verdict of the first look that decides stands. Better or worse: the interval leaves out
        0; equal: two one-sided t-tests place the true difference within the margin. Where both hold
        it is better or worse. All intervals of all comparisons at all looks cover the true
        differences together with probability 1 - alpha.

        Sources: Jennison & Turnbull, Interim analyses: the repeated confidence interval approach,
        1989, and Group sequential methods with applications to clinical trials, 2000 (levels held
        against t); Schuirmann, A comparison of the two one-sided tests procedure, 1987.

    Raises
    ------
    ValueError
        If there are more comparisons than the design has error for.
    """
    if len(differences) > design.num_comparisons:
        raise ValueError(
            f"{len(differences)} comparisons, but num_comparisons={design.num_comparisons}; make "
            "the design for all of them"
        )
    lengths = [len(path) for path in differences.values()]
    paths = np.full((len(lengths), max(lengths, default=0)), np.nan)
    for row, path in zip(paths, differences.values(), strict=True):
        row[: len(path)] = path
    found = judged(paths, design, lengths)
    table = pd.DataFrame(found._asdict()).assign(comparison=list(differences))
    table["verdict"] = [VERDICTS[place] for place in found.verdict]
    return table[["comparison", "n", "difference", "low", "high", "look", "verdict"]]


def too_early(design: Design, look: int, n: int) -> bool:
    """Whether the repeated interval at a look of `n` differences is too wide to bound anything.

    That is where it is more than ten times as wide as the t-interval of a single test.
    """
    if n < 2 or look not in design.looks:
        return True
    level = design.different[design.looks.index(look)]
    single = stats.t.isf(SIGNIFICANCE / 2, n - 1)
    return bool(stats.t.isf(level, n - 1) > _TOO_WIDE * single)


def verdict_at_look(row: Mapping[str, Any], verdict: str, design: Design, unit: str = "") -> str:
    """A verdict of `judge` in the words of `analysis.compare`; how many more seeds might decide.

    `row`: n, look, difference, spread (of the paired differences), low and high.
    """
    margin = design.equal_within
    if verdict == "equal":
        return f"equal within {margin:g}{unit}"
    if verdict != "undecided":
        small = margin is not None and max(abs(row["low"]), abs(row["high"])) < margin
        return f"{verdict}, but by less than {margin:g}{unit}" if small else verdict
    last, later = design.looks[-1], [look for look in design.looks if look > row["look"]]
    if not row["look"]:
        return f"cannot tell yet: the first look is at {later[0]} seeds"
    at = f"cannot tell at {row['look']} of at most {last} seeds"
    if row["n"] < 2:
        return f"{at}: fewer than 2 of them have a result of both"
    if row.get("infinite"):
        return f"{at}: a score is infinite"
    needed = row["look"]
    if row["spread"]:
        needed = seeds_to_decide(row["difference"], row["spread"], margin, design.share)
    if np.isnan(needed):
        return f"{at}: more than {MOST_SEEDS} might be needed"
    enough = max(int(needed), later[0] if later else row["look"] + 1)
    return f"{at}: about {enough - row['look']} more might decide"


def expected_seeds(design: Design, sd: float, differences: ArrayLike) -> Array:
    """The mean number of seeds until the verdict for each true difference, by simulation.

    `sd`: standard deviation of the seed-paired differences, in the unit of `differences`. Those
    that reach no verdict count with the last look's seeds. The same whenever it is called.
    """
    if not sd > 0:
        raise ValueError(f"sd={sd} must be above 0, the spread of the seed-paired differences")
    noise = np.random.default_rng(0).normal(0, sd, (_NUM_SIMULATED, design.looks[-1]))
    true = np.atleast_1d(np.asarray(differences, dtype=float))
    return np.array([judged(noise + each, design).look.mean() for each in true])
