"""What a plan predicts, what a budget leaves out, and what is said of it afterwards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ablation_tasks import TINY, changed

from ablations import GridError, load, plan, read_grid, run
from ablations.cli import main
from ablations.engines import memory
from ablations.plan import probe
from ablations.plan.prediction import Hindsight, Prediction, fitted
from ablations.plan.probe import Probe
from ablations.store.store import Store

pytestmark = pytest.mark.usefixtures("forks")


def test_a_probe_predicts_a_run_whose_error_is_told_and_stored(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    found = plan(TINY, out, device="cpu", probe_s=600)
    predictions = {planned.cell.id: planned.prediction for planned in found.cells}
    assert [prediction.source for prediction in predictions.values()] == ["a probe"] * 2
    assert not out.exists()
    assert len(list(cache.glob("*/probes/*.json"))) == 2
    assert "by a probe (2)" in str(found)
    table = run(TINY, out, device="cpu")
    assert "predicted " in capsys.readouterr().err
    stored = json.loads((out / "prediction.json").read_text())
    for key, measured in (("seconds", table.seconds), ("memory_mb", table.peak_memory_mb)):
        predicted = [getattr(predictions[cell], key) for cell in table.id]
        assert min(predicted) > 0
        pairs = zip(predicted, measured, strict=True)
        assert stored[key] == [{"predicted": one, "measured": other} for one, other in pairs]


@pytest.mark.parametrize(
    ("free_mb", "step_s", "memory_mb"),
    [(1000.0, 6.0, 250.0), (300.0, 8.0, 260.0)],  # 16 clips fit and are tried; they do not
)
def test_a_probe_counts_every_step_and_evaluation_of_a_training(
    monkeypatch: pytest.MonkeyPatch, free_mb: float, step_s: float, memory_mb: float
) -> None:
    # Known costs stand in for the clock, which tells nothing certain on a busy machine.
    costs = {1: Probe(0.5, 110.0), 2: Probe(1.0, 120.0), 16: Probe(6.0, 250.0)}
    monkeypatch.setattr(probe, "_step", lambda cell, batch, clips, device: costs[batch])
    monkeypatch.setattr(probe, "_epoch_s", lambda *_: 99.0)  # the first, which is not counted
    monkeypatch.setattr(probe, "_evaluation_s", lambda *_: 0.5)
    monkeypatch.setattr(memory, "free_mb", lambda device: free_mb)
    grid = read_grid(changed(train={"epochs": 3}))
    opened: Any = SimpleNamespace(of=lambda cell: ([range(70), range(20), range(30)], 1.0))
    found = probe._probed(grid.cells[0], torch.device("cpu"), opened)
    assert found == Probe(1.0 + 3 * (4 * step_s + 20 * 0.5) + 30 * 0.5, memory_mb)


def test_one_pause_of_the_machine_does_not_make_a_short_reading_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "READINGS_S", math.inf)
    readings = iter([0.01, 9.0, 0.02])
    assert probe._typical(lambda: next(readings)) == 0.02


@pytest.mark.parametrize("content", ["[]", "3", '{"seconds": "x", "memory_mb": 1.0}', "{}", '{"se'])
def test_a_damaged_probe_is_made_again(
    content: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = read_grid(TINY | {"axes": {}}).cells
    monkeypatch.setattr(
        probe, "_measured", lambda cells, *_: [(c, Probe(1.0, None)) for c in cells]
    )
    probe.probe(cells, "cpu", 1, 9.0)
    (path,) = cache.glob("*/probes/*.json")
    path.write_text(content)
    assert probe.probe(cells, "cpu", 1, 9.0) == {cells[0].id: Probe(1.0, None)}
    assert json.loads(path.read_text()) == {"seconds": 1.0, "memory_mb": None}


def test_a_probe_that_has_no_time_leaves_the_cells_unknown(tmp_path: Path) -> None:
    found = plan(TINY, tmp_path / "run", device="cpu", probe_s=0.01)
    assert found.seconds is None
    assert "time: unknown" in str(found)


@pytest.mark.parametrize(
    ("budget", "at_once", "num_seeds"),
    [("85s", 1, 4), ("84.9s", 1, 3), ("1min", 2, 5), ("1h", 1, 5)],
)
def test_a_budget_leaves_out_whole_seeds_from_the_end(
    budget: str, at_once: int, num_seeds: int
) -> None:
    grid = read_grid(TINY | {"seeds": 5, "budget": budget, "repeat": True})
    ten, eleven = Prediction(10.0, None, "test"), Prediction(8.75, None, "test")
    predictions = dict(zip([cell.id for cell in grid.cells], (ten, eleven), strict=True))
    left = fitted(grid, predictions, None, at_once)  # 10 k + 10 + 8.75 k seconds for k seeds
    assert left.seeds == tuple(range(num_seeds))
    assert left.left_out_seeds == tuple(range(num_seeds, 5))
    assert {job.seeds[0] for job in left.jobs} == set(left.seeds)


def test_a_budget_without_time_for_one_seed_is_an_error() -> None:
    grid = read_grid(TINY | {"budget": "19s"})
    predictions = {cell.id: Prediction(10.0, None, "test") for cell in grid.cells}
    with pytest.raises(GridError, match=r"takes about 20\.0 s on 1 worker.*budget of 19\.0 s"):
        fitted(grid, predictions, None, 1)
    unknown = {cell.id: Prediction(None, None, "nothing") for cell in grid.cells}
    with pytest.raises(GridError, match="nothing tells yet"):
        fitted(grid, unknown, None, 1)


def test_run_keeps_the_budget_that_plan_says_and_never_drops_what_is_finished(
    tmp_path: Path,
) -> None:
    out, one_seed = tmp_path / "run", TINY | {"seeds": 1}
    seconds = run(one_seed, out, device="cpu", progress=False).seconds.sum()
    tight = TINY | {"seeds": 3, "budget": f"{1.5 * seconds:.3f}s"}
    planned = plan(tight, out, device="cpu")
    assert planned.grid.seeds == (0,)
    assert "has no time for seed(s) 1, 2, which are left out everywhere" in str(planned)
    assert "1 seed shows no difference" in str(planned)
    table = run(tight, out, device="cpu", progress=False)
    assert list(table.seed) == [0, 0]
    assert Store(out).plan()["left_out_seeds"] == [1, 2]
    run(TINY | {"seeds": 2}, out, device="cpu", progress=False)
    tighter = TINY | {"seeds": 3, "budget": f"{0.2 * seconds:.3f}s"}
    assert set(run(tighter, out, device="cpu", progress=False).seed) == {0, 1}
    assert len(load(out)) == 4


def test_parts_refuse_a_budget_and_name_the_one_to_plan_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "grid.yaml", tmp_path / "run"
    text = json.dumps(TINY | {"seeds": 3})  # JSON is YAML
    path.write_text(f"{text[:-1]},\n  budget: 10min}}")
    words = ["run", str(path), "--out", str(out), "--device", "cpu", "--shard"]
    assert main([*words, "2/3"]) == 2
    said = capsys.readouterr().err
    assert f"{path}:2:11: budget=600s cannot be kept in parts (shard='2/3')" in said
    assert "with budget: 1800s, the time of all 3 parts. List these under seeds" in said
    assert not out.exists()
    path.write_text(f"{text[:-1]},\n  budget: 12d}}")
    assert main([*words, "1/2"]) == 2
    assert "with budget: 2073600s, the time of all 2 parts" in capsys.readouterr().err
    path.write_text(f"{text[:-1]},\n  budget: 10min}}")
    grid = read_grid(TINY | {"seeds": 3, "budget": "1800s"})
    predictions = {cell.id: Prediction(400.0, None, "test") for cell in grid.cells}
    whole = fitted(grid, predictions, None, 1).seeds
    assert whole == fitted(read_grid(path), predictions, None, 3).seeds == (0, 1)


def test_hindsight_compares_sums_of_time_and_peaks_of_memory() -> None:
    hindsight = Hindsight({"a": Prediction(10.0, 100.0, "test")})
    assert str(hindsight) == ""
    done = {"cell": "a", "status": "done", "timings": {"seconds": 12.0}, "peak_memory_mb": 90.0}
    hindsight.add(done)
    hindsight.add(done | {"status": "failed"})
    hindsight.add(done | {"timings": {"seconds": 10.0}, "peak_memory_mb": 80.0})
    assert str(hindsight) == (
        "predicted 20.0 s of training, took 22.0 s (+10%); 100 MB at most, took 90 MB (-10%)"
    )


def test_memory_of_a_population_is_shared_out_among_its_trainings(tmp_path: Path) -> None:
    out = tmp_path / "run"
    table = run(TINY, out, device="cpu", together=2, progress=False)
    found = plan(TINY, out, probe_s=0)
    assert found.memory_mb == pytest.approx(table.peak_memory_mb.max() / 2)
