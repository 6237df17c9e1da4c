"""Gating units: mix one half of the channels over positions, then let the other half gate it.

Read after `positions.py`; then `model.py`. Other gates than the paper's stand in `gates/`.

Shapes: B windows, N tokens of a window, C channels, G channel groups, V = C / G.
Channel c belongs to group c % G (interleaved, unlike a convolution's), so C unflattens to (V, G).
PoTGU, PoSGU and PoSTGU are `PositionalGatingUnit` over a (T,), (H, W) or (T, H, W) window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from posmlp.config_checks import GATE_FORMS, one_of
from posmlp.parts.hook_points import Add, Multiply
from posmlp.positions import LRPE


class GatingUnit(nn.Module):
    """h (B, N, 2C) -> (B, N, C): h splits into u and v, and v gates mix(u).

    Forms: `multiply` is mix(u) * v, `add` is mix(u) + v, and `mix` is mix(h) for h (B, N, C).
    A token bias (N, 1), shared by all channels, is added to mix(u) before the gate.
    Hooks on `u`, `v`, `mixed`, `biased` and `gated` see those values, each (B, N, C).
    Raises ValueError if `num_groups` does not divide `dim` or h is of the wrong shape.

    Source: section 3 of the paper; the released PoSGU and PoSGUT.
    """

    def __init__(
        self,
        dim: int,
        window: tuple[int, ...],
        num_groups: int = 1,
        *,
        form: str = "multiply",
        token_bias: bool = True,
    ) -> None:
        super().__init__()
        one_of(form, GATE_FORMS, "gate_form")
        if num_groups < 1 or dim % num_groups:
            raise ValueError(f"num_groups={num_groups} does not divide dim={dim}; use a divisor")
        self.dim, self.window, self.num_groups, self.form = dim, tuple(window), num_groups, form
        self.num_tokens = math.prod(window)
        self.in_features = dim if form == "mix" else 2 * dim
        self.token_bias = nn.Parameter(torch.zeros(self.num_tokens, 1)) if token_bias else None
        self.u, self.v, self.mixed = nn.Identity(), nn.Identity(), nn.Identity()
        self.biased, self.gated = Add(), Multiply() if form == "multiply" else Add()

    def forward(self, h: Tensor) -> Tensor:
        self.check(h)
        u, *v = h.split(self.dim, dim=-1)  # form `mix` has no v
        mixed = self.mixed(self.mix(self.u(u)))
        biased = self.biased(mixed, self.token_bias)
        return self.gated(biased, *map(self.v, v))  # (mix(u) + token_bias) * v

    def mix(self, u: Tensor) -> Tensor:
        """Mix over positions: (B, N, C) -> (B, N, C)."""
        raise NotImplementedError

    def relation(self) -> Tensor:
        """The (G, N, N) matrix by which outputs (rows) weigh inputs (columns)."""
        raise NotImplementedError

    def bias_table(self) -> Tensor | None:
        """Values in offset order, (G, 2w-1 for each axis), or None; offset = query - key."""
        return None

    def in_groups(self, u: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, V, G), a view."""
        return u.unflatten(-1, (self.dim // self.num_groups, self.num_groups))

    def check(self, h: Tensor) -> None:
        """Raise ValueError unless h is (..., N, in_features)."""
        if h.shape[-2:] != (self.num_tokens, self.in_features):
            raise ValueError(
                f"got tokens x channels {tuple(h.shape[-2:])}, but a {self.form!r} unit over window"
                f" {self.window} takes {(self.num_tokens, self.in_features)}"
            )


class PositionalGatingUnit(GatingUnit):
    """The paper's unit: its relation comes from positions alone, by default from an LRPE table.

    `relation(window, num_groups, **relation_options)` makes it.
    """

    def __init__(
        self,
        dim: int,
        window: tuple[int, ...],
        num_groups: int = 1,
        *,
        relation: Callable[..., Any] = LRPE,
        form: str = "multiply",
        token_bias: bool = True,
        **relation_options: object,
    ) -> None:
        super().__init__(dim, window, num_groups, form=form, token_bias=token_bias)
        self.positions = relation(self.window, num_groups, **relation_options)

    def mix(self, u: Tensor) -> Tensor:
        return torch.einsum("...nvg,gmn->...mvg", self.in_groups(u), self.relation()).flatten(-2)

    def relation(self) -> Tensor:
        return self.positions()

    def bias_table(self) -> Tensor | None:
        return self.positions.bias_table()
