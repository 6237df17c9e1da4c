"""Action detection: the head, its targets, training that learns, and AVA's files."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score

from posmlp.tasks.boxes import Labelled, average_precision, frame_map, overlaps

pytest.importorskip("torchvision")
from posmlp.cli import main as posmlp_main
from posmlp.config import TrainConfig
from posmlp.data.augment import normalise
from posmlp.presets import resolve
from posmlp.tasks.__main__ import main
from posmlp.tasks.ava import read_ava
from posmlp.tasks.detection import (
    MAX_OVERLAP,
    Detector,
    detect,
    load_detector,
    targets_of,
    train_detector,
)
from posmlp.tasks.moving_boxes import moving_boxes, sliding_boxes

CONFIG = resolve(
    "toy", image_size=32, num_frames=4, temporal_windows=4, depths=(1, 1), dims=(16, 16),
    num_groups=4, windows=(4, 8), downsample=False, mlp_ratio=2.0, num_classes=4,
)  # fmt: skip
SHAPE = {"num_frames": 4, "image_size": 32}


def test_moving_boxes_lie_on_their_movers_and_move_as_they_are_named():
    data = moving_boxes("train", 12, num_frames=8, image_size=64)
    again = moving_boxes("train", 12, num_frames=8, image_size=64)
    for i in range(len(data)):
        clip = data.load(i).float()
        assert torch.equal(clip, again.load(i).float())
        change = (clip[1:] - clip[:-1]).abs().mean(-1)  # between frames
        for box in data.boxes[i]:
            left, top, right, bottom = (box * 64).round().int().tolist()
            inside = change[3, top:bottom, left:right].mean()
            assert inside > 1.5 * change[3].mean(), "nothing moves there"
    assert all(actions.sum(1).eq(1).all() for actions in data.actions)


def test_a_proposal_covers_every_mover():
    data = moving_boxes("test", 50, **SHAPE)
    best = [overlaps(b, sliding_boxes()).amax(1).min() for b in data.boxes]
    assert min(best) > 0.5


def test_targets_are_those_of_the_box_that_is_overlapped_most():
    boxes = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]])
    actions = torch.tensor([[True, False], [True, True]])
    proposals = torch.tensor([[0.0, 0.0, 0.4, 0.35], [0.5, 0.55, 0.9, 0.9], [0.2, 0.2, 0.6, 0.6]])
    assert targets_of(proposals, boxes, actions).tolist() == [[1, 0], [1, 1], [0, 0]]
    assert targets_of(proposals, boxes[:0], actions[:0]).tolist() == [[0, 0]] * 3


def test_logits_depend_on_their_own_box_and_clip():
    detector = Detector(CONFIG, 4).eval()
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    left, right = torch.tensor([[0.0, 0.0, 0.3, 1.0]]), torch.tensor([[0.7, 0.0, 1.0, 1.0]])
    with torch.no_grad():
        both = detector(clips, [torch.cat([left, right]), left])
        alone = detector(clips[:1], [right])
    torch.testing.assert_close(both[1:2], alone)
    assert not torch.allclose(both[0], both[1])
    assert not torch.allclose(both[0], both[2])


def test_detections_of_one_action_overlap_little():
    data = moving_boxes("test", 3, **SHAPE)
    found = detect(Detector(CONFIG, 4), data)
    assert set(found.frame.tolist()) == {0, 1, 2}
    for frame in range(3):
        for action in range(4):
            boxes = found.box[(found.frame == frame) & (found.action == action)]
            other = overlaps(boxes, boxes) - torch.eye(len(boxes))
            assert (other <= MAX_OVERLAP + 1e-6).all()


def test_training_learns_repeats_and_is_kept(tmp_path):
    data = moving_boxes("train", 32, **SHAPE)
    train = TrainConfig(epochs=12, batch_size=4, lr=5e-3)
    pair = (data, data)
    detector, history = train_detector(CONFIG, train, pair, tmp_path / "run", progress=False)
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert history[-1]["test_map"] > 2 * history[0]["test_map"]
    short, few = replace(train, epochs=2), (moving_boxes("train", 8, **SHAPE),) * 2
    runs = [train_detector(CONFIG, short, few, tmp_path / k, progress=False)[1] for k in "ab"]
    assert runs[0] == runs[1]
    loaded, actions = load_detector(tmp_path / "run" / "detector.safetensors")
    assert actions == ("right", "left", "down", "up")
    clips, boxes = normalise(data.load(0)[None]), [data.proposals[0]]
    with torch.no_grad():
        torch.testing.assert_close(loaded(clips, boxes), detector.eval()(clips, boxes))
    assert train_detector(CONFIG, train, pair, tmp_path / "run", progress=False)[1] == history


AVA = {
    "actions.csv": "id,name\n12,stand\n80,watch\n",
    "train.csv": "film,2.0,0.1,0.1,0.5,0.9,12,0\nfilm,2.0,0.1,0.1,0.5,0.9,80,0\n"
    "film,1.0,0.5,0.1,0.9,0.9,80,1\n",
    "train_boxes.csv": "film,2.0,0.1,0.1,0.5,0.8,0.95\nfilm,2.0,0.6,0.1,0.9,0.8,0.5\n",
}


@pytest.fixture
def ava(tmp_path, write_clip) -> Path:
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos/film.mp4", range(0, 240, 8), height=32, width=48)
    for name, text in AVA.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_ava_files_are_read(ava, grey_levels):
    data = read_ava(ava, "train", CONFIG, TrainConfig(sampling_rate=2))
    assert data.classes == ("stand", "watch")
    assert [actions.tolist() for actions in data.actions] == [[[False, True]], [[True, True]]]
    assert [len(proposals) for proposals in data.proposals] == [0, 1], "0.5 is too unsure"
    clip = data.load(1)  # second 2 of 8 frames a second: frame 16, two frames apart
    assert clip.shape == (4, 32, 32, 3)
    assert abs(grey_levels(clip.numpy()) - [96, 112, 128, 144]).max() < 4


def test_malformed_annotations_are_listed_by_line(ava):
    (ava / "train.csv").write_text("film,2.0,0.9,0.1,0.5,0.9,12,0\n" + AVA["train.csv"] + "film\n")
    with pytest.raises(ValueError, match=r"2 malformed lines.*line 1: film.*line 5: film"):
        read_ava(ava, "train", CONFIG, TrainConfig())
    (ava / "train.csv").write_text("film,2.0,0.1,0.1,0.5,0.9,13,0\n")
    with pytest.raises(ValueError, match="action '13' is not in actions"):
        read_ava(ava, "train", CONFIG, TrainConfig())
    (ava / "train.csv").write_text("other,2.0,0.1,0.1,0.5,0.9,12,0\n")
    with pytest.raises(ValueError, match="no film 'other'"):
        read_ava(ava, "train", CONFIG, TrainConfig())
    (ava / "train.csv").write_text("film,2.0,0.1,0.1,0.5,0.9,stand,0\n")
    with pytest.raises(ValueError, match=r"1 malformed lines.*line 1: film"):
        read_ava(ava, "train", CONFIG, TrainConfig())
    (ava / "train.csv").write_text("")
    with pytest.raises(ValueError, match=r"train.csv names no box"):
        read_ava(ava, "train", CONFIG, TrainConfig())
    (ava / "actions.csv").write_text("12,stand\n")
    with pytest.raises(ValueError, match=r"actions.csv has columns .*it needs 'id' and 'name'"):
        read_ava(ava, "train", CONFIG, TrainConfig())


def test_films_that_end_too_early_or_are_none_are_named_before_training(ava):
    (ava / "train.csv").write_text(AVA["train.csv"] + "film,9.0,0.1,0.1,0.5,0.9,12,0\n")
    with pytest.raises(ValueError, match=r"film.mp4 has 30 frames, and none at second 9"):
        read_ava(ava, "train", CONFIG, TrainConfig())
    (ava / "videos/film.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"film.mp4: cannot be opened as a video"):
        read_ava(ava, "train", CONFIG, TrainConfig())


def test_commands_train_and_score(tmp_path, capsys):
    small = ["epochs=1", "num_clips=16", "batch_size=8", "dims=[8,8,8]"]
    assert main(["detect", "--out", str(tmp_path / "detect"), *small]) == 0
    assert "frame-mAP" in capsys.readouterr().out
    assert main(["detect", "--data", str(tmp_path), "--out", str(tmp_path / "no")]) == 2
    assert "actions.csv" in capsys.readouterr().err
    assert main(["detect", "--out", str(tmp_path / "detect/metrics.csv"), *small]) == 2
    assert "metrics.csv is a file; name a folder" in capsys.readouterr().err
    assert main(["micro", "--out", str(tmp_path / "micro"), *small]) == 2
    assert "num_clips=16 is less than one for each of 24 subjects" in capsys.readouterr().err
    small[1] = "num_clips=24"
    assert main(["micro", "--out", str(tmp_path / "detect/metrics.csv"), *small]) == 2
    assert "metrics.csv" in capsys.readouterr().err
    assert posmlp_main(["predict", str(tmp_path / "detect"), "film.mp4"]) == 2
    assert "config.json names no seeds, so it is not of `posmlp train`" in capsys.readouterr().err


def test_command_trains_on_avas_files(ava, tmp_path, capsys):
    for name in ("", "_boxes"):
        (ava / f"test{name}.csv").write_text((ava / f"train{name}.csv").read_text())
    small = ["epochs=2", "batch_size=2", "dims=[8,8,8]", "sampling_rate=2"]
    assert main(["detect", "--data", str(ava), "--out", str(tmp_path / "run"), *small]) == 0
    shown = capsys.readouterr().out
    assert "on 2 key frames" in shown
    assert re.search(r"stand \d.\d+  watch \d.\d+", shown)
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["classes"] == ["stand", "watch"]


def test_missing_torchvision_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name == "posmlp.tasks.detection"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    assert main(["detect", "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "needs torchvision" in message
    assert message.count("\n") == 1


NUM_CLASSES = 3


def scene(seed: int, num_frames: int = 12) -> tuple[Labelled, Labelled]:
    """True boxes that lie apart, and detections: moved copies, wrong actions, and boxes nowhere."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for frame in range(num_frames):
        for cell in rng.choice(9, size=rng.integers(1, 5), replace=False):
            corner = np.array([cell % 3, cell // 3]) / 3 + 0.02
            box = np.concatenate([corner, corner + rng.uniform(0.15, 0.28, 2)])
            action = rng.integers(NUM_CLASSES)
            truth.append((frame, box, action, 1.0))
            for _ in range(rng.integers(0, 4)):
                moved = box + rng.normal(0, 0.03, 4)
                said = action if rng.random() < 0.7 else rng.integers(NUM_CLASSES)
                found.append((frame, moved, said, rng.random()))
        corner = rng.uniform(0, 0.7, 2)
        nowhere = np.concatenate([corner, corner + 0.2])
        found.append((frame, nowhere, rng.integers(NUM_CLASSES), rng.random()))
    return labelled(found), labelled(truth)


def labelled(rows: list) -> Labelled:
    frames, boxes, actions, scores = zip(*rows, strict=True)
    return Labelled(
        torch.tensor(frames),
        torch.tensor(np.array(boxes)),
        torch.tensor([int(a) for a in actions]),
        torch.tensor(scores),
    )


def coco_map(found: Labelled, truth: Labelled) -> float:
    """pycocotools' mean average precision at 0.5, on a fine grid of recalls."""

    def records(boxes: Labelled) -> list[dict]:
        wide = (boxes.box * 1000).numpy()
        return [
            {
                "id": i + 1,
                "image_id": int(boxes.frame[i]),
                "category_id": int(boxes.action[i]),
                "bbox": [*wide[i, :2], *(wide[i, 2:] - wide[i, :2])],
                "area": float((wide[i, 2:] - wide[i, :2]).prod()),
                "iscrowd": 0,
                "score": float(boxes.score[i]),
            }
            for i in range(len(boxes.frame))
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(100)],
            "categories": [{"id": k} for k in range(NUM_CLASSES)],
            "annotations": records(truth),
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(records(found)), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.recThrs = np.linspace(0, 1, 5001)
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]  # recall, category
    return float(precision[:, (precision > -1).all(0)].mean())


@pytest.mark.parametrize("seed", range(3))
def test_frame_map_agrees_with_pycocotools(seed):
    found, truth = scene(seed)
    assert frame_map(found, truth, NUM_CLASSES)["map"] == pytest.approx(
        coco_map(found, truth), abs=2e-3
    )


def one_box(frame: int, box: list[float], action: int, score: float = 1.0) -> tuple:
    return frame, np.array(box), action, score


def test_second_detection_of_one_box_is_false():
    truth = labelled([one_box(0, [0, 0, 1, 1], 0), one_box(1, [0, 0, 1, 1], 0)])
    twice = labelled([one_box(0, [0, 0, 1, 1], 0, 0.9), one_box(0, [0, 0, 1, 1], 0, 0.8)])
    assert frame_map(twice, truth, 1)["map"] == 0.5
    whole = [0, 0, 1, 1]
    late = [one_box(0, whole, 0, 0.9), one_box(0, whole, 0, 0.8), one_box(1, whole, 0, 0.7)]
    assert frame_map(labelled(late), truth, 1)["map"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_box_of_another_frame_or_action_finds_nothing():
    truth = labelled([one_box(0, [0, 0, 1, 1], 0)])
    for other in (one_box(1, [0, 0, 1, 1], 0), one_box(0, [0, 0, 1, 1], 1)):
        assert frame_map(labelled([other]), truth, 2) == {"map": 0.0, "ap0": 0.0}
    assert frame_map(labelled([one_box(0, [0, 0, 1, 1], 0)]), truth, 2)["map"] == 1.0


def test_nothing_to_find_is_refused():
    empty = Labelled(*(torch.zeros(0, *shape) for shape in ((), (4,), (), ())))
    with pytest.raises(ValueError, match="no true boxes"):
        frame_map(empty, empty, 2)


@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any))
@settings(max_examples=60)
def test_average_precision_is_at_least_the_uninterpolated_one(hits):
    """sklearn's does not raise precision to its envelope."""
    is_true = torch.tensor(hits)
    ours = average_precision(is_true, sum(hits))
    theirs = average_precision_score(hits, -np.arange(len(hits)))
    assert theirs - 1e-9 <= ours <= 1 + 1e-9
    if hits == sorted(hits, reverse=True):
        assert ours == pytest.approx(1)


def test_overlaps_of_known_boxes():
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 6, 6]])
    others = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2]])
    assert torch.allclose(overlaps(boxes, others), torch.tensor([[1 / 7, 1.0], [0, 0]]))
