"""Tables of time against size: what they hold, and figures drawn of them."""

from __future__ import annotations

import os

import pandas as pd
import pytest
import torch

from analysis.bench import bench, peak_allocated_mb, step_memory
from analysis.bench_gpu import write_bench_gpu
from analysis.bench_seeds import bench_seeds
from analysis.scaling import draw_joint, draw_scaling, time_gates, time_joint, write_scaling
from posmlp import GATES, PosMLPConfig
from posmlp.config import PRESETS

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


def test_draw_scaling_names_the_exponents():
    rows = [("frames", k, 10.0 * k, 0.1, 1.0) for k in (1, 2, 4)]
    table = pd.DataFrame(rows, columns=["axis", "size", "median_ms", "roofline_share", "exponent"])
    axes = draw_scaling(table)
    assert axes[0].get_lines()[0].get_label() == "frames: exponent 1.00"


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


def test_bench_has_a_row_for_each_model_and_phase():
    table = bench(TINY, batch_sizes=(1,), num_threads=1, num_runs=1, memory=False)
    rows = list(zip(table["phase"], table["model"], strict=True))
    assert rows == [
        ("forward", "plain"),
        ("forward", "posmlp"),
        ("training", "plain"),
        ("training", "posmlp"),
        ("training", "checkpointed"),
    ]
