"""Learning curves: they take a row a variant, seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes

from analysis.figures.style import colours, styled, wrapped
from analysis.results.draw_results import check_numbers, seeds_in_words
from analysis.results.runs import variant_column


@styled
def draw_learning_curves(
    df: pd.DataFrame,
    *,
    metric: str,
    by: str | None = None,
    highlight: Sequence[str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """A metric against epochs: each variant's mean, and a band from its lowest to highest seed.

    `df`: a row a variant, seed and epoch, with columns `by`, seed, epoch and `metric`. Mean and
    band are drawn over the epochs that all of a variant's runs have. `highlight`: the variants
    that get a name, a colour and a band, all by default; the others are thin grey lines. Raises
    ValueError for a missing column, a metric that is no number, and no rows.
    """
    by = variant_column(df, by)
    check_numbers(df, metric, by, "seed", "epoch")
    if not len(df):
        raise ValueError(f"no row has a value of {metric!r}; there is nothing to draw")
    ax = ax or plt.subplots(figsize=(5.6, 3.6))[1]
    curves = {
        str(name): rows.pivot_table(index="epoch", columns="seed", values=metric)
        for name, rows in df.groupby(by, sort=False)
    }
    hues = colours(list(curves), highlight)
    for name, runs in curves.items():
        whole = runs.dropna()
        if highlight is None or name in highlight:
            band = whole.min(axis=1), whole.max(axis=1)
            ax.fill_between(whole.index, *band, color=hues[name], alpha=0.18, linewidth=0)
            ax.plot(whole.index, whole.mean(axis=1), color=hues[name], label=name)
        else:
            ax.plot(whole.index, whole.mean(axis=1), color=hues[name], linewidth=0.7, zorder=1)
    seeds = seeds_in_words([runs.shape[1] for runs in curves.values()])
    ax.set_xlabel(f"epoch (band: from the lowest to the highest of {seeds})")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.set_ylabel(metric)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set_title(wrapped(title or f"{metric} by epoch", 5.6))
    return ax
