"""The clips that a run was tested on, made or opened again, with the truth where it is known."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.datasets import VideoClips
from posmlp.data.digits.moving_digits import MovingDigits, RenderedClips
from posmlp.data.digits.synthetic import TRUTH_FILE, load_truth
from posmlp.data.sources import HeldClips, open_clips
from posmlp.own.names import is_own_data
from posmlp.train.run_folder import read_config


def run_clips(run: str | Path, most: int) -> HeldClips:
    """At most `most` of the clips that a run was tested on, evenly spread, in neighbouring pairs.

    Generated clips come with their truth, and so do video files of `posmlp data make` at their own
    frames and size. A folder that is not where it was from here is looked for from the run's folder
    and those above it. Raises ValueError where the run's data cannot be had any more: its folder
    has gone, or the clips were given as Python objects.
    """
    stored = read_config(run)
    digits = _digits(stored)
    if digits is not None:
        kept = _pairs(len(digits), most)
        truth = digits.render(kept)
        described = digits.describe() | {"kept": kept.tolist()}
        return HeldClips(
            digits.name, digits.classes, truth.labels, digits.reverse_of, truth.clips,
            described, truth,
        )  # fmt: skip
    source = _open(stored, Path(run))
    try:
        kept = _pairs(len(source), most)
        clips = next(iter(source.batches([kept])))
    finally:
        source.close()
    described = source.describe() | {"kept": kept.tolist()}
    labels = source.labels[kept]
    if labels.dim() == 2:
        raise ValueError("the run's clips have several labels each, which no analysis reads")
    known = _truth(source, kept, clips, labels)
    return HeldClips(
        source.name, source.classes, labels, source.reverse_of, clips, described, known
    )


def _truth(
    source: VideoClips | HeldClips, kept: Tensor, clips: Tensor, labels: Tensor
) -> RenderedClips | None:
    """Masks of video files of `posmlp data make`, whose names are their numbers; else None."""
    if not isinstance(source, VideoClips):
        return None
    files = [Path(source.paths[i]) for i in kept.tolist()]
    root = next((p for p in files[0].parents if (p / TRUTH_FILE).is_file()), None)
    if root is None:
        return None
    masks, moving = load_truth(root)
    if masks.shape[1:] != clips.shape[1:4]:
        return None
    numbers = [int(file.stem) for file in files]
    found = torch.from_numpy(masks[numbers]), torch.from_numpy(moving[numbers])
    return RenderedClips(clips, labels, *found)


def _pairs(num_clips: int, most: int) -> Tensor:
    """The numbers of at most `most` clips, in evenly spread pairs of neighbours."""
    num_pairs = num_clips // 2
    if num_pairs == 0:
        raise ValueError(f"the run's test split has {num_clips} clips; at least 2 are needed")
    first = np.linspace(0, num_pairs - 1, min(num_pairs, most // 2)).round().astype(int)
    return torch.from_numpy(np.stack([2 * first, 2 * first + 1], axis=1).ravel())


def independent_clips(run: str | Path, count: int) -> RenderedClips | None:
    """New test clips of the run's generator with their truth; None for a user's videos.

    Unlike the run's own they are not in reversed pairs, which intervals over clips need. For video
    files of `posmlp data make` the clips are rendered by what made the files.
    """
    stored = read_config(run)
    digits = _digits(stored) or _maker(stored, Path(run))
    if digits is None:
        return None
    fresh = replace(digits, split="test", paired=False, num_clips=count)
    return fresh.render(torch.arange(count))


def _maker(stored: dict[str, Any], run: Path) -> MovingDigits | None:
    """What made the video files, where `posmlp data make` wrote them and they are still there."""
    folder = _found(str(stored.get("source") or ""), run).rpartition(":")[2]
    about = Path(folder) / "dataset.json"
    if not folder or not about.is_file():
        return None
    described = json.loads(about.read_text())
    config = PosMLPConfig.from_dict(stored["model"])
    own = described.get("name") == MovingDigits.name and described["classes"] == stored["classes"]
    look = dict(described.get("generator", {}))
    look.pop("version", None)
    if not own or (look["num_frames"], look["image_size"]) != (config.num_frames, config.side):
        return None
    return MovingDigits("test", described["num_test"], **look)


def _found(source: str, run: Path) -> str:
    """The source as it can be opened from here: a folder that is not is sought above the run."""
    layout, colon, folder = source.rpartition(":")
    if is_own_data(source) or not folder or Path(folder).exists():
        return source
    places = (above / folder for above in (run.resolve(), *run.resolve().parents))
    return layout + colon + str(next((place for place in places if place.exists()), folder))


def _open(stored: dict[str, Any], run: Path) -> VideoClips | HeldClips:
    if not stored.get("source"):
        raise ValueError(
            "the run was given its clips as Python objects, which it does not keep; train with "
            "the name of a data set or a folder of videos"
        )
    config, train = PosMLPConfig.from_dict(stored["model"]), TrainConfig.from_dict(stored["train"])
    return open_clips(_found(stored["source"], run), "test", config, train=train)


def _digits(stored: dict[str, Any]) -> MovingDigits | None:
    """The generator that the test clips came from, or None for videos."""
    described = dict(stored.get("data", {}).get("test", {}))
    names = {field.name for field in fields(MovingDigits)}
    is_generated = described.pop("name", None) == MovingDigits.name and set(described) == names
    return MovingDigits(**described) if is_generated else None
