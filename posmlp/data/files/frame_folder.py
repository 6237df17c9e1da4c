"""Videos that are stored as images: folders of one a frame, numbered in their names, or one image.

No torch here: decoding workers import this file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from posmlp.data.files.packets import VideoError, got_on
from posmlp.data.layouts.listing import FRAME_SUFFIXES

_ANIMATED = ("GIF", "PNG", "WEBP")  # formats of which a file may be a film


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


def frame_sizes(path: str) -> list[tuple[int, int]]:
    """Return height and width of each of a folder's frames, from their headers."""
    sizes = []
    for file in frame_files(path)[0]:
        with _opened(path, file) as image:
            sizes.append((image.height, image.width))
    return sizes


def decode_frames(
    path: str, files: list[str], indices: Iterable[int], short_side: int | None
) -> NDArray[np.uint8]:
    """Read the frames `indices` of `files`, (N, H, W, 3); JPEGs are decoded at a reduced size.

    H, W are those of the first of all frames: a frame of another size is scaled to cover that, and
    cut in its middle. Raises VideoError that names the frame that cannot be read.
    """
    with _opened(path, files[0]) as first:
        _reduce(first, short_side)
        size = first.size
    frames: list[NDArray[np.uint8]] = []
    for index in indices:
        got_on()
        with _opened(path, files[index]) as image:
            _reduce(image, short_side)
            rgb = image.convert("RGB")
        frames.append(
            np.asarray(
                rgb if rgb.size == size else ImageOps.fit(rgb, size, Image.Resampling.BILINEAR)
            )
        )
    return np.stack(frames)


@contextmanager
def _opened(path: str, file: str) -> Iterator[Image.Image]:
    """An image of 8 bits a colour and of one picture; VideoError names it where it is not."""
    name = os.path.basename(file)
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise VideoError(
                    path,
                    f"frame {name} has more than 8 bits a pixel (mode {image.mode}); convert it to "
                    "8 bits, as its range of values is not known here",
                )
            if image.format in _ANIMATED and getattr(image, "n_frames", 1) > 1:
                raise VideoError(
                    path,
                    f"frame {name} is an animation, of which a frame has but one picture; convert "
                    "it to a video, or to one picture a file",
                )
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        what = "is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise VideoError(path, f"frame {name} cannot be read ({what})") from error


def _reduce(image: Image.Image, short_side: int | None) -> None:
    """Let JPEG decoding shrink to a short side over `short_side`.

    Over it, since JPEG decoding rounds the long side up, and `resize_short_side` down.
    """
    if short_side is not None:
        scale = (short_side + 1) / min(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image.draft("RGB", (width, height))
