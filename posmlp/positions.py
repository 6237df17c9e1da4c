"""Relations between the tokens of a window, made from where the tokens stand.

Shapes: G channel groups, N tokens of a window (row-major over its axes), A axes.
The sign convention of the whole project is made here, in `relative_position_index`:
`offset = query - key` along each axis. A positive dt means that the key lies in the past.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

LARGE_RELATION = 2**24
"""Elements of a (G, N, N) relation above which it is built and used one block of rows at a time."""


def token_coordinates(window: tuple[int, ...]) -> Tensor:
    """Coordinates of a window's tokens in row-major order: (N, A), int64."""
    axes = [torch.arange(side) for side in window]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def relative_position_index(window: tuple[int, ...]) -> Tensor:
    """Where in a flattened (2w-1, ...) table the offset query - key of each pair stands: (N, N).

    For one axis it is `m - n + w - 1`; further axes nest row-major.
    Source: the released models' index (the same values for 1 and 2 axes); 3 axes are ours.
    """
    coordinates = token_coordinates(window)
    offset = coordinates[:, None] - coordinates[None, :]  # (N, N, A): query - key
    index = torch.zeros(offset.shape[:2], dtype=torch.int64)
    for axis, side in enumerate(window):
        index = index * (2 * side - 1) + offset[..., axis] + side - 1
    return index


def table_shape(window: tuple[int, ...]) -> tuple[int, ...]:
    """(2w-1, ...): one entry for each offset along each axis, from -(w-1) to w-1."""
    return tuple(2 * side - 1 for side in window)


class Relation(nn.Module):
    """A (G, N, N) matrix over a window's tokens: row m weighs the inputs n of output m."""

    in_blocks = False
    """Whether `row_blocks` gives several, so that the whole need not lie in memory."""

    def __init__(self, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()
        self.window, self.num_groups = tuple(window), num_groups
        self.num_tokens = math.prod(window)

    def forward(self) -> Tensor:
        """The whole relation, (G, N, N)."""
        first, *others = self.row_blocks()
        return torch.cat([first, *others], dim=1) if others else first

    def row_blocks(self) -> Iterator[Tensor]:
        """The relation's rows from first to last, in blocks (G, rows, N)."""
        raise NotImplementedError

    def bias_table(self) -> Tensor | None:
        """Values in offset order, (G, 2w-1, ...); None for a relation not tied by offset."""
        return None


class TiedRelation(Relation):
    """A relation whose entries, before `normalise`, depend on the offset query - key alone.

    It is block-Toeplitz then.

    Subclasses give `bias_table`. Cost: a small window gathers (G, N, N) once. A large one (over
    LARGE_RELATION elements) of T frames and n tokens a frame keeps a bank of the 2T-1 matrices
    (G, n, n), one for each dt; the rows of frame t are a slice of it, so that memory is
    G n^2 (2T-1) instead of G n^2 T^2 at the same G N^2 multiply-adds a channel column.

    `in_blocks` chooses between the two by hand.
    """

    index: Tensor

    def __init__(
        self, window: tuple[int, ...], num_groups: int, *, in_blocks: bool | None = None
    ) -> None:
        super().__init__(window, num_groups)
        if in_blocks is None:
            in_blocks = len(window) > 1 and num_groups * self.num_tokens**2 > LARGE_RELATION
        self.in_blocks = in_blocks
        index = relative_position_index(self.window[1:] if self.in_blocks else self.window)
        self.register_buffer("index", index.flatten(), persistent=False)

    def bias_table(self) -> Tensor:
        raise NotImplementedError

    def normalise(self, rows: Tensor) -> Tensor:
        """Rows (G, rows, N) as they are used; a subclass may normalise over N."""
        return rows

    def row_blocks(self) -> Iterator[Tensor]:
        table = self.bias_table()
        if not self.in_blocks:
            tied = table.flatten(1).index_select(1, self.index)
            yield self.normalise(tied.unflatten(1, (self.num_tokens, self.num_tokens)))
            return
        frames, num_in_frame = self.window[0], math.prod(self.window[1:])
        bank = (
            table.flatten(2).flip(1).index_select(2, self.index)
        )  # (G, 2T-1, n n), dt from T-1 down
        bank = bank.unflatten(2, (num_in_frame, num_in_frame)).transpose(1, 2).flatten(2)
        for t in range(frames):  # key frame 0 has dt = t, key frame T-1 has dt = t-T+1
            start = (frames - 1 - t) * num_in_frame
            yield self.normalise(bank[:, :, start : start + self.num_tokens])


class LRPE(TiedRelation):
    """Learned relative position encoding: one free number for each offset and group.

    Source: the paper's relative position bias table; the released
    `window_relative_position_bias_table` transposed and unflattened.
    """

    def __init__(
        self, window: tuple[int, ...], num_groups: int, *, in_blocks: bool | None = None
    ) -> None:
        super().__init__(window, num_groups, in_blocks=in_blocks)
        self.table = nn.Parameter(torch.zeros(num_groups, *table_shape(window)))

    def bias_table(self) -> Tensor:
        return self.table


class GQPE(TiedRelation):
    """Generalised quadratic position encoding: a Gaussian-like bump for each group.

    With d the displacement of the key from the query as (x to the right, y up, t into the future),
    c the group's centre and M its precision matrix (A A^T if symmetric, else A):
    score = d' M c - 1/2 d' M d, then softmax over the keys. `spread="scalar"` has M = a^2 I in the
    linear term but I in the quadratic one, as released.

    Source: Zhicaiwww/PosMLP for two axes, its y pointing up; one and three axes are ours (the
    released one-axis unit does not run).
    """

    displacement: Tensor

    def __init__(
        self,
        window: tuple[int, ...],
        num_groups: int,
        *,
        spread: str = "full",
        symmetric: bool = True,
        softmax: bool = True,
    ) -> None:
        super().__init__(window, num_groups)
        self.spread, self.symmetric, self.softmax = spread, symmetric, softmax
        num_axes = len(window)
        shape = {"full": (num_axes, num_axes), "diagonal": (num_axes,), "scalar": ()}[spread]
        self.centers = nn.Parameter(torch.zeros(num_groups, num_axes))
        self.spreads = nn.Parameter(torch.zeros(num_groups, *shape))
        sides = table_shape(window)
        key_minus_query = torch.tensor(window) - 1 - token_coordinates(sides)  # (offsets, A)
        displacement = key_minus_query.flip(-1)  # columns first: x, y, t
        if num_axes > 1:
            displacement[:, 1] *= -1
        self.register_buffer("displacement", displacement, persistent=False)

    def bias_table(self) -> Tensor:
        """Scores in offset order, (G, 2w-1, ...); with softmax, unnormalised log weights."""
        d = self.displacement.to(self.centers.dtype)  # (offsets, A)
        if self.spread == "scalar":
            linear = self.spreads[:, None] ** 2 * self.centers
            quadratic = d.square().sum(-1).expand(self.num_groups, -1)
        else:
            precision = self._precision()
            linear = torch.einsum("gij,gj->gi", precision, self.centers)
            quadratic = torch.einsum("oi,gij,oj->go", d, precision, d)
        return (linear @ d.T - 0.5 * quadratic).unflatten(1, table_shape(self.window))

    def _precision(self) -> Tensor:
        factor = self.spreads if self.spread == "full" else torch.diag_embed(self.spreads)
        return factor @ factor.mT if self.symmetric else factor

    def normalise(self, rows: Tensor) -> Tensor:
        return rows.softmax(-1) if self.softmax else rows


class Dense(Relation):
    """A free number for each pair of positions, as in gMLP: (G, N, N)."""

    def __init__(self, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__(window, num_groups)
        self.weight = nn.Parameter(torch.zeros(num_groups, self.num_tokens, self.num_tokens))

    def row_blocks(self) -> Iterator[Tensor]:
        yield self.weight


class LRPEPlusDense(LRPE):
    """LRPE plus one dense matrix that all groups share.

    Source: Zhicaiwww/PosMLP with `pos_only=False` (`token_proj_n_weight`).
    """

    def __init__(self, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__(window, num_groups)
        self.weight = nn.Parameter(torch.zeros(1, self.num_tokens, self.num_tokens))

    def row_blocks(self) -> Iterator[Tensor]:
        first = 0
        for rows in super().row_blocks():
            yield rows + self.weight[:, first : first + rows.shape[1]]
            first += rows.shape[1]
