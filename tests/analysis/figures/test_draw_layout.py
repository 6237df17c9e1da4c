"""Wiring diagrams say what the layout string says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch

from analysis import draw_layout
from posmlp.config_checks import parse_layout

LAYOUTS = ("T+S", "T>S", "S>T", "ST", "ST+S", "T", "S", "T+S>ST", "T>S>T")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def boxes(ax: Axes) -> list[tuple[float, float, str, Any]]:
    """Each branch's place, name and colour, from left to right and upwards."""
    drawn = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    words = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    found = []
    for box, word in zip(drawn, words, strict=True):
        extent = box.get_path().get_extents()
        place = ((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2)
        assert extent.contains(*word.get_path().get_extents().min)
        assert extent.contains(*word.get_path().get_extents().max)
        found.append((*place, str(word.get_label()), box.get_facecolor()))
    return sorted(found, key=lambda each: each[:2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_diagram_has_a_sum_a_step_and_its_branches_in_order(layout: str) -> None:
    ax = draw_layout(layout)
    steps = parse_layout(layout)
    sums = sorted(patch.center[0] for patch in ax.patches if isinstance(patch, Circle))
    assert len(sums) == len(steps)
    found = boxes(ax)
    drawn = tuple(
        tuple(name for x, _, name, _ in found if low < x < high)
        for low, high in zip([-1.0, *sums], sums, strict=False)
    )
    assert drawn == steps


def test_parallel_branches_stand_above_each_other_and_sequential_ones_beside() -> None:
    (x1, y1, *_), (x2, y2, *_) = boxes(draw_layout("T+S"))
    assert x1 == x2
    assert y1 < y2
    (x1, y1, *_), (x2, y2, *_) = boxes(draw_layout("T>S"))
    assert x1 < x2
    assert y1 == y2


def test_a_branch_has_one_colour_in_all_layouts() -> None:
    colours: dict[str, set[Any]] = {}
    for layout in LAYOUTS:
        for _, _, name, hue in boxes(draw_layout(layout)):
            colours.setdefault(name, set()).add(hue)
    assert {len(hues) for hues in colours.values()} == {1}
    assert len(set().union(*colours.values())) == 3


def test_drawing_stays_inside_its_limits() -> None:
    for layout in LAYOUTS:
        ax = draw_layout(layout)
        (low, high), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        for patch in ax.patches:
            box = patch.get_extents().transformed(ax.transData.inverted())
            if isinstance(patch, FancyBboxPatch | Circle):
                assert low < box.x0 < box.x1 < high
                assert bottom < box.y0 < box.y1 < top


def test_no_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="branches are T"):
        draw_layout("T*S")


def test_it_draws_on_given_axes_with_a_given_title() -> None:
    given = plt.subplots()[1]
    assert draw_layout("T>S", ax=given, title="") is given
    assert given.get_title(loc="left") == ""
