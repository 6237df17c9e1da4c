"""Whether two files show the same footage: by small grey pictures of their frames.

No torch here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posmlp.data.files.video import read_video

SIDE = 16  # pixels
LEAST_CONTRAST = 8.0  # grey levels; fades and blank frames look alike in any two files
SAME_PICTURE = 0.98  # correlation of two pictures
SAME_FOOTAGE = 8  # frames of one file that the other shows too

Pictures = NDArray[np.float32]
"""Of frames of a file, (n, SIDE * SIDE), each of mean 0 and length 1 or less."""


def picture(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One frame's, (SIDE * SIDE,)."""
    grey = Image.fromarray(frame).convert("L")
    small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    centred = (small - small.mean()).ravel()
    return centred / max(float(np.linalg.norm(centred)), LEAST_CONTRAST * SIDE)


def pictures_of(path: str, most: int) -> Pictures:
    """Pictures of at most so many frames, evenly spaced. Raises VideoError."""

    def evenly(num_frames: int, _fps: float | None) -> NDArray[np.int64]:
        return np.unique(np.linspace(0, num_frames - 1, most).astype(np.int64))

    frames = read_video(path, evenly, short_side=SIDE).frames
    return np.stack([picture(frame) for frame in frames])


def shared_pictures(
    first: Pictures, others: list[Pictures]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many pictures of the first each of the others has too, and how many of its the first."""
    starts = np.cumsum([0, *map(len, others[:-1])])
    alike = first @ np.concatenate(others).T > SAME_PICTURE
    of_first = np.logical_or.reduceat(alike, starts, axis=1).sum(axis=0)
    return of_first, np.add.reduceat(alike.any(axis=0).astype(np.int64), starts)


def enough(first: Pictures, other: Pictures) -> int:
    """How many shared pictures tell that two files show the same footage."""
    return min(SAME_FOOTAGE, len(first), len(other))
