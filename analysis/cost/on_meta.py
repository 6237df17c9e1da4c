"""A model on torch's `meta` device, which makes every tensor's shape and no numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, UntypedStorage, nn


def on_meta(model: nn.Module, clip_shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """A copy of the model without numbers, and one clip of `clip_shape` for it.

    Raises ValueError for what is no model, and for a clip without numbers.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"{model!r} is no model; build it with posmlp.create_model")
    is_shape = isinstance(clip_shape, Sequence) and len(clip_shape) > 0
    if not is_shape or not all(isinstance(side, int) and side > 0 for side in clip_shape):
        raise ValueError(
            f"clip_shape={clip_shape!r} must be (C, T, H, W), or (C, H, W) of an image, in whole "
            "numbers of at least 1"
        )
    with torch.random.fork_rng(devices=[]):
        twin = copy.deepcopy(model).to("meta").requires_grad_()
    weight = next(twin.parameters(), torch.empty(0))
    return twin, torch.zeros(1, *clip_shape, dtype=weight.dtype, device="meta")


class Storages:
    """Blocks of memory told apart by identity: tensors on `meta` have no address."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self.held: dict[int, UntypedStorage] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.held[storage._cdata] = storage  # held, so that no other takes its identity

    def __contains__(self, storage: UntypedStorage) -> bool:
        return storage._cdata in self.held
