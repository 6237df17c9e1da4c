"""Counting the multiply-adds of one forward pass from fvcore's trace, with exact handlers.

Only products count: convolutions, linear layers, matmul and its kin, einsum, attention. A product
that the clip does not enter into (a relation made from parameters alone) counts as 0.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from analysis.borrow import borrowed

Handler = Callable[[list[Any], list[Any]], int]
# Products that a notebook's own gate might use and that no handler here counts; a `prim::` one is
# a custom autograd function or a scripted call.
_UNKNOWN_PRODUCTS = ("aten::tensordot", "aten::bilinear", "aten::addbmm", "aten::cdist", "prim::")


def count_macs(model: nn.Module, clip_shape: tuple[int, ...]) -> Counter[str]:
    """Multiply-adds of one clip by module name, each with those of its submodules.

    The model is traced in eval mode on one clip of zeros, (C, T, H, W), and left as it was.
    Raises ValueError for a product that no handler here counts.
    """
    with warnings.catch_warnings():  # fvcore's import warns seven times about torch.jit
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis
    with borrowed(model), torch.no_grad():
        clip = next(model.parameters(), torch.empty(0)).new_zeros(1, *clip_shape)
        analysis = FlopCountAnalysis(model, clip)
        analysis.unsupported_ops_warnings(False)
        analysis.uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        analysis.clear_op_handles()  # fvcore's own count norms by estimate, and round einsum
        analysis.set_op_handle(**_handlers())
        by_module = analysis.by_module()
        unknown = [op for op in analysis.unsupported_ops() if op.startswith(_UNKNOWN_PRODUCTS)]
        if unknown:
            raise ValueError(
                f"cost cannot count {', '.join(sorted(unknown))}; write the gate's products with "
                "matmul, einsum, a convolution, nn.Linear or scaled_dot_product_attention"
            )
        return by_module


def _handlers() -> dict[str, Handler]:
    """A count for each operation of the trace that is a product; its operands are graph values."""
    from fvcore.nn.jit_handles import conv_flop_jit, linear_flop_jit

    counts: dict[str, Handler] = {
        "aten::_convolution": lambda inputs, outputs: conv_flop_jit(inputs, outputs)["conv"],
        "aten::linear": linear_flop_jit,
        "aten::einsum": _einsum_macs,
        "aten::scaled_dot_product_attention": _attention_macs,
    }
    counts |= dict.fromkeys([f"aten::{op}" for op in ("matmul", "mm", "bmm", "mv", "dot")], _macs)
    added = [f"aten::{op}" for op in ("addmm", "baddbmm", "addmv")]
    counts |= dict.fromkeys(added, lambda inputs, outputs: _macs(inputs[1:], outputs))
    depends = _dependence_on_clip()

    def of_clip(count: Handler) -> Handler:
        return lambda inputs, outputs: count(inputs, outputs) if depends(outputs[0]) else 0

    return {operation: of_clip(count) for operation, count in counts.items()}


def _dependence_on_clip() -> Callable[[Any], bool]:
    """A function telling of a value in the traced graph whether the clip enters into it."""
    known: dict[int, bool] = {}

    def depends(value: Any) -> bool:
        key, node = value.unique(), value.node()
        if key not in known:
            if node.kind() == "prim::Param":  # the graph's inputs: the clip, then the parameters
                known[key] = key == next(node.outputs()).unique()
            else:
                known[key] = any([depends(operand) for operand in node.inputs()])
        return known[key]

    return depends


def _shape(value: Any) -> list[int]:
    return value.type().sizes()


def _macs(inputs: list[Any], outputs: list[Any]) -> int:
    """A matrix product, batched or not: each output element sums over the inner dimension."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Scaled dot products: the scores q k', then the weighted sum of the values."""
    query, key, value = (_shape(operand) for operand in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """An einsum of two operands: each output element sums over the indices that both share."""
    equation = inputs[0].toIValue().replace(" ", "")
    operands = [_shape(operand) for operand in inputs[1].node().inputs()]
    if len(operands) == 1:
        return 0
    if len(operands) > 2:
        raise ValueError(
            f"cost counts einsum of at most two operands, not {equation!r}, whose multiply-adds "
            "depend on the order chosen; write it as several einsums"
        )
    terms, _, output = equation.partition("->")
    left, right = (_index_sizes(*pair) for pair in zip(terms.split(","), operands, strict=True))
    summed = [size for index, size in left.items() if index in right and index not in output]
    return math.prod(_shape(outputs[0])) * math.prod(summed)


def _index_sizes(term: str, shape: list[int]) -> dict[str, int]:
    """The size of each named index of an einsum term; what `...` stands for is left out."""
    head, _, tail = term.partition("...")
    return dict(zip(head, shape, strict=False)) | dict(zip(tail[::-1], shape[::-1], strict=False))
