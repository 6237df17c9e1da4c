"""Lesson 07's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import bias_statistics
from analysis.bias.maps import unit_tables
from lessons.checks import nb07
from lessons.solutions import nb07 as solutions
from posmlp import create_model


def _reach(table, share):
    dt = np.arange(len(table)) - len(table) // 2
    return float(np.sqrt((share * dt**2).sum()))


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda b: _reach(b, b / b.sum()), "now less then it gives"),
        (lambda b: _reach(b, abs(b) / abs(b).sum()), "now less then it gives 1.254"),
        (lambda b: _reach(b, b**2 / (b**2).sum()) ** 2, "dt = 2 it gives 4, expected 2"),
        (lambda b: float((b**2 * np.arange(len(b))).sum() / (b**2).sum()), "it gives 3, expected"),
    ],
)
def test_effective_reach_says_where_an_answer_is_wrong(answer, where):
    assert where in nb07.effective_reach(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda b: (b + b[::-1]) / 2, "at [1] it gives -0.5, expected 0.5"),
        (lambda b: b - b[::-1], "at [1] it gives 1, expected 0.5"),
        (lambda b: (b[::-1] - b) / 2, "at [1] it gives -0.5, expected 0.5"),
    ],
)
def test_odd_part_says_where_an_answer_is_wrong(answer, where):
    assert where in nb07.odd_part(answer).where


def _without_ties(a, b):
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda a, b: float(np.corrcoef(a, b)[0, 1]), "same order it gives"),
        (lambda a, b: float(np.corrcoef(np.argsort(a), np.argsort(b))[0, 1]), "two swapped"),
        (_without_ties, "two equal it gives"),
    ],
)
def test_rank_agreement_says_where_an_answer_is_wrong(answer, where):
    assert where in nb07.rank_agreement(answer).where


def test_solutions_agree_with_the_package():
    model = create_model("toy", layout="T")
    found = bias_statistics(model)
    tables = [group.ravel() for _, table, _ in unit_tables(model) for group in table]
    reaches = [solutions.effective_reach(table) for table in tables]
    np.testing.assert_allclose(reaches, found.locality_temporal)
    shares = [(solutions.odd_part(b) ** 2).sum() / (b**2).sum() for b in tables]
    np.testing.assert_allclose(shares, found.temporal_asymmetry)
