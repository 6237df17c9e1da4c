"""Trainings of the same content are taken over from other folders, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from ablation_tasks import TINY, facts
from pandas.testing import assert_frame_equal

from ablations import load, read_grid, run
from ablations.cli import main
from ablations.store.files import read_json, write_json
from ablations.store.store import Store, StoreError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("source") / "run"
    run(TINY | {"seeds": 1}, out, device="cpu", progress=False)
    return out


def test_reused_rows_are_the_same_and_name_their_source(source: Path, tmp_path: Path) -> None:
    renamed = TINY | {"axes": {"gate": ["mean", "lrpe", "none"]}, "baseline": {"gate": "lrpe"}}
    expected = run(renamed, tmp_path / "anew", device="cpu", progress=False)
    empty = tmp_path / "empty"
    run(TINY | {"axes": {"gate": ["dense"]}, "seeds": 1}, empty, device="cpu", progress=False)
    table = run(renamed, tmp_path / "run", device="cpu", reuse=[empty, source], progress=False)
    taken = (table.gate != "none") & (table.seed == 0)
    assert list(table.reused_from) == [str(source) if one else "" for one in taken]
    same = facts(table).drop(columns="reused_from")
    assert_frame_equal(same, facts(expected).drop(columns="reused_from"), check_exact=True)
    cell, store = read_grid(TINY).baseline, Store(tmp_path / "run")
    files = {path.name for path in store.run_folder(cell.id, 0).iterdir()}
    assert files == {p.name for p in Store(source).run_folder(cell.id, 0).iterdir()}
    result = store.result(cell.id, 0)
    assert result is not None
    assert str(store.root) in result["command"]
    assert result["timings"] == (Store(source).result(cell.id, 0) or {})["timings"]
    again = run(TINY | {"seeds": 1}, tmp_path / "chain", reuse=[store.root], progress=False)
    assert set(again.reused_from) == {str(source)}  # where it was trained


def test_failed_and_damaged_results_are_not_taken(source: Path, tmp_path: Path) -> None:
    other, cell = tmp_path / "other", read_grid(TINY).baseline
    grid = TINY | {"axes": {}, "seeds": 2}
    run(grid, other, device="cpu", progress=False)
    failed = Store(other).result(cell.id, 0)
    assert failed is not None
    Store(other).write_results([failed | {"status": "failed", "failure": "exception"}])
    Store(other).result_path(cell.id, 1).write_text("{")
    table = run(grid, tmp_path / "run", device="cpu", reuse=[other], progress=False)
    assert list(table.reused_from) == ["", ""]
    assert (table.status == "done").all()


def test_results_of_another_default_are_refused(source: Path, tmp_path: Path) -> None:
    other, cell = tmp_path / "other", read_grid(TINY).baseline
    run(TINY | {"axes": {}, "seeds": 1}, other, device="cpu", progress=False)
    stored = read_json(Store(other).cell_path(cell.id))
    stored["train"]["weight_decay"] = 0.5
    write_json(Store(other).cell_path(cell.id), stored)
    with pytest.raises(StoreError, match=r"weight_decay=0\.5, which is now 0\.05"):
        run(TINY, tmp_path / "run", device="cpu", reuse=[other], progress=False)


def test_a_folder_that_is_no_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("seeds: 1\n")
    words = ["run", str(grid), "--out", str(tmp_path / "run"), "--reuse", str(tmp_path / "none")]
    assert main(words) == 2
    assert f"{tmp_path / 'none'} holds no ablation" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(StoreError):
        load(tmp_path / "run")


@pytest.mark.parametrize("kind", [str, Path])
def test_one_folder_to_reuse_needs_no_list(kind: type, source: Path, tmp_path: Path) -> None:
    grid = TINY | {"seeds": 1}
    table = run(grid, tmp_path / "run", device="cpu", reuse=kind(source), progress=False)
    assert list(table.reused_from) == [str(source)] * 2
