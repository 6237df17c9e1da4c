"""The training step against its sizes and under its roofline: rows of `time_scaling`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures.place import lay_out, place_of
from analysis.figures.style import styled

FILLS: dict[str, Literal["full", "none"]] = {"compute": "full", "memory": "none"}
"""How a point is filled by what binds its step."""


@styled
def draw_scaling(df: pd.DataFrame, *, ax: Axes | None = None) -> NDArray[Any]:
    """Three panels of `time_scaling`, a line an axis; the Axes.

    Time against size with the fitted exponents; the steps under the roofline; their share of it
    against size. A point is filled where arithmetic is the lower ceiling and hollow where memory
    is. `ax`: in whose place to draw.
    """
    figure = place_of(ax, (12.0, 3.9))
    axes = figure.subplots(1, 3)
    _draw_roof(axes[1], df)
    for i, (axis, part) in enumerate(df.groupby("axis", sort=False)):
        look = {"color": f"C{i}", "lw": 1.2}
        name = f"{axis}: exponent {part['exponent'].iloc[0]:.2f}"
        axes[0].plot(part["size"], part["median_ms"], "-o", ms=4, label=name, **look)
        _draw_bound(axes[1], part, part["flops_per_byte"], part["gflops_per_s"], look)
        _draw_bound(axes[2], part, part["size"], 100 * part["roofline_share"], look)
    axes[0].set(xscale="log", yscale="log", ylabel="training step, ms")
    axes[2].set(xscale="log", ylabel="share of the roofline, %", ylim=(0, None))
    sizes = sorted(df["size"].unique())
    for panel in (axes[0], axes[2]):
        panel.set_xlabel("size, relative to the smallest")
        panel.set_xticks(sizes, [f"{x:g}" for x in sizes])
        panel.minorticks_off()
    axes[0].set_yticks(*_steps(df["median_ms"].min(), df["median_ms"].max()))
    handles, labels = axes[0].get_legend_handles_labels()
    for bound, fill in FILLS.items():
        mark = Line2D([], [], color="0.3", ls="", marker="o", ms=5, fillstyle=fill)
        handles.append(mark)
        labels.append(f"bound by {bound}")
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    low, high = 100 * df["roofline_share"].min(), 100 * df["roofline_share"].max()
    count = (df["bound"] == "memory").sum()
    figure.suptitle(
        f"The training step against its sizes: {count} of {len(df)} steps are bound by memory; "
        f"{low:.0f} to {high:.0f}% of the roofline",
        fontsize=10,
    )
    lay_out(figure)
    return axes


def _draw_bound(ax: Axes, part: pd.DataFrame, x: pd.Series, y: pd.Series, look: Any) -> None:
    """A line, and a point a row that is filled by what binds it."""
    ax.plot(x, y, "-", **look)
    for bound, fill in FILLS.items():
        rows = part["bound"] == bound
        ax.plot(x[rows], y[rows], "o", ms=5, fillstyle=fill, **look)


def _draw_roof(ax: Axes, df: pd.DataFrame) -> None:
    """Both ceilings over a range of intensities around the steps' and the ridge."""
    peak, bandwidth = (df[f"peak_{name}_per_s"].iloc[0] for name in ("gflops", "gb"))
    ridge = peak / bandwidth
    found = df["flops_per_byte"]
    ends = min(found.min(), ridge) / 2, max(found.max(), ridge) * 2
    x = np.array([ends[0], ridge, ends[1]])
    ax.plot(x, np.minimum(peak, bandwidth * x), color="0.3", lw=1.5)
    note = f"{peak:.3g} GFLOP/s\n{bandwidth:.3g} GB/s"
    ax.annotate(note, (ridge, peak), (4, -4), textcoords="offset points", va="top", fontsize=7)
    ax.set(xscale="log", yscale="log", xlabel="FLOPs a byte moved", ylabel="GFLOP/s")
    ax.set_xticks(*_steps(*ends))
    ax.set_yticks(*_steps(df["gflops_per_s"].min(), peak))
    ax.minorticks_off()


def _steps(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks at 1, 2, 5, 10 ... around a range, and their labels."""
    steps = [k * 10.0**e for e in range(-3, 8) for k in (1, 2, 5)]
    within = [step for step in steps if low / 2 < step < 2 * high]
    return within, [f"{step:g}" for step in within]
