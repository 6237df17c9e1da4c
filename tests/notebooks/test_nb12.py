"""Lesson 12's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import pytest
import torch

from analysis import activations, patch
from lessons.checks import nb12
from lessons.solutions import nb12 as solutions
from posmlp import create_model


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda x: x.flip(0), "at [0, 0, 0, 0, 0] it gives 0, expected 8"),
        (lambda x: x.flip(-1), "at [0, 0, 0, 0, 0] it gives 1, expected 8"),
        (lambda x: x, "it gives 0, expected 8"),
    ],
)
def test_turn_back_says_where_an_answer_is_wrong(answer, where):
    assert where in nb12.turn_back(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda b, a, o: float((a - b) @ (o - b)), "half of the way it gives 2.5, expected 0.5"),
        (lambda b, a, o: float((a - b).norm() / (o - b).norm()), "backwards it gives 1, expected"),
        (lambda b, a, o: float((o - a) @ (o - b) / ((o - b) @ (o - b))), "nothing it gives 1"),
    ],
)
def test_share_says_where_an_answer_is_wrong(answer, where):
    assert where in nb12.share(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda b, s: s * b, "for blind, s = 0 at [0] it gives 0, expected -0.5"),
        (lambda b, s: (b + s * b.flip(0)) / 2, "for blind, s = 0 at [0] it gives 0, expected"),
        (lambda b, s: (b + b.flip(0)) / 2, "for as learned, s = 1 at [0] it gives -0.5"),
    ],
)
def test_turned_says_where_an_answer_is_wrong(answer, where):
    assert where in nb12.turned(answer).where


def test_solutions_agree_with_the_package():
    model = create_model("toy", token_bias=True).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    clip, name = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64), "stage2.block1.step1.T.out"
    given = [solutions.turn_back(activations(model, x, name)[name]) for x in (clip.flip(2), clip)]
    shares = []
    for own, other, put in ((clip, clip.flip(2), given[0]), (clip.flip(2), clip, given[1])):
        after = activations(model, own, "logits", {name: lambda _, x=put: x})["logits"][0]
        ends = [activations(model, x, "logits")["logits"][0] for x in (own, other)]
        shares.append(solutions.share(ends[0], after, ends[1]))
    assert patch(model, clip, where=name)["share"].item() == pytest.approx(sum(shares) / 2)
