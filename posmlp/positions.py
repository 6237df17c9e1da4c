"""Relations between the tokens of a window, read from a table by where the tokens stand.

Read first; then `gating.py` and `model.py`.

Shapes: G channel groups, N tokens of a window (row-major over its axes), A axes.
The sign convention of the whole project is made here, in `relative_position_index`:
`offset = query - key` along each axis. A positive offset in time means a key in the past.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def token_coordinates(window: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
    """Coordinates of a window's tokens in row-major order: (N, A), int64."""
    axes = [torch.arange(side, device=device) for side in window]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def relative_position_index(
    window: tuple[int, ...], device: torch.device | str | None = None
) -> Tensor:
    """Entry [m, n] is the place of the offset m - n in a flattened (2w-1, ...) table: (N, N).

    For one axis it is `m - n + w - 1`; further axes nest row-major.
    Source: the released models' index (the same values for 1 and 2 axes); 3 axes are ours.
    """
    coordinates = token_coordinates(window, device)
    offset = coordinates[:, None] - coordinates[None, :]  # (N, N, A): query - key
    index = torch.zeros_like(offset[..., 0])
    for axis, side in enumerate(window):
        index = index * (2 * side - 1) + offset[..., axis] + side - 1
    return index


def table_shape(window: tuple[int, ...]) -> tuple[int, ...]:
    """(2w-1, ...): one entry for each offset along each axis, from -(w-1) to w-1."""
    return tuple(2 * side - 1 for side in window)


class Relation(nn.Module):
    """A (G, N, N) matrix over a window's tokens: row m weighs the inputs n of output m.

    A subclass gives `bias_table`; all pairs of tokens at the same offset then share its entry.
    """

    def __init__(self, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()
        self.window, self.num_groups = tuple(window), num_groups
        self.num_tokens = math.prod(window)
        # no buffer: `to_empty` leaves an unsaved one unfilled
        self.index: Tensor | None = relative_position_index(self.window, "cpu")

    def forward(self) -> Tensor:
        table = self.bias_table().flatten(1)  # (G, offsets)
        rows = table.index_select(1, self.index_on(table.device).flatten())
        return self.finish(rows.unflatten(1, (self.num_tokens, self.num_tokens)))

    def bias_table(self) -> Tensor:
        """Values in offset order, (G, 2w-1, ...)."""
        raise NotImplementedError

    def finish(self, rows: Tensor, first: int = 0) -> Tensor:
        """A subclass may change these rows (G, rows, N); `first` numbers the first."""
        return rows

    def index_on(self, device: torch.device) -> Tensor:
        """The relative position index (N, N)."""
        if self.index is None:
            return relative_position_index(self.window, device)
        return self.index.to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Relation:
        """Take the index along, where a model moves to another device."""
        super()._apply(fn, recurse)
        device = next(self.parameters()).device
        if self.index is not None and device.type != "meta":
            self.index = self.index.to(device)
        return self


class LRPE(Relation):
    """Learned relative position encoding: one free number for each offset and group.

    Source: the paper's relative position bias table; the released
    `window_relative_position_bias_table` transposed and unflattened.
    """

    def __init__(self, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__(window, num_groups)
        self.table = nn.Parameter(torch.zeros(num_groups, *table_shape(window)))

    def bias_table(self) -> Tensor:
        return self.table
