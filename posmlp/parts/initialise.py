"""How parameters start: linear layers, convolutions, and gating units.

The order of draws is part of what a seed means: a model's hash is tested for every gate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from posmlp.config import PosMLPConfig
from posmlp.config_checks import INITS, one_of

_OF_TENS = ("steady", "contrast")
"""Starts for models of tens of channels; the others are for hundreds."""


def init_linear(linear: nn.Linear, init: str = "normal") -> nn.Linear:
    """The same layer, its weights truncated normal and its biases 0.

    Weights have std 0.02, as released, which suits hundreds of channels; 0.05 under `steady` and
    `contrast`, for tens of channels.
    """
    nn.init.trunc_normal_(linear.weight, std=0.05 if init in _OF_TENS else 0.02)
    nn.init.zeros_(linear.bias)
    return linear


def init_conv(conv: nn.Conv2d, config: PosMLPConfig) -> nn.Conv2d:
    """The same layer as released: PyTorch's start (video), or that of a linear layer (image)."""
    if config.kind == "image" and conv.bias is not None:
        nn.init.trunc_normal_(conv.weight, std=0.02)
        nn.init.zeros_(conv.bias)
    return conv


@torch.no_grad()
def init_pixel_filters(conv: nn.Conv2d, config: PosMLPConfig) -> None:
    """Make the filters of pixels sum to 0 in place, under `contrast`; else leave them.

    They then answer to contrast and not to brightness, which tells nothing of movement. Of few
    random filters, as in a small model's stem, now and then most answer to it.
    """
    if config.init == "contrast":
        conv.weight.sub_(conv.weight.mean(dim=(1, 2, 3), keepdim=True))


def initialise(unit: Any, init: str) -> None:
    """Set a gating unit's parameters in place by one of `posmlp.config_checks.INITS`.

    - `released`: tables, dense matrices, kernels and token biases 0. mix(u) is 0, so with a
      multiplying gate each block starts as the identity, and on the first step only tables, token
      biases and fc2.bias have a gradient. Source: the released models, whose intended
      initialisation never runs.
    - `normal`: tables and the like truncated normal of std 0.02, as the released code intended.
    - `fan_in`: truncated normal of std N^-1/2, which keeps the variance of u through the mixing.
    - `unit_bias`: std 1e-3 and token biases 1, gMLP's start: the unit first passes v on.
    - `steady`: std 0.1; over time GQPE's centres are N(0, 1), in frames; a unit's own linear layers
      start anew, as those around it do (`init_linear`).
    - `contrast`: the same; the stem differs (`init_pixel_filters`).

    GQPE else starts at centres N(0, 0.01^2), and always at spreads identity + N(0, 0.01^2).
    """
    one_of(init, INITS, "init")
    fan_in = unit.num_tokens**-0.5
    stds = {"released": 0.0, "normal": 0.02, "fan_in": fan_in, "unit_bias": 1e-3}
    std = stds.get(init, 0.1)
    for name, parameter in unit.named_parameters():
        layer, last = name.rpartition(".")[::2]
        if last == "centers":
            over_time = len(unit.window) == 1
            nn.init.normal_(parameter, std=1.0 if init in _OF_TENS and over_time else 0.01)
        elif last == "spreads":
            nn.init.normal_(parameter, std=0.01)
            with torch.no_grad():
                parameter.add_(torch.eye(parameter.shape[-1]) if parameter.dim() == 3 else 1.0)
        elif last == "token_bias":
            nn.init.constant_(parameter, 1.0 if init == "unit_bias" else 0.0)
        elif not isinstance(unit.get_submodule(layer), nn.Linear | nn.LayerNorm):
            nn.init.trunc_normal_(parameter, std=std) if std else nn.init.zeros_(parameter)
    if init in _OF_TENS:
        for module in unit.modules():
            if isinstance(module, nn.Linear):
                init_linear(module, init)
