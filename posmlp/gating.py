"""Gating units: mix one half of the channels over positions, then let the other half gate it.

Shapes: `*` any leading dimensions, N tokens of a window, C channels, G channel groups, V = C / G.
Channel c belongs to group c % G, so C unflattens to (V, G).
PoTGU, PoSGU and PoSTGU are `PositionalGatingUnit` over a (T,), (H, W) or (T, H, W) window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posmlp.config import GATE_FORMS, INITS, one_of
from posmlp.linear import is_transformed
from posmlp.positions import GQPE, LRPE, Dense, LRPEPlusDense, Relation, table_shape


class GatingUnit(nn.Module):
    """h (*, N, 2C) -> (*, N, C): the halves of h are u and v, and the output mix(u) gated by v.

    `form`: `multiply` gives mix(u) * v, `add` mix(u) + v, `mix` takes h (*, N, C) and gives mix(h).
    `group_by_group` (an attribute) says that channels of each half come as (G, V) instead.
    A token bias (N,), shared by all channels, is added to mix(u) before the gate.
    Raises ValueError if `num_groups` does not divide `dim` or h is of the wrong shape.

    Source: section 3 of the paper; the released PoSGU and PoSGUT.
    """

    like: Tensor

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
            raise ValueError(
                f"num_groups={num_groups} does not divide dim={dim}; use a divisor from 1"
            )
        self.dim, self.window, self.num_groups, self.form = dim, tuple(window), num_groups, form
        self.num_tokens = math.prod(window)
        self.token_bias = nn.Parameter(torch.zeros(self.num_tokens, 1)) if token_bias else None
        self.group_by_group = False
        # Moves with the unit, so that a relation without parameters has its type and device.
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @property
    def in_features(self) -> int:
        """Channels that `forward` takes: 2C, or C when the unit only mixes."""
        return self.dim if self.form == "mix" else 2 * self.dim

    def forward(self, h: Tensor) -> Tensor:
        if h.shape[-2:] != (self.num_tokens, self.in_features):
            raise ValueError(
                f"got tokens x channels {tuple(h.shape[-2:])}, but a {self.form!r} unit over window"
                f" {self.window} takes {(self.num_tokens, self.in_features)}"
            )
        if self.form == "mix":
            return self._ungrouped(self._mix_and_shift(self._grouped(h)))
        u, v = (self._grouped(half) for half in h.chunk(2, dim=-1))  # each (*, N, V, G)
        mixed = self._mix_and_shift(u)
        # v comes first, so that the result takes v's memory order and flattens without a copy
        gated = v * mixed if self.form == "multiply" else v + mixed
        return self._ungrouped(gated)

    def _grouped(self, u: Tensor) -> Tensor:
        """(*, C) -> (*, V, G), a view."""
        if self.group_by_group:
            return u.unflatten(-1, (self.num_groups, -1)).mT
        return u.unflatten(-1, (-1, self.num_groups))

    def _ungrouped(self, z: Tensor) -> Tensor:
        """(*, V, G) -> (*, C), the inverse."""
        return (z.mT if self.group_by_group else z).flatten(-2)

    def _mix_and_shift(self, u: Tensor) -> Tensor:
        mixed = self.mix(u)
        return mixed if self.token_bias is None else mixed + self.token_bias[..., None]

    def mix(self, u: Tensor) -> Tensor:
        """Mix over positions: (*, N, V, G) -> (*, N, V, G)."""
        raise NotImplementedError

    def relation(self) -> Tensor:
        """The (G, N, N) matrix by which outputs (rows) weigh inputs (columns)."""
        raise NotImplementedError

    def bias_table(self) -> Tensor | None:
        """Values in offset order, (G, 2w-1 for each axis), or None; offset = query - key."""
        return None


class PositionalGatingUnit(GatingUnit):
    """The paper's unit: its relation comes from positions alone, by default from an LRPE table.

    Further keyword arguments go to the relation (`posmlp.positions`).
    """

    def __init__(
        self,
        dim: int,
        window: tuple[int, ...],
        num_groups: int = 1,
        *,
        relation: Callable[..., Relation] = LRPE,
        form: str = "multiply",
        token_bias: bool = True,
        **relation_options: object,
    ) -> None:
        super().__init__(dim, window, num_groups, form=form, token_bias=token_bias)
        self.positions = relation(self.window, num_groups, **relation_options)

    def mix(self, u: Tensor) -> Tensor:
        u = u.movedim((-1, -3), (0, 1))  # (G, N, *, V)
        columns = u.flatten(2)  # the one copy: into the order of the matrix product
        whole = not self.positions.in_blocks
        relation = [self.positions()] if whole else self.positions.row_blocks()
        blocks = [rows @ columns for rows in relation]
        mixed = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        return mixed.unflatten(2, u.shape[2:]).movedim((0, 1), (-1, -3))

    def relation(self) -> Tensor:
        return self.positions()

    def bias_table(self) -> Tensor | None:
        return self.positions.bias_table()


class AttentionGate(GatingUnit):
    """Content-based mixing: multi-head attention, a head a group, with relative position bias.

    The dense operator that the paper argues against. Queries and keys are linear in u; the values
    are u.
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
        super().__init__(dim, window, num_groups, form=form, token_bias=token_bias)
        self.positions = LRPE(window, num_groups)
        self.query_key = nn.Linear(dim, 2 * dim)
        nn.init.trunc_normal_(self.query_key.weight, std=0.02)
        nn.init.zeros_(self.query_key.bias)

    def mix(self, u: Tensor) -> Tensor:
        halves = self.query_key(u.flatten(-2)).chunk(2, -1)
        query, key = (half.unflatten(-1, (-1, self.num_groups)) for half in halves)
        q, k, v = (x.movedim(-1, -3) for x in (query, key, u))  # (*, G, N, V)
        bias = self.positions()
        if is_transformed():  # vmap has no gradient of the fused operator in bfloat16
            scores = q @ k.mT / math.sqrt(q.shape[-1]) + bias
            mixed = scores.softmax(-1).to(v.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return mixed.movedim(-3, -1)

    def relation(self) -> Tensor:
        """The relative position part, which is added to the content scores before the softmax."""
        return self.positions()

    def bias_table(self) -> Tensor:
        return self.positions.bias_table()


class ConvGate(GatingUnit):
    """A depth-wise convolution: a relative relation cut off at a small radius, zero outside.

    `kernel` is (G, k for each axis) in offset order (query - key); k is `size`, or 2w-1 if less.
    """

    def __init__(
        self,
        dim: int,
        window: tuple[int, ...],
        num_groups: int = 1,
        *,
        form: str = "multiply",
        token_bias: bool = True,
        size: int = 3,
    ) -> None:
        super().__init__(dim, window, num_groups, form=form, token_bias=token_bias)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size={size} must be odd and positive, for example 3")
        sides = (min(size, full) for full in table_shape(self.window))
        self.kernel = nn.Parameter(torch.zeros(num_groups, *sides))

    def mix(self, u: Tensor) -> Tensor:
        axes = tuple(range(1, self.kernel.dim()))
        # A convolution's tap j reads key = query + j - radius, so offset order is its reverse.
        taps = self.kernel.flip(axes).repeat(self.dim // self.num_groups, *(1 for _ in axes))
        conv = (F.conv1d, F.conv2d, F.conv3d)[len(axes) - 1]
        u_NC = u.flatten(-2)
        x = u_NC.reshape(-1, *u_NC.shape[-2:]).mT.unflatten(2, self.window)  # (*, C, window)
        padding = tuple(side // 2 for side in self.kernel.shape[1:])
        y = conv(x, taps[:, None], padding=padding, groups=self.dim)
        return y.flatten(2).mT.reshape(u_NC.shape).unflatten(-1, (-1, self.num_groups))

    def relation(self) -> Tensor:
        tied = LRPE(self.window, self.num_groups).to(self.kernel)
        return torch.func.functional_call(tied, {"table": self.bias_table()}, ())

    def bias_table(self) -> Tensor:
        sides = zip(self.kernel.shape[1:], table_shape(self.window), strict=True)
        margins = [(full - side) // 2 for side, full in sides]
        return F.pad(self.kernel, [m for margin in reversed(margins) for m in (margin, margin)])


class MeanGate(GatingUnit):
    """Uniform mixing: every output is the window's mean."""

    def mix(self, u: Tensor) -> Tensor:
        return u.mean(dim=-3, keepdim=True).expand_as(u)

    def relation(self) -> Tensor:
        shape = (self.num_groups, self.num_tokens, self.num_tokens)
        return self.like.new_full(shape, 1.0 / self.num_tokens)


class NoMixing(GatingUnit):
    """No mixing over positions: the control."""

    def mix(self, u: Tensor) -> Tensor:
        return u

    def relation(self) -> Tensor:
        return torch.eye(self.num_tokens).to(self.like).expand(self.num_groups, -1, -1)


GATES: dict[str, Callable[..., GatingUnit]] = {
    "lrpe": PositionalGatingUnit,
    "gqpe": partial(PositionalGatingUnit, relation=GQPE),
    "dense": partial(PositionalGatingUnit, relation=Dense),
    "lrpe+dense": partial(PositionalGatingUnit, relation=LRPEPlusDense),
    "attention": AttentionGate,
    "conv": ConvGate,
    "mean": MeanGate,
    "none": NoMixing,
}


def initialise(unit: GatingUnit, init: str) -> None:
    """Set a unit's parameters in place by one of `posmlp.config.INITS`.

    - `released`: tables, dense matrices, kernels and token biases 0. mix(u) is 0, so with a
      multiplying gate each block starts as the identity, and on the first step only tables, token
      biases and fc2.bias have a gradient. Source: the released models, whose intended
      initialisation never runs.
    - `normal`: tables and the like truncated normal of std 0.02, as the released code intended.
    - `fan_in`: truncated normal of std N^-1/2, which keeps the variance of u through the mixing.
    - `unit_bias`: std 1e-3 and token biases 1, gMLP's start: the unit first passes v on.

    GQPE starts at centres N(0, 0.01^2) and spreads identity + N(0, 0.01^2) under every name.

    Measured (`ablations run ablations/grids/init.yaml`; toy preset, moving-digits medium, 6 epochs,
    5 seeds, one CPU thread): top-1 mean and 95% t-interval `normal` .690 [.607, .773], `released`
    .692 [.665, .720], `fan_in` .686 [.633, .739], `unit_bias` .339 [.178, .499]. The first three
    cannot be told apart, `unit_bias` is worse; the default, `normal`, is what was intended.
    """
    one_of(init, INITS, "init")
    std = {"released": 0.0, "normal": 0.02, "fan_in": unit.num_tokens**-0.5, "unit_bias": 1e-3}[
        init
    ]
    for name, parameter in unit.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last == "centers":
            nn.init.normal_(parameter, std=0.01)
        elif last == "spreads":
            nn.init.normal_(parameter, std=0.01)
            with torch.no_grad():
                parameter.add_(torch.eye(parameter.shape[-1]) if parameter.dim() == 3 else 1.0)
        elif last == "token_bias":
            nn.init.constant_(parameter, 1.0 if init == "unit_bias" else 0.0)
        elif not name.startswith("query_key"):
            nn.init.trunc_normal_(parameter, std=std) if std else nn.init.zeros_(parameter)
