"""What a model costs: parameters, multiply-adds and activation memory of one clip.

Counted exactly: convolutions, linear and recurrent layers, and the mixing of tokens. Not counted:
norms, GELU, sums, u * v. One multiply-add is what other tools call two FLOPs.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch import nn

from analysis.bias.maps import units
from analysis.borrow import unwrapped
from analysis.cost.count import count_macs
from analysis.cost.memory import activation_memory
from posmlp.checkpoint import copied
from posmlp.config import PosMLPConfig
from posmlp.config_checks import GATE_NAMES, one_of
from posmlp.model import OwnModel, PosMLPVideo, create_model


def cost(
    model_or_config: nn.Module | PosMLPConfig | str,
    *,
    clip_shape: tuple[int, ...] | None = None,
    memory: bool = True,
) -> dict[str, Any]:
    """Parameters, multiply-adds and activation memory of one clip.

    The model's forward pass is traced once in eval mode, on zeros. What no clip enters into is not
    counted, since it is done once however many clips follow: `gqpe` making its table from centres
    and spreads, `attention` laying out its bias. What it costs to *use* them is: `gqpe` counts the
    same multiply-adds as `lrpe`.

    Parameters
    ----------
    model_or_config : Module, PosMLPConfig or str
        A model (a `meta` one too), a configuration, or a preset's name.
    clip_shape : (C, T, H, W), optional
        Of the clip; by default what the model's configuration says. Models of other makers need it.
    memory : bool
        Whether activation memory is found, too; it takes most of the time.

    Returns
    -------
    dict
        params : int, all parameters.
        macs : int, multiply-adds of one clip; gmacs : float, the same in units of 1e9.
        by_module : DataFrame (module, type, params, macs), a row a module that has any of its
        own; what lies in its submodules is in their rows, so that the columns sum to the totals.
        Mixing stands at the gating unit, `stages.0.blocks.0.steps.0.T.gate`.
        saved_bytes : int, activations that a training step keeps for its backward pass;
        peak_bytes : int, activations alive at once in inference: see `activation_memory`.
        Of our own models also relation_params : int, parameters that make mixing weights: all of
        the gating units' except their token biases; and num_tokens : tuple of int, tokens of a
        clip in each stage.

    Raises
    ------
    ValueError
        If a notebook's own gate, or another maker's model, uses an operation that may have products
        and cannot be counted, or that model comes without clip_shape; for a clip_shape that does
        not fit, and for what is no model, configuration or preset.

    Source: the trace is fvcore's, the count of each operation `analysis.cost.count`'s; a test holds
    twice the sum against torch's own counter, exactly.
    """
    model = _countable(model_or_config)
    shape = clip_shape_of(model) if clip_shape is None else clip_shape
    # First, since it tells of a shape that does not fit.
    activations = activation_memory(model, shape) if memory else {}
    rows = _count_by_module(model, shape)
    macs = sum(row["macs"] for row in rows)
    counted = {
        "params": sum(row["params"] for row in rows),
        "macs": macs,
        "gmacs": macs / 1e9,
        "by_module": pd.DataFrame(rows, columns=["module", "type", "params", "macs"]),
        **activations,
    }
    if not isinstance(model, PosMLPVideo) or isinstance(model, OwnModel):
        return counted
    return counted | _of_our_own(model, shape)


@lru_cache(maxsize=2**14)
def counts(config: PosMLPConfig) -> dict[str, float]:
    """params, gmacs and relation_params by `cost`; a configuration is counted once a process."""
    found = cost(config, memory=False)
    return {name: found.get(name, 0) for name in ("params", "gmacs", "relation_params")}


def clip_shape_of(model: nn.Module) -> tuple[int, ...]:
    """(C, T, H, W), or (C, H, W), of the clips that a model's configuration names.

    Raises ValueError for a model without a configuration.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"{type(model).__name__} has no config; give clip_shape=(C, T, H, W)")
    frames = () if config.kind == "image" else (config.num_frames,)
    return (config.in_channels, *frames, *config.size)


def _of_our_own(model: PosMLPVideo, clip_shape: tuple[int, ...]) -> dict[str, Any]:
    """What only our own models have: relations and stages of tokens."""
    frames = 1 if model.config.kind == "image" else clip_shape[1]
    sizes = model.config.stage_sizes(*clip_shape[-2:])
    return {
        "relation_params": sum(
            parameter.numel()
            for place in units(model)
            for name, parameter in place.unit.named_parameters()
            if name != "token_bias"
        ),
        "num_tokens": tuple(frames * rows * columns for rows, columns in sizes),
    }


def relation_params(
    gate: str,
    window: tuple[int, ...],
    num_groups: int,
    dim: int,
    *,
    conv_size: int = 3,
    gqpe_spread: str = "full",
) -> int:
    """Parameters that make a unit's mixing weights, by formula; token biases are not among them.

    With G groups, C mixed channels, N tokens and D offsets, the products of w and of 2w - 1 over
    the window's a axes: `lrpe` G D; `gqpe` G (a + s), with a centre and a spread of s = a^2 (full),
    a (diagonal) or 1 (scalar) numbers a group; `dense` G N^2; `lrpe+dense` G D + N^2; `attention` G
    D + 2 C^2 + 2 C, its table and its projection to queries and keys; `qkv-attention` C^2 + 3 C
    more; `conv` G k, with k taps, the product of min(conv_size, 2w - 1); `mean` and `none` 0; a
    centred gate what the other has.

    `window`: (T,), (H, W) or (T, H, W) tokens; `dim`: C. Returns a count. Raises ValueError for an
    unknown gate. Source: the shapes in `posmlp.positions` and `posmlp.gating`; a test holds this
    against the models' parameters.
    """
    one_of(gate, GATE_NAMES, "gate")
    num_tokens, num_axes = math.prod(window), len(window)
    table = num_groups * math.prod(2 * side - 1 for side in window)
    spread = {"full": num_axes**2, "diagonal": num_axes, "scalar": 1}[gqpe_spread]
    return {
        "lrpe": table,
        "gqpe": num_groups * (num_axes + spread),
        "dense": num_groups * num_tokens**2,
        "lrpe+dense": table + num_tokens**2,
        "attention": table + 2 * dim * dim + 2 * dim,  # the query and key projection
        "qkv-attention": table + 3 * dim * dim + 5 * dim,  # the values' too, and the norm
        "conv": num_groups * _taps(window, conv_size),
        "mean": 0,
        "none": 0,
    }[gate.removeprefix("centred-")]


def relation_macs(gate: str, window: tuple[int, ...], dim: int, *, conv_size: int = 3) -> int:
    """Multiply-adds of mixing one window, by formula: N^2 C for any relation, however it is made.

    N tokens, C = `dim` channels. `attention` pays 2 N C^2 for queries and keys, N^2 C for their
    products and N^2 C for the weighted sum; `qkv-attention` N C^2 more for values; `conv` N C k
    with k taps; `mean` and `none` have no products, nor has centring. Groups do not appear: they
    cost parameters, never multiply-adds. Returns a count. Raises ValueError for an unknown gate.
    Source: as `relation_params`; a test holds it against the trace.
    """
    one_of(gate, GATE_NAMES, "gate")
    num_tokens = math.prod(window)
    return dim * {
        "attention": 2 * num_tokens * dim + 2 * num_tokens**2,
        "qkv-attention": 3 * num_tokens * dim + 2 * num_tokens**2,
        "conv": num_tokens * _taps(window, conv_size),
        "mean": 0,
        "none": 0,
    }.get(gate.removeprefix("centred-"), num_tokens**2)


def _taps(window: tuple[int, ...], conv_size: int) -> int:
    return math.prod(min(conv_size, 2 * side - 1) for side in window)


def _countable(model_or_config: nn.Module | PosMLPConfig | str) -> nn.Module:
    """A model whose tensors are real: fvcore cannot trace one on `meta`."""
    if isinstance(model_or_config, nn.Module):
        model_or_config = unwrapped(model_or_config)
        if not any(tensor.is_meta for tensor in model_or_config.parameters()):
            return model_or_config
        if not isinstance(model_or_config, PosMLPVideo):
            return copied(model_or_config).to_empty(device="cpu")
        model_or_config = model_or_config.config
    if not isinstance(model_or_config, PosMLPConfig | str):
        raise ValueError(
            f"cost of {reprlib.repr(model_or_config)}: give a model, a PosMLPConfig (from a "
            "dictionary: PosMLPConfig.from_dict) or a preset's name"
        )
    with torch.random.fork_rng(devices=[]):  # drawing weights must not move the caller's seed
        return create_model(model_or_config)


def _count_by_module(model: nn.Module, clip_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """For each module with parameters or multiply-adds of its own: its name, type and counts."""
    inclusive = count_macs(model, clip_shape)
    own = Counter(inclusive)
    for name, macs in inclusive.items():
        if name:
            own[name.rpartition(".")[0]] -= macs
    rows: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        new = {*module.parameters(recurse=False)} - seen  # what two share is the first one's
        seen |= new
        params = sum(parameter.numel() for parameter in new)
        if params or own[name]:
            row = {"module": name, "type": type(module).__name__}
            rows.append({**row, "params": params, "macs": own[name]})
    return rows
