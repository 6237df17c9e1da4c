"""Lesson 03's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import pytest
import torch

from lessons.checks import nb03
from lessons.solutions import nb03 as solutions


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda w: solutions.index_1d(w).T, "at [0, 1] it gives 4, expected 2"),
        (lambda w: solutions.index_1d(w) - w + 1, "at [0, 0] it gives 0, expected 3"),
        (lambda w: torch.arange(w), "the shape is (4,), it must be (4, 4)"),
    ],
)
def test_index_1d_says_where_an_answer_is_wrong(answer, where):
    assert where in nb03.index_1d(answer).where


def row_length_from_height(height, width):
    token = torch.arange(height * width)
    dy = token[:, None] // width - token[None, :] // width + height - 1
    dx = token[:, None] % width - token[None, :] % width + width - 1
    return dy * (2 * height - 1) + dx


def one_long_axis(height, width):
    return solutions.index_1d(height * width)


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (row_length_from_height, "2 x 3 tokens at [0, 0] it gives 5, expected 7"),
        (one_long_axis, "2 x 2 tokens at [0, 0] it gives 3, expected 4"),
        (lambda h, w: solutions.index_2d(h, w).T, "at [0, 1] it gives 5, expected 3"),
    ],
)
def test_index_2d_says_where_an_answer_is_wrong(answer, where):
    assert where in nb03.index_2d(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda entry, h, w: divmod(entry, 2 * w - 1), "at [0] it gives 3, expected 0"),
        (lambda entry, h, w: divmod(entry, w), "entry 24 of a 4 x 4 window at [0] it gives 6"),
        (
            lambda entry, h, w: solutions.offset_of(entry, h, w)[::-1],
            "entry 9 of a 2 x 3 window at [0] it gives 2, expected 0",
        ),
    ],
)
def test_offset_of_says_where_an_answer_is_wrong(answer, where):
    assert where in nb03.offset_of(answer).where
