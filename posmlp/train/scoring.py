"""Scoring: `predict` gives logits, `metrics` scores them, `evaluate` does both for a user.

Shapes: S seeds, N clips, K classes; clips arrive as uint8 (B, T, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from posmlp.checkpoint import in_turn, load, own_model
from posmlp.config import TrainConfig
from posmlp.data.augment import normalise, uploaded
from posmlp.data.sampling import check_views
from posmlp.data.sources import ClipSource, check_given, open_clips
from posmlp.data.user_cache import CACHE_GIB, NUM_WORKERS
from posmlp.model import PosMLPVideo
from posmlp.own.code import called
from posmlp.train.distributed import ALONE, Team
from posmlp.train.execution import beside_others, in_bfloat16, kept_memory, quick_inference
from posmlp.train.population import Population

EVALUATION_BATCH = 64
"""Clips that are evaluated at once."""


def predict(
    model: PosMLPVideo | Population,
    clips: ClipSource,
    *,
    num_views: int = 1,
    num_crops: int = 1,
    batch_size: int = EVALUATION_BATCH,
    team: Team = ALONE,
    autocast: bool = False,
) -> Tensor:
    """Logits of every clip, (N, K) for a model and (S, N, K) for a population, mean over views.

    The processes of a `team` share the clips; each gets all logits. `autocast` computes in
    bfloat16 where that is safe.
    Source: the released test sums raw logits over temporal views and spatial crops; the mean ranks
    the same.
    """
    check_views(num_views, num_crops)
    forward: Any = model
    with ExitStack() as stack:
        if isinstance(model, Population):
            device, dtype, eager = model.device, torch.float32, model.eager_models
            forward = partial(model.logits, autocast=autocast)
        else:
            stack.enter_context(in_turn(model))
            model.eval()
            device, dtype = _device_of(model), next(model.parameters()).dtype
            eager = [model] if device.type == "cpu" else []
        autocasting = torch.autocast(device.type, torch.bfloat16, enabled=autocast)
        indices = torch.arange(len(clips))[team.part(len(clips))].split(batch_size)
        total: Any = 0.0
        for view in range(num_views):
            for crop in range(num_crops):
                stream = clips.batches(
                    indices, view=view, num_views=num_views, crop=crop, num_crops=num_crops
                )
                with torch.no_grad(), quick_inference(*eager), autocasting:
                    parts = [
                        forward(normalise(uploaded(batch, device)).to(dtype)).float()
                        for batch in stream
                    ]
                total = total + torch.cat(parts, dim=-2).cpu()
        return team.gather(total / (num_views * num_crops), dim=-2)


def metric_names(clips: ClipSource, train: TrainConfig) -> list[str]:
    """What `metrics` and `own_scores` give for a source's clips."""
    own = [name.rpartition(":")[2] for name in train.metrics]
    if clips.labels.dim() == 2:
        return ["top1", "top5", "loss", "map", *own]
    pairs = ["within_pair"] if clips.reverse_of is not None else []
    return ["top1", "top5", "loss", *pairs, *own]


def metrics(logits: Tensor, labels: Tensor, reverse_of: Tensor | None = None) -> dict[str, float]:
    """Top-1, top-5 and cross-entropy of logits (N, K); `within_pair` where classes have reversals.

    `within_pair`: the share of clips whose true class outscores the class of its time reversal. A
    model blind to the order of frames is at exactly 0.5 on clips that come in reversed pairs.

    Where clips have several labels (N, K), top-1 and top-5 ask for any of them, the loss is binary
    cross-entropy, and `map` is the mean average precision of the classes that have clips.
    """
    if labels.dim() == 2:
        hits = labels.gather(1, logits.topk(min(5, logits.shape[-1]), dim=-1).indices) > 0
        found = [each for each in average_precisions(logits, labels) if each is not None]
        return {
            "top1": hits[:, 0].float().mean().item(),
            "top5": hits.any(-1).float().mean().item(),
            "loss": F.binary_cross_entropy_with_logits(logits, labels).item(),
            "map": sum(found) / max(len(found), 1),
        }
    top5 = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    result = {
        "top1": (logits.argmax(-1) == labels).float().mean().item(),
        "top5": (top5 == labels[:, None]).any(-1).float().mean().item(),
        "loss": F.cross_entropy(logits, labels).item(),
    }
    if reverse_of is not None:
        own = logits.gather(1, labels[:, None])
        other = logits.gather(1, reverse_of[labels][:, None])
        wins = (own > other).float() + 0.5 * (own == other).float()
        result["within_pair"] = wins.mean().item()
    return result


def average_precisions(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Of each class, over clips in the order of their logits (N, K); None for one without clips.

    Source: scikit-learn's. Logits that are no numbers count as 0.
    """
    from sklearn.metrics import average_precision_score

    columns = zip(labels.unbind(1), logits.nan_to_num().unbind(1), strict=True)
    return [float(average_precision_score(y, x)) if y.any() else None for y, x in columns]


def own_scores(train: TrainConfig, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The user's own metrics of logits (N, K) and labels, by their functions' names.

    Raises ValueError for one that fails or gives no number.
    """
    found = {}
    for name in train.metrics:
        value = called(name, train.code, {}, logits, labels)
        try:
            found[name.rpartition(":")[2]] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name} gives {value!r}; it must give a number") from error
    return found


def score(
    population: Population,
    clips: ClipSource,
    train: TrainConfig,
    batch_size: int = EVALUATION_BATCH,
    team: Team = ALONE,
    *,
    autocast: bool = False,
) -> list[dict[str, float]]:
    """`metrics` and `own_scores` of each seed, one view a clip; `autocast` as in `predict`."""
    logits = predict(population, clips, batch_size=batch_size, team=team, autocast=autocast)
    return [
        metrics(each, clips.labels, clips.reverse_of) | own_scores(train, each, clips.labels)
        for each in logits
    ]


@beside_others()
@kept_memory()
def logits_of(
    model: PosMLPVideo | str | Path,
    data: str | Path | ClipSource = "moving-digits",
    *,
    split: str = "test",
    clips: int = 1,
    crops: int = 1,
    batch_size: int = EVALUATION_BATCH,
    num_workers: int = NUM_WORKERS,
    cache_gib: float = CACHE_GIB,
    train: TrainConfig | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ClipSource]:
    """Logits (N, K) of every clip of a split, and its source, closed; arguments as `evaluate`'s."""
    given = load(model) if isinstance(model, str | Path) else model
    if (own := own_model(given)) is None:
        raise ValueError(
            f"{type(given).__name__} is no model of this package; give one, or a file of one"
        )
    with ExitStack() as opened:
        if isinstance(data, str | Path):
            data = open_clips(
                str(data),
                split,
                own.config,
                train=train or TrainConfig(),
                num_workers=num_workers,
                cache_gib=cache_gib,
            )
            opened.callback(data.close)
        check_given(data)
        _check_classes(own, data, classes)
        if device is not None:
            own.to(device)
        autocast = in_bfloat16((train or TrainConfig()).precision, _device_of(own))
        logits = predict(
            own, data, num_views=clips, num_crops=crops, batch_size=batch_size, autocast=autocast
        )
        return logits, data


def _device_of(model: PosMLPVideo) -> torch.device:
    return next(model.parameters()).device


def evaluate(
    model: PosMLPVideo | str | Path,
    data: str | Path | ClipSource = "moving-digits",
    *,
    split: str = "test",
    clips: int = 1,
    crops: int = 1,
    batch_size: int = EVALUATION_BATCH,
    num_workers: int = NUM_WORKERS,
    cache_gib: float = CACHE_GIB,
    train: TrainConfig | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """`metrics` of a model over a split, averaging logits over `clips` x `crops` views a video.

    `model`: a model, which is left in eval mode (a compiled or data-parallel one is evaluated as
    the one that it wraps), or the path of one that `save` wrote. `data`: what
    `open_clips` takes, or a source. `cache_gib`: see `fit`. `train` tells how frames are sampled
    and in which precision the model computes, `classes` what the outputs mean. `device`: where the
    model goes to; by default it stays where it is. Raises ValueError for what does not fit
    together.
    """
    logits, source = logits_of(
        model,
        data,
        split=split,
        clips=clips,
        crops=crops,
        batch_size=batch_size,
        num_workers=num_workers,
        cache_gib=cache_gib,
        train=train,
        classes=classes,
        device=device,
    )
    found = metrics(logits, source.labels, source.reverse_of)
    return found | (own_scores(train, logits, source.labels) if train else {})


def _check_classes(model: PosMLPVideo, source: ClipSource, classes: Sequence[str] | None) -> None:
    if len(source.classes) != model.config.num_classes:
        raise ValueError(
            f"the model has {model.config.num_classes} classes but {source.name} has "
            f"{len(source.classes)}; evaluate it on the data it was trained for"
        )
    for own, other in zip(classes or source.classes, source.classes, strict=True):
        if own != other:
            raise ValueError(
                f"class {own!r} of the run is {other!r} in {source.name}; give data with the run's "
                "classes, in their order (a class file names them)"
            )
