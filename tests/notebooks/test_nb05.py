"""Lesson 05's checks say where answers that students are likely to give are wrong."""

from __future__ import annotations

import pytest
import torch

from lessons.checks import nb05
from lessons.solutions import nb05 as solutions


def contiguous(group, dim, num_groups):
    size = dim // num_groups
    return list(range(group * size, (group + 1) * size))


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (contiguous, "group 0 of 2, 8 channels at [1] it gives 1, expected 2"),
        (lambda group, dim, groups: group % groups, "the shape is (), it must be (4,)"),
    ],
)
def test_channels_of_says_where_an_answer_is_wrong(answer, where):
    assert where in nb05.channels_of(answer).where


def planted_fault(u, relation):
    x = u.reshape(len(u), len(relation), -1)
    return torch.einsum("gmn,ngv->mgv", relation, x).reshape(u.shape)


def folded_back_wrong(u, relation):
    x = u.reshape(len(u), -1, len(relation))
    return torch.einsum("gmn,nvg->mgv", relation, x).reshape(u.shape)


def relation_transposed(u, relation):
    return solutions.mix_groups(u, relation.mT)


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (planted_fault, "for 2 groups, 6 channels at [0, 1]"),
        (folded_back_wrong, "for 2 groups, 6 channels at [0, 1]"),
        (relation_transposed, "for 1 group, 4 channels at [0, "),
    ],
)
def test_mix_groups_says_where_an_answer_is_wrong(answer, where):
    assert where in nb05.mix_groups(answer).where


def without_shares(tables):
    return torch.special.entr(torch.linalg.svdvals(tables)).sum().exp()


def zero_times_log_of_zero(tables):
    share = torch.linalg.svdvals(tables)
    share = share / share.sum()
    return (-(share * share.log()).sum()).exp()


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda tables: torch.linalg.matrix_rank(tables), "one large, three small it gives 4"),
        (without_shares, "four multiples of one table it gives "),
        (zero_times_log_of_zero, "it gives nan, expected "),
    ],
)
def test_effective_rank_says_where_an_answer_is_wrong(answer, where):
    assert where in nb05.effective_rank(answer).where
