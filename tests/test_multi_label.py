"""Clips of several labels, from a list to a report and to what is predicted."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

import ablations
from ablations.report.data import Study
from ablations.report.page import write_report
from analysis.interventions.run_clips import run_clips
from analysis.results.class_accuracy import write_classes
from posmlp.cli import main
from posmlp.clip_scores import score_files
from posmlp.config import TrainConfig
from posmlp.data.augment import Augmentation
from posmlp.data.layouts.layouts import list_videos
from posmlp.predict import open_run, predict_video
from posmlp.train.population import Population
from posmlp.train.scoring import metrics
from tests.train.test_population import TINY, batch

CLASSES = ("bright", "dark", "rises")
GRID: dict[str, Any] = {
    "base": {
        **{"depths": [1], "dims": [8], "num_groups": 1, "windows": 4, "temporal_windows": 2},
        **{"num_frames": 2, "image_size": 16, "mlp_ratio": 2, "downsample": []},
        "train": {"epochs": 2, "batch_size": 8, "keep": "best", "mixup": 0.2},
    },
    "metric": ["test_map", "test_top1"],
    "axes": {},
}


def labelled(root: Path, rows: list[str], header: str = "path,labels") -> Path:
    """A data set of empty files: a listing reads none."""
    for row in rows:
        path = root / row.partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "labels.csv").write_text("\n".join([header, *rows]))
    return root


def rows_of(num_people: int = 8) -> list[str]:
    kinds = ("bright", "dark", "bright; rises", "rises;dark")
    return [f"p{i}/{k}.mp4,{kind}" for i in range(num_people) for k, kind in enumerate(kinds)]


def test_list_of_labels_is_read_and_split_by_whole_groups(tmp_path):
    root = labelled(tmp_path, rows_of())
    found = {split: list_videos(root, split) for split in ("train", "val", "test")}
    assert sum(len(each.paths) for each in found.values()) == 32
    people = [{place[:2] for place in each.places()} for each in found.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 8
    fold = list_videos(f"fold1of4:{root}", "test")
    for listing in (*found.values(), fold):
        assert (listing.layout, listing.classes) == ("labelled", CLASSES)
        told = dict(zip(listing.places(), listing.told_labels(), strict=True))
        assert set(told.values()) == {"0", "1", "0;2", "1;2"}
        assert {label for place, label in told.items() if place.endswith("3.mp4")} == {"1;2"}


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (["a.mp4,x;y", "b.mp4,"], "path,labels", "labels.csv:3: 'b.mp4,' is no path and labels"),
        (["a.mp4,x,y"], "path,labels", "labels.csv:2: 'a.mp4,x,y' is no path and labels"),
        (["a.mp4,x", "a.mp4,y"], "path,labels", "a.mp4 was listed before"),
        (['a.mp4,"x, y"', "b.mp4,x"], "path,labels", "2: 'x, y' has commas between labels"),
        (["a.mp4,x"], "file,labels", "it needs 'path' and 'labels', a comma between; or"),
    ],
)
def test_list_that_cannot_be_used_is_refused(tmp_path, rows, header, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        list_videos(labelled(tmp_path, rows, header), "train")


def test_loss_is_binary_cross_entropy():
    clips, _, scales = batch(2)
    targets = torch.randint(2, (2, 4, 3)).float()
    population = Population(TINY, [0, 1], vectorised=True, multi_label=True)
    _, losses, logits = population.gradients(clips, targets, scales, label_smoothing=0.1)
    for i in range(2):
        own = F.binary_cross_entropy_with_logits(logits[i], 0.9 * targets[i] + 0.05)
        torch.testing.assert_close(losses[i], own)


def test_scores_by_hand():
    """The second class stands first where it is, then third: (1 + 2/3) / 2; the third has none."""
    logits = torch.tensor([[2.0, 3.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = metrics(logits, labels)
    assert found["map"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)
    assert (found["top1"], found["top5"]) == (pytest.approx(2 / 3), 1.0)


def test_mirrored_clips_have_the_mirrored_labels():
    augment = Augmentation(TrainConfig(flip="labels"), ("left", "right", "up"))
    clips, labels = torch.zeros(8, 2, 4, 4, 3), torch.tensor([[1.0, 0.0, 1.0]])
    draws = [np.random.default_rng(k) for k in range(8)]
    found = augment(clips, labels.expand(8, 3), draws, draws[0])[1]
    assert {tuple(each) for each in found.tolist()} == {(1, 0, 1), (0, 1, 1)}


def test_grid_is_trained_scored_reported_and_predicts(tmp_path, write_clip, capsys):
    data = labelled(tmp_path / "data", rows_of())
    for i in range(8):
        for k, start in enumerate((200, 40, 180, 60)):
            write_clip(data / f"p{i}/{k}.mp4", [start + i, start + i + 30 * (k > 1)])
    grid = {**GRID, "base": {**GRID["base"], "data": str(data)}}
    table = ablations.run(grid, tmp_path / "run", device="cpu", progress=False)
    assert (table.status == "done").all()
    run = tmp_path / "run/cells" / table.id[0] / "seed0"
    assert main(["eval", str(run), "--workers", "0", "--shifts", "--out", str(run / "eval")]) == 0
    assert f"mean average precision {table.test_map[0]:.1%}" in capsys.readouterr().out
    assert [p.name for p in score_files(run)] == ["clips.csv", "classes.csv"]
    clips = list(csv.DictReader((run / "eval/clips.csv").open()))
    each = [
        average_precision_score(
            [name in row["truth"].split(";") for row in clips],
            [float(row[f"logit {name}"]) for row in clips],
        )
        for name in CLASSES
    ]
    assert table.test_map[0] == pytest.approx(sum(each) / 3, abs=1e-4)
    of_classes = list(csv.DictReader((run / "eval/classes.csv").open()))
    stored = [float(row["average_precision"]) for row in of_classes]
    assert stored == pytest.approx(each, abs=1e-4)
    write_classes(tmp_path / "run")
    with pytest.warns(UserWarning, match="several labels each, which no analysis reads"):
        page = write_report(tmp_path / "run").read_text()
    assert "Mean average precision" in page
    study = Study.open(tmp_path / "run")
    assert list(study.classes(study.metrics[0]).columns) == list(CLASSES)

    found = predict_video(open_run(run), clips[0]["file"]).probabilities
    logits = torch.tensor([float(clips[0][f"logit {name}"]) for name in CLASSES])
    torch.testing.assert_close(found, logits.sigmoid(), atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="which no analysis reads"):
        run_clips(run, 4)
    for words, said in (
        (["eval", str(run), "--calibrate"], "fits one answer a clip, and clips have several"),
        (["data", "time", str(data)], "have several labels; readers answer one a clip"),
        (
            ["train", "--data", str(data), "--out", str(tmp_path / "x"), "balanced=true"],
            "have several labels, by which none is balanced",
        ),
    ):
        assert main([*words, "--workers", "0"]) == 2
        assert said in capsys.readouterr().err
    assert main(["card", str(run)]) == 0
    assert "| mean average precision |" in (run / "README.md").read_text()
