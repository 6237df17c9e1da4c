"""Comparing variants over few seeds: against a baseline, and axis by axis of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.results.effects import effects
from analysis.results.paired import (
    BOOTSTRAP_SEEDS,
    Array,
    bootstrap_interval,
    check_margin,
    detectable_effect,
    equivalence_p,
    holm,
    needed,
    seeds_needed,
    t_interval,
    t_test,
    verdict,
)
from analysis.results.runs import (
    asked_of,
    compared_by,
    finals,
    plain,
    refuse_unnamed,
    same_value,
    variant_column,
)
from analysis.results.sequential import Design, judge, looks, too_early, verdict_at_look

__all__ = ["compare", "detectable_effect", "effects", "seeds_needed", "t_interval"]


def compare(
    df: pd.DataFrame,
    baseline: Any = None,
    metric: str | None = None,
    by: str | None = None,
    seed: str = "seed",
    *,
    higher_is_better: bool | None = None,
    confidence: float = 0.95,
    margin: float | None = None,
    unit: str = "",
    whole: float | None = None,
    design: Design | None = None,
) -> pd.DataFrame:
    """Each variant against the baseline, paired by seed.

    A table of `ablations.load` says what its grid compares, and how: what is not given here is
    taken from there (`df.attrs["compares"]`), so that the verdicts are those of the report.

    Parameters
    ----------
    df : DataFrame
        One row a variant and seed, such as `ablations.load` gives. A run that is missing has a NaN
        metric, or "failed" in a column `status`. Rows of trials and of repetitions are left out.
    baseline : optional
        The value of column `by` that the others are compared with, or its text; by default that of
        the rows which a column `baseline` marks as true.
    metric, seed : str
        Column names. The metric is by default the grid's first, or test_top1.
    by : str, optional
        The column that tells variants apart; by default `variant`, or `name` where there is none.
    higher_is_better : bool, optional
        By default as the grid says, or else False for what is called a loss, an error, a time or
        another cost (`test_loss`, `seconds`, `params`), and True for all others.
    confidence : float
        Of the intervals, each by itself: they are not widened for the number of variants.
    margin : float, optional
        The largest true difference, either way, that still counts as none; by default the grid's.
        Without it nothing is called equal: a test that finds no difference has not shown that there
        is none.
    unit : str
        Follows the margin in verdicts, for example " points".
    whole : float, optional
        What the metric is where all test clips are right, such as 1 or 100; by default as the grid
        says, or none: the metric is no share of clips.
    design : Design, optional
        Of a study whose seeds go on until the verdict; by default the grid's, or none.

    Returns
    -------
    DataFrame
        One row a variant, in order of appearance, with columns

        - `by`; n : seeds that both have; unpaired : seeds that only one of the two has, which are
          not used;
        - mean : the variant's mean over those n seeds; difference : that minus the baseline's;
          low, high : t-interval of the mean difference (`t_interval`);
        - from_seeds, from_clips (only with `whole` and a column test_clips) : the half-width that
          is left to chance in training, and the most of it that the choice of test clips explains
          (binomial, the clips of both counted as independent); their squares sum to the whole's;
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

        With a design the verdicts are those of `judge`: n, mean and difference are of the seeds at
        which a comparison stopped, low and high its repeated confidence interval (NaN at a look so
        early that it bounds nothing yet), look the number of seeds at its last look. There is no p,
        and "cannot tell" says how many more seeds might decide.

    Raises
    ------
    ValueError
        If a column, a value of `by` or the baseline is missing, a variant has two rows of one
        seed, or the margin is not above 0.
    """
    asked = asked_of(df)
    metric = metric or next(iter(asked.metrics), "test_top1")
    of = compared_by(df, metric)
    margin = of.margin if margin is None else margin
    whole = of.whole if whole is None else whole
    higher_is_better = of.higher_is_better if higher_is_better is None else higher_is_better
    check_margin(margin)
    if design is None and asked.until:
        design = Design(looks(*asked.until), asked.num_comparisons, margin)
    by, df = variant_column(df, by), finals(df, metric)
    wide = _runs_by_seed(df, metric, by, seed)
    baseline = _marked(df, by) if baseline is None else same_value(df[by], baseline)
    sign = 1 if higher_is_better else -1
    order = [each for each in asked.seeds or wide.index if each in wide.index]
    run = df.assign(run=1).pivot(index=seed, columns=by, values="run").notna()
    clips = df.groupby(by)["test_clips"].min().dropna().to_dict() if "test_clips" in df else {}
    values, places = wide.to_numpy(), {variant: i for i, variant in enumerate(wide.columns)}
    rows: list[dict[Any, Any]] = []
    for variant in df[by].unique():
        if variant == baseline:
            continue
        both = np.stack([values[:, places[variant]], values[:, places[baseline]]], axis=1)
        if design is None:
            row = paired(both, sign, confidence, margin)
        else:
            ran = (run[variant] & run[baseline]).loc[order].cummin().to_numpy()
            both = both[wide.index.get_indexer(order)][ran]
            row = _at_look(both, sign, design, unit)
        if whole and row["n"] and variant in clips and baseline in clips:
            means = np.nanmean(both, axis=0)
            row |= _parts(row, [clips[variant], clips[baseline]], means, whole)
        rows.append({by: variant, **row})
    if design is not None:
        return _columns(rows, by, ("look",), ("verdict",))
    return tested(rows, by, margin, unit, sign)


def _columns(
    rows: list[dict[Any, Any]], by: str, before: tuple[str, ...], after: tuple[str, ...]
) -> pd.DataFrame:
    """The rows with the columns that every comparison has, and others before and after."""
    parts = ("from_seeds", "from_clips") if any("from_clips" in row for row in rows) else ()
    shared = ("mean", "difference", "low", "high")
    columns = [by, "n", *before, *shared, *parts, "probability_of_improvement", *after]
    if by in columns[1:]:
        raise ValueError(f"by={by!r} is a column of the answer, too; rename it in the table")
    return pd.DataFrame(rows, columns=columns)


def tested(
    rows: list[dict[Any, Any]], by: str, margin: float | None, unit: str, sign: int
) -> pd.DataFrame:
    """The rows of fixed seeds, with corrected p-values and verdicts. sign: 1 if more is better."""
    words = ("worse", "better") if sign > 0 else ("better", "worse")
    tests = ["p"] if margin is None else ["p", "p_equal"]
    table = _columns(rows, by, ("unpaired",), ("spread", *tests))
    if any(row["n"] >= BOOTSTRAP_SEEDS for row in rows):
        for name in ("bootstrap_high", "bootstrap_low"):
            table.insert(table.columns.get_loc("high") + 1, name, [row.get(name) for row in rows])
    for column in tests:
        corrected = holm(table[column].to_numpy(float))
        table.insert(table.columns.get_loc(column) + 1, f"{column}_holm", corrected)
    num_tests = max(1, int(table["p"].notna().sum()))
    table["needed"] = needed(table, margin, num_tests)
    verdicts = [
        "cannot tell: no seed in common with the baseline"
        if not row["n"]
        else "cannot tell: a score is infinite"
        if measured.get("infinite")
        else verdict(row, words, num_tests, margin, unit)
        for row, measured in zip(table.to_dict("records"), rows, strict=True)
    ]
    table["probability_of_improvement"] = table.pop("probability_of_improvement")
    return table.drop(columns=["spread", "needed"]).assign(verdict=verdicts)


def _at_look(both: Array, sign: int, design: Design, unit: str) -> dict[str, Any]:
    """A row of `compare` at the look that decided, or at the last one that was reached."""
    differences = sign * (both[:, 0] - both[:, 1])
    found = judge({"": differences.tolist()}, design).loc[0]
    row = paired(both[: found["look"]], sign, 0.95, None)
    bounds = {"low": found["low"], "high": found["high"]}
    if sign < 0:
        bounds = {"low": -found["high"], "high": -found["low"]}
    if found["verdict"] == "undecided" and too_early(design, int(found["look"]), row["n"]):
        bounds = {"low": np.nan, "high": np.nan}
    row |= {"look": int(found["look"]), **(bounds if row["n"] else {})}
    return row | {"verdict": verdict_at_look(row, found["verdict"], design, unit)}


def _parts(row: dict[str, Any], clips: list[float], means: Array, whole: float) -> dict[str, float]:
    """What the interval's half-width owes to the seeds, and to the choice of test clips.

    A share of m clips that are drawn by chance has the variance p (1 - p) / m (binomial), which is
    part of the spread over seeds as far as seeds and variants err on different clips.
    """
    half = (row.get("high", np.nan) - row.get("low", np.nan)) / 2
    shares = (means / whole).clip(0, 1)
    by_clips = float((shares * (1 - shares) / np.array(clips)).sum()) * whole**2
    spread = row.get("spread", np.nan)
    part = min(1.0, by_clips / spread**2) if spread else np.nan
    return {"from_seeds": half * np.sqrt(1 - part), "from_clips": half * np.sqrt(part)}


def _marked(df: pd.DataFrame, by: str) -> Any:
    """The variant whose rows are marked as the baseline's."""
    marks = df["baseline"].tolist() if "baseline" in df.columns else [False] * len(df)
    names = df.loc[[plain(mark) == 1 for mark in marks], by].unique().tolist()
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
    refuse_unnamed(df, by, seed)
    double = df.loc[df.duplicated([by, seed]), [by, seed]].to_dict("records")
    if double:
        raise ValueError(
            f"{len(double)} rows repeat a variant and seed, the first {double[0]}; average them, "
            "or keep one setting of every other column"
        )
    return df.pivot(index=seed, columns=by, values=metric).astype(float)


def paired(pairs: Array, sign: int, confidence: float, margin: float | None) -> dict[str, Any]:
    """The measured columns of one row of `compare`, and the spread of the differences.

    `pairs`: a row a seed, columns variant and baseline.
    """
    there = ~np.isnan(pairs)
    x, y = pairs[there.all(axis=1)].T
    alone = there[:, 0] ^ there[:, 1]
    row: dict[str, Any] = {"n": len(x), "unpaired": int(alone.sum())}
    if not len(x):
        return row
    if not np.isfinite([x, y]).all():
        return row | {"mean": float(x.mean()), "difference": np.nan, "infinite": True}
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
