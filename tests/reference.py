"""The released PosMLP models as plain functions of a released state dict.

An independent second formulation, the straightforward one: windows are cut out as their own axis,
the whole relation matrix is gathered from its table, and an einsum over (group, query, key) mixes
the tokens. Tests hold `posmlp` against it; `python -m analysis bench` times `posmlp` against it.

Every size (stages, depth, windows, groups) is read from the shapes in the state dict.
Letters: B batch, T H W frames, rows, columns, C channels, N tokens of a window, m query (output),
n key (input), g groups, v channels of a group; channel c = v * num_groups + g.
Source: zhouds1918/PosMLP_Video (video), Zhicaiwww/PosMLP (image); formulas only, no code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def within(state: State, prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with `prefix`, which is cut off."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def index_1d(length: int) -> Tensor:
    """Row of the bias table for each (query, key) of a line: query - key + length - 1."""
    place = torch.arange(length)
    return place[:, None] - place[None, :] + length - 1


def index_2d(side: int) -> Tensor:
    """Row of the bias table for each (query, key) of a square window, row-major."""
    row, column = torch.arange(side * side) // side, torch.arange(side * side) % side
    rows = row[:, None] - row[None, :] + side - 1
    columns = column[:, None] - column[None, :] + side - 1
    return rows * (2 * side - 1) + columns


def lrpe(table: Tensor, num_tokens: int, spatial: bool) -> Tensor:
    """(G, N, N) mixing weights of a table (L, G)."""
    index = index_2d(math.isqrt(num_tokens)) if spatial else index_1d(num_tokens)
    return table[index.to(table.device)].permute(2, 0, 1)


def gqpe(
    centres: Tensor, spreads: Tensor, num_tokens: int, symmetric: bool = True, softmax: bool = True
) -> Tensor:
    """(G, N, N) mixing weights of the image paper's generalised quadratic encoding.

    `centres` (G, 2); `spreads` (G, 2, 2), or (G,) for the plain kind, whose quadratic term the
    released code leaves without the factor. x is key - query, y is query - key, as released.
    """
    side = math.isqrt(num_tokens)
    place = torch.arange(num_tokens, device=centres.device)
    row, column = place // side, place % side
    x = (column[None, :] - column[:, None]).to(centres.dtype)
    y = (row[:, None] - row[None, :]).to(centres.dtype)
    d1, d2 = centres[:, 0, None, None], centres[:, 1, None, None]
    if spreads.ndim == 1:
        scale = spreads[:, None, None] ** 2
        score = scale * d1 * x + scale * d2 * y - (x**2 + y**2) / 2
    else:
        matrix = spreads @ spreads.mT if symmetric else spreads
        a, b, e, c = matrix.flatten(1)[:, :, None, None].unbind(1)
        linear = (a * d1 + b * d2) * x + (c * d2 + e * d1) * y
        score = linear - (a * x**2 + c * y**2 + (b + e) * x * y) / 2
    return score.softmax(-1) if softmax else score


@dataclass(frozen=True)
class Variant:
    """What the shapes of a state dict do not tell: GQPE's switches."""

    symmetric: bool = True
    softmax: bool = True


RELEASED = Variant()


def relation(pos: State, spatial: bool, variant: Variant = RELEASED) -> Tensor:
    """(G, N, N) of a position module's state."""
    num_tokens = pos["token_proj_n_bias"].shape[1]
    if "attention_centers" in pos:
        centres, spreads = pos["attention_centers"], pos["attention_spreads"]
        return gqpe(centres, spreads, num_tokens, variant.symmetric, variant.softmax)
    return lrpe(pos["window_relative_position_bias_table"], num_tokens, spatial)


def mix_positions(
    pos: State,
    u: Tensor,
    spatial: bool,
    weight: Tensor | None = None,
    variant: Variant = RELEASED,
) -> Tensor:
    """Mixed tokens of u (..., N, C), same shape; `weight` (1, N, N) is added to every group."""
    matrix = relation(pos, spatial, variant)
    if weight is not None:
        matrix = matrix + weight
    num_groups = matrix.shape[0]
    grouped = u.flatten(0, -3).unflatten(-1, (-1, num_groups))  # (b, N, v, g)
    mixed = torch.einsum("gmn,bnvg->bmvg", matrix, grouped)
    return mixed.reshape(u.shape) + pos["token_proj_n_bias"]


def gate(unit: State, h: Tensor, spatial: bool, variant: Variant = RELEASED) -> Tensor:
    """mix(u) * v for h = (u, v) on the last axis: (..., N, 2C) -> (..., N, C)."""
    u, v = h.chunk(2, dim=-1)
    weight = unit.get("token_proj_n_weight")
    return mix_positions(within(unit, "pos."), u, spatial, weight, variant) * v


def branch(
    layer: State,
    x: Tensor,
    spatial: bool,
    linears: tuple[str, str] = ("fc1", "fc2"),
    eps: float = 1e-5,
    variant: Variant = RELEASED,
) -> Tensor:
    """Norm, widen, GELU, gate, narrow; no residual. (..., N, C) -> (..., N, C)."""
    widen, narrow = linears
    h = F.layer_norm(x, x.shape[-1:], layer["norm.weight"], layer["norm.bias"], eps)
    h = F.gelu(F.linear(h, layer[f"{widen}.weight"], layer[f"{widen}.bias"]))
    h = gate(within(layer, "gate_unit."), h, spatial, variant)
    return F.linear(h, layer[f"{narrow}.weight"], layer[f"{narrow}.bias"])


def to_windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (B, windows, side * side, C), row-major both ways."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, -1, side * side, c)


def from_windows(x: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`."""
    b, _, _, c = x.shape
    x = x.reshape(b, height // side, width // side, side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, height, width, c)


def temporal_level(level: State, x: Tensor) -> Tensor:
    """The temporal branch on (B, T, H, W, C): every place's frames are one window."""
    b, t, h, w, c = x.shape
    windows = x.permute(0, 2, 3, 1, 4).reshape(b, h * w, t, c)
    out = branch(within(level, "encoder."), windows, spatial=False)
    return out.reshape(b, h, w, t, c).permute(0, 3, 1, 2, 4)


def spatial_level(level: State, x: Tensor) -> Tensor:
    """The spatial branch on (B, T, H, W, C): every frame is cut into square windows."""
    b, t, h, w, _ = x.shape
    side = math.isqrt(level["encoder.gate_unit.pos.token_proj_n_bias"].shape[1])
    windows = to_windows(x.flatten(0, 1), side)
    out = branch(within(level, "encoder."), windows, spatial=True)
    return from_windows(out, side, h, w).unflatten(0, (b, t))


def block(state: State, x: Tensor) -> Tensor:
    """x + S(x) + T(x) on (B, T, H, W, C); no stochastic depth."""
    return x + spatial_level(within(state, "fc."), x) + temporal_level(within(state, "t_fc."), x)


def batch_norm(norm: State, x: Tensor, eps: float, training: bool = False) -> Tensor:
    """Batch norm over axis 1; while training it also moves the running statistics in place."""
    mean, var = norm["running_mean"], norm["running_var"]
    return F.batch_norm(x, mean, var, norm["weight"], norm["bias"], training, 0.1, eps)


def video_stem(state: State, x: Tensor, training: bool = False) -> Tensor:
    """(B, 3, T, H, W) -> (B, C, T, ceil(ceil(H/2)/2), ceil(ceil(W/2)/2))."""
    for i in (1, 2):
        weight, bias = state[f"proj{i}.weight"], state[f"proj{i}.bias"]
        x = F.conv3d(x, weight, bias, stride=(1, 2, 2), padding=(0, 1, 1))
        x = batch_norm(within(state, f"norm{i}."), x, 1e-5, training)
        x = F.gelu(x) if i == 1 else x
    return x


def video_downsample(state: State, x: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B, T, ceil(H/2), ceil(W/2), C')."""
    x = x.permute(0, 4, 1, 2, 3)
    x = F.conv3d(x, state["proj.weight"], state["proj.bias"], stride=(1, 2, 2), padding=(0, 1, 1))
    x = x.permute(0, 2, 3, 4, 1)
    return F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"])


def numbered(state: State) -> Iterator[dict[str, Tensor]]:
    """The states under `0.`, `1.`, and so on."""
    for i in range(len({key.split(".")[0] for key in state})):
        yield within(state, f"{i}.")


def video_model(state: State, clips: Tensor, training: bool = False) -> dict[str, Tensor]:
    """Every stage of the released video model, and `logits`, for clips (B, 3, T, H, W)."""
    x = video_stem(within(state, "patch_embed1."), clips, training)
    taps = {"stem": x}
    x = x.permute(0, 2, 3, 4, 1)
    for stage in range(1, 5):
        if down := within(state, f"patch_embed{stage}.") if stage > 1 else {}:
            x = taps[f"down{stage}"] = video_downsample(down, x)
        for one in numbered(within(state, f"blocks{stage}.")):
            x = block(one, x)
        taps[f"stage{stage}"] = x
    x = F.layer_norm(x.flatten(1, 3), x.shape[-1:], state["norm.weight"], state["norm.bias"])
    taps["final_norm"] = x
    taps["logits"] = F.linear(x.mean(1), state["head.weight"], state["head.bias"])
    return taps


def image_norm(norm: State, x: Tensor, training: bool = False) -> Tensor:
    """Batch norm where the state has running statistics, else layer norm over channels."""
    if "running_mean" in norm:
        return batch_norm(norm, x, 1e-6, training)
    x = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], norm["weight"], norm["bias"], 1e-6)
    return x.permute(0, 3, 1, 2)


def image_stem(state: State, x: Tensor, training: bool = False) -> Tensor:
    """(B, 3, H, W) -> (B, C, H/4, W/4): two stride-2 convolutions, then a pointwise one."""
    for i, (stride, padding) in enumerate([(2, 1), (2, 1), (1, 0)]):
        weight, bias = state[f"projs.{i}.weight"], state[f"projs.{i}.bias"]
        x = F.conv2d(x, weight, bias, stride=stride, padding=padding)
        x = image_norm(within(state, f"norms.{i}."), x, training)
        x = x if i == 2 else F.gelu(x)
    return x


def image_level(
    state: State, x: Tensor, variant: Variant = RELEASED, training: bool = False
) -> Tensor:
    """(B, C, H, W) -> (B, C', H', W'): the convolution where there is one, then the layers."""
    if pool := within(state, "pool."):
        weight = pool["conv.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, pool["conv.bias"], stride=2, padding=1, groups=groups)
        x = image_norm(within(pool, "norm."), x, training)
    layers = list(numbered(within(state, "encoder.")))
    side = math.isqrt(layers[0]["gate_unit.pos.token_proj_n_bias"].shape[1])
    _, _, height, width = x.shape
    x = to_windows(x.permute(0, 2, 3, 1), side)
    for layer in layers:
        x = x + branch(layer, x, True, ("proj_c_e", "proj_c_s"), 1e-6, variant)
    return from_windows(x, side, height, width).permute(0, 3, 1, 2)


def image_model(
    state: State, images: Tensor, variant: Variant = RELEASED, training: bool = False
) -> dict[str, Tensor]:
    """Every level of the released image model, and `logits`, for images (B, 3, H, W)."""
    x = image_stem(within(state, "patch_embed."), images, training)
    taps = {"stem": x}
    for i, level in enumerate(numbered(within(state, "levels."))):
        x = taps[f"level{i}"] = image_level(level, x, variant, training)
    x = x.permute(0, 2, 3, 1)
    x = F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"], 1e-6)
    taps["final_norm_NHWC"] = x
    taps["logits"] = F.linear(x.mean((1, 2)), state["head.weight"], state["head.bias"])
    return taps


def random_state(
    shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Values for the named shapes: nothing zero or one, variances positive, scales that keep x.

    All are float32 numbers, as in a released file, whatever the dtype that holds them.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            value = 0.5 + value.square()
        elif name.endswith("spreads"):
            value = 0.3 * value + (torch.eye(2) if len(shape) == 3 else 1.0)
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.3 * value
        elif name.endswith("weight") and len(shape) > 1:
            value = value / math.sqrt(math.prod(shape[1:]))
        else:
            value = 0.3 * value
        state[name] = value.float().to(dtype)
    return state


def _norm_shapes(name: str, dim: int, batch: bool) -> dict[str, tuple[int, ...]]:
    kinds = ["weight", "bias", *(["running_mean", "running_var"] if batch else [])]
    shapes: dict[str, tuple[int, ...]] = {f"{name}.{kind}": (dim,) for kind in kinds}
    return shapes | ({f"{name}.num_batches_tracked": ()} if batch else {})


def _linear_shapes(name: str, *weight: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _branch_shapes(prefix: str, dim: int, window: tuple[int, ...], groups: int) -> dict:
    num_tokens, num_offsets = math.prod(window), math.prod(2 * side - 1 for side in window)
    pos = f"{prefix}gate_unit.pos."
    return {
        **_norm_shapes(f"{prefix}norm", dim, False),
        f"{pos}token_proj_n_bias": (1, num_tokens, 1),
        f"{pos}window_relative_position_bias_table": (num_offsets, groups),
        **_linear_shapes(f"{prefix}fc2", dim, dim),
        **_linear_shapes(f"{prefix}fc1", 2 * dim, dim),
    }


def video_shapes(
    depths: tuple[int, ...],
    dims: tuple[int, ...],
    windows: tuple[int, ...],
    num_frames: int,
    num_groups: tuple[int, ...],
    num_classes: int,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released video state dict, without its index buffers."""
    half = dims[0] // 2
    shapes: dict[str, tuple[int, ...]] = {
        **_linear_shapes("patch_embed1.proj1", half, 3, 1, 3, 3),
        **_norm_shapes("patch_embed1.norm1", half, True),
        **_linear_shapes("patch_embed1.proj2", dims[0], half, 1, 3, 3),
        **_norm_shapes("patch_embed1.norm2", dims[0], True),
    }
    for i, (depth, dim, side, groups) in enumerate(
        zip(depths, dims, windows, num_groups, strict=True)
    ):
        if i:
            shapes |= _linear_shapes(f"patch_embed{i + 1}.proj", dim, dims[i - 1], 1, 3, 3)
            shapes |= _norm_shapes(f"patch_embed{i + 1}.norm", dim, False)
        for j in range(depth):
            block_name = f"blocks{i + 1}.{j}."
            shapes |= _branch_shapes(f"{block_name}t_fc.encoder.", dim, (num_frames,), groups)
            shapes |= _branch_shapes(f"{block_name}fc.encoder.", dim, (side, side), groups)
    shapes |= _norm_shapes("norm", dims[-1], False)
    return shapes | _linear_shapes("head", num_classes, dims[-1])
