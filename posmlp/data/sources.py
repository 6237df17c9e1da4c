"""Where clips come from: one interface over generated clips and video files.

Shapes: k clips a batch, T frames, S pixels a side.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self, cast

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
from posmlp.own.code import called, file_of, thing, told
from posmlp.own.names import Options, is_own_data, short

MOST_ON_GPU = 2 * 2**30
"""Bytes of clips that are held in a GPU's memory; more stay in the machine's."""


def check_source(source: object, *more: str) -> None:
    """Raise ValueError unless an object has what is always read of a `ClipSource`, and `more`."""
    parts = ("name", "classes", "labels", "reverse_of", "batches", "__len__", *more)
    if missing := [part for part in parts if not hasattr(source, part)]:
        raise ValueError(
            f"data={reprlib.repr(source)} is no source of clips, as it has no {missing[0]!r}; give "
            "a folder of videos, moving-digits, or what posmlp.data.sources.ClipSource describes"
        )


def check_given(given: Any) -> None:
    """Raise ValueError unless a caller's own object is a `ClipSource` of clips and labels."""
    check_source(given)
    labels, num_clips, num_classes = given.labels, len(given), len(given.classes)
    is_tensor = isinstance(labels, Tensor) and num_clips > 0
    is_many = is_tensor and labels.shape == (num_clips, num_classes) and labels.is_floating_point()
    is_one = is_tensor and labels.shape == (num_clips,) and labels.dtype == torch.int64
    if not is_many and not (is_one and labels.min() >= 0 and labels.max() < num_classes):
        shape = f"{labels.dtype} of shape {tuple(labels.shape)}" if is_tensor else type(labels)
        raise ValueError(
            f"data={given.name} has {num_clips} clips of {num_classes} classes with labels "
            f"{reprlib.repr(labels)}, {shape}; give one clip or more, and labels (n,) int64, 0 "
            f"to {num_classes - 1}, or (n, {num_classes}) floats of 0 and 1"
        )
    reverse = given.reverse_of
    is_order = isinstance(reverse, Tensor) and sorted(reverse.tolist()) == list(range(num_classes))
    if reverse is not None and not is_order:
        raise ValueError(
            f"data={given.name} has reverse_of={reprlib.repr(reverse)}; give a LongTensor "
            f"({num_classes},) of the class of each class's reversal, or None"
        )
    held = getattr(given, "clips", None)
    if isinstance(held, Tensor) and held.dtype != torch.uint8:
        raise ValueError(
            f"data={given.name} gives clips of {held.dtype}; give (k, T, S, S, 3) torch.uint8, "
            "from 0 to 255"
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


@lru_cache(maxsize=3)  # train, val and test
def _rendered(digits: MovingDigits) -> Tensor:
    """The clips (n, T, S, S, 3) uint8, kept for the next training of this process.

    To draw 4,000 for training, 560 for val and 2,800 for test takes a twelfth of a toy training.
    """
    return digits.render(torch.arange(len(digits))).clips


class GeneratedClips(HeldClips):
    """Moving digits rendered once and kept in memory."""

    def __init__(self, digits: MovingDigits) -> None:
        clips = _rendered(digits)
        super().__init__(
            digits.name, digits.classes, digits.labels, digits.reverse_of, clips, digits.describe()
        )
        self.kept = {"where": "memory", "why": "they are rendered, not decoded"}


def with_own(data: str, train: TrainConfig) -> tuple[str, TrainConfig]:
    """A name of own data in its short form, and a training that has its source; others as given."""
    if not is_own_data(data):
        return data, train
    code = dict(train.code)
    name = short(data, code, known=tuple(code))
    return name, replace(train, code=Options(code))


def own_classes(name: str, code: Mapping[str, str]) -> tuple[str, ...]:
    """The classes of own data, which its class has as `classes`. Raises ValueError."""
    if file_of(name) not in code:
        raise ValueError(
            f"data={name!r} comes without the source of its file; name it in `fit`, in a grid or "
            "on the command line, which read it, or give the source of clips itself"
        )
    found = getattr(thing(name, code), "classes", ())
    if isinstance(found, str) or not found or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{name} has classes={found!r}; write their names: classes = ('a', 'b')")
    return tuple(found)


def open_own(
    name: str, split: str, num_frames: int, side: int, code: Mapping[str, str]
) -> HeldClips:
    """`Clips(split, num_frames, image_size)` of the user's file: what it holds, or itself.

    It has `labels` (n,), and `clips` (n, T, S, S, 3) uint8 or else all of `ClipSource` and `close`.
    Raises ValueError that names it where it does not.
    """
    classes = own_classes(name, code)
    source = called(name, code, {}, split, num_frames, side)
    try:
        if hasattr(source, "clips"):
            clips, labels = torch.as_tensor(source.clips), torch.as_tensor(source.labels).long()
            reverse_of, about = getattr(source, "reverse_of", None), {"num_clips": len(labels)}
            source = HeldClips(name, classes, labels, reverse_of, clips, about)
        check_source(source, "describe", "close")
        (first,) = source.batches([torch.arange(1)])
        fits = first.shape == (1, num_frames, side, side, 3) and first.dtype == torch.uint8
        known = source.labels.shape == (len(source),) and source.labels.max() < len(classes)
    except Exception as error:
        raise ValueError(
            f"{name} gives no clips of {split}: {told(error, file_of(name))}"
        ) from error
    if not fits or not known or source.labels.min() < 0:
        raise ValueError(
            f"{name} gives clips {tuple(first.shape)} {first.dtype} and labels "
            f"{tuple(source.labels.shape)} of {split}; it must give (1, {num_frames}, {side}, "
            f"{side}, 3) torch.uint8, and for each clip a label from 0 to {len(classes) - 1}"
        )
    return cast(HeldClips, source)


def open_clips(
    data: str,
    split: str,
    config: PosMLPConfig,
    *,
    train: TrainConfig,
    num_workers: int = NUM_WORKERS,
    cache_gib: float = CACHE_GIB,
    pool: DecodePool | None = None,
) -> VideoClips | HeldClips:
    """The clips that `data` names, at the frames and size that `config` takes.

    `split`: train, val or test. `moving-digits` or `moving-digits:DIFFICULTY` are generated, as
    many as `train` says (val and test clips in exactly reversed pairs); `file.py:Clips` is your own
    code, whose source `train` has; anything else is a folder
    of videos, `ROOT` or `LAYOUT:ROOT`, of which decoded frames are kept as `VideoClips.open` says.
    `pool`: decoding workers that several splits share, in place of `num_workers` for this one.
    Close what is returned when done: it may hold decoding processes.
    Raises ValueError or VideoError, naming the value and the mend.
    """
    side = config.side  # or ValueError, before anything is looked for
    if is_own_data(data):
        one_of(split, ("train", "val", "test"), "split")
        return open_own(data, split, config.num_frames, side, train.code)
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
