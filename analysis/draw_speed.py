"""Score against every cost at once, with the front of variants that no other beats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.draw_results import (
    LABELS,
    Point,
    count_seeds,
    draw_points,
    label_points,
    summarise,
)
from analysis.pareto import pareto
from analysis.style import styled, wrapped

PANELS = {
    **{name: LABELS[name] for name in ("params", "gmacs", "latency_ms")},
    "clips_per_s": "throughput (clips a second, log scale)",
}
MORE_IS_BETTER = "clips_per_s"


@styled
def draw_speed_accuracy(
    df: pd.DataFrame, *, metric: str = "test_top1", by: str = "variant", title: str | None = None
) -> NDArray[Any]:
    """A panel a cost, of those of params, gmacs, latency_ms and clips_per_s that `df` has.

    `df`: a row a variant and seed; a NaN metric is a run that is missing, a column without any
    value counts as not there. Points are means of `metric` with 95% t-intervals over seeds, at the
    median cost with a bar over its quartiles; the grey step line is the Pareto front of those
    points. Returns the array of Axes. Raises ValueError if no such column is there.
    """
    summaries = summarise(df, metric, by)
    finished = df[df[metric].notna()]
    present = [name for name in PANELS if name in df and finished[name].notna().any()]
    if not present:
        raise ValueError(
            f"no column of {', '.join(PANELS)} among {list(df.columns)}; add one, for example from "
            "analysis.cost or analysis.measure_speed"
        )
    rows, columns = (1, len(present)) if len(present) < 3 else (2, 2)
    size = (4.6 * columns, 3.5 * rows + 0.4)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for spare in grid.flat[len(present) :]:
        figure.delaxes(spare)
    axes = grid.ravel()[: len(present)]
    text = title or f"{metric} against cost; the line is the front that no variant beats"
    figure.suptitle(
        wrapped(text, figure.get_figwidth()), x=0.01, ha="left", fontsize=10, fontweight="bold"
    )
    for ax in grid[:, 0]:
        ax.set_ylabel(f"{metric}\n(mean, 95% t-interval, {count_seeds(summaries)})")
    drawn = []
    for ax, name in zip(axes, present, strict=True):
        points = draw_points(ax, finished, name, by, summaries)
        _draw_front(ax, points, more_is_better=name == MORE_IS_BETTER)
        ax.set_xlabel(PANELS[name])
        drawn.append(points)
    figure.draw_without_rendering()  # labels are placed by where the points come to lie
    for ax, points in zip(axes, drawn, strict=True):
        label_points(ax, points)
    return axes


def _draw_front(ax: Axes, points: list[Point], *, more_is_better: bool) -> None:
    """The best score to be had at each cost, on to the costliest variant."""
    sign = -1 if more_is_better else 1
    table = pd.DataFrame(points).assign(cost=lambda rows: sign * rows["x"])
    front = pareto(table, "cost", "y")
    costs = np.append(front["x"], table.loc[table["cost"].idxmax(), "x"])
    scores = np.append(front["y"], front["y"].iloc[-1])
    ax.plot(costs, scores, color="0.6", linewidth=1, drawstyle="steps-post", zorder=0)
