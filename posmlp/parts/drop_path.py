"""Stochastic depth: in training, a residual step leaves some clips as they are.

Shapes: B clips.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from posmlp.config import PosMLPConfig


def drop_rates(drop_path: float, num_blocks: int) -> list[float]:
    """The probability that a block's steps drop a clip: from 0 linearly to `drop_path`."""
    rates: list[float] = torch.linspace(0, drop_path, num_blocks, device="cpu").tolist()
    return rates


def keep_rates(config: PosMLPConfig) -> Tensor:
    """(steps,): the probability that a residual step keeps a clip's update.

    All steps of a block share its rate.
    """
    rates = iter(drop_rates(config.drop_path, sum(config.depths)))
    return 1 - torch.tensor(
        [
            rate
            for stage, depth in enumerate(config.depths)
            for rate in islice(rates, depth)
            for _ in config.steps(stage)
        ]
    )


def drop_path(update: Tensor, rate: float, scale: Tensor | None = None) -> Tensor:
    """An update (B, ...) times a factor a clip: 0 with probability `rate`, else 1 / (1 - rate).

    `scale` (B,), if given, has these factors already.
    """
    if scale is None:
        if rate == 0:
            return update
        scale = (torch.rand(len(update), device=update.device) >= rate) / (1 - rate)
    return update * scale.to(update.dtype).view(-1, *(1 for _ in update.shape[1:]))
