"""A caller's model, used for a while and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from posmlp.checkpoint import in_turn

Model = TypeVar("Model", bound=nn.Module)


def unwrapped(model: Model) -> Model:
    """What a compiled or data-parallel model wraps, which computes the same; else the model."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner  # type: ignore[assignment]


@contextmanager
def borrowed(model: nn.Module, *, steps: bool = False) -> Iterator[None]:
    """In eval mode without gradients of parameters; afterwards the model is as it was.

    Another thread that wants the same model waits until it is back.

    That is the mode of each module, what parameters want and hold of gradients, and buffers, such
    as batch norm's running statistics. `steps`: training steps are taken, in whatever mode; no
    parameter holds a gradient at first, and none may be updated.
    """
    with in_turn(model):
        yield from _borrow(model, steps)


def _borrow(model: nn.Module, steps: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    learning = [(each, each.requires_grad, each.grad) for each in model.parameters()]
    kept = model.state_dict().keys() if steps else ()
    buffers = [(each, each.clone()) for name, each in model.named_buffers() if name in kept]
    try:
        if steps:
            model.zero_grad(set_to_none=True)
        else:
            model.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, wanted, gradient in learning:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
