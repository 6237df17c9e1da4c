"""From gradients to weights: the schedule, AdamW over stacked members, averaged and best weights.

Shapes: S members.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from posmlp.config import TrainConfig
from posmlp.gating import GatingUnit
from posmlp.train.population import Population, Tensors


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


def relation_parameters(model: nn.Module) -> set[str]:
    """Names of what a model's gates learn about pairs of positions.

    They are tables, dense matrices, centres and spreads (a unit's `positions`) and kernels; of a
    gate of the user's own the parameter that `bias_table()` gives. Token biases are not among them,
    nor are attention's queries and keys.
    """
    return {
        f"{where}.{name}" if where else name
        for where, unit in model.named_modules()
        if isinstance(unit, GatingUnit) or where.endswith(".gate")
        for name, parameter in unit.named_parameters()
        if _is_of_relation(unit, name, parameter)
    }


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """(K,): what a class's clips count, over a mean of 1 over all clips (n,); 1 of no clips."""
    counts = torch.bincount(labels.cpu(), minlength=num_classes)
    return torch.where(counts > 0, len(labels) / (counts.count_nonzero() * counts.clamp(min=1)), 1)


def _is_of_relation(unit: Any, name: str, parameter: Tensor) -> bool:
    if isinstance(unit, GatingUnit):
        return name == "kernel" or name.startswith("positions.")
    return hasattr(unit, "bias_table") and unit.bias_table() is parameter


class _Group(NamedTuple):
    """Slices of parameters that step at the same rate and decay alike, with AdamW's moments."""

    train: TrainConfig
    decay: float
    scale: float
    chosen: slice
    tensors: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors
    step: Tensors


class Optimiser:
    """AdamW over stacked parameters (S, ...), each member under its own settings.

    Tensors of one dimension or less a member do not decay. Those named in `relations` step, and
    decay, at `relation_lr_scale` times the rate, and the head at `head_lr_scale` times. Neighbours
    with the same settings share a slice of every tensor, so that seeds alone take no more
    operations than one model.
    Source: the released rule, by which tables and token biases do decay.
    """

    def __init__(
        self,
        parameters: Tensors,
        settings: Sequence[TrainConfig],
        relations: Collection[str] = (),
    ) -> None:
        self._names, self._groups = list(parameters), list[_Group]()
        first = 0
        for _, run in groupby(settings, key=_of_adamw):
            alike = list(run)
            train, chosen = alike[0], slice(first, first + len(alike))
            by_rule: dict[tuple[float, float], Tensors] = defaultdict(dict)
            for name, tensor in parameters.items():
                decay = train.weight_decay if tensor.dim() > 2 else 0.0
                scale = train.relation_lr_scale if name in relations else 1.0
                scale = train.head_lr_scale if name.startswith("head.") else scale
                by_rule[decay, scale][name] = tensor.detach()[chosen]
            for (decay, scale), tensors in by_rule.items():
                mean, square = ({k: torch.zeros_like(x) for k, x in tensors.items()} for _ in "12")
                steps = {k: torch.zeros((), dtype=torch.float32, device="cpu") for k in tensors}
                self._groups.append(
                    _Group(train, decay, scale, chosen, tensors, mean, square, steps)
                )
            first = chosen.stop
        largest = [train.grad_clip or math.inf for train in settings]
        device = next(iter(parameters.values())).device
        self._largest = None if set(largest) == {math.inf} else torch.tensor(largest, device=device)

    @torch.no_grad()
    def step(self, gradients: Tensors, epoch: float) -> None:
        """Clip gradients (S, ...) and step at the rates of a fractional epoch.

        By AdamW's function: the class imports torch's compiler, which takes as long as torch.
        """
        if self._largest is not None:
            gradients = clip_gradients(gradients, self._largest)
        for group in self._groups:
            adamw(
                list(group.tensors.values()),
                [gradients[name][group.chosen] for name in group.tensors],
                list(group.exp_avg.values()),
                list(group.exp_avg_sq.values()),
                [],
                list(group.step.values()),
                foreach=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=group.scale * learning_rate(group.train, epoch),
                weight_decay=group.decay,
                eps=1e-8,
                maximize=False,
            )

    def state(self) -> Tensors:
        """AdamW's moments (S, ...) and step counts by parameter name, for a safetensors file."""
        found = {}
        for name in self._names:
            groups = [group for group in self._groups if name in group.tensors]
            found[f"optimiser.step.{name}"] = groups[0].step[name]
            for key in ("exp_avg", "exp_avg_sq"):
                moments = [getattr(group, key)[name] for group in groups]
                found[f"optimiser.{key}.{name}"] = torch.cat(moments)
        return found

    def load_state(self, stored: Tensors) -> None:
        """Put back what `state` gave."""
        for group in self._groups:
            for name in group.tensors:
                if f"optimiser.step.{name}" not in stored:  # an older file, before the first step
                    continue
                group.step[name].copy_(stored[f"optimiser.step.{name}"])
                for key in ("exp_avg", "exp_avg_sq"):
                    moment = stored[f"optimiser.{key}.{name}"][group.chosen]
                    getattr(group, key)[name].copy_(moment)


def _of_adamw(train: TrainConfig) -> tuple[float, ...]:
    """What decides the rate and the decay at every step, apart from the number of epochs."""
    rates = train.lr, train.relation_lr_scale, train.head_lr_scale, train.min_lr
    return *rates, train.warmup_epochs, train.weight_decay


def clip_gradients(gradients: Tensors, largest: Tensor) -> Tensors:
    """Gradients (S, ...) scaled down where the norm of a member's is over its `largest` (S,).

    On a GPU a few launches do it, however many tensors there are.
    """
    if largest.is_cuda:
        return _clip_at_once(gradients, largest)
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()], dim=1)
    # along rows, (S, P): a sum over columns would round otherwise than for a member alone
    scale = (largest / (squares.sum(1).sqrt() + 1e-6)).clamp(max=1.0)  # (S,)
    return {k: g * scale.view(-1, *(1,) * (g.dim() - 1)) for k, g in gradients.items()}


def _clip_at_once(gradients: Tensors, largest: Tensor) -> Tensors:
    """The same with one norm of all tensors, and one product a member, or a tensor if fewer."""
    every = list(gradients.values())
    norms = torch.linalg.vector_norm(torch.cat([g.flatten(1) for g in every], dim=1), dim=1)
    scale = (largest / (norms + 1e-6)).clamp(max=1.0)
    if len(largest) < len(every):
        for i, own in enumerate(scale):
            torch._foreach_mul_([g[i] for g in every], own)
        return gradients
    return {k: g * scale.view(-1, *(1,) * (g.dim() - 1)) for k, g in gradients.items()}


class WeightAverage:
    """The exponential moving average of a population's weights and batch-norm statistics.

    Over the first steps the decay grows, as (1 + n) / (10 + n), up to `decay`, so that a short
    run's average is not its initial weights.
    """

    def __init__(self, population: Population, decay: float) -> None:
        self.population, self.decay = population, decay
        self.tensors = {name: tensor.clone() for name, tensor in population.state().items()}

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """Take in the weights after `num_steps` steps."""
        decay = min(self.decay, (1 + num_steps) / (10 + num_steps))
        state = self.population.state()
        moving = [name for name, tensor in state.items() if tensor.is_floating_point()]
        averages, values = ([each[name] for name in moving] for each in (self.tensors, state))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for name in state.keys() - moving:
            self.tensors[name].copy_(state[name])

    def load(self, tensors: Tensors) -> None:
        """Put back stored averages."""
        self.tensors = {name: tensor.to(self.population.device) for name, tensor in tensors.items()}


class BestWeights:
    """Each member's weights after its best epoch so far, by val top-1, and by val loss in a tie.

    Where clips have several labels, by mean average precision in place of top-1.
    """

    def __init__(self, population: Population) -> None:
        self.population = population
        self.tensors = {name: tensor.clone() for name, tensor in population.state().items()}
        self.epochs = [0] * len(population.seeds)
        self._scores = [(-math.inf, -math.inf)] * len(population.seeds)

    @torch.no_grad()
    def update(self, epoch: int, val: Sequence[Mapping[str, float]]) -> None:
        """Take the weights of the members whose `metrics` on val clips are their best so far."""
        for i, scores in enumerate(val):
            reached = scores.get("map", scores["top1"]), -scores["loss"]
            if reached > self._scores[i]:
                self._scores[i], self.epochs[i] = reached, epoch
                for name, tensor in self.population.state().items():
                    self.tensors[name][i].copy_(tensor[i])

    def state(self) -> Tensors:
        """All of this for a safetensors file; scores as they are, in float64."""
        scores = torch.tensor(self._scores, dtype=torch.float64)
        own = {"best.scores": scores, "best.epochs": torch.tensor(self.epochs)}
        return own | {f"best.weights.{name}": tensor for name, tensor in self.tensors.items()}

    def load_state(self, stored: Tensors) -> None:
        """Put back what `state` gave."""
        self._scores = [(top1, loss) for top1, loss in stored["best.scores"].tolist()]
        self.epochs = stored["best.epochs"].tolist()
        device = self.population.device
        self.tensors = {k: stored[f"best.weights.{k}"].to(device) for k in self.tensors}


@contextmanager
def lent(population: Population, weights: WeightAverage | BestWeights) -> Iterator[None]:
    """Within the block the population has the averaged or the best weights."""
    own = {name: tensor.clone() for name, tensor in population.state().items()}
    population.load_state(weights.tensors)
    try:
        yield
    finally:
        population.load_state(own)
