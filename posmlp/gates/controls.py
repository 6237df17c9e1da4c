"""Gates without anything to learn about positions but the token bias: the controls."""

from __future__ import annotations

import torch
from torch import Tensor

from posmlp.gating import GatingUnit


class MeanGate(GatingUnit):
    """Uniform mixing: every output is the window's mean."""

    def mix(self, u: Tensor) -> Tensor:
        return u.mean(dim=-2, keepdim=True).expand_as(u)

    def relation(self) -> Tensor:
        shape = (self.num_groups, self.num_tokens, self.num_tokens)
        return _like(self.token_bias).new_full(shape, 1.0 / self.num_tokens)


class NoMixing(GatingUnit):
    """No mixing over positions."""

    def mix(self, u: Tensor) -> Tensor:
        return u

    def relation(self) -> Tensor:
        unit = torch.eye(self.num_tokens).to(_like(self.token_bias))
        return unit.expand(self.num_groups, -1, -1)


def _like(token_bias: Tensor | None) -> Tensor:
    """A tensor of the relation's type and device; torch's defaults without a token bias."""
    return torch.empty(0) if token_bias is None else token_bias
