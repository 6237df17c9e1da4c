"""Boxes: what a key frame holds, how well boxes overlap, and frame-mAP.

A box is (left, top, right, bottom) in shares of the frame's width and height.
Shapes: m true boxes and p proposals of a key frame, n boxes of all frames, K actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeyFrames:
    """Key frames with their true boxes, the boxes to judge, and the clips around them.

    boxes: of each key frame (m, 4); actions: (m, K) bool, which of the actions a box's actor does.
    proposals: of each key frame (p, 4), where an actor might be.
    load: the clip around a key frame by its number, uint8 (T, S, S, 3).
    """

    name: str
    classes: tuple[str, ...]
    boxes: list[Tensor]
    actions: list[Tensor]
    proposals: list[Tensor]
    load: Callable[[int], Tensor]

    def __len__(self) -> int:
        return len(self.boxes)


class Labelled(NamedTuple):
    """Boxes with one action each: frame (n,) int64, box (n, 4), action (n,) int64, score (n,)."""

    frame: Tensor
    box: Tensor
    action: Tensor
    score: Tensor


def truth_of(key_frames: KeyFrames) -> Labelled:
    """The true boxes, one for each action that its actor does, with scores of 1."""
    parts = []
    for i, (boxes, actions) in enumerate(zip(key_frames.boxes, key_frames.actions, strict=True)):
        which, action = actions.nonzero(as_tuple=True)
        frame = torch.full_like(action, i)
        parts.append((frame, boxes[which], action, torch.ones(len(action))))
    return Labelled(*(torch.cat(each) for each in zip(*parts, strict=True)))


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) with others (m, 4): (n, m)."""
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    opposite = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (opposite - corner).clamp(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(-1) for b in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp(min=1e-12)


def average_precision(is_true: Tensor, num_positive: int) -> float:
    """Area under the precision-recall curve of detections in the order of their scores.

    `is_true` (n,) bool. Precision is made non-increasing in recall first, and every point counts.
    Source: PASCAL VOC from 2010 on, which AVA's evaluation uses.
    """
    hits = is_true.double().cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return (envelope * is_true).sum().item() / num_positive


def frame_map(
    found: Labelled, truth: Labelled, num_classes: int, min_overlap: float = 0.5
) -> dict[str, float]:
    """Frame-mAP, and each action's average precision as `ap0`, `ap1`, ...

    A detection is true if the true box of its frame and action that it overlaps most does so by
    `min_overlap` or more, and has not been found by one of a higher score. Actions without a true
    box have no average precision and no part in the mean. Raises ValueError if none has one.
    """
    result: dict[str, float] = {}
    for action in range(num_classes):
        positives = truth.action == action
        if positives.any():
            chosen = found.action == action
            order = found.score[chosen].argsort(descending=True, stable=True)
            frames, boxes = found.frame[chosen][order], found.box[chosen][order]
            is_true = _match(
                frames, boxes, truth.frame[positives], truth.box[positives], min_overlap
            )
            result[f"ap{action}"] = average_precision(is_true, int(positives.sum()))
    if not result:
        raise ValueError("there are no true boxes, and so nothing to find")
    return {"map": sum(result.values()) / len(result), **result}


def _match(
    frames: Tensor, boxes: Tensor, true_frames: Tensor, true_boxes: Tensor, min_overlap: float
) -> Tensor:
    """Which detections, (n,) in the order of their scores, find a true box first."""
    is_true = torch.zeros(len(frames), dtype=torch.bool)
    if not len(frames):
        return is_true
    free = torch.ones(len(true_frames), dtype=torch.bool)
    overlap = overlaps(boxes, true_boxes) * (frames[:, None] == true_frames[None])
    best, which = overlap.max(1)
    for i in (best >= min_overlap).nonzero().flatten().tolist():
        is_true[i] = free[which[i]]
        free[which[i]] = False
    return is_true
