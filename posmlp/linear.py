"""The linear layers of a branch: where their products are computed, and in which channel order.

Shapes: `*` any leading dimensions, C channels, G channel groups, V = C / G channels of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_IMAGES = 16
"""PyTorch gives a 1 x 1 convolution on one thread to oneDNN from this many images on."""

SMALLEST = 2**16
"""Elements of an input below which a convolution's set-up costs more than its speed brings."""

NARROWEST = 128
"""The least size of a product below which its set-up, which reorders both factors, costs more."""


class Linear(nn.Linear):
    """A linear layer over the last axis: weights truncated normal of std 0.02, biases 0.

    Parameters have the released models' channel order, (part, v, g): channel v * G + g of a part
    belongs to group g. `groups_out=(parts, G)` gives the output group by group, (part, g, v), and
    `groups_in=G` takes an input of one part so, which lets mixing read and write runs of channels.
    """

    def __init__(
        self, c_in: int, c_out: int, *, groups_out: tuple[int, int] = (1, 1), groups_in: int = 1
    ) -> None:
        super().__init__(c_in, c_out)
        self.groups_out, self.groups_in = groups_out, groups_in
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return project(x, *self.ordered())

    def ordered(self, norm: nn.LayerNorm | None = None) -> tuple[Tensor, Tensor]:
        """Weight and bias in the order of channels that `forward` takes and gives.

        With a norm before it they include its affine part: W (a x + b) + c.
        """
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if norm is not None:
            weight, bias = weight * norm.weight, bias + weight @ norm.bias
        weight = group_by_group(weight, *self.groups_out)
        if self.groups_in > 1:
            weight = group_by_group(weight.mT, 1, self.groups_in).mT
        return weight, group_by_group(bias, *self.groups_out)


def group_by_group(rows: Tensor, parts: int, groups: int) -> Tensor:
    """Rows in the order (part, g, v), of rows in the order (part, v, g)."""
    if groups == 1:
        return rows
    return rows.unflatten(0, (parts, -1, groups)).transpose(1, 2).flatten(0, 2)


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (*, c_in) -> (*, c_out), as `F.linear`; on a CPU by a 1 x 1 convolution where that pays.

    PyTorch gives float32 convolutions over channels-last images to oneDNN, forward and backward,
    and `F.linear` to MKL. On an AMD Zen 5 oneDNN is twice as fast, on a Zen 4 they are equal; on
    Intel's processors, not measured, there should be little between them. Elsewhere
    (`eager_on_cpu`) it is `F.linear`: vmap would make a slow grouped convolution, and what is
    exported must not depend on the batch.
    """
    images = _as_images(x)
    if images is None:
        return F.linear(x, weight, bias)
    y = F.conv2d(images, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (m, k) @ b (k, n) -> (m, n), contiguous; on a CPU by a convolution where that pays.

    a, contiguous, gives the image and b the filters: best where b is the transpose of rows.
    """
    wide = min(*a.shape, b.shape[1]) >= NARROWEST
    if wide and _pays(a, b.numel()) and len(a) % NUM_IMAGES == 0:
        images = a.view(NUM_IMAGES, len(a) // NUM_IMAGES, 1, -1).permute(0, 3, 1, 2)
        y = F.conv2d(images, b.mT[:, :, None, None])
        return y.permute(0, 2, 3, 1).reshape(len(a), -1)
    return a @ b


def _as_images(x: Tensor) -> Tensor | None:
    """x (*, c) as channels-last images (num_images, c, pixels, 1); None where it does not pay."""
    if not _pays(x, x.numel()):  # first, as what is exported must not ask about the batch
        return None
    num_tokens = x.numel() // x.shape[-1]
    if num_tokens % NUM_IMAGES:
        return None
    return x.reshape(NUM_IMAGES, num_tokens // NUM_IMAGES, 1, -1).permute(0, 3, 1, 2)


def _pays(x: Tensor, num_elements: int) -> bool:
    """Whether a convolution over that many elements is worth its set-up, and oneDNN's to take."""
    return (
        eager_on_cpu(x)
        and x.dtype == torch.float32
        and num_elements >= SMALLEST
        and torch.backends.mkldnn.is_available()
    )


def eager_on_cpu(x: Tensor) -> bool:
    """Whether what happens to x is computed here, on a CPU, as it is written.

    False on other devices, under autocast, where the model is compiled or exported, and under
    `torch.func`.
    """
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not is_transformed()
    )


def is_transformed() -> bool:
    """Whether a `torch.func` transform, such as vmap, is at work; no public question asks this."""
    return torch._C._are_functorch_transforms_active()


def is_watched(module: nn.Module) -> bool:
    """Whether a hook, or a function in place of its `forward`, is to see a module's calls."""
    forward = module._forward_hooks or module._forward_pre_hooks
    backward = module._backward_hooks or module._backward_pre_hooks
    return bool(forward or backward) or "forward" in vars(module)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of exactly that kind and unwatched, so that its call may be spared."""
    return type(module) is kind and not is_watched(module)
