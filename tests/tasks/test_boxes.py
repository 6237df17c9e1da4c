"""Frame-mAP against pycocotools, and its corner cases by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score

from posmlp.tasks.boxes import Labelled, average_precision, frame_map, overlaps

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
