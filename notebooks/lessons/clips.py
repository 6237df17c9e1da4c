"""The clips of the lessons: drawn anew, as rows of frames, and moving."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from IPython.display import Image
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from torch import Tensor

from analysis.figures.pictures import raster, to_apng
from analysis.figures.style import styled
from posmlp.data.augment import MEAN, STD
from posmlp.data.digits.moving_digits import MovingDigits, RenderedClips
from posmlp.data.sources import GeneratedClips
from posmlp.train.batches import normalise

__all__ = [
    "GeneratedClips",
    "MovingDigits",
    "RenderedClips",
    "filmstrip",
    "moving",
    "normalise",
    "pixels_of",
]

JPEG_QUALITY = 80
GAP = 2  # pixels of a clip between two frames of a strip
OUTLINE = "#F0E442"


@styled
def filmstrip(
    clips: Tensor,
    names: Sequence[str],
    title: str,
    *,
    masks: Tensor | None = None,
    frame_inches: float = 1,
) -> Image:
    """A row of frames a clip, named on its left: clips (B, T, H, W, 3) uint8 -> a JPEG.

    `masks` (B, T, H, W) bool: what is outlined, such as the mover. Raises ValueError unless there
    is one name a clip.
    """
    _check_names(clips, names)
    num_frames, _, width = clips.shape[1:4]
    size = (frame_inches * num_frames + 1.3, frame_inches * len(clips) + 0.7)
    figure, axes = plt.subplots(len(clips), 1, figsize=size, squeeze=False)
    for i, (ax, name) in enumerate(zip(axes.flat, names, strict=True)):
        ax.imshow(_in_a_row(clips[i].numpy(), 255))
        if masks is not None and masks[i].any():
            _outline(ax, _in_a_row(masks[i].numpy(), 0))
        ax.set(xticks=[], yticks=[(clips.shape[2] - 1) / 2])
        ax.set_yticklabels([name], fontsize=9)
        ax.tick_params(left=False, bottom=False)
        ax.spines[:].set_visible(False)
    middles = np.arange(num_frames) * (width + GAP) + (width - 1) / 2
    axes.flat[-1].set_xticks(middles, [f"t = {t}" for t in range(num_frames)])
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    file = BytesIO()
    figure.savefig(file, format="jpeg", pil_kwargs={"quality": JPEG_QUALITY})
    plt.close(figure)
    return Image(file.getvalue(), format="jpeg")


def _in_a_row(frames: NDArray[Any], between: int) -> NDArray[Any]:
    """Frames (T, H, W, ...) beside each other, GAP columns of one value between two."""
    room = [(0, 0), (0, 0), (0, GAP)] + [(0, 0)] * (frames.ndim - 3)
    padded = np.pad(frames, room, constant_values=between)
    return np.concatenate(list(padded), axis=1)[:, :-GAP]


def _outline(ax: Any, mask: NDArray[np.bool_]) -> None:
    around = (-1, mask.shape[1], -1, mask.shape[0])
    options = {"levels": [0.5], "colors": [OUTLINE], "linewidths": 1.0}
    ax.contour(np.pad(mask, 1), extent=around, **options)


@styled
def moving(clips: Tensor, names: Sequence[str], *, frames_per_s: float = 4) -> Image:
    """Clips side by side that play again and again: clips (B, T, H, W, 3) uint8 -> animated PNG.

    Raises ValueError unless there is one name a clip.
    """
    _check_names(clips, names)
    figure, axes = plt.subplots(1, len(clips), figsize=(1.4 * len(clips), 1.6), squeeze=False)
    shown = []
    for ax, clip, name in zip(axes.flat, clips.numpy(), names, strict=True):
        shown.append(ax.imshow(clip[0]))
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9, loc="center", fontweight="normal")
        ax.spines[:].set_visible(False)
    pictures = []
    for t in range(clips.shape[1]):
        for image, clip in zip(shown, clips.numpy(), strict=True):
            image.set_data(clip[t])
        pictures.append(raster(figure))
    plt.close(figure)
    return Image(to_apng(pictures, frames_per_s), format="png")


def _check_names(clips: Tensor, names: Sequence[str]) -> None:
    if len(names) != len(clips):
        raise ValueError(f"{len(names)} names for {len(clips)} clips; give one a clip")


def pixels_of(clips: Tensor) -> Tensor:
    """The inverse of `normalise`: (B, 3, T, H, W) float -> (B, T, H, W, 3) uint8."""
    return ((clips * STD + MEAN).clamp(0, 1) * 255).byte().movedim(1, -1)
