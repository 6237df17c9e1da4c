"""Lesson 11's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lessons.checks import nb11
from posmlp.data.digits.catalogue import CLASSES


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda n, t: np.linspace(0, n - 1, t).astype(int).tolist(), "at [0] it gives 0"),
        (lambda n, t: list(range(t)), "N = 24, T = 8 at [0] it gives 0, expected 1"),
        (lambda n, t: [int((i + 0.5) * n / t) for i in range(t)], "N = 24, T = 8 at [5] it gives"),
    ],
)
def test_frames_seen_says_where_an_answer_is_wrong(answer, where):
    assert where in nb11.frames_seen(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda name: name, "right it gives 'right', expected 'left'"),
        (lambda name: CLASSES[CLASSES.index(name) ^ 1], "down it gives 'up', expected 'down'"),
        (
            lambda name: {"right": "left", "left": "right"}.get(name, name),
            "clockwise it gives 'clockwise', expected 'counterclockwise'",
        ),
    ],
)
def test_mirrored_says_where_an_answer_is_wrong(answer, where):
    assert where in nb11.mirrored(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda logits: logits.softmax(-1).mean(0), "two views at [0] it gives"),
        (lambda logits: logits.mean(0), "two views at [0] it gives 2"),
        (lambda logits: logits.mean(1).softmax(0), "the shape is (2,), it must be (3,)"),
        (lambda logits: torch.softmax(logits.sum(0), 0), "two views at [0]"),
    ],
)
def test_over_views_says_where_an_answer_is_wrong(answer, where):
    assert where in nb11.over_views(answer).where
