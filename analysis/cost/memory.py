"""Activation memory, from shapes alone: what a forward pass holds, and what it keeps for backward.

A model runs on torch's `meta` device, which makes every tensor's shape and no numbers. Counted are
the tensors that operations return; the scratch that a kernel uses inside one operation is not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from posmlp.checkpoint import copied


def activation_memory(model: nn.Module, clip_shape: tuple[int, ...]) -> dict[str, int]:
    """Bytes of activations for one clip, beside the parameters and the clip itself.

    `clip_shape`: (C, T, H, W), or (C, H, W) for images. `saved_bytes`: what the forward pass of a
    training step keeps for the backward pass, each block of memory once however many tensors view
    it. `peak_bytes`: the most that is alive at once in inference. Both in the precision of the
    model's parameters; the model itself is not touched. Bytes of k clips are k times these, but for
    what is made once a pass, such as a relation. Raises ValueError for what is no model, and for a
    clip without numbers.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"{model!r} is no model; build it with posmlp.create_model")
    is_shape = isinstance(clip_shape, Sequence) and len(clip_shape) > 0
    if not is_shape or not all(isinstance(side, int) and side > 0 for side in clip_shape):
        raise ValueError(
            f"clip_shape={clip_shape!r} must be (C, T, H, W), or (C, H, W) of an image, in whole "
            "numbers of at least 1"
        )
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            twin = copied(model).to("meta")
            weight = next(twin.parameters(), torch.empty(0))
            clip = torch.zeros(1, *clip_shape, dtype=weight.dtype)
            given = _Storages([*twin.parameters(), *twin.buffers(), clip])
            return {
                "saved_bytes": _saved_bytes(twin.train(), clip, given),
                "peak_bytes": peak_bytes(torch.inference_mode()(partial(twin.eval(), clip))),
            }
    except (RuntimeError, AssertionError, TypeError) as error:
        said = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{type(model).__name__} does not run on a clip of {tuple(clip_shape)} on meta ({said})"
            "; give a clip_shape that fits, or cost(..., memory=False) where it computes with "
            "numbers"
        ) from error


class _Storages:
    """Blocks of memory told apart by identity: tensors on `meta` have no address."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.held: dict[int, UntypedStorage] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.held[storage._cdata] = storage  # held, so that no other takes its identity

    def __contains__(self, storage: UntypedStorage) -> bool:
        return storage._cdata in self.held


def _saved_bytes(model: nn.Module, clip: Tensor, given: _Storages) -> int:
    kept = _Storages([])

    def pack(tensor: Tensor) -> Tensor:
        kept.add(tensor)
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        model.requires_grad_()(clip)
    return sum(storage.nbytes() for storage in kept.held.values() if storage not in given)


def peak_bytes(step: Callable[[], object]) -> int:
    """The most bytes of tensors made within a step that are alive at once; it is run once.

    In this thread and on whatever device the tensors are: `meta` serves as well as another.
    """
    with _Alive() as alive:
        step()
    return alive.peak


class _Alive(TorchDispatchMode):
    """Bytes of the blocks that operations have made and nothing has dropped, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = {each.untyped_storage()._cdata for each in tensors_in((args, kwargs))}
        for storage in map(Tensor.untyped_storage, tensors_in(result)):
            if storage._cdata not in given | self.alive:
                self._add(storage)
        return result

    def _add(self, storage: UntypedStorage) -> None:
        self.alive.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, identity: int, num_bytes: int) -> None:
        self.alive.discard(identity)
        self.now -= num_bytes


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dictionaries."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
