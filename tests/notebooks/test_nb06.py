"""Lesson 06's checks and helpers: what they say of answers that students give."""

from __future__ import annotations

import math

import ipywidgets
import pytest

from lessons import wiring
from lessons.checks import nb06


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda layout: layout.split(">"), "for 'S' at [0] it gives 'S'"),
        (lambda layout: [part.split(">") for part in layout.split("+")], "for 'T+S' it has 2"),
        (lambda layout: [list(step) for step in layout.split(">")], "for 'T+S' at [0] it has 3"),
    ],
)
def test_parse_says_where_an_answer_is_wrong(answer, where):
    assert where in nb06.parse(answer).where


def _tables(window, groups):
    return groups * math.prod(2 * side - 1 for side in window)


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (_tables, "2x2x2 G = 1 it gives 27, expected 35"),
        (lambda w, g: _tables(w, g) + g * math.prod(w), "G = 4 it gives 140, expected 116"),
        (lambda w, g: g * sum(2 * side - 1 for side in w) + math.prod(w), "gives 17, expected 35"),
    ],
)
def test_st_params_says_where_an_answer_is_wrong(answer, where):
    assert where in nb06.st_params(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda layout, t, n: t * n, "S T=8, n=4 it gives 32, expected 4"),
        (lambda layout, t, n: n * ("S" in layout) + t * ("T" in layout), "T+S T=8, n=4 it gives"),
        (lambda layout, t, n: {"S": n, "T": t}.get(layout, t + n - 1), "T>S T=8, n=4 it gives 11"),
    ],
)
def test_num_seen_says_where_an_answer_is_wrong(answer, where):
    assert where in nb06.num_seen(answer).where


def test_seen_is_a_cross_for_parallel_branches_and_all_for_sequential_ones():
    cross = wiring.seen("T+S", frame=2, place=5)
    assert cross[2].all()
    assert cross[:, 1, 1].all()
    assert cross.sum() == 16 + 3
    assert wiring.seen("T>S").all()
    assert wiring.seen("S>S")[1].all()
    assert wiring.seen("S>S").sum() == 16


def test_show_gives_the_reason_for_what_is_no_layout(capsys):
    wiring.show("T*S")
    assert "branches are T" in capsys.readouterr().out


def test_builder_follows_what_is_typed(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(wiring, "show", lambda layout: drawn.append(layout))
    line = wiring.builder("T").children[0]
    assert isinstance(line, ipywidgets.Text)
    line.value = "T>S"
    assert drawn == ["T", "T>S"]
