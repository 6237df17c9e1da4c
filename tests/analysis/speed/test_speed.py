"""Timing: rows, turns, and models handed back as they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis import cost, measure_speed, pareto
from analysis.speed import speed
from analysis.speed.count_step import Counts, count_step
from analysis.speed.scaling import Ceilings, against_ceilings
from analysis.speed.speed import make_step
from posmlp import create_model
from posmlp.presets import resolve
from tests.analysis.speed.test_scaling import TINY


class Clock:
    """Stands still while nothing that it knows of runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


class Timed(nn.Module):
    """Takes a known time and notes when it ran."""

    def __init__(self, seconds: float, log: list[float], clock: Clock) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seconds, self.log, self.clock = seconds, log, clock

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.log.append(self.seconds)
        self.clock.now += self.seconds
        return clips.sum() * self.weight


QUICK = {"clip_shape": (1, 1, 2, 2), "warm_up": 1, "min_runs": 5, "min_seconds": 0.0}


def test_measure_speed_ranks_known_times_in_turns(clock):
    log: list[float] = []
    models = {"slow": Timed(2.0, log, clock), "fast": Timed(0.5, log, clock)}
    table = measure_speed(models, **QUICK).set_index("model")
    assert table["ratio"].to_dict() == {"slow": 1, "fast": 4}
    assert table["median_ms"].to_dict() == {"slow": 2000, "fast": 500}
    assert log == [2.0, 0.5] * 6, "not one run of each a round"


def test_measure_speed_has_a_row_for_each_setting():
    table = measure_speed(
        {"tiny": create_model("toy", depths=(1, 1), dims=(8, 8), num_groups=1, windows=1,
                              temporal_windows=8, mlp_ratio=2.0, downsample=True, image_size=8)},
        batch_sizes=(1, 2), phases=("forward", "training"), modes=("eager", "bfloat16"),
        num_threads=1, warm_up=0, min_runs=1, min_seconds=0.0,
    )  # fmt: skip
    assert len(table) == 8
    assert len(table.groupby(["batch_size", "phase", "mode"])) == 8
    assert (table["num_threads"] == 1).all()
    assert (
        table["clips_per_s"] - 1e3 * table["batch_size"] / table["median_ms"]
    ).abs().max() < 1e-6


@pytest.mark.parametrize("one", ["toy", create_model("toy"), create_model("toy").config])
def test_measure_speed_takes_one_model(one):
    table = measure_speed(one, warm_up=0, min_runs=1, min_seconds=0.0)
    assert len(table) == 1
    assert table["ratio"].item() == 1


def test_measure_speed_hands_models_back():
    model = create_model("toy").train()
    threads = torch.get_num_threads()
    measure_speed({"a": model}, num_threads=1, warm_up=0, min_runs=1, min_seconds=0.0)
    assert model.training
    assert torch.get_num_threads() == threads
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": ("backward",)}, "unknown phase"),
        ({"modes": ("fp8",)}, "unknown mode"),
        ({"phases": ()}, "phases is empty; give at least one"),
        ({"batch_sizes": []}, "batch_sizes is empty; give at least one"),
        ({"batch_sizes": [1, 0]}, "batch_sizes=0 must be a whole number of at least 1"),
        ({"batch_sizes": [1.5]}, r"batch_sizes=1\.5 must be a whole number"),
        ({"min_runs": 0}, "min_runs=0 must be a whole number of at least 1"),
        ({"warm_up": -1}, "warm_up=-1 must be a whole number of at least 0"),
        ({"num_threads": 0}, "num_threads=0 must be a whole number of at least 1"),
        ({"min_seconds": float("nan")}, "min_seconds=nan must be at least 0"),
        ({"max_seconds": 0}, "max_seconds=0 must be more than 0"),
        ({"device": "tpu"}, "device='tpu' is not here"),
    ],
)
def test_measure_speed_refuses_settings_that_measure_nothing(changes, message):
    with pytest.raises(ValueError, match=message):
        measure_speed({"a": nn.Identity()}, **{**QUICK, **changes})


def test_pareto_keeps_what_nothing_beats():
    import pandas as pd

    df = pd.DataFrame(
        {
            "name": ["cheap", "beaten", "tie", "tie again", "best", "unknown"],
            "gmacs": [1.0, 2.0, 3.0, 3.0, 9.0, 0.5],
            "test_top1": [0.5, 0.4, 0.6, 0.6, 0.9, float("nan")],
        }
    )
    assert list(pareto(df)["name"]) == ["cheap", "tie", "best"]
    ended = df.assign(status=["done"] * 4 + ["failed", "done"], role=["trial"] + ["result"] * 5)
    assert list(pareto(ended)["name"]) == ["beaten", "tie"]  # of ablations.load as it is
    with pytest.raises(ValueError, match="no column 'latency'"):
        pareto(df, cost="latency")


# Operations of a training step


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
