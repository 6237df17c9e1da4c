"""Answers to lesson 05: channel groups."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_of(group: int, dim: int, num_groups: int) -> list[int]:
    """Groups are interleaved: channel c uses table c % num_groups."""
    return list(range(group, dim, num_groups))


def mix_groups(u: Tensor, relation: Tensor) -> Tensor:
    """(N, C) -> (N, C): the group is the fast axis of C, so it is unfolded last."""
    x = u.reshape(len(u), -1, len(relation))  # (N, V, G)
    return torch.einsum("gmn,nvg->mvg", relation, x).reshape(u.shape)


def effective_rank(tables: Tensor) -> Tensor:
    """exp of the entropy of the singular values' shares; 0 ln 0 = 0."""
    singular = torch.linalg.svdvals(tables)
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp()
