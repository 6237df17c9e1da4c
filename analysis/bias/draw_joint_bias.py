"""The figure of a joint (ST) unit's mixing weights: slices of dt, and how they fall off in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.bias.draw_bias import (
    FROM_TOKEN,
    LABELS,
    check_one_unit,
    check_weights,
    draw_map,
    growth,
    hidden,
    seen,
)
from analysis.figures.place import lay_out, place_of, set_texts
from analysis.figures.style import add_colour_bar, colour, styled, symmetric_limit

KEYS = ["group", "dt", "dy", "dx"]
MOST_ROWS = 8
MOST_SLICES = 15


@styled
def draw_joint_bias(
    maps: pd.DataFrame,
    *,
    view: str = FROM_TOKEN,
    control: pd.DataFrame | None = None,
    control_name: str = "control",
    groups: Sequence[int] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """A row a group and a column a frame of maps over space, and below them mean |weight| by frame.

    Each row ends with its x-t slice, at dy = 0: places across, frames downwards. A slanted stripe
    in it is a motion that the group answers to.

    `maps`: the rows of one ST unit of `bias_maps`. `view`: `from the token` earlier keys stand on
    the left and each where it is seen, `by offset` at query - key. `control`: those of the same
    unit at initialisation or with its offsets shuffled (`control_name` says which), drawn under
    each group's row on the same scale and dashed below. `groups`: by default those largest in root
    mean square, eight, or four beside a control. Of more than 15 slices evenly spread ones are
    shown, that of the same frame always, and the figure says so; the curve is of all. The column
    of the same frame is framed; colours are clipped at the 99th percentile of |weight| over all
    slices of these groups. `ax`: in whose place to draw. Returns the maps' Axes, (rows, columns),
    the last column the x-t slices. Raises ValueError for the rows of several units, a unit without
    a time or space axis, groups not there, weights that are not finite, another view, and a control
    of other groups or offsets.
    """
    what = check_one_unit(maps, KEYS)
    check_weights(maps, what)
    if min(maps["dt"].nunique(), maps["dy"].nunique()) < 2:
        raise ValueError(
            f"{what} has no joint map; use draw_temporal_bias or draw_spatial_bias, or the rows of "
            "an ST branch"
        )
    states = {"trained" if control is not None else "": maps}  # the first is the one asked about
    if control is not None:
        _check_control(maps, control, control_name)
        states[control_name] = control
    of = _groups(maps, groups, MOST_ROWS // len(states))
    slices = _slices(sorted(maps["dt"].unique().tolist()))
    kept = {state: seen(rows[rows["group"].isin(of)], view) for state, rows in states.items()}
    values = pd.concat(kept.values())["bias"]
    limit = symmetric_limit(values.to_numpy())

    size = (0.62 * (len(slices) + 1) + 2.0, 0.66 * len(of) * len(states) + 2.1)
    figure = place_of(ax, size)
    heights = [1.0] * (len(of) * len(states)) + [1.7]
    grid = figure.add_gridspec(len(heights), len(slices) + 1, height_ratios=heights)
    lines, columns = range(len(heights) - 1), range(len(slices) + 1)
    axes = np.array([[figure.add_subplot(grid[i, j]) for j in columns] for i in lines])
    image = _draw_slices(axes, kept, of, {dt: slice_name(dt, view) for dt in slices}, limit)
    margin = figure.add_subplot(grid[-1, :-1])
    _draw_margin(margin, kept, of, LABELS[view][0])
    add_colour_bar(image, [*axes.flat, margin], values, limit)
    finding = "" if control is None else f": {growth(maps, control, control_name)}"
    some = hidden(maps) + _what_is_left_out(maps, of, slices)
    set_texts(figure, title or f"Joint mixing weights, {what}{finding}{some}")
    lay_out(figure)
    return axes


def _check_control(maps: pd.DataFrame, control: pd.DataFrame, name: str) -> None:
    if name == "trained":
        raise ValueError(f"control_name={name!r} is what the other rows are called; use another")
    check_weights(control, f"the control, {check_one_unit(control, KEYS)},")
    ours, theirs = (pd.MultiIndex.from_frame(rows[KEYS]) for rows in (maps, control))
    unshared = ours.symmetric_difference(theirs)
    if len(unshared):
        where = dict(zip(KEYS, map(int, unshared[0]), strict=True))
        raise ValueError(
            f"{len(unshared)} places are in only one of maps and control, the first {where}; give "
            "the control's rows of the same unit and groups"
        )


def _groups(maps: pd.DataFrame, asked: Sequence[int] | None, most: int) -> list[int]:
    power = maps["bias"].pow(2).groupby(maps["group"]).mean()
    if asked is None:
        return sorted(power.nlargest(most).index.tolist())
    if not list(asked) or not set(asked) <= set(power.index):
        raise ValueError(f"groups={list(asked)} must be some of {sorted(power.index)}")
    return list(asked)


def _slices(dt: list[int]) -> list[int]:
    """At most MOST_SLICES of the dt, evenly spread about 0."""
    step = -(-len(dt) // MOST_SLICES)
    return [each for each in dt if each % step == 0]


def _what_is_left_out(maps: pd.DataFrame, groups: list[int], slices: list[int]) -> str:
    num_groups, num_dt = maps["group"].nunique(), maps["dt"].nunique()
    words = ""
    if len(groups) < num_groups:
        words += f"; {len(groups)} of {num_groups} groups"
    if len(slices) < num_dt:
        words += f"; {len(slices)} of {num_dt} slices"
    return words


def _draw_slices(
    axes: NDArray[Any],
    states: dict[str, pd.DataFrame],
    groups: list[int],
    slices: dict[int, str],
    limit: float,
) -> Any:
    rows = [(group, state) for group in groups for state in states]
    image: Any = None
    for line, (group, state) in zip(axes, rows, strict=True):
        maps = states[state]
        own = maps[maps["group"] == group]
        tables = [own[own["dt"] == dt].pivot(index="dy", columns="dx") for dt in slices]
        tables.append(own[own["dy"] == 0].pivot(index="dt", columns="dx"))
        for ax, dt, table in zip(line, [*slices, None], tables, strict=True):
            image = draw_map(ax, table["bias"], limit)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(visible=True, color="0.7", linewidth=0.5)
            if dt == 0:
                ax.spines[:].set(color="black", linewidth=1.6)
        line[-1].set_aspect("auto")
        label = f"group {group}" + (f"\n{state}" if state else "")
        line[0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    for ax, said in zip(axes[0], [*slices.values(), "x-t"], strict=True):
        ax.set_title(said, fontsize=7, fontweight="normal", loc="center")
    return image


def slice_name(dt: int, view: str) -> str:
    """What stands above a slice: `dt 2`, or from the token `2 before`, `2 after`."""
    if view != FROM_TOKEN:
        return f"dt {dt}"
    return f"{abs(dt)} {'before' if dt < 0 else 'after'}" if dt else "same"


def _draw_margin(ax: Axes, states: dict[str, pd.DataFrame], groups: list[int], across: str) -> None:
    """Mean |weight| over space by frame: a colour a group, dashed for the control."""
    for number, maps in enumerate(states.values()):
        sizes = maps.assign(size=maps["bias"].abs())
        table = sizes.pivot_table(index="dt", columns="group", values="size")
        for i, group in enumerate(groups):
            label = f"group {group}" if number == 0 else None
            style = ("-", "--")[number]
            ax.plot(table.index, table[group], style, color=colour(i), linewidth=1, label=label)
    for control in list(states)[1:]:
        ax.plot([], [], "--", color="0.4", linewidth=1, label=control)
    ax.axvline(0, color="0.6", linewidth=0.7, zorder=0)
    ax.set_ylim(bottom=0)
    ax.set_xlim(table.index.min() - 0.5, table.index.max() + 0.5)
    ax.set_xlabel(across)
    ax.set_ylabel("mean |weight|")
    figure: Any = ax.figure
    figure.legend(loc="outside lower center", ncols=len(groups) + 1, fontsize=7)
