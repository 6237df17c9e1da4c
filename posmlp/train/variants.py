"""What one population can hold: models that are computed alike and differ only in values.

No torch here, so that the runner can group cells without it.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, SupportsIndex

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.config_checks import one_of
from posmlp.data.digits.catalogue import MOVING_DIGITS
from posmlp.own.names import is_own_data

MODEL_VALUES = ("drop_path", "init")
TRAIN_VALUES = (
    "lr",
    "relation_lr_scale",
    "min_lr",
    "warmup_epochs",
    "weight_decay",
    "grad_clip",
)
"""Fields on which neither a tensor's shape, nor the operations of a step, nor its clips depend."""

Variants = Mapping[str, Mapping[str, Any]]
"""Changed values by the name of the variant."""


@dataclass(frozen=True)
class Member:
    """One training in a population."""

    seed: int
    config: PosMLPConfig
    train: TrainConfig
    variant: str = ""
    """Its name; empty where a population has no variants."""

    @property
    def label(self) -> str:
        """What its files are called by."""
        return f"{self.variant}-seed{self.seed}" if self.variant else f"seed{self.seed}"

    @property
    def columns(self) -> dict[str, Any]:
        """What tells its rows from those of other members."""
        return {"variant": self.variant, "seed": self.seed} if self.variant else {"seed": self.seed}


def members(
    config: PosMLPConfig,
    train: TrainConfig,
    seeds: Sequence[SupportsIndex],
    variants: Variants | None,
) -> list[Member]:
    """Every variant at every seed, a variant's seeds side by side; without variants, every seed.

    Raises ValueError for seeds that are not different whole numbers, and for a variant that
    changes more than a population can hold.
    """
    seeds = checked_seeds(seeds)
    if variants is None:
        return [Member(seed, config, train) for seed in seeds]
    if not variants:
        raise ValueError("variants={} names none; leave it out, or name at least one")
    return [
        Member(seed, *_changed(config, train, values), _checked_name(name))
        for name, values in variants.items()
        for seed in seeds
    ]


def checked_seeds(seeds: Sequence[SupportsIndex]) -> tuple[int, ...]:
    """The seeds, or ValueError if they are not different whole numbers from 0 to 2**63 - 1."""
    try:
        found = tuple(index(seed) for seed in seeds)
    except TypeError:  # not numbers, or not whole ones, or no sequence
        found = ()
    if not found or len(set(found)) < len(found) or not all(0 <= s < 2**63 for s in found):
        raise ValueError(f"seeds={seeds!r} must be different whole numbers from 0 to 2**63 - 1")
    return found


def of_fold(data: Any, folds: int, seeds: Sequence[int]) -> str:
    """The data of the fold that seeds are tested on.

    Raises ValueError for data that are no folder, and for seeds of several folds.
    """
    if not isinstance(data, str) or data.split(":")[0] == MOVING_DIGITS or is_own_data(data):
        raise ValueError(f"folds={folds} are of a folder's videos; {reprlib.repr(data)} has none")
    own = sorted({seed % folds for seed in seeds})
    if len(own) > 1:
        raise ValueError(
            f"seeds {', '.join(map(str, seeds))} are tested on folds {', '.join(map(str, own))} of "
            f"folds={folds}, and a training has one; train a seed at a time, or give `ablations "
            "run` a grid with train.folds"
        )
    return f"fold{own[0]}of{folds}:{data}"


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[\w.=,+-]+", name):
        raise ValueError(
            f"variant {name!r} becomes part of file names; use letters, digits and any of . = , + -"
        )
    return name


def _changed(
    config: PosMLPConfig, train: TrainConfig, values: Mapping[str, Any]
) -> tuple[PosMLPConfig, TrainConfig]:
    for name in values:
        one_of(name, (*MODEL_VALUES, *TRAIN_VALUES), "value that members of a population differ in")
    of_model = {name: value for name, value in values.items() if name in MODEL_VALUES}
    of_training = {name: value for name, value in values.items() if name in TRAIN_VALUES}
    return replace(config, **of_model), replace(train, **of_training)


def values_of(config: PosMLPConfig, train: TrainConfig) -> dict[str, Any]:
    """All values that a variant may change, by their names."""
    found = {name: getattr(config, name) for name in MODEL_VALUES}
    return found | {name: getattr(train, name) for name in TRAIN_VALUES}


def without_values(config: PosMLPConfig, train: TrainConfig) -> tuple[tuple[Any, ...], ...]:
    """What members of a population have in common: equal where two trainings may share one."""
    each = ((config, MODEL_VALUES), (train, TRAIN_VALUES))
    return tuple(tuple(v for k, v in vars(of).items() if k not in names) for of, names in each)
