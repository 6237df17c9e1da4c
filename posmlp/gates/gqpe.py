"""Generalised quadratic position encoding: a relation of Gaussian bumps.

Shapes: G channel groups, N tokens of a window, A axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posmlp.positions import Relation, table_shape, token_coordinates


class GQPE(Relation):
    """A Gaussian-like bump for each group.

    With d the displacement of the key from the query as (x to the right, y up, t into the future),
    c the group's centre and M its precision matrix (A A^T if symmetric, else A):
    score = d' M c - 1/2 d' M d, then softmax over the keys. `spread="scalar"` has M = a^2 I in the
    linear term but I in the quadratic one, as released.

    Source: Zhicaiwww/PosMLP for two axes, its y pointing up; one and three axes are ours (the
    released one-axis unit does not run).
    """

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

    def bias_table(self) -> Tensor:
        """Scores in offset order, (G, 2w-1, ...); with softmax, unnormalised log weights."""
        d = self.displacement().to(self.centers.dtype)  # (offsets, A)
        if self.spread == "scalar":
            linear = self.spreads[:, None] ** 2 * self.centers
            quadratic = d.square().sum(-1).expand(self.num_groups, -1)
        else:
            precision = self._precision()
            linear = torch.einsum("gij,gj->gi", precision, self.centers)
            quadratic = torch.einsum("oi,gij,oj->go", d, precision, d)
        return (linear @ d.T - 0.5 * quadratic).unflatten(1, table_shape(self.window))

    def displacement(self) -> Tensor:
        """Key minus query of each offset, (offsets, A), as (x to the right, y up, t later)."""
        coordinates = token_coordinates(table_shape(self.window), self.centers.device)
        axes = [side - 1 - coordinates[:, axis] for axis, side in enumerate(self.window)]
        axes.reverse()  # columns first: x, y, t
        if len(axes) > 1:
            axes[1] = -axes[1]
        return torch.stack(axes, dim=-1)

    def _precision(self) -> Tensor:
        factor = self.spreads if self.spread == "full" else torch.diag_embed(self.spreads)
        return factor @ factor.mT if self.symmetric else factor

    def finish(self, rows: Tensor, first: int = 0) -> Tensor:
        return rows.softmax(-1) if self.softmax else rows
