"""Counting the multiply-adds of one forward pass from fvcore's trace, with exact handlers.

Only products count: convolutions, linear and recurrent layers, matmul and its kin, einsum,
attention. What the clip does not enter into (a relation made from parameters alone) counts as 0.
An operation that is neither counted here nor known to have no products is an error.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from analysis.borrow import borrowed

Handler = Callable[[list[Any], list[Any]], int]
_MATRIX_PRODUCTS = ["linear", "matmul", "linalg_matmul", "mm", "bmm", "mv", "dot", "vdot", "inner"]
# What has no products, beside torch's pointwise operations, its reductions and its views. With a
# star: whatever begins so.
_NO_PRODUCTS = """
    ScalarImplicit _pa* adaptive_* alpha_dropout arange argsort avg_pool* batch_norm bernoulli
    broadcast_tensors cat channel_shuffle clone col2im concat constant_pad_nd copy cum* diag*
    diff dim dropout embedding empty* eye feature_dropout fill* flip full* gather glu group_norm
    hstack im2col index* instance_norm item layer_norm linspace log_sigmoid log_softmax
    logcumsumexp masked_* max max_pool* median meshgrid min new_* nonzero normal numel one_hot
    ones* pad pixel_* prelu rand* reflection_pad* repeat* replication_pad* rms_norm roll rot90
    scalar_tensor scatter* size slice softmax sort split* stack stride sub take take_along_dim
    tensor tile topk tril triu type_as uniform unsafe_chunk unsafe_split upsample_* vstack zero*
"""


def count_macs(model: nn.Module, clip_shape: tuple[int, ...]) -> Counter[str]:
    """Multiply-adds of one clip by module name, each with those of its submodules.

    The model is traced in eval mode on one clip of zeros, (C, T, H, W), and left as it was.
    Raises ValueError for an operation that may have products and that no handler here counts.
    """
    with warnings.catch_warnings():  # fvcore's import warns seven times about torch.jit
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis
    with borrowed(model), torch.no_grad(), _attention_in_parts(), _KeptInTrace():
        clip = next(model.parameters(), torch.empty(0)).new_zeros(1, *clip_shape)
        analysis = FlopCountAnalysis(model, clip)
        analysis.unsupported_ops_warnings(False)
        analysis.uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        analysis.clear_op_handles()  # fvcore's own count norms by estimate, and round einsum
        analysis.set_op_handle(**_handlers())
        try:
            by_module = analysis.by_module()
        except RuntimeError as error:
            raise ValueError(
                f"cost cannot trace {type(model).__name__} ({str(error).partition(chr(10))[0]}); "
                "give it with no part that is compiled, scripted, quantised or checkpointed"
            ) from error
        if unknown := [op for op in analysis.unsupported_ops() if not _has_no_product(op)]:
            by_module = _count_or_refuse(analysis, unknown)
        return by_module


def _count_or_refuse(analysis: Any, unknown: list[str]) -> Counter[str]:
    """The counts by module, if the clip enters into none of these operations."""
    found: set[str] = set()
    depends = _dependence_on_clip()

    def noting(operation: str) -> Handler:
        def note(inputs: list[Any], outputs: list[Any]) -> int:
            if any(depends(value) for value in inputs):
                found.add(operation)
            return 0

        return note

    analysis.set_op_handle(**_handlers(), **{operation: noting(operation) for operation in unknown})
    by_module: Counter[str] = analysis.by_module()
    if found:
        raise ValueError(
            f"cost cannot count {', '.join(sorted(found))}; write its products with matmul, "
            "einsum, a convolution, nn.Linear or scaled_dot_product_attention"
        )
    return by_module


class _KeptInTrace(TorchFunctionMode):
    """Makes a tensor's `data`, which a trace takes for a constant, the detached tensor.

    A tensor that leaves for NumPy is refused: what is done there is no part of the trace.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.__array__):
            raise ValueError("cost cannot count what a model computes in NumPy; write it in torch")
        is_data = func == Tensor.data.__get__  # type: ignore[attr-defined]
        return args[0].detach() if is_data else func(*args, **(kwargs or {}))


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Attention modules compute by the operations that they name, not in one fused kernel."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def _has_no_product(operation: str) -> bool:
    """Whether an operation of the trace is known to multiply at most element by element."""
    kind, _, name = operation.rstrip("_").partition("::")
    if kind != "aten" or any(fnmatchcase(name, known) for known in _NO_PRODUCTS.split()):
        return kind == "aten"
    return any(
        {torch.Tag.pointwise, torch.Tag.reduction} & set(each.tags) or _is_view(each)
        for each in _overloads(name)
    )


def _overloads(operation: str) -> list[Any]:
    packet = getattr(torch.ops.aten, operation, None)
    return [getattr(packet, each) for each in packet.overloads()] if packet else []


def _is_view(overload: Any) -> bool:
    aliases = [result.alias_info for result in overload._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _handlers() -> dict[str, Handler]:
    """A count for each operation of the trace that is a product; its operands are graph values."""
    from fvcore.nn.jit_handles import conv_flop_jit

    counts: dict[str, Handler] = {
        "aten::_convolution_mode": _convolution_macs,  # padding="same" or "valid"
        "aten::_convolution": lambda inputs, outputs: conv_flop_jit(inputs, outputs)["conv"],
        "aten::einsum": _einsum_macs,
        "aten::scaled_dot_product_attention": _attention_macs,
    }
    counts |= dict.fromkeys([f"aten::{op}" for op in _MATRIX_PRODUCTS], _macs)
    counts |= {f"aten::{op}": _recurrent_macs for op in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
    added = [f"aten::{op}" for op in ["addmm", "addmm_", "baddbmm", "baddbmm_", "addmv", "addmv_"]]
    counts |= dict.fromkeys(added, lambda inputs, outputs: _macs(inputs[1:], outputs))
    depends = _dependence_on_clip()

    def of_clip(count: Handler) -> Handler:
        return lambda inputs, outputs: count(inputs, outputs) if depends(outputs[0]) else 0

    return {operation: of_clip(count) for operation, count in counts.items()}


def _dependence_on_clip() -> Callable[[Any], bool]:
    """A function telling of a value in the traced graph whether the clip enters into it.

    What is written in place into a tensor, or into a view of it, enters into all that views it.
    """
    owners: dict[int, int] = {}  # by value: the one whose memory it views, or itself
    reached: set[int] = set()

    def depends(value: Any) -> bool:
        if not owners:
            follow(value.node().owningBlock())
        return owners[value.unique()] in reached

    def follow(graph: Any) -> None:
        given = [value.unique() for value in graph.paramNode().outputs()]
        owners.update(zip(given, given, strict=True))
        reached.add(given[0])  # the graph's inputs: the clip, then the parameters
        for node in graph.nodes():
            operands = [owners[value.unique()] for value in node.inputs()]
            for value in node.outputs():
                owner = operands[0] if operands and _shares_memory(node) else value.unique()
                owners[value.unique()] = owner
                if reached & {*operands}:
                    reached.add(owner)

    return depends


def _shares_memory(node: Any) -> bool:
    """Whether what a node returns is its first operand, or may be a view of it."""
    kind, name = node.kind(), node.kind().partition("::")[2]
    views = kind.startswith("aten::") and any(map(_is_view, _overloads(name)))
    return kind in ("prim::ListUnpack", "prim::TupleUnpack") or kind.endswith("_") or views


def _shape(value: Any) -> list[int]:
    return value.type().sizes()


def _macs(inputs: list[Any], outputs: list[Any]) -> int:
    """A matrix product, batched or not: each output element sums over the inner dimension."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _convolution_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Each output element sums over the input channels of its group, and over the taps."""
    return math.prod(_shape(outputs[0])) * math.prod(_shape(inputs[1])[1:])


def _recurrent_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Each token passes each weight matrix once, whatever the layers and directions."""
    lists = [list(value.node().inputs()) for value in inputs if _is_list(value)]
    shapes = [_shape(weight) for weights in lists for weight in weights]
    return math.prod(_shape(inputs[0])[:-1]) * sum(math.prod(s) for s in shapes if len(s) == 2)


def _is_list(value: Any) -> bool:
    return bool(value.node().kind() == "prim::ListConstruct")


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Scaled dot products: the scores q k', then the weighted sum of the values."""
    query, key, value = (_shape(operand) for operand in inputs[:3])
    return math.prod(_shape(outputs[0])[:-1]) * key[-2] * (query[-1] + value[-1])


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
    terms, arrow, output = equation.partition("->")
    left, right = (_index_sizes(*pair) for pair in zip(terms.split(","), operands, strict=True))
    kept = output if arrow else "..."  # without an arrow, what stands twice is summed
    # an index of size 1 in one operand is summed in the other alone, before any product
    summed = [min(size, right[i]) for i, size in left.items() if i in right and i[0] not in kept]
    return math.prod(_shape(outputs[0])) * math.prod(summed)


def _index_sizes(term: str, shape: list[int]) -> dict[str, int]:
    """The size of each index of an einsum term; those of `...` are `.1`, `.2`, from the last on."""
    head, _, tail = term.partition("...")
    within = shape[len(head) : len(shape) - len(tail)][::-1]
    named = dict(zip(head, shape, strict=False)) | dict(zip(tail[::-1], shape[::-1], strict=False))
    return named | {f".{i}": size for i, size in enumerate(within, 1)}
