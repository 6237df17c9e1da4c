"""Figures of how mixing weights came to be: they take rows of `analysis.bias_history`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.bias.draw_bias import (
    BY_OFFSET,
    FROM_TOKEN,
    LABELS,
    MOST_LINES,
    by_peak,
    check_one_unit,
    draw_map,
    growth,
    hidden,
    panels,
    seen,
)
from analysis.figures.pictures import animation_path, raster, write_animation
from analysis.figures.place import lay_out, place_of, set_texts
from analysis.figures.style import (
    add_colour_bar,
    check_rows,
    colour,
    styled,
    symmetric_limit,
    wrapped,
)

MOST_PANELS = 8


@styled
def draw_bias_history(
    history: pd.DataFrame,
    *,
    view: str = FROM_TOKEN,
    epochs: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """Small multiples of one unit's mixing weights over epochs, on one scale.

    `history`: the rows of one unit and seed of `bias_history`. Over time (one dy and dx): a panel
    an epoch, with a line a group or, above eight groups, a heatmap whose groups are sorted by the
    last epoch's peaks. Over space (one dt): a column an epoch, a row a group.
    `view`: as `draw_temporal_bias` and `draw_spatial_bias` take it.
    `epochs`: eight evenly over all by default; the title compares the last with the first.
    `groups`: all by default, and over space the eight whose last weights are largest in root mean
    square. Colours are clipped at the 99th percentile of |weight| over what is drawn. `ax`: in
    whose place to draw. Returns the Axes, (1, epochs) or (groups, epochs). Raises ValueError for
    rows of several units, seeds or places, for epochs or groups not there, and another view.
    """
    over_time, what = _check(history)
    at = _chosen(history, "epoch", epochs)
    if epochs is None and len(at) > MOST_PANELS:
        at = [at[i] for i in np.linspace(0, len(at) - 1, MOST_PANELS).round().astype(int)]
    drawn = history[history["epoch"].isin(at)]
    of = _chosen(history, "group", groups)
    if groups is None and not over_time:
        of = _largest(drawn)
    drawn = drawn[drawn["group"].isin(of)]
    axes = (_time_panels if over_time else _space_panels)(seen(drawn, view), view, at, of, ax)
    figure = axes[0, 0].figure
    some = "" if len(of) == history["group"].nunique() else f", {len(of)} of its groups"
    first, last = (drawn[drawn["epoch"] == epoch] for epoch in (at[0], at[-1]))
    finding = f": {growth(last, first, 'first shown')}" if len(at) > 1 else ""
    set_texts(figure, title or f"Mixing weights, {what}{some}{finding}{hidden(last)}")
    lay_out(figure)
    return axes


@styled
def draw_arrow_history(
    history: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """The share of what is odd in time, by stage, over epochs: when the arrow of time appears.

    `history`: rows of `bias_history(run, statistics=True)`. A solid line a stage for the tables
    over time and a dashed one for their token biases: sum(odd^2) / sum(odd^2 + even^2) over the
    stage's groups, blocks and seeds, in percent; 50 is what independent random weights have, and a
    line is missing where all weights are 0. Raises ValueError for no rows and a missing column.
    """
    parts = {"tables": ("temporal_even", "temporal_odd"),
             "token biases": ("token_bias_even", "token_bias_odd")}  # fmt: skip
    needed = ("epoch", "seed", "stage", *(name for pair in parts.values() for name in pair))
    check_rows(history, needed, "analysis.bias_history(run, statistics=True)")
    ax = ax or plt.subplots(figsize=(4.8, 2.8))[1]
    shares = {}
    for (what, (even, odd)), style in zip(parts.items(), ("-", "--"), strict=True):
        power = history[["stage", "epoch"]].assign(
            odd=history[odd] ** 2, all=history[odd] ** 2 + history[even] ** 2
        )
        sums = power.groupby(["stage", "epoch"])[["odd", "all"]].sum().query("all > 0")
        for stage, rows in (100 * sums["odd"] / sums["all"]).groupby("stage"):
            at = rows.droplevel("stage")
            ax.plot(at.index, at, style, marker="o", color=colour(int(stage) - 1),
                    label=f"stage {stage}" if what == "tables" else None)  # fmt: skip
            shares[what, stage] = at
    ax.axhline(50, color="0.6", linewidth=0.7, zorder=0)
    ax.set_ylim(-3, 103)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.set_xlabel("epoch (0: before training)\nsolid: tables over time, dashed: token biases")
    ax.set_ylabel("odd in time (% of squares)")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    tables = {stage: at.iloc[-1] for (what, stage), at in shares.items() if what == "tables"}
    found = "No stage has weights over time"
    if tables:
        most = max(tables, key=lambda stage: tables[stage])
        found = f"Most odd in time at the end: stage {most}, {tables[most]:.0f}% of its squares"
    ax.set_title(wrapped(title or found, 4.0))
    return ax


def save_bias_animation(
    history: pd.DataFrame,
    path: str | Path,
    *,
    view: str = FROM_TOKEN,
    groups: Sequence[int] | None = None,
    frames_per_s: float = 2.0,
) -> Path:
    """Write one unit's mixing weights as an animation, a picture an epoch, on one scale.

    `history`, `view` and `groups` are what `draw_bias_history` takes; every epoch and by default
    every group is shown. `.png` or `.apng` makes an animated PNG, `.mp4` an H.264 video. Returns
    the path. Raises ValueError as `draw_bias_history` does, and for another suffix.
    """
    path = animation_path(path)
    return write_animation(bias_pictures(history, groups, view), path, frames_per_s)


@styled
def bias_pictures(
    history: pd.DataFrame, groups: Sequence[int] | None = None, view: str = FROM_TOKEN
) -> list[NDArray[np.uint8]]:
    """The pictures of `save_bias_animation`, one an epoch, (height, width, 3) RGB."""
    over_time, what = _check(history)
    of = _chosen(history, "group", groups)
    drawn = seen(history[history["group"].isin(of)], view)
    pictures = []
    for epoch in _chosen(history, "epoch", None):
        if over_time:
            figure = _time_panels(drawn, view, [epoch], of)[0, 0].figure
        else:
            figure = _one_epoch_in_space(drawn, view, epoch, of)
        figure.suptitle(what, x=0.01, ha="left", fontsize=10, fontweight="bold")
        pictures.append(raster(figure))
        plt.close(figure)
    return pictures


def _check(history: pd.DataFrame) -> tuple[bool, str]:
    """Whether the rows run over time rather than space, and in words what they are of."""
    check_rows(history, ("epoch", "seed", "dt", "dy"), "analysis.bias_history(run)")
    over_time = history["dy"].nunique() == 1 and history["dt"].nunique() > 1
    what = check_one_unit(history, ["epoch", "group", *(["dt"] if over_time else ["dy", "dx"])])
    seeds = history["seed"].unique().tolist()
    if len(seeds) > 1:
        raise ValueError(f"rows of seeds {seeds}; choose one, for example with query('seed == 0')")
    return over_time, f"{what}, seed {seeds[0]}"


def _chosen(history: pd.DataFrame, column: str, asked: Sequence[int] | None) -> list[int]:
    present = sorted(history[column].unique().tolist())
    chosen = present if asked is None else list(asked)
    if not chosen or not set(chosen) <= set(present):
        raise ValueError(f"{column}s={chosen} must be some of {present}")
    return chosen


def _largest(drawn: pd.DataFrame) -> list[int]:
    """The groups of largest root mean square at the last epoch, in order of group."""
    last = drawn[drawn["epoch"] == drawn["epoch"].max()]
    power = last["bias"].pow(2).groupby(last["group"]).mean()
    return sorted(power.nlargest(MOST_PANELS).index.tolist())


def _time_panels(
    drawn: pd.DataFrame,
    view: str,
    epochs: list[int],
    groups: list[int],
    place: Axes | None = None,
) -> NDArray[Any]:
    """A panel an epoch of mixing weight over time; `drawn`, as `seen`, sets the scale."""
    figure = place_of(place, (1.5 * len(epochs) + 2, 2.6))
    axes = figure.subplots(1, len(epochs), sharey=True, squeeze=False)
    heatmap = len(groups) > MOST_LINES
    limit = symmetric_limit(drawn["bias"].to_numpy())
    order = by_peak(drawn[drawn["epoch"] == drawn["epoch"].max()], BY_OFFSET) if heatmap else groups
    for ax, epoch in zip(axes[0], epochs, strict=True):
        rows = drawn[drawn["epoch"] == epoch]
        table = rows.pivot(index="group", columns="dt", values="bias").loc[order]
        if heatmap:
            image = _heat(ax, table, limit)
        else:
            _lines(ax, table)
        ax.axvline(0, color="0.5", linewidth=0.7, zorder=3 if heatmap else 0)
        ax.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
        ax.set_title(f"epoch {epoch}", fontsize=8, fontweight="normal")
    if heatmap:
        add_colour_bar(image, list(axes[0]), drawn["bias"], limit)
        axes[0, 0].set_ylabel("group, by place of its last peak")
    else:
        margin = 0.05 * drawn["bias"].abs().max() or 1.0
        axes[0, 0].set_ylim(drawn["bias"].min() - margin, drawn["bias"].max() + margin)
        axes[0, 0].set_ylabel("mixing weight")
        axes[0, -1].legend(title="group", loc="upper left", bbox_to_anchor=(1, 1))
    figure.supxlabel(LABELS[view][0], fontsize=8)
    return axes


def _lines(ax: Axes, table: pd.DataFrame) -> None:
    ax.axhline(0, color="0.5", linewidth=0.7, zorder=0)
    for group, row in table.iterrows():
        ax.plot(row.index, row, marker="o", markersize=2, label=str(group), color=colour(group))


def _heat(ax: Axes, table: pd.DataFrame, limit: float) -> Any:
    dt = table.columns
    extent = (dt[0] - 0.5, dt[-1] + 0.5, len(table) - 0.5, -0.5)
    ax.set_yticks(range(len(table)), table.index)
    ax.tick_params(axis="y", labelsize=6)
    return ax.imshow(table, aspect="auto", vmin=-limit, vmax=limit, extent=extent)


def _space_panels(
    drawn: pd.DataFrame, view: str, epochs: list[int], groups: list[int], place: Axes | None
) -> NDArray[Any]:
    """A row a group and a column an epoch of maps over space."""
    figure = place_of(place, (1.1 * len(epochs) + 1.6, 1.1 * len(groups) + 1))
    axes = figure.subplots(len(groups), len(epochs), sharex=True, sharey=True, squeeze=False)
    limit = symmetric_limit(drawn["bias"].to_numpy())
    for column, epoch in zip(axes.T, epochs, strict=True):
        column[0].set_title(f"epoch {epoch}", fontsize=8, fontweight="normal")
        image = _maps(column, drawn[drawn["epoch"] == epoch], groups, limit)
    for ax, group in zip(axes[:, 0], groups, strict=True):
        ax.set_ylabel(f"group {group}", fontsize=8)
    add_colour_bar(image, axes.ravel().tolist(), drawn["bias"], limit)
    figure.supxlabel(f"{LABELS[view][2]}; {LABELS[view][1]}", fontsize=8)
    return axes


def _one_epoch_in_space(drawn: pd.DataFrame, view: str, epoch: int, groups: list[int]) -> Any:
    """A figure of one epoch's maps; `drawn`, as `seen`, sets the scale."""
    axes = panels(len(groups))
    limit = symmetric_limit(drawn["bias"].to_numpy())
    image = _maps(axes, drawn[drawn["epoch"] == epoch], groups, limit)
    for ax, group in zip(axes, groups, strict=True):
        ax.set_title(f"group {group}", fontsize=8, fontweight="normal")
    add_colour_bar(image, axes.tolist(), drawn["bias"], limit)
    axes[0].figure.supxlabel(f"epoch {epoch}; {LABELS[view][2]}", fontsize=8)
    return axes[0].figure


def _maps(axes: NDArray[Any], rows: pd.DataFrame, groups: list[int], limit: float) -> Any:
    """One map a group on the axes given; returns the last image."""
    for ax, group in zip(axes, groups, strict=True):
        table = rows[rows["group"] == group].pivot(index="dy", columns="dx", values="bias")
        image = draw_map(ax, table, limit)
    return image
