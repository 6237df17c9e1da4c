"""Comparing variants over few seeds: against a baseline, and axis by axis of a grid."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.effects import effects
from analysis.paired import (
    SIGNIFICANCE,
    detectable_effect,
    holm,
    seeds_needed,
    t_interval,
    t_test,
    undecided,
)

__all__ = ["compare", "detectable_effect", "effects", "seeds_needed", "t_interval"]


def compare(
    df: pd.DataFrame,
    baseline: str,
    metric: str,
    by: str = "variant",
    seed: str = "seed",
    *,
    higher_is_better: bool = True,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Each variant against the baseline, paired by seed.

    Parameters
    ----------
    df : DataFrame
        One row a variant and seed. A NaN metric counts as a run that is missing.
    baseline : str
        The value of column `by` that the others are compared with.
    metric, by, seed : str
        Column names.
    higher_is_better : bool
        False for a loss, an error or a time.
    confidence : float
        Of the intervals, each by itself: they are not widened for the number of variants.

    Returns
    -------
    DataFrame
        One row a variant, in order of appearance, with columns

        - `by`; n : seeds that both have; unpaired : seeds that only one of the two has, which are
          not used;
        - mean : the variant's mean over those n seeds; difference : that minus the baseline's;
          low, high : t-interval of the mean difference;
        - p : two-sided paired t-test; p_holm : corrected for the number of variants tested
          (Holm). Differences equal to the last bit have no spread, hence p = 0 (1 if all are 0);
        - probability_of_improvement : share of the n^2 pairs of one run of each in which the
          variant's is the better, ties counting half. Source: Agarwal et al., Deep RL at the edge
          of the statistical precipice, 2021;
        - verdict : "better" or "worse" if p_holm < 0.05, else "cannot tell" and how many seeds
          would be needed to detect the difference seen, if it is real, with 80% power at
          0.05 / variants tested.

    Raises
    ------
    ValueError
        If a column or the baseline is missing, or a variant has two rows of one seed.
    """
    wide = _runs_by_seed(df, baseline, metric, by, seed)
    sign = 1 if higher_is_better else -1
    rows = [
        {by: variant, **_paired(wide[variant], wide[baseline], sign, confidence)}
        for variant in df[by].unique()
        if variant != baseline
    ]
    columns = ["n", "unpaired", "mean", "difference", "low", "high", "p", "effect"]
    table = pd.DataFrame(rows, columns=[by, *columns, "probability_of_improvement"])
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"].to_numpy(float)))
    num_tests = max(1, int(table["p"].notna().sum()))
    verdicts = [_verdict(row, sign, num_tests) for _, row in table.iterrows()]
    return table.drop(columns="effect").assign(verdict=verdicts)


def _runs_by_seed(df: pd.DataFrame, baseline: str, metric: str, by: str, seed: str) -> pd.DataFrame:
    """The metric with a row a seed and a column a variant, or ValueError."""
    missing = [column for column in (metric, by, seed) if column not in df.columns]
    if missing:
        raise ValueError(f"no column {missing[0]!r}; the columns are {list(df.columns)}")
    if baseline not in df[by].unique():
        raise ValueError(f"no baseline {baseline!r} in {by!r}; it has {list(df[by].unique())}")
    double = df.loc[df.duplicated([by, seed]), [by, seed]].to_dict("records")
    if double:
        raise ValueError(
            f"{len(double)} rows repeat a variant and seed, the first {double[0]}; average them, "
            "or keep one setting of every other column"
        )
    return df.pivot(index=seed, columns=by, values=metric).astype(float)


def _paired(
    variant: pd.Series[float], baseline: pd.Series[float], sign: int, confidence: float
) -> dict[str, float]:
    """The measured columns of one row of `compare`, and the effect in sd of the differences."""
    both = variant.notna() & baseline.notna()
    x, y = variant[both].to_numpy(), baseline[both].to_numpy()
    alone = variant.notna() ^ baseline.notna()
    row: dict[str, float] = {"n": len(x), "unpaired": int(alone.sum())}
    if not len(x):
        return row
    difference, low, high = t_interval(x - y, confidence)
    ahead = np.sign(sign * (x[:, None] - y[None, :]))
    row |= {"mean": float(x.mean()), "difference": difference, "low": low, "high": high}
    row["probability_of_improvement"] = float((ahead + 1).mean() / 2)
    if len(x) > 1:
        row["p"], row["effect"] = t_test(x - y)
    return row


def _verdict(row: pd.Series, sign: int, num_tests: int) -> str:
    if row["n"] == 0:
        return "cannot tell: no seed in common with the baseline"
    if row["n"] > 1 and row["p_holm"] < SIGNIFICANCE:
        return "better" if sign * row["difference"] > 0 else "worse"
    return undecided(row["n"], row["effect"], num_tests)
