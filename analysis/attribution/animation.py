"""An attribution as a moving picture: frame and overlay side by side, a cursor on the shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from torch import Tensor

from analysis.attribution.attribution import Attribution
from analysis.attribution.draw_attribution import (
    add_scale,
    checked_frames,
    draw_frame,
    draw_frame_shares,
    draw_overlay,
    heading,
)
from analysis.figures.pictures import animation_path, raster, write_animation
from analysis.figures.place import set_texts
from analysis.figures.style import styled


@styled
def save_attribution_animation(
    attribution: Attribution,
    clips: Tensor | NDArray[np.uint8],
    path: str | Path,
    *,
    clip: int = 0,
    masks: Tensor | NDArray[Any] | None = None,
    moving: Tensor | NDArray[Any] | None = None,
    target_name: str | None = None,
    frames_per_s: float = 4.0,
) -> Path:
    """Write one clip's frames and overlays as an animation, and return its path.

    `.png` or `.apng` makes an animated PNG, which plays in a notebook and survives its export to
    HTML (GIF does not); `.mp4` an H.264 video. The rest is what `draw_attribution` takes. Raises
    ValueError for another suffix or a rate that is not between 0.001 and 1000.
    """
    path = animation_path(path)
    pictures = _pictures(attribution, clips, clip, masks, moving, target_name)
    return write_animation(pictures, path, frames_per_s)


def _pictures(
    attribution: Attribution, clips: Any, clip: int, masks: Any, moving: Any, name: str | None
) -> list[NDArray[np.uint8]]:
    """One RGB picture a frame; the figure stays and its images and cursor change."""
    pixels = checked_frames(attribution, clips, clip)
    mask = None if masks is None else np.asarray(masks[clip])
    figure = plt.figure(figsize=(5.0, 4.2))
    try:
        grid = figure.add_gridspec(2, 2, height_ratios=[2.6, 1])
        left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        bars = figure.add_subplot(grid[1, :])
        moves = None if moving is None else np.asarray(moving[clip])
        draw_frame_shares(attribution, clip=clip, moving=moves, ax=bars)
        cursor = bars.axvline(0, color="black", linewidth=1.2)
        add_scale(attribution, clip, [left, right])
        set_texts(figure, heading(attribution, clip, masks, name), attribution.caption(clip))
        pictures = []
        for t, frame in enumerate(pixels):
            left.clear()
            right.clear()
            draw_frame(left, frame, mask=None)
            draw_overlay(right, attribution, pixels, clip, t, mask)
            left.set_title(f"t = {t}", fontsize=8)
            cursor.set_xdata([t, t])
            pictures.append(raster(figure))
            figure.set_layout_engine("none")  # as the first picture found it, so that nothing jumps
    finally:
        plt.close(figure)
    return pictures
