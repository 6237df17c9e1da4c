"""Learned temporal tables beside their controls and beside what they are needed for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

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
        ax.set_xlabel("dt (frames)")
    grid[-1, -1].set_xlabel("change (points, 95% interval)")
    rows = effects[effects["kind"] == "symmetrise"]
    needed = ", ".join(str(stage) for stage in rows.loc[rows["within_pair_high"] < 0, "stage"])
    title = f"The direction of time needs odd tables in stage {needed or 'none'}"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")


def _draw_tables(axes: list[Axes], maps: list[pd.DataFrame]) -> None:
    tables = [rows.pivot(index="group", columns="dt", values="bias") for rows in maps]
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
