"""What a step computes and moves, against counts by hand; and where that puts it under its roof."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis import cost
from analysis.speed.bench_gpu import write_bench_gpu
from analysis.speed.count_step import count_bytes, count_flops
from analysis.speed.roofline import PRODUCT_SIZES, Ceilings, against_ceilings, make_products
from posmlp import create_model
from posmlp.presets import PRESETS
from tests.analysis.speed.test_scaling import TINY

IN, OUT, BATCH = 8, 4, 2


class Does(nn.Module):
    """An elementwise function of the clips, with a parameter that it does not use."""

    def __init__(self, function) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_bytes_of_a_linear_layer_are_those_counted_by_hand():
    layer, x = nn.Linear(IN, OUT), torch.randn(BATCH, IN)
    forward = BATCH * IN + OUT * IN + OUT + BATCH * OUT  # x, weight, bias, output
    assert count_bytes(layer, x, "forward") == (4 * forward, 4 * forward)
    # the sum's gradient is one number, expanded: the weight's gradient reads it and x
    weight_gradient = 1 + BATCH * IN + OUT * IN
    rest = (BATCH * OUT + 1) + 1 + (1 + OUT)  # the sum, its gradient, the bias' gradient
    found = count_bytes(layer, x, "training")
    assert found.product_bytes == 4 * (forward + weight_gradient)
    assert found.all_bytes == 4 * (forward + weight_gradient + rest)


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
    found = count_bytes(Does(function), x, "forward")
    assert found == (tensors * 4 * x.numel(), 0)


def test_bytes_under_autocast_are_of_bfloat16():
    layer, x = nn.Linear(IN, OUT, bias=False), torch.randn(BATCH, IN)
    product = BATCH * IN + OUT * IN + BATCH * OUT
    casts = (4 + 2) * (BATCH * IN + OUT * IN)
    found = count_bytes(layer, x, "forward", "compiled bfloat16")
    assert found == (2 * product + casts, 2 * product)


def test_flops_of_known_products():
    layer = nn.Linear(IN, OUT)
    assert count_flops(layer, (IN,), BATCH, "forward") == 2 * BATCH * IN * OUT
    assert count_flops(layer, (IN,), BATCH) == 2 * 2 * BATCH * IN * OUT  # clips want no gradient
    two = nn.Sequential(layer, nn.GELU(), nn.Linear(OUT, 3))
    first, second = 2 * BATCH * IN * OUT, 2 * BATCH * OUT * 3
    assert count_flops(two, (IN,), BATCH) == 2 * first + 3 * second


def test_flops_of_convolutions_with_groups_are_three_times_the_forward_pass():
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6))
    first, second = 2 * 25 * 2 * 6, 2 * 25 * 6 * 9
    assert count_flops(model, (2, 5, 5), 1, "forward") == first + second
    assert count_flops(model, (2, 5, 5), 1) == 2 * first + 3 * second


def test_flops_of_a_model_are_twice_its_multiply_adds_and_scale_with_the_batch():
    model = create_model(TINY)
    shape = (3, TINY.num_frames, 16, 16)
    macs = cost(model)["macs"]
    assert count_flops(model, shape, 1, "forward") == 2 * macs
    stem = cost(model)["by_module"].query("module.str.startswith('stem')")["macs"]
    step = count_flops(model, shape, 1)
    assert 6 * macs - 2 * stem.sum() <= step < 6 * macs
    assert count_flops(model, shape, 3) == pytest.approx(3 * step, rel=0.02)


def test_counting_leaves_a_model_as_it_was():
    model = create_model(TINY).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_flops(model, (3, TINY.num_frames, 16, 16), 1)
    count_bytes(model, torch.randn(1, 3, TINY.num_frames, 16, 16), "forward")
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("flops", "bound", "share"), [(1e9, "memory", 0.25), (8e9, "compute", 0.8)]
)
def test_share_is_of_the_lower_ceiling(flops, bound, share):
    """At 100 GFLOP/s and 20 GB/s the ridge lies at 5 FLOPs a byte; 1 GB in 200 and 100 ms."""
    median_ms = 200.0 if bound == "memory" else 100.0
    row = against_ceilings(flops, 1e9, median_ms, Ceilings(100.0, 20.0))
    assert row["flops_per_byte"] == flops / 1e9
    assert row["bound"] == bound
    assert row["roofline_share"] == pytest.approx(share)
    assert row["gb_per_s"] == pytest.approx(1e3 / median_ms)
    assert row["gflops_per_s"] == pytest.approx(flops / 1e6 / median_ms)


def test_products_run_in_the_precision_asked_and_have_a_gradient(monkeypatch):
    monkeypatch.setitem(PRODUCT_SIZES, "cpu", (6, 4, 2))
    for product in make_products("cpu").values():
        seen = []
        maker = product.maker
        product.maker = lambda *given, maker=maker, seen=seen: seen.append(given) or maker(*given)
        product(torch.ones(1)).backward()
        with torch.autocast("cpu", torch.bfloat16):
            product(torch.ones(1))
        assert [given[0].dtype for given in seen] == [torch.float32, torch.bfloat16]


@pytest.fixture
def small(monkeypatch):
    """Ceilings of small arrays and products, for speed; what they say is not asked here."""
    monkeypatch.setattr("analysis.speed.roofline.LARGE", 2**16)
    monkeypatch.setitem(PRESETS, "tiny", TINY)


@pytest.mark.usefixtures("small")
def test_roofline_part_has_a_row_for_each_mode_and_phase(tmp_path):
    modes = ["eager", "bfloat16"]
    table = write_bench_gpu(
        "roofline", tmp_path, preset="tiny", device="cpu", num_runs=1, modes=modes
    )
    settings = table[["mode", "phase"]].to_numpy().tolist()
    assert settings == [[mode, phase] for mode in modes for phase in ("forward", "training")]
    eager, low = (table[table["mode"] == mode].set_index("phase") for mode in modes)
    assert eager.loc["training", "gflops"] > 2.5 * eager.loc["forward", "gflops"]
    assert (eager["gflops"] == low["gflops"]).all()
    roof = table["flops_per_byte"] * table["peak_gb_per_s"]
    lower = roof.where(table["bound"] == "memory", table["peak_gflops_per_s"])
    assert (lower <= roof).all()
    assert (table["roofline_share"] * lower).tolist() == pytest.approx(table["gflops_per_s"])
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("-roofline.csv")
    assert {"preset", "device", "torch", "commit", "counted"} <= set(pd.read_csv(path))


def test_modes_are_refused_where_a_part_has_none(tmp_path):
    with pytest.raises(ValueError, match="gates has no modes; only model and roofline have"):
        write_bench_gpu("gates", tmp_path, device="cpu", modes=["eager"])
    with pytest.raises(ValueError, match="unknown mode"):
        write_bench_gpu("roofline", tmp_path, device="cpu", modes=["fp8"])
