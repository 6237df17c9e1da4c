"""Figures of mixing weights by offset: they take rows of `analysis.bias_maps`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.figures.place import lay_out, place_of, set_texts
from analysis.figures.style import (
    add_colour_bar,
    check_rows,
    colour,
    styled,
    symmetric_limit,
    wrapped,
)

MOST_LINES = 8
OFFSET = "query - key"


@styled
def draw_temporal_bias(
    maps: pd.DataFrame,
    *,
    order: Sequence[int] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Mixing weight against dt: a line a group, or above eight groups a dt x group heatmap.

    `maps`: the rows of one unit of `bias_maps`, of a T branch, or of an ST branch at one dy and
    dx. `order`: of the groups; by default that of `by_peak`. The heatmap clips colours at the 99th
    percentile of |weight|. Returns the Axes. Raises ValueError for the rows of several units or
    places, and for an order of other groups.
    """
    what = check_one_unit(maps, ["group", "dt"])
    check_weights(maps, what)
    table = maps.pivot(index="group", columns="dt", values="bias")
    if order is not None and sorted(order) != table.index.tolist():
        raise ValueError(f"order={list(order)} must hold each group of {table.index.tolist()} once")
    ax = ax or plt.subplots(figsize=(5.2, 3.2))[1]
    ax.axvline(0, color="0.6", linewidth=0.7, zorder=0)
    if len(table) <= MOST_LINES:
        ax.axhline(0, color="0.6", linewidth=0.7, zorder=0)
        for group, row in table.iterrows():
            ax.plot(row.index, row, marker="o", label=str(group), color=colour(group))
        ax.legend(title="group", loc="upper left", bbox_to_anchor=(1, 1))
        ax.set_ylabel("mixing weight")
    else:
        label = "group, by dt of its peak" if order is None else "group, in the order given"
        _draw_heatmap(table.loc[by_peak(maps) if order is None else order], ax, label)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.set_xlabel(f"dt = {OFFSET} (frames; right: key in the past)")
    ax.set_title(wrapped(title or f"Temporal mixing weights, {what}", 4.6))
    return ax


def by_peak(maps: pd.DataFrame) -> list[int]:
    """The groups of one unit by the dt of their largest |weight|."""
    sizes = maps.pivot(index="group", columns="dt", values="bias").abs()
    return sizes.idxmax(axis=1).sort_values(kind="stable").index.tolist()


def growth(after: pd.DataFrame, before: pd.DataFrame, name: str = "initial") -> str:
    """The size of some weights against others', for example `rms 0.13, 6.1 times the initial`."""
    now, then = (float(np.sqrt((maps["bias"] ** 2).mean())) for maps in (after, before))
    times = f", {now / then:.2g} times the {name}" if then else f", {name} 0"
    return f"rms {now:.2g}{times}"


def _draw_heatmap(table: pd.DataFrame, ax: Axes, label: str) -> None:
    dt = table.columns
    limit = symmetric_limit(table.to_numpy())
    image = ax.imshow(
        table,
        aspect="auto",
        vmin=-limit,
        vmax=limit,
        extent=(dt[0] - 0.5, dt[-1] + 0.5, len(table) - 0.5, -0.5),
    )
    ax.axvline(0, color="0.3", linewidth=0.7)
    step = -(-len(table) // 16)
    ax.set_yticks(range(0, len(table), step), table.index[::step])
    ax.set_ylabel(label + ("" if step == 1 else f" (every {step}th named)"))
    add_colour_bar(image, ax, table.to_numpy(), limit)


@styled
def draw_spatial_bias(
    maps: pd.DataFrame,
    *,
    groups: Sequence[int] | None = None,
    axes: NDArray[Any] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """A map a group of mixing weight against (dy, dx), with one symmetric colour scale.

    `maps`: the rows of one unit of `bias_maps`, of an S branch, or of an ST branch at one dt.
    `groups`: which to draw, all by default; `axes`: as many Axes or more; `ax`: in whose place to
    draw. Rows run down as in the image; colours are clipped at the 99th percentile of |weight| over
    the maps drawn. Returns the array of Axes, one a group. Raises ValueError for the rows of
    several units or dt, a group that is not there, too few axes, and axes and ax at once.
    """
    what = check_one_unit(maps, ["group", "dy", "dx"])
    check_weights(maps, what)
    present = sorted(maps["group"].unique().tolist())
    chosen = present if groups is None else list(groups)
    if not chosen or not set(chosen) <= set(present):
        raise ValueError(f"groups={chosen} must be some of {present}")
    if axes is not None and ax is not None:
        raise ValueError("axes and ax are both given; give axes, one a group, or ax for all")
    given = panels(len(chosen), ax) if axes is None else np.asarray(axes).ravel()
    if len(given) < len(chosen):
        raise ValueError(f"{len(given)} axes cannot hold {len(chosen)} groups; give one a group")
    drawn = given[: len(chosen)]
    limit = symmetric_limit(maps.loc[maps["group"].isin(chosen), "bias"].to_numpy())
    for panel, group in zip(drawn, chosen, strict=True):
        table = maps[maps["group"] == group].pivot(index="dy", columns="dx", values="bias")
        image = draw_map(panel, table, limit)
        panel.set_title(f"group {group}", fontsize=8, fontweight="normal")
        if axes is not None:
            panel.set(xlabel="dx", ylabel="dy")
    add_colour_bar(image, list(drawn), maps.loc[maps["group"].isin(chosen), "bias"], limit)
    figure = drawn[0].figure
    if axes is None:
        figure.supxlabel(f"dx = {OFFSET} (tokens; right: key to the left)", fontsize=8)
        figure.supylabel("dy (down: key above)", fontsize=8)
    if title or axes is None:
        set_texts(figure, title or f"Spatial mixing weights, {what}")
    if axes is None:
        lay_out(figure)
    return drawn


def panels(count: int, ax: Axes | None = None) -> NDArray[Any]:
    """Axes of a new figure or in the place of `ax`, in reading order, no more than are needed."""
    num_columns = min(8, int(np.ceil(np.sqrt(1.6 * count))))
    num_rows = -(-count // num_columns)
    size = (max(3.6, 1.25 * num_columns + 0.9), 1.2 * num_rows + 0.8)
    figure = place_of(ax, size)
    axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    for spare in axes.flat[count:]:
        figure.delaxes(spare)
    for lowest in axes.flat[count - num_columns : count]:  # of their columns
        lowest.xaxis.set_tick_params(labelbottom=True)
    return axes.ravel()[:count]


def draw_map(ax: Axes, table: pd.DataFrame, limit: float) -> Any:
    """One dy x dx table in offset coordinates, with a cross-hair at (0, 0); returns the image."""
    dy, dx = table.index, table.columns
    image = ax.imshow(
        table,
        vmin=-limit,
        vmax=limit,
        extent=(dx[0] - 0.5, dx[-1] + 0.5, dy[-1] + 0.5, dy[0] - 0.5),
    )
    ax.axhline(0, color="0.3", linewidth=0.5)
    ax.axvline(0, color="0.3", linewidth=0.5)
    ax.set_xticks([dx[0], 0, dx[-1]])
    ax.set_yticks([dy[0], 0, dy[-1]])
    return image


def check_weights(maps: pd.DataFrame, what: str) -> None:
    """Raise ValueError for weights of which there is no picture; `what` is the unit in words."""
    finite = np.isfinite(pd.to_numeric(maps["bias"], errors="coerce"))
    if not finite.all():
        raise ValueError(
            f"{(~finite).sum()} of the {len(maps)} weights of {what} are not finite, the first "
            f"{maps.loc[~finite, 'bias'].iloc[0]}; use a model from before the training diverged"
        )


def check_one_unit(maps: pd.DataFrame, keys: list[str]) -> str:
    """The unit whose rows these are, in words, or ValueError if they are not one value a key."""
    places = [column for column in ("stage", "block", "step", "branch") if column in maps.columns]
    check_rows(maps, [*keys, "bias"], "analysis.bias_maps(model)")
    found = maps[places].drop_duplicates()
    if len(found) > 1:
        raise ValueError(
            f"rows of {len(found)} units, the first {found.iloc[0].to_dict()}; choose one, for "
            "example maps.query(\"stage == 1 and block == 1 and branch == 'S'\")"
        )
    if maps.duplicated(keys).any():
        rest = [
            axis for axis in ("dt", "dy", "dx") if axis not in keys and maps[axis].nunique() > 1
        ]
        raise ValueError(
            f"more than one row for the same {', '.join(keys)}; fix {' and '.join(rest)}, for "
            f"example maps.query('{' and '.join(f'{axis} == 0' for axis in rest)}')"
        )
    shown = [name for name in places if name != "step" or maps["step"].iloc[0] > 1]
    return ", ".join(f"{name} {found.iloc[0][name]}".removeprefix("branch ") for name in shown)
