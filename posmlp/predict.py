"""What a trained run makes of any video: its likeliest classes.

Shapes: T frames, S pixels a side, K classes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posmlp.checkpoint import load, read_tensors, shipped
from posmlp.config import TrainConfig
from posmlp.data.augment import normalise, uploaded
from posmlp.data.clips import ClipRule, Draw, load_clip
from posmlp.data.files.video import VideoFrames, frame_times, read_video
from posmlp.data.sampling import check_views
from posmlp.model import PosMLPVideo
from posmlp.train.fitting import usable_device
from posmlp.train.run_folder import model_path, one_variant, read_config, temperature_of

FRAME_FOLDER_FPS = 12.0  # frame folders do not tell; Something-Something's rate
PARTS_AT_ONCE = 16  # of a long recording, whose frames are decoded together
_DEVICE: ContextVar[str] = ContextVar("_DEVICE", default="cpu")


@contextmanager
def opened_on(device: str | None) -> Iterator[str]:
    """Within the block `open_run` puts models on a device, by default a GPU if there is one.

    Raises ValueError if it is not here.
    """
    found = str(usable_device(device))
    before = _DEVICE.set(found)
    try:
        yield found
    finally:
        _DEVICE.reset(before)


def tell_device(device: str) -> None:
    """Say on stderr what a command has computed on."""
    name = f" ({torch.cuda.get_device_name(device)})" if device != "cpu" else ""
    print(f"computed on: {device}{name}", file=sys.stderr)


@dataclass(frozen=True)
class TrainedModel:
    """One model of a run, with what it takes and gives."""

    model: PosMLPVideo
    classes: tuple[str, ...]
    rule: ClipRule
    seed: int
    variant: str = ""
    temperature: float = 1.0
    """What logits are divided by: see `posmlp eval --calibrate`."""
    multi_label: bool = False
    """Whether a clip may be of several classes, so that each has a probability of its own."""


def open_run(
    run: str | Path,
    seed: int | None = None,
    variant: str | None = None,
    *,
    trust_code: bool = False,
) -> TrainedModel:
    """The run's model of that seed, by default its first, with its classes and clip rule.

    `run`: a run folder, or the name of a shipped model, which has one seed and no variants.
    `variant`: where the run trained several (`fit`'s variants). The model is on the CPU, or on the
    device of the `opened_on` that this is called in. `trust_code`: see `load`. Raises ValueError if
    the folder holds no finished run, no such seed or variant, or several variants of which none is
    chosen, or brings code that is not trusted.
    """
    if file := shipped(run):
        return _open_shipped(file, seed, variant)
    found = {member.seed: member for member in one_variant(run, variant)}
    seed = next(iter(found)) if seed is None else seed
    if seed not in found:
        raise ValueError(f"seed={seed} is not one of the run's seeds {list(found)}")
    member, path = found[seed], model_path(run, found[seed])
    if not path.is_file():
        raise ValueError(f"{run} holds no trained model yet; run `posmlp train` to its end")
    model, train = load(path, trust_code=trust_code).to(_DEVICE.get()), member.train
    stored = read_config(run)
    classes = tuple(map(str, stored["classes"]))
    if model.config.num_classes != len(classes):
        raise ValueError(
            f"{path} tells {model.config.num_classes} classes apart, but config.json beside it "
            f"names {len(classes)}; put the files of one run together"
        )
    how = seed, member.variant, temperature_of(path), bool(stored.get("multi_label"))
    return TrainedModel(model, classes, ClipRule.of(model.config, train), *how)


def _open_shipped(file: Path, seed: int | None, variant: str | None) -> TrainedModel:
    """A shipped model, whose classes stand in its file; it was trained by the default rule."""
    if seed or variant:
        asked = f"seed={seed}" if seed else f"variant={variant!r}"
        raise ValueError(f"{asked}, but {file.stem} is one shipped model, of seed 0; leave it out")
    classes = tuple(json.loads(read_tensors(file)[1]["classes"]))
    model = load(file).to(_DEVICE.get())
    return TrainedModel(model, classes, ClipRule.of(model.config, TrainConfig()), 0)


@dataclass(frozen=True)
class Prediction:
    """The classes of a video, or of a part of it; `indices` are the frames seen, sorted.

    The part is frames `first` to `last`, that not included.
    """

    video: str
    classes: tuple[str, ...]
    probabilities: Tensor  # (K,)
    indices: NDArray[np.int64]
    num_frames: int
    num_damaged: int
    fps: float | None
    decoder: str
    first: int
    last: int
    times: NDArray[np.float64] | None = None  # of all frames, where the file tells them

    @property
    def seconds(self) -> tuple[float, float]:
        """Where the part begins and ends."""
        return self.second(self.first), self.second(self.last)

    def second(self, frame: int) -> float:
        """When a frame is shown; of the number of frames: when the video ends."""
        if self.times is None:
            return frame / (self.fps or FRAME_FOLDER_FPS)
        count = len(self.times)
        end = self.times[-1] * count / (count - 1)
        return round(float(end if frame >= count else self.times[frame]), 6)

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
    draws = draws_of(num_views, num_crops)
    clips = [load_clip(str(video), trained.rule, draw) for draw in draws]
    seen = [clip.indices for clip in clips]
    whole = (0, clips[0].num_frames)
    frames, times = [clip.frames for clip in clips], frame_times(str(video))
    return _predicted(trained, video, clips[0], frames, seen, whole, times)


def _predicted(
    trained: TrainedModel,
    video: str | Path,
    read: VideoFrames,
    clips: list[NDArray[np.uint8]],
    seen: list[NDArray[np.int64]],
    part: tuple[int, int],
    times: NDArray[np.float64] | None,
) -> Prediction:
    """The prediction of a part of a video, by clips of the frames `seen`."""
    facts = read.num_frames, read.num_damaged, read.fps, read.backend
    indices, probabilities = np.unique(np.concatenate(seen)), _probabilities(trained, clips)
    times = times if times is not None and len(times) == read.num_frames else None
    return Prediction(str(video), trained.classes, probabilities, indices, *facts, *part, times)


def predict_parts(
    trained: TrainedModel,
    video: str | Path,
    every_s: float,
    *,
    num_views: int = 1,
    num_crops: int = 1,
) -> Iterator[Prediction]:
    """Classify one part after another of a long recording, each `every_s` seconds and a video.

    The last part is from half to one and a half times as long. Frame folders are taken to have
    FRAME_FOLDER_FPS. Raises as `predict_video`, and ValueError for parts shorter than a frame.
    """
    draws = draws_of(num_views, num_crops)
    short_side = max(trained.rule.short_side(draw) for draw in draws)
    times = frame_times(str(video))
    for start in count(0, PARTS_AT_ONCE):
        choose = partial(_frames_of_parts, trained.rule, draws, every_s, start, times)
        found = read_video(video, choose, short_side=short_side)
        parts = _parts(found.num_frames, found.fps, every_s, times)[start : start + PARTS_AT_ONCE]
        for part in parts:
            seen = [_seen(trained.rule, part, found.fps, draw) for draw in draws]
            frames = [found.frames[np.searchsorted(found.indices, each)] for each in seen]
            clips = [trained.rule.crop(f, d) for f, d in zip(frames, draws, strict=True)]
            yield _predicted(trained, video, found, clips, seen, part, times)
        if len(parts) < PARTS_AT_ONCE:
            return


def draws_of(num_views: int, num_crops: int) -> list[Draw]:
    """The clips of a video that are seen, each crop of each view. ValueError if there are none."""
    check_views(num_views, num_crops)
    places = [(view, crop) for view in range(num_views) for crop in range(num_crops)]
    return [Draw(None, view, num_views, crop, num_crops) for view, crop in places]


def _parts(
    num_frames: int, fps: float | None, every_s: float, times: NDArray[np.float64] | None
) -> list[tuple[int, int]]:
    """First and last frame of each part; one in which no frame begins is of the part before."""
    step = every_s * (fps or FRAME_FOLDER_FPS)
    if not 1 <= step < math.inf:
        raise ValueError(
            f"{every_s:g} seconds are no part of a video of {fps or FRAME_FOLDER_FPS:g} frames a "
            "second; use a number that holds a frame"
        )
    shown = np.arange(num_frames) * (every_s / step)
    if times is not None and len(times) == num_frames:  # else not told, or some are damaged
        shown = times
    length = num_frames if num_frames < 2 else shown[-1] * num_frames / (num_frames - 1)
    starts = np.arange(max(1, int(length / every_s + 0.5))) * every_s
    ends = np.searchsorted(shown, starts - np.diff(shown).min(initial=every_s) / 2)
    return list(pairwise([*np.unique(ends).tolist(), num_frames]))


def _frames_of_parts(
    rule: ClipRule,
    draws: list[Draw],
    every_s: float,
    start: int,
    times: NDArray[np.float64] | None,
    num_frames: int,
    fps: float | None,
) -> NDArray[np.int64]:
    """All frames that are seen of the parts from number `start` on that are read together."""
    parts = _parts(num_frames, fps, every_s, times)[start : start + PARTS_AT_ONCE]
    seen = [_seen(rule, part, fps, draw) for part in parts for draw in draws]
    return np.unique(np.concatenate(seen)) if seen else np.zeros(1, np.int64)


def _seen(
    rule: ClipRule, part: tuple[int, int], fps: float | None, draw: Draw
) -> NDArray[np.int64]:
    first, last = part
    return first + rule.indices(last - first, fps, draw)


def _probabilities(trained: TrainedModel, clips: list[NDArray[np.uint8]]) -> Tensor:
    """(K,) of clips (T, S, S, 3): softmax of their mean logits over the temperature.

    Of several labels the sigmoid.
    """
    frames = torch.from_numpy(np.stack(clips))
    like = next(trained.model.parameters())
    with torch.no_grad():
        inputs = (normalise(each[None]).to(like) for each in uploaded(frames, like.device))
        logits = torch.cat([trained.model(each) for each in inputs])
    mean = logits.mean(0) / trained.temperature
    return (mean.sigmoid() if trained.multi_label else mean.softmax(-1)).cpu()
