"""Tables of time against size: what they hold, and figures drawn of them."""

from __future__ import annotations

import os

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from analysis.speed.bench import bench, peak_allocated_mb, step_memory
from analysis.speed.bench_gpu import write_bench_gpu
from analysis.speed.bench_seeds import bench_seeds
from analysis.speed.count_step import count_flops
from analysis.speed.draw_scaling import draw_joint, draw_scaling
from analysis.speed.scaling import (
    PopulationStep,
    time_gates,
    time_joint,
    time_scaling,
    write_scaling,
)
from posmlp import GATES, PosMLPConfig, create_model
from posmlp.presets import PRESETS
from posmlp.train.population import seeded_model

TINY = PosMLPConfig(
    depths=(1, 1),
    dims=(8, 16),
    num_groups=(2, 4),
    windows=(2, 1),
    temporal_windows=None,
    downsample=True,
    mlp_ratio=2.0,
    image_size=16,
    num_frames=4,
    num_classes=3,
)


def test_time_gates_has_every_gate_and_shares_that_sum_to_one():
    table = time_gates(TINY, ["T>S"], batch_size=1, num_runs=1)
    assert table["gate"].tolist() == list(GATES)
    assert table[["time_share", "mac_share"]].sum().tolist() == pytest.approx([1, 1])
    by_gate = table.set_index("gate")
    assert by_gate.loc["attention", "gmacs"] > by_gate.loc["lrpe", "gmacs"]


def test_joint_memory_is_linear_in_frames_only_when_structured():
    table = time_joint((4, 16), (3,), dim=4, num_groups=2, num_runs=1)
    peak = table.pivot(index="path", columns="frames", values="peak_mb")
    growth = peak[16] / peak[4]
    assert growth["structured"] < 6
    assert growth["plain"] > 10
    assert len(draw_joint(table)) == 2


def test_scaling_draws_exponents_and_what_binds(monkeypatch):
    monkeypatch.setattr("analysis.speed.roofline.LARGE", 2**16)
    axes = {"frames": [{"num_frames": frames} for frames in (4, 8)]}
    monkeypatch.setattr("analysis.speed.scaling.AXES", axes)
    table = time_scaling(TINY, batch_size=1, num_runs=1)
    assert table["size"].tolist() == [1, 2]
    assert table["gflops"].iloc[1] == pytest.approx(2 * table["gflops"].iloc[0], rel=0.1)
    assert (table["gb"] > 0).all()
    table = table.assign(exponent=1.0, bound=["memory", "compute"])
    time, roof, share = draw_scaling(table)
    assert time.get_lines()[0].get_label() == "frames: exponent 1.00"
    for ax in (roof, share):
        fills = {line.get_fillstyle(): len(line.get_xdata()) for line in ax.get_lines()[-2:]}
        assert fills == {"full": 1, "none": 1}
    assert "1 of 2 steps are bound by memory" in time.figure.get_suptitle()


def test_scaling_counts_what_all_seeds_of_a_population_compute(monkeypatch):
    monkeypatch.setattr("analysis.speed.roofline.LARGE", 2**16)
    axes = {"seeds": [{"num_seeds": seeds} for seeds in (1, 3)]}
    monkeypatch.setattr("analysis.speed.scaling.AXES", axes)
    table = time_scaling(TINY, batch_size=1, num_runs=1)
    assert table["size"].tolist() == [1, 3]
    assert table["gflops"].iloc[1] == pytest.approx(3 * table["gflops"].iloc[0])


def test_population_step_computes_the_loss_of_every_seed():
    clips = torch.randn(2, TINY.in_channels, TINY.num_frames, *TINY.size)
    ones = torch.ones(seeded_model(TINY, 0).num_residual_steps, len(clips))
    labels = torch.zeros(len(clips), dtype=torch.int64)
    alone = [
        F.cross_entropy(seeded_model(TINY, seed).train()(clips, ones), labels) for seed in (0, 1)
    ]
    together = PopulationStep(TINY, 2)(clips)
    assert together.item() == pytest.approx(sum(alone).item(), rel=1e-5)
    assert together.requires_grad


def test_unknown_measurements_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one of gates, joint, law"):
        write_scaling("speed", tmp_path)
    with pytest.raises(ValueError, match="unknown part"):
        write_bench_gpu("sped", tmp_path, device="cpu")


def test_bench_gpu_writes_where_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    table = write_bench_gpu("gates", tmp_path, preset="tiny", device="cpu", num_runs=1)
    assert {"device", "torch", "cuda", "commit"} <= set(table)
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("-gates.csv")
    assert len(pd.read_csv(path)) == 2 * len(GATES)


def test_bench_seeds_compares_a_population_with_processes_of_a_seed():
    table = bench_seeds(TINY, "cpu", 1, num_seeds=(2,), batch_size=2).set_index("way")
    assert table.index[0] == "one process a seed, one after the other"
    assert table.index[-2:].tolist() == [
        "population, vectorised",
        "population, seeds by themselves",
    ]
    assert (table["seed_steps_per_s"] > 0).all()
    assert table["ratio"].iloc[0] == 1
    (at_once,) = [way for way in table.index if "at once" in way]
    assert table.loc[at_once, "processes"] == min(2, os.cpu_count() or 1)


def test_peak_memory_grows_with_the_batch():
    few, many = (step_memory("plain", PRESETS["toy"], "training", n, 1) for n in (1, 32))
    assert many[0] > 2 * few[0]
    assert many[1] > 2 * few[1]


def test_peak_allocated_counts_what_is_alive_at_once():
    def step() -> None:
        for _ in range(3):
            torch.empty(1000, 250)  # 1 MB, dropped before the next
        held = [torch.empty(1000, 250) for _ in range(2)]
        del held

    assert peak_allocated_mb(step) == pytest.approx(2.0, abs=0.01)


@pytest.fixture(scope="module")
def bench_table() -> pd.DataFrame:
    return bench(TINY, batch_sizes=(1,), num_threads=1, num_runs=1, memory=False)


def test_bench_has_a_row_for_each_model_and_phase(bench_table):
    rows = list(zip(bench_table["phase"], bench_table["model"], strict=True))
    assert rows == [
        ("forward", "plain"),
        ("forward", "posmlp"),
        ("training", "plain"),
        ("training", "posmlp"),
        ("training", "checkpointed"),
    ]


def test_bench_ceiling_is_the_plain_time_over_that_of_the_products(bench_table):
    assert (bench_table["ceiling"] > 0).all()
    for phase, rows in bench_table.groupby("phase"):
        flops = count_flops(create_model(TINY), (3, 4, 16, 16), 1, phase)
        assert (rows["gflops"] == flops / 1e9).all()
        products_ms = 1e3 * rows["gflops"] / rows["peak_gflops_per_s"]
        plain_ms = rows["median_ms"].iloc[0]
        assert (rows["ceiling"] * products_ms).tolist() == pytest.approx([plain_ms] * len(rows))
