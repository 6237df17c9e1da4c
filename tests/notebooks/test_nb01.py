"""Lesson 01's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import pytest
import torch

from lessons.checks import nb01
from lessons.solutions import nb01 as solutions
from posmlp import create_model


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda clips: clips.flip(1), "at [0, 0, 0, 0, 0] it gives 0, expected 4"),
        (lambda clips: clips.flip(3), "it gives 30, expected 4"),
        (lambda clips: clips, "it gives 0, expected 4"),
        (lambda clips: clips[0].flip(1), "the shape is (3, 5, 4, 2), it must be (2, 3, 5, 4, 2)"),
    ],
)
def test_play_backwards_says_where_an_answer_is_wrong(answer, where):
    assert where in nb01.play_backwards(answer).where


def halving_from_stage_one(num_frames, side, dims):
    return [(num_frames, side // 2 ** (i + 2), side // 2 ** (i + 2), c) for i, c in enumerate(dims)]


def halving_time_too(num_frames, side, dims):
    shapes = solutions.feature_shapes(num_frames, side, dims)
    return [(t // 2 ** max(i - 1, 0), *rest) for i, (t, *rest) in enumerate(shapes)]


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (halving_from_stage_one, "preset toy the shape is (4, 4), it must be (5, 4)"),
        (halving_time_too, "preset toy at [2, 0] it gives 4, expected 8"),
    ],
)
def test_feature_shapes_says_where_an_answer_is_wrong(answer, where):
    assert where in nb01.feature_shapes(answer).where


def ties_as_wrong(logits, labels, reverse_of):
    clip = torch.arange(len(labels))
    return (logits[clip, labels] > logits[clip, reverse_of[labels]]).float().mean()


def top1(logits, labels, reverse_of):
    return (logits.argmax(-1) == labels).float().mean()


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (ties_as_wrong, "blind model it gives 0, expected 0.5"),
        (top1, "blind model it gives 0.25"),
        (lambda logits, labels, reverse_of: logits, "the shape is (4, 4), it must be ()"),
    ],
)
def test_within_pair_says_where_an_answer_is_wrong(answer, where):
    assert where in nb01.within_pair(answer).where


def test_a_token_of_the_stem_sees_7_by_7_pixels_as_the_lesson_says():
    torch.manual_seed(0)
    frame = torch.randn(1, 3, 32, 32, requires_grad=True)
    create_model("toy").eval().stem(frame)[0, :, 4, 4].sum().backward()
    rows, columns = torch.nonzero(frame.grad[0].abs().sum(0) > 0).unbind(-1)
    assert rows.unique().numel() == columns.unique().numel() == 7
