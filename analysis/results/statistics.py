"""Comparing variants over few seeds: against a baseline, and axis by axis of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.results.effects import effects
from analysis.results.paired import (
    BOOTSTRAP_SEEDS,
    bootstrap_interval,
    check_margin,
    detectable_effect,
    equivalence_p,
    holm,
    seeds_needed,
    t_interval,
    t_test,
    verdict,
)
from analysis.results.runs import refuse_unnamed, same_value, variant_column, without_failed

__all__ = ["compare", "detectable_effect", "effects", "seeds_needed", "t_interval"]


def compare(
    df: pd.DataFrame,
    baseline: Any = None,
    metric: str = "test_top1",
    by: str | None = None,
    seed: str = "seed",
    *,
    higher_is_better: bool = True,
    confidence: float = 0.95,
    margin: float | None = None,
    unit: str = "",
) -> pd.DataFrame:
    """Each variant against the baseline, paired by seed.

    Parameters
    ----------
    df : DataFrame
        One row a variant and seed, such as `ablations.load` gives. A run that is missing has a NaN
        metric, or "failed" in a column `status`.
    baseline : optional
        The value of column `by` that the others are compared with, or its text; by default that of
        the rows which a column `baseline` marks as true.
    metric, seed : str
        Column names.
    by : str, optional
        The column that tells variants apart; by default `variant`, or `name` where there is none.
    higher_is_better : bool
        False for a loss, an error or a time.
    confidence : float
        Of the intervals, each by itself: they are not widened for the number of variants.
    margin : float, optional
        The largest true difference, either way, that still counts as none. Without it nothing is
        called equal: a test that finds no difference has not shown that there is none.
    unit : str
        Follows the margin in verdicts, for example " points".

    Returns
    -------
    DataFrame
        One row a variant, in order of appearance, with columns

        - `by`; n : seeds that both have; unpaired : seeds that only one of the two has, which are
          not used;
        - mean : the variant's mean over those n seeds; difference : that minus the baseline's;
          low, high : t-interval of the mean difference (`t_interval`);
        - bootstrap_low, bootstrap_high (only if some n is at least 10, and NaN where it is not) :
          BCa bootstrap interval of the mean difference (Efron, 1987), which supposes no normal
          values;
        - p : two-sided paired t-test; p_holm : corrected for the number of variants tested
          (Holm, 1979). Differences equal to the last bit have no spread, hence p = 0 (1 if all are
          0);
        - probability_of_improvement : share of the n^2 pairs of one run of each in which the
          variant's is the better, ties counting half. Source: Agarwal et al., Deep RL at the edge
          of the statistical precipice, 2021;
        - p_equal, p_equal_holm (only with `margin`) : two one-sided t-tests that the true
          difference lies within the margin, and Holm's correction over them;
        - verdict : "better" or "worse" if p_holm < 0.05 ("but by less than" the margin, if that is
          certain too); else "equal within" the margin if p_equal_holm < 0.05; else "cannot tell"
          and how many seeds would be needed to show the one or the other, if the difference seen
          is the true one, with 80% power at 0.05 / variants tested.

    Raises
    ------
    ValueError
        If a column, a value of `by` or the baseline is missing, a variant has two rows of one
        seed, or the margin is not above 0.
    """
    check_margin(margin)
    by = variant_column(df, by)
    wide = _runs_by_seed(without_failed(df, metric), metric, by, seed)
    baseline = _marked(df, by) if baseline is None else same_value(df[by], baseline)
    sign = 1 if higher_is_better else -1
    rows = [
        {by: variant, **_paired(wide[variant], wide[baseline], sign, confidence, margin)}
        for variant in df[by].unique()
        if variant != baseline
    ]
    columns = ["n", "unpaired", "mean", "difference", "low", "high", "spread", "p"]
    columns += ["p_equal"] if margin is not None else []
    if any(row["n"] >= BOOTSTRAP_SEEDS for row in rows):
        after = columns.index("high") + 1
        columns[after:after] = ["bootstrap_low", "bootstrap_high"]
    table = pd.DataFrame(rows, columns=[by, *columns, "probability_of_improvement"])
    for column in ["p"] if margin is None else ["p", "p_equal"]:
        corrected = holm(table[column].to_numpy(float))
        table.insert(table.columns.get_loc(column) + 1, f"{column}_holm", corrected)
    num_tests = max(1, int(table["p"].notna().sum()))
    words = ("worse", "better") if higher_is_better else ("better", "worse")
    verdicts = [
        verdict(row, words, num_tests, margin, unit)
        if row["n"]
        else "cannot tell: no seed in common with the baseline"
        for row in table.to_dict("records")
    ]
    return table.drop(columns="spread").assign(verdict=verdicts)


def _marked(df: pd.DataFrame, by: str) -> Any:
    """The variant whose rows are marked as the baseline's."""
    marked = df["baseline"].astype(bool) if "baseline" in df.columns else pd.Series(False, df.index)
    names = df.loc[marked, by].unique().tolist()
    if len(names) != 1:
        raise ValueError(
            f"{len(names)} variants are marked in a column 'baseline'; name one: baseline=..."
        )
    return names[0]


def _runs_by_seed(df: pd.DataFrame, metric: str, by: str, seed: str) -> pd.DataFrame:
    """The metric with a row a seed and a column a variant, or ValueError."""
    missing = [column for column in (metric, by, seed) if column not in df.columns]
    if missing:
        raise ValueError(f"no column {missing[0]!r}; the columns are {list(df.columns)}")
    refuse_unnamed(df, by)
    double = df.loc[df.duplicated([by, seed]), [by, seed]].to_dict("records")
    if double:
        raise ValueError(
            f"{len(double)} rows repeat a variant and seed, the first {double[0]}; average them, "
            "or keep one setting of every other column"
        )
    return df.pivot(index=seed, columns=by, values=metric).astype(float)


def _paired(
    variant: pd.Series[float],
    baseline: pd.Series[float],
    sign: int,
    confidence: float,
    margin: float | None,
) -> dict[str, float]:
    """The measured columns of one row of `compare`, and the spread of the differences."""
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
    row["bootstrap_low"], row["bootstrap_high"] = bootstrap_interval(x - y, confidence)
    if len(x) > 1:
        row |= {"spread": float((x - y).std(ddof=1)), "p": t_test(x - y)}
        if margin is not None:
            row["p_equal"] = equivalence_p(x - y, margin)
    return row
