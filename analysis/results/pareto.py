"""The front of variants that no other beats both in cost and in score."""

from __future__ import annotations

import pandas as pd


def pareto(df: pd.DataFrame, cost: str = "gmacs", score: str = "test_top1") -> pd.DataFrame:
    """The rows that no other row beats: none is at most as costly and scores more, or ties cheaper.

    Parameters
    ----------
    df : DataFrame
        One row a variant.
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
    rows = df.dropna(subset=[cost, score]).sort_values(
        [cost, score], ascending=[True, False], kind="stable"
    )
    best_before = rows[score].cummax().shift(fill_value=float("-inf"))
    return rows[rows[score] > best_before]
