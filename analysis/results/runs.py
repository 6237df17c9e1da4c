"""What a table of runs says of itself: its variants, the runs that failed, the front."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import pandas as pd

from posmlp.config_checks import LOWER_IS_BETTER


class Compared(NamedTuple):
    """How a metric is compared."""

    higher_is_better: bool = True
    margin: float | None = None
    """The largest difference that counts as none, in the metric's unit."""
    whole: float | None = None
    """What it is where all test clips are right; None: it is no share of clips."""


class Asked(NamedTuple):
    """What a table's grid asks for, as `ablations.load` writes it to `df.attrs["compares"]`."""

    metrics: dict[str, Compared]
    """The one that decides first."""
    until: tuple[int, int] | None = None
    """The fewest and the most seeds where they go on until the verdict."""
    num_comparisons: int = 1
    seeds: tuple[int, ...] = ()
    """In the order in which they are used."""


def asked_of(df: pd.DataFrame) -> Asked:
    """What the table says of how it is compared; nothing where it is of another origin."""
    said = {"metrics": {}} | df.attrs.get("compares", {})
    metrics = {name: Compared(**how) for name, how in said["metrics"].items()}
    return Asked(**said | {"metrics": metrics})


def compared_by(df: pd.DataFrame, metric: str) -> Compared:
    """How the table compares a metric; a loss, an error or a cost is better where it is lower."""
    said = asked_of(df).metrics
    return said.get(metric, Compared(higher_is_better=LOWER_IS_BETTER.fullmatch(metric) is None))


def val_of(metric: str) -> str:
    """The column of val clips for one of test clips; any other as it is."""
    return metric.replace("test_", "val_", 1) if metric.startswith("test_") else metric


def variant_column(df: pd.DataFrame, by: str | None = None) -> str:
    """The column that tells variants apart: `by`, else `variant`, else `name`."""
    return by or ("variant" if "variant" in df.columns else "name")


def finals(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows that are compared, without trials and repetitions, and with NaN where one failed.

    A training that diverged has the numbers of its last epoch, which are no result.
    """
    kept = pd.Series(True, df.index)
    if "role" in df.columns:
        kept &= df["role"] != "trial"
    if "repeat" in df.columns:
        kept &= df["repeat"] != 1
    df = df[kept]
    if "status" not in df.columns or metric not in df.columns:
        return df
    return df.assign(**{metric: df[metric].mask(df["status"] == "failed")})


def refuse_unnamed(df: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError where a column cannot tell rows apart: it is two, or lacks a value."""
    for column in columns:
        if (count := list(df.columns).count(column)) > 1:
            raise ValueError(f"{count} columns are called {column!r}; rename or drop all but one")
        if lists := [each for each in df[column] if not isinstance(each, Hashable)]:
            raise ValueError(
                f"column {column!r} holds {lists[0]!r}, a {type(lists[0]).__name__}, by which rows "
                f"cannot be told apart; make it text: df[{column!r}] = df[{column!r}].map(str)"
            )
        if count := int(df[column].isna().sum()):
            raise ValueError(
                f"{count} of {len(df)} rows have no value in {column!r}, by which they are told "
                f"apart; name it: df[{column!r}] = df[{column!r}].astype(object).fillna('none')"
            )


def same_value(values: pd.Series, asked: Any) -> Any:
    """The value of a column that is `asked`, or that is written or counted as it is.

    `T-S` is the layout `T>S`. Raises ValueError where there is none.
    """
    present = values.unique().tolist()
    for alike in (lambda each: each, plain, lambda each: str(each).replace(">", "-")):
        if found := [value for value in present if alike(value) == alike(asked)]:
            return found[0]
    raise ValueError(f"no baseline {asked!r} in {values.name!r}; it has {present}")


def plain(value: Any) -> Any:
    """A number where a value is one, else its text: 0.001, '1e-3' and True, 'true' are the same."""
    try:
        return float(value)
    except (TypeError, ValueError):
        text = str(value)
        return {"true": 1.0, "false": 0.0}.get(text.lower(), text)


def pareto(df: pd.DataFrame, cost: str = "gmacs", score: str = "test_top1") -> pd.DataFrame:
    """The rows that no other row beats: none is at most as costly and scores more, or ties cheaper.

    Parameters
    ----------
    df : DataFrame
        One row a variant. Rows of trials, repetitions and failed trainings are left out.
    cost, score : str
        Columns; less cost is better, more score is better. Rows with a NaN in either are left out.

    Returns
    -------
    DataFrame
        The front by rising cost, so that its scores rise strictly; ties in both keep the first row.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    missing = [column for column in (cost, score) if column not in df.columns]
    if missing:
        raise ValueError(f"no column {missing[0]!r}; the columns are {list(df.columns)}")
    rows = (
        finals(df, score)
        .dropna(subset=[cost, score])
        .sort_values([cost, score], ascending=[True, False], kind="stable")
    )
    best_before = rows[score].cummax().shift(fill_value=float("-inf"))
    return rows[rows[score] > best_before]
