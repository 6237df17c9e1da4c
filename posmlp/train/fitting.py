"""Training: `fit` advances a population of one or more members.

Read next: `loop.py`.

Shapes: S members, B clips a batch.
"""

from __future__ import annotations

import functools
import os
import reprlib
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, ParamSpec, SupportsIndex, TypeVar

import numpy as np
import torch

from posmlp.checkpoint import said_of_start
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.augment import own_augmented
from posmlp.data.check.survey import tell
from posmlp.data.datasets import VideoClips, faults_between
from posmlp.data.files.pool import DecodePool
from posmlp.data.layouts.listing import SplitMissing
from posmlp.data.sources import (
    ClipSource,
    HeldClips,
    check_given,
    open_clips,
    with_own,
)
from posmlp.data.user_cache import CACHE_GIB, NUM_WORKERS
from posmlp.parts.own_parts import check as check_model
from posmlp.presets import PRESETS, resolve
from posmlp.train.distributed import Team, join
from posmlp.train.execution import (
    beside_others,
    deterministic_if,
    kept_memory,
    preparation,
    repeats_bits,
    usual_defaults,
)
from posmlp.train.logs import Log, log_of
from posmlp.train.loop import Splits, Training
from posmlp.train.population import seeded_model
from posmlp.train.run_folder import LOCK, RunFolder, locked
from posmlp.train.scoring import own_scores
from posmlp.train.variants import Variants, checked_seeds, members, of_fold

P = ParamSpec("P")
R = TypeVar("R")
_ONE_AT_A_TIME = threading.RLock()
"""Training sets the process' generator, threads and memory: one `fit` waits for another."""


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called in one thread after another, with torch's own defaults."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if not _ONE_AT_A_TIME.acquire(timeout=1.0):
            print("fit: waiting for a fit in another thread of this process", file=sys.stderr)
            _ONE_AT_A_TIME.acquire()
        try:
            with usual_defaults(), beside_others():
                return function(*args, **options)
        finally:
            _ONE_AT_A_TIME.release()

    return call


@one_at_a_time
def fit(
    config: PosMLPConfig | str,
    train: TrainConfig | None = None,
    data: str | Path | tuple[ClipSource, ...] = "moving-digits",
    seeds: Sequence[SupportsIndex] = (0,),
    out: str | Path | None = None,
    *,
    variants: Variants | None = None,
    device: torch.device | str | None = None,
    num_workers: int = NUM_WORKERS,
    cache_gib: float = CACHE_GIB,
    progress: bool = True,
    micro_batches: int = 1,
    checkpoint_activations: bool = False,
    compiled: bool = False,
    watch: Callable[[int, list[float]], None] | None = None,
    log: Log | str | None = None,
) -> list[dict[str, Any]]:
    """Train a model at each seed and return its history, a dict an epoch and member.

    `config`: a preset, by name or as it is, takes the data's number of classes.
    `data`: what `open_clips` takes (moving-digits, videos, `file.py:Clips`), or sources
    (train, val, test), or a pair (train, test), of which nothing is chosen. Val clips are scored
    every epoch, test clips once, with the weights that are kept. `out`: a run folder; a run that
    was interrupted goes on there, and one that is complete returns its stored history. Seeds train
    together, each with its own initialisation, data order, augmentation and stochastic depth, and
    each gets the numbers it would get alone: on a CPU with several threads those of one thread, as
    each seed then has a core of its own. Under torchrun the processes share each batch
    (`distributed.py`).

    `variants`: by name, values that differ from those of `config` and `train`, as
    `{"slow": {"lr": 5e-4, "drop_path": 0.1}}`, of the fields that `variants.py` lists. Each is
    trained at every seed in the same population; rows have its name in a column `variant`, and
    model files are called `model-{variant}-seed{k}.safetensors`.

    The rest are ways of computing, and no part of the configuration. `cache_gib`: decoded frames
    that the user's cache folder is to hold, for all data sets together (0: none are kept); the
    run's environment.json tells where they are. `progress`: a bar where stderr is a terminal,
    else a line an epoch, and a last line with the share of the time of training that was spent
    waiting for clips.
    `micro_batches`: compute each batch in that many parts, for want of memory, and step on their
    summed gradient; a model with batch norm (the stem's) then sees each part's statistics instead
    of the batch's.
    `watch`: called after each step with its number, from 1, and each member's loss over its batch.
    `log`: called as `log(run, row)` with each row of the history once it is stored: a function, the
    name of one, or "tensorboard" (`logs.py`). `run` is the path `out`/seed{k}. With `out`, a run
    that goes on has each epoch in its log once.
    `checkpoint_activations`, `compiled`: see `execution.preparation`. Raises ValueError for data,
    configuration and folder that do not fit together, and for a folder in which another process
    trains. With `out`, Ctrl-C, SIGTERM and SIGUSR1 store the middle of the epoch (`stopping.py`).
    """
    config, train = resolve(config), train or TrainConfig()
    if isinstance(data, str | Path):
        data, train = with_own(str(data), train)
    whole_seeds = checked_seeds(seeds)
    members(config, train, whole_seeds, variants)  # or ValueError, before any clip is read
    check_own(config, train)
    if train.init_from:
        seeded_model(config, 0, train.init_from)  # or ValueError
    if train.folds:
        data = of_fold(data, train.folds, whole_seeds)
    if not isinstance(data, str):
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            raise ValueError(
                f"data={reprlib.repr(data)} must be a folder, moving-digits or (train, test), or "
                "(train, val, test)"
            )
        for source in data:
            check_given(source)
    log = log_of(log) if isinstance(log, str) else log  # or ValueError
    device = usable_device(device)
    team, device = join(device)
    prepare = preparation(team, checkpoint_activations, compiled)
    opened: list[VideoClips | HeldClips] = []
    in_use = ExitStack()
    is_locked = False
    try:
        if out is not None and team.is_first:
            # A new folder, or one that may be in use, before clips are made: who waits for them
            # would learn of the other training when it is over.
            is_locked = not os.path.lexists(out) or (Path(out) / LOCK).exists()
            if is_locked:
                in_use.enter_context(locked(Path(out)))
        if isinstance(data, str):
            opened = open_splits(data, config, train, num_workers, cache_gib)
        sources = opened if isinstance(data, str) else data
        held = [s.held_on(device) if isinstance(s, HeldClips) else s for s in sources]
        clips = Splits(held[0], held[1] if len(held) == 3 else None, held[-1])
        if config in PRESETS.values():
            config = replace(config, num_classes=len(clips.train.classes))
        _check_together(config, train, clips, micro_batches, team)
        training = Training(
            config, train, clips, whole_seeds, variants, device, micro_batches, team, prepare
        )
        training.source = data if isinstance(data, str) else None
        training.watch, training.log = watch, log
        if train.init_from:
            tell(said_of_start(train.init_from, config))
        if out is None:
            with kept_memory(), deterministic_if(train.deterministic):
                training.run(None, progress)
            return training.history
        with team.first_first():
            folder = RunFolder(out, training.describe())
            if folder.is_complete(train.epochs):  # nothing is written, nor waited for
                training.resume(folder)
                training.tell(folder)
                return folder.rows()
            if team.is_first:
                if not is_locked:
                    in_use.enter_context(locked(folder.root))
                names = Splits._fields if clips.val is not None else ("train", "test")
                each = zip(names, opened, strict=False)
                kept = {split: getattr(source, "kept", None) for split, source in each}
                how = {
                    "micro_batches": micro_batches,
                    "precision": "bfloat16" if training.autocast else "float32",
                    "repeats": repeats_bits(train.deterministic, device),
                }
                folder.begin(device, how | {"frames_kept": kept})
            if training.resume(folder):
                return folder.rows()
        with kept_memory(), deterministic_if(train.deterministic):
            training.run(folder, progress)
        return training.history
    finally:
        for source in opened:
            source.close()
        in_use.close()


@functools.lru_cache(maxsize=256)
def check_own(config: PosMLPConfig, train: TrainConfig) -> None:
    """Raise ValueError unless all of the user's own code takes what it is given, labels of a kind.

    Clips have a label each, or several; which, only the data tell.
    """
    check_model(config)
    count = config.num_classes
    labels = torch.arange(4 * count) % max(count, 1)
    logits = torch.randn(len(labels), count, generator=torch.Generator())
    try:
        own_scores(train, logits, labels)
    except ValueError as error:
        try:
            own_scores(train, logits, torch.eye(count)[labels])
        except ValueError:
            raise error from None
    if train.augment:
        clip = torch.zeros(config.num_frames, *config.size, 3, dtype=torch.uint8)
        own_augmented(train, clip, np.random.default_rng(0))


def open_splits(
    data: str,
    config: PosMLPConfig,
    train: TrainConfig,
    num_workers: int = NUM_WORKERS,
    cache_gib: float = CACHE_GIB,
) -> list[VideoClips | HeldClips]:
    """The clips of train, val and test that `data` names; close them when done.

    They share the decoding workers, which end here where nothing is decoded again. A data set that
    is too small for val clips has none, and that is said. Raises what `open_clips` does.
    """
    opened: list[VideoClips | HeldClips] = []
    with ExitStack() as closing:
        pool = closing.enter_context(DecodePool(num_workers))
        for split in Splits._fields:
            try:
                clips = open_clips(data, split, config, train=train, cache_gib=cache_gib, pool=pool)
            except SplitMissing as error:
                if split != "val":
                    raise
                tell(f"{error}; training goes on without them, and nothing can be chosen")
            else:
                opened.append(clips)
        videos = [clips for clips in opened if isinstance(clips, VideoClips)]
        for line in chain.from_iterable(faults_between(videos[0], other) for other in videos[1:]):
            tell(line)
        if any(clips.decodes for clips in videos):
            closing.pop_all()
    return opened


def usable_device(device: torch.device | str | None = None) -> torch.device:
    """The device to compute on, by default a GPU if there is one; ValueError if it is not here.

    A GPU is counted, not touched: who asks may only give others work, or be one of several
    processes under torchrun, each of which gets a GPU of its own (`join`).
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if found.type not in ("cpu", "cuda"):
            raise RuntimeError("this package computes on cpu and cuda alone")
        num_gpus = torch.cuda.device_count()
        if found.type == "cuda" and (found.index or 0) >= num_gpus:
            raise RuntimeError(f"torch sees {num_gpus} GPUs")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={str(device)!r} is not here ({reason}); use cpu") from error
    return found


def _check_together(
    config: PosMLPConfig, train: TrainConfig, splits: Splits, micro_batches: int, team: Team
) -> None:
    """Raise ValueError where configuration, clips and ways of computing do not fit."""
    clips = splits.train
    if train.keep == "best" and splits.val is None:
        raise ValueError(
            "keep='best' is chosen by val clips, but data is a pair (train, test); give (train, "
            "val, test), or keep='last'"
        )
    if train.batch_size % team.size:
        raise ValueError(
            f"batch_size={train.batch_size} is not a multiple of the {team.size} processes, which "
            "share a batch evenly"
        )
    if not 1 <= micro_batches <= train.batch_size // team.size:
        raise ValueError(
            f"micro_batches={micro_batches} must be from 1 to batch_size="
            f"{train.batch_size // team.size}"
        )
    if config.in_channels != 3:
        raise ValueError(
            f"in_channels={config.in_channels}, but clips have 3 colours; use in_channels=3"
        )
    if len(clips.classes) != config.num_classes:
        raise ValueError(
            f"num_classes={config.num_classes} but {clips.name} has {len(clips.classes)} classes; "
            f"set num_classes={len(clips.classes)}"
        )
    if clips.labels.dim() == 2 and (train.balanced or train.class_weights != "none"):
        raise ValueError(
            f"balanced={train.balanced}, class_weights={train.class_weights!r}, but clips of "
            f"{clips.name} have several labels, by which none is balanced; leave both out"
        )
    if len(clips) * train.repeats < train.batch_size:
        raise ValueError(
            f"batch_size={train.batch_size} is more than the {len(clips)} training clips; use at "
            f"most {len(clips)}"
        )
