"""What a plan predicts, what a budget leaves out, and what is said of it afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ablation_tasks import TINY, changed

from ablations import GridError, load, plan, read_grid, run
from ablations.prediction import Hindsight, Prediction, fitted
from ablations.store import Store


def test_a_probe_predicts_a_run_whose_error_is_told_and_stored(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, out = changed(train={"epochs": 3}) | {"seeds": 2}, tmp_path / "run"
    found = plan(grid, out, device="cpu")
    assert [planned.prediction.source for planned in found.cells] == ["a probe"] * 2
    assert not out.exists()
    assert len(list(cache.glob("*/probes/*.json"))) == 2
    assert "by a probe (2)" in str(found)
    table = run(grid, out, device="cpu")
    assert "predicted " in capsys.readouterr().err
    stored = json.loads((out / "prediction.json").read_text())
    assert [each["measured"] for each in stored["seconds"]] == list(table.seconds)
    for each in stored["memory_mb"]:
        assert each["predicted"] == pytest.approx(each["measured"], rel=0.7)
    longest = max(found.cells, key=lambda planned: planned.prediction.seconds or 0)
    assert longest.prediction.seconds is not None
    assert 0.05 < longest.prediction.seconds / table.seconds.median() < 20


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
