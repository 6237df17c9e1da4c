"""Every draw_* on the axes of a caller's figure: it keeps to their place and leaves the rest."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch

import analysis
from analysis import BiasExplorer, draw_layout
from analysis.attribution.attribution import Attribution
from posmlp import create_model
from posmlp.config_checks import parse_layout
from tests.analysis.bias.test_bias_maps import SMALL
from tests.analysis.interventions.test_interventions import effects_table
from tests.analysis.test_draw import PAIRS, RUNS, unit_maps

pytestmark = pytest.mark.usefixtures("plain_figures")


def _attribution() -> tuple[Attribution, np.ndarray[Any, Any]]:
    values = torch.linspace(-1, 1, 2 * 8 * 8).reshape(1, 2, 8, 8)
    maps = Attribution(values, "occlusion", torch.tensor([0]), torch.tensor([1.0]), True, {})
    return maps, np.zeros((1, 2, 8, 8, 3), np.uint8)


def _explorer() -> tuple[Any, ...]:
    explorer = BiasExplorer(create_model(SMALL))
    return explorer.unit, explorer.group, explorer.query, explorer.names


def _curves() -> pd.DataFrame:
    rows = [{"epoch": e, "seed": s, "top1": e / 4} for e in (1, 2) for s in (0, 1)]
    return pd.DataFrame(rows).assign(variant="a")


def _peers() -> pd.DataFrame:
    row = {"params": 1e6, "latency_ms": 3.0, "latency_q1_ms": 2.9, "latency_q3_ms": 3.2}
    row |= {"clips_per_s": 9.0, "published_top1": 70.0, "mode": "eager", "device": "cpu"}
    row |= {"num_threads": 1, "torch": "2", "batch_size": 4}
    each = [{"model": name, "family": name, "gmacs": gmacs} for name, gmacs in (("a", 1), ("b", 9))]
    return pd.DataFrame([row | of for of in each])


def _scorecard() -> pd.DataFrame:
    row = {"better": "higher", "mean": 0.5, "low": 0.4, "high": 0.6, "uniform": 0.2, "n": 9}
    each = [(metric, model) for metric in ("mass", "hit") for model in ("a", "b")]
    return pd.DataFrame([row | {"metric": m, "model": of, "method": "occlusion"} for m, of in each])


def _step_times() -> pd.DataFrame:
    row = {"exponent": 1.0, "flops_per_byte": 4.0, "gflops_per_s": 10.0, "roofline_share": 0.5}
    row |= {"peak_gflops_per_s": 40.0, "peak_gb_per_s": 5.0, "axis": "frames"}
    each = [{"size": 1, "median_ms": 3.0, "bound": "memory"}]
    each += [{"size": 2, "median_ms": 7.0, "bound": "compute"}]
    return pd.DataFrame([row | of for of in each])


def _classes() -> pd.DataFrame:
    each = [(v, c) for v in ("a", "b") for c in ("left", "right")]
    rows = pd.DataFrame(each, columns=["variant", "class"])
    return rows.assign(seed=0, top1=0.5, pair="left / right", within_pair=0.75)


def _differences() -> pd.DataFrame:
    row = {"difference": 0.1, "low": -0.1, "high": 0.3, "verdict": "cannot tell"}
    return pd.DataFrame([row | {"variant": name} for name in ("a", "b")])


def _history() -> pd.DataFrame:
    return pd.concat([unit_maps(2, side=2).assign(epoch=e, seed=0) for e in (0, 1)])


def _patched() -> pd.DataFrame:
    row = {"branch": "T", "frame": None, "share": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    row |= {"stage": 1, "block": 1, "step": 1}
    each = [(f"stage1.block1.step1.T.{part}", part) for part in ("u", "mix", "out")]
    return pd.DataFrame([row | {"name": name, "part": part} for name, part in each])


def _arrow_curve() -> pd.DataFrame:
    rows = [{"strength": s, "top1": 0.5, "within_pair": 0.5 + s / 3} for s in (1.0, 0.0, -1.0)]
    return pd.DataFrame(rows).assign(num_clips=4)


def _arrow_history() -> pd.DataFrame:
    parts = dict.fromkeys(("temporal_even", "token_bias_even"), 2.0)
    parts |= dict.fromkeys(("temporal_odd", "token_bias_odd"), 1.0)
    return pd.DataFrame([{"epoch": e, "seed": 0, "stage": 1, **parts} for e in (0, 1)])


def _probed() -> pd.DataFrame:
    row = {"metric": "accuracy", "test": 0.7, "chance": 0.5, "n": 8}
    each = [(name, target) for name in ("stage1", "stage2") for target in ("class", "pair")]
    return pd.DataFrame([row | {"name": name, "target": target} for name, target in each])


def _tuned() -> pd.DataFrame:
    each = [(name, angle) for name in ("stage1", "stage2") for angle in (0.0, 90.0, 180.0, 270.0)]
    return pd.DataFrame(each, columns=["name", "angle"]).assign(speed=1.0, direction=0.5)


def _exemplars() -> tuple[Any, ...]:
    rows = pd.DataFrame({"clip": [1, 1, 0], "frame": [0, 1, 1], "change": [0.3, 0.2, 0.1]})
    return rows, np.zeros((2, 2, 8, 8, 3), np.uint8), unit_maps(1, frames=2)


def _seeds() -> pd.DataFrame:
    return pd.concat([unit_maps(2, frames=3).assign(of="learned", seed=s) for s in (0, 1)])


Draw = Callable[..., Any]
DRAWN: dict[str, Callable[[Draw, dict[str, Any]], Any]] = {
    "draw_accuracy": lambda draw, to: draw(RUNS, metric="accuracy", **to),
    "draw_arrow": lambda draw, to: draw(_arrow_curve(), **to),
    "draw_arrow_history": lambda draw, to: draw(_arrow_history(), **to),
    "draw_attribution": lambda draw, to: draw(*_attribution(), **to),
    "draw_bias_history": lambda draw, to: draw(_history(), **to),
    "draw_cost_accuracy": lambda draw, to: draw(RUNS, **to),
    "draw_cost_pairs": lambda draw, to: draw(PAIRS, x="gmacs", **to),
    "draw_differences": lambda draw, to: draw(_differences(), **to),
    "draw_exemplars": lambda draw, to: draw(*_exemplars(), **to),
    "draw_frame_shares": lambda draw, to: draw(_attribution()[0], **to),
    "draw_interventions": lambda draw, to: draw(effects_table(4), **to),
    "draw_joint_bias": lambda draw, to: draw(unit_maps(2, frames=2, side=2), **to),
    "draw_layout": lambda draw, to: draw("T>S", **to),
    "draw_learning_curves": lambda draw, to: draw(_curves(), metric="top1", **to),
    "draw_maps_over_seeds": lambda draw, to: draw(_seeds(), **to),
    "draw_patching": lambda draw, to: draw(_patched(), **to),
    "draw_peers": lambda draw, to: draw(_peers(), **to),
    "draw_probe": lambda draw, to: draw(_probed(), **to),
    "draw_scorecard": lambda draw, to: draw(_scorecard(), **to),
    "draw_spatial_bias": lambda draw, to: draw(unit_maps(3, side=2), **to),
    "draw_speed_accuracy": lambda draw, to: draw(
        RUNS.assign(params=1e6 * RUNS["gmacs"]), metric="accuracy", **to
    ),
    "draw_temporal_bias": lambda draw, to: draw(unit_maps(10, frames=3), **to),
    "draw_tuning": lambda draw, to: draw(_tuned(), **to),
    # not in analysis' list
    "results.class_accuracy.draw_classes": lambda draw, to: draw(_classes(), **to),
    "explorer.draw.draw_explorer": lambda draw, to: draw(*_explorer(), **to),
    "speed.draw_scaling.draw_scaling": lambda draw, to: draw(_step_times(), **to),
}


def drawn(name: str, **to: Any) -> Any:
    home, _, function = name.rpartition(".")
    module = importlib.import_module(f"analysis.{home}") if home else analysis
    return DRAWN[name](getattr(module, function), to)


def test_every_exported_drawing_is_tried() -> None:
    exported = {name for name in analysis.__all__ if name.startswith("draw_")}
    assert exported == {name for name in DRAWN if "." not in name}


def with_neighbours(layout: str | None) -> tuple[Figure, Any, list[Any]]:
    """A figure of the caller's, the axes to give, and the three around them."""
    figure, grid = plt.subplots(2, 2, figsize=(14, 9), layout=layout)
    figure.suptitle("the caller's")
    for number, ax in enumerate(grid.flat):
        ax.plot([0, 1], [number, 2])
        ax.set_title(f"neighbour {number}")
        if ax is not grid[0, 1]:
            ax.set(xticks=[], yticks=[])  # labels take most of the time of a drawing
    return figure, grid[0, 1], [grid[0, 0], grid[1, 0], grid[1, 1]]


def content(ax: Any) -> tuple[Any, ...]:
    texts = (ax.get_title(), ax.get_xlabel(), ax.get_ylabel())
    return (*texts, len(ax.get_children()), ax.get_xlim(), ax.get_ylim(), ax.get_visible())


def contains(outer: Any, inner: Any) -> bool:
    """Of boxes in pixels, to a pixel."""
    low, high = (outer.min - inner.min).max(), (inner.max - outer.max).max()
    return bool(max(low, high) <= 1)


IN_CONSTRAINED = (
    *("draw_attribution", "draw_exemplars", "draw_patching", "draw_peers", "draw_scorecard"),
    *("draw_spatial_bias", "explorer.draw.draw_explorer"),
)
"""Panels and colour bars, by each of the ways in which they are placed."""


@pytest.mark.parametrize(
    ("name", "layout"),
    [*((name, None) for name in DRAWN), *((name, "constrained") for name in IN_CONSTRAINED)],
)
def test_drawing_keeps_to_the_place_of_the_axes_given(name: str, layout: str | None) -> None:
    figure, given, neighbours = with_neighbours(layout)
    figure.draw_without_rendering()
    place, open_before = given.get_window_extent().frozen(), plt.get_fignums()
    around = [ax.get_window_extent().bounds for ax in neighbours]
    before = [content(ax) for ax in neighbours]
    result = drawn(name, ax=given)
    figure.draw_without_rendering()
    assert plt.get_fignums() == open_before
    assert (figure.get_suptitle(), *figure.get_size_inches()) == ("the caller's", 14, 9)
    assert [content(ax) for ax in neighbours] == before
    shown = [ax for ax in figure.axes if ax not in neighbours and ax.get_visible()]
    extents = [ax.get_window_extent() for ax in shown]
    if isinstance(result, plt.Axes):
        assert result is given
    else:
        assert not given.get_visible()
        assert len(shown) > 1
    assert all(min(box.size) > 3 for box in extents)  # a colour bar is thin
    if layout is None:
        assert all(contains(place, box) for box in extents)
        assert [ax.get_window_extent().bounds for ax in neighbours] == around
    else:
        for neighbour in neighbours:
            assert not any(box.overlaps(neighbour.get_window_extent()) for box in extents)


@pytest.mark.parametrize("kind", ["free", "inset", "nested", "subfigure"])
def test_panels_take_the_place_of_any_axes(kind: str) -> None:
    figure = plt.figure(figsize=(12, 8))
    if kind == "free":
        given = figure.add_axes((0.5, 0.0, 0.5, 0.6))
    elif kind == "inset":
        given = figure.subplots().inset_axes((0.3, 0.2, 0.6, 0.7))
    elif kind == "nested":
        outer = figure.add_gridspec(1, 3, width_ratios=[1, 1, 4])[0, 2]
        given = figure.add_subplot(outer.subgridspec(2, 1)[1, 0])
    else:
        given = figure.subfigures(1, 2)[1].subplots()
    figure.draw_without_rendering()
    place = given.get_window_extent().frozen()
    panels = drawn("speed.draw_scaling.draw_scaling", ax=given)
    figure.draw_without_rendering()
    assert all(contains(place, ax.get_window_extent()) for ax in panels)
    assert sum(ax.get_window_extent().width for ax in panels) > place.width / 3


@pytest.mark.parametrize("adjust", ["tight_layout", "subplots_adjust"])
def test_panels_stay_in_their_place_when_the_figure_is_adjusted(adjust: str) -> None:
    figure, given, _ = with_neighbours(None)
    panels = drawn("draw_scorecard", ax=given)
    figure.draw_without_rendering()
    before = [ax.get_window_extent().bounds for ax in panels]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that tight_layout leaves some axes alone
        getattr(figure, adjust)()
    figure.draw_without_rendering()
    assert [ax.get_window_extent().bounds for ax in panels] == before


def test_axes_without_a_place_to_give_are_refused() -> None:
    first, second = plt.subplots(1, 2)[1]
    drawn("draw_peers", ax=first)
    with pytest.raises(ValueError, match=r"ax is hidden or was removed.*give other axes"):
        drawn("draw_peers", ax=first)
    second.remove()
    with pytest.raises(ValueError, match=r"ax is hidden or was removed.*give other axes"):
        drawn("draw_peers", ax=second)
    outside = plt.figure(layout="constrained").add_axes((0.1, 0.1, 0.5, 0.5))
    with pytest.raises(ValueError, match="outside the grid of a figure in constrained layout"):
        drawn("draw_peers", ax=outside)
    with pytest.raises(ValueError, match="axes and ax are both given"):
        drawn("draw_spatial_bias", ax=plt.subplots()[1], axes=np.array([outside]))


# Layouts


LAYOUTS = ("T+S", "T>S", "S>T", "ST", "ST+S", "T", "S", "T+S>ST", "T>S>T")


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
