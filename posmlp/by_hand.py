"""A branch's gradient by hand: the training step on a CPU in less time and half the memory.

The numbers are those of `posmlp.model.Branch`, which stays the readable path. For its gradient
PyTorch would keep every intermediate result of a branch; here only fc1's output and the mixed
tokens are kept, what is cheap (norm, GELU, gate) is computed again, and a few windows at a time go
through, so that what is made of them stays in the caches.

Shapes: tokens (W, T, n, C) or as rows (W T n, C); G groups of V channels; columns (G, N, R): of
each group the N tokens of a mixing window, times R windows and channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from posmlp.linear import project, weight_gradient

ORDERS = {"S": (4, 3, 0, 1, 2, 5), "T": (4, 2, 0, 1, 3, 5), "ST": (4, 2, 3, 0, 1, 5)}
"""Axes of (W, K, t, n, G, V) as columns have them, K runs of t frames: group, mixed axes, rest."""


@dataclass(frozen=True)
class Plan:
    """How windows go through a branch: its axes, frames mixed together, groups, windows at once."""

    axes: str
    frames: int
    num_groups: int
    num_windows: int
    eps: float

    def columns(self, rows: Tensor, x_WTnC: Tensor) -> Tensor:
        """Rows (W T n, C') of the tokens x as columns (G, N, R); a copy."""
        tokens = rows.view(*self._shape(x_WTnC), self.num_groups, -1).permute(ORDERS[self.axes])
        return tokens.reshape(self.num_groups, self._num_mixed(x_WTnC), -1)

    def rows(self, columns_GNR: Tensor, x_WTnC: Tensor) -> Tensor:
        """The inverse; a copy, too, as what follows is faster on rows."""
        order = ORDERS[self.axes]
        shape = (*self._shape(x_WTnC), self.num_groups, -1)
        back = sorted(range(6), key=order.__getitem__)
        tokens = columns_GNR.view([shape[axis] for axis in order]).permute(back)
        return tokens.reshape(x_WTnC[..., 0].numel(), -1)

    def _shape(self, x_WTnC: Tensor) -> tuple[int, int, int, int]:
        W, T, n, _ = x_WTnC.shape
        return W, T // self.frames, self.frames, n

    def _num_mixed(self, x_WTnC: Tensor) -> int:
        n = x_WTnC.shape[2]
        return {"S": n, "T": self.frames, "ST": self.frames * n}[self.axes]


class BranchByHand(torch.autograd.Function):
    """norm, fc1, GELU, gate, fc2 of tokens (W, T, n, C), with a gradient that keeps little.

    Weights are group by group (`posmlp.linear.group_by_group`), `relation` is (G, N, N) and
    `token_bias` (N, 1). It can be differentiated once; PyTorch raises RuntimeError for more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        fc1_weight: Tensor,
        fc1_bias: Tensor,
        relation: Tensor,
        token_bias: Tensor,
        fc2_weight: Tensor,
        fc2_bias: Tensor,
        plan: Plan,
    ) -> Tensor:
        outputs, kept = [], []
        for part in x.split(plan.num_windows):
            normed = F.layer_norm(part, part.shape[-1:], norm_weight, norm_bias, plan.eps)
            h = project(normed.flatten(0, 2), fc1_weight, fc1_bias)
            u, v = F.gelu(h).chunk(2, dim=-1)
            columns = relation @ plan.columns(u, part)
            mixed = plan.rows(columns.add_(token_bias), part)
            outputs.append(project(v * mixed, fc2_weight, fc2_bias).view(part.shape))
            kept += [h, mixed]
        ctx.save_for_backward(x, norm_weight, norm_bias, fc1_weight, relation, fc2_weight, *kept)
        ctx.plan = plan
        return torch.cat(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights_and_kept = ctx.saved_tensors
        weights, kept = weights_and_kept[:5], weights_and_kept[5:]
        windows = ctx.plan.num_windows
        grad_x, totals = [], None
        for part, grad_part, h, mixed in zip(
            x.split(windows), grad.split(windows), kept[::2], kept[1::2], strict=True
        ):
            of_x, *of_weights = gradients(part, grad_part, h, mixed, weights, ctx.plan)
            grad_x.append(of_x)
            if totals is None:
                totals = of_weights
            else:
                torch._foreach_add_(totals, of_weights)
        return (torch.cat(grad_x), *(totals or []), None)


def gradients(
    x: Tensor, grad: Tensor, h: Tensor, mixed: Tensor, weights: list[Tensor], plan: Plan
) -> tuple[Tensor, ...]:
    """Of one part: the gradients of `BranchByHand.forward`'s tensors, in their order."""
    norm_weight, norm_bias, fc1_weight, relation, fc2_weight = weights
    grad = grad.reshape(-1, grad.shape[-1])  # rows, as h and mixed are

    activated, back_through_gelu = _differentiable(F.gelu, h)
    u, v = activated.chunk(2, dim=-1)
    grad_gated = project(grad, fc2_weight.mT)
    grad_fc2 = weight_gradient(v * mixed, grad)

    grad_columns = plan.columns(v * grad_gated, x)
    grad_relation = grad_columns @ plan.columns(u, x).mT
    grad_u = plan.rows(relation.mT @ grad_columns, x)
    grad_h = back_through_gelu(torch.cat([grad_u, grad_gated.mul_(mixed)], dim=1))[0]

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight, bias, plan.eps)

    normed, back_through_norm = _differentiable(norm, x, norm_weight, norm_bias)
    grad_fc1 = weight_gradient(normed.flatten(0, 2), grad_h)
    grad_normed = project(grad_h, fc1_weight.mT).view(x.shape)
    return (
        *back_through_norm(grad_normed),
        grad_fc1,
        grad_h.sum(0),
        grad_relation,
        grad_columns.sum((0, 2))[:, None],
        grad_fc2,
        grad.sum(0),
    )


def _differentiable(function: Any, *inputs: Tensor) -> tuple[Tensor, Any]:
    """What a function gives, and what takes its gradient to those of its inputs."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        output = function(*leaves)
    return output.detach(), lambda grad: torch.autograd.grad(output, leaves, grad)
