"""Centred gates: what another gate mixes, minus the window's mean.

For gates whose rows sum to 1. They pass on a background that is equal over the window; their
centred forms mix it to 0, so that what is left is where and when the window changes. Parameters and
their names are those of the other gate.
"""

from __future__ import annotations

from torch import Tensor

from posmlp.gates.attention import AttentionGate
from posmlp.gates.controls import MeanGate
from posmlp.gates.gqpe import GQPE
from posmlp.gating import GatingUnit


class Centred(GatingUnit):
    """Makes a unit that is named after it as a base mix to its own output minus u's mean."""

    def mix(self, u: Tensor) -> Tensor:
        return super().mix(u) - u.mean(dim=-2, keepdim=True)


class CentredAttention(Centred, AttentionGate):
    """Attention minus the mean; `relation` is what it adds to its scores, as in attention."""


class CentredMean(Centred, MeanGate):
    """The mean minus the mean, which is 0: a control in which tokens meet nowhere in a block."""

    def relation(self) -> Tensor:
        return super().relation() - 1.0 / self.num_tokens


class CentredGQPE(GQPE):
    """GQPE's rows, which its softmax makes sum to 1, minus 1/N: the same as centring the unit.

    Centring the relation serves both of the units that read it.
    """

    def finish(self, rows: Tensor, first: int = 0) -> Tensor:
        return super().finish(rows, first) - 1.0 / self.num_tokens
