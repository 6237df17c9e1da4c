"""Training and evaluation: `fit` advances a population of one or more seeds, `evaluate` scores.

Shapes: S seeds, B clips a batch, K classes; clips arrive as uint8 (B, T, H, W, 3).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from posmlp.checkpoint import load, save
from posmlp.config import PosMLPConfig, TrainConfig, resolve
from posmlp.data.datasets import VideoClips
from posmlp.data.sources import ClipSource, GeneratedClips, open_clips
from posmlp.model import PosMLPVideo
from posmlp.population import Population
from posmlp.runs import RunFolder

MEAN, STD = 0.45, 0.225  # of pixels in 0..1, all channels; the released models' normalisation


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """The rate at a fractional epoch: linear warm-up from min_lr, then a cosine down to it.

    Source: the released schedule, whose warm-up ends on the cosine's value at that epoch.
    """
    span = config.lr - config.min_lr
    warmup = min(config.warmup_epochs, config.epochs)

    def cosine(e: float) -> float:
        share = (e - warmup) / max(config.epochs - warmup, 1e-9)
        return config.min_lr + 0.5 * span * (1 + math.cos(math.pi * share))

    if epoch >= warmup:
        return cosine(epoch)
    return config.min_lr + epoch * (cosine(warmup) - config.min_lr) / warmup


def normalise(clips: Tensor) -> Tensor:
    """uint8 (..., T, H, W, 3) -> float (..., 3, T, H, W), centred and scaled for the model."""
    return ((clips.float() / 255 - MEAN) / STD).movedim(-1, -4)


def fit(
    config: PosMLPConfig | str,
    train: TrainConfig | None = None,
    data: str | tuple[ClipSource, ClipSource] = "moving-digits",
    seeds: Sequence[int] = (0,),
    out: str | Path | None = None,
    *,
    device: torch.device | str | None = None,
    num_workers: int = 2,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train a model at each seed and return its history, a dict an epoch and seed.

    `data`: what `open_clips` takes (`moving-digits[:difficulty]` or a folder of videos), or a pair
    of sources (train, test). `out`: a run folder; a run that was interrupted goes on there, and one
    that is complete returns its stored history. Seeds train together, each with its own
    initialisation, data order and stochastic depth, and each gets the numbers it would get alone.
    Raises ValueError for data, configuration and folder that do not fit together.
    """
    config, train = resolve(config), train or TrainConfig()
    seeds = _checked_seeds(seeds)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    opened: list[VideoClips | GeneratedClips] = []
    try:
        if isinstance(data, str):
            for split in ("train", "test"):
                opened.append(open_clips(data, split, config, train=train, num_workers=num_workers))
        pair = (opened[0], opened[1]) if isinstance(data, str) else data
        training = _Training(config, train, pair[0], pair[1], seeds, device)
        training.source = data if isinstance(data, str) else None
        folder = None
        if out is not None:
            folder = RunFolder(out, training.describe(), device)
            if training.resume(folder):
                return folder.rows()
        training.run(folder, progress)
        return training.history
    finally:
        for clips in opened:
            clips.close()


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    seeds = tuple(seeds)
    whole = all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)} must be different whole numbers of at least 0")
    return seeds


class _Training:
    """The state of one `fit`: population, optimiser, history."""

    def __init__(
        self,
        config: PosMLPConfig,
        train: TrainConfig,
        train_clips: ClipSource,
        test_clips: ClipSource,
        seeds: tuple[int, ...],
        device: torch.device,
    ) -> None:
        if len(train_clips.classes) != config.num_classes:
            raise ValueError(
                f"num_classes={config.num_classes} but {train_clips.name} has "
                f"{len(train_clips.classes)} classes; set num_classes={len(train_clips.classes)}"
            )
        if len(train_clips) < train.batch_size:
            raise ValueError(
                f"batch_size={train.batch_size} is more than the {len(train_clips)} training clips;"
                f" use at most {len(train_clips)}"
            )
        self.config, self.train = config, train
        self.train_clips, self.test_clips = train_clips, test_clips
        self.population = Population(config, seeds, device)
        self.optimiser = make_optimiser(self.population.parameters, train)
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self.source: str | None = None
        autocast = {"auto": device.type == "cuda", "bfloat16": True, "float32": False}
        self.autocast = autocast[train.precision]

    def describe(self) -> dict[str, Any]:
        return {
            "model": self.config.to_dict(),
            "train": self.train.to_dict(),
            "source": self.source,
            "data": {"train": self.train_clips.describe(), "test": self.test_clips.describe()},
            "classes": list(self.train_clips.classes),
            "seeds": list(self.population.seeds),
        }

    @property
    def num_steps(self) -> int:
        """Steps an epoch; a last batch that is not full is left out."""
        return len(self.train_clips) // self.train.batch_size

    def resume(self, folder: RunFolder) -> bool:
        """Take up a stored state; returns whether the run was already complete."""
        self.history = [row for row in folder.rows() if row["epoch"] <= self.train.epochs]
        stored = folder.load_state()
        if stored is None:
            complete = bool(self.history) and self.history[-1]["epoch"] == self.train.epochs
            self.history = self.history if complete else []
            return complete
        tensors, self.epochs_done = stored
        self.history = [row for row in self.history if row["epoch"] <= self.epochs_done]
        self.population.load_state({k[6:]: v for k, v in tensors.items() if k[:6] == "model."})
        load_optimiser(self.optimiser, self.population.parameters, tensors)
        return False

    def run(self, folder: RunFolder | None, progress: bool) -> None:
        total = self.train.epochs * self.num_steps
        bar = tqdm(
            total=total,
            initial=self.epochs_done * self.num_steps,
            desc=f"{len(self.population.seeds)} seed(s)",
            unit="step",
            disable=None if progress else True,
        )
        with bar:
            for epoch in range(self.epochs_done, self.train.epochs):
                started = time.perf_counter()
                losses, correct, waited = self._train_epoch(epoch, bar)
                self._record(epoch + 1, losses, correct, waited, time.perf_counter() - started)
                if folder is not None:
                    self._store(folder, epoch + 1)

    def _train_epoch(self, epoch: int, bar: tqdm) -> tuple[Tensor, Tensor, float]:
        """Mean loss (S,), accuracy (S,) over the epoch, and the seconds spent waiting for clips."""
        device, seeds = self.population.device, self.population.seeds
        losses = torch.zeros(len(seeds), device=device)
        correct = torch.zeros(len(seeds), device=device)
        waited = 0.0
        batches = self._batches(epoch)
        for step in range(self.num_steps):
            asked = time.perf_counter()
            clips, labels, scales = next(batches)
            waited += time.perf_counter() - asked
            labels = labels.to(device)
            gradients, loss, logits = self.population.gradients(
                normalise(clips.to(device)),
                labels,
                scales.to(device),
                label_smoothing=self.train.label_smoothing,
                autocast=self.autocast,
            )
            self._apply(gradients, learning_rate(self.train, epoch + step / self.num_steps))
            losses += loss
            correct += (logits.argmax(-1) == labels).float().mean(-1)
            bar.update()
        batches.close()
        return losses / self.num_steps, correct / self.num_steps, waited

    def _batches(self, epoch: int) -> Generator[tuple[Tensor, Tensor, Tensor]]:
        """Clips (S, B, T, H, W, 3), labels (S, B) and stochastic depth (S, steps, B) of each step.

        Everything random is a function of (seed, epoch): order, frames and crops, stochastic depth.
        """
        size, seeds = self.train.batch_size, self.population.seeds
        generators = [torch.Generator().manual_seed(_mixed(seed, epoch)) for seed in seeds]
        orders = [torch.randperm(len(self.train_clips), generator=g) for g in generators]
        indices = [
            order[step * size : (step + 1) * size]
            for step in range(self.num_steps)
            for order in orders
        ]
        rngs = [
            np.random.default_rng([seed, epoch, step])
            for step in range(self.num_steps)
            for seed in seeds
        ]
        stream = self.train_clips.batches(indices, rngs=rngs)
        for step in range(self.num_steps):
            clips = torch.stack([next(stream) for _ in seeds])
            chosen = indices[step * len(seeds) : (step + 1) * len(seeds)]
            labels = torch.stack([self.train_clips.labels[i] for i in chosen])
            scales = [self.population.model.draw_residual_scales(size, g) for g in generators]
            yield clips, labels, torch.stack(scales)

    def _apply(self, gradients: dict[str, Tensor], rate: float) -> None:
        """One AdamW step at `rate`, after clipping each seed's gradient norm."""
        if self.train.grad_clip:
            squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()])
            scale = (self.train.grad_clip / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # (S,)
            gradients = {k: g * scale.view(-1, *(1,) * (g.dim() - 1)) for k, g in gradients.items()}
        for name, parameter in self.population.parameters.items():
            parameter.grad = gradients[name]
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()

    def _record(
        self, epoch: int, losses: Tensor, correct: Tensor, waited: float, seconds: float
    ) -> None:
        scores = score(self.population, self.test_clips)
        for i, seed in enumerate(self.population.seeds):
            row = {
                "epoch": epoch,
                "seed": seed,
                "lr": learning_rate(self.train, epoch),
                "train_loss": losses[i].item(),
                "train_top1": correct[i].item(),
                **{f"test_{name}": value for name, value in scores[i].items()},
                "seconds": seconds,
                "data_wait_share": waited / seconds,
            }
            self.history.append(row)
            if not math.isfinite(row["train_loss"]):
                print(f"seed {seed}: loss is {row['train_loss']} in epoch {epoch}", file=sys.stderr)

    def _store(self, folder: RunFolder, epoch: int) -> None:
        """Store an epoch in an order that a kill at any moment leaves resumable.

        Rows of the last epoch mean that the run is complete, so the models come before them.
        """
        if epoch < self.train.epochs:
            folder.write_rows(self.history)
            if self.train.checkpoint_every and epoch % self.train.checkpoint_every == 0:
                for seed in self.population.seeds:
                    path = folder.root / "checkpoints" / f"epoch{epoch}-seed{seed}.safetensors"
                    save(self.population.member(seed), path, seed=str(seed), epoch=str(epoch))
            model = {f"model.{name}": tensor for name, tensor in self.population.state().items()}
            moments = optimiser_state(self.optimiser, self.population.parameters)
            folder.save_state({**model, **moments}, epoch)
            return
        for seed in self.population.seeds:
            save(self.population.member(seed), folder.model_path(seed), seed=str(seed))
        folder.write_rows(self.history)
        folder.drop_state()


def _mixed(seed: int, epoch: int) -> int:
    """One generator seed for (seed, epoch), so that neighbouring pairs share nothing."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def make_optimiser(parameters: dict[str, Tensor], train: TrainConfig) -> torch.optim.AdamW:
    """AdamW over stacked parameters (S, ...); those of one dimension or less do not decay.

    Source: the released rule, by which tables and token biases do decay.
    """
    decayed = [p for p in parameters.values() if p.dim() - 1 >= 2]
    others = [p for p in parameters.values() if p.dim() - 1 < 2]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr)


def optimiser_state(
    optimiser: torch.optim.Optimizer, parameters: dict[str, Tensor]
) -> dict[str, Tensor]:
    """AdamW's moments and step counts by parameter name, for a safetensors file."""
    return {
        f"optimiser.{key}.{name}": value
        for name, parameter in parameters.items()
        for key, value in optimiser.state[parameter].items()
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, parameters: dict[str, Tensor], stored: dict[str, Tensor]
) -> None:
    """Put back what `optimiser_state` gave."""
    for name, parameter in parameters.items():
        optimiser.state[parameter] = {
            key: stored[f"optimiser.{key}.{name}"].to(parameter.device if key != "step" else "cpu")
            for key in ("step", "exp_avg", "exp_avg_sq")
        }


def predict(
    model: PosMLPVideo | Population,
    clips: ClipSource,
    *,
    num_views: int = 1,
    num_crops: int = 1,
    batch_size: int = 64,
) -> Tensor:
    """Logits of every clip, (N, K) for a model and (S, N, K) for a population, mean over views.

    Source: the released test sums raw logits over temporal views and spatial crops; the mean ranks
    the same.
    """
    device = model.device if isinstance(model, Population) else next(model.parameters()).device
    forward = model.logits if isinstance(model, Population) else model
    if isinstance(model, PosMLPVideo):
        model.eval()
    indices = torch.arange(len(clips)).split(batch_size)
    total: Any = 0.0
    for view in range(num_views):
        for crop in range(num_crops):
            stream = clips.batches(
                indices, view=view, num_views=num_views, crop=crop, num_crops=num_crops
            )
            with torch.no_grad():
                parts = [forward(normalise(batch.to(device))).float().cpu() for batch in stream]
            total = total + torch.cat(parts, dim=-2)
    return total / (num_views * num_crops)


def metrics(logits: Tensor, labels: Tensor, reverse_of: Tensor | None = None) -> dict[str, float]:
    """Top-1, top-5 and cross-entropy of logits (N, K); `within_pair` where classes have reversals.

    `within_pair`: the share of clips whose true class outscores the class of its time reversal. A
    model blind to the order of frames is at exactly 0.5 on clips that come in reversed pairs.
    """
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


def score(population: Population, clips: ClipSource) -> list[dict[str, float]]:
    """`metrics` of each seed on every clip of a source, one view each."""
    return [metrics(each, clips.labels, clips.reverse_of) for each in predict(population, clips)]


def evaluate(
    model: PosMLPVideo | str | Path,
    data: str | ClipSource = "moving-digits",
    *,
    split: str = "test",
    clips: int = 1,
    crops: int = 1,
    batch_size: int = 64,
    num_workers: int = 2,
    train: TrainConfig | None = None,
) -> dict[str, float]:
    """`metrics` of a model over a split, averaging logits over `clips` x `crops` views a video.

    `model`: a model or the path of one that `save` wrote. `data`: what `open_clips` takes, or a
    source. `train` tells how frames are sampled. Raises ValueError for what does not fit together.
    """
    model = load(model) if isinstance(model, str | Path) else model
    if isinstance(data, str):
        train = train or TrainConfig()
        source = open_clips(data, split, model.config, train=train, num_workers=num_workers)
        try:
            return _evaluate(model, source, clips, crops, batch_size)
        finally:
            source.close()
    return _evaluate(model, data, clips, crops, batch_size)


def _evaluate(
    model: PosMLPVideo, source: ClipSource, num_views: int, num_crops: int, batch_size: int
) -> dict[str, float]:
    if len(source.classes) != model.config.num_classes:
        raise ValueError(
            f"the model has {model.config.num_classes} classes but {source.name} has "
            f"{len(source.classes)}; evaluate it on the data it was trained for"
        )
    logits = predict(model, source, num_views=num_views, num_crops=num_crops, batch_size=batch_size)
    return metrics(logits, source.labels, source.reverse_of)
