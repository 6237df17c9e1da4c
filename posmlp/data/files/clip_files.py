"""What a data set that we write is made of: small exact video files, in a folder that is whole.

No torch here.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posmlp.data.files.packets import pyav

FRAMES_PER_S = 8
# decord 0.6.0 returns a wrong number of channels at these widths, without a word.
WIDTHS_DECORD_MISREADS = (16, 24, 48, 72)
# Every frame is coded alone and at one quantiser: ordinary groups of pictures, and rate control,
# would make a reversed clip differ from its partner by more than the order of its frames.
H264_OPTIONS = {"preset": "ultrafast", "qp": "20", "g": "1", "x264-params": "keyint=1"}


def check_width(image_size: int) -> None:
    """Raise ValueError for a side in pixels at which clips could not be read back."""
    if image_size in WIDTHS_DECORD_MISREADS:
        raise ValueError(
            f"image_size={image_size} is a width that decord reads with wrong channels "
            f"({', '.join(map(str, WIDTHS_DECORD_MISREADS))}); use 32, 64 or 112"
        )


def encode_clip(
    file: Path | io.BytesIO,
    frames: NDArray[np.uint8],
    options: Mapping[str, str] = H264_OPTIONS,
    frames_per_s: int = FRAMES_PER_S,
) -> None:
    """Write frames (T, H, W, 3) uint8 RGB as H.264, every frame alone where no options say else."""
    av = pyav()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frames_per_s, options=dict(options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def compressed(frames: NDArray[np.uint8], rate_factor: int) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) uint8 RGB through H.264 of a constant rate factor (51 is coarsest)."""
    file, (height, width) = io.BytesIO(), frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    encode_clip(file, even, {"crf": str(rate_factor)})
    file.seek(0)
    with pyav().open(file) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(found)[:, :height, :width]


@contextmanager
def whole_folder(root: Path) -> Iterator[Path]:
    """Give a folder to write in, which becomes `root` when all is written, and else is removed.

    `root` must not exist, or be empty.
    """
    partial = root.with_name(f".{root.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if root.exists():
            root.rmdir()
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
