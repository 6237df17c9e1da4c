"""Stored results: what lessons read, and what they say when it is not there."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import ablations
from lessons import stored

GRIDS = sorted(path.parent.name for path in stored.RESULTS.glob("*/rows.csv"))


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
    words = "equal within 2 points: dense; not to be told apart: conv"
    assert stored.in_words(table) == f"Worse: mean; {words}"


def test_missing_results_name_the_command_that_measures_them():
    for read in (stored.rows, stored.command):
        with pytest.raises(FileNotFoundError, match=r"ablations run ablations/grids/nothing\.yaml"):
            read("nothing")


def test_lesson_10_trains_what_its_stored_rows_were_trained_as():
    """Its own cells and the stored ones share the baseline, so that their rows can be compared."""
    base = {"preset": "toy", "data": "moving-digits:easy", "image_size": 16}
    base |= {"windows": [4, 2, 1, 1]}
    train = {"epochs": 3, "num_clips": 700, "batch_size": 16, "lr": 3e-3}
    grid = {"base": {**base, "train": train}, "axes": {"gate_form": ["multiply", "add"]}}
    cells = ablations.read_grid({**grid, "seeds": 2, "baseline": {"gate_form": "multiply"}})
    rows = stored.rows("lesson10")
    assert cells.baseline.id == rows.id[rows.baseline].iloc[0]
