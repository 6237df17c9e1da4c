"""Answers to lesson 01: a clip goes through, and the score within reversed pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def play_backwards(clips: Tensor) -> Tensor:
    """(B, 3, T, H, W): time is axis 2."""
    return clips.flip(2)


def feature_shapes(num_frames: int, side: int, dims: tuple[int, ...]) -> list[tuple[int, ...]]:
    """After the stem, then after each stage."""
    shapes = [
        (num_frames, side // (4 * 2**i), side // (4 * 2**i), dim) for i, dim in enumerate(dims)
    ]
    return [shapes[0], *shapes]


def within_pair(logits: Tensor, labels: Tensor, reverse_of: Tensor) -> Tensor:
    """The share of clips whose own class outscores its reversal; a tie counts one half."""
    clip = torch.arange(len(labels))
    own, other = logits[clip, labels], logits[clip, reverse_of[labels]]
    return (own > other).float().mean() + 0.5 * (own == other).float().mean()
