"""A model that an analysis was lent comes back as it was."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from analysis import (
    arrow_curve,
    attribute,
    bias_maps,
    cost,
    exemplars,
    intervene,
    knock_outs,
    measure_speed,
    resize_bias,
)
from posmlp import PosMLPVideo, create_model
from posmlp.checkpoint import copied
from posmlp.config import TrainConfig
from posmlp.data.sources import HeldClips
from posmlp.train.scoring import predict

CLIPS = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
PIXELS = torch.zeros(2, 8, 32, 32, 3, dtype=torch.uint8)


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
    train = TrainConfig(num_test_clips=28)
    intervene(model, "moving-digits:easy", knock_outs(model)[:1], train=train)


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


def test_threads_take_turns_with_a_model() -> None:
    model = create_model("toy").train()
    model.requires_grad_(True)
    before, scored = seen(model), create_model("toy").train()
    scored.load_state_dict(model.state_dict())
    held = HeldClips("own", ("a",) * 14, torch.tensor([0, 1]), None, PIXELS, {})
    uses: list[Callable[[PosMLPVideo], torch.Tensor]] = [
        lambda m: attribute(m, CLIPS, 0, "saliency").values,
        lambda m: attribute(m, CLIPS, 0, "integrated_gradients").values,
        lambda m: attribute(m, CLIPS, 0, "grad_cam").values,
        lambda m: torch.tensor([each.training for each in copied(m).modules()]),
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda use: use(model), uses * 2))
        last = [lambda m: predict(m, held)] * 2
        scores = list(pool.map(lambda use: use(scored), [*uses[:3], *last]))
    assert not any("forward" in vars(module) for module in scored.modules())
    torch.testing.assert_close(seen(model), before)
    for one, again in zip(found[:4], found[4:], strict=True):
        torch.testing.assert_close(one, again)
    assert found[3].all()
    torch.testing.assert_close(scores[:3], found[:3])  # no hook saw what was scored


def test_wrapped_models_are_analysed_as_what_they_wrap() -> None:
    model = create_model("toy").eval()
    wrapped = nn.DataParallel(model)
    found = [attribute(each, CLIPS, 0, "grad_cam").values for each in (model, wrapped)]
    torch.testing.assert_close(*found)
    assert cost(wrapped)["macs"] == cost(model)["macs"]
    data = HeldClips("own", ("a",) * 14, torch.tensor([0, 1]), None, PIXELS, {})
    uses: list[Callable[[PosMLPVideo], pd.DataFrame]] = [
        bias_maps,
        lambda m: intervene(m, data, knock_outs(m)[:1]),
        lambda m: exemplars(m, CLIPS, "stage4.block1.step1.T", 0),
        lambda m: arrow_curve(m, data, (1.0, -1.0)),
    ]
    for use in uses:
        pd.testing.assert_frame_equal(use(wrapped), use(model))
    assert resize_bias(wrapped, num_frames=4).config.num_frames == 4


def test_halves_are_attributed_and_pruned_models_refused() -> None:
    half = create_model("toy").to(torch.bfloat16)
    assert attribute(half, CLIPS, 0, "saliency").values.dtype == torch.float32
    pruned = create_model("toy")
    prune.l1_unstructured(pruned.head, "weight", amount=0.5)
    with pytest.raises(ValueError, match="end the pruning first"):
        cost(pruned)
