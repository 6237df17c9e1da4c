"""Video files in a lesson: written, read, listed, and answered by a model."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posmlp.data.clips import ClipRule, Draw, load_clip
from posmlp.data.digits.synthetic import write_dataset
from posmlp.data.files.clip_files import encode_clip
from posmlp.data.files.packets import VideoError
from posmlp.data.layouts.layouts import list_videos
from posmlp.data.time_need import need_of_time
from posmlp.predict import TrainedModel, predict_video

__all__ = [
    "ClipRule",
    "Draw",
    "TrainedModel",
    "VideoError",
    "list_videos",
    "load_clip",
    "need_of_time",
    "predict_video",
    "reports",
    "write_dataset",
    "write_film",
]


@contextlib.contextmanager
def reports() -> Iterator[io.StringIO]:
    """What is written to stderr meanwhile, such as what a training says of its data."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        yield said


def write_film(path: Path, frames: NDArray[np.uint8], *, frames_per_s: int = 12) -> Path:
    """Frames (T, H, W, 3) of even sides as an H.264 file, as a camera would write it.

    A constant quantiser and one thread: the same bytes each time. Returns the path.
    """
    encode_clip(path, frames, {"qp": "18"}, frames_per_s)
    return path
