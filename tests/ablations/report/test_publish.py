"""What is kept of an ablation can be read, reported and published again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from ablation_tasks import TINY

import ablations
from ablations.report.publish import publish
from ablations.store.store import Store, StoreError, read_json, write_json


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablation") / "out"
    ablations.run(TINY | {"question": "does anything differ?"}, out, progress=False)
    return out


def test_published_table_equals_original(ablation: Path, tmp_path: Path) -> None:
    kept = publish(ablation, tmp_path / "kept")
    pd.testing.assert_frame_equal(ablations.load(kept), ablations.load(ablation))
    assert (kept / "report.html").is_file()


def test_publishing_twice_changes_no_result(ablation: Path, tmp_path: Path) -> None:
    kept = publish(ablation, tmp_path / "kept")
    before = {p: p.read_bytes() for p in (kept / "cells").rglob("*") if p.is_file()}
    publish(ablation, kept)
    assert before == {p: p.read_bytes() for p in (kept / "cells").rglob("*") if p.is_file()}


def test_published_folder_has_the_repetition(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ablations.run(TINY | {"axes": {}, "seeds": 1, "repeat": True}, out, progress=False)
    kept = publish(out, tmp_path / "kept")
    assert len(list(kept.glob("cells/*/seed0-repeat/result.json"))) == 1
    assert ablations.load(kept, repeats=True)["repeat"].tolist() == [0, 1]


def test_repetition_that_was_not_run_keeps_nothing_from_being_published(
    ablation: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(ablation, older)
    plan = read_json(older / "plan.json")
    write_json(older / "plan.json", plan | {"repeats": [[plan["baseline"], 0]]})
    pd.testing.assert_frame_equal(
        ablations.load(publish(older, tmp_path / "kept")), ablations.load(ablation)
    )


def test_publishing_onto_a_run_is_refused(ablation: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is the run itself"):
        publish(ablation, ablation)
    other = tmp_path / "other"
    shutil.copytree(ablation, other)
    (other / ".runner.lock").touch()
    with pytest.raises(StoreError, match="holds a run of its own"):
        publish(ablation, other)


def test_published_folder_has_models_only_when_asked(ablation: Path, tmp_path: Path) -> None:
    without = publish(ablation, tmp_path / "without")
    assert not list(without.rglob("*.safetensors"))
    first = publish(ablation, tmp_path / "first", models="first")
    assert {path.parent.name for path in first.rglob("*.safetensors")} == {"seed0"}
    assert len(list(first.rglob("*.safetensors"))) == 2


def test_publish_refuses_unfinished_ablation(ablation: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(ablation, partial)
    cell = read_json(partial / "plan.json")["cells"][1]["id"]
    Store(partial).result_path(cell, 1).unlink()
    with pytest.raises(StoreError, match="gate=mean seed 1"):
        publish(partial, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_publish_refuses_folder_of_another_question(ablation: Path, tmp_path: Path) -> None:
    kept = publish(ablation, tmp_path / "kept")
    write_json(kept / "plan.json", read_json(kept / "plan.json") | {"question": "another"})
    with pytest.raises(StoreError, match="another question"):
        publish(ablation, kept)


def test_publish_drops_cells_that_left_the_grid(ablation: Path, tmp_path: Path) -> None:
    kept = publish(ablation, tmp_path / "kept")
    write_json(kept / "cells" / ("0" * 12) / "cell.json", {})
    publish(ablation, kept)
    assert len(list((kept / "cells").iterdir())) == 2


def test_published_commands_name_the_published_folder(ablation: Path, tmp_path: Path) -> None:
    kept = publish(ablation, tmp_path / "kept")
    commands = [read_json(path)["command"] for path in kept.rglob("result.json")]
    assert len(commands) == 4
    assert all(str(kept) in command and str(ablation) not in command for command in commands)


def test_what_is_published_into_a_checkout_names_no_place_on_this_machine(
    ablation: Path, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    kept = publish(ablation, tmp_path / "results" / "kept")
    for path in kept.rglob("result.json"):
        assert read_json(path)["command"].startswith("ablations repeat results/kept ")
    report = (kept / "report.html").read_text()
    assert "ablations report results/kept --margin" in report
    assert str(tmp_path / "results") not in report


def test_publish_refuses_damage_and_leaves_the_target_alone(ablation: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(ablation, damaged)
    plan = read_json(damaged / "plan.json")
    write_json(damaged / "plan.json", plan | {"repeats": [[plan["baseline"], 0]]})
    repeated = Store(damaged).result_path(plan["baseline"], 0, repeat=1)
    write_json(repeated, {})
    with pytest.raises(StoreError, match=r"gate=lrpe seed 0 repeated \(damaged: .*seed0-repeat"):
        publish(damaged, tmp_path / "kept")
    write_json(damaged / "plan.json", plan)
    write_json(Store(damaged).cell_path(plan["baseline"]), {"name": "lrpe"})
    with pytest.raises(StoreError, match=r"cell\.json is damaged \(axes is missing\)"):
        publish(damaged, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
