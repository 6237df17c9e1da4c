"""Timing: rows, turns, and models handed back as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from analysis import measure_speed, pareto
from analysis.speed import speed
from posmlp import create_model


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


def test_batch_sizes_may_be_an_array(clock):
    log: list[float] = []
    table = measure_speed(
        {"a": Timed(1.0, log, clock)}, **{**QUICK, "batch_sizes": np.array([1, 2])}
    )
    assert table["batch_size"].tolist() == [1, 2]


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
    with pytest.raises(ValueError, match="no column 'latency'"):
        pareto(df, cost="latency")
