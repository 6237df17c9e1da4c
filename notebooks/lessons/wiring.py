"""What one block of a layout can see and how it scored, and the layout builder of lesson 06."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from analysis import cost, draw_layout, t_interval
from analysis.figures.style import wrapped
from posmlp import create_model
from posmlp.config_checks import parse_layout

__all__ = ["builder", "draw_beside_scores", "draw_places", "parse_layout", "seen", "show"]


def seen(
    layout: str, *, num_frames: int = 4, side: int = 4, frame: int = 1, place: int = 5
) -> Tensor:
    """Which tokens of a window one output token of a block depends on: (T, side, side) bool.

    Found by asking for gradients: an input token is seen where that of the output is not zero.
    `frame` and `place` (counted row by row) name the output token.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"num_frames": num_frames, "image_size": 4 * side, "windows": (side, 1, 1, 1)}
        model = create_model("toy", layout=layout, init="fan_in", **size).double()
        shape = (1, 1, num_frames, side**2, 16)  # one clip of one window
        tokens = torch.randn(shape, dtype=torch.double, requires_grad=True)
    block = model.stages[0].blocks[0]
    block(tokens)[0, 0, frame, place].sum().backward()
    assert tokens.grad is not None
    return (tokens.grad[0, 0].abs().sum(-1) > 0).unflatten(1, (side, side))


def draw_places(reached: Tensor, ax: Axes, *, title: str = "") -> None:
    """One frame of a window, (side, side) bool: those that are reached blue, on a grid to count."""
    ax.imshow(reached, cmap="Blues", vmin=0, vmax=1.4)
    edges = [k - 0.5 for k in range(len(reached) + 1)]
    ax.hlines(edges, edges[0], edges[-1], color="0.6", linewidth=0.6)
    ax.vlines(edges, edges[0], edges[-1], color="0.6", linewidth=0.6)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=8, loc="center", fontweight="normal")


def show(layout: str) -> None:
    """Draw a layout with its cost on the toy preset, or say why it is none."""
    try:
        found = cost(create_model("toy", layout=layout), memory=False)
    except ValueError as error:
        print(error)
        return
    text = f"{layout}: {found['params']:,} parameters, {found['gmacs']:.4f} GMACs a clip"
    draw_layout(layout, title=text)
    plt.show()


def draw_beside_scores(runs: pd.DataFrame, costs: Mapping[str, Any], title: str) -> None:
    """A line a layout of `costs`: wiring, multiply-adds, test top-1 of the runs with its interval.

    `runs`: a row a layout and seed; `costs`: what `analysis.cost` gives of each layout.
    """
    size = (8.6, 0.75 * len(costs) + 0.6)
    figure, grid = plt.subplots(len(costs), 2, figsize=size, width_ratios=[1, 2.2], sharex="col")
    for (left, right), (layout, found) in zip(grid, costs.items(), strict=True):
        draw_layout(layout, ax=left, title="")
        left.set(xlim=(-0.6, 5.9), ylim=(-0.5, 2.4))
        scores = 100 * runs.loc[runs["layout"] == layout, "test_top1"]
        mean, low, high = t_interval(scores)
        right.plot([low, high], [0, 0], linewidth=2, color="C0")
        right.plot(scores, [-0.4] * len(scores), "o", color="0.6", markersize=3)
        right.plot(mean, 0, "D", color="C0", markersize=5)
        right.set(yticks=[0], ylim=(-0.9, 0.9), xlim=(0, 100))
        right.set_yticklabels([f"{layout}\n{found['macs'] / 1e6:.1f} M"])
        right.tick_params(bottom=layout == [*costs][-1])
        right.spines["bottom"].set_visible(layout == [*costs][-1])
    words = "mean (diamond), 95% t-interval, seeds (points)"
    right.set_xlabel(f"test top-1 (%): {words}\nM: million multiply-adds a clip")
    figure.suptitle(wrapped(title, size[0]), x=0.01, ha="left", fontweight="bold")


def builder(layout: str = "T+S") -> ipywidgets.Widget:
    """A line to type a layout into; its picture and cost follow on Enter."""
    line = ipywidgets.Text(layout, description="layout", continuous_update=False)
    return ipywidgets.VBox([line, ipywidgets.interactive_output(show, {"layout": line})])
