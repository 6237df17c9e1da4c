"""Which frames and which square of a video make a clip: the released rules.

Source: the released PosMLP-Video code's data loaders, re-stated. Two deliberate differences: frame
indices count from 0, and the single crop is the centre one (the released Something-Something loader
takes the left or top one). Resizing is Pillow's bilinear filter, which averages over the source
area when it shrinks; the released resizing does not and aliases.

numpy and Pillow only, so that decoding workers need not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def segment_indices(
    num_frames_in_video: int,
    num_frames: int,
    *,
    rng: np.random.Generator | None = None,
    view: int = 0,
    num_views: int = 1,
) -> NDArray[np.int64]:
    """Return one frame index for each of `num_frames` equal segments, (num_frames,), sorted.

    With `rng` (training) the frame is drawn from its segment, both ends included, so a frame may
    repeat. Without (testing) view `view` of `num_views` takes an evenly spaced place in each.
    The test rule is not symmetric in time: it never takes a short video's last frames.

    Source: released Something-Something loader.
    """
    _check_counts(num_frames_in_video, num_frames, view, num_views)
    segment = (num_frames_in_video - 1) / num_frames
    edges = np.rint(segment * np.arange(num_frames + 1)).astype(np.int64)  # half to even
    if rng is not None:
        return rng.integers(edges[:-1], edges[1:], endpoint=True)
    return edges[:-1] + int(segment / (num_views + 1) * (view + 1))


def dense_indices(
    num_frames_in_video: int,
    num_frames: int,
    *,
    sampling_rate: int,
    fps: float | None = None,
    target_fps: float = 30.0,
    rng: np.random.Generator | None = None,
    view: int = 0,
    num_views: int = 1,
) -> NDArray[np.int64]:
    """Return `num_frames` indices about `sampling_rate` frames apart, (num_frames,), sorted.

    The step is in frames of `target_fps` and scaled to the video's `fps`; without `fps` it is in
    the video's own frames. With `rng` (training) the start is uniform; without, one view is
    central and several spread evenly from start to end. A video that is too short repeats its last
    frame.

    Source: released Kinetics loader (with its offset sampling).
    """
    _check_counts(num_frames_in_video, num_frames, view, num_views)
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate={sampling_rate} is below 1; use a step in frames")
    span = float(sampling_rate * num_frames)
    if fps is not None:
        span = span / target_fps * fps
    room = max(num_frames_in_video - span, 0.0)
    if rng is not None:
        start = rng.uniform(0.0, room)
    elif num_views == 1:
        start = float(room // 2)
    else:
        start = view * float(room // (num_views - 1))
    places = np.linspace(start, start + span - 1, num_frames)
    return np.clip(places, 0, num_frames_in_video - 1).astype(np.int64)


def _check_counts(num_frames_in_video: int, num_frames: int, view: int, num_views: int) -> None:
    if num_frames_in_video < 1:
        raise ValueError(f"a video of {num_frames_in_video} frames; it needs at least 1")
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} is below 1; use the frames of one clip")
    if not 0 <= view < num_views:
        raise ValueError(f"view={view} is not one of num_views={num_views}; count from 0")


def resize_short_side(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize frames (N, H, W, 3) so that the short side is `size` pixels and the aspect is kept.

    The long side is rounded down. Frames of that size are returned as they are.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    if short == size:
        return frames
    shape = (width * size // short, height * size // short)  # Pillow's order
    resized = [
        np.asarray(Image.fromarray(f).resize(shape, Image.Resampling.BILINEAR)) for f in frames
    ]
    return np.stack(resized)


def random_box(
    height: int, width: int, min_area: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a training crop (x, y, right, bottom): at least `min_area` of the frame, as a share.

    Its shape, from 3:4 to 4:3, is uniform on a logarithmic scale. After ten draws that do not fit
    it is the largest central box of an allowed shape.
    Source: released training crop, which is Inception's (and torchvision's RandomResizedCrop).
    """
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        shape = np.exp(rng.uniform(np.log(low), np.log(high)))
        box_width, box_height = round(np.sqrt(area * shape)), round(np.sqrt(area / shape))
        if 0 < box_width <= width and 0 < box_height <= height:
            x = int(rng.integers(0, width - box_width, endpoint=True))
            y = int(rng.integers(0, height - box_height, endpoint=True))
            return x, y, x + box_width, y + box_height
    box_width = min(width, round(height * high))
    box_height = min(height, round(width / low))
    x, y = (width - box_width) // 2, (height - box_height) // 2
    return x, y, x + box_width, y + box_height


def resize_box(
    frames: NDArray[np.uint8], box: tuple[int, int, int, int], size: int
) -> NDArray[np.uint8]:
    """Resize the box (x, y, right, bottom) of frames (N, H, W, 3) to (N, size, size, 3)."""
    x, y, right, bottom = box
    resized = [
        np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.BILINEAR))
        for f in frames[:, y:bottom, x:right]
    ]
    return np.stack(resized)


def crop_offsets(height: int, width: int, size: int, crop: int, num_crops: int) -> tuple[int, int]:
    """Return (y, x) of a `size` x `size` crop.

    One crop is the centre. Three are left, centre, right, or top, centre, bottom if H > W.
    Source: released test loader, whose centre is rounded up.
    """
    if min(height, width) < size:
        raise ValueError(f"a {height} x {width} frame holds no crop of {size}; resize it first")
    check_crop(crop, num_crops)
    y, x = -((size - height) // 2), -((size - width) // 2)
    place = crop if num_crops == 3 else 1
    if place == 1:
        return y, x
    if height > width:
        return (0 if place == 0 else height - size), x
    return y, (0 if place == 0 else width - size)


def check_views(num_views: int, num_crops: int) -> None:
    """Raise ValueError unless there is at least one view, of 1 or 3 crops."""
    if num_views < 1:
        raise ValueError(f"num_views={num_views} is below 1; use a positive number of clips")
    check_crop(0, num_crops)


def check_crop(crop: int, num_crops: int) -> None:
    """Raise ValueError unless `crop` is one of 1 or 3 crops."""
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops={num_crops} is neither 1 (centre) nor 3 (along the long side)")
    if not 0 <= crop < num_crops:
        raise ValueError(f"crop={crop} is not one of num_crops={num_crops}; count from 0")


def by_turns(labels: Sequence[int], rng: np.random.Generator) -> list[int]:
    """All clips, in a random order in which each class has a turn before any has its next."""
    turns: dict[int, int] = {}
    placed = []
    for place in rng.permutation(len(labels)).tolist():
        turn = turns[labels[place]] = turns.get(labels[place], -1) + 1
        placed.append((turn, labels[place], place))
    return [place for _, _, place in sorted(placed)]
