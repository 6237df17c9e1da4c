"""Figures of attributions: a contact sheet, an animation, and the scores of methods.

Shapes: B clips, T frames, H x W pixels; frames are uint8 (B, T, H, W, 3), as rendered or decoded.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, ticker
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from analysis.attribution.attribution import Attribution
from analysis.attribution.localisation import localisation
from analysis.attribution.scorecard import CARD
from analysis.figures.place import lay_out, place_of, set_texts
from analysis.figures.style import check_rows, colour, styled, symmetric_limit

MOST_FRAMES = 8
MOST_COLUMNS = 4
LEAST = dict.fromkeys(("rank_correlation", "rank_correlation_magnitude"), -1)  # others are shares
STRONGEST = 0.85  # opacity of the overlay at the limit of the scale and beyond
CONTOUR = "#FFE100"
MOVING = "#FFF3B0"
GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601


@styled
def draw_attribution(
    attribution: Attribution,
    clips: Tensor | NDArray[np.uint8],
    *,
    clip: int = 0,
    masks: Tensor | NDArray[Any] | None = None,
    moving: Tensor | NDArray[Any] | None = None,
    frames: list[int] | None = None,
    target_name: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """A contact sheet of one clip: frames, the map over them, and each frame's share below.

    One colour scale over the clip, cut at the 99th percentile of |value|: red speaks for the target
    and blue against it if the method is signed, else one hue. Opacity follows |value|. `masks`
    (B, T, H, W) draws the object's contour, and the share that lies on it becomes the title;
    `moving` (B, T) shades the moving frames. `frames`: which to show, by default at most eight,
    evenly spread; the bars are of all. `ax`: in whose place to draw. Returns the Axes: frames,
    overlays, bars. Raises ValueError for what does not belong together.
    """
    pixels = checked_frames(attribution, clips, clip)
    shown = _shown_frames(frames, len(pixels))
    mask = None if masks is None else np.asarray(masks[clip])
    moves = None if moving is None else np.asarray(moving[clip])
    width, height = 1.25 * max(len(shown), 4) + 0.9, 1.25 * pixels.shape[1] / pixels.shape[2]
    figure = place_of(ax, (width, 2 * height + 2.2))
    grid = figure.add_gridspec(3, len(shown), height_ratios=[height, height, 1.0])
    tops = [figure.add_subplot(grid[0, i]) for i in range(len(shown))]
    overlays = [figure.add_subplot(grid[1, i]) for i in range(len(shown))]
    bars = figure.add_subplot(grid[2, :])
    for top, overlay, t in zip(tops, overlays, shown, strict=True):
        draw_frame(top, pixels[t], mask=None)
        top.set_title(f"t = {t}", fontsize=8, fontweight="normal", loc="center")
        draw_overlay(overlay, attribution, pixels, clip, t, mask)
    tops[0].set_ylabel("clip", fontsize=8)
    overlays[0].set_ylabel(attribution.method.replace("_", " "), fontsize=8)
    add_scale(attribution, clip, [*tops, *overlays])
    draw_frame_shares(attribution, clip=clip, moving=moves, ax=bars)
    text = title or heading(attribution, clip, masks, target_name)
    set_texts(figure, text, attribution.caption(clip))
    lay_out(figure)
    return np.array([*tops, *overlays, bars])


@styled
def draw_frame_shares(
    attribution: Attribution,
    *,
    clip: int = 0,
    moving: NDArray[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Each frame's share of one clip's |values| as bars, with the uniform share as a line.

    `moving` (T,) bool shades the frames in which the object moves. Raises ValueError for a clip
    that is not there and for `moving` of another length.
    """
    check_clip(clip, len(attribution.values))
    num_frames = attribution.values.shape[1]
    if moving is not None and np.shape(moving) != (num_frames,):
        raise ValueError(
            f"moving of shape {np.shape(moving)} must be ({num_frames},), a value a frame"
        )
    ax = ax or plt.subplots(figsize=(5.2, 1.8))[1]
    shares = attribution.frame_shares()[clip].numpy()
    if moving is not None:
        for t in np.flatnonzero(moving):
            ax.axvspan(t - 0.5, t + 0.5, color=MOVING, linewidth=0, zorder=0)
    ax.bar(range(num_frames), shares, width=0.6, color=colour(0))
    ax.axhline(1 / num_frames, color="0.3", linestyle="--", linewidth=0.9, label="uniform")
    ax.set_xlim(-0.5, num_frames - 0.5)
    ax.set_xlabel("frame")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(16, integer=True))
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    ax.set_ylabel("share of\n|relevance|")
    handles, _ = ax.get_legend_handles_labels()
    if moving is not None:
        handles.append(Patch(color=MOVING, label="object moves"))
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderpad=0)
    return ax


@styled
def draw_scorecard(
    card: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None
) -> NDArray[Any]:
    """A panel a metric of `attribution_scorecard`: methods as rows, models as colours.

    Points are means over clips with their 95% t-intervals, which end where the score does; the
    tick on each row marks a uniform map's score. At most four panels stand side by side. `ax`: in
    whose place to draw. Returns the array of Axes. Raises ValueError for no rows and a missing
    column.
    """
    check_rows(card, CARD, "analysis.attribution_scorecard")
    metrics, methods, models = (
        card[column].unique().tolist() for column in ("metric", "method", "model")
    )
    columns = min(len(metrics), MOST_COLUMNS)
    lines = -(-len(metrics) // columns)
    height = 0.7 + 0.2 * len(methods) * (1 + 0.5 * len(models))
    figure = place_of(ax, (1.6 + 1.9 * columns, 0.6 + lines * height))
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for spare in axes.flat[len(metrics) :]:
        figure.delaxes(spare)
    drawn = axes.ravel()[: len(metrics)]
    spread = 0.6 / len(models)
    for panel, metric in zip(drawn, metrics, strict=True):
        rows = card[card["metric"] == metric]
        rows = rows.assign(
            low=rows["low"].clip(LEAST.get(metric, 0)), high=rows["high"].clip(None, 1)
        )
        for _, row in rows.iterrows():
            m = models.index(row["model"])
            y = methods.index(row["method"]) + (m - (len(models) - 1) / 2) * spread
            panel.plot([row["low"], row["high"]], [y, y], color=colour(m))
            panel.plot(row["mean"], y, "o", color=colour(m))
            panel.plot(row["uniform"], y, "|", color="0.5", markersize=9)
        better = rows["better"].iloc[0]
        name = textwrap.fill(metric.replace("_", " "), 18)
        panel.set_title(f"{name}\n({better} is better)", fontsize=9)
        panel.grid(axis="y", color="0.92")
        panel.xaxis.set_major_locator(ticker.MaxNLocator(3))
        is_share = metric not in LEAST
        panel.xaxis.set_major_formatter(
            lambda x, _, of=is_share: f"{100 * x:.3g}%" if of else f"{x:g}"
        )
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    handles = [
        plt.Line2D([], [], color=colour(i), marker="o", label=m) for i, m in enumerate(models)
    ]
    handles.append(plt.Line2D([], [], color="0.5", marker="|", linestyle="", label="uniform map"))
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))
    text = title or "Attribution scored against the moving object"
    set_texts(figure, text, f"mean and 95% t-interval over {card['n'].max()} clips")
    lay_out(figure)
    return drawn


def colour_map(attribution: Attribution) -> str:
    """Diverging for values that speak for and against, one hue for those that only weigh."""
    return "RdBu_r" if attribution.signed else "Oranges"


def overlay_image(attribution: Attribution, clip: int, frame: int) -> NDArray[np.float64]:
    """The map of one frame as colour and opacity, (H, W, 4) in [0, 1]."""
    values = attribution.values[clip].numpy()
    limit = symmetric_limit(values)
    scaled = np.clip(values[frame] / limit, -1, 1)
    image = colormaps[colour_map(attribution)]((scaled + 1) / 2 if attribution.signed else scaled)
    image[..., 3] = STRONGEST * np.abs(scaled)
    return image


def draw_overlay(
    ax: Any, attribution: Attribution, pixels: Any, clip: int, frame: int, mask: Any
) -> None:
    """One frame in grey under the map, with the object's contour if mask (T, H, W) is given."""
    grey = np.repeat((pixels[frame] @ GREY)[..., None] / 255, 3, axis=2)
    draw_frame(ax, grey, mask=None if mask is None else mask[frame])
    ax.imshow(overlay_image(attribution, clip, frame))


def draw_frame(ax: Any, image: NDArray[Any], mask: NDArray[Any] | None) -> None:
    """An image without ticks, with the contour of mask (H, W) if there is one."""
    ax.imshow(image)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if mask is not None and mask.any():
        ax.contour(
            np.pad(mask, 1),
            levels=[0.5],
            colors=[CONTOUR],
            linewidths=1.0,
            zorder=3,
            extent=(-1, mask.shape[1], -1, mask.shape[0]),
        )


def add_scale(attribution: Attribution, clip: int, axes: list[Any]) -> None:
    """The colour bar of one clip's map, beside `axes`."""
    limit = symmetric_limit(attribution.values[clip].numpy())
    low = -limit if attribution.signed else 0.0
    scale = ScalarMappable(Normalize(low, limit), colour_map(attribution))
    extend = "both" if attribution.signed else "max"
    words = "against / for the target" if attribution.signed else "relevance"
    bar = axes[0].figure.colorbar(scale, ax=axes, extend=extend, aspect=22, pad=0.01)
    bar.set_label(f"{words}\n(cut at the 99th percentile)", fontsize=8)
    bar.formatter.set_scientific(False)


def heading(attribution: Attribution, clip: int, masks: Any, target_name: str | None) -> str:
    """A title: the share on the object if that is known, else the target and its logit."""
    target = target_name or f"class {int(attribution.target[clip])}"
    if masks is None:
        return f"What speaks for '{target}', logit {attribution.score[clip]:.2f}"
    score = localisation(attribution, masks).iloc[clip]
    return (
        f"'{target}': {score['mass_on_object']:.0%} of the relevance lies on the object, "
        f"which fills {score['uniform_mass_on_object']:.0%} of the clip"
    )


def checked_frames(
    attribution: Attribution, clips: Tensor | NDArray[np.uint8], clip: int
) -> NDArray[np.uint8]:
    """The chosen clip's frames (T, H, W, 3), or ValueError."""
    frames = np.asarray(clips)
    shape = (*attribution.values.shape, 3)
    if frames.dtype != np.uint8 or frames.shape != shape:
        raise ValueError(
            f"clips of {frames.dtype} and shape {frames.shape} must be uint8 and {shape}: the "
            "clips that were explained, before they were normalised"
        )
    check_clip(clip, len(frames))
    return frames[clip]


def check_clip(clip: int, num_clips: int) -> None:
    """Raise ValueError for a clip that is not there."""
    if not 0 <= clip < num_clips:
        raise ValueError(f"clip={clip} is not one of {num_clips}; count from 0")


def _shown_frames(frames: list[int] | None, num_frames: int) -> list[int]:
    if frames is None:
        count = min(MOST_FRAMES, num_frames)
        return np.linspace(0, num_frames - 1, count).round().astype(int).tolist()
    if not frames or not all(0 <= t < num_frames for t in frames):
        raise ValueError(f"frames={frames} must be some of 0 to {num_frames - 1}")
    return frames
