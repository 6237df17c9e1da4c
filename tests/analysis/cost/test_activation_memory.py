"""Activation memory against cases computed on paper."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analysis import activation_memory, cost
from analysis.cost.memory import peak_bytes
from posmlp import PosMLPConfig, create_model

FLOAT = 4
N = 10


class Perceptron(nn.Module):
    """(B, 4) -> (B, 2) through 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.gelu(self.first(x.flatten(0, 1))))


class Square(nn.Module):
    """Its product saves y twice, as itself and as a view of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        return y * y.view_as(y)


def test_memory_of_a_perceptron_on_paper() -> None:
    found = activation_memory(Perceptron(), (N, 4))
    hidden = N * 8 * FLOAT
    # backward needs GELU's input and the second layer's; the first layer's is the clip itself
    assert found["saved_bytes"] == 2 * hidden
    # GELU's input and output live together; the 2 outputs come when the input has been dropped
    assert found["peak_bytes"] == 2 * hidden


def test_memory_counts_a_block_once_however_many_tensors_view_it() -> None:
    found = activation_memory(Square(), (6,))
    assert found["saved_bytes"] == 6 * FLOAT
    assert found["peak_bytes"] == 2 * 6 * FLOAT


def test_memory_in_half_precision_is_half() -> None:
    whole = activation_memory(Perceptron(), (N, 4))
    half = activation_memory(Perceptron().bfloat16(), (N, 4))
    assert half == {name: size // 2 for name, size in whole.items()}


def test_cost_tells_memory_which_grows_with_the_clip() -> None:
    small = PosMLPConfig(
        num_classes=3, num_frames=4, image_size=16, depths=(1,), dims=(8,), num_groups=2, windows=4
    )
    sizes = ((3, 4, 32, 32), (3, 4, 64, 64))  # of several windows: a single one takes no copies
    one, four = (cost(create_model(small), clip_shape=size) for size in sizes)
    for name in ("saved_bytes", "peak_bytes"):
        assert 3.5 * one[name] < four[name] < 4.1 * one[name], name
    assert four["macs"] > 3.9 * one["macs"]
    assert one["saved_bytes"] > one["peak_bytes"]


@pytest.mark.parametrize(
    "clip_shape", [None, 3, (), (0, 4), (-1, 4), (1.5, 4)], ids=lambda shape: str(shape)
)
def test_a_clip_without_numbers_is_refused(clip_shape: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"clip_shape={clip_shape} must be (C, T, H")):
        activation_memory(Perceptron(), clip_shape)


def test_memory_of_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="'toy' is no model; build it with posmlp"):
        activation_memory("toy", (3, 8, 32, 32))


def test_peak_is_of_what_a_step_makes_and_holds_at_once() -> None:
    given = torch.zeros(1000)

    def step() -> None:
        for _ in range(3):
            torch.empty(1000)  # dropped before the next
        given.add_(1)
        held = [torch.empty(1000), given[:500], given.clone()]
        del held

    assert peak_bytes(step) == 2 * 4000


def test_peak_of_a_training_step_holds_what_is_saved_for_its_gradients() -> None:
    model, x = Perceptron(), torch.randn(1, N, 4)
    saved = activation_memory(model, (N, 4))["saved_bytes"]
    peak = peak_bytes(lambda: model(x).sum().backward())
    gradients = sum(4 * parameter.numel() for parameter in model.parameters())
    assert saved < peak < 2 * saved + gradients + 4 * x.numel()
