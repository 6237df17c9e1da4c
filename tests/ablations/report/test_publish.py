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

GRID = TINY | {"question": "does anything differ?", "repeat": True}
SIX = ["cells.json", "curves.csv", "grid.yaml", "report.html", "rows.csv", "table.md"]


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish without the report."""
    page = "ablations.report.page.write_report"
    monkeypatch.setattr(page, lambda root: (root / "report.html").touch())


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablation") / "out"
    ablations.run(GRID, out, progress=False)
    return out


@pytest.fixture(scope="module")
def kept(ablation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(ablation, tmp_path_factory.mktemp("published") / "kept")


def test_published_table_equals_original(ablation: Path, kept: Path) -> None:
    assert sorted(path.name for path in kept.iterdir()) == SIX
    pd.testing.assert_frame_equal(ablations.load(kept), ablations.load(ablation))
    both = [ablations.load(folder, repeats=True) for folder in (kept, ablation)]
    pd.testing.assert_frame_equal(*both)
    assert both[0]["repeat"].tolist() == [0, 0, 0, 0, 1]
    assert (kept / "rows.csv").read_text() == ablations.load(ablation).to_csv(index=False)


def test_published_folder_holds_what_each_training_left(ablation: Path, kept: Path) -> None:
    run, published = Store(ablation), Store(kept)
    plan = run.plan()
    assert published.plan() == plan
    assert (kept / "grid.yaml").read_bytes() == (ablation / "grid.yaml").read_bytes()
    found = [(cell["id"], seed, 0) for cell in plan["cells"] for seed in plan["seeds"]]
    for which in [*found, (plan["baseline"], 0, 1)]:
        result, again = run.result(*which), published.result(*which)
        assert result is not None
        assert again == {k: v for k, v in result.items() if k in (again or {})} | {
            "command": result["command"].replace(str(ablation), str(kept))
        }
        assert set(result) - set(again) == {"config", "history", "log"}
        config, path = (folder.run_folder(*which) / "config.json" for folder in (run, published))
        assert published.json(path) == read_json(config)
        assert published.cell(which[0]) == run.cell(which[0])
        curves = [folder.table(folder.metrics_path(*which)) for folder in (run, published)]
        assert curves[0].splitlines() == curves[1].splitlines()


@pytest.mark.usefixtures("unreported")
def test_publishing_twice_changes_no_result(ablation: Path, kept: Path, tmp_path: Path) -> None:
    again = tmp_path / "kept"
    shutil.copytree(kept, again)
    publish(ablation, again)
    from_published = publish(kept, tmp_path / "other")
    for folder in (again, from_published):
        assert (folder / "curves.csv").read_bytes() == (kept / "curves.csv").read_bytes()
        content = (folder / "cells.json").read_text().replace(str(folder), str(kept))
        assert content == (kept / "cells.json").read_text()


@pytest.mark.usefixtures("unreported")
def test_repetition_that_was_not_run_keeps_nothing_from_being_published(
    ablation: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(ablation, older)
    baseline = read_json(older / "plan.json")["baseline"]
    shutil.rmtree(Store(older).run_folder(baseline, 0, repeat=1))
    pd.testing.assert_frame_equal(
        ablations.load(publish(older, tmp_path / "kept")), ablations.load(ablation)
    )


def test_publishing_onto_anything_else_is_refused(ablation: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is the run itself"):
        publish(ablation, ablation)
    with pytest.raises(StoreError, match=r"grid\.yaml is a file; give a new folder"):
        publish(ablation, ablation / "grid.yaml")
    other = tmp_path / "other"
    shutil.copytree(ablation, other)
    with pytest.raises(StoreError, match="something else than a published grid"):
        publish(ablation, other)
    assert ablations.load(other).shape == ablations.load(ablation).shape


@pytest.mark.usefixtures("unreported")
def test_half_written_folder_is_published_again(ablation: Path, kept: Path, tmp_path: Path) -> None:
    for name in ("cells.json", "grid.yaml"):
        half = tmp_path / f"without {name}"
        shutil.copytree(kept, half)
        (half / name).unlink()
        publish(ablation, half)
        pd.testing.assert_frame_equal(ablations.load(half), ablations.load(ablation))


def test_published_folder_has_models_only_when_asked(ablation: Path, tmp_path: Path) -> None:
    first = publish(ablation, tmp_path / "first", models="first")
    assert {path.parent.name for path in first.rglob("*.safetensors")} == {"seed0"}
    assert len(list(first.rglob("*.safetensors"))) == 2
    publish(ablation, first)
    assert sorted(path.name for path in first.iterdir()) == SIX


def test_publish_refuses_unfinished_ablation(ablation: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(ablation, partial)
    cell = read_json(partial / "plan.json")["cells"][1]["id"]
    Store(partial).result_path(cell, 1).unlink()
    with pytest.raises(StoreError, match="gate=mean seed 1"):
        publish(partial, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    shutil.rmtree(Store(partial).run_folder(cell, 1))  # what was left of it
    kept = publish(partial, tmp_path / "kept", unfinished=True)
    assert len(ablations.load(kept)) == 3
    assert "3 of 4 declared runs have finished" in (kept / "report.html").read_text()
    again = ablations.run(GRID, tmp_path / "again", reuse=kept, progress=False)
    assert again["reused_from"].ne("").tolist() == [True, True, True, False]
    columns = ["gate", "seed", "test_loss"]
    pd.testing.assert_frame_equal(again[columns], ablations.load(ablation)[columns])


def test_publish_refuses_folder_of_another_question(
    ablation: Path, kept: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ablation, other)
    write_json(other / "plan.json", read_json(other / "plan.json") | {"question": "another"})
    with pytest.raises(StoreError, match=r"another question \('does anything differ\?'\)"):
        publish(other, kept)


@pytest.mark.usefixtures("unreported")
def test_publish_drops_cells_that_left_the_grid(ablation: Path, kept: Path, tmp_path: Path) -> None:
    smaller, again = tmp_path / "smaller", tmp_path / "kept"
    shutil.copytree(ablation, smaller)
    shutil.copytree(kept, again)
    plan = read_json(smaller / "plan.json")
    write_json(smaller / "plan.json", plan | {"cells": plan["cells"][:1]})
    publish(smaller, again)
    assert Store(again).cell_ids() == [plan["cells"][0]["id"]]
    assert plan["cells"][1]["id"] not in (again / "curves.csv").read_text()


def test_what_is_published_into_a_checkout_names_no_place_on_this_machine(
    ablation: Path, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    kept = publish(ablation, tmp_path / "results" / "kept")
    trainings = read_json(kept / "cells.json")["trainings"]
    assert len(trainings) == 5
    for training in trainings:
        assert training["command"].startswith("ablations repeat results/kept ")
    report = (kept / "report.html").read_text()
    assert "ablations report results/kept" in report
    assert str(tmp_path / "results") not in report


def test_publish_refuses_damage_and_leaves_the_target_alone(ablation: Path, tmp_path: Path) -> None:
    baseline, home = read_json(ablation / "plan.json")["baseline"], Store(ablation)
    damages = {
        home.result_path(baseline, 0, repeat=1): (
            b"{}",
            r"gate=lrpe seed 0 repeated \(damaged: .*seed0-repeat",
        ),
        home.cell_path(baseline): (b'{"name": "a"}', r"cell\.json is damaged \(axes is missing\)"),
        home.metrics_path(baseline, 1): (b"epoch,seed\n1\n", r"metrics\.csv is damaged \(a line"),
        home.run_folder(baseline, 1) / "config.json": (b"{", r"config\.json is not JSON .*; put"),
        home.root / "grid.yaml": (None, r"grid\.yaml is missing; put it back"),
    }
    for number, (path, (content, said)) in enumerate(damages.items()):
        damaged = tmp_path / str(number)
        shutil.copytree(ablation, damaged)
        place = damaged / path.relative_to(ablation)
        place.unlink()
        if content is not None:
            place.write_bytes(content)
        with pytest.raises(StoreError, match=said):
            publish(damaged, tmp_path / "kept")
        assert not (tmp_path / "kept").exists()
