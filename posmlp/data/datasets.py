"""Labelled clips from a folder of videos, in batches.

Shapes: `n` clips, `k` clips in a batch, `T` frames, `S` pixels a side, `K` classes.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posmlp.data.check.survey import Survey, refuse_missing, refuse_or_report, survey_files, tell
from posmlp.data.clips import ClipRule, Draw, draw_of, load_clip
from posmlp.data.files.frame_file import Kept
from posmlp.data.files.pool import DecodePool, under_way
from posmlp.data.files.video import VideoError, VideoFrames
from posmlp.data.layouts.layouts import list_videos, say
from posmlp.data.layouts.listing import Listing, place_of
from posmlp.data.user_cache import CACHE_GIB, NUM_WORKERS


class VideoClips:
    """The clips of one split of a data set; make one with `VideoClips.open`.

    `labels` is a LongTensor (n,), or floats (n, K) of 0 and 1 where clips have several labels;
    `reverse_of` is a LongTensor (K,) that gives the label of each label's time reversal, or None.
    `unreadable` lists the files that were dropped now, `dropped` what an earlier data check said to
    leave out. `backends` counts the files that each decoder read, and `damaged` gives, for each
    file that lacks frames, how many. `kept` tells where the decoded frames are, "disk", "memory" or
    "nowhere", and why they are not on disk.
    """

    def __init__(self, listing: Listing, rule: ClipRule, pool: DecodePool, survey: Survey) -> None:
        lost = {error.path for error in survey.unreadable}
        keep = [i for i, path in enumerate(listing.paths) if str(path) not in lost]
        self.name = listing.name
        self.split = listing.split
        self.classes = listing.classes
        self.rule = rule
        self.paths = [str(listing.paths[i]) for i in keep]
        self.labels = torch.tensor([listing.labels[i] for i in keep], dtype=torch.int64)
        if listing.several:
            self.labels = torch.zeros(len(keep), len(listing.classes))
            for row, labels in enumerate(listing.only(keep).all_labels()):
                self.labels[row, list(labels)] = 1
        self.reverse_of = None if listing.reverse_of is None else torch.tensor(listing.reverse_of)
        self.dropped = listing.dropped
        self.unreadable = survey.unreadable
        self.backends = survey.backends
        self.damaged = survey.damaged
        self._listing = listing
        self._pool = pool
        self.kept = {"where": survey.kept.where, "why": survey.kept.why}
        self._num_long = survey.kept.num_long
        # What is cached: one tensor (n, T, S, S, 3) where clips need no choosing, else the videos.
        self._clips = _one_tensor(survey.kept, rule, draw_of(self.split))
        self._videos = survey.kept.videos if self.cached else None

    @property
    def cached(self) -> bool:
        """Whether no file is decoded again, but long films."""
        return self.kept["where"] != "nowhere"

    @property
    def decodes(self) -> bool:
        """Whether any file is decoded again."""
        return not self.cached or self._num_long > 0

    @classmethod
    def open(
        cls,
        root: str | Path,
        split: str,
        *,
        num_workers: int = NUM_WORKERS,
        timeout_s: float = 20.0,
        max_bad_share: float = 0.0,
        cache_gib: float = CACHE_GIB,
        pool: DecodePool | None = None,
        **rule: Any,
    ) -> VideoClips:
        """List the split's videos and read each file once, to check it and to cache short ones.

        `root` is a folder, or `LAYOUT:FOLDER`; what was found is said on stderr. `rule`: fields of
        `ClipRule`. If all frames of all files, at the size that clips are cut from, fit in
        `cache_gib` GiB, they are kept on disk for all processes (`frame_cache.py`), or else in
        memory. Otherwise, and of long films (`clips.LONG_FILM`), one test clip is read as a check,
        unless a data check has read the file, and batches are decoded when they are asked for, by
        `num_workers` processes (0: in this one, without a time limit). A worker is ended, and its
        file unreadable, where no frame of it comes for `timeout_s` seconds. `pool`: workers that
        several splits share; who gives them also stops them.

        Raises:
            ValueError: the folder is not a data set.
            VideoError: more than `max_bad_share` of the files cannot be read.
        """
        if not 0.0 <= max_bad_share <= 1.0:
            raise ValueError(f"max_bad_share={max_bad_share} is not a share from 0 to 1")
        if not 0 <= cache_gib < math.inf:
            raise ValueError(f"cache_gib={cache_gib} must be a number of GiB, 0 to cache nothing")
        cut = ClipRule(**rule)
        listing = list_videos(root, split)
        tell(say(listing))
        refuse_missing(listing, max_bad_share)
        with ExitStack() as closing:
            if pool is None:
                pool = closing.enter_context(DecodePool(num_workers, timeout_s))
            survey = survey_files(listing, cut, pool, cache_bytes=int(cache_gib * 2**30))
            refuse_or_report(survey, str(listing.root), len(listing.paths), max_bad_share)
            clips = cls(listing, cut, pool, survey)
            if clips.decodes:
                closing.pop_all()
        return clips

    def __len__(self) -> int:
        return len(self.paths)

    def close(self) -> None:
        """Stop the decoding workers."""
        self._pool.close()

    def batch(
        self, indices: Tensor, *, rng: np.random.Generator | None = None, **view: int
    ) -> Tensor:
        """Return clips `indices` (k,) as uint8 (k, T, S, S, 3); see `batches`."""
        (clips,) = self.batches([indices], rngs=None if rng is None else [rng], **view)
        return clips

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
        """Yield clips as uint8 (k, T, S, S, 3) for each batch of indices (k,).

        With `rngs`, one generator a batch, frames and crops are random (training); without, they
        are those of test view `view` and crop `crop`. One batch is decoded ahead, so both iterables
        are read one batch ahead. What is yielded does not depend on workers or caching.

        Raises:
            VideoError: a file that could be read before cannot be read now.
        """
        test = Draw(None, view, num_views, crop, num_crops)
        draws = _draws(index_batches, rngs, test)
        for finish in under_way((self._start(i, d) for i, d in draws), num_ahead=1):
            yield finish()

    def describe(self) -> dict[str, Any]:
        """Return where the clips come from, as plain values for a run's record.

        `sha256` is that of a line "path, label, size" (tab-separated) for each clip; the size is a
        file's bytes, or a folder's frames.
        """
        root, kept = self._listing.root, set(self.paths)
        told = self._listing.told_labels()
        found = zip(self._listing.paths, told, self._listing.sizes(), strict=True)
        lines = "".join(
            f"{place_of(path, root)}\t{label}\t{size}\n"
            for path, label, size in found
            if str(path) in kept
        )
        return {
            "name": self.name,
            "root": root.resolve().name,
            "split": self.split,
            "layout": self._listing.layout,
            "split_rule": self._listing.split_rule,
            "num_clips": len(self),
            "num_other_files": self._listing.num_other_files,
            "classes": list(self.classes),
            "unreadable": [{"path": e.path, "reason": e.reason} for e in self.unreadable],
            "dropped": {problem.place: problem.reason for problem in self.dropped},
            "damaged": self.damaged,
            "backends": dict(self.backends),
            **_as_before(self.rule),
            "sha256": hashlib.sha256(os.fsencode(lines)).hexdigest(),
        }

    def _start(self, indices: list[int], draws: list[Draw]) -> Callable[[], Tensor]:
        """Begin to read a batch; calling what is returned waits for it."""
        if indices and not 0 <= min(indices) <= max(indices) < len(self):
            raise IndexError(
                f"clip indices reach from {min(indices)} to {max(indices)}; "
                f"{self.name} ({self.split}) has clips 0 to {len(self) - 1}"
            )
        if self._clips is not None and all(map(self._is_kept, draws)):
            return partial(self._clips.index_select, 0, torch.tensor(indices, dtype=torch.int64))
        clips = [self._start_clip(i, draw) for i, draw in zip(indices, draws, strict=True)]
        return lambda: torch.from_numpy(np.stack([clip() for clip in clips]))

    def _is_kept(self, draw: Draw) -> bool:
        """Whether a draw cuts from frames of the size that this split keeps."""
        return self.rule.short_side(draw) == self.rule.short_side(draw_of(self.split))

    def _start_clip(self, i: int, draw: Draw) -> Callable[[], NDArray[np.uint8]]:
        """Begin to read a clip, or cut it from what is cached when its turn comes."""
        if self._videos and len(self._videos[i].frames) and self._is_kept(draw):
            return partial(_cut, self._videos[i], self.rule, draw)
        read = partial(self._pool.submit, load_clip, self.paths[i], self.rule, draw)
        return partial(_frames, read(), read)


def faults_between(train: VideoClips, other: VideoClips) -> Iterator[str]:
    """Files that both have, and classes without a training clip, in words."""
    if both := sorted(set(train.paths) & set(other.paths)):
        yield (
            f"{len(both)} file(s) of {other.split} are in train too, the first {both[0]}, so that "
            "what is scored was trained on; take them out of one list"
        )
    seen, scored = (_classes_of(clips) for clips in (train, other))
    if lacking := [name for name in scored if name not in seen]:
        yield f"no training clip is of {', '.join(lacking)}, which {other.split} clips are of"


def _classes_of(clips: VideoClips) -> list[str]:
    """Those that a clip has."""
    several = clips.labels.ndim > 1
    found = clips.labels.any(0).nonzero() if several else clips.labels.unique()
    return [clips.classes[k] for k in found.flatten().tolist()]


def _as_before(rule: ClipRule) -> dict[str, Any]:
    """A rule's values, without those that runs had no name for and that are still at the default.

    So a run that began before goes on.
    """
    values = asdict(rule)
    if rule.min_time_share == ClipRule.min_time_share:
        del values["min_time_share"]
    return values


def _draws(
    index_batches: Iterable[Tensor], rngs: Iterable[np.random.Generator] | None, test: Draw
) -> Iterator[tuple[list[int], list[Draw]]]:
    """Yield each batch's indices, and which clip of each of its videos is meant."""
    generators = None if rngs is None else iter(rngs)
    for batch in index_batches:
        indices = batch.tolist()
        if generators is None:
            yield indices, [test] * len(indices)
            continue
        rng = next(generators, None)
        if rng is None:
            raise ValueError("rngs ended before index_batches; give one generator a batch")
        # One seed a clip, so that a clip does not depend on which worker reads it, or when.
        yield indices, [Draw(seed) for seed in rng.integers(2**63, size=len(indices)).tolist()]


def _cut(video: VideoFrames, rule: ClipRule, draw: Draw) -> NDArray[np.uint8]:
    return rule.crop(video.frames[rule.indices(video.num_frames, video.fps, draw)], draw)


def _frames(
    wait: Callable[[], VideoFrames], read: Callable[[], Callable[[], VideoFrames]]
) -> NDArray[np.uint8]:
    """Wait for a clip; once more, since the file could be read before: disks have bad moments."""
    try:
        return wait().frames
    except VideoError:
        return read()().frames


def _one_tensor(kept: Kept, rule: ClipRule, draw: Draw) -> Tensor | None:
    """Videos that are clips already: T frames of S x S, taken whole. None if some are not."""
    shape = (rule.num_frames, rule.image_size, rule.image_size, 3)
    videos = kept.videos
    chosen = rule.sampling != "segment" or rule.min_time_share < 1 or rule.cuts_as_decoded(draw)
    if not videos or chosen or any(v.frames.shape != shape for v in videos):
        return None
    return torch.from_numpy(kept.frames.reshape(-1, *shape))
