"""From gradients to weights: the schedule, AdamW over stacked seeds, and the average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from posmlp.config import TrainConfig
from posmlp.population import Population, Tensors


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


def make_optimiser(parameters: Tensors, train: TrainConfig) -> torch.optim.AdamW:
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


def clip_gradients(gradients: Tensors, largest: float) -> Tensors:
    """Gradients (S, ...) scaled down where the norm of all of a seed's is over `largest`."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()])
    scale = (largest / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # (S,)
    return {k: g * scale.view(-1, *(1,) * (g.dim() - 1)) for k, g in gradients.items()}


def optimiser_state(optimiser: torch.optim.Optimizer, parameters: Tensors) -> Tensors:
    """AdamW's moments and step counts by parameter name, for a safetensors file."""
    return {
        f"optimiser.{key}.{name}": value
        for name, parameter in parameters.items()
        for key, value in optimiser.state[parameter].items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, parameters: Tensors, stored: Tensors) -> None:
    """Put back what `optimiser_state` gave."""
    for name, parameter in parameters.items():
        if f"optimiser.step.{name}" in stored:  # there is none before the first step
            optimiser.state[parameter] = {
                key: stored[f"optimiser.{key}.{name}"].to(
                    parameter.device if key != "step" else "cpu"
                )
                for key in ("step", "exp_avg", "exp_avg_sq")
            }


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
        for name, tensor in self.population.state().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - decay)
            else:
                self.tensors[name].copy_(tensor)

    def load(self, tensors: Tensors) -> None:
        """Put back stored averages."""
        self.tensors = {name: tensor.to(self.population.device) for name, tensor in tensors.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the population has the averaged weights."""
        own = {name: tensor.clone() for name, tensor in self.population.state().items()}
        self.population.load_state(self.tensors)
        try:
            yield
        finally:
            self.population.load_state(own)
