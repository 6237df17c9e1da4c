"""PosMLP-Video and the image PosMLP, from one set of parts.

Read after `positions.py` and `gating.py`. Stem, image input and stochastic depth are in `parts/`.

Shapes: B clips, T frames, H x W tokens, C channels. Inside a stage a clip's tokens lie in P windows
of n = window * window places, (B, P, T, n, C); temporal windows have t of the T frames.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from posmlp.config import PosMLPConfig
from posmlp.gates.registry import make_gate
from posmlp.parts.drop_path import drop_path, drop_rates
from posmlp.parts.initialise import init_linear
from posmlp.parts.inputs import TakesImages, check_clips
from posmlp.parts.own_parts import OwnBranch, WholeModel
from posmlp.parts.stem import Downsample, Stem
from posmlp.presets import resolve


class Branch(nn.Module):
    """norm, fc1, GELU, gating unit, fc2 over one kind of window: (B, P, T, n, C) -> the same.

    `T` mixes over t frames at each place, `S` over the n places of each frame, `ST` over both.
    fc1 makes u and v of a token, and the gate one of the two. Source: section 3 of the paper.
    """

    def __init__(self, config: PosMLPConfig, stage: int, axes: str) -> None:
        super().__init__()
        dim, mixed, window = config.dims[stage], config.gate_dim(stage), config.window(stage, axes)
        self.axes, self.frames = axes, config.temporal_windows[stage]
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.gate = make_gate(config, mixed, window, config.num_groups[stage])  # lrpe: gating.py's
        width = getattr(self.gate, "in_features", 2 * mixed)  # a user's own takes u and v
        self.fc1 = init_linear(nn.Linear(dim, width), config.init)
        self.gelu = nn.GELU()
        self.fc2 = init_linear(nn.Linear(mixed, dim), config.init)

    def forward(self, x_BPTnC: Tensor) -> Tensor:
        tokens = self.to_mixed_axis(x_BPTnC)
        h = self.gelu(self.fc1(self.norm(tokens)))
        z = self.gate(h.flatten(0, -3)).unflatten(0, h.shape[:-2])
        return self.from_mixed_axis(self.fc2(z))

    def to_mixed_axis(self, x_BPTnC: Tensor) -> Tensor:
        """Bring together the tokens that the gate mixes: (..., N, C)."""
        if self.axes == "S":
            return x_BPTnC
        x = x_BPTnC.unflatten(-3, (-1, self.frames))  # (B, P, T/t, t, n, C)
        return x.transpose(-3, -2) if self.axes == "T" else x.flatten(-3, -2)

    def from_mixed_axis(self, x: Tensor) -> Tensor:
        """The inverse of `to_mixed_axis`."""
        if self.axes == "S":
            return x
        x = x.transpose(-3, -2) if self.axes == "T" else x.unflatten(-2, (self.frames, -1))
        return x.flatten(-4, -3)


class Step(nn.ModuleDict):
    """A residual step adds the sum of its parallel branches: (B, P, T, n, C) -> the same.

    If a caller lends `scale` (B,), it replaces the draws of stochastic depth, in eval too.
    """

    scale: Tensor | None

    def __init__(self, config: PosMLPConfig, stage: int, axes: tuple[str, ...], rate: float):
        kinds = {each: OwnBranch if each in config.branches else Branch for each in axes}
        super().__init__({each: kind(config, stage, each) for each, kind in kinds.items()})
        self.drop_rate = rate
        self.register_buffer("scale", None, persistent=False)

    def forward(self, x_BPTnC: Tensor) -> Tensor:
        update = reduce(torch.add, [branch(x_BPTnC) for branch in self.values()])
        return x_BPTnC + drop_path(update, self.drop_rate if self.training else 0.0, self.scale)


class Block(nn.Module):
    """Steps in the layout's order: `+` joins branches of a step, `>` joins steps.

    Source: the released block is `T+S`; the paper's other orders are the other layouts.
    """

    def __init__(self, config: PosMLPConfig, stage: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        steps = config.steps(stage)
        self.steps = nn.ModuleList(Step(config, stage, axes, drop_rate) for axes in steps)

    def forward(self, x_BPTnC: Tensor) -> Tensor:
        for step in self.steps:
            x_BPTnC = step(x_BPTnC)
        return x_BPTnC


class Stage(nn.Module):
    """Blocks over one division into windows: (B, T, H, W, C) -> the same."""

    def __init__(self, config: PosMLPConfig, stage: int, rates: list[float] | None = None) -> None:
        super().__init__()
        self.window = config.windows[stage]
        rates = rates or [0.0] * config.depths[stage]
        self.blocks = nn.ModuleList(Block(config, stage, rate) for rate in rates)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = self.to_windows(x_BTHWC)
        for block in self.blocks:
            x = block(x)
        return self.from_windows(x, x_BTHWC.shape)

    def to_windows(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, P, T, n, C)."""
        (B, T, H, W, C), k = x_BTHWC.shape, self.window
        x = x_BTHWC.reshape(B, T, H // k, k, W // k, k, C).permute(0, 2, 4, 1, 3, 5, 6)
        return x.reshape(B, H // k * (W // k), T, k * k, C)

    def from_windows(self, x_BPTnC: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of `to_windows`, to (B, T, H, W) of `shape` and any number of channels."""
        (B, T, H, W, _), k, C = shape, self.window, x_BPTnC.shape[-1]
        x = x_BPTnC.reshape(B, H // k, W // k, T, k, k, C).permute(0, 3, 1, 4, 2, 5, 6)
        return x.reshape(B, T, H, W, C)


class PosMLPVideo(nn.Module):
    """Clips (B, 3, T, H, W) float -> logits (B, num_classes).

    Raises ValueError for clips whose channels, frames or size the configuration does not take.
    Source: section 3 of the paper; zhouds1918/PosMLP_Video for the released configuration.
    """

    def __init__(self, config: PosMLPConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)  # two 3x3 convolutions of stride 2: H/4 x W/4 tokens a frame
        self.downsamples = nn.ModuleList(
            Downsample(config, i) if config.halves(i) else nn.Identity()
            for i in range(1, config.num_stages)
        )
        rates = iter(drop_rates(config.drop_path, sum(config.depths)))
        self.stages = nn.ModuleList(
            Stage(config, i, [next(rates) for _ in range(depth)])
            for i, depth in enumerate(config.depths)
        )
        self.norm = nn.LayerNorm(config.dims[-1], eps=config.norm_eps)
        self.head: nn.Module = nn.Identity()
        if config.num_classes:
            self.head = init_linear(nn.Linear(config.dims[-1], config.num_classes), config.init)

    def forward(self, clips: Tensor) -> Tensor:
        tokens = self.norm(self.forward_features(clips)[-1])
        return self.head(tokens.flatten(1, -2).mean(dim=1))

    def forward_features(self, clips: Tensor) -> list[Tensor]:
        """The stem's output and each stage's, every one (B, T, H, W, C)."""
        check_clips(clips, self.config)
        B, _, T, _, _ = clips.shape
        frames = clips.permute(0, 2, 3, 4, 1).contiguous().flatten(0, 1)  # channels-last: quicker
        x = self.stem(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(0, (B, T))
        features = [x]
        for i, stage in enumerate(self.stages):
            x = stage(self.downsamples[i - 1](x) if i else x)
            features.append(x)
        return features


class PosMLP(TakesImages, PosMLPVideo):
    """Images (B, 3, H, W) -> logits (B, num_classes): the video model of one frame with layout S.

    Source: Zhicaiwww/PosMLP (ACM MM 2022).
    """


class OwnModel(WholeModel, PosMLPVideo):
    """A whole model of the user's own, `config.model`: clips -> logits."""


def create_model(config: PosMLPConfig | str, **overrides: Any) -> PosMLPVideo:
    """A model from a config or preset, with fields replaced; ValueError names what cannot be."""
    config = resolve(config, **overrides)
    video = PosMLPVideo if config.model == "posmlp" else OwnModel
    return (PosMLP if config.kind == "image" else video)(config)
