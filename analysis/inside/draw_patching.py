"""Figures of where the answer arises: they take rows of `analysis.patch` and `arrow_curve`.

And the film of one branch: what it mixes, what gates it, and their product.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from analysis.figures.pictures import animation_path, raster, write_animation
from analysis.figures.place import set_texts, width_of
from analysis.figures.style import check_rows, colour, styled, wrapped
from analysis.inside.activations import PARTS, activations, hook_points, unit_of
from analysis.results.statistics import t_interval
from posmlp.data.augment import MEAN, STD
from posmlp.model import PosMLPVideo

SUM = "sum"
WORTH = 0.1  # a share from which the title names a branch
SCORES = {"within_pair": "true class outscores its reversal", "top1": "top-1"}


@styled
def draw_patching(
    data: pd.DataFrame,
    *,
    control: pd.DataFrame | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """The share of the answers' difference that each activation carries, as a heat map.

    `data`: rows of `patch`. A line a branch in the order of computation and a column a part, after
    which `sum` is the residual sum. If there are rows of single frames, a line an activation and a
    column a frame; if there are rows of single places, the map of one activation. `control`: rows
    of the same activations with other `others`, which stand on the right. Cells are shares in
    percent, on a fixed scale from -100 to 100; empty where the model has none. The default title
    names the branches that carry at least a tenth.

    Rows of several models, told apart by a column `seed`, are a point each, on a line a branch with
    the 95% t-interval over seeds; the title names the branches that carry a tenth in all. Raises
    ValueError for no rows, a missing column and places of several activations.
    """
    if "seed" in data:
        return _draw_seeds(data, ax, title)
    table, what = _table(data)
    if control is not None:
        gap = pd.DataFrame({"": np.nan}, index=table.index)
        other = _table(control)[0].reindex(index=table.index, columns=table.columns)
        table = pd.concat([table, gap, other], axis=1)
    size = (3.0 + 0.46 * table.shape[1], 1.6 + 0.22 * len(table))
    ax = ax or plt.subplots(figsize=size)[1]
    values = 100 * table.to_numpy(dtype=float)
    image = ax.imshow(values, vmin=-100, vmax=100, aspect="auto")
    for i, j in np.argwhere(np.isfinite(values)):
        ink = "white" if abs(values[i, j]) > 60 else "#222222"
        ax.text(j, i, f"{values[i, j]:.0f}".replace("-0", "0"), ha="center", va="center",
                fontsize=7, color=ink)  # fmt: skip
    ax.set_yticks(range(len(table)), table.index, fontsize=7)
    ax.set_xticks(range(table.shape[1]), [str(each) for each in table.columns])
    bar = ax.figure.colorbar(image, ax=ax, aspect=25)
    bar.set_label("share of the difference (%)")
    ax.set_xlabel(_caption(data, what, control))
    ax.set_title(wrapped(title or found_in_words(data), 0.8 * width_of(ax.figure)))
    return ax


def _draw_seeds(data: pd.DataFrame, ax: Axes | None, title: str | None) -> Axes:
    """A line a branch, or an activation where no branch's output is among them."""
    found = over_seeds(data)
    ax = ax or plt.subplots(figsize=(6.4, 1.3 + 0.24 * len(found)))[1]
    ax.axvline(0, color="0.6", linewidth=0.7, zorder=0)
    ax.axvline(100 * WORTH, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
    shares = data[data["frame"].isna()].set_index("name")["share"]
    for place, row in enumerate(found.to_dict("records")):
        own = 100 * shares.loc[[row["name"]]]
        ax.plot(own, [place + 0.27] * len(own), "o", color="0.6", markersize=3)
        ax.hlines(place, 100 * row["low"], 100 * row["high"], color=colour(0), linewidth=1.5)
        ax.plot(100 * row["mean"], place, "D", color=colour(0), markersize=4.5)
    ax.set_yticks(range(len(found)), [name.removesuffix(".out") for name in found["name"]])
    ax.tick_params(axis="y", labelsize=7)
    ax.invert_yaxis()
    ax.set_xlabel(
        "share of the difference (%): mean (diamond), 95% t-interval,\n"
        f"{found['n'].max()} seeds (points); dotted: {WORTH:.0%}"
    )
    ax.set_title(wrapped(title or survives_in_words(found), 0.9 * width_of(ax.figure)))
    return ax


def over_seeds(data: pd.DataFrame) -> pd.DataFrame:
    """Shares over seeds: name, n, mean, low, high, num_carrying (seeds with at least a tenth).

    `data`: rows of `patch` with a column `seed`. Of whole activations, and of branches' outputs
    alone where there are any. Raises ValueError for no rows and a missing column.
    """
    check_rows(data, ("name", "part", "frame", "share", "seed"), "analysis.patch of several seeds")
    whole = data[data["frame"].isna()]
    outs = whole[whole["part"] == "out"]
    found = []
    for name, rows in (outs if len(outs) else whole).groupby("name", sort=False):
        shares = rows["share"].dropna()
        interval = t_interval(shares) if len(shares) else (np.nan,) * 3
        found.append((name, len(shares), *interval, int((shares >= WORTH).sum())))
    columns = ["name", "n", "mean", "low", "high", "num_carrying"]
    return pd.DataFrame(found, columns=columns)


def survives_in_words(found: pd.DataFrame) -> str:
    """Which branches carry the difference in every seed, for a title."""
    most, carrying = found["n"].max(), found["num_carrying"]
    if not most:
        return "Nothing in these models tells a clip from the other"
    every = found.loc[carrying == most, "name"].str.removesuffix(".out")
    some = int(((carrying > 0) & (carrying < most)).sum())
    more = f"; in some seeds through {some} {'more' if len(every) else 'branches'}" if some else ""
    if not len(every):
        return f"No branch carries a tenth of the difference in all {most} seeds{more}"
    return f"In all {most} seeds a tenth or more runs through {', '.join(every)}{more}"


def _table(data: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Shares as they are drawn, and what is exchanged."""
    check_rows(data, ("name", "branch", "part", "frame", "share", "low", "n"), "analysis.patch")
    if "y" in data and data["y"].notna().any():
        rows = data[data["y"].notna()]
        if rows["name"].nunique() > 1:
            names = ", ".join(rows["name"].unique()[:3])
            raise ValueError(f"places of several activations ({names}); draw one at a time")
        return rows.pivot(index="y", columns="x", values="share"), "place"
    return (_frames(data), "frame") if data["frame"].notna().any() else (_parts(data), "activation")


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


def _caption(data: pd.DataFrame, what: str, control: pd.DataFrame | None) -> str:
    lines = [f"{what} that is exchanged with the other's"]
    for of, rows in (("", data), ("right, the control: ", control)):
        if rows is None:
            continue
        n, widest = int(rows["n"].max()), ((rows["high"] - rows["low"]) / 2).max()
        if n == 0:
            lines.append(f"{of}no pair's answers differ: nothing to move")
        else:
            spread = f", 95% intervals within {100 * widest:.1f} points" if widest == widest else ""
            lines.append(f"{of}{n} pairs whose answers differ{spread}")
    return "\n".join(lines)


def found_in_words(data: pd.DataFrame) -> str:
    """Which branches carry the difference, for a title."""
    if not data.loc[data["frame"].isna(), "share"].notna().any():
        return "Nothing in this model tells a clip from the other"
    named = ", ".join(
        f"{row['name'].removesuffix('.out')} {row['share']:.0%}" for row in carrying(data)
    )
    if not named:
        return "Share of the difference between two answers by activation"
    return f"The difference runs through {named}"


def carrying(data: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of `patch` of branches' outputs that carry at least a tenth, the largest first."""
    outs = data[data["frame"].isna() & (data["part"] == "out") & (data["share"] >= WORTH)]
    return outs.sort_values("share", ascending=False, kind="stable").to_dict("records")


@styled
def draw_arrow(curve: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Scores against the strength of the arrow of time, from as learned to reversed.

    `curve`: rows of `arrow_curve`. Raises ValueError for no rows and a missing column.
    """
    check_rows(curve, ("strength", "top1", "num_clips"), "analysis.arrow_curve")
    if curve["strength"].duplicated().any():
        raise ValueError("rows of several models or tries; give one row a strength")
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


@styled
def save_gate_film(
    model: PosMLPVideo,
    clips: Tensor,
    branch: str,
    path: str | Path,
    *,
    clip: int = 0,
    token: tuple[int, int] | None = None,
    frames_per_s: float = 4.0,
) -> Path:
    """Write message x gate of one branch as an animation, and return its path.

    Beside each frame of `clips[clip]`, with clips (B, 3, T, H, W) as the model takes them, stand
    three maps over the stage's H x W places: |mix(u)|, the message; |v|, the gate; and their
    product, each a root mean square over channels, on a scale of its own for the whole film.
    `branch`: a name such as `stage1.block1.step1.T`. `token`: y and x of a place of the stage, for
    branches `T` over all frames: bars show how large a part of its message each frame sends it.

    `.png` and `.apng` make an animated PNG, `.mp4` an H.264 video for talks. Raises ValueError for
    another suffix or rate, a branch that is not there or has no u, v and mix, and a token that is
    outside of the stage or of a branch whose message is no sum over frames.
    """
    path, name = animation_path(path), branch.removesuffix(".*")
    names = [f"{name}.{part}" for part in ("u", "mix", "v", "gated")]
    known = {point.name for point in hook_points(model)}
    if missing := [each for each in names if each not in known]:
        units = sorted(each.removesuffix(".mix") for each in known if each.endswith(".mix"))
        raise ValueError(f"no activation {missing[0]!r}; branches are {', '.join(units)}")
    found = activations(model, clips[clip : clip + 1], f"{name}.*")
    pixels = (clips[clip].cpu().movedim(0, -1) * STD + MEAN).clamp(0, 1).numpy()
    maps = [found[each][0].float().square().mean(-1).sqrt().cpu().numpy() for each in names[1:]]
    sums = None if token is None else _sent(unit_of(model, name), found, name, token)
    words = f"{name}: message x gate"
    told = "root mean square over channels; each map has one scale for the whole film"
    if sums is not None:
        told += f"; below: what each frame sends to place y = {token[0]}, x = {token[1]}"  # type: ignore[index]
    return write_animation(_film(pixels, maps, sums, token, words, told), path, frames_per_s)


def _sent(
    unit: Any, found: dict[str, Tensor], name: str, token: tuple[int, int]
) -> NDArray[np.float64]:
    """(T, T): how large a part of a place's message at each frame (rows) each frame sends it."""
    _, num_frames, rows, columns, _ = found[f"{name}.u"].shape
    y, x = token
    if not (0 <= y < rows and 0 <= x < columns):
        raise ValueError(f"token={token} is outside of the stage's {rows} x {columns} places")
    if not name.endswith(".T") or unit.num_tokens != num_frames or not hasattr(unit, "positions"):
        raise ValueError(
            f"the message of {name} is no sum over the clip's frames with weights of their own; "
            "give a branch T over all frames whose relation comes from positions"
        )
    with torch.no_grad():
        u = unit.in_groups(found[f"{name}.u"][0, :, y, x])  # (T, V, G)
        parts = torch.einsum("gts,svg->tsvg", unit.relation(), u)
    return parts.float().square().mean((2, 3)).sqrt().double().cpu().numpy()


def _film(
    pixels: NDArray[Any],
    maps: list[NDArray[Any]],
    sums: NDArray[np.float64] | None,
    token: tuple[int, int] | None,
    words: str,
    told: str,
) -> list[NDArray[np.uint8]]:
    """One RGB picture a frame; the figure stays and its images change."""
    figure = plt.figure(figsize=(8.0, 2.9 if sums is None else 4.0))
    try:
        grid = figure.add_gridspec(1 if sums is None else 2, 4,
                                   height_ratios=[1] if sums is None else [2.2, 1])  # fmt: skip
        panels = [figure.add_subplot(grid[0, i]) for i in range(4)]
        shown = [panels[0].imshow(pixels[0])]
        for ax, values in zip(panels[1:], maps, strict=True):
            shown.append(ax.imshow(values[0], cmap="magma", vmin=0, vmax=values.max() or 1))
            bar = figure.colorbar(shown[-1], ax=ax, orientation="horizontal", aspect=12, pad=0.04)
            bar.set_ticks(
                [0, shown[-1].get_clim()[1]], labels=["0", f"{shown[-1].get_clim()[1]:.2g}"]
            )
            bar.ax.tick_params(labelsize=7)
            if token is not None:
                ax.plot(token[1], token[0], "s", markerfacecolor="none", color="white",
                        path_effects=[withStroke(linewidth=3, foreground="black")])  # fmt: skip
        for ax, title in zip(panels, ("", "message |mix(u)|", "gate |v|", "product"), strict=True):
            ax.set(xticks=[], yticks=[])
            ax.set_title(title, fontsize=8)
        bars = None
        if sums is not None:
            below = figure.add_subplot(grid[1, :])
            bars = below.bar(range(len(sums)), sums[0], color="0.6")
            below.set(ylim=(0, sums.max() or 1), xticks=range(len(sums)))
            below.set_ylabel("part of message", fontsize=8)
            below.set_xlabel("sending frame", fontsize=8)
            below.tick_params(labelsize=7)
        set_texts(figure, words, told)
        pictures = []
        for t in range(len(pixels)):
            for image, values in zip(shown, (pixels, *maps), strict=True):
                image.set_data(values[t])
            panels[0].set_title(f"frame {t}", fontsize=8)
            for s, bar in enumerate(bars or ()):
                bar.set_height(sums[t, s])  # type: ignore[index]
                bar.set_color("#D55E00" if s == t else "0.6")
            pictures.append(raster(figure))
            figure.set_layout_engine("none")  # as the first picture found it: nothing jumps
    finally:
        plt.close(figure)
    return pictures
