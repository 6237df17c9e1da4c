"""Ways of computing a model that change time and memory but not the mathematics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from posmlp.model import Block, PosMLPVideo
from posmlp.train.distributed import Team, synchronise_batch_norm

Prepare = Callable[[PosMLPVideo], None]


def preparation(team: Team, checkpoint_activations: bool, compiled: bool) -> Prepare | None:
    """What makes a model compute so, in place; None where nothing is asked.

    `checkpoint_activations`: keep only each block's input, and compute the block again when its
    gradient is due: about a third more time for a fraction of the memory. `compiled`: every block
    goes through torch.compile, which needs a C++ compiler on a CPU and Triton on a GPU.
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
