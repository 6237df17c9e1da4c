"""Models side by side on every cost: rows of `analysis.compare_peers`."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures.place import lay_out, place_of, width_of
from analysis.figures.style import check_rows, colour, styled, wrapped
from analysis.results.draw_results import set_log_ticks

PANELS = {
    "params": "parameters",
    "gmacs": "multiply-adds (G)",
    "latency_ms": "latency, 1 clip (ms)",
    "clips_per_s": "throughput (clips/s)",
    "published_top1": "top-1, published (%)",
}
COLUMNS = ["model", "family", "mode", *PANELS, "latency_q1_ms", "latency_q3_ms"]
COLUMNS += ["batch_size", "device", "num_threads", "torch"]
WIDTH = 11.5
FROM_PAPER = "PosMLP-Video (from the paper)"
GREY = "0.35"


@styled
def draw_peers(
    table: pd.DataFrame,
    *,
    paper_top1: float | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """A panel a cost with a row a model, in order of multiply-adds; families are colours.

    `table`: rows of `compare_peers` of one mode. Bars on latency are its quartiles. Published
    scores are hollow and in a panel of their own, where `paper_top1`, the paper's score of a model
    whose size is not published, has a row without costs. `ax`: in whose place to draw. Returns the
    array of Axes. Raises ValueError for no rows, a missing column, and rows of several modes.
    """
    check_rows(table, COLUMNS, "analysis.compare_peers")
    if table["model"].duplicated().any():
        raise ValueError(f"modes {table['mode'].unique().tolist()}; give the rows of one mode")
    rows = table.sort_values("gmacs", kind="stable").reset_index(drop=True)
    names = [*rows["model"], *([FROM_PAPER] if paper_top1 is not None else [])]
    families = dict.fromkeys(table["family"])
    hues = {family: colour(i) for i, family in enumerate(families)}
    figure = place_of(ax, (WIDTH, 1.5 + 0.32 * len(names)))
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for panel, (column, label) in zip(axes, PANELS.items(), strict=True):
        _draw_panel(panel, rows, column, hues)
        panel.set_xlabel(label)
        panel.grid(axis="y", color="0.92")
    if paper_top1 is not None:
        axes[-1].plot(paper_top1, len(rows), "o", color=GREY, markerfacecolor="white")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    lines = [Line2D([], [], color=hue, marker="o", linestyle="") for hue in hues.values()]
    figure.legend(lines, list(hues), loc="outside upper right", ncols=len(lines))
    text = title or "What a clip of 16 x 224 x 224 costs"
    share = width_of(figure) / WIDTH
    figure.suptitle(wrapped(text, 8.0 * share), x=0.01, ha="left", fontsize=10, fontweight="bold")
    caption = textwrap.fill(_caption(rows.iloc[0]), max(20, int(150 * share)))
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8)
    lay_out(figure)
    return axes


def _draw_panel(ax: Axes, rows: pd.DataFrame, column: str, hues: dict[str, str]) -> None:
    published = column == "published_top1"
    for i, row in rows.iterrows():
        hue = hues[row["family"]]
        if column == "latency_ms":
            ax.plot([row["latency_q1_ms"], row["latency_q3_ms"]], [i, i], color=hue)
        ax.plot(row[column], i, "o", color=hue, markerfacecolor="white" if published else hue)
    if not published:
        ax.set_xscale("log")
        set_log_ticks(ax, rows[column].tolist())
        ax.margins(x=0.15)


def _caption(row: pd.Series) -> str:
    return (
        f"{row['device']}, {row['mode']}, threads: {row['num_threads']}, torch {row['torch']}, "
        f"throughput at batch {row['batch_size']}; log scales; bars: quartiles of the runs. "
        "Hollow: from the paper or the makers of the weights, not measured here, and not at one "
        "protocol (frames, views and pre-training differ)."
    )
