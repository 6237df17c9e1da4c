"""Where clips come from: one interface over generated clips and video files.

Shapes: k clips a batch, T frames, S pixels a side.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.config_checks import one_of
from posmlp.data.augment import uploaded
from posmlp.data.clips import ClipRule
from posmlp.data.datasets import VideoClips
from posmlp.data.digits.catalogue import DIFFICULTIES
from posmlp.data.digits.moving_digits import MovingDigits, RenderedClips
from posmlp.data.files.pool import DecodePool
from posmlp.data.user_cache import CACHE_GIB, NUM_WORKERS

MOST_ON_GPU = 2 * 2**30
"""Bytes of clips that are held in a GPU's memory; more stay in the machine's."""


def check_source(source: object) -> None:
    """Raise ValueError unless an object has the parts of a `ClipSource` that are always read."""
    parts = ("name", "classes", "labels", "reverse_of", "batches", "__len__")
    if missing := [part for part in parts if not hasattr(source, part)]:
        raise ValueError(
            f"data={reprlib.repr(source)} is no source of clips, as it has no {missing[0]!r}; give "
            "a folder of videos, moving-digits, or what posmlp.data.sources.ClipSource describes"
        )


class ClipSource(Protocol):
    """Labelled clips of one split, in an order; what `fit` and `evaluate` read."""

    name: str
    classes: tuple[str, ...]

    @property
    def labels(self) -> Tensor:
        """(n,) int64; where clips have several labels (n, num_classes), floats of 0 and 1."""
        ...

    @property
    def reverse_of(self) -> Tensor | None:
        """(num_classes,) int64: the class of each class's time reversal, or None."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self,
        index_batches: Iterable[Tensor],
        *,
        rngs: Iterable[np.random.Generator] | None = None,
        view: int = 0,
        num_views: int = 1,
        crop: int = 0,
        num_crops: int = 1,
    ) -> Iterator[Tensor]:
        """uint8 clips (k, T, S, S, 3) of each batch of indices; random views if rngs are given."""
        ...

    def describe(self) -> dict[str, Any]:
        """What determines the clips, as plain values."""
        ...


@dataclass
class HeldClips:
    """Clips in memory, (n, T, S, S, 3) uint8, with labels (n,); every view is the whole clip.

    `described` is what determines the clips; `truth`, where it was kept, says where they move.
    """

    name: str
    classes: tuple[str, ...]
    labels: Tensor
    reverse_of: Tensor | None
    clips: Tensor
    described: dict[str, Any]
    truth: RenderedClips | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        index_batches: Iterable[Tensor],
        *,
        rngs: Iterable[np.random.Generator] | None = None,
        view: int = 0,
        num_views: int = 1,
        crop: int = 0,
        num_crops: int = 1,
    ) -> Iterator[Tensor]:
        """uint8 clips (k, T, S, S, 3) of each batch of indices.

        Raises ValueError for more than one view or crop: a clip in memory has no other.
        """
        if (num_views, num_crops) != (1, 1):
            raise ValueError(
                f"num_views={num_views}, num_crops={num_crops}, but these clips have exactly "
                "the model's frames and size; use one view and one crop"
            )
        return (self.clips[uploaded(each, self.clips.device)] for each in index_batches)

    def held_on(self, device: torch.device) -> Self:
        """The same source with its clips in a GPU's memory, where they are chosen; else itself."""
        if device.type != "cuda" or self.clips.nbytes > MOST_ON_GPU:
            return self
        moved = copy.copy(self)
        moved.clips = uploaded(self.clips, device)
        return moved

    def describe(self) -> dict[str, Any]:
        return self.described

    def close(self) -> None:
        """Nothing is held open."""


class GeneratedClips(HeldClips):
    """Moving digits rendered once and kept in memory."""

    def __init__(self, digits: MovingDigits) -> None:
        clips = digits.render(torch.arange(len(digits))).clips
        super().__init__(
            digits.name, digits.classes, digits.labels, digits.reverse_of, clips, digits.describe()
        )
        self.kept = {"where": "memory", "why": "they are rendered, not decoded"}


def open_clips(
    data: str,
    split: str,
    config: PosMLPConfig,
    *,
    train: TrainConfig,
    num_workers: int = NUM_WORKERS,
    cache_gib: float = CACHE_GIB,
    pool: DecodePool | None = None,
) -> VideoClips | GeneratedClips:
    """The clips that `data` names, at the frames and size that `config` takes.

    `split`: train, val or test. `moving-digits` or `moving-digits:DIFFICULTY` are generated, as
    many as `train` says (val and test clips in exactly reversed pairs); anything else is a folder
    of videos, `ROOT` or `LAYOUT:ROOT`, of which decoded frames are kept as `VideoClips.open` says.
    `pool`: decoding workers that several splits share, in place of `num_workers` for this one.
    Close what is returned when done: it may hold decoding processes.
    Raises ValueError or VideoError, naming the value and the mend.
    """
    side = config.side  # or ValueError, before anything is looked for
    if data.split(":")[0] == MovingDigits.name:
        difficulty = data.partition(":")[2] or "medium"
        one_of(difficulty, DIFFICULTIES, "difficulty")
        sizes = {
            "train": train.num_clips,
            "val": train.num_val_clips,
            "test": train.num_test_clips,
        }
        one_of(split, sizes, "split")
        digits = MovingDigits(
            split,
            sizes[split],
            difficulty=difficulty,
            num_frames=config.num_frames,
            image_size=side,
            paired=split != "train",
        )
        return GeneratedClips(digits)
    if ":" not in data and not Path(data).exists():
        raise ValueError(
            f"no folder at {data!r}, and it is not a generated data set; give a folder of videos "
            f"(LAYOUT:ROOT names its layout), or 'moving-digits[:{'|'.join(DIFFICULTIES)}]'"
        )
    return VideoClips.open(
        *(data, split),
        num_workers=num_workers,
        max_bad_share=train.max_bad_share,
        cache_gib=cache_gib,
        pool=pool,
        **vars(ClipRule.of(config, train)),
    )
