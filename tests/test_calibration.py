"""How far answers are to be trusted: calibration errors, temperatures, shifted clips, the card."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from posmlp.cli import main
from posmlp.pictures.calibration import (
    SHIFTS,
    Calibration,
    draw_reliability,
    fit_temperature,
)
from posmlp.pictures.card import wilson
from posmlp.predict import open_run, predict_video
from posmlp.train.run_folder import read_metrics, temperature_of
from tests.test_cli import SMALL


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small run of generated clips."""
    out = tmp_path_factory.mktemp("trust") / "run"
    assert main(["train", "--out", str(out), *SMALL, "num_val_clips=56", "--seeds", "0,1"]) == 0
    return out


def test_calibration_error_is_that_of_bins_by_hand():
    """Three clips say 0.75, of which two are right; one says 0.95, wrongly."""
    said = torch.tensor([0.75, 0.75, 0.75, 0.95], dtype=torch.float64)
    logits = torch.stack([said, 1 - said], dim=1).log()
    found = Calibration.of(logits, torch.tensor([0, 0, 1, 1]))
    assert found.counts.tolist() == [0] * 7 + [3, 0, 1]
    assert found.error == pytest.approx((3 * (0.75 - 2 / 3) + 0.95) / 4)
    assert draw_reliability(logits, logits, torch.tensor([0, 0, 1, 1])).width < 400


def test_temperature_is_found_again():
    """Labels are drawn by the probabilities of logits, which are then made three times as sure."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    assert fit_temperature(3 * logits, labels) == pytest.approx(3.0, rel=0.05)
    cooled = Calibration.of(3 * logits, labels, 3.0).error
    assert cooled < 0.03 < 0.1 < Calibration.of(3 * logits, labels).error
    with pytest.raises(ValueError, match="2 of 2 val clips are right"):
        fit_temperature(torch.eye(2), torch.arange(2))


def test_shifts_are_what_they_are_called():
    clips = torch.arange(8, dtype=torch.uint8).view(1, 8, 1, 1, 1).expand(1, 8, 4, 4, 3) * 10
    frames = {name: (shift(clips)[0, :, 0, 0, 0] / 10).tolist() for name, shift in SHIFTS.items()}
    assert frames["frame rate x 0.5"] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert frames["speed x 0.5"] == [2, 2, 3, 3, 4, 4, 5, 5]
    assert frames["speed x 2"] == [0, 0, 0, 2, 4, 6, 7, 7]
    assert frames["resolution x 0.25"] == frames["none"] == list(range(8))
    stripes = torch.tensor([0, 200], dtype=torch.uint8).repeat(2).view(1, 1, 4, 1, 1)
    assert set(SHIFTS["resolution x 0.5"](stripes.expand(1, 2, 4, 4, 3)).flatten().tolist()) == {
        100
    }


def test_eval_fits_temperatures_that_predict_uses(run, tmp_path, capsys, write_clip):
    video = write_clip(tmp_path / "fade.mp4", list(range(20, 220, 10)))
    before = predict_video(open_run(run, 1), video).probabilities
    words = ["eval", str(run), "--calibrate", "--shifts", "--out", str(tmp_path / "scores")]
    assert main(words) == 0
    said = capsys.readouterr().out
    stored = json.loads((run / "calibration.json").read_text())["temperatures"]
    assert list(stored) == ["model-seed0.safetensors", "model-seed1.safetensors"]
    by = temperature_of(run / "model-seed1.safetensors")
    assert f"at temperature {by:.2f}, which predict uses" in said
    after = predict_video(open_run(run, 1), video).probabilities
    torch.testing.assert_close(after, (before.log() / by).softmax(-1))
    rows = list(csv.DictReader((tmp_path / "scores/shifts.csv").open()))
    assert [row["shift"] for row in rows] == 2 * list(SHIFTS)
    assert {float(row["lost"]) for row in rows if row["shift"] == "none"} == {0.0}
    for name in ("reliability", "shifts"):
        assert Image.open(tmp_path / f"scores/{name}.png").width > 300
    (run / "calibration.json").write_text('{"temperatures": {"model-seed1.safetensors": 0}}')
    assert main(["predict", str(run), str(video), "--seed", "1"]) == 2
    assert re.search(r"calibration.json is damaged \(0.0 is no", capsys.readouterr().err)
    (run / "calibration.json").unlink()
    assert math.isclose(temperature_of(run / "model-seed1.safetensors"), 1.0)


def test_card_says_what_a_hub_and_a_reader_ask(run, capsys):
    assert main(["card", str(run)]) == 0
    text = (run / "README.md").read_text()
    head, body = text.split("---\n")[1:]
    about = yaml.safe_load(head)
    assert (about["license"], about["pipeline_tag"]) == ("other", "video-classification")
    (result,) = about["model-index"][0]["results"]
    last = read_metrics(run / "metrics.csv")[-2:]
    mean = sum(row["test_top1"] for row in last) / 2
    assert result["metrics"][0]["value"] == pytest.approx(mean, abs=1e-4)
    low, high = wilson(last[0]["test_top1"], 28)
    assert f"{last[0]['test_top1']:.1%} ({100 * low:.1f} to {100 * high:.1f})" in body
    assert "| mean of 2 |" in body
    assert "It learned from 28 clips, and knows no class but its 14." in body
    assert body.count("*fill in*") == 3
    capsys.readouterr()
    for words, told in (
        ([str(run)], "may be filled in; remove it, or give another --out"),
        ([str(run.parent)], "no run at"),
    ):
        assert main(["card", *words]) == 2
        assert told in capsys.readouterr().err
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_a_file_takes_no_temperature(run, capsys):
    model = str(run / "model-seed0.safetensors")
    assert main(["eval", model, "--data", "moving-digits", "--calibrate"]) == 2
    assert "--calibrate stores in a run folder" in capsys.readouterr().err
