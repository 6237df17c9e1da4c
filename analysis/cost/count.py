"""Counting the multiply-adds of one clip, by torch's own formulas for the products that it runs.

Only products count: convolutions, linear and recurrent layers, matmul and its kin, einsum,
attention. What the clip does not enter into (a relation made from parameters alone) counts as 0.
An operation that is neither counted nor known to have no products is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from posmlp.checkpoint import copied

_ATEN = torch.ops.aten
_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **dict.fromkeys((_ATEN.mv, _ATEN.dot, _ATEN.vdot), lambda x, *_, **__: 2 * x.numel()),
    _ATEN.addmv: lambda _, x, *__, **___: 2 * x.numel(),
}
_FLOPS |= {getattr(_ATEN, f"{op}_"): _FLOPS[getattr(_ATEN, op)]
           for op in ("addmm", "baddbmm", "addmv")}  # fmt: skip
# What has no products, beside torch's pointwise operations, its reductions and its views: names
# without `_` and `native_` before them. With a star: whatever begins so.
_NO_PRODUCTS = """
    adaptive_* alpha_dropout arange argsort as_strided* avg_pool* batch_norm* bernoulli cat
    channel_shuffle clone col2im constant_pad_nd copy* cum* detach diag* dropout embedding empty*
    eye fill* flip full* gather group_norm im2col index* layer_norm lift_fresh linspace
    local_scalar_dense logcumsumexp masked_* max_pool* median meshgrid multinomial new_* nonzero
    normal* one_hot ones* pad pixel_* prelu rand* reflection_pad* repeat* replication_pad* resize*
    rms_norm roll rot90 scalar_tensor scatter* select_scatter set slice_scatter *softmax sort
    squeeze stack t to_copy topk transpose tril triu unfold_copy unique* unsafe_* unsqueeze
    upsample_* weight_norm* zero*
"""


def count_macs(model: nn.Module, clip_shape: tuple[int, ...]) -> Counter[str]:
    """Multiply-adds of one clip by the name of the module that makes the products itself.

    A copy runs in eval mode on `meta`, where tensors have shapes and no numbers, on one clip of
    (C, T, H, W) and on two: what two take more is a clip's. Raises ValueError for an operation of
    the clip that may have products and that torch has no formula for.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]), torch.enable_grad():
        twin = copied(model).to("meta").eval().requires_grad_()  # with gradients no kernel is fused
        weight = next(twin.parameters(), torch.empty(0))
        one, two = _Products(), _Products()
        for count, products in ((1, one), (2, two)):
            with products.modules, products, _Einsum(products):
                twin(torch.zeros(count, *clip_shape, dtype=weight.dtype))
    if unknown := sorted({name for name, _ in two.unknown - one.unknown}):
        raise ValueError(
            f"cost cannot count {', '.join(unknown)}; write its products with matmul, einsum, a "
            "convolution, nn.Linear or scaled_dot_product_attention"
        )
    root = len(type(twin).__name__) + 1
    more = two.flops - one.flops
    return Counter({name[root:]: flops // 2 for name, flops in more.items()})


class _Products(TorchDispatchMode):
    """FLOPs of the products that run within it, by module, and operations without a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.modules = ModuleTracker()
        self.flops: Counter[str] = Counter()
        self.unknown: Counter[tuple[str, str]] = Counter()
        """By name and the shapes of what went in."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if count := _FLOPS.get(func._overloadpacket):
            flops = count(*args, **kwargs, out_val=result)
            self.add(flops)
        elif not _has_no_product(func):
            shapes = [tuple(x.shape) for x in args if isinstance(x, Tensor)]
            self.unknown[str(func._overloadpacket).replace(".", "::"), str(shapes)] += 1
        return result

    def add(self, flops: int) -> None:
        """Of the module that runs."""
        self.flops[max(self.modules.parents - {"Global"}, key=len)] += flops


class _Einsum(TorchFunctionMode):
    """A product all the same where every sum has one term: torch then multiplies number by number.

    So does the mixing of a window of one token.
    """

    def __init__(self, products: _Products) -> None:
        super().__init__()
        self.products = products

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.products.flops.total()
        result = func(*args, **(kwargs or {}))
        if func is torch.einsum and len(args) == 3 and self.products.flops.total() == before:
            self.products.add(2 * result.numel())
        return result


@cache
def _has_no_product(operation: Any) -> bool:
    """Whether an operation is known to multiply at most element by element."""
    if {torch.Tag.pointwise, torch.Tag.reduction} & set(operation.tags) or operation.is_view:
        return True
    kind, _, name = operation._schema.name.rstrip("_").partition("::")
    name = name.lstrip("_").removeprefix("native_")
    known = any(fnmatchcase(name, pattern) for pattern in _NO_PRODUCTS.split())
    return bool(kind == "prim" or (kind == "aten" and known))
