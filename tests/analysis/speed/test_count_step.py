"""What a step computes and moves, against counts by hand; and where that puts it under its roof."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis import cost
from analysis.speed.count_step import Counts, count_step
from analysis.speed.scaling import Ceilings, against_ceilings
from analysis.speed.speed import make_step
from posmlp import create_model
from posmlp.presets import resolve
from tests.analysis.speed.test_scaling import TINY

IN, OUT, BATCH = 8, 4, 2


def counted(model: nn.Module, x: Tensor, phase: str, mode: str = "eager") -> Counts:
    return count_step(make_step(model, x, phase, mode))


def test_a_linear_layer_counts_as_by_hand():
    layer, x = nn.Linear(IN, OUT), torch.randn(BATCH, IN)
    product = 2 * BATCH * IN * OUT
    forward = BATCH * IN + OUT * IN + OUT + BATCH * OUT  # x, weight, bias, output
    assert counted(layer, x, "forward") == (product, 4 * forward)
    # the sum's gradient is one number, expanded: the weight's gradient reads it and x
    weight_gradient = 1 + BATCH * IN + OUT * IN
    rest = (BATCH * OUT + 1) + 1 + (1 + OUT)  # the sum, its gradient, the bias' gradient
    training = (2 * product, 4 * (forward + weight_gradient + rest))  # x wants no gradient
    assert counted(layer, x, "training") == training


@pytest.mark.parametrize(
    ("function", "tensors"),
    [
        (F.gelu, 2),  # one read, one written
        (lambda x: x * x, 2),  # one tensor twice is read once
        (lambda x: x + x.flip(0), 5),  # the flipped copy is made, and read
        (lambda x: x.clone().add_(x), 5),  # in place: two read, one written
        (lambda x: x.clone().zero_(), 3),  # nothing read, one written
        (lambda x: torch.empty_like(x).copy_(x), 2),  # memory that is only taken is free
        (lambda x: x.mT.reshape(-1, 3).mT[:1], 2),  # a copy between views
        (lambda x: x.unflatten(0, (2, -1)).flatten(), 0),  # views
        (lambda x: torch.add(x, x[:1].expand_as(x)), 2.25),  # a row, expanded, is read once
    ],
)
def test_bytes_of_elementwise_operators_are_those_counted_by_hand(function, tensors):
    x = torch.randn(4, 6)
    assert count_step(lambda: function(x)) == (0, tensors * 4 * x.numel())


def test_bytes_under_autocast_are_of_bfloat16():
    layer, x = nn.Linear(IN, OUT, bias=False), torch.randn(BATCH, IN)
    product = BATCH * IN + OUT * IN + BATCH * OUT
    casts = (4 + 2) * (BATCH * IN + OUT * IN)
    assert counted(layer, x, "forward", "bfloat16").num_bytes == 2 * product + casts


def test_flops_of_all_layers_but_the_first_are_three_times_the_forward_pass():
    layers = nn.Sequential(nn.Linear(IN, OUT), nn.GELU(), nn.Linear(OUT, 3))
    first, second = 2 * BATCH * IN * OUT, 2 * BATCH * OUT * 3
    assert counted(layers, torch.randn(BATCH, IN), "training").flops == 2 * first + 3 * second
    convs = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6))
    first, second = 2 * 25 * 2 * 6, 2 * 25 * 6 * 9
    images = torch.randn(1, 2, 5, 5)
    assert counted(convs, images, "forward").flops == first + second
    assert counted(convs, images, "training").flops == 2 * first + 3 * second


def test_flops_of_a_model_are_twice_its_multiply_adds_and_scale_with_the_batch():
    config = resolve(TINY, windows=2)  # a window of one token is multiplied, not mixed
    model = create_model(config).to("meta")
    clips = torch.zeros(3, 3, TINY.num_frames, 16, 16, device="meta")
    found = cost(config)
    with torch.no_grad():
        assert count_step(lambda: model(clips[:1])).flops == 2 * found["macs"]
    stem = found["by_module"].query("module.str.startswith('stem')")["macs"]
    step = count_step(lambda: model(clips[:1]).sum().backward()).flops
    assert 6 * found["macs"] - 2 * stem.sum() <= step < 6 * found["macs"]
    three = count_step(lambda: model(clips).sum().backward()).flops
    assert three == pytest.approx(3 * step, rel=0.02)


@pytest.mark.parametrize(
    ("flops", "bound", "share"), [(1e9, "memory", 0.25), (8e9, "compute", 0.8)]
)
def test_share_is_of_the_lower_ceiling(flops, bound, share):
    """At 100 GFLOP/s and 20 GB/s the ridge lies at 5 FLOPs a byte; 1 GB in 200 and 100 ms."""
    median_ms = 200.0 if bound == "memory" else 100.0
    row = against_ceilings(Counts(int(flops), 10**9), median_ms, Ceilings(100.0, 20.0))
    assert row["flops_per_byte"] == flops / 1e9
    assert row["bound"] == bound
    assert row["roofline_share"] == pytest.approx(share)
    assert row["gb_per_s"] == pytest.approx(1e3 / median_ms)
    assert row["gflops_per_s"] == pytest.approx(flops / 1e6 / median_ms)
