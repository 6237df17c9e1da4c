"""All gates by name, and the one that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from posmlp.config import PosMLPConfig
from posmlp.config_checks import is_own
from posmlp.gates.attention import AttentionGate, QKVAttentionGate
from posmlp.gates.centred import CentredAttention, CentredGQPE, CentredMean
from posmlp.gates.controls import MeanGate, NoMixing
from posmlp.gates.convolution import ConvGate
from posmlp.gates.dense import Dense, LRPEPlusDense
from posmlp.gates.gqpe import GQPE
from posmlp.gates.row_bank import RowBankUnit, is_large
from posmlp.gating import GatingUnit, PositionalGatingUnit
from posmlp.parts.initialise import initialise
from posmlp.parts.own_parts import own_gate
from posmlp.positions import LRPE


def tied(
    dim: int, window: tuple[int, ...], num_groups: int = 1, **options: Any
) -> PositionalGatingUnit:
    """The paper's unit, built for its size: a large joint window makes its relation by frames."""
    unit = RowBankUnit if is_large(window, num_groups) else PositionalGatingUnit
    return unit(dim, window, num_groups, **options)


GATES: dict[str, Callable[..., GatingUnit]] = {
    "lrpe": partial(tied, relation=LRPE),
    "gqpe": partial(tied, relation=GQPE),
    "dense": partial(PositionalGatingUnit, relation=Dense),
    "lrpe+dense": partial(tied, relation=LRPEPlusDense),
    "attention": AttentionGate,
    "conv": ConvGate,
    "mean": MeanGate,
    "none": NoMixing,
    "qkv-attention": QKVAttentionGate,
    "centred-attention": CentredAttention,
    "centred-gqpe": partial(tied, relation=CentredGQPE),
    "centred-mean": CentredMean,
}


def make_gate(
    config: PosMLPConfig, dim: int, window: tuple[int, ...], num_groups: int
) -> nn.Module:
    """The gating unit that `config` names, initialised; a caller's own does so itself."""
    if callable(config.gate):
        return config.gate(dim, window, num_groups, **config.gate_options)
    if is_own(config.gate):
        return own_gate(config, dim, window, num_groups)
    options: dict[str, Any] = {"form": config.gate_form, "token_bias": config.token_bias}
    if config.gate in ("gqpe", "centred-gqpe"):
        options |= {
            "spread": config.gqpe_spread,
            "symmetric": config.gqpe_symmetric,
            "softmax": config.gqpe_softmax,
        }
    if config.gate == "conv":
        options["size"] = config.conv_size
    gate = GATES[config.gate](dim, window, num_groups, **options)
    initialise(gate, config.init)
    return gate
