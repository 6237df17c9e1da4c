"""What one step computes and what it moves, counted operator by operator as PyTorch runs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from analysis.cost.memory import tensors_in

_ATEN = torch.ops.aten
_OVERWRITE = ["copy_", "fill_", "zero_", "bernoulli_", "normal_", "uniform_"]
_TAKE_SHAPE = [f"{name}_like" for name in ("empty", "zeros", "ones", "full", "rand", "randn")]
_TAKE_SHAPE += [f"new_{name}" for name in ("empty", "empty_strided", "zeros", "ones", "full")]
_UNREAD = {getattr(_ATEN, name) for name in _OVERWRITE + _TAKE_SHAPE}
"""Operators that do not read their first argument."""
_ALLOCATE = {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided}
_ALLOCATE |= {_ATEN.new_empty, _ATEN.new_empty_strided}


class Counts(NamedTuple):
    """FLOPs that a step computes, and bytes that its operators move."""

    flops: int
    num_bytes: int


def count_step(step: Callable[[], object]) -> Counts:
    """FLOPs and bytes of a step, which is run once, in this thread and on the tensors' device.

    FLOPs: two for each multiply-add of a product or convolution, nothing else; on `meta` too. Bytes
    are those moved if no operator finds anything in a cache: every input counts once and every
    output once, in its own precision; of an expanded tensor the elements that it has. An in-place
    operator reads and writes. Views and uninitialised memory are free, and so is the scratch inside
    an operator.

    Source: torch's own formulas, but for the backward pass of a convolution with groups, which
    `torch.utils.flop_counter` counts as one without.
    """
    with _Operators() as seen:
        step()
    return Counts(seen.flops, seen.num_bytes)


class _Operators(TorchDispatchMode):
    """Adds up FLOPs and bytes of the operators that run within it, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = _FLOPS.get(func._overloadpacket)
        if count is None:  # inference mode hands over F.linear and its kin whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self.num_bytes += _moved(func, args, kwargs, result)
        self.flops += count(*args, **kwargs, out_val=result) if count else 0
        return result


def _convolution_gradient_flops(
    grad: Tensor, x: Tensor, weight: Tensor, *rest: Any, out_val: Any
) -> int:
    """As many as the forward pass for the gradient of x, if wanted, and for that of the weight."""
    transposed, wanted = rest[4], rest[7]
    forward = 2 * math.prod(x.shape if transposed else grad.shape) * math.prod(weight.shape[1:])
    return forward * sum(wanted[:2])


_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _ATEN.convolution_backward: _convolution_gradient_flops,
}


def _moved(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Bytes of the tensors that an operator reads, and of those that it writes."""
    if func._overloadpacket in _ALLOCATE:
        return 0
    read, written = {}, {}
    for i, argument in enumerate(func._schema.arguments):
        mutated = argument.alias_info is not None and argument.alias_info.is_write
        unread = argument.is_out or (i == 0 and func._overloadpacket in _UNREAD)
        for tensor in tensors_in(args[i] if i < len(args) else kwargs.get(argument.name)):
            if mutated:
                written[id(tensor)] = tensor
            if not unread:
                read[id(tensor)] = tensor
    outputs = tensors_in(result)
    known = _storages(written.values() if written else tensors_in((args, kwargs)))
    new = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in known]
    if outputs and not new and not written:
        return 0  # views of what was given
    return sum(_num_bytes(tensor) for tensor in (*read.values(), *written.values(), *new))


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def _num_bytes(tensor: Tensor) -> int:
    """Of the elements that lie apart in memory: an expanded axis has one."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sizes if stride or not size)
