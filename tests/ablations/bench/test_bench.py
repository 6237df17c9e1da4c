"""The bench measures what it says, and names what it cannot run."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ablation_tasks import TINY

from ablations.bench import overhead as command
from ablations.bench import scale
from ablations.bench.grid import bench_grid
from ablations.bench.overhead import bench, measure
from ablations.bench.peers import CONTENDERS
from ablations.cli import main


def test_bench_sees_the_time_that_jobs_take_and_the_workers_share_them() -> None:
    in_process, pooled = (measure(contender, 4, 0.4) for contender in CONTENDERS[:2])
    assert in_process.jobs_s >= 1.6
    assert 0.8 <= pooled.jobs_s < in_process.jobs_s  # two on each worker
    assert in_process.start_s > 0


def test_bench_names_what_is_not_installed_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(CONTENDERS[0], name="absent", needs=("no_such_module",))
    monkeypatch.setattr(command, "CONTENDERS", [absent, CONTENDERS[0]])
    *_, first, second = bench(2, 0.01)
    assert first.split() == ["absent", "not", "run:", "no", "no_such_module", "(extra:", "bench)"]
    assert second.startswith("ours, in-process")
    assert second.endswith("%")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "slurm"}, "only='slurm' is part of no name; there are: ours"),
        ({"num_jobs": 1}, "num_jobs=1 must be at least 2"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(bench(**options))  # type: ignore[arg-type]


def test_bench_of_scale_measures_each_step_of_grids_that_have_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale, "measured", scale.measure)  # in this process, which has imported
    steps = {name: step for name, step in scale.STEPS.items() if name != "report"}
    monkeypatch.setattr(scale, "STEPS", steps)
    head, *lines = (line.split() for line in scale.bench([10]))
    assert head == list(scale.COLUMNS)
    assert [line[2] for line in lines] == [*steps, *steps]
    assert all(float(line[4]) < 5 for line in lines)  # CPU-seconds
    with pytest.raises(ValueError, match="cells=50 must be 10, 100, 1000 or 10000"):
        next(scale.bench([50]))


def test_bench_of_a_grid_runs_it_both_ways_to_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(words: list[str], **_: object) -> SimpleNamespace:
        """The command in this process, which has imported all that it needs."""
        assert words[:3] == [sys.executable, "-m", "ablations"]
        return SimpleNamespace(returncode=main(words[3:]), stderr="")

    monkeypatch.setattr("ablations.bench.grid.subprocess", SimpleNamespace(run=here))
    path = tmp_path / "grid.yaml"
    path.write_text(json.dumps(TINY | {"axes": {"train.lr": [1e-3, 1e-2]}}))
    said = list(bench_grid(path, "cpu", workers=1))
    assert said[0] == "2 cells x 2 seeds = 4 trainings on cpu"
    assert ["up to 1 together" in said[1], "up to 4 together" in said[2]] == [True, True]
    assert said[3] == "largest difference in test loss: 0"
    assert "times as fast" in said[4]
