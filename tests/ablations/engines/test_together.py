"""What trains together leaves the same rows and files as what trains alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ablation_tasks import TINY, changed, facts
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file

from ablations import read_grid, run
from ablations.engines.dispatch import Engine, _places
from ablations.grid.grid import Job
from ablations.run import part
from ablations.store.files import read_json, write_json
from ablations.store.store import Store
from posmlp.train.run_folder import read_metrics

THREE = TINY | {"seeds": 3, "axes": {}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run(THREE, out, device="cpu", progress=False)
    return out


def test_rows_and_files_are_those_of_training_alone(alone: Path, tmp_path: Path) -> None:
    table = run(THREE, tmp_path / "run", device="cpu", together=2, progress=False)
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
    assert not list(tmp_path.glob("run/together/*"))


def test_a_log_is_given_each_epoch_of_each_training_by_cell_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "with open('log.txt', 'a') as file:\n        print(run, row['epoch'], file=file)"
    Path("my_log.py").write_text(f"def log(run, row):\n    {lines}\n")
    grid, out = changed(train={"epochs": 2}) | {"seeds": 2}, tmp_path / "run"
    run(grid, out, device="cpu", together=2, log="my_log.py:log", progress=False)
    told = sorted(Path("log.txt").read_text().splitlines())
    assert told == sorted(
        f"{out}/{cell.name}-{cell.id}-seed{seed} {epoch}"
        for cell in read_grid(grid).cells
        for seed in (0, 1)
        for epoch in (1, 2)
    )
    with pytest.raises(ValueError, match=r"log 'log\.py' must be tensorboard"):
        run(grid, out, log="log.py", progress=False)
    assert Engine(log="my_log.py:log").words == ["--log", "my_log.py:log"]


def test_only_missing_seeds_of_a_group_are_trained(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(THREE | {"seeds": [1]}, out, device="cpu", progress=False)
    cell = read_grid(THREE).baseline
    first = Store(out).result_path(cell.id, 1).stat().st_mtime_ns
    table = run(THREE, out, device="cpu", together=3, progress=False)
    assert list(table.together) == [2, 1, 2]
    assert Store(out).result_path(cell.id, 1).stat().st_mtime_ns == first


def test_groups_left_by_a_kill_are_cleared_by_the_next_run(alone: Path, tmp_path: Path) -> None:
    out, cells = tmp_path / "run", (read_grid(THREE).baseline,)
    Store(out).declare(read_grid(THREE), "none")
    stopped, others = (Store(out).work_folder(Job(cells, seeds)) for seeds in ((0, 1), (7, 8)))
    for folder, seeds in ((stopped, [0, 1]), (others, [7, 8])):
        write_json(folder / "config.json", {"variants": {cells[0].id: {}}, "seeds": seeds})
    write_json(out / "together" / "damaged" / "config.json", {"variants": 3})
    run(THREE, out, device="cpu", together=3, progress=False)
    assert not stopped.exists()
    assert others.exists()


def test_a_seed_that_diverges_fails_alone(tmp_path: Path) -> None:
    grid = changed(train={"lr": 1e30}) | {"axes": {}, "seeds": 2}
    table = run(grid, tmp_path / "run", device="cpu", together=2, progress=False)
    assert list(table.failure) == ["not finite"] * 2
    assert list(table.together) == [2, 2]


def test_grouped_jobs_keep_the_order_and_shards_keep_groups_whole() -> None:
    grid = read_grid(TINY | {"seeds": 5, "repeat": True})
    groups = Engine(device="cpu", together=2).grouped(grid.jobs)
    seeds = [(job.cells[0].axes["gate"], job.seeds, job.repeat) for job in groups]
    assert seeds == [
        *[("lrpe", (0, 1), 0), ("lrpe", (2, 3), 0), ("lrpe", (4,), 0), ("lrpe", (0,), 1)],
        *[("mean", (0, 1), 0), ("mean", (2, 3), 0), ("mean", (4,), 0)],
    ]
    assert Engine(device="cpu").grouped(grid.jobs) == grid.jobs
    whole = Engine(device="cuda").grouped(grid.jobs)
    assert [job.seeds for job in whole] == [(0, 1, 2, 3, 4), (0,), (0, 1, 2, 3, 4)]
    assert [job for i in (1, 2) for job in part(groups, f"{i}/2")] == groups[::2] + groups[1::2]


def test_populations_leave_no_place_idle_and_fit_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 100 rates x 10 seeds on eight GPUs: no population is most of the work."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    rates = [1e-4 * (1 + i) for i in range(100)]
    thousand = read_grid(TINY | {"axes": {"train.lr": rates}, "seeds": 10, "repeat": False}).jobs
    eight = Engine(device="cuda", workers=8)

    def sizes(jobs: list[Job], num_parts: int = 1) -> list[int]:
        return [len(job.trainings) for job in eight.grouped(jobs, num_parts)]

    assert 20 <= min(sizes(thousand)[:-1]) <= max(sizes(thousand)) <= 32
    assert max(sizes(thousand[:80])) == 10  # a place has its share
    assert len(sizes(thousand[:160], num_parts=2)) >= 16
    large = changed(image_size=256, dims=[64], windows=4, train={"batch_size": 32, "num_clips": 64})
    wide = read_grid(large | {"axes": {}, "seeds": 400, "repeat": False}).jobs
    assert 1 < max(sizes(wide)) < 32
    assert [p.device for p in _places(9, "cuda", 1)] == [f"cuda:{i % 8}" for i in range(9)]


def test_a_time_limit_takes_a_process_that_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.engines.local.pool", lambda *_: iter(()))
    assert list(Engine(device="cpu", timeout_s=9.0).run(read_grid(TINY).jobs, tmp_path)) == []


VALUES: dict[str, Any] = TINY | {
    "axes": {"train.lr": [1e-3, 1e-2], "gate": ["lrpe", "mean"]},
    "include": [{"drop_path": 0.5}],
}


def test_cells_that_differ_in_values_have_the_rows_and_files_of_training_alone(
    tmp_path: Path,
) -> None:
    alone = run(VALUES, tmp_path / "alone", device="cpu", progress=False)
    table = run(VALUES, tmp_path / "run", device="cpu", together=99, progress=False)
    by_gate = table.groupby("gate").together.unique().map(list).to_dict()
    assert by_gate == {"lrpe": [6], "mean": [4]}  # 2 rates, and 1 drop path, x 2 seeds
    facts_of = [facts(each).drop(columns="together") for each in (table, alone)]
    assert_frame_equal(*facts_of, check_exact=True)
    for cell in read_grid(VALUES).cells:
        mine, theirs = (Store(tmp_path / o).run_folder(cell.id, 1) for o in ("run", "alone"))
        assert {p.name for p in mine.iterdir()} == {p.name for p in theirs.iterdir()}
        assert read_json(mine / "config.json") == read_json(theirs / "config.json")
        weights, expected = (load_file(o / "model-seed1.safetensors") for o in (mine, theirs))
        assert all((weights[k] == expected[k]).all() for k in expected)


def test_cells_with_other_gaps_do_not_stay_together(tmp_path: Path) -> None:
    grid = TINY | {"axes": {"train.lr": [1e-3, 1e-2]}}
    run(grid | {"axes": {"train.lr": [1e-3]}, "seeds": 1}, tmp_path, device="cpu", progress=False)
    table = run(grid, tmp_path, device="cpu", together=99, progress=False)
    assert list(table.together) == [1, 1, 2, 2]
    assert (table.status == "done").all()


def test_populations_hold_no_more_than_asked_and_only_cells_of_one_kind() -> None:
    grid = read_grid(VALUES | {"seeds": 3})

    def sizes(most: int | None, device: str = "cpu") -> list[tuple[int, int]]:
        groups = Engine(device=device, together=most).grouped(grid.jobs)
        trained = [(c.id, s, job.repeat) for job in groups for c, s in job.trainings]
        assert len(set(trained)) == len(trained) == len(grid.jobs)
        assert all(len({cell.config.gate for cell in job.cells}) == 1 for job in groups)
        return [(len(job.cells), len(job.seeds)) for job in groups if not job.repeat]

    assert sizes(None, "cuda") == sizes(9) == [(3, 3), (2, 3)]
    assert sizes(8) == [(2, 3), (2, 3), (1, 3)]
    assert sizes(2) == [(1, 2), (1, 1)] * 5 or set(sizes(2)) <= {(1, 2), (1, 1), (2, 1)}
    assert set(sizes(None)) == {(1, 1)}
