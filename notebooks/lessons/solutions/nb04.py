"""Answers to lesson 04: the gate."""

from __future__ import annotations

from torch import Tensor


def gate_forward(h: Tensor, relation: Tensor, token_bias: Tensor) -> Tensor:
    """(N, 2C) -> (N, C): the first half is mixed and shifted, then the second half gates it."""
    u, v = h.chunk(2, dim=-1)
    mixed = relation @ u + token_bias[:, None]
    return mixed * v


def branch_params(dim: int, form: str, num_frames: int, num_groups: int) -> int:
    """Norm, fc1, tables, token biases, fc2; a unit that only mixes needs no v from fc1."""
    hidden = dim if form == "mix" else 2 * dim
    norm = 2 * dim
    fc1 = dim * hidden + hidden
    tables = num_groups * (2 * num_frames - 1)
    fc2 = dim * dim + dim
    return norm + fc1 + tables + num_frames + fc2


def first_gradients(init: str, form: str) -> set[str]:
    """Follow what fc2 receives, and what multiplies each parameter on the way to the loss."""
    everything = {"norm", "fc1", "table", "token_bias", "fc2.weight", "fc2.bias"}
    if init == "released" and form in ("multiply", "mix"):
        # mix(u) is 0: fc2 gets only zeros, and no gradient reaches u or v through zero tables
        return {"table", "token_bias", "fc2.bias"}
    return everything
