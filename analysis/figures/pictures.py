"""Figures as pixels, and pictures as an animation: animated PNG or H.264 video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from posmlp.checkpoint import write_atomically

SUFFIXES = (".png", ".apng", ".mp4")
RATES = 0.001, 1000  # frames a second that both formats can write
NUM_COLOURS = 128  # of an animated PNG's palette
Pictures = Sequence[NDArray[np.uint8]]


def raster(figure: Figure) -> NDArray[np.uint8]:
    """The figure as drawn, (height, width, 3) uint8 RGB."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def png(figure: Any) -> bytes:
    """A matplotlib figure as a PNG file's bytes; the figure is closed."""
    file = BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)
    return file.getvalue()


def animation_path(path: str | Path) -> Path:
    """The path as it is. Raises ValueError unless it ends in one of SUFFIXES."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    return path


def write_animation(pictures: Pictures, path: Path, frames_per_s: float) -> Path:
    """Write `.mp4` as H.264 video, `.png` and `.apng` as animated PNG; returns the path."""
    encode = to_mp4 if path.suffix == ".mp4" else to_apng
    write_atomically(path, encode(pictures, frames_per_s))
    return path


def to_apng(pictures: Pictures, frames_per_s: float) -> bytes:
    """An animated PNG that repeats; unlike a GIF it survives a notebook's export to HTML.

    `pictures`: RGB, all of one size. In full colour, or with one palette of NUM_COLOURS for all
    pictures where that is smaller, as it is for most figures without photographs. Raises
    ValueError for a rate beyond RATES and for pictures of several sizes.
    """
    _check(pictures, frames_per_s)
    images = [Image.fromarray(picture) for picture in pictures]
    # An animated PNG holds a single palette, so that it must serve all pictures.
    palette = Image.fromarray(np.concatenate(pictures)).quantize(NUM_COLOURS)
    few = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    return min(_png(images, frames_per_s), _png(few, frames_per_s), key=len)


def to_mp4(pictures: Pictures, frames_per_s: float) -> bytes:
    """An H.264 video; an odd last row or column is cut, since the codec wants even sides.

    `pictures`: RGB, all of one size. Raises ValueError as `to_apng` does.
    """
    _check(pictures, frames_per_s)
    file = BytesIO()
    rate = Fraction(frames_per_s).limit_denominator(1000)
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            even = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _check(pictures: Pictures, frames_per_s: float) -> None:
    slowest, fastest = RATES
    if not slowest <= frames_per_s <= fastest:
        raise ValueError(
            f"frames_per_s={frames_per_s} must lie between {slowest} and {fastest}, for example 2"
        )
    shapes = {picture.shape for picture in pictures}
    if len(shapes) != 1:
        raise ValueError(f"pictures of shapes {sorted(shapes)}; give one or more of one shape")


def _png(images: Sequence[Image.Image], frames_per_s: float) -> bytes:
    file = BytesIO()
    images[0].save(
        file, "PNG", save_all=True, append_images=images[1:], duration=1000 / frames_per_s, loop=0
    )
    return file.getvalue()
