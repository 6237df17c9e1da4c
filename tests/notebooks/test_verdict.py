"""What a self-check says of any answer, and what it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from lessons.checks.verdict import Case, first_difference, judge

SQUARES = [Case(f"x = {x}", (x,), x * x) for x in (2, 3)]


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (3, 3, ""),
        (torch.tensor(3.0, requires_grad=True), 3, ""),
        ([[1, 2], [3, 4]], torch.tensor([[1, 2], [3, 4]]), ""),
        (np.float32(0.1), 0.1, ""),
        ([[1, 2], [3, 5]], [[1, 2], [3, 4]], "at [1, 1] it gives 5, expected 4"),
        ([1, 2, 3], [1, 2], "the shape is (3,), it must be (2,)"),
        ("two", 2, "it returned 'two', which is not a number"),
        ([[1], [2, 3]], [[1], [2]], "it returned [[1], [2, 3]], which is not 2-dim"),
        ((("T",), ("S",)), (("T",), ("S",)), ""),
        ((("T", "S"),), (("T",), ("S",)), "it has 1 parts, expected 2"),
        ((("T",), ("ST",)), (("T",), ("S",)), "at [1][0] it gives 'ST', expected 'S'"),
        ("T", (("T",),), "it gives 'T', expected (('T',),)"),
    ],
)
def test_first_difference_names_the_place(answer, expected, words):
    found = first_difference(answer, expected)
    assert found.startswith(words) if words else found == ""


def test_answer_cannot_change_what_it_is_judged_by():
    def careless(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)

    x = torch.ones(3)
    case = Case("ones", (x,), torch.full((3,), 2.0))
    assert judge(careless, [case, case]).ok
    assert x.eq(1).all()


def test_picture_shows_one_worked_case_then_all_with_yours_under_them():
    def unanswered(x: int) -> int:
        raise NotImplementedError

    judge(unanswered, SQUARES)
    (target,) = plt.gcf().axes
    assert target.get_title(loc="left") == "target"
    assert [text.get_text() for text in target.texts] == ["4"]
    judge(lambda x: 4, SQUARES)
    above, below = plt.gcf().axes
    assert [text.get_text() for text in above.texts] == ["4", "9"]
    assert [text.get_text() for text in below.texts] == ["4", "4"]
    (frame,) = (patch for patch in below.patches if isinstance(patch, Rectangle))
    assert frame.get_xy() == (0.5, -0.5)  # around the second case


def test_case_after_a_wrong_one_is_drawn_as_unknown():
    judge(lambda x: 0, SQUARES)
    assert [text.get_text() for text in plt.gcf().axes[1].texts] == ["0", "?"]
