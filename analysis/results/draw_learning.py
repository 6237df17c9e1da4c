"""Learning curves: they take a row a variant, seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes

from analysis.figures.style import colours, styled, wrapped
from analysis.results.draw_results import check_numbers, seeds_in_words
from analysis.results.runs import val_of, variant_column


@styled
def draw_learning_curves(
    df: pd.DataFrame,
    *,
    metric: str,
    by: str | None = None,
    x: str = "epoch",
    highlight: Sequence[str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """A metric against epochs: each variant's mean, and a band from its lowest to highest seed.

    `df`: a row a variant, seed and epoch, with columns `by`, seed, epoch and `metric`. Mean and
    band are drawn over the epochs that all of a variant's runs have; one epoch is a mark. `x`:
    another column of numbers in place of the epoch, such as the number of clips, on a log axis. A
    `metric` test_* is scored at the end alone: it is a mark, beside the curve of val_* where there
    is one; runs of before val clips have a curve of it. `highlight`: the variants that get a name,
    a colour and a band, all by default; the others are thin grey lines. Raises ValueError for a
    missing column, a metric that is no number, and no rows.
    """
    by = variant_column(df, by)
    check_numbers(df, metric, by, "seed", x)
    if not len(df):
        raise ValueError(f"no row has a value of {metric!r}; there is nothing to draw")
    ax = ax or plt.subplots(figsize=(5.6, 3.6))[1]
    shown, said = _by_epoch(df, metric) if x == "epoch" else (df[metric], metric)
    groups = {str(name): rows for name, rows in df.assign(shown=shown).groupby(by, sort=False)}
    curves = {name: _of_all_seeds(rows, "shown", x) for name, rows in groups.items()}
    hues = colours(list(curves), highlight)
    for name, runs in curves.items():
        mark = "D" if len(runs) == 1 else "o" if x != "epoch" else None
        if highlight is None or name in highlight:
            band = runs.min(axis=1), runs.max(axis=1)
            ax.fill_between(runs.index, *band, color=hues[name], alpha=0.18, linewidth=0)
            ax.plot(runs.index, runs.mean(axis=1), marker=mark, color=hues[name], label=name)
            end = _of_all_seeds(groups[name], metric, x)
            if len(end) == 1 < len(runs):
                ax.plot(end.index, end.mean(axis=1), "D", color=hues[name], markersize=5)
        else:
            mean = runs.mean(axis=1)
            ax.plot(runs.index, mean, marker=mark, color=hues[name], linewidth=0.7, zorder=1)
    counts = [rows["seed"].nunique() for rows in groups.values()]
    what = "band: from the lowest to the highest of " if max(counts) > 1 else ""
    ax.set_xlabel(f"{x} ({what}{seeds_in_words(counts)})")
    if x == "epoch":
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    else:
        ax.set_xscale("log")
        ax.set_xticks(sorted(df[x].unique()), [f"{each:,g}" for each in sorted(df[x].unique())])
        ax.minorticks_off()
    ax.set_ylabel(said)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set_title(wrapped(title or f"{metric} by {x}", 5.6))
    return ax


def _by_epoch(df: pd.DataFrame, metric: str) -> tuple[pd.Series, str]:
    """What is drawn against epochs for a metric, and in words what it is."""
    val = val_of(metric)
    if val == metric:
        return df[metric], metric
    if val not in df or df[val].isna().all():
        every = df.loc[df["epoch"] < df["epoch"].max(), metric].notna().any()
        return df[metric], f"{metric}, scored every epoch" if every else metric
    older = f"; runs of before: {metric}" if (df[val].isna() & df[metric].notna()).any() else ""
    return df[val].fillna(df[metric]), f"{val} (mark: {metric}{older})"


def _of_all_seeds(rows: pd.DataFrame, column: str, x: str) -> pd.DataFrame:
    """A variant's values, a row an epoch that all of its seeds have and a column a seed."""
    return rows.pivot_table(index=x, columns="seed", values=column).dropna()
