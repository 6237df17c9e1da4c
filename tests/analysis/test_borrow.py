"""A model that an analysis was lent comes back as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from analysis import cost, intervene, knock_outs, measure_speed
from posmlp import PosMLPVideo, create_model

CLIPS = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def seen(model: PosMLPVideo) -> list[object]:
    """All of a model that a caller may have set."""
    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if each.grad is None else each.grad.clone() for each in model.parameters()],
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
    ]


def speed(model: PosMLPVideo) -> None:
    phases = ("forward", "training")
    measure_speed(model, phases=phases, warm_up=0, min_runs=1, min_seconds=0.0)


def effects(model: PosMLPVideo) -> None:
    intervene(model, "moving-digits:easy", knock_outs(model)[:1], batch_size=280)


@pytest.mark.parametrize("use", [speed, cost, effects])
def test_model_comes_back_as_it_was(use: Callable[[PosMLPVideo], object]) -> None:
    model = create_model("toy").train()
    model(CLIPS).sum().backward()
    model.stages[0].eval()  # as for a part that is not to learn
    model.head.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(0.5)
    before = seen(model)
    use(model)
    torch.testing.assert_close(seen(model), before, rtol=0, atol=0)
