"""Where several panels are drawn: on a figure of their own, or in the place of a caller's axes."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import GridSpec, SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox

from analysis.figures.style import wrapped

Place = Figure | SubFigure
"""It has panels, a title, captions, a legend and colour bars of its own."""

THINNEST = 1e-4  # of the figure: what is left beside axes that reach its edge


def place_of(ax: Axes | None, size: tuple[float, float]) -> Place:
    """A new figure of `size` in inches, or the part of a caller's figure where `ax` stands.

    `ax` is hidden; nothing else of its figure is touched. Call `lay_out` once all is drawn. Raises
    ValueError for axes that were removed or are hidden, and for axes outside the grid of a figure
    in constrained layout, which would not keep their place.
    """
    if ax is None:
        return plt.figure(figsize=size)
    figure = ax.get_figure()
    if figure is None or not ax.get_visible():
        raise ValueError(
            "ax is hidden or was removed, as are axes whose place holds panels; give other axes, "
            "for example of plt.subplots()"
        )
    cell = ax.get_subplotspec()
    if not _is_constrained(figure):
        cell = _cell_at(figure, _box_of(ax))
    elif cell is None:
        raise ValueError(
            "ax stands outside the grid of a figure in constrained layout; give axes of "
            "plt.subplots(), or a figure without that layout"
        )
    ax.set_visible(False)
    ax.set_in_layout(False)
    return figure.add_subfigure(cell)


def lay_out(place: Place, *, now: bool = False) -> None:
    """Let what is drawn find its room in a caller's figure.

    A figure in constrained layout does so when it is drawn (`now`: at once, for what is placed by
    where other things come to lie). In any other, the place alone is laid out, here and once, and
    its panels then stay where they are, since tight_layout and subplots_adjust know no places.
    """
    root = place.get_figure(root=True)
    assert isinstance(root, Figure)
    if _is_constrained(root):
        if now:
            root.draw_without_rendering()
        return
    ours = set(place.findobj())
    others = [each for each in root.findobj(_takes_room) if each not in ours]
    for each in others:
        each.set_in_layout(False)
    try:
        ConstrainedLayoutEngine(hspace=0, wspace=0).execute(root)
    finally:
        for each in others:
            each.set_in_layout(True)
    for panel in place.axes:
        if panel.get_axes_locator() is None:  # a colour bar has one
            panel.set_axes_locator(_Fixed(panel.get_position(original=True)))


def width_of(place: Place) -> float:
    """In inches."""
    return place.get_figwidth() if isinstance(place, Figure) else place.bbox.width / place.dpi


def set_texts(place: Place, title: str, caption: str = "") -> None:
    """A bold title above and a caption below, both broken to the place's width."""
    width = width_of(place)
    place.suptitle(wrapped(title, width), x=0.01, ha="left", fontsize=10, fontweight="bold")
    if caption:
        text = textwrap.fill(caption, max(20, int(14 * width)))
        place.supxlabel(text, x=0.01, ha="left", fontsize=8)


class _Fixed:
    """Where axes stand, as shares of their figure."""

    def __init__(self, box: Bbox) -> None:
        self.box = box.frozen()

    def __call__(self, ax: Any, renderer: Any) -> Bbox:
        return self.box


def _is_constrained(figure: Place) -> bool:
    return isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)


def _takes_room(artist: Artist) -> bool:
    """Axes, and titles and legends of figures, that are in the layout."""
    return artist.get_in_layout() and (isinstance(artist, Axes) or artist.axes is None)


def _box_of(ax: Axes) -> Bbox:
    """Where axes are, as shares of their figure; inset axes once their parent is in place."""
    locator = ax.get_axes_locator()
    if locator is None:
        return ax.get_position(original=True)
    ax.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    return locator(ax, None)  # type: ignore[arg-type]


def _cell_at(figure: Place, box: Bbox) -> SubplotSpec:
    """The middle of a grid of three by three that has its middle there."""
    sides = [
        [max(side, THINNEST) for side in (low, high - low, 1 - high)]
        for low, high in ((box.x0, box.x1), (1 - box.y1, 1 - box.y0))
    ]
    grid = GridSpec(3, 3, width_ratios=sides[0], height_ratios=sides[1], figure=figure)  # type: ignore[arg-type]
    return grid[1, 1]
