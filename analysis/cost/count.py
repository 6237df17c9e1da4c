"""Counting the multiply-adds of one forward pass, from shapes alone.

Only products count: convolutions, matrix products and attention. A product that the clip does not
enter into (a relation made from parameters alone) counts as 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from analysis.cost.memory import tensors_in
from analysis.cost.on_meta import Storages, on_meta

aten = torch.ops.aten
VECTOR_PRODUCTS: dict[Any, Callable[..., int]] = {
    aten.dot: lambda x, _y: x.numel(),
    aten.mv: lambda matrix, _vector: matrix.numel(),
    aten.addmv: lambda _added, matrix, _vector, **_scales: matrix.numel(),
}
"""Multiply-adds of products that torch's own counter leaves out."""
UNKNOWN_PRODUCTS = (aten.addbmm, aten.addr, aten._trilinear, aten._cdist_forward)
"""Products that a notebook's own gate might use and nothing here counts."""


def count_macs(model: nn.Module, clip_shape: tuple[int, ...]) -> Counter[str]:
    """Multiply-adds of one clip by module name, without those of the module's submodules.

    The model runs in eval mode on one clip (C, T, H, W), as a copy without numbers. Raises
    ValueError for a product that cannot be counted.
    """
    twin, clip = on_meta(model, clip_shape)
    # without gradients, torch's attention layers would be a single operation that nothing counts
    with torch.enable_grad(), _Products(twin, clip) as products:
        twin.eval()(clip)
    return products.macs


class _Products(TorchDispatchMode):
    """The multiply-adds of each module in the products that `clip` enters into."""

    def __init__(self, model: nn.Module, clip: Tensor) -> None:
        super().__init__()
        self.of_clip = Storages([clip])
        self.macs: Counter[str] = Counter()
        self.running: list[str] = []
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self.running.append(name))
            module.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self.running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(tensor.untyped_storage() in self.of_clip for tensor in tensors_in((args, kwargs))):
            for tensor in tensors_in(result):
                self.of_clip.add(tensor)
            self.macs[self.running[-1]] += _macs(func._overloadpacket, args, kwargs, result)
        return result


def _macs(operation: Any, args: Any, kwargs: Any, result: Any) -> int:
    if operation in UNKNOWN_PRODUCTS:
        raise ValueError(
            f"cost cannot count {operation}; write the product with matmul, einsum, a convolution "
            "or nn.Linear"
        )
    if operation in VECTOR_PRODUCTS:
        return VECTOR_PRODUCTS[operation](*args, **kwargs)
    flops = flop_registry.get(operation)
    return flops(*args, **kwargs, out_val=result) // 2 if flops else 0
