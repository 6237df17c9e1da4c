"""The configuration of a released model, from the shapes of its state dict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from posmlp.config import PosMLPConfig
from posmlp.presets import PRESETS

StateDict = Mapping[str, Tensor]
FIRST_KEYS = ("patch_embed1.proj1.weight", "patch_embed.projs.0.weight")
"""A key that every PosMLP-Video checkpoint has, and one that every PosMLP checkpoint has."""


def infer_config(state: StateDict) -> PosMLPConfig:
    """The configuration that a released state dict's shapes tell, or ValueError."""
    for first, infer in zip(FIRST_KEYS, (_infer_video, _infer_image), strict=True):
        if first in state:
            return infer(state)
    raise ValueError(
        "the keys are of neither released model: a PosMLP-Video checkpoint has {!r}, a PosMLP "
        "checkpoint {!r}; a model of this package is kept, with its config, by posmlp.save".format(
            *FIRST_KEYS
        )
    )


def _count(state: StateDict, pattern: str) -> int:
    """1 + the largest number that stands in the group of `pattern` at a key's start."""
    found = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1


def _infer_video(state: StateDict) -> PosMLPConfig:
    num_stages = _count(state, r"blocks(\d+)\.") - 1
    depths = tuple(_count(state, rf"blocks{s}\.(\d+)\.") for s in range(1, num_stages + 1))
    first = [f"blocks{s}.0." for s in range(1, num_stages + 1)]
    bias, table = "encoder.gate_unit.pos.token_proj_n_bias", "encoder.gate_unit.pos.window_"
    table += "relative_position_bias_table"
    frames = tuple(_shape(state, f"{b}t_fc.{bias}")[1] for b in first)
    windows = tuple(math.isqrt(_shape(state, f"{b}fc.{bias}")[1]) for b in first)
    return PosMLPConfig(
        num_classes=_num_classes(state),
        in_channels=_shape(state, "patch_embed1.proj1.weight")[1],
        num_frames=math.lcm(*frames),
        image_size=_smallest_image(windows),
        depths=depths,
        dims=tuple(_shape(state, f"{b}fc.encoder.fc2.weight")[0] for b in first),
        num_groups=tuple(_shape(state, f"{b}fc.{table}")[1] for b in first),
        windows=windows,
        temporal_windows=frames,
        downsample=tuple(f"patch_embed{s}.proj.weight" in state for s in range(2, num_stages + 1)),
        init="released",
    )


def _infer_image(state: StateDict) -> PosMLPConfig:
    num_stages = _count(state, r"levels\.(\d+)\.")
    first = [f"levels.{s}.encoder.0." for s in range(num_stages)]
    unit = f"{first[0]}gate_unit."
    gqpe = f"{unit}pos.attention_centers" in state
    dense = f"{unit}token_proj_n_weight" in state
    groups = "pos.attention_centers" if gqpe else "pos.window_relative_position_bias_table"
    group_axis = 0 if gqpe else 1
    windows = tuple(
        math.isqrt(_shape(state, f"{b}gate_unit.pos.token_proj_n_bias")[1]) for b in first
    )
    dims = tuple(_shape(state, f"{b}proj_c_s.weight")[0] for b in first)
    full = gqpe and state[f"{unit}pos.attention_spreads"].dim() == 3
    depthwise = num_stages > 1 and _shape(state, "levels.1.pool.conv.weight")[1] == 1 < dims[0]
    return replace(
        PRESETS["image-t"],
        num_classes=_num_classes(state),
        in_channels=_shape(state, "patch_embed.projs.0.weight")[1],
        image_size=_smallest_image(windows),
        depths=tuple(_count(state, rf"levels\.{s}\.encoder\.(\d+)\.") for s in range(num_stages)),
        dims=dims,
        num_groups=tuple(_shape(state, f"{b}gate_unit.{groups}")[group_axis] for b in first),
        windows=windows,
        temporal_windows=None,
        gate="gqpe" if gqpe else "lrpe+dense" if dense else "lrpe",
        gqpe_spread="full" if full or not gqpe else "scalar",
        mlp_ratio=tuple(
            _shape(state, f"{b}proj_c_e.weight")[0] / dim
            for b, dim in zip(first, dims, strict=True)
        ),
        stem_norm="batch" if "patch_embed.norms.0.running_mean" in state else "layer",
        downsample=True,
        downsample_norm="batch" if "levels.1.pool.norm.running_mean" in state else "layer",
        downsample_depthwise=depthwise,
        drop_path=0.0,
    )


def _shape(state: StateDict, key: str) -> torch.Size:
    if key not in state:
        raise ValueError(
            f"missing key {key!r}, from whose shape the configuration would be read; this is a "
            "checkpoint of another model, or give its config"
        )
    return state[key].shape


def _num_classes(state: StateDict) -> int:
    return _shape(state, "head.weight")[0] if "head.weight" in state else 0


def _smallest_image(windows: tuple[int, ...]) -> int:
    """The smallest square image whose stages all windows divide."""
    return math.lcm(*(4 * 2**stage * window for stage, window in enumerate(windows)))
