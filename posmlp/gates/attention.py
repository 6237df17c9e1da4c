"""Content-based mixing: the dense operator that the paper argues against."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from posmlp.gating import GatingUnit
from posmlp.parts.initialise import init_linear
from posmlp.positions import LRPE


class AttentionGate(GatingUnit):
    """Multi-head attention, a head a group, with relative position bias.

    Queries and keys are linear in u; the values are u.
    """

    def __init__(
        self, dim: int, window: tuple[int, ...], num_groups: int = 1, **options: Any
    ) -> None:
        super().__init__(dim, window, num_groups, **options)
        self.positions = LRPE(window, num_groups)
        self.query_key = init_linear(nn.Linear(dim, 2 * dim))

    def query_key_value(self, u: Tensor) -> tuple[Tensor, ...]:
        """Each (B, N, C)."""
        return *self.query_key(u).chunk(2, dim=-1), u

    def mix(self, u: Tensor) -> Tensor:
        query, key, value = (self.in_groups(x).movedim(-1, -3) for x in self.query_key_value(u))
        scores = query @ key.mT / math.sqrt(query.shape[-1]) + self.relation()  # (B, G, N, N)
        mixed = scores.softmax(-1).to(value.dtype) @ value
        return mixed.movedim(-3, -1).flatten(-2)

    def relation(self) -> Tensor:
        """The relative position part, which is added to the content scores before the softmax."""
        return self.positions()

    def bias_table(self) -> Tensor:
        return self.positions.bias_table()


class QKVAttentionGate(AttentionGate):
    """Attention as vision transformers have it: of normalised u, its values projected too."""

    def __init__(
        self, dim: int, window: tuple[int, ...], num_groups: int = 1, **options: Any
    ) -> None:
        super().__init__(dim, window, num_groups, **options)
        self.norm = nn.LayerNorm(dim)
        self.value = init_linear(nn.Linear(dim, dim))

    def query_key_value(self, u: Tensor) -> tuple[Tensor, ...]:
        normed = self.norm(u)
        return *self.query_key(normed).chunk(2, dim=-1), self.value(normed)
