"""What one step computes and what it moves, counted operator by operator as PyTorch runs them.

A step is what `analysis.speed` times: a forward pass, or a forward pass and the gradients of a sum.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from analysis.borrow import borrowed
from analysis.speed.speed import make_step, uncompiled

_ATEN = torch.ops.aten
_OVERWRITE = ["copy_", "fill_", "zero_", "bernoulli_", "normal_", "uniform_"]
_TAKE_SHAPE = [f"{name}_like" for name in ("empty", "zeros", "ones", "full", "rand", "randn")]
_TAKE_SHAPE += [f"new_{name}" for name in ("empty", "empty_strided", "zeros", "ones", "full")]
_UNREAD = {getattr(_ATEN, name) for name in _OVERWRITE + _TAKE_SHAPE}
"""Operators that do not read their first argument."""
_ALLOCATE = {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided}
_ALLOCATE |= {_ATEN.new_empty, _ATEN.new_empty_strided}


class Traffic(NamedTuple):
    """Bytes that a step moves: `all_bytes` by every operator, `product_bytes` by products alone."""

    all_bytes: int
    product_bytes: int


def count_flops(
    model: nn.Module, clip_shape: tuple[int, ...], batch_size: int, phase: str = "training"
) -> int:
    """FLOPs of one step of a batch: two for each multiply-add of a product, nothing else.

    `clip_shape`: (C, T, H, W), or whatever the model takes without the batch. A `training` step is
    the forward pass and both gradients of every product, three times the forward pass, but for the
    gradient that nobody asks for: that of the clips. What a device computes twice to save memory
    does not count, since the model is run on `meta`. Products with a relation made from parameters
    count, and those that make it, which `analysis.cost` leaves out.

    Source: torch's own formulas, but for the backward pass of a convolution with groups, which
    `torch.utils.flop_counter` counts as one without.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        twin = copy.deepcopy(model).to("meta").train(phase == "training")
        clips = torch.zeros(batch_size, *clip_shape, dtype=next(twin.parameters()).dtype)
        with _Operators() as seen, torch.set_grad_enabled(phase == "training"):
            output = twin(clips)
            if phase == "training":
                output.sum().backward()
    return seen.flops


def count_bytes(
    model: nn.Module, clips: Tensor, phase: str = "training", mode: str = "eager"
) -> Traffic:
    """Bytes that a step reads and writes if every operator finds nothing in a cache.

    The step is run once on the clips' device, (B, C, T, H, W), where the model lies. For each
    operator that PyTorch dispatches every input counts once and every output once, in its own
    precision; of an expanded tensor the elements that it has. An in-place operator reads and
    writes. Views and uninitialised memory are free, and so is the scratch inside an operator.

    A compiled step fuses operators, and how is not known here: `product_bytes`, those of matrix
    products, convolutions and attention alone, is what no fusion between products spares. `mode`
    is one of `analysis.speed.MODES`; compiled ones are counted eagerly. The model is left as it
    was.
    """
    with borrowed(model, steps=True):
        step = make_step(model, clips, phase, uncompiled(mode))
        with _Operators() as seen:
            step()
    return Traffic(seen.all_bytes, seen.product_bytes)


class _Operators(TorchDispatchMode):
    """Adds up FLOPs and bytes of the operators that run within it, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.all_bytes = self.product_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = _FLOPS.get(func._overloadpacket)
        if count is None:  # inference mode hands over F.linear and its kin whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        num_bytes = _moved(func, args, kwargs, result)
        self.all_bytes += num_bytes
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
            self.product_bytes += num_bytes
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
    for i, (argument, value) in enumerate(_bound(func, args, kwargs)):
        mutated = argument.alias_info is not None and argument.alias_info.is_write
        unread = argument.is_out or (i == 0 and func._overloadpacket in _UNREAD)
        for tensor in _tensors(value):
            if mutated:
                written[id(tensor)] = tensor
            if not unread:
                read[id(tensor)] = tensor
    outputs = _tensors(result)
    known = _storages(written.values() if written else _tensors((args, kwargs)))
    new = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in known]
    if outputs and not new and not written:
        return 0  # views of what was given
    return sum(_num_bytes(tensor) for tensor in (*read.values(), *written.values(), *new))


def _bound(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """An operator's declared arguments with their values."""
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args):
            yield argument, args[i]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def _num_bytes(tensor: Tensor) -> int:
    """Of the elements that lie apart in memory: an expanded axis has one."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sizes if stride or not size)
