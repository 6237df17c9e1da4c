"""What the model of a configuration costs, by formula: nothing is built, so ten thousand are quick.

A test holds it against what `analysis.cost` counts in a trace of the model.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, prod

from posmlp.config import PosMLPConfig

Cost = tuple[int, int]
"""Parameters, and multiply-adds of one clip."""


def costs(config: PosMLPConfig) -> dict[str, float]:
    """`params`, `gmacs` of one clip in units of 1e9 multiply-adds, and `relation_params`.

    What is done once, however many clips follow, is no clip's cost, and norms, sums and u * v are
    not counted. Relation parameters are those of the gating units except their token biases.
    A model with own code is built, and counted in a pass of one clip by torch's counter.
    """
    if config.code:
        return dict(_counted(config))
    parts = [*_stem(config), _norm(config.dims[-1])]
    if config.num_classes:
        parts.append(_linear(config.dims[-1], config.num_classes, 1))
    relation_params = 0
    for i, (rows, columns) in enumerate(config.stage_sizes(*config.size)):
        if config.halves(i):
            before, dim = config.dims[i - 1 : i + 1]
            groups = before if config.downsample_depthwise else 1
            places = config.num_frames * rows * columns
            parts += [_conv(before, dim, 3, places, groups), _norm(dim)]
        for axes in [axes for step in config.steps(i) for axes in step] * config.depths[i]:
            relation, others = _branch(config, i, axes, config.num_frames * rows * columns)
            relation_params += relation[0]
            parts += [relation, *others]
    params, macs = (sum(each) for each in zip(*parts, strict=True))
    return {"params": params, "gmacs": macs / 1e9, "relation_params": relation_params}


@lru_cache(maxsize=1024)
def _counted(config: PosMLPConfig) -> dict[str, float]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from posmlp.checkpoint import outline
    from posmlp.model import Branch

    model = outline(config).eval()
    clip = torch.zeros(1, config.in_channels, config.num_frames, *config.size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clip)
    gates = [module.gate for module in model.modules() if isinstance(module, Branch)]
    learned = (each for gate in gates for each in gate.named_parameters())
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "gmacs": counter.get_total_flops() / 2e9,
        "relation_params": sum(p.numel() for name, p in learned if name != "token_bias"),
    }


def _stem(config: PosMLPConfig) -> list[Cost]:
    dim, (height, width), frames = config.dims[0], config.size, config.num_frames
    half = frames * ceil(height / 2) * ceil(width / 2)
    quarter = frames * ceil(ceil(height / 2) / 2) * ceil(ceil(width / 2) / 2)
    found = [_conv(config.in_channels, dim // 2, 3, half), _norm(dim // 2)]
    found += [_conv(dim // 2, dim, 3, quarter), _norm(dim)]
    return found + [_conv(dim, dim, 1, quarter), _norm(dim)] * (config.stem_convs == 3)


def _branch(
    config: PosMLPConfig, stage: int, axes: str, num_tokens: int
) -> tuple[Cost, list[Cost]]:
    """Of one branch over all of a clip's tokens in the stage: its relation, and everything else."""
    dim, mixed, window = config.dims[stage], config.gate_dim(stage), config.window(stage, axes)
    params, macs = _relation(config, window, mixed, config.num_groups[stage])
    others = [
        _norm(dim),
        _linear(dim, mixed if config.gate_form == "mix" else 2 * mixed, num_tokens),
        (prod(window) if config.token_bias else 0, 0),
        _linear(mixed, dim, num_tokens),
    ]
    return (params, macs * num_tokens // prod(window)), others


def _relation(config: PosMLPConfig, window: tuple[int, ...], dim: int, groups: int) -> Cost:
    """Parameters that make a unit's mixing weights, and products of mixing one window."""
    n, num_axes = prod(window), len(window)
    table, pairs = groups * prod(2 * side - 1 for side in window), n * n * dim
    spread = {"full": num_axes**2, "diagonal": num_axes, "scalar": 1}[config.gqpe_spread]
    taps = prod(min(config.conv_size, 2 * side - 1) for side in window)
    found: dict[str, Cost] = {
        "lrpe": (table, pairs),
        "gqpe": (groups * (num_axes + spread), pairs),
        "dense": (groups * n * n, pairs),
        "lrpe+dense": (table + n * n, pairs),
        "attention": (table + 2 * dim * dim + 2 * dim, 2 * n * dim * dim + 2 * pairs),
        "qkv-attention": (table + 3 * dim * dim + 5 * dim, 3 * n * dim * dim + 2 * pairs),
        "conv": (groups * taps, n * dim * taps),
        "mean": (0, 0),
        "none": (0, 0),
    }
    return found[config.gate.removeprefix("centred-")]  # type: ignore[union-attr]


def _conv(c_in: int, c_out: int, side: int, places: int, groups: int = 1) -> Cost:
    weights = c_in // groups * c_out * side * side
    return weights + c_out, weights * places


def _linear(c_in: int, c_out: int, tokens: int) -> Cost:
    return c_in * c_out + c_out, c_in * c_out * tokens


def _norm(channels: int) -> Cost:
    return 2 * channels, 0
