"""Figures as pixels, and pictures as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

NUM_COLOURS = 128  # of an animated PNG's palette: a quarter of the size of full colour


def raster(figure: Figure) -> NDArray[np.uint8]:
    """The figure as drawn, (height, width, 3) uint8 RGB."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def to_apng(pictures: Sequence[NDArray[np.uint8]], frames_per_s: float) -> bytes:
    """An animated PNG that repeats; unlike a GIF it survives a notebook's export to HTML.

    Raises ValueError for a rate that is not positive.
    """
    if frames_per_s <= 0:
        raise ValueError(f"frames_per_s={frames_per_s} must be positive, for example 2")
    first, *others = (Image.fromarray(picture).quantize(NUM_COLOURS) for picture in pictures)
    file = BytesIO()
    first.save(
        file, "PNG", save_all=True, append_images=others, duration=1000 / frames_per_s, loop=0
    )
    return file.getvalue()
