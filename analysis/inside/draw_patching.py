"""Figures of where the answer arises: they take rows of `analysis.patch` and `arrow_curve`."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from analysis.figures.place import width_of
from analysis.figures.style import check_rows, styled, wrapped
from analysis.inside.activations import PARTS

SUM = "sum"
WORTH = 0.1  # a share from which the title names a branch
SCORES = {"within_pair": "true class outscores its reversal", "top1": "top-1"}


@styled
def draw_patching(data: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """The share of the answers' difference that each activation carries, as a heat map.

    `data`: rows of `patch`. A line a branch in the order of computation and a column a part, after
    which `sum` is the residual sum. If there are rows of single frames, a line an activation and a
    column a frame. Cells are shares in percent, on a fixed scale from -100 to 100; empty where the
    model has none. The default title names the branches that carry at least a tenth.
    Raises ValueError for no rows and a missing column.
    """
    check_rows(data, ("name", "branch", "part", "frame", "share", "low", "n"), "analysis.patch")
    by_frame = data["frame"].notna().any()
    table = _frames(data) if by_frame else _parts(data)
    size = (3.0 + 0.46 * table.shape[1], 1.6 + 0.22 * len(table))
    ax = ax or plt.subplots(figsize=size)[1]
    values = 100 * table.to_numpy(dtype=float)
    image = ax.imshow(values, vmin=-100, vmax=100, aspect="auto")
    for (i, j), value in ((at, values[at]) for at in _cells(values)):
        ink = "white" if abs(value) > 60 else "#222222"
        ax.text(j, i, f"{value:.0f}".replace("-0", "0"), ha="center", va="center", fontsize=7,
                color=ink)  # fmt: skip
    ax.set_yticks(range(len(table)), table.index, fontsize=7)
    ax.set_xticks(range(table.shape[1]), [str(each) for each in table.columns])
    bar = ax.figure.colorbar(image, ax=ax, aspect=25)
    bar.set_label("share of the difference (%)")
    ax.set_xlabel(_caption(data, bool(by_frame)))
    ax.set_title(wrapped(title or found_in_words(data), 0.8 * width_of(ax.figure)))
    return ax


def _cells(values: Any) -> list[tuple[int, int]]:
    rows, columns = values.shape
    return [(i, j) for i in range(rows) for j in range(columns) if values[i, j] == values[i, j]]


def _parts(data: pd.DataFrame) -> pd.DataFrame:
    """A line a branch; the residual sums and what is outside of steps under SUM."""
    lines: dict[str, dict[str, float]] = {}
    for row in data.to_dict("records"):
        in_branch = isinstance(row["part"], str)
        line = row["name"].rpartition(".")[0] if in_branch else row["name"]
        if not in_branch and pd.isna(row["step"]) and pd.notna(row["stage"]):
            continue  # a stage's output is that of its last step
        lines.setdefault(line, {})[row["part"] if in_branch else SUM] = row["share"]
    table = pd.DataFrame.from_dict(lines, orient="index")
    return table[[part for part in (*PARTS, SUM) if part in table]]


def _frames(data: pd.DataFrame) -> pd.DataFrame:
    rows = data.assign(column=["all" if pd.isna(t) else str(t) for t in data["frame"]])
    table = rows.pivot(index="name", columns="column", values="share")
    frames = sorted((name for name in table if name != "all"), key=int)
    return table.loc[data["name"].drop_duplicates(), ["all", *frames]]


def _caption(data: pd.DataFrame, by_frame: bool) -> str:
    n = int(data["n"].max())
    widest = ((data["high"] - data["low"]) / 2).max()
    lines = [f"{'frame that is' if by_frame else 'activation that is'} exchanged with the other's"]
    if n == 0:
        lines.append("no pair's answers differ: nothing to move")
    else:
        spread = f", 95% intervals within {100 * widest:.1f} points" if widest == widest else ""
        lines.append(f"{n} pairs whose answers differ{spread}")
    return "\n".join(lines)


def found_in_words(data: pd.DataFrame) -> str:
    """Which branches carry the difference, for a title."""
    whole = data[data["frame"].isna()]
    if not whole["share"].notna().any():
        return "Nothing in this model tells a clip from the other"
    outs = whole[(whole["part"] == "out") & (whole["share"] >= WORTH)]
    if not len(outs):
        return "Share of the difference between two answers by activation"
    named = ", ".join(
        f"{row['name'].removesuffix('.out')} {row['share']:.0%}"
        for row in outs.sort_values("share", ascending=False, kind="stable").to_dict("records")
    )
    return f"The difference runs through {named}"


@styled
def draw_arrow(curve: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Scores against the strength of the arrow of time, from as learned to reversed.

    `curve`: rows of `arrow_curve`. Raises ValueError for no rows and a missing column.
    """
    check_rows(curve, ("strength", "top1", "num_clips"), "analysis.arrow_curve")
    ax = ax or plt.subplots(figsize=(4.6, 2.8))[1]
    rows = curve.sort_values("strength")
    for name, label in SCORES.items():
        if name in rows:
            ax.plot(rows["strength"], 100 * rows[name], marker="o", label=label)
    if "within_pair" in rows:
        ax.axhline(50, color="0.6", linewidth=0.7, zorder=0)
        at = rows.set_index("strength")["within_pair"]
        found = f"From {at[at.index.max()]:.0%} to {at[at.index.min()]:.0%} within pairs"
    else:
        found = "Answers as the arrow of time is turned"
    ax.set_ylim(-3, 103)
    ax.invert_xaxis()
    ax.set_ylabel("clips (%)")
    clips = int(rows["num_clips"].iloc[0])
    ax.set_xlabel(f"strength of what is odd in time: 1 as learned, -1 reversed\n{clips} clips")
    ax.legend()
    ax.set_title(wrapped(title or found, 0.9 * width_of(ax.figure)))
    return ax
