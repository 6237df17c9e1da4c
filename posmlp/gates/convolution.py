"""A relation that ends at a small radius: depth-wise convolution.

Shapes: B windows, N tokens of a window, C channels, G channel groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posmlp.gating import GatingUnit
from posmlp.positions import relative_position_index, table_shape


class ConvGate(GatingUnit):
    """A depth-wise convolution: a relative relation cut off at a small radius, zero outside.

    `kernel` is (G, k for each axis) in offset order (query - key); k is `size`, or 2w-1 if less.
    """

    def __init__(
        self, dim: int, window: tuple[int, ...], num_groups: int = 1, size: int = 3, **options: Any
    ) -> None:
        super().__init__(dim, window, num_groups, **options)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size={size} must be odd and positive, for example 3")
        sides = (min(size, full) for full in table_shape(self.window))
        self.kernel = nn.Parameter(torch.zeros(num_groups, *sides))

    def mix(self, u: Tensor) -> Tensor:
        axes = tuple(range(1, self.kernel.dim()))
        # A convolution's tap j reads key = query + j - radius, so offset order is its reverse.
        taps = self.kernel.flip(axes).repeat(self.dim // self.num_groups, *(1 for _ in axes))
        conv = (F.conv1d, F.conv2d, F.conv3d)[len(axes) - 1]
        x = u.reshape(-1, *u.shape[-2:]).mT.unflatten(2, self.window)  # (B, C, window)
        padding = tuple(side // 2 for side in self.kernel.shape[1:])
        y = conv(x, taps[:, None], padding=padding, groups=self.dim)
        return y.flatten(2).mT.reshape(u.shape)

    def relation(self) -> Tensor:
        index = relative_position_index(self.window, self.kernel.device)
        return self.bias_table().flatten(1)[:, index]

    def bias_table(self) -> Tensor:
        sides = zip(self.kernel.shape[1:], table_shape(self.window), strict=True)
        margins = [(full - side) // 2 for side, full in sides]
        return F.pad(self.kernel, [m for margin in reversed(margins) for m in (margin, margin)])
