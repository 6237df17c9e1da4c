"""Videos that are stored as images: folders of one a frame, numbered in their names, or one image.

No torch here: decoding workers import this file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from posmlp.data.files.packets import VideoError
from posmlp.data.layouts.listing import FRAME_SUFFIXES


def is_stored_as_images(path: str) -> bool:
    """Whether `path` is a folder, or itself an image: a video of one frame."""
    return path.lower().endswith(FRAME_SUFFIXES) or os.path.isdir(path)


def frame_files(path: str) -> tuple[list[str], int]:
    """Return the images of a folder in the order of their numbers, and how many numbers lack.

    An image is its own only frame. Raises VideoError if a folder holds no images, or images of
    which two have one number.
    """
    if not os.path.isdir(path):
        return [path], 0
    numbered: dict[int, str] = {}
    for name in os.listdir(path):
        if name.startswith(".") or not name.lower().endswith(FRAME_SUFFIXES):
            continue
        digits = re.findall(r"\d+", Path(name).stem)
        if not digits:
            raise VideoError(path, f"frame {name} has no number in its name; number the frames")
        if (number := int(digits[-1])) in numbered:
            raise VideoError(path, f"frames {numbered[number]} and {name} have one number {number}")
        numbered[number] = name
    if not numbered:
        raise VideoError(path, "a folder without frames; give a video file or a folder of images")
    order = sorted(numbered)
    files = [os.path.join(path, numbered[number]) for number in order]
    return files, order[-1] - order[0] + 1 - len(order)


def frame_size(path: str) -> tuple[int, int]:
    """Return height and width of a folder's first frame."""
    files, _ = frame_files(path)
    with Image.open(files[0]) as image:
        return image.height, image.width


def decode_frames(
    path: str, files: list[str], indices: Iterable[int], short_side: int | None
) -> NDArray[np.uint8]:
    """Read the frames `indices` of `files`, (N, H, W, 3); JPEGs are decoded at a reduced size.

    Raises VideoError that names the frame that cannot be read or that has another size.
    """
    frames: list[NDArray[np.uint8]] = []
    for index in indices:
        name = os.path.basename(files[index])
        try:
            with Image.open(files[index]) as image:
                if short_side is not None:
                    image.draft("RGB", _bounds(image.size, short_side))
                frames.append(np.asarray(image.convert("RGB")))
        except (UnidentifiedImageError, OSError) as error:
            what = "is no image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise VideoError(path, f"frame {name} cannot be read ({what})") from error
        if frames[-1].shape != frames[0].shape:
            raise VideoError(
                path,
                f"frame {name} is {_size(frames[-1])} pixels but an earlier one {_size(frames[0])}",
            )
    return np.stack(frames)


def _bounds(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return the smallest size that JPEG decoding may shrink to: its short side is over short_side.

    Over it, since JPEG decoding rounds the long side up, and `resize_short_side` down.
    """
    scale = (short_side + 1) / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _size(frame: NDArray[np.uint8]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
