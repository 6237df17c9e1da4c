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

from analysis.bias.draw_bias import BY_OFFSET, FROM_TOKEN, VIEWS
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
    view: str = FROM_TOKEN,
    ax: Axes | None = None,
) -> Place:
    """One row of the relation and the table it is read from, a column a model, one colour scale.

    The row: the weights of all keys for `query` (t, y, x), marked, frame by frame. The table: the
    weights by where the key stands `from the token`, or `by offset` query - key; slice by slice of
    time, that of the same frame framed, and dashed what the row reads. Returns the figure, which
    the caller closes, or the part of a caller's figure that took the place of `ax`. Raises
    ValueError for another view.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view!r} must be one of {', '.join(map(repr, VIEWS))}")
    rows = [unit.row(m, group, query) for m in range(len(names))]
    tables = [table[group] for table in unit.tables]
    if view == FROM_TOKEN:
        tables = [table[::-1, ::-1, ::-1] for table in tables]
    figure, axes = _panels(len(names), rows[0].shape, tables[0].shape, ax)
    for m, name in enumerate(names):
        above, below = axes[:, m]
        _draw_slices(above, rows[m], unit.limit, framed=query[0])
        image = _draw_slices(below, tables[m], unit.limit, is_table=True)
        _mark_query(above, unit, query)
        _mark_read(below, unit, query, tables[m].shape, view)
        in_time = unit.window[0] > 1
        by_frame = ", by frame" if in_time else ""
        above.set_title(f"{name}: weights of all keys{by_frame}", fontsize=8, pad=11)
        below.set_title(_table_in_words(view, in_time), fontsize=8, pad=11)
    drawn = np.concatenate([array.ravel() for array in (*rows, *tables)])
    add_colour_bar(image, list(axes.flat), drawn, unit.limit)
    width = width_of(figure)
    place = f"stage {unit.place.stage}, block {unit.place.block}, {unit.label}, group {group}"
    sides = zip("tyx", query, unit.window, strict=True)
    token = ", ".join(f"{axis} {n}" for axis, n, side in sides if side > 1) or "of one token"
    title = wrapped(f"Mixing weights of {place}, query {token}", width)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    notes = [f"{name}: {note}." for name, note in zip(names, unit.notes, strict=True) if note]
    notes.append("Green: the query. Dashed: what its row reads of the table.")
    figure.supxlabel(textwrap.fill(" ".join(notes), max(20, int(14 * width))), fontsize=8)
    lay_out(figure)
    return figure


def _table_in_words(view: str, in_time: bool) -> str:
    """As `title` in explorer.js."""
    if view == BY_OFFSET:
        return f"table by offset{', by dt' if in_time else ''} = query - key"
    return f"table from the token{': frames before (-), after (+)' if in_time else ''}"


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


def _draw_slices(
    ax: Axes, values: NDArray[Any], limit: float, *, framed: int = 0, is_table: bool = False
) -> Any:
    """Maps (n, rows, columns) side by side, in lines, numbered; one slice has a frame.

    That is number `framed`, or of a table its middle; a table's numbers count from there.
    """
    rows, columns = values.shape[1:]
    first = -(len(values) // 2) if is_table else 0
    framed = -first if is_table else framed
    corners = _corners(values.shape)
    height, width = _sheet_sides(values.shape)
    sheet = np.full((height, width), np.nan)
    for i, (y, x) in enumerate(corners):
        sheet[y : y + rows, x : x + columns] = values[i]
        number = f"{i + first:+d}" if i + first > 0 and is_table else str(i + first)
        if len(corners) > 1:
            ax.text(x - 0.5, y - 0.6, number, va="bottom", fontsize=6)
    image = ax.imshow(sheet, vmin=-limit, vmax=limit)
    for side, at in ((rows, "y"), (columns, "x")):
        zero = side // 2 if is_table else 0
        for n in dict.fromkeys([0, zero, side - 1] if side > 1 else []):
            place = {"x": (n, rows - 0.4), "y": (-0.7, n)}[at]
            align: Any = {"x": ("center", "top"), "y": ("right", "center")}[at]
            ax.text(*place, str(n - zero), ha=align[0], va=align[1], fontsize=6)
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


def _mark_read(
    ax: Axes, unit: ExplorerUnit, query: Sequence[int], shape: tuple[int, ...], view: str
) -> None:
    """Dashed outlines of what a query's row reads: in each slice a window."""
    where = [
        side - 1 - q if view == FROM_TOKEN else q
        for q, side in zip(query, unit.window, strict=True)
    ]
    frames, rows, columns = unit.window
    for y, x in _corners(shape)[where[0] : where[0] + frames]:
        box = _box(x + where[2], y + where[1], columns, rows, INK, 0.8)
        box.set_linestyle((0, (3, 2)))
        ax.add_patch(box)


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
