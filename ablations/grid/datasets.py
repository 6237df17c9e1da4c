"""What a cell's `data` names: its identity, classes and number of training clips, without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.config_checks import one_of
from posmlp.data.digits.catalogue import CLASSES, DIFFICULTIES, GENERATOR_VERSION, MOVING_DIGITS
from posmlp.data.layouts.layouts import list_videos
from posmlp.data.layouts.listing import SplitMissing
from posmlp.own.code import file_of
from posmlp.own.names import NONE, Options, is_own_data
from posmlp.train.variants import of_fold


@dataclass(frozen=True)
class Data:
    """A data set as a cell depends on it. `identity` changes when its clips do."""

    spec: str
    identity: str
    num_classes: int
    num_train: int | None
    """None where the clips are generated: as many as the training asks for."""
    num_test: int | None = None
    """Likewise."""
    lacks: tuple[str, ...] = ()
    """Scores that its labels cannot give, as far as that is known."""


def describe(spec: str, code: Mapping[str, str] = NONE) -> Data:
    """What `spec` names: moving digits, videos, `[LAYOUT:]ROOT`, or own data (`code` has the file).

    Raises ValueError if it names nothing.
    """
    if is_own_data(spec):
        from posmlp.data.sources import own_classes

        return Data(spec, spec, len(own_classes(spec, code)), None)  # its source is in the training
    name, _, difficulty = spec.partition(":")
    if name == MOVING_DIGITS:
        difficulty = difficulty or "medium"
        one_of(difficulty, DIFFICULTIES, f"difficulty in data={spec!r},")
        identity = f"{MOVING_DIGITS}:{difficulty}:{GENERATOR_VERSION}"
        return Data(spec, identity, len(CLASSES), None, lacks=("map",))
    if ":" not in spec and not Path(spec).exists():
        known = "|".join(DIFFICULTIES)
        raise ValueError(
            f"data={spec!r} is no folder here; give a folder of videos, or "
            f"'{MOVING_DIGITS}[:{known}]', or file.py:Class of your own"
        )
    return _describe_folder(spec)


def counted(data: Data, config: PosMLPConfig, train: TrainConfig) -> Data:
    """The same with its numbers of clips, if it is own data, which is opened. Raises ValueError."""
    if not is_own_data(data.spec):
        return data
    code = Options({file_of(data.spec): train.code[file_of(data.spec)]})
    each = (_num_own(data.spec, s, config.num_frames, config.side, code) for s in ("train", "test"))
    return replace(data, num_train=next(each), num_test=next(each))


@cache
def _num_own(spec: str, split: str, num_frames: int, side: int, code: Options) -> int:
    from posmlp.data.sources import open_own

    return len(open_own(spec, split, num_frames, side, code))


def num_tested(data: Data, train: TrainConfig) -> int:
    """How many clips one training is tested on; of folds the smallest that there is."""
    if train.folds:
        return _num_in_fold(data.spec, train.folds)
    return train.num_test_clips if data.num_test is None else data.num_test


@cache
def _num_in_fold(spec: str, folds: int) -> int:
    each = (of_fold(spec, folds, [fold]) for fold in range(folds))
    return min(len(list_videos(fold, "test").paths) for fold in each)


def _describe_folder(spec: str) -> Data:
    digest = hashlib.sha256()
    listings = [list_videos(spec, "train")]
    with suppress(SplitMissing):  # too few clips, as training then says
        listings.append(list_videos(spec, "val"))
    listings.append(list_videos(spec, "test"))
    for listing in listings:
        found = zip(listing.places(), listing.told_labels(), listing.sizes(), strict=True)
        for place, label, size in found:
            digest.update(os.fsencode(f"{listing.split}\t{place}\t{label}\t{size}\n"))
    train, test = listings[0], listings[-1]
    digits = f"sha256:{digest.hexdigest()}"
    lacks = ["within_pair"] if test.several or test.reverse_of is None else []
    lacks += [] if test.several else ["map"]
    counts = len(train.classes), len(train.paths), len(test.paths)
    return Data(spec, digits, *counts, lacks=tuple(lacks))


def check(data: Data, config: PosMLPConfig, train: TrainConfig) -> None:
    """Raise ValueError where the clips cannot have the shape or number that the configs ask for."""
    if config.num_classes != data.num_classes:
        raise ValueError(
            f"num_classes={config.num_classes} but {data.spec} has {data.num_classes} classes; "
            "leave num_classes out to take the data's"
        )
    if not isinstance(config.image_size, int):
        raise ValueError(
            f"image_size={config.image_size} is not square, but clips are; use one side length"
        )
    num_train = train.num_clips if data.num_train is None else data.num_train
    if train.folds:
        folds = (of_fold(data.spec, train.folds, [fold]) for fold in range(train.folds))
        num_train = min(len(list_videos(fold, "train").paths) for fold in folds)
    if train.batch_size > num_train:
        raise ValueError(
            f"batch_size={train.batch_size} is more than the {num_train} training clips; "
            f"use at most {num_train}"
        )
    if data.num_train is None:
        _check_generated(config)


def _check_generated(config: PosMLPConfig) -> None:
    from posmlp.data.digits.moving_digits import MovingDigits

    assert isinstance(config.image_size, int)
    MovingDigits("train", 1, num_frames=config.num_frames, image_size=config.image_size)
