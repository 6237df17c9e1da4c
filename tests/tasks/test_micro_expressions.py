"""Micro-expressions: phases, the protocol, its scores against scikit-learn's, and files on disk."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posmlp.config import TrainConfig
from posmlp.tasks.__main__ import main
from posmlp.tasks.micro_expressions import (
    COLUMNS,
    leave_one_subject_out,
    phase_indices,
    read_micro_expressions,
    tiny_deformations,
    unweighted_scores,
)
from tests.train.test_population import TINY

CONFIG = replace(TINY, image_size=16, windows=(4, 2), num_classes=4, drop_path=0.0)


@given(st.lists(st.integers(0, 400), min_size=3, max_size=3).map(sorted), st.integers(3, 40))
@settings(max_examples=100)
def test_phase_indices_go_from_onset_over_apex_to_offset(phases, num_frames):
    onset, apex, offset = phases
    indices = phase_indices(onset, apex, offset, num_frames)
    assert len(indices) == num_frames
    assert (indices[0], indices[num_frames // 2], indices[-1]) == (onset, apex, offset)
    assert (indices[1:] >= indices[:-1]).all()


def test_phases_out_of_order_are_refused():
    with pytest.raises(ValueError, match="must not decrease"):
        phase_indices(5, 3, 9, 8)


def test_class_without_clips_is_named():
    with pytest.raises(ValueError, match=r"classes \[1\]"):
        unweighted_scores(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)


def test_folds_leave_out_each_subject_once():
    data = tiny_deformations(3, 4, image_size=16, num_frames=4)
    folds = list(data.folds())
    assert [name for name, _, _ in folds] == ["s00", "s01", "s02"]
    for i, (_, others, own) in enumerate(folds):
        assert len(others) == 8
        assert torch.equal(own.clips, data.clips[4 * i : 4 * i + 4])


def test_deformations_are_tiny_and_return():
    data = tiny_deformations(2, 8, num_frames=9)
    clips = data.clips.float()
    change = (clips - clips[:, :1]).abs().mean((-1, -2, -3))
    noise = change[:, -1].mean()
    assert (change[:, 4] > 1.3 * noise).all(), "nothing happens at the apex"
    assert (change[:, 4] < 40).all(), "it is no small change"
    assert torch.equal(data.clips, tiny_deformations(2, 8, num_frames=9).clips)


def test_first_frames_do_not_tell_the_expression():
    """Within a subject they differ by noise alone."""
    data = tiny_deformations(1, 8, num_frames=8)
    first = data.clips[:, 0].float()
    assert (first - first.mean(0)).abs().mean() < 4


def test_leaving_one_out_pools_all_subjects_and_trains_once(tmp_path):
    data = tiny_deformations(2, 8, image_size=16, num_frames=4)
    train = TrainConfig(epochs=1, batch_size=8)
    first = leave_one_subject_out(CONFIG, train, data, tmp_path, seeds=[0, 1], progress=False)
    assert [row["seed"] for row in first] == [0, 1]
    assert all(0 <= row["uar"] <= 1 for row in first)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model-*")}
    assert len(before) == 4
    again = leave_one_subject_out(CONFIG, train, data, tmp_path, seeds=[0, 1], progress=False)
    assert again == first
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model-*")}


def write_annotations(root: Path, rows: list[list[object]]) -> Path:
    root.mkdir(exist_ok=True)
    with (root / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return root


def test_clips_are_read_from_onset_to_offset(tmp_path, write_clip, grey_levels):
    write_clip(tmp_path / "data/a.mp4", range(0, 240, 6), height=20, width=24)
    rows = [["a.mp4", "anna", 4, 20, 30, "joy"], ["a.mp4", "ben", 0, 2, 39, "fear"]]
    data = read_micro_expressions(write_annotations(tmp_path / "data", rows), CONFIG)
    assert data.classes == ("fear", "joy")
    assert data.labels.tolist() == [1, 0]
    assert data.subjects == ("anna", "ben")
    assert data.clips.shape == (2, 4, 16, 16, 3)
    levels = grey_levels(data.clips.numpy())
    assert abs(levels[0] - [24, 72, 120, 180]).max() < 4
    assert abs(levels[1] - [0, 6, 12, 234]).max() < 4


def test_malformed_lines_and_frames_outside_are_named(tmp_path, write_clip):
    rows = [["a.mp4", "anna", 4, 2, 30, "joy"], ["a.mp4", "anna", 1, 2, 3, "joy"]]
    rows += [["a.mp4", "", 1, 2, 3, "joy"], ["a.mp4", "anna", "x", 2, 3, "joy"]]
    root = write_annotations(tmp_path / "data", rows)
    with pytest.raises(ValueError, match=r"3 malformed lines.*line 2:.*line 4:.*line 5:"):
        read_micro_expressions(root, CONFIG)
    write_clip(root / "a.mp4", range(10))
    write_annotations(root, [["a.mp4", "anna", 4, 8, 30, "joy"]])
    with pytest.raises(ValueError, match=r"offset=30, but it has frames 0 to 9"):
        read_micro_expressions(root, CONFIG)


def test_command_leaves_out_each_subject_of_a_folder_of_clips(tmp_path, write_clip, capsys):
    rows: list[list[object]] = []
    for subject in ("anna", "ben", "cleo"):
        for expression, peak in (("joy", 200), ("fear", 60)):
            name = f"{subject}-{expression}.mp4"
            write_clip(
                tmp_path / "data" / name, [100, 120, peak, 120, 100] * 4, height=32, width=40
            )
            rows += [[name, subject, 1, 7, 18, expression]] * 2
    root = str(write_annotations(tmp_path / "data", rows))
    small = ["epochs=1", "batch_size=4"]
    assert main(["micro", "--data", root, "--out", str(tmp_path / "run"), *small]) == 0
    assert "over 3 subjects" in capsys.readouterr().out
    runs = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert runs == ["without-anna", "without-ben", "without-cleo"]
    stored = json.loads((tmp_path / "run/without-anna/config.json").read_text())
    assert stored["classes"] == ["fear", "joy"]
