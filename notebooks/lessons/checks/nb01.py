"""Checks of lesson 01: a clip goes through, and the score within reversed pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lessons.checks.verdict import Case, Verdict, judge
from posmlp import PRESETS
from posmlp.train import metrics


def play_backwards(yours: Callable[[Any], Any]) -> Verdict:
    """Your reversal of the time axis, on a clip whose frames have one grey level each."""
    clips = torch.arange(5.0).view(1, 1, 5, 1, 1) + 10 * torch.arange(4.0).view(1, 1, 1, 4, 1)
    clips = clips.expand(2, 3, 5, 4, 2).contiguous()
    clips[1] += 10
    whole = Case("two clips of five frames", (clips,), clips.flip(2))
    verdict = judge(yours, [whole], picture=False)
    grey = Case("mean of each frame", (clips,), clips.flip(2).mean((1, 3, 4)))
    judge(lambda x: yours(x).mean((1, 3, 4)), [grey])
    return verdict


def feature_shapes(yours: Callable[[int, int, tuple[int, ...]], Any]) -> Verdict:
    """Your (T, H, W, C) after the stem and each stage, for three presets."""
    cases = []
    for name in ("toy", "toy-16", "s16"):
        config = PRESETS[name]
        sizes = config.stage_sizes(*config.size)
        shapes = [
            (config.num_frames, *size, dim) for size, dim in zip(sizes, config.dims, strict=True)
        ]
        arguments = (config.num_frames, config.size[0], config.dims)
        cases.append(Case(f"preset {name}", arguments, [shapes[0], *shapes]))
    return judge(yours, cases)


def within_pair(yours: Callable[[Any, Any, Any], Any]) -> Verdict:
    """Your score within reversed pairs: a good model, a blind one, and one that errs."""
    reverse_of = torch.tensor([1, 0, 3, 2])
    labels = torch.tensor([0, 1, 2, 3])
    seeing = torch.eye(4) * 2
    # its best class is another pair's, but within the pair it is right
    elsewhere = torch.tensor([[1.0, 0, 5, 0], [0, 1, 5, 0], [5, 0, 1, 0], [5, 0, 0, 1]])
    mixed = torch.tensor([[1.0, 0, 0, 0], [2, 1, 0, 0], [0, 0, 3, 1], [0, 0, 0, 0]])
    cases = []
    for name, logits in {
        "a model\nthat sees": seeing,
        "a blind\nmodel": torch.zeros(4, 4),
        "best class in\nanother pair": elsewhere,
        "two right, one\nwrong, one tie": mixed,
    }.items():
        expected = metrics(logits, labels, reverse_of)["within_pair"]
        cases.append(Case(name, (logits, labels, reverse_of), expected))
    return judge(yours, cases)
