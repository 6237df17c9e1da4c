"""Tables of time: what they hold, what they compare, and a figure drawn of them."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest
import torch

import posmlp
from analysis.cli import main
from analysis.speed.bench import WORKS, bench
from analysis.speed.check_gpu import CHECKS, LIMITS_S, _at_most, _most_off, check_gpu
from analysis.speed.contenders import Reference, code_of, eval_steps
from analysis.speed.draw_scaling import draw_scaling
from analysis.speed.scaling import time_gates, time_scaling, write_scaling
from posmlp import GATES, PosMLPConfig, create_model
from posmlp.presets import PRESETS
from posmlp.train.population import Population

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


@pytest.fixture(scope="module")
def law() -> pd.DataFrame:
    axes = {"frames": {k: {"num_frames": 4 * k} for k in (1, 2)}}
    axes["seeds"] = {k: {"num_seeds": k} for k in (1, 3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.speed.scaling.LARGE", 2**16)
        patch.setattr("analysis.speed.scaling.AXES", axes)
        return time_scaling(TINY, batch_size=1, num_runs=1)


def test_law_counts_what_a_step_of_each_size_computes(law):
    assert law["size"].tolist() == [1, 2, 1, 3]
    frames, seeds = (part["gflops"].tolist() for _, part in law.groupby("axis"))
    assert 2 * frames[0] < frames[1] < 2.5 * frames[0]  # mixing over time grows by the square
    assert seeds[1] == pytest.approx(3 * seeds[0])
    assert (law["gb"] > 0).all()


def test_law_draws_exponents_and_what_binds(law):
    rows = law[:2].assign(exponent=1.0, bound=["memory", "compute"])
    time, *under_the_roof = draw_scaling(rows)
    assert time.get_lines()[0].get_label() == "frames: exponent 1.00"
    for ax in under_the_roof:
        fills = {line.get_fillstyle(): len(line.get_xdata()) for line in ax.get_lines()[-2:]}
        assert fills == {"full": 1, "none": 1}
    assert "1 of 2 steps are bound by memory" in time.figure.get_suptitle()


def test_unknown_measurements_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Use one of: gates, law"):
        write_scaling("speed", tmp_path)
    with pytest.raises(ValueError, match="unknown check 'sped'; use some of: imports, fit_one"):
        list(check_gpu(tmp_path, "cpu", ["sped"]))
    with pytest.raises(ValueError, match=r"unknown work 's32-train'\. Did you mean 's16-train'"):
        bench(["s32-train"])


def test_check_gpu_writes_a_line_a_check_whatever_becomes_of_it(tmp_path, monkeypatch, capsys):
    limit = {CHECKS["s16"]: 0.1}
    monkeypatch.setattr("analysis.speed.check_gpu.LIMITS_S", LIMITS_S | limit)
    words = ["check_gpu", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*words, "--only", "memory_ladder", "s16"]) == 2
    assert "failed: s16; " in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "check_gpu.jsonl").open()]
    assert [(row["check"], row["ok"]) for row in rows] == [("memory_ladder", True), ("s16", False)]
    assert "skipped" in rows[0]
    assert rows[1]["reason"] == "it took longer than 0.1 s"


QUICK = ["imports", "fit_one", "fit_four", "fit_variants", "population_and_alone", "step_times"]


@pytest.mark.parametrize("name", [*QUICK, "step_with_input"])
def test_check_gpu_runs_on_a_cpu_what_that_can(tmp_path, name):
    assert isinstance(CHECKS[name]("cpu", tmp_path), dict)


def test_check_gpu_compares_every_gate_with_float64(tmp_path):
    found = CHECKS["every_gate"]("cpu", tmp_path)["most_off"]
    assert set(found) == set(GATES)
    assert max(found.values()) < 1e-5
    with pytest.raises(ValueError, match="the largest difference is"):
        _at_most(_most_off({"a": torch.ones(2)}, {"a": torch.tensor([1.0, 1.1])}), 0.01)


CONTENDERS = {"as run", "plain", "reference", "against"}


def test_bench_measures_every_work_of_every_contender(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "toy", TINY)
    monkeypatch.setitem(PRESETS, "s16", TINY)
    monkeypatch.setattr("analysis.speed.bench.SECONDS", 0.0)
    path = tmp_path / "bench.csv"
    words = ["--against", "HEAD", "--runs", "2", "--threads", "1", "--out", str(path)]
    assert main(["bench", *words]) == 0
    assert "as run, checkpointed" in capsys.readouterr().out
    table = pd.read_csv(path)
    assert table["work"].unique().tolist() == list(WORKS)
    for _, rows in table[table["work"] != "memory"].groupby("work"):
        assert set(rows["contender"]) == CONTENDERS
        assert rows.set_index("contender").loc["plain", "vs_plain"] == 1
        assert (rows["num_runs"] == 2).all()
        assert (rows[["median_ms", "vs_plain", "vs_reference", "vs_against"]] > 0).all(axis=None)
    memory = table[table["work"] == "memory"].set_index("contender")["peak_mb"]
    assert set(memory.index) == CONTENDERS | {
        f"{name}, checkpointed" for name in CONTENDERS - {"reference"}
    }
    assert (memory > 0).all()


def test_contenders_compute_the_same_as_each_other():
    with code_of("HEAD") as other:
        steps, installed = eval_steps(TINY, 2, other)
        logits = {name: step() for name, step in steps.items()}
    with installed():
        torch.testing.assert_close(steps["as run"](), logits["plain"])
    assert set(logits) == CONTENDERS
    for name, found in logits.items():
        torch.testing.assert_close(found, logits["plain"], msg=name)


def test_code_of_a_commit_is_its_own_and_leaves_ours_imported():
    with code_of("HEAD") as other:
        assert posmlp is sys.modules["posmlp"]
        assert other.Population is not Population
        assert sys.modules["posmlp.train.population"].Population is Population
    with pytest.raises(ValueError, match=r"against='no-such': .*; give a commit of this checkout"):
        code_of("no-such").__enter__()


def test_reference_refuses_what_it_does_not_cover():
    with pytest.raises(ValueError, match="gate='dense': the reference covers layout 'T"):
        Reference(create_model(TINY, gate="dense"))
