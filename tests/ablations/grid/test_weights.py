"""Cells that start from a model file: what the file holds is part of them, where it lies is not."""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from ablation_tasks import changed, facts
from pandas.testing import assert_frame_equal

from ablations import GridError, load, plan, read_grid, run
from ablations.cli import main
from ablations.engines.job import Training, _clear_unless_resumable
from ablations.engines.worker import Place
from ablations.report.publish import publish
from ablations.store.files import read_json, write_json
from ablations.store.store import Store
from posmlp import create_model
from posmlp.checkpoint import save

ALONE: dict[str, Any] = {"axes": {}, "seeds": 1, "repeat": False}


def grid_from(path: Path, **change: Any) -> dict[str, Any]:
    return changed(train={"init_from": str(path)}) | ALONE | change


def write_model(path: Path, seed: int, **change: Any) -> Path:
    """A model that the tiny grid's training can start from."""
    torch.manual_seed(seed)
    config = read_grid(changed(**change) | ALONE).baseline.config
    save(create_model(config), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "start.safetensors", 0)


def test_replaced_file_makes_another_cell_and_its_row_says_which(
    model: Path, tmp_path: Path
) -> None:
    hashes, tables = [], []
    for seed in (0, 1):
        write_model(model, seed)
        hashes.append(sha256(model.read_bytes()).hexdigest())
        tables.append(run(grid_from(model), tmp_path / "run", device="cpu", progress=False))
    first, second = tables
    assert first.id.item() != second.id.item()
    assert first.test_loss.item() != second.test_loss.item()
    assert [table.init_sha256.item() for table in tables] == hashes
    assert second.init_from.item() == str(model)
    (stale,) = plan(grid_from(model), tmp_path / "run", probe_s=0).stale
    assert f"train.init_from was sha256:{hashes[0]}, is sha256:{hashes[1]}" in stale


def test_moved_file_is_the_same_cell_here_and_for_reuse(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    before = run(grid_from(model), out, device="cpu", progress=False)
    moved = model.rename(tmp_path / "moved.safetensors")
    after = run(grid_from(moved), out, device="cpu", progress=False)
    assert_frame_equal(before, after)
    reused = run(grid_from(moved), tmp_path / "new", reuse=[out], device="cpu", progress=False)
    assert list(reused.reused_from) == [str(out)]
    assert read_json(Store(out).cell_path(after.id[0]))["init_from"] == str(moved)


def test_two_files_of_one_content_are_one_configuration(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(model.read_bytes())
    axes = {"train.init_from": [str(model), str(copy)]}
    with pytest.raises(GridError, match="are the same configuration"):
        read_grid(changed() | ALONE | {"axes": axes})
    write_model(copy, 1)
    assert len({cell.id for cell in read_grid(changed() | ALONE | {"axes": axes}).cells}) == 2


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("fault", ["missing", "a folder", "no model", "of another shape"])
def test_file_that_no_training_can_start_from_is_refused_at_its_place(
    command: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, path, out = tmp_path / "start.safetensors", tmp_path / "grid.yaml", tmp_path / "run"
    if fault == "a folder":
        start.mkdir()
    elif fault == "no model":
        start.write_text("{" * 100)
    elif fault == "of another shape":
        write_model(start, 0, dims=[16])
    text = repr(changed()["base"] | {"train": {"batch_size": 16, "num_clips": 64}})
    head, tail = text.rsplit("}}", 1)
    path.write_text(f"base: {head},\n  init_from: {start}}}}}{tail}\nseeds: 1\n")
    assert main([command, str(path), "--out", str(out), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert f"{path}:2:14: " in said
    assert re.search(rf"train.init_from='{start}' cannot be (read|used)", said)
    assert said.count("\n") == 1
    assert not out.exists()


def test_file_replaced_while_a_grid_runs_is_no_result_of_its_cell(
    model: Path, tmp_path: Path
) -> None:
    (job,) = read_grid(grid_from(model)).jobs
    write_model(model, 1)
    (result,) = Training(tmp_path / "run")(job, Place(0, "cpu", 1))
    assert result["status"] == "failed"
    assert "put that file back" in result["reason"]


def test_repeat_and_publish_know_the_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    table = run(grid_from(model), out, device="cpu", progress=False)
    kept = publish(out, tmp_path / "kept")
    assert_frame_equal(load(kept), table)
    assert table.init_sha256[0] in (kept / "report.html").read_text()
    words = ["repeat", str(kept), table.id[0], "--seed", "0"]
    assert main(words) == 0
    assert "the same to the last bit" in capsys.readouterr().out
    write_model(model, 1)
    assert main(words) == 2
    assert "put that file back" in capsys.readouterr().err


def test_cell_of_before_hashes_is_repeated_from_the_file_that_its_run_names(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    cell_id = run(grid_from(model), out, device="cpu", progress=False).id[0]
    cell = read_json(Store(out).cell_path(cell_id))
    old = {key: value for key, value in cell.items() if not key.startswith("init_")}
    write_json(Store(out).cell_path(cell_id), old)
    words = ["repeat", str(out), cell_id, "--seed", "0"]
    assert main(words) == 0
    assert "the same to the last bit" in capsys.readouterr().out
    write_model(model, 1)
    assert main(words) == 2
    assert "put that file back" in capsys.readouterr().err


def test_interrupted_training_goes_on_where_its_file_has_moved(model: Path, tmp_path: Path) -> None:
    (job,) = read_grid(grid_from(model)).jobs
    Training(tmp_path / "run")(job, Place(0, "cpu", 1))
    folder = Store(tmp_path / "run").run_folder(job.cells[0].id, 0)
    (moved,) = read_grid(grid_from(model.rename(tmp_path / "moved.safetensors"))).jobs
    _clear_unless_resumable(folder, moved)
    assert (folder / "metrics.csv").is_file()
    _clear_unless_resumable(folder, replace(moved, micro_batches=2))
    assert not folder.exists()


def test_populations_hold_cells_of_one_file(model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.safetensors", 1)
    axes = {"train.init_from": [str(model), str(other)], "train.lr": [1e-3, 1e-2]}
    grid = grid_from(model, axes=axes)
    alone = run(grid, tmp_path / "alone", device="cpu", progress=False)
    table = run(grid, tmp_path / "run", device="cpu", together=9, progress=False)
    assert list(table.together) == [2] * 4
    same = [facts(each).drop(columns="together") for each in (table, alone)]
    assert_frame_equal(*same, check_exact=True)
