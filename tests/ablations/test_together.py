"""Seeds that train together leave the same rows and files as seeds that train alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from ablation_tasks import TINY, changed, facts
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file

from ablations import read_grid, run
from ablations.dispatch import Engine
from ablations.run import part
from ablations.store import Store
from posmlp.runs import read_metrics

THREE = TINY | {"seeds": 3, "axes": {}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run(THREE, out, device="cpu", progress=False)
    return out


def test_rows_and_files_are_those_of_training_alone(alone: Path, tmp_path: Path) -> None:
    table = run(THREE, tmp_path / "run", device="cpu", seeds_together=2, progress=False)
    assert list(table.together) == [2, 2, 1]
    expected = run(THREE, alone, device="cpu", progress=False)
    drop = facts(table).drop(columns="together"), facts(expected).drop(columns="together")
    assert_frame_equal(*drop, check_exact=True)
    cell = read_grid(THREE).baseline
    for seed in range(3):
        mine, theirs = (Store(o).run_folder(cell.id, seed) for o in (tmp_path / "run", alone))
        assert {p.name for p in mine.iterdir()} == {p.name for p in theirs.iterdir()}
        names = f"model-seed{seed}.safetensors"
        weights, expected_weights = load_file(mine / names), load_file(theirs / names)
        assert all((weights[k] == expected_weights[k]).all() for k in expected_weights)
        assert [row["seed"] for row in read_metrics(mine / "metrics.csv")] == [seed]
    assert not list(tmp_path.glob("run/cells/*/seeds*"))


def test_only_missing_seeds_of_a_group_are_trained(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(THREE | {"seeds": [1]}, out, device="cpu", progress=False)
    cell = read_grid(THREE).baseline
    first = Store(out).result_path(cell.id, 1).stat().st_mtime_ns
    table = run(THREE, out, device="cpu", seeds_together=3, progress=False)
    assert list(table.together) == [2, 1, 2]
    assert Store(out).result_path(cell.id, 1).stat().st_mtime_ns == first


def test_groups_left_by_a_kill_are_cleared_by_the_next_run(alone: Path, tmp_path: Path) -> None:
    out, cell = tmp_path / "run", read_grid(THREE).baseline
    Store(out).declare(read_grid(THREE), "none")
    stopped = Store(out).work_folder(cell.id, (0, 1))
    others = Store(out).work_folder(cell.id, (7, 8))
    for folder in (stopped, others):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    run(THREE, out, device="cpu", seeds_together=3, progress=False)
    assert not stopped.exists()
    assert others.exists()


def test_a_seed_that_diverges_fails_alone(tmp_path: Path) -> None:
    grid = changed(train={"lr": 1e30}) | {"axes": {}, "seeds": 2}
    table = run(grid, tmp_path / "run", device="cpu", seeds_together=2, progress=False)
    assert list(table.failure) == ["not finite"] * 2
    assert list(table.together) == [2, 2]


def test_grouped_jobs_keep_the_order_and_shards_keep_groups_whole() -> None:
    grid = read_grid(TINY | {"seeds": 5, "repeat": True})
    groups = Engine(device="cpu", seeds_together=2).grouped(grid.jobs)
    seeds = [(job.cell.axes["gate"], job.seeds, job.repeat) for job in groups]
    assert seeds == [
        *[("lrpe", (0, 1), 0), ("lrpe", (2, 3), 0), ("lrpe", (4,), 0), ("lrpe", (0,), 1)],
        *[("mean", (0, 1), 0), ("mean", (2, 3), 0), ("mean", (4,), 0)],
    ]
    assert Engine(device="cpu").grouped(grid.jobs) == grid.jobs
    whole = Engine(device="cuda").grouped(grid.jobs)
    assert [job.seeds for job in whole] == [(0, 1, 2, 3, 4), (0,), (0, 1, 2, 3, 4)]
    assert [job for i in (1, 2) for job in part(groups, f"{i}/2")] == groups[::2] + groups[1::2]
