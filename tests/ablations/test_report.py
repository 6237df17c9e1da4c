"""The report: one page, right numbers, no network, from what the folder stores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ablations import load, run
from ablations.cli import main
from ablations.report import write_report

GRID = {
    "question": "Is <time> needed?",
    "prediction": "Yes.",
    "base": {
        "preset": "toy",
        "data": "moving-digits:easy",
        "depths": [1, 1],
        "dims": [8, 16],
        "num_groups": 2,
        "windows": [4, 2],
        "temporal_windows": 4,
        "mlp_ratio": 2.0,
        "downsample": True,
        "num_frames": 4,
        "image_size": 16,
        "train": {"epochs": 2, "batch_size": 16, "num_clips": 32},
    },
    "axes": {"layout": ["T+S", "S"]},
    "seeds": [0, 1],
    "baseline": {"layout": "T+S"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("grid") / "run"
    table = run(GRID, root, progress=False)
    assert (table["status"] == "done").all()
    return root


@pytest.fixture(scope="module")
def page(folder) -> str:
    return write_report(folder).read_text()


def test_report_holds_question_prediction_and_every_variant(page):
    assert "Is &lt;time&gt; needed?" in page
    assert "Predicted before the run:</strong> Yes." in page
    assert "4 of 4 declared runs finished" in page
    assert page.count("layout=T+S") >= 2
    assert "layout=S: " in page


def test_report_numbers_are_the_tables(folder, page):
    for _, runs in load(folder).groupby("name"):
        assert f"{runs['test_top1'].mean():.3f} [" in page
    text = (folder / "table.md").read_text()
    assert "0.500 [0.500, 0.500]" in text, "layout S is at chance within pairs"
    assert (folder / "table.csv").read_text().count("\n") == 3


def test_report_needs_no_network(page):
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count('src="data:image/png;base64,') >= 5
    assert "<script" not in page


def test_report_shows_provenance_and_failures(folder, tmp_path):
    page = write_report(folder, tmp_path / "other.html").read_text()
    assert "torch" in page
    assert "ablations run" in page
    assert "Runs that failed" not in page
    assert (tmp_path / "figures" / "learned-temporal-bias.png").stat().st_size > 1000


def test_report_of_nothing_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no ablation" in capsys.readouterr().err
