"""Every lesson runs from top to bottom unanswered, and shows what the stored one shows.

All run in one kernel, one after another, so that packages are imported once. Trainings see few
clips: of what they show the kinds alone are compared. The results that lessons read are stored.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

import ablations
from lessons import make_notebooks, stored
from lessons.compare_notebooks import differences
from lessons.make_notebooks import SharedKernel
from lessons.videos import write_film
from tests.notebooks.lab import FEW_CLIPS, pictures, printed

SOURCES = make_notebooks.sources()
GRIDS = sorted(path.parent.name for path in stored.RESULTS.glob("*/cells.json"))
FEW = f'{{**grid, "base": {{**BASE, "train": {{**BASE["train"], {FEW_CLIPS}}}}}}}'
SHORTER = {
    r'(MovingDigits\("(?:train|val)", (?:num_clips=)?)\d+': r"\g<1>56",
    r"TrainConfig\(epochs=3": "TrainConfig(epochs=1",
    r"ablations\.run\(grid, ": f"ablations.run({FEW}, ",
    r"num_train=56, num_test=84": "num_train=28, num_test=84",
    r'"min_runs": 20, "min_seconds": 0.5': '"min_runs": 3, "min_seconds": 0.0',
}


def shorter(code: str) -> str:
    for pattern, few in SHORTER.items():
        code = re.sub(pattern, few, code)
    return code


def test_trainings_are_shortened_where_they_stand():
    text = "\n".join(path.read_text() for path in SOURCES)
    assert all(re.search(pattern, text) for pattern in SHORTER)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_lesson_runs_and_shows_what_is_stored(source: Path, kernel: SharedKernel) -> None:
    notebook = make_notebooks.execute(source, kernel, shorter)
    for cell in notebook.cells:
        if "exercise" in cell.metadata.get("tags", []):
            answers = [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
            assert any(text.startswith("not answered yet") for text in answers), cell.source
    before = nbformat.read(make_notebooks.target_of(source), as_version=4)
    assert not differences(notebook, before)


def film(path: Path, *, num_frames: int, height: int, width: int, frames_per_s: int = 25) -> Path:
    """A bright square that crosses a grey picture from left to right."""
    frames = np.full((num_frames, height, width, 3), 90, dtype=np.uint8)
    for t, frame in enumerate(frames):
        left = t * (width - 16) // num_frames
        frame[20:36, left : left + 16] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_film(path, frames, frames_per_s=frames_per_s)


def test_lesson_11_takes_a_users_file_and_folder(tmp_path: Path, kernel: SharedKernel) -> None:
    mine = film(tmp_path / "holiday.mkv", num_frames=50, height=64, width=96, frames_per_s=30)
    for kind in ("cats", "dogs"):
        for i in range(5):
            film(tmp_path / "clips" / kind / f"{i}.mp4", num_frames=20 + i, height=48, width=64)
    paths = {'\nVIDEO = ""': mine, '\nFOLDER = ""': tmp_path / "clips"}

    def with_paths(code: str) -> str:
        for line, path in paths.items():
            code = f"\n{code}".replace(line, line.replace('""', repr(str(path))))[1:]
        return code

    (source,) = (path for path in SOURCES if path.name.startswith("11_"))
    lesson = make_notebooks.execute(source, kernel, with_paths)
    code = [cell for cell in lesson.cells if cell.cell_type == "code"]
    said = "".join(printed(cell) for cell in code)
    assert "holiday.mkv: " in said
    assert "50 frames at 30.0 a second, read by decord" in said
    assert "2 test videos of 2 classes" in said
    assert "right: 0 of 2" in said  # cats and dogs are no words of the toy model's
    assert "guessing among 2 would be 0.69" in said
    explained = [cell for cell in code if "draw_attribution(" in cell.source]
    assert len(explained) == 2
    assert all(pictures(cell) for cell in explained)


@pytest.mark.parametrize("grid", GRIDS)
def test_stored_rows_are_finished_runs_of_the_grid_with_their_provenance(grid):
    rows = stored.rows(grid)
    plan = json.loads((stored.RESULTS / grid / "cells.json").read_text())["plan"]
    assert set(rows.name) <= {cell["name"] for cell in plan["cells"]}
    assert not rows.duplicated(["name", "seed"]).any()
    assert rows[["test_top1", "device", "num_threads", "commit", "torch"]].notna().all(axis=None)
    assert rows.baseline.any()
    assert set(plan["axes"]) <= set(rows.columns)


@pytest.mark.parametrize("grid", GRIDS)
def test_stored_command_names_no_place_on_the_machine_that_ran_it(grid):
    words = stored.command(grid).split()
    assert words[:2] == ["ablations", "run"]
    assert not [word for word in words if word.startswith("/")]


def test_rows_leave_out_what_failed(monkeypatch):
    table = pd.DataFrame({"name": ["a", "b"], "status": ["done", "failed"]})
    monkeypatch.setattr(ablations, "load", lambda folder: table)
    assert stored.rows("gates").name.tolist() == ["a"]


def test_comparison_is_said_in_lines_and_in_words(capsys):
    scores = {"lrpe": [0.7, 0.71, 0.72], "mean": [0.3, 0.32, 0.31], "conv": [0.5, 0.9, 0.7]}
    scores["dense"] = [0.701, 0.712, 0.721]
    runs = pd.DataFrame(scores).melt(var_name="gate", value_name="test_top1")
    runs = runs.assign(seed=[0, 1, 2] * 4, baseline=runs.gate == "lrpe")
    table = stored.against_baseline(runs, "gate", shown=("mean", "conv", "dense"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mean  minus lrpe: -40.0 points, 95% interval -42.5 to -37.5: worse")
    words = "equal within 2 points: dense; no clear difference: conv"
    assert stored.in_words(table) == f"Worse: mean; {words}"


def test_lesson_10_trains_what_its_stored_rows_were_trained_as():
    """Its own cells and the stored ones share the baseline, so that their rows can be compared."""
    base = {"recipe": "steady", "data": "moving-digits:easy", "image_size": 16}
    base |= {"windows": [4, 2, 1, 1]}
    train = {"epochs": 3, "num_clips": 700, "lr": 4e-3}
    grid = {"base": {**base, "train": train}, "axes": {"gate_form": ["multiply", "add"]}}
    cells = ablations.read_grid({**grid, "seeds": 2, "baseline": {"gate_form": "multiply"}})
    rows = stored.rows("lesson10")
    assert cells.baseline.id == rows.id[rows.baseline].iloc[0]
