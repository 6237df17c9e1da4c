"""From a video file to one clip: the rule, the random draw, and what a decoding worker does.

No torch here: decoding workers import this file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.files.video import VideoFrames, num_pixels, read_video
from posmlp.data.sampling import (
    check_crop,
    crop_offsets,
    dense_indices,
    random_box,
    resize_box,
    resize_short_side,
    segment_indices,
)

Sampling = Literal["segment", "dense"]
LONG_FILM = 2**32
"""Pixels of all frames, about a minute of 1080p, above which a film is not decoded whole."""


@dataclass(frozen=True)
class Draw:
    """Which clip of a video: a random one by its `seed`, or else a test view and crop."""

    seed: int | None = None
    view: int = 0
    num_views: int = 1
    crop: int = 0
    num_crops: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.view < self.num_views:
            raise ValueError(f"view={self.view} is not one of num_views={self.num_views}")
        check_crop(self.crop, self.num_crops)

    def generator(self, purpose: int) -> np.random.Generator | None:
        """Return a fresh generator, so that asking twice gives the same numbers, or None."""
        return None if self.seed is None else np.random.default_rng((self.seed, purpose))


@dataclass(frozen=True)
class ClipRule:
    """How a clip of `num_frames` frames of `image_size` x `image_size` is cut from a video.

    `min_crop_area` is the smallest area of a training crop, as a share of the frame's, before it is
    resized; at 1 crops are random squares of the video resized to its short side.
    `min_time_share` is the smallest share of a video's frames that a training clip spans.
    `test_short_side` is the short side in pixels from which a single test crop is cut, 0 for
    `image_size`.
    """

    num_frames: int
    image_size: int
    sampling: Sampling = "segment"
    sampling_rate: int = 1
    min_crop_area: float = 1.0
    test_short_side: int = 0
    min_time_share: float = 1.0

    def __post_init__(self) -> None:
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling={self.sampling!r} is not one of {get_args(Sampling)}")
        for name in ("num_frames", "image_size", "sampling_rate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; use a positive integer")
        for name in ("min_crop_area", "min_time_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a share in (0, 1]")
        if self.test_short_side and self.test_short_side < self.image_size:
            raise ValueError(
                f"test_short_side={self.test_short_side} holds no crop of {self.image_size}; use "
                f"at least {self.image_size}, or 0 for that"
            )

    @classmethod
    def of(cls, config: PosMLPConfig, train: TrainConfig) -> Self:
        """The rule by which a training cuts what its model takes; ValueError for oblong frames."""
        names = [field.name for field in fields(cls)[2:]]
        return cls(config.num_frames, config.side, **{n: getattr(train, n) for n in names})

    @property
    def resizes_crops(self) -> bool:
        return self.min_crop_area < 1

    def cuts_as_decoded(self, draw: Draw) -> bool:
        """Whether a draw cuts from frames as they are decoded, instead of resized to one side."""
        return self.resizes_crops and draw.seed is not None

    def short_side(self, draw: Draw) -> int:
        """Return the short side in pixels, at least, that the frames of a draw are needed at.

        Source: released loaders, which cut training crops of 224 from 256, three test crops from
        224 and one from `test_short_side`.
        """
        if draw.seed is not None:
            return round(self.image_size * 8 / 7) if self.resizes_crops else self.image_size
        return (self.test_short_side or self.image_size) if draw.num_crops == 1 else self.image_size

    def indices(self, num_frames: int, fps: float | None, draw: Draw) -> NDArray[np.int64]:
        """Return the clip's frames, (T,), in a video of `num_frames`.

        Segment sampling takes a video of exactly T frames whole. The released rule would repeat
        one of its frames and drop its last, and so tell a clip from its reversal by that alone.
        """
        rng = draw.generator(0)
        if self.sampling == "dense":
            return dense_indices(
                num_frames, self.num_frames, sampling_rate=self.sampling_rate, fps=fps,
                rng=rng, view=draw.view, num_views=draw.num_views,
            )  # fmt: skip
        if rng is not None and self.min_time_share < 1 and num_frames > 1:
            span = max(2, round(num_frames * rng.uniform(self.min_time_share, 1.0)))
            start = rng.integers(0, num_frames - span, endpoint=True)
            return start + segment_indices(span, self.num_frames, rng=rng)
        if num_frames == self.num_frames:
            return np.arange(num_frames)
        return segment_indices(
            num_frames, self.num_frames, rng=rng, view=draw.view, num_views=draw.num_views
        )

    def crop(self, frames: NDArray[np.uint8], draw: Draw) -> NDArray[np.uint8]:
        """Cut the square from frames (T, H, W, 3), at a random place or at the draw's."""
        size = self.image_size
        rng = draw.generator(1)
        if rng is not None and self.resizes_crops:
            height, width = frames.shape[1:3]
            return resize_box(frames, random_box(height, width, self.min_crop_area, rng), size)
        frames = resize_short_side(frames, self.short_side(draw))
        height, width = frames.shape[1:3]
        if rng is None:
            y, x = crop_offsets(height, width, size, draw.crop, draw.num_crops)
        else:  # every offset, the last included
            y, x = rng.integers(0, (height - size, width - size), endpoint=True).tolist()
        return frames[:, y : y + size, x : x + size]


def load_clip(path: str, rule: ClipRule, draw: Draw) -> VideoFrames:
    """Read one clip: its frames are (T, image_size, image_size, 3)."""
    video = read_video(
        path,
        lambda num_frames, fps: rule.indices(num_frames, fps, draw),
        short_side=rule.short_side(draw),
    )
    return replace(video, frames=np.ascontiguousarray(rule.crop(video.frames, draw)))


def draw_of(split: str) -> Draw:
    """A draw as a split is read for: random ones of train, the single test view of val and test."""
    return Draw(0 if split == "train" else None)


def load_whole(path: str, rule: ClipRule, draw: Draw, max_frames: int) -> VideoFrames:
    """Read all frames as draws like this one cut from them; only the first if over `max_frames`.

    None of a LONG_FILM, of which a clip is read as a check.
    """
    if num_pixels(path) > LONG_FILM:
        clip = load_clip(path, rule, Draw())
        return replace(clip, frames=clip.frames[:0])
    side = rule.short_side(draw)
    video = read_video(
        path,
        lambda num_frames, fps: np.arange(num_frames if num_frames <= max_frames else 1),
        short_side=side,
    )
    if rule.cuts_as_decoded(draw):
        return video
    return replace(video, frames=resize_short_side(video.frames, side))
