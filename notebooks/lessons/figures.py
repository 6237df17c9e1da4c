"""Figures that are too long for a lesson's cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.bias.draw_bias import FROM_TOKEN, seen
from posmlp.positions import relative_position_index


class LiveLoss:
    """Losses by step, drawn anew every half second while `fit` trains; the last stays.

    `fit(..., watch=live.line("T+S"))` adds a line; `end()` draws all of it once more. A line is the
    mean of the last ten steps.
    """

    MEAN_OF = 10
    EVERY_S = 0.5

    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._handle = display(self._figure(), display_id=True)
        self._drawn = time.monotonic()

    def line(self, name: str) -> Callable[[int, list[float]], None]:
        """What `fit` calls after each step of this training."""
        losses = self._losses.setdefault(name, [])

        def watch(step: int, each: list[float]) -> None:
            losses.append(float(np.mean(each)))
            if time.monotonic() > self._drawn + self.EVERY_S:
                self.end()

        return watch

    def end(self) -> None:
        """Draw all that there is."""
        self._handle.update(self._figure())
        self._drawn = time.monotonic()

    def _figure(self) -> Figure:
        figure = Figure(figsize=(5.6, 2.6), layout="constrained")
        ax = figure.subplots()
        for name, losses in self._losses.items():
            means = pd.Series(losses).rolling(self.MEAN_OF, min_periods=1).mean()
            ax.plot(range(1, len(losses) + 1), means, label=name)
        ax.set(xlabel="step", ylabel="training loss")
        if self._losses:
            ax.legend(title="layout")
        return figure


def draw_index(window: tuple[int, ...], ax: Axes) -> Any:
    """The N x N index of a window: the offset along the last axis as colour, the others as words.

    Lines stand between blocks, thick ones between frames of a window (T, H, W). Returns the image.
    """
    entries, width = relative_position_index(window).numpy(), window[-1]
    row = 2 * width - 1  # entries of the table that differ along the last axis alone
    image = ax.imshow(entries % row - width + 1, vmin=-7, vmax=7)
    ax.set(xlabel="key n", ylabel="query m", xticks=[], yticks=[])
    for side, thickness in ((width, 1), (int(np.prod(window[-2:])), 4)):
        edges = np.arange(side, len(entries), side) - 0.5
        ax.hlines(edges, -0.5, len(entries) - 0.5, color="k", linewidth=thickness)
        ax.vlines(edges, -0.5, len(entries) - 0.5, color="k", linewidth=thickness)
    outer = window[:-1]
    for (m, n), first in np.ndenumerate(entries[::width, ::width] // row) if outer else ():
        places = np.unravel_index(first, [2 * side - 1 for side in outer])
        words = ", ".join(str(k - side + 1) for k, side in zip(places, outer, strict=True))
        middle = (width - 1) / 2
        ax.text(n * width + middle, m * width + middle, words, ha="center", va="center")
    return image


CHANGES = ("knock_out", "symmetrise")


def draw_maps_beside_effects(temporal: Mapping[str, pd.DataFrame], effects: pd.DataFrame) -> None:
    """A row a stage: its tables in each model on one scale, then two changes to the first model.

    `temporal`: each model's name and its rows of `analysis.bias_maps` for one block a stage and
    branch T; `effects`: what `analysis.intervene` gives, with the changes knock_out and symmetrise
    of branch T of each stage. The title names the stages whose tables cannot be made symmetric
    without a loss within pairs that its interval shows.
    """
    stages = sorted(next(iter(temporal.values()))["stage"].unique())
    ratios = [*[1] * len(temporal), 1.3]
    size = (9.2, 1.5 * len(stages) + 0.5)
    figure, grid = plt.subplots(
        len(stages), len(ratios), figsize=size, width_ratios=ratios, sharex="col", squeeze=False
    )
    for stage, (*lefts, right) in zip(stages, grid, strict=True):
        _draw_tables(lefts, [maps[maps["stage"] == stage] for maps in temporal.values()])
        lefts[0].set_ylabel(f"stage {stage}\n{lefts[0].get_ylabel()}")
        _draw_effects(right, effects[effects["stage"] == stage].set_index("kind").loc[[*CHANGES]])
    for ax, name in zip(grid[0], [*temporal, "within pairs"], strict=True):
        ax.set_title(name, fontsize=9)
    for ax in grid[-1, :-1]:
        ax.set_xlabel("frames before (-), after (+)")
    grid[-1, -1].set_xlabel("change (points, 95% interval)")
    title = f"The direction of time needs odd tables in {needed(effects, 'symmetrise')}"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")


def needed(effects: pd.DataFrame, kind: str, metric: str = "within_pair") -> str:
    """The stages in which a change of branch T costs more than nothing: `stages 3 and 4`.

    `effects`: what `analysis.intervene` gives; that is, whose interval lies below 0.
    """
    rows = effects[(effects["kind"] == kind) & (effects["branch"] == "T")]
    found = [str(stage) for stage in rows.loc[rows[f"{metric}_high"] < 0, "stage"]]
    listed = " and ".join([", ".join(found[:-1]), found[-1]] if found[1:] else found)
    return f"stage{'s' * (len(found) > 1)} {listed}" if found else "no stage"


def _draw_tables(axes: list[Axes], maps: list[pd.DataFrame]) -> None:
    seen_maps = [seen(rows, FROM_TOKEN) for rows in maps]
    tables = [rows.pivot(index="group", columns="dt", values="bias") for rows in seen_maps]
    limit = max(table.abs().to_numpy().max() for table in tables)
    for ax, table in zip(axes, tables, strict=True):
        reach = table.columns.max() + 0.5
        extent: Any = (-reach, reach, 1, 0)
        ax.imshow(table, vmin=-limit, vmax=limit, aspect="auto", extent=extent)
        ax.set(yticks=[])
    axes[0].set_ylabel(f"{len(tables[0])} groups")


def _draw_effects(ax: Axes, rows: pd.DataFrame) -> None:
    places = range(len(rows))
    ax.hlines(places, 100 * rows.within_pair_low, 100 * rows.within_pair_high, color="0.4")
    ax.plot(100 * rows.within_pair_change, places, "o")
    ax.axvline(0, color="0.7", linewidth=0.7, zorder=0)
    names = [name.replace("_", " ") for name in rows.index]
    ax.set(yticks=places, yticklabels=names, ylim=(len(rows) - 0.4, -0.6))
