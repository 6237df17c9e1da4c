"""Ways of computing a model that change time and memory but not the mathematics.

They are installed from outside, by what trains or scores a model; a model itself never asks how it
is computed, and none that `create_model` or `load` returns has them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posmlp.model import Block, PosMLPVideo
from posmlp.train.distributed import Team, synchronise_batch_norm

Prepare = Callable[[PosMLPVideo], None]

WORKING_SET = 2**18
"""Elements of tokens that a CPU takes through a block at once, so that they stay in its caches."""

_COUNTING = threading.Lock()
_USERS: Counter[Block] = Counter()
_BEFORE: dict[Block, Callable[..., Tensor] | None] = {}
"""Blocks that `few_windows_at_once` changes, in how many threads, and their own forwards."""


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


@contextmanager
def few_windows_at_once(*models: nn.Module) -> Iterator[None]:
    """Within the block, inference takes a few windows through a block at a time, on a CPU quicker.

    For inference alone: nothing is drawn a clip. Hooks inside of a block see each part by itself.
    """
    blocks = {module for model in models for module in model.modules() if isinstance(module, Block)}
    with _COUNTING:
        for block in blocks:
            if not _USERS[block]:
                _BEFORE[block] = vars(block).get("forward")
                vars(block)["forward"] = partial(_in_parts, block.forward)
            _USERS[block] += 1
    try:
        yield
    finally:
        with _COUNTING:
            for block in blocks:
                _USERS[block] -= 1
                if not _USERS[block]:
                    del _USERS[block], vars(block)["forward"]
                    if (forward := _BEFORE.pop(block)) is not None:
                        vars(block)["forward"] = forward


def _in_parts(forward: Callable[[Tensor], Tensor], x_BWTnC: Tensor) -> Tensor:
    """Run a block's forward over all clips' windows, part by part."""
    windows = x_BWTnC.flatten(0, 1)
    few = max(1, WORKING_SET // max(1, x_BWTnC[0, 0].numel() if len(windows) else 1))
    if len(windows) <= few or torch.is_grad_enabled():
        return forward(x_BWTnC)
    parts = [forward(part[None]).squeeze(0) for part in windows.split(few)]
    return torch.cat(parts).unflatten(0, x_BWTnC.shape[:2])


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
