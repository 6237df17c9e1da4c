"""What a trained run makes of any video: its likeliest classes.

Shapes: T frames, S pixels a side, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posmlp.checkpoint import load
from posmlp.data.augment import normalise
from posmlp.data.clips import ClipRule, Draw, Sampling, load_clip
from posmlp.data.sampling import check_views
from posmlp.model import PosMLPVideo
from posmlp.train.run_folder import read_config
from posmlp.train.run_members import model_path, one_variant


@dataclass(frozen=True)
class TrainedModel:
    """One model of a run, with what it takes and gives."""

    model: PosMLPVideo
    classes: tuple[str, ...]
    rule: ClipRule
    seed: int
    variant: str = ""


def open_run(run: str | Path, seed: int | None = None, variant: str | None = None) -> TrainedModel:
    """The run's model of that seed, by default its first, with its classes and clip rule.

    `variant`: where the run trained several (`fit`'s variants). Raises ValueError if the folder
    holds no finished run, no such seed or variant, or several variants of which none is chosen.
    """
    found = {member.seed: member for member in one_variant(run, variant)}
    seed = next(iter(found)) if seed is None else seed
    if seed not in found:
        raise ValueError(f"seed={seed} is not one of the run's seeds {list(found)}")
    member, path = found[seed], model_path(run, found[seed])
    if not path.is_file():
        raise ValueError(f"{run} holds no trained model yet; run `posmlp train` to its end")
    model, train = load(path), member.train
    classes = tuple(map(str, read_config(run)["classes"]))
    if model.config.num_classes != len(classes):
        raise ValueError(
            f"{path} tells {model.config.num_classes} classes apart, but config.json beside it "
            f"names {len(classes)}; put the files of one run together"
        )
    rule = ClipRule(
        model.config.num_frames,
        model.config.side,
        cast(Sampling, train.sampling),
        train.sampling_rate,
        test_short_side=train.test_short_side,
    )
    return TrainedModel(model, classes, rule, seed, member.variant)


@dataclass(frozen=True)
class Prediction:
    """The classes of one video; `indices` are the frames that the model saw, sorted."""

    video: str
    classes: tuple[str, ...]
    probabilities: Tensor  # (K,)
    indices: NDArray[np.int64]
    num_frames: int
    num_damaged: int
    fps: float | None
    decoder: str

    def top(self, count: int) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, the likeliest first."""
        best = self.probabilities.topk(min(count, len(self.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.classes[label], probability) for label, probability in pairs]


def predict_video(
    trained: TrainedModel, video: str | Path, *, num_views: int = 1, num_crops: int = 1
) -> Prediction:
    """Classify a video file or frame folder: softmax of the mean logits over views and crops.

    Raises VideoError for a video that cannot be read, ValueError for views that do not exist.
    """
    check_views(num_views, num_crops)
    places = [(view, crop) for view in range(num_views) for crop in range(num_crops)]
    draws = [Draw(None, view, num_views, crop, num_crops) for view, crop in places]
    clips = [load_clip(str(video), trained.rule, draw) for draw in draws]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    with torch.no_grad():
        logits = torch.cat([trained.model(normalise(each[None])) for each in frames])
    return Prediction(
        video=str(video),
        classes=trained.classes,
        probabilities=logits.mean(0).softmax(-1),
        indices=np.unique(np.concatenate([clip.indices for clip in clips])),
        num_frames=clips[0].num_frames,
        num_damaged=clips[0].num_damaged,
        fps=clips[0].fps,
        decoder=clips[0].backend,
    )
