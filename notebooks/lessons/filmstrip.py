"""Clips as rows of frames, kept in a notebook as one small JPEG; and one as a film of its own."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from IPython.display import Image
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from torch import Tensor

from analysis.figures.style import styled

JPEG_QUALITY = 80


@styled
def filmstrip(clips: Tensor, names: Sequence[str], title: str, *, frame_inches: float = 1) -> Image:
    """A row of frames a clip, named on its left: clips (B, T, H, W, 3) uint8 -> a JPEG.

    Raises ValueError unless there is one name a clip.
    """
    if len(names) != len(clips):
        raise ValueError(f"{len(names)} names for {len(clips)} clips; give one a clip")
    frames = clips.shape[1]
    size = (frame_inches * frames + 1.3, frame_inches * len(clips) + 0.7)
    figure, axes = plt.subplots(len(clips), 1, figsize=size, squeeze=False)
    for ax, clip, name in zip(axes.flat, clips.numpy(), names, strict=True):
        ax.imshow(np.concatenate(list(clip), axis=1), extent=(-0.5, frames - 0.5, 1, 0))
        ax.set_aspect("auto")
        ax.set(xticks=[], yticks=[0.5])
        ax.set_yticklabels([name], fontsize=9)
        ax.tick_params(left=False)
        ax.spines[:].set_visible(False)
    axes.flat[-1].set_xticks(range(frames), [f"t = {t}" for t in range(frames)])
    axes.flat[-1].tick_params(bottom=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    file = BytesIO()
    figure.savefig(file, format="jpeg", pil_kwargs={"quality": JPEG_QUALITY})
    plt.close(figure)
    return Image(file.getvalue(), format="jpeg")


def write_film(path: Path, frames: NDArray[np.uint8], *, frames_per_s: int = 12) -> Path:
    """Frames (T, H, W, 3) of even sides as an H.264 file, as a camera would write it.

    A constant quantiser and one thread: the same bytes each time. Returns the path.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_s, options={"qp": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
