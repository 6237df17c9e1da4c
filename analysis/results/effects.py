"""Main effects and two-way interactions of a grid of variants, paired by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.results.paired import (
    check_margin,
    equivalence_p,
    holm,
    needed,
    t_interval,
    t_test,
    verdict,
)
from analysis.results.runs import compared_by, finals, refuse_unnamed

VERDICTS = {
    "main effect": ("lower", "higher"),
    "interaction": ("below the sum", "above the sum"),
}
"""What an effect below 0 and one above 0 is called."""


class _Contrast(NamedTuple):
    """Which levels of which axes are held against the first ones."""

    axes: tuple[str, ...]
    levels: tuple[Any, ...]
    references: tuple[Any, ...]

    @property
    def kind(self) -> str:
        return "main effect" if len(self.axes) == 1 else "interaction"

    @property
    def words(self) -> str:
        """For example `gate dense (for lrpe) and layout T (for S)`."""
        named = zip(self.axes, self.levels, self.references, strict=True)
        return " and ".join(f"{axis} {level} (for {first})" for axis, level, first in named)


def effects(
    df: pd.DataFrame,
    axes: Sequence[str],
    metric: str,
    seed: str = "seed",
    *,
    margin: float | None = None,
    unit: str = "",
) -> pd.DataFrame:
    """Main effects and two-way interactions of a full grid, paired by seed.

    The first level of each axis, in order of appearance, is its reference. A main effect is the
    mean of the metric at a level minus that at the reference, over all combinations of the other
    axes. An interaction is how much one axis' effect changes with the other's:
    (a1 b1 - a0 b1) - (a1 b0 - a0 b0), likewise averaged. Each is computed for every seed by
    itself, and Student's t over seeds gives interval and p; in a grid of two by two these are the p
    of a repeated-measures analysis of variance. Effects are in the metric's unit. Source: Yates,
    The design and analysis of factorial experiments, 1937.

    Parameters
    ----------
    df : DataFrame
        One row a combination of `axes` and a seed. A run that is missing has a NaN metric, or
        "failed" in a column `status`.
    axes : sequence of str
        Columns that span the grid, each with two levels or more.
    metric, seed : str
        Column names.
    margin : float, optional
        The largest true effect, either way, that still counts as none, as for `compare`; by default
        the grid's, where the table is of `ablations.load`.
    unit : str
        Follows the numbers in sentences, for example " points".

    Returns
    -------
    DataFrame
        One row a contrast: kind ("main effect" or "interaction"); axes, levels and references,
        joined by " x "; n (seeds that have every combination) and incomplete (seeds that have
        not, which are not used); effect; low, high (95%, each by itself); p; p_holm, corrected for
        all rows (Holm); with `margin`, p_equal and p_equal_holm; verdict ("higher" or "lower", for
        an interaction "above" or "below the sum", "equal within" the margin, or "cannot tell" and
        the seeds that it needs); sentence.

    Raises
    ------
    ValueError
        If a column or a value of an axis is missing, an axis has one level, a run is there twice,
        no seed has every combination, or the margin is not above 0.
    """
    if margin is None:
        margin = compared_by(df, metric).margin
    check_margin(margin)
    wide, levels = _grid_by_seed(finals(df, metric), list(axes), metric, seed)
    complete = wide.dropna()
    counts = {"n": len(complete), "incomplete": len(wide) - len(complete)}
    at = {
        axis: {level: np.array([each == level for each in column]) for level in levels[axis]}
        for axis in axes
        for column in [complete.columns.get_level_values(axis)]
    }
    contrasts = list(_contrasts(levels))
    rows = [
        {"kind": contrast.kind}
        | {name: " x ".join(map(str, getattr(contrast, name))) for name in contrast._fields}
        | counts
        | _measured(_contrast_by_seed(complete, contrast, at), margin)
        for contrast in contrasts
    ]
    table = pd.DataFrame(rows)
    for column in ["p"] if margin is None else ["p", "p_equal"]:
        corrected = holm(table[column].to_numpy(float))
        table.insert(table.columns.get_loc(column) + 1, f"{column}_holm", corrected)
    told = table.rename(columns={"effect": "difference"})
    told["needed"] = needed(told, margin, len(table))
    verdicts = [
        verdict(row, VERDICTS[row["kind"]], len(table), margin, unit)
        if np.isfinite(row["difference"])
        else "cannot tell: a score is infinite"
        for row in told.to_dict("records")
    ]
    table = table.drop(columns="spread").assign(verdict=verdicts)
    sentences = [
        _sentence(contrast.words, row, metric, unit)
        for contrast, (_, row) in zip(contrasts, table.iterrows(), strict=True)
    ]
    return table.assign(sentence=sentences)


def crossed(df: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The rows of a full grid within an incomplete one: levels without every combination go.

    Of the levels that lack a combination, the one that lacks the largest share of its own goes
    first, then the later in order of appearance, until the rest form a full grid (which may be of
    one level an axis). Seeds play no part: a combination is there if any seed has it.
    """
    kept = df
    while True:
        cells = kept[list(axes)].drop_duplicates()
        num_levels = {axis: cells[axis].nunique() for axis in axes}
        full = prod(num_levels.values())
        if len(cells) == full:
            return kept
        *_, axis, level = min(
            ((cells[axis] == level).sum() * num_levels[axis] / full, -place, axis, level)
            for axis in axes
            for place, level in enumerate(cells[axis].unique())
        )
        kept = kept[kept[axis] != level]


def _measured(differences: NDArray[np.float64], margin: float | None) -> dict[str, float]:
    """The measured columns of one row of `effects`, and the spread over seeds."""
    effect, low, high = t_interval(differences)
    row = {"effect": effect, "low": low, "high": high, "p": np.nan, "spread": np.nan}
    row |= {} if margin is None else {"p_equal": np.nan}
    if len(differences) > 1:
        row |= {"p": t_test(differences), "spread": float(differences.std(ddof=1))}
        row |= {} if margin is None else {"p_equal": equivalence_p(differences, margin)}
    return row


def _grid_by_seed(
    df: pd.DataFrame, axes: list[str], metric: str, seed: str
) -> tuple[pd.DataFrame, dict[str, list[Any]]]:
    """The metric with a row a seed and a column a combination, and the axes' levels."""
    missing = [column for column in (*axes, metric, seed) if column not in df.columns]
    if missing or not axes:
        problem = f"no column {missing[0]!r}" if missing else "no axes"
        raise ValueError(f"{problem}; the columns are {list(df.columns)}")
    refuse_unnamed(df, *axes, seed)
    levels = {axis: df[axis].unique().tolist() for axis in axes}
    alone = [axis for axis, values in levels.items() if len(values) < 2]
    if alone:
        raise ValueError(f"{alone[0]!r} has the single level {levels[alone[0]]}; leave it out")
    double = df.loc[df.duplicated([*axes, seed]), [*axes, seed]].to_dict("records")
    if double:
        raise ValueError(
            f"{len(double)} rows repeat a combination and seed, the first {double[0]}; average "
            "them, or name every column that varies as an axis"
        )
    cells = list(product(*levels.values()))
    seeds, places = df[seed].unique().tolist(), {cell: i for i, cell in enumerate(cells)}
    found = list(zip(*(df[axis].tolist() for axis in axes), strict=True))
    values = np.full((len(seeds), len(cells)), np.nan)
    values[df[seed].map(seeds.index), [places[cell] for cell in found]] = df[metric].astype(float)
    wide = pd.DataFrame(values, seeds, pd.MultiIndex.from_tuples(cells, names=axes))
    if wide.dropna().empty:
        empty = [cell for cell, runs in wide.items() if runs.isna().all()]
        which = f"no seed has {empty[0]}" if empty else "each seed lacks another"
        raise ValueError(
            f"no seed has all {len(cells)} combinations of {', '.join(axes)} ({which}); run what "
            "is missing, or keep the levels that form a full grid"
        )
    return wide, levels


def _contrasts(levels: dict[str, list[Any]]) -> Iterator[_Contrast]:
    for count in (1, 2):
        for axes in combinations(levels, count):
            first = tuple(levels[axis][0] for axis in axes)
            for others in product(*(levels[axis][1:] for axis in axes)):
                yield _Contrast(axes, others, first)


def _contrast_by_seed(
    wide: pd.DataFrame, contrast: _Contrast, at: dict[str, dict[Any, NDArray[np.bool_]]]
) -> NDArray[np.float64]:
    """Each seed's value of the contrast: signed means over the combinations of other axes.

    `at`: by axis and level, which columns have it.
    """
    total = np.zeros(len(wide))
    for changed in product((False, True), repeat=len(contrast.axes)):
        chosen = np.ones(wide.shape[1], dtype=bool)
        options = zip(contrast.axes, contrast.levels, contrast.references, changed, strict=True)
        for axis, level, first, is_changed in options:
            chosen &= at[axis][level if is_changed else first]
        sign = -1 if (len(changed) - sum(changed)) % 2 else 1
        total += sign * wide.to_numpy()[:, chosen].mean(axis=1)
    return total


def _sentence(words: str, row: pd.Series, metric: str, unit: str) -> str:
    """What a row of `effects` shows, and whether it is certain."""
    what = f"{words} changes {metric} by {row['effect']:+.3g}{unit}"
    if row["kind"] == "interaction":
        together = f"together change {metric} by {row['effect']:+.3g}{unit}"
        what = f"{words} {together} beyond the sum of each alone"
    if row["n"] > 1:
        what += f" [{row['low']:+.3g}, {row['high']:+.3g}] over {row['n']} seeds"
    return f"{what}: {row['verdict']}."
