"""Lesson 10's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from lessons.checks import nb10
from lessons.solutions import nb10 as solutions


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"seeds": 1}, "it has 1 seed"),
        ({"axes": {"token_bias": [True, False], "gate": ["lrpe", "conv"]}}, "is 2 cells"),
        ({"axes": {"tokenbias": [True, False]}}, "Did you mean 'token_bias'?"),
        ({"baseline": {"token_bias": "maybe"}}, "token_bias"),
        ({"axes": {"gate": ["lrpe", "conv", "mean"]}, "baseline": {"gate": "lrpe"}}, "3 cells"),
        ({"prediction": ""}, "question and prediction"),
        ({"base": {"preset": "toy"}}, "base must be the one"),
    ],
)
def test_my_grid_says_what_is_wrong_with_a_grid(change, where):
    assert where in nb10.my_grid(lambda base: {**solutions.my_grid(base), **change}).where


def test_my_grid_needs_a_baseline():
    def answer(base):
        grid = solutions.my_grid(base)
        del grid["baseline"]
        return grid

    assert "baseline" in nb10.my_grid(answer).where


def _z_interval(differences, ddof):
    mean, n = np.mean(differences), len(differences)
    reach = 1.96 * np.std(differences, ddof=ddof) / np.sqrt(n)
    return mean - reach, mean + reach


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda d: _z_interval(d, 1), "2 seeds at [0] it gives 0.0056, expected -0.1556"),
        (lambda d: _z_interval(d, 0), "2 seeds at [0] it gives"),
        (lambda d: (min(d), max(d)), "2 seeds at [0] it gives 0.02"),
    ],
)
def test_interval_says_where_an_answer_is_wrong(answer, where):
    assert where in nb10.interval(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda low, high, margin: "better" if low + high > 0 else "worse", "wide, around zero"),
        (
            lambda low, high, margin: "better" if low > 0 else "worse" if high < 0 else "equal",
            "wide, around zero it gives 'equal', expected 'cannot tell'",
        ),
        (
            lambda low, high, margin: (
                "better"
                if low > 0
                else "worse"
                if high < 0
                else "equal"
                if high < margin
                else "cannot tell"
            ),
            "too low on one side it gives 'equal'",
        ),
    ],
)
def test_conclusion_says_where_an_answer_is_wrong(answer, where):
    assert where in nb10.conclusion(answer).where
