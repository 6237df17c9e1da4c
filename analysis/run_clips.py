"""The clips that a run was tested on, made or opened again, with the truth where it is known.

Shapes: n clips, T frames, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.datasets import VideoClips
from posmlp.data.moving_digits import MovingDigits, RenderedClips
from posmlp.data.sources import ClipSource, GeneratedClips, open_clips
from posmlp.predict import read_config


@dataclass
class HeldClips:
    """Some clips of a source, held in memory: `clips` (n, T, S, S, 3) uint8, `labels` (n,)."""

    name: str
    classes: tuple[str, ...]
    labels: Tensor
    reverse_of: Tensor | None
    clips: Tensor
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
        """uint8 clips (k, T, S, S, 3). Raises ValueError for other views: one was kept."""
        if (num_views, num_crops) != (1, 1):
            raise ValueError(f"num_views={num_views}, num_crops={num_crops}: held clips have one")
        return (self.clips[indices] for indices in index_batches)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "num_clips": len(self)}


def run_clips(run: str | Path, most: int) -> HeldClips:
    """At most `most` of the clips that a run was tested on, evenly spread, in neighbouring pairs.

    Generated clips come with their truth. Raises ValueError where the run's data cannot be had
    any more: its folder has gone, or the clips were given as Python objects.
    """
    source = _open(run)
    num_pairs = len(source) // 2
    if num_pairs == 0:
        raise ValueError(f"the run's test split has {len(source)} clips; at least 2 are needed")
    kept = np.linspace(0, num_pairs - 1, min(num_pairs, most // 2)).round().astype(int)
    indices = torch.from_numpy(np.stack([2 * kept, 2 * kept + 1], axis=1).ravel())
    truth = source.digits.render(indices) if isinstance(source, GeneratedClips) else None
    clips = truth.clips if truth else next(iter(source.batches([indices])))
    if isinstance(source, VideoClips):
        source.close()  # the decoding workers are not needed any more
    labels = source.labels[indices]
    return HeldClips(source.name, source.classes, labels, source.reverse_of, clips, truth)


def independent_clips(run: str | Path, count: int) -> RenderedClips | None:
    """New test clips of the run's generator with their truth; None for videos.

    Unlike the run's own they are not in reversed pairs, which intervals over clips need.
    """
    digits = _digits(read_config(run))
    if digits is None:
        return None
    fresh = replace(digits, split="test", paired=False, num_clips=count)
    return fresh.render(torch.arange(count))


def _open(run: str | Path) -> ClipSource:
    stored = read_config(run)
    digits = _digits(stored)
    if digits is not None:
        return GeneratedClips(digits)
    if not stored.get("source"):
        raise ValueError(
            "the run was given its clips as Python objects, which it does not keep; train with "
            "the name of a data set or a folder of videos"
        )
    config, train = PosMLPConfig.from_dict(stored["model"]), TrainConfig.from_dict(stored["train"])
    return open_clips(stored["source"], "test", config, train=train)


def _digits(stored: dict[str, Any]) -> MovingDigits | None:
    """The generator that the test clips came from, or None for videos."""
    described = dict(stored.get("data", {}).get("test", {}))
    names = {field.name for field in fields(MovingDigits)}
    is_generated = described.pop("name", None) == MovingDigits.name and set(described) == names
    return MovingDigits(**described) if is_generated else None
