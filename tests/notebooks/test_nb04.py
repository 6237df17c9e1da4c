"""Lesson 04's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import pytest

from lessons.checks import nb04
from lessons.solutions import nb04 as solutions


def halves_swapped(h, relation, token_bias):
    v, u = h.chunk(2, dim=-1)
    return (relation @ u + token_bias[:, None]) * v


def bias_after_the_product(h, relation, token_bias):
    u, v = h.chunk(2, dim=-1)
    return (relation @ u) * v + token_bias[:, None]


def relation_transposed(h, relation, token_bias):
    return solutions.gate_forward(h, relation.T, token_bias)


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (halves_swapped, "for no token bias at [0, 0]"),
        (bias_after_the_product, "for a token bias at [1, 0]"),
        (relation_transposed, "for no token bias at [0, "),
        (lambda h, relation, token_bias: relation @ h, "the shape is (3, 4), it must be (3, 2)"),
    ],
)
def test_gate_forward_says_where_an_answer_is_wrong(answer, where):
    assert where in nb04.gate_forward(answer).where


def always_two_halves(dim, form, num_frames, num_groups):
    return solutions.branch_params(dim, "add", num_frames, num_groups)


def no_token_bias(dim, form, num_frames, num_groups):
    return solutions.branch_params(dim, form, num_frames, num_groups) - num_frames


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (always_two_halves, "mix C = 16, G = 2 it gives 886, expected 614"),
        (no_token_bias, "multiply C = 16, G = 2 it gives 878, expected 886"),
    ],
)
def test_branch_params_says_where_an_answer_is_wrong(answer, where):
    assert where in nb04.branch_params(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda init, form: set(nb04.KINDS), "['fc1', 'fc2.weight', 'norm'] get exactly no"),
        (lambda init, form: {"fc2.bias"}, "['table', 'token_bias'] do get a gradient"),
        (lambda init, form: {"head"}, "['head'] are none of norm"),
        (
            lambda init, form: (
                set(nb04.KINDS) if init == "normal" else {"table", "token_bias", "fc2.bias"}
            ),
            "form 'add' ['fc1', 'fc2.weight', 'norm'] do get a gradient",
        ),
    ],
)
def test_first_gradients_says_where_an_answer_is_wrong(answer, where):
    assert where in nb04.first_gradients(answer).where
