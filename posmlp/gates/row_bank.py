"""Large joint windows: the relation is made and used a frame of rows at a time.

Shapes: B windows, N = T n tokens of T frames of n, C channels, G channel groups, V = C / G.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from posmlp.gating import PositionalGatingUnit
from posmlp.positions import Relation, relative_position_index

LARGE_RELATION = 2**24
"""Elements of a (G, N, N) relation above which a joint unit makes it by frames."""


def is_large(window: tuple[int, ...], num_groups: int) -> bool:
    """Whether a unit over that window is better built by frames."""
    return len(window) > 1 and num_groups * math.prod(window) ** 2 > LARGE_RELATION


class RowBankUnit(PositionalGatingUnit):
    """The paper's unit over frames and places, in less memory and with the same numbers.

    It keeps a bank of the 2T-1 matrices (G, n, n), one for each offset along the first axis. The
    rows of frame t are a slice of it: for LRPE G n^2 (2T-1) numbers instead of G n^2 T^2.
    To change what it mixes by, change `frames_of_rows`: `relation` puts those rows together, and
    `positions` is asked for its table, not called.
    """

    positions: Relation

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.positions.index = None  # of all pairs of tokens, which nothing here reads

    def mix(self, u: Tensor) -> Tensor:
        columns = self.in_groups(u).movedim((-1, -3), (0, 1))  # (G, N, B, V)
        flat = columns.flatten(2)  # one copy, that all frames share
        mixed = torch.cat([rows @ flat for rows in self.frames_of_rows()], dim=1)
        return mixed.unflatten(2, columns.shape[2:]).movedim((0, 1), (-1, -3)).flatten(-2)

    def relation(self) -> Tensor:
        return torch.cat(list(self.frames_of_rows()), dim=1)

    def frames_of_rows(self) -> Iterator[Tensor]:
        """The relation's rows, one frame after the other: (G, n, N) each."""
        frames, places = self.window[0], self.window[1:]
        n = self.num_tokens // frames
        table = self.positions.bias_table()
        index = relative_position_index(places, table.device).flatten()
        bank = table.flatten(2).flip(1).index_select(2, index)  # (G, 2T-1, n n), dt from T-1 down
        bank = bank.unflatten(2, (n, n)).transpose(1, 2).flatten(2)  # (G, n, (2T-1) n)
        for t in range(frames):  # key frame 0 has dt = t, key frame T-1 has dt = t-T+1
            start = (frames - 1 - t) * n
            yield self.positions.finish(bank[:, :, start : start + self.num_tokens], first=t * n)
