"""The grids of the package: each declares its question, prediction and cost, and can be run."""

from __future__ import annotations

import re
from itertools import product
from math import prod
from pathlib import Path

import pytest

import ablations
from ablations import read_grid
from ablations.store.store import Store

FILES = sorted(Path(ablations.__file__).with_name("grids").glob("*.yaml"))
QUESTIONS = (
    *("gates", "layouts", "groups", "windows", "gate_form"),
    *("relation_matched_params", "layouts_difficulty"),
)


def test_every_question_has_its_grid():
    assert {path.stem for path in FILES} >= set(QUESTIONS)


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Where the grid of real films looks for its data: a batch of clips, and some for val."""
    monkeypatch.chdir(tmp_path)
    for fold, split, name in product(range(8), ("train", "test"), ("forward", "reversed")):
        folder = tmp_path / f"runs/playback/data/fold-{fold}/{split}/{name}"
        folder.mkdir(parents=True)
        for i in range(20):
            (folder / f"{i}.mp4").write_bytes(bytes(fold + 1))


@pytest.mark.usefixtures("films")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grid_can_be_run_and_its_head_tells_its_cost(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("make demo" in line or "ablations run" in line or "bench" in line for line in head)
    (cost,) = [line for line in head if line.startswith("# Cost: ")]
    data = "moving-digits" if path.stem == "demo" else None  # make demo makes its files first
    grid = read_grid(path, data)
    grid.check_data()
    assert grid.question
    assert grid.prediction
    counts = re.search(r"(\d+) variants(?: x (\d+) films)? x (\d+) seed|(\d+) trainings", cost)
    assert counts
    num_trainings = prod(int(number) for number in counts.groups() if number)
    assert num_trainings == len(grid.cells) * len(grid.seeds)


@pytest.mark.parametrize("name", ["groups", "layouts_difficulty"])
def test_ids_of_stored_results_are_those_of_their_grid(name, monkeypatch):
    """What changes them, new clips aside, would have every stored result trained again."""
    folder = Path(ablations.__file__).parent / "results" / name
    plan = Store(folder).plan()
    (version,) = re.findall(
        r'"data": "moving-digits:\w+:(\d+)"', (folder / "cells.json").read_text()
    )[:1]
    monkeypatch.setattr("ablations.grid.datasets.GENERATOR_VERSION", int(version))
    cells = read_grid(folder / "grid.yaml").cells
    assert {cell["id"] for cell in plan["cells"]} == {cell.id for cell in cells}
