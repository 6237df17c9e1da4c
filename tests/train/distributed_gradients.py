"""Run by torchrun: gradients of one batch that the processes share, written by the first one."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from posmlp.train.distributed import join
from posmlp.train.execution import preparation
from posmlp.train.population import Population
from tests.train.test_population import TINY


def in_float64(population: Population) -> Population:
    """The same population with its parameters and statistics in float64, in place."""
    parameters, statistics = population.parameters, population.statistics
    population.parameters = {k: v.detach().double().requires_grad_() for k, v in parameters.items()}
    population.statistics = {
        k: v.double() if v.is_floating_point() else v for k, v in statistics.items()
    }
    return population


def main(source: Path, target: Path, micro_batches: int) -> None:
    torch.set_num_threads(1)
    batch = load_file(source)
    team, device = join(torch.device("cpu"))
    prepare = preparation(team, checkpoint_activations=True, compiled=False)
    population = in_float64(Population(TINY, [3, 5], device, prepare=prepare))
    part = team.part(batch["labels"].shape[1])
    gradients, losses, _ = population.gradients(
        batch["clips"][:, part],
        batch["labels"][:, part],
        batch["scales"][:, :, part],
        label_smoothing=0.1,
        micro_batches=micro_batches,
    )
    found = team.mean(gradients) | team.mean({"losses": losses})
    if team.is_first:
        save_file(found | population.statistics, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
