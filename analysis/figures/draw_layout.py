"""The wiring of a block as a diagram: what a layout string says."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from analysis.figures.style import colour, styled
from posmlp.config_checks import BRANCHES, parse_layout

STEP = 2.6  # from one sum to the next, in the diagram's units
ROW = 0.95  # from the residual line to a branch, and from branch to branch
HALF_BOX = (0.42, 0.28)
SUM_RADIUS = 0.2
LETTER_SIZE = 0.42
INCHES_A_UNIT = 0.5
INK = "0.25"


@styled
def draw_layout(layout: str, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """The residual steps of one block from left to right: branches in parallel stand side by side.

    The line below is the residual: what enters a step is added, at its circle, to what the step's
    branches return. A branch has the same colour in every figure. Raises ValueError for a string
    that is no layout.
    """
    steps = parse_layout(layout)
    right, top = STEP * len(steps) + 0.6, ROW * max(map(len, steps)) + 0.5
    if ax is None:
        size = (INCHES_A_UNIT * (right + 0.9), INCHES_A_UNIT * (top + 0.6) + 0.35)
        ax = plt.subplots(figsize=size)[1]
    ax.annotate(
        "", (right, 0), (-0.5, 0), arrowprops={"arrowstyle": "->", "color": INK, "shrinkA": 0}
    )
    for i, branches in enumerate(steps):
        _draw_step(ax, i * STEP, branches)
    ax.set(xlim=(-0.6, right + 0.1), ylim=(-0.45, top))
    ax.set_aspect("equal")
    ax.set_anchor("W")
    ax.set_axis_off()
    ax.set_title(title if title is not None else layout)
    return ax


def _draw_step(ax: Axes, left: float, branches: tuple[str, ...]) -> None:
    """The branches of one step above the residual line, joined to it at `left` and at its sum."""
    middle, right = left + STEP / 2 - 0.1, left + STEP - 0.45
    top = ROW * len(branches)
    for x in (left, right):
        ax.plot([x, x], [0, top], color=INK, linewidth=1.1, zorder=1)
    for row, branch in enumerate(branches, start=1):
        height, hue = row * ROW, colour(BRANCHES.index(branch))
        ax.plot([left, right], [height, height], color=INK, linewidth=1.1, zorder=1)
        width, high = HALF_BOX
        corner = (middle - width, height - high)
        box = FancyBboxPatch(
            corner, 2 * width, 2 * high, boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=hue, edgecolor="white", zorder=3,
        )  # fmt: skip
        ax.add_patch(box)
        ax.add_patch(_word(branch, middle, height))
    ax.plot(left, 0, "o", color=INK, markersize=3, zorder=4)
    ax.add_patch(Circle((right, 0), SUM_RADIUS, facecolor="white", edgecolor=INK, zorder=3))
    arm = 0.55 * SUM_RADIUS
    ax.plot([right - arm, right + arm], [0, 0], color=INK, linewidth=0.9, zorder=4)
    ax.plot([right, right], [-arm, arm], color=INK, linewidth=0.9, zorder=4)


def _word(branch: str, x: float, y: float) -> PathPatch:
    """A branch's name as an outline, so that it grows and shrinks with its box."""
    path = TextPath((0, 0), branch, size=LETTER_SIZE, prop=FontProperties(weight="bold"))
    box = path.get_extents()
    centred = Affine2D().translate(x - (box.x0 + box.x1) / 2, y - (box.y0 + box.y1) / 2)
    return PathPatch(
        path.transformed(centred), facecolor="white", linewidth=0, zorder=4, label=branch
    )
