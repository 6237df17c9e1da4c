"""Ways of computing a model that change time and memory but not the mathematics.

They are installed from outside, by what trains or scores a model; a model itself never asks how it
is computed, and none that `create_model` or `load` returns has them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posmlp.data.user_cache import usable_cores
from posmlp.gating import PositionalGatingUnit
from posmlp.model import Block, Branch, PosMLPVideo
from posmlp.train.distributed import Team, synchronise_batch_norm

Prepare = Callable[[PosMLPVideo], None]

WORKING_SET = 2**19
"""Elements of tokens that a CPU takes through a block at once, so that they stay in its caches."""


def preparation(team: Team, checkpoint_activations: bool, compiled: bool) -> Prepare | None:
    """A function that changes how a model computes, in place; None where nothing is asked.

    `checkpoint_activations`: keep only each block's input, and compute the block again when its
    gradient is due, so that its hooks see it twice: about a third more time for a fraction of the
    memory. `compiled`: every block goes through torch.compile, which needs a C++ compiler on a CPU
    and Triton on a GPU.
    """
    if team.size == 1 and not checkpoint_activations and not compiled:
        return None

    def prepare(model: PosMLPVideo) -> None:
        if team.size > 1:
            synchronise_batch_norm(model)
        for block in (module for module in model.modules() if isinstance(module, Block)):
            forward: Callable[..., Tensor] = block.forward
            if compiled:
                forward = torch.compile(forward)
            if checkpoint_activations:
                forward = partial(checkpoint, forward, use_reentrant=False)
            block.forward = forward  # type: ignore[method-assign]

    return prepare


def in_bfloat16(precision: str, device: torch.device | str) -> bool:
    """Whether a `TrainConfig.precision` means autocast to bfloat16, in training and in scoring."""
    return {"auto": torch.device(device).type == "cuda", "bfloat16": True}.get(precision, False)


def repeats_bits(deterministic: bool, device: torch.device | str) -> str:
    """What a row says of training again, on the same machine and versions."""
    exact = deterministic or torch.device(device).type == "cpu"
    return "to the bit" if exact else "may differ in bits"


@contextmanager
def deterministic_if(asked: bool) -> Iterator[None]:
    """Within the block a GPU adds numbers in one order, if that is asked; else as it comes.

    cuBLAS takes its workspace from the environment when it first computes in this process.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, tuned = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = tuned


class Recorded:
    """A computation on a GPU as one CUDA graph: its kernels are launched together, not one by one.

    `function` takes and returns tensors of that GPU, of fixed shapes, and waits for nothing. It
    runs three times and is then recorded; its Python code does not run again. What it returns is
    overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        device = self._inputs[0].device
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):  # libraries choose their kernels, and take their memory
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            try:
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    self._outputs = function(*self._inputs)
            except RuntimeError as error:  # that the recording broke off says nothing of why
                if isinstance(error.__context__, torch.OutOfMemoryError):
                    raise error.__context__ from None
                raise

    def __call__(self, *inputs: Tensor) -> Any:
        """What `function` would return of inputs of the same shapes."""
        torch._foreach_copy_(self._inputs, list(inputs))
        self._graph.replay()
        return self._outputs


@contextmanager
def quick_inference(*models: nn.Module) -> Iterator[None]:
    """Within the block, models infer on a CPU in a quicker way, with the same modules and hooks.

    A few windows at a time go through a block, which suits the caches: for inference alone, where
    nothing is drawn a clip. And fc1 writes channels first, so that the gate mixes them without
    gathering every G-th number; shapes stay, strides differ. Threads that share a model take turns
    (`in_turn`).
    """
    ways = _quick_ways(*models)
    before = {(module, name): vars(module).get(name) for module, name in ways}
    for (module, name), way in ways.items():
        vars(module)[name] = way
    try:
        yield
    finally:
        for (module, name), own in before.items():
            del vars(module)[name]
            if own is not None:
                vars(module)[name] = own


def _quick_ways(*models: nn.Module) -> dict[tuple[nn.Module, str], Callable[..., Tensor]]:
    """Which methods `quick_inference` replaces, and by what; what a caller replaced stays."""
    ways: dict[tuple[nn.Module, str], Callable[..., Tensor]] = {}
    for module in (each for model in models for each in model.modules()):
        if isinstance(module, Block):
            ways[module, "forward"] = partial(_in_parts, module.forward)
        elif isinstance(module, Branch):
            fc1, gate = module.fc1, module.gate
            replaced = "forward" in vars(fc1) or "mix" in vars(gate)
            plain = type(fc1) is nn.Linear and fc1.bias is not None and not replaced
            if plain and type(gate) is PositionalGatingUnit:
                ways[fc1, "forward"] = partial(_to_channels_first, fc1)
                ways[gate, "mix"] = partial(_mix_channels_first, gate)
    return ways


def _in_parts(forward: Callable[[Tensor], Tensor], x_BPTnC: Tensor) -> Tensor:
    """Run a block's forward over all clips' windows, part by part."""
    windows = x_BPTnC.flatten(0, 1)
    few = max(1, WORKING_SET // max(1, x_BPTnC[0, 0].numel() if len(windows) else 1))
    if len(windows) <= few or torch.is_grad_enabled():
        return forward(x_BPTnC)
    parts = [forward(part[None]).squeeze(0) for part in windows.split(few)]
    return torch.cat(parts).unflatten(0, x_BPTnC.shape[:2])


def _to_channels_first(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)`, (..., C) -> (..., D), whose memory is (D, ...)."""
    columns = x.reshape(-1, x.shape[-1]).t()
    return torch.addmm(layer.bias[:, None], layer.weight, columns).t().unflatten(0, x.shape[:-1])


def _mix_channels_first(gate: PositionalGatingUnit, u: Tensor) -> Tensor:
    """`gate.mix(u)`, (B, N, C) -> (B, N, C), whose memory is (C, B, N) as that of u is."""
    u_GVBN = gate.in_groups(u).permute(3, 2, 0, 1)
    G, V, B, N = u_GVBN.shape
    mixed = torch.bmm(u_GVBN.reshape(G, V * B, N), gate.relation().mT).view(G, V, B, N)
    return mixed.transpose(0, 1).flatten(0, 1).permute(1, 2, 0)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within the block, the process keeps the memory that it frees; all of it goes back after.

    Else glibc, the allocator of a CPU on Linux, returns each large tensor to the kernel, which has
    to make and clear its pages anew at the next pass. Elsewhere this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # as malloc.h numbers the settings
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:  # back to the most that glibc's own adjustment reaches
        libc.mallopt(mmap_max, 2**16)
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**26)
        libc.malloc_trim(0)


@contextmanager
def beside_others() -> Iterator[None]:
    """Within the block there is one thread if others would be waited for by spinning.

    They spin where torch was imported before this package, and that takes long where other
    processes keep the machine's cores busy. One thread rounds sums in another order than several
    do: rows tell `num_threads`, and what is printed says how to have the same number always.
    """
    threads, cores = torch.get_num_threads(), usable_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if threads == 1 or load <= cores or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    print(
        f"one thread is used, not {threads}: others keep the {cores} cores busy (load {load:.1f}). "
        "Sums are rounded otherwise. Import posmlp before torch, or set OMP_WAIT_POLICY=PASSIVE, "
        "to use as many always",
        file=sys.stderr,
    )
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Within the block torch is as it is at first: in float32, with gradients, on the CPU."""
    chosen = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    elsewhere = torch.get_default_device().type != "cpu"
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.device("cpu") if elsewhere else nullcontext(),
        ):
            yield
    finally:
        torch.set_default_dtype(chosen)
