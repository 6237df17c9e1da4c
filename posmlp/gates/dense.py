"""Relations with a free number for each pair of positions, as in gMLP, alone or beside a table.

Shapes: G channel groups, N tokens of a window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from posmlp.positions import LRPE


class Dense(nn.Module):
    """A free number for each pair of positions: (G, N, N)."""

    def __init__(self, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()
        num_tokens = math.prod(window)
        self.weight = nn.Parameter(torch.zeros(num_groups, num_tokens, num_tokens))

    def forward(self) -> Tensor:
        return self.weight

    def bias_table(self) -> None:
        """None: entries are not tied by offset."""
        return None


class LRPEPlusDense(LRPE):
    """LRPE plus one dense matrix that all groups share.

    Source: Zhicaiwww/PosMLP with `pos_only=False` (`token_proj_n_weight`).
    """

    def __init__(self, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__(window, num_groups)
        self.weight = nn.Parameter(torch.zeros(1, self.num_tokens, self.num_tokens))

    def finish(self, rows: Tensor, first: int = 0) -> Tensor:
        return rows + self.weight[:, first : first + rows.shape[1]]
