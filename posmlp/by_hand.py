"""A residual step on a CPU, its parallel branches merged, with a gradient by hand.

The numbers are those of `posmlp.model.Branch`, which stays the readable path. What the branches of
a step share is computed once: the norm (its affine part goes into fc1's weight), one product for
all fc1 and one for all fc2. Between the two, channels come first, so that mixing is a matrix
product on a view. A few windows at a time go through, so that what is made of them stays in the
caches. For its gradient a step keeps, beside its input and weights, fc1's output alone; norm, GELU,
mixing and gate are computed again. Of those few windows nothing is computed where stochastic depth
drops them all.

Shapes: tokens (W, T, n, C), as rows (R, C) with R = W T n; k branches of D channels, in G groups;
inside, (k D, R): channel by channel, group by group, branch by branch, each with its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from posmlp.gating import PositionalGatingUnit
from posmlp.linear import Linear, is_plain, is_watched, product

WORKING_SET = 2**18
"""Elements of tokens that a CPU takes through a step at once, so that what is made of them stays
in its caches."""

SMALL = 64
"""Tokens of a temporal window at all its places, up to which they are mixed as one (`whole`)."""


def windows_at_once(x: Tensor) -> int:
    """How many of the windows x (W, T, n, C) a CPU takes at once."""
    return max(1, WORKING_SET // x[0].numel())


def can_merge(branches: Sequence[Any]) -> bool:
    """Whether all are the paper's branches, alike in groups and norm, with no relation in blocks.

    Parts that a user replaced or watches by a hook are to be called as they stand.
    """
    ours = {"norm": nn.LayerNorm, "fc1": Linear, "gate": PositionalGatingUnit, "fc2": Linear}

    def untouched(branch: Any) -> bool:
        return (
            all(is_plain(getattr(branch, name), kind) for name, kind in ours.items())
            and not is_watched(branch)
            and branch.norm.bias is not None
            and branch.gate.form == "multiply"
            and branch.gate.token_bias is not None
            and not branch.gate.positions.in_blocks
        )

    if not all(untouched(branch) for branch in branches):
        return False
    return len({(branch.gate.num_groups, branch.norm.eps) for branch in branches}) == 1


class Weights(NamedTuple):
    """A step's weights, merged: fc1 (2 k D, C) and (2 k D,), all u before all v; fc2 (C, k D)."""

    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor
    mixing: tuple[Tensor, ...]
    """Of each branch its relation (G, N, N) and its token bias (N,), one after the other."""

    @classmethod
    def of(cls, listed: Sequence[Tensor]) -> Weights:
        fc1, fc1_bias, fc2, fc2_bias, *mixing = listed
        return cls(fc1, fc1_bias, fc2, fc2_bias, tuple(mixing))

    @classmethod
    def merged(cls, branches: nn.ModuleDict, plan: Plan) -> Weights:
        """Those of branches by their axes, a norm's affine part in fc1's: y = W (a x + b) + c."""
        into, biases, out_of, out_biases, mixing = [], [], [], [], []
        branch: Any
        for (axes, branch), mixed_axes in zip(branches.items(), plan.axes, strict=True):
            weight, bias = branch.fc1.ordered(branch.norm)
            into.append(weight.unflatten(0, (2, -1)))
            biases.append(bias.unflatten(0, (2, -1)))
            weight, bias = branch.fc2.ordered()
            out_of.append(weight)
            out_biases.append(bias)
            relation, token_bias = branch.gate.relation(), branch.gate.token_bias[:, 0]
            if mixed_axes != axes:
                relation, token_bias = whole(relation, token_bias, plan.num_places)
            mixing += [relation, token_bias]
        return cls(
            torch.cat(into, dim=1).flatten(0, 1),
            torch.cat(biases, dim=1).flatten(),
            torch.cat(out_of, dim=1),
            sum(out_biases[1:], out_biases[0]),
            tuple(mixing),
        )


def whole(relation: Tensor, token_bias: Tensor, num_places: int) -> tuple[Tensor, Tensor]:
    """A relation (G, T, T) and bias (T,) of frames as those (G, T n, T n), (T n,) of all tokens.

    Where windows are small, a CPU is quicker with one product of many zeros than with a tiny one
    for each channel and window. Counters of FLOPs that watch it count the zeros too.
    """
    same_place = torch.eye(num_places, dtype=relation.dtype, device=relation.device)
    return torch.kron(relation, same_place), token_bias.repeat_interleave(num_places)


@dataclass(frozen=True)
class Plan:
    """How tokens go through a step.

    Each branch's axes, as they are mixed; frames of a temporal window, places of a frame, channel
    groups, windows taken at once, and the norms' epsilon.
    """

    axes: tuple[str, ...]
    frames: int
    num_places: int
    num_groups: int
    num_windows: int
    eps: float

    @classmethod
    def of(cls, branches: nn.ModuleDict, x: Tensor) -> Plan:
        """For tokens x (W, T, n, C) that go through branches by their axes."""
        first: Any = next(iter(branches.values()))
        small = first.frames * x.shape[2] <= SMALL
        return cls(
            axes=tuple("ST" if small and axes == "T" else axes for axes in branches),
            frames=first.frames,
            num_places=x.shape[2],
            num_groups=first.gate.num_groups,
            num_windows=windows_at_once(x),
            eps=first.norm.eps,
        )

    def parts(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors (W, ...) a few windows at a time, each as rows (R, C)."""
        for part in zip(*(tensor.split(self.num_windows) for tensor in tensors), strict=True):
            yield tuple(tensor.reshape(-1, tensor.shape[-1]) for tensor in part)

    def scales(self, scale: Tensor | None, x: Tensor) -> Sequence[Tensor | None]:
        """Of each part of x its rows' factors (R, 1); scale: (W, 1, 1, 1), None is 1."""
        if scale is None:
            return [None] * -(-len(x) // self.num_windows)
        return [rows for (rows,) in self.parts(scale.expand(*x.shape[:3], 1))]

    def normalise(self, rows: Tensor) -> Tensor:
        """Layer norm without its affine part."""
        return F.layer_norm(rows, rows.shape[-1:], eps=self.eps)

    def branches(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        """Tensors (k D, R) branch by branch, as views that have the mixed tokens as an axis.

        T: (G, -1, t, n), with D / G channels, windows and runs of t frames as its second axis;
        S and ST: (G, -1, N), with N = n or t n.
        """
        sides = {"T": (self.frames, self.num_places), "S": (self.num_places,)}
        sides["ST"] = (self.frames * self.num_places,)
        chunks = zip(*(tensor.chunk(len(self.axes)) for tensor in tensors), strict=True)
        return [
            tuple(tensor.view(self.num_groups, -1, *sides[axes]) for tensor in chunk)
            for axes, chunk in zip(self.axes, chunks, strict=True)
        ]


def mix(relation: Tensor, tokens: Tensor, out: Tensor) -> None:
    """Weigh tokens, as `Plan.branches` gives them, by the rows of a relation (G, N, N)."""
    if tokens.dim() == 4:
        torch.matmul(relation[:, None], tokens, out=out)
    else:
        torch.matmul(tokens, relation.mT, out=out)


def mix_all(u: Tensor, weights: Weights, plan: Plan) -> Tensor:
    """u (k D, R) mixed over positions, each branch in its way, with the token biases."""
    mixed = torch.empty_like(u)
    for i, (tokens, out) in enumerate(plan.branches(u, mixed)):
        relation, token_bias = weights.mixing[2 * i : 2 * i + 2]
        mix(relation, tokens, out)
        out.add_(token_bias[:, None] if out.dim() == 4 else token_bias)
    return mixed


def mixing_gradients(grad: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of the relation (G, N, N) and of the token bias (N,)."""
    if tokens.dim() == 4:
        return (grad @ tokens.mT).sum(1), grad.sum((0, 1, 3))
    return grad.mT @ tokens, grad.sum((0, 1))


def step_forward(
    x: Tensor,
    scale: Tensor | None,
    weights: Weights,
    plan: Plan,
    kept: list[Tensor | None] | None = None,
) -> Tensor:
    """x + scale * the sum of what the branches give, (W, T, n, C); scale: (W, 1, 1, 1), None is 1.

    `kept` takes what the gradient needs: fc1's output of each part, None of one that is dropped.
    """
    output = torch.empty_like(x, memory_format=torch.contiguous_format)
    for (rows, out), scales in zip(plan.parts(x, output), plan.scales(scale, x), strict=True):
        if scales is not None and not scales.any():
            out.copy_(rows)
            if kept is not None:
                kept.append(None)
            continue
        h = product(weights.fc1, plan.normalise(rows).mT).add_(weights.fc1_bias[:, None])
        if kept is None:
            torch.ops.aten.gelu_(h)  # in place: new memory would cost more than the function
            u, v = h.chunk(2)
        else:
            kept.append(h)
            u, v = F.gelu(h).chunk(2)
        gated = mix_all(u, weights, plan).mul_(v)
        if scales is None:
            torch.add(rows, weights.fc2_bias, out=out)
            torch.addmm(out, gated.mT, weights.fc2.mT, out=out)  # counters know it, not addmm_
        else:
            update = torch.addmm(weights.fc2_bias, gated.mT, weights.fc2.mT)
            torch.addcmul(rows, update, scales, out=out)
    return output


class StepByHand(torch.autograd.Function):
    """`step_forward` with its gradient; differentiable once, PyTorch raises RuntimeError for more.

    Takes x, scale and plan, then the weights one by one; scale gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, plan: Plan, *weights: Tensor) -> Tensor:
        kept: list[Tensor | None] = []
        output = step_forward(x, scale, Weights.of(weights), plan, kept)
        ctx.save_for_backward(x, scale, *weights, *kept)
        ctx.plan = plan
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        x, scale, *saved = ctx.saved_tensors
        num_weights = 4 + 2 * len(plan.axes)
        weights, kept = saved[:num_weights], saved[num_weights:]
        merged = Weights.of(weights)
        totals: list[Tensor] = []
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        parts = zip(plan.parts(x, grad, grad_x), plan.scales(scale, x), kept, strict=True)
        for (rows, grad_rows, out), scales, h in parts:
            if h is None:
                out.copy_(grad_rows)
                continue
            of_update = grad_rows if scales is None else grad_rows * scales
            with torch.autocast("cpu", enabled=False):
                of_rows, *of_weights = gradients(rows, of_update, h, merged, plan)
            torch.add(grad_rows, of_rows, out=out)
            if totals:
                of_weights = [t.add_(part) for t, part in zip(totals, of_weights, strict=True)]
            totals = of_weights
        if not totals:  # every window was dropped
            totals = [torch.zeros_like(weight) for weight in weights]
        return grad_x, None, None, *totals


def gradients(
    rows: Tensor, grad: Tensor, h: Tensor, weights: Weights, plan: Plan
) -> tuple[Tensor, ...]:
    """Of one part's rows (R, C) and of the weights, from their update's gradient (R, C)."""
    activated, back_through_gelu = _differentiable(F.gelu, h)
    u, v = activated.chunk(2)
    mixed = mix_all(u, weights, plan)
    grad_gated = product(weights.fc2.mT.contiguous(), grad.mT)

    grad_activated = torch.empty_like(h)
    grad_u, grad_v = grad_activated.chunk(2)
    torch.mul(grad_gated, mixed, out=grad_v)
    grad_fc2 = product(mixed.mul_(v), grad).mT
    of_mixing: list[Tensor] = []
    for i, (grad_mixed, tokens, grad_tokens) in enumerate(
        plan.branches(grad_gated.mul_(v), u, grad_u)
    ):
        mix(weights.mixing[2 * i].mT, grad_mixed, grad_tokens)
        of_mixing += mixing_gradients(grad_mixed, tokens)
    grad_h = back_through_gelu(grad_activated)
    del activated, u, v, tokens, mixed, grad_activated, grad_u, grad_v, grad_gated

    normed, back_through_norm = _differentiable(plan.normalise, rows)
    return (
        back_through_norm(grad_h.mT @ weights.fc1),
        product(grad_h, normed),
        grad_h.sum(1),
        grad_fc2,
        grad.sum(0),
        *of_mixing,
    )


def _differentiable(
    function: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What a function gives, and what takes its gradient to that of x."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        output = function(leaf)
    return output.detach(), lambda grad: torch.autograd.grad(output, leaf, grad)[0]
