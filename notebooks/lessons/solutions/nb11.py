"""Answers to lesson 11: your own video."""

from __future__ import annotations

import torch
from torch import Tensor

MIRRORED = {
    "right": "left",
    "left": "right",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}


def frames_seen(num_frames_in_video: int, num_frames: int) -> list[int]:
    """The middle of each of T equal segments, by the released rule."""
    segment = (num_frames_in_video - 1) / num_frames
    return [round(i * segment) + int(segment / 2) for i in range(num_frames)]


def mirrored(name: str) -> str:
    """Left and right change places, and so does the sense of rotation; up stays up."""
    return MIRRORED.get(name, name)


def over_views(logits: Tensor) -> Tensor:
    """(views, classes) -> (classes,): the mean of logits, then softmax."""
    return torch.softmax(logits.mean(dim=0), dim=0)
