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
FROM_TOKEN, BY_OFFSET = VIEWS = ("from the token", "by offset")
OFFSETS = ["dt", "dy", "dx"]
LABELS = {  # of t, y and x
    FROM_TOKEN: (
        "key before (-) or after (+) the token (frames)",
        "above (-), below (+)",
        "key left (-) or right (+) of the token (tokens)",
    ),
    BY_OFFSET: (
        "dt = query - key (frames; right: key in the past)",
        "dy (down: key above)",
        "dx = query - key (tokens; right: key to the left)",
    ),
}
SHORT = {
    FROM_TOKEN: {"xlabel": "right", "ylabel": "below"},
    BY_OFFSET: {"xlabel": "dx", "ylabel": "dy"},
}


def seen(maps: pd.DataFrame, view: str) -> pd.DataFrame:
    """The rows with dt, dy and dx as a figure's places: `from the token` they are key - query.

    Earlier keys then stand on the left, and keys above or to the left where a reader looks for
    them. `by offset` they stay query - key. Raises ValueError for another view.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view!r} must be one of {', '.join(map(repr, VIEWS))}")
    own = [axis for axis in OFFSETS if axis in maps]
    return maps if view == BY_OFFSET else maps.assign(**{axis: -maps[axis] for axis in own})


@styled
def draw_temporal_bias(
    maps: pd.DataFrame,
    *,
    view: str = FROM_TOKEN,
    order: Sequence[int] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Mixing weight over time: a line a group, or above eight groups a heatmap, a row a group.

    `maps`: the rows of one unit of `bias_maps`, of a T branch, or of an ST branch at one dy and
    dx. `view`: `from the token` puts earlier keys on the left, `by offset` draws against dt =
    query - key. `order`: of the groups; by default that of `by_peak`. The heatmap clips colours at
    the 99th percentile of |weight|. Returns the Axes. Raises ValueError for the rows of several
    units or places, an order of other groups, and another view.
    """
    what = check_one_unit(maps, ["group", "dt"])
    check_weights(maps, what)
    table = seen(maps, view).pivot(index="group", columns="dt", values="bias")
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
        label = f"group, by place of its {'' if order is None else 'trained '}peak"
        _draw_heatmap(table.loc[by_peak(maps, view) if order is None else order], ax, label)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.set_xlabel(LABELS[view][0])
    ax.set_title(wrapped(title or f"Temporal mixing weights, {what}{hidden(maps)}", 4.6))
    return ax


def by_peak(maps: pd.DataFrame, view: str = FROM_TOKEN) -> list[int]:
    """The groups of one unit by where their largest |weight| stands, from the left."""
    sizes = seen(maps, view).pivot(index="group", columns="dt", values="bias").abs()
    return sizes.idxmax(axis=1).sort_values(kind="stable").index.tolist()


def growth(after: pd.DataFrame, before: pd.DataFrame, name: str = "initial") -> str:
    """The size of some weights against others', for example `rms 0.13, 6.1 times the initial`.

    The root mean square is of the relation, over all pairs of tokens, and not of its map: one
    offset counts as often as pairs have it, and what a mean over them hides counts as well.
    """
    now, then = (_root_mean_square(maps) for maps in (after, before))
    times = f", {now / then:.2g} times the {name}" if then else f", {name} 0"
    return f"rms {now:.2g}{times}"


def _root_mean_square(maps: pd.DataFrame) -> float:
    """Of the relation that the rows are a map of: sqrt(mean of squares over pairs of tokens)."""
    power = maps["bias"] ** 2 + maps.get("bias_std", pd.Series(0.0, maps.index)) ** 2
    return float(np.sqrt(np.average(power, weights=_pairs(maps))))


def _pairs(maps: pd.DataFrame) -> NDArray[np.int64]:
    """How many pairs of tokens have each row's offset; an axis at one offset alone counts once."""
    count = np.ones(len(maps), dtype=np.int64)
    for axis in [axis for axis in OFFSETS if axis in maps]:
        away = maps[axis].abs()
        count *= (away.max() + 1 - away).to_numpy()
    return count


def hidden(maps: pd.DataFrame) -> str:
    """What a map of a relation that is not tied by offset hides, for a title; else nothing."""
    if "bias_std" not in maps or not maps["bias_std"].max() > 0:
        return ""
    spread = np.sqrt(np.average(maps["bias_std"] ** 2, weights=_pairs(maps)))
    return (
        f"; not tied by offset: means over pairs, which hide a standard deviation of {spread:.2g}"
    )


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
    view: str = FROM_TOKEN,
    groups: Sequence[int] | None = None,
    axes: NDArray[Any] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """A map a group of mixing weight over space, with one symmetric colour scale.

    `maps`: the rows of one unit of `bias_maps`, of an S branch, or of an ST branch at one dt.
    `view`: `from the token` the key stands where it is seen, `by offset` at (dy, dx) = query - key.
    `groups`: which to draw, all by default; `axes`: as many Axes or more; `ax`: in whose place to
    draw. Rows run down as in the image; colours are clipped at the 99th percentile of |weight| over
    the maps drawn. Returns the array of Axes, one a group. Raises ValueError for the rows of
    several units or dt, a group that is not there, too few axes, axes and ax at once, and another
    view.
    """
    what = check_one_unit(maps, ["group", "dy", "dx"])
    check_weights(maps, what)
    words, maps = hidden(maps), seen(maps, view)
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
            panel.set(**SHORT[view])
    add_colour_bar(image, list(drawn), maps.loc[maps["group"].isin(chosen), "bias"], limit)
    figure = drawn[0].figure
    if axes is None:
        figure.supxlabel(LABELS[view][2], fontsize=8)
        figure.supylabel(LABELS[view][1], fontsize=8)
    if title or axes is None:
        set_texts(figure, title or f"Spatial mixing weights, {what}{words}")
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
    """One table over space in the coordinates of its index, with a cross-hair at 0; the image."""
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
        if not rest:
            raise ValueError(
                f"more than one row for the same {', '.join(keys)}; give the rows of one model"
            )
        raise ValueError(
            f"more than one row for the same {', '.join(keys)}; fix {' and '.join(rest)}, for "
            f"example maps.query('{' and '.join(f'{axis} == 0' for axis in rest)}')"
        )
    shown = [name for name in places if name != "step" or maps["step"].iloc[0] > 1]
    return ", ".join(f"{name} {found.iloc[0][name]}".removeprefix("branch ") for name in shown)
