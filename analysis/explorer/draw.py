"""The explorer's picture for paper, HTML exports and notebooks without a kernel."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis.explorer.units import ExplorerUnit
from analysis.figures.place import Place, lay_out, place_of, width_of
from analysis.figures.style import add_colour_bar, styled, wrapped

PANEL_INCHES = 4.4
MOST_INCHES = 1.9
INK = "#222222"
QUERY = "#009E73"


@styled
def draw_explorer(
    unit: ExplorerUnit,
    group: int,
    query: Sequence[int],
    names: Sequence[str],
    *,
    ax: Axes | None = None,
) -> Place:
    """One row of the relation and the table it is read from, a column a model, one colour scale.

    The row: the weights of all keys for `query` (t, y, x), marked, frame by frame. The table: the
    weights by offset query - key, slice by slice of dt, dt = 0 framed. Returns the figure, which
    the caller closes, or the part of a caller's figure that took the place of `ax`.
    """
    rows = [unit.row(m, group, query) for m in range(len(names))]
    tables = [table[group] for table in unit.tables]
    figure, axes = _panels(len(names), rows[0].shape, tables[0].shape, ax)
    for m, name in enumerate(names):
        above, below = axes[:, m]
        _draw_slices(above, rows[m], unit.limit, framed=query[0])
        first = -(len(tables[m]) // 2)
        image = _draw_slices(below, tables[m], unit.limit, framed=-first, first=first)
        _mark_query(above, unit, query)
        above.set_title(f"{name}: weights of all keys, by frame t", fontsize=8, pad=11)
        below.set_title("table by offset query - key, by dt", fontsize=8, pad=11)
    drawn = np.concatenate([array.ravel() for array in (*rows, *tables)])
    add_colour_bar(image, list(axes.flat), drawn, unit.limit)
    width = width_of(figure)
    place = f"stage {unit.place.stage}, block {unit.place.block}, {unit.label}, group {group}"
    token = ", ".join(map(str, query))
    title = wrapped(f"Mixing weights of {place}, query (t, y, x) = ({token})", width)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    notes = [f"{name}: {note}." for name, note in zip(names, unit.notes, strict=True) if note]
    figure.supxlabel(textwrap.fill(" ".join(notes), max(20, int(14 * width))), fontsize=8)
    lay_out(figure)
    return figure


def _panels(
    num_models: int, row_shape: tuple[int, ...], table_shape: tuple[int, ...], ax: Axes | None
) -> tuple[Place, NDArray[Any]]:
    """A figure as high as its two lines of panels need, and its axes (2, num_models)."""
    sides = [_sheet_sides(shape) for shape in (row_shape, table_shape)]
    inches = [min(MOST_INCHES, PANEL_INCHES * high / wide) + 0.5 for high, wide in sides]
    size = (PANEL_INCHES * num_models + 1, sum(inches) + 0.8)
    figure = place_of(ax, size)
    if isinstance(figure, Figure):
        figure.set_layout_engine("constrained", wspace=0.08)
    return figure, figure.subplots(2, num_models, squeeze=False, height_ratios=inches)


def _draw_slices(ax: Axes, values: NDArray[Any], limit: float, framed: int, first: int = 0) -> Any:
    """Maps (n, rows, columns) side by side, in lines; the slice number `framed` has a frame."""
    rows, columns = values.shape[1:]
    corners = _corners(values.shape)
    height, width = _sheet_sides(values.shape)
    sheet = np.full((height, width), np.nan)
    for i, (y, x) in enumerate(corners):
        sheet[y : y + rows, x : x + columns] = values[i]
        ax.text(x - 0.5, y - 0.6, str(i + first), va="bottom", fontsize=6)
    image = ax.imshow(sheet, vmin=-limit, vmax=limit)
    y, x = corners[framed]
    ax.add_patch(_box(x, y, columns, rows, INK, 1.2))
    ax.set_anchor("NW")
    ax.set_axis_off()
    return image


def _corners(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Upper left corner (y, x) of each slice, on a sheet some three times as wide as high."""
    count, rows, columns = shape
    gap = 1 + max(rows, columns) // 5
    per_line = count if rows == 1 else min(count, int(np.ceil(np.sqrt(3 * count))))
    line, place = np.divmod(np.arange(count), per_line)
    return np.stack([line * (rows + 2 * gap), place * (columns + gap)], axis=1)


def _sheet_sides(shape: tuple[int, ...]) -> tuple[int, int]:
    height, width = _corners(shape).max(axis=0) + np.array(shape[1:])
    return int(height), int(width)


def _mark_query(ax: Axes, unit: ExplorerUnit, query: Sequence[int]) -> None:
    t, y, x = query
    top, left = _corners(unit.window)[t]
    ax.add_patch(_box(left + x, top + y, 1, 1, QUERY, 2))


def _box(x: int, y: int, width: int, height: int, edge: str, thick: float) -> Rectangle:
    """The outline of some cells of an image."""
    corner = (x - 0.5, y - 0.5)
    box = Rectangle(corner, width, height, fill=False, edgecolor=edge, linewidth=thick)
    box.set_clip_on(False)
    return box
