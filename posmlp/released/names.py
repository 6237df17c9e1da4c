"""What the released repositories call each of our parameters, and in which shape they store it."""

from __future__ import annotations

import math
import re

from torch import Tensor

# Buffers that positions alone determine, and torch's count of the models that it has averaged.
DERIVED = re.compile(r"(window_relative_position_index|rel_indices|^n_averaged)$")
_PARTS = {
    "gate.token_bias": "gate_unit.pos.token_proj_n_bias",
    "gate.positions.table": "gate_unit.pos.window_relative_position_bias_table",
    "gate.positions.centers": "gate_unit.pos.attention_centers",
    "gate.positions.spreads": "gate_unit.pos.attention_spreads",
    "gate.positions.weight": "gate_unit.token_proj_n_weight",
}
_IMAGE_LINEARS = {"fc1": "proj_c_e", "fc2": "proj_c_s"}
_BRANCH = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.steps\.0\.(T|S)\.(.+)")


def released_name(key: str, kind: str) -> str:
    """The released repositories' name of one of our state-dict keys; `kind` is video or image."""
    if match := re.fullmatch(r"stem\.(conv|norm)s\.(\d)\.(\w+)", key):
        part, i, leaf = "proj" if match[1] == "conv" else "norm", int(match[2]), match[3]
        if kind == "image":
            return f"patch_embed.{part}s.{i}.{leaf}"
        return f"patch_embed1.{part}{i + 1}.{leaf}"
    if match := re.fullmatch(r"downsamples\.(\d+)\.(conv|norm)\.(\w+)", key):
        i, part, leaf = int(match[1]), match[2], match[3]
        if kind == "image":
            return f"levels.{i + 1}.pool.{part}.{leaf}"
        return f"patch_embed{i + 2}.{'proj' if part == 'conv' else part}.{leaf}"
    if match := _BRANCH.fullmatch(key):
        stage, block, axes, part = int(match[1]), match[2], match[3], match[4]
        part = _PARTS.get(part, part)
        if kind == "image":
            module, _, leaf = part.partition(".")
            return f"levels.{stage}.encoder.{block}.{_IMAGE_LINEARS.get(module, module)}.{leaf}"
        branch = {"T": "t_fc", "S": "fc"}[axes]
        return f"blocks{stage + 1}.{block}.{branch}.encoder.{part}"
    if key.startswith(("norm.", "head.")):
        return key
    raise ValueError(
        f"{key!r} has no counterpart in the released models: they have layout 'T+S' (video) or 'S' "
        "(image) and gates lrpe, gqpe or lrpe+dense; give load_released such a config"
    )


def released_shape(name: str, ours: Tensor) -> tuple[int, ...]:
    """The shape in the released file of the tensor that is `ours` here."""
    if name.endswith("bias_table"):
        return (math.prod(ours.shape[1:]), ours.shape[0])
    if name.endswith("token_proj_n_bias"):
        return (1, *ours.shape)
    if ours.dim() == 4 and ".proj" in name and "projs" not in name:
        return (*ours.shape[:2], 1, *ours.shape[2:])
    return tuple(ours.shape)


def as_ours(name: str, released: Tensor, ours: Tensor) -> Tensor:
    return (released.T if name.endswith("bias_table") else released).reshape(ours.shape)
