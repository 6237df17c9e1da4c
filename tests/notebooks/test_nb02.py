"""Lesson 02's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import math

import pytest

from lessons.checks import nb02


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda window: math.prod(window), "8 frames it gives 8, expected 64"),
        (lambda window: window[0] ** 2, "4x4 it gives 16, expected 256"),
        (lambda window: None, "8 frames it returned None"),
    ],
)
def test_dense_params_says_where_an_answer_is_wrong(answer, where):
    assert where in nb02.dense_params(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda window, groups: groups * (2 * math.prod(window) - 1), "4x4 G = 1 it gives 31"),
        (lambda window, groups: math.prod(2 * w - 1 for w in window), "G = 4 it gives 15"),
        (lambda window, groups: groups * math.prod(2 * w for w in window), "gives 16, expected 15"),
    ],
)
def test_tied_params_says_where_an_answer_is_wrong(answer, where):
    assert where in nb02.tied_params(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda window: math.prod(window) ** 2 // math.prod(window), "8 frames it gives 8"),
        (lambda window: math.prod(window) // 2 ** len(window) + 1, "8 frames it gives 5"),
        (lambda window: 1 / 0, "it raised ZeroDivisionError"),
    ],
)
def test_most_groups_says_where_an_answer_is_wrong(answer, where):
    assert where in nb02.most_groups(answer).where
