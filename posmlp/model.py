"""PosMLP-Video and the image PosMLP, from one set of parts.

Shapes: B clips, T frames, H x W tokens, C channels; inside a stage the windows are folded into the
batch: W windows of B clips, n tokens a frame of a window, so that tokens are (W, T, n, C).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.checkpoint import checkpoint

from posmlp.by_hand import Plan, StepByHand, Weights, can_merge, step_forward, windows_at_once
from posmlp.config import PosMLPConfig, parse_layout, resolve
from posmlp.gating import GATES, GatingUnit, initialise
from posmlp.linear import Linear, eager_on_cpu, is_plain


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_conv(config: PosMLPConfig, c_in: int, c_out: int, **geometry: Any) -> nn.Conv2d:
    """A convolution started as released: PyTorch's default (video), or as `Linear` (image)."""
    conv = nn.Conv2d(c_in, c_out, **geometry)
    if config.kind == "image" and conv.bias is not None:
        nn.init.trunc_normal_(conv.weight, std=0.02)
        nn.init.zeros_(conv.bias)
    return conv


def make_norm(kind: str, dim: int, eps: float) -> nn.Module:
    """`batch` or `layer` norm for (B, C, H, W)."""
    return nn.BatchNorm2d(dim, eps=eps) if kind == "batch" else ChannelNorm(dim, eps=eps)


class Stem(nn.Module):
    """Frames (B*T, 3, H, W) -> (B*T, C, H/4, W/4), rounded up: two stride-2 convolutions.

    The image model adds a pointwise convolution. Source: the released models' `patch_embed1` and
    `patch_embed`; their (1, 3, 3) convolutions over clips are these over frames.
    """

    def __init__(self, config: PosMLPConfig) -> None:
        super().__init__()
        dim = config.dims[0]
        widths = [config.in_channels, dim // 2, dim, dim][: config.stem_convs + 1]
        halving = {"kernel_size": 3, "stride": 2, "padding": 1}
        geometry = [halving, halving, {"kernel_size": 1}]
        self.convs = nn.ModuleList(
            make_conv(config, c_in, c_out, **each)
            for c_in, c_out, each in zip(widths, widths[1:], geometry, strict=False)
        )
        self.norms = nn.ModuleList(
            make_norm(config.stem_norm, width, config.norm_eps) for width in widths[1:]
        )

    def forward(self, x: Tensor) -> Tensor:
        if self._can_fold(x):
            return self._folded(x)
        x = self.norms[0](self.convs[0](x))
        for conv, norm in zip(self.convs[1:], self.norms[1:], strict=True):
            x = norm(_after_gelu(conv, x))
        return x

    def _can_fold(self, x: Tensor) -> bool:
        return (
            not (self.training or torch.is_grad_enabled())
            and eager_on_cpu(x)
            and all(is_plain(conv, nn.Conv2d) for conv in self.convs)
            and all(conv.padding_mode == "zeros" for conv in self.convs)
            and all(is_plain(norm, nn.BatchNorm2d) for norm in self.norms)
            and not any(norm.training or norm.running_mean is None for norm in self.norms)
        )

    def _folded(self, x: Tensor) -> Tensor:
        """For inference on a CPU: each norm is part of its convolution, and GELU works in place."""
        conv: Any
        norm: Any
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = torch.ops.aten.gelu_(x) if i else x
            statistics = (norm.running_mean, norm.running_var, norm.eps)
            affine = (norm.weight, norm.bias)
            folded = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, *affine)
            x = F.conv2d(x, *folded, conv.stride, conv.padding, conv.dilation, conv.groups)
        return x


def _after_gelu(conv: nn.Module, x: Tensor) -> Tensor:
    """conv(GELU(x)); trained on a CPU, GELU is computed again for the gradient and not kept.

    Then, too, with the tensors that conv has now, which may only be lent to it.
    """
    if torch.is_grad_enabled() and eager_on_cpu(x) and is_plain(conv, nn.Conv2d):
        tensors: dict[str, Tensor] = dict(conv.named_parameters())

        def convolved(x: Tensor) -> Tensor:
            return functional_call(conv, tensors, (F.gelu(x),), tie_weights=False)

        kept: Tensor = checkpoint(convolved, x, use_reentrant=False)
        return kept
    activated: Tensor = conv(F.gelu(x))
    return activated


class Downsample(nn.Module):
    """(B, T, H, W, C) -> (B, T, H/2, W/2, C'), rounded up: a stride-2 convolution and a norm."""

    def __init__(self, config: PosMLPConfig, stage: int) -> None:
        super().__init__()
        c_in, c_out = config.dims[stage - 1], config.dims[stage]
        groups = c_in if config.downsample_depthwise else 1
        self.conv = make_conv(
            config, c_in, c_out, kernel_size=3, stride=2, padding=1, groups=groups
        )
        self.norm = make_norm(config.downsample_norm, c_out, config.norm_eps)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        frames = x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)  # a view: channels-last memory
        y = self.norm(self.conv(frames)).permute(0, 2, 3, 1)
        return y.unflatten(0, x_BTHWC.shape[:2])


class Batched(nn.Module):
    """Gives a notebook's own gate h as (B, N, 2C), with all leading dimensions in the batch."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, h: Tensor) -> Tensor:
        return self.gate(h.flatten(0, -3)).unflatten(0, h.shape[:-2])


class Branch(nn.Module):
    """norm, fc1, GELU, gating unit, fc2 over one kind of window: tokens (W, T, n, C) -> the same.

    `T` mixes over frames at each place, `S` over the n places of each frame, `ST` over both.
    """

    def __init__(self, config: PosMLPConfig, stage: int, axes: str) -> None:
        super().__init__()
        dim, mixed = config.dims[stage], config.gate_dim(stage)
        side = config.windows[stage]
        self.axes, self.frames = axes, config.temporal_windows[stage]
        window = {"T": (self.frames,), "S": (side, side), "ST": (self.frames, side, side)}[axes]
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        gate = make_gate(config, mixed, window, config.num_groups[stage])
        self.gate = gate if isinstance(gate, GatingUnit) else Batched(gate)
        width, groups = 2 * mixed, 1
        if isinstance(gate, GatingUnit):
            width, groups = gate.in_features, gate.num_groups
            gate.group_by_group = True
        self.fc1 = Linear(dim, width, groups_out=(width // mixed, groups))
        self.fc2 = Linear(mixed, dim, groups_in=groups)

    def forward(self, x_WTnC: Tensor) -> Tensor:
        h = F.gelu(self.fc1(self.norm(x_WTnC)))
        if self.axes == "S":
            return self.fc2(self.gate(h))
        h = h.unflatten(1, (-1, self.frames))  # (W, T/t, t, n, 2C)
        if self.axes == "T":
            z = self.gate(h.transpose(2, 3)).transpose(2, 3)
        else:
            z = self.gate(h.flatten(2, 3)).unflatten(2, h.shape[2:4])
        return self.fc2(z.flatten(1, 2))


def make_gate(
    config: PosMLPConfig, dim: int, window: tuple[int, ...], num_groups: int
) -> nn.Module:
    """The gating unit that `config` names, initialised; a notebook's own initialises itself."""
    if callable(config.gate):
        return config.gate(dim, window, num_groups)
    options: dict[str, Any] = {"form": config.gate_form, "token_bias": config.token_bias}
    if config.gate == "gqpe":
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


class Step(nn.ModuleDict):
    """A residual step of parallel branches by their axes: tokens (W, T, n, C) -> the same.

    `scale` (W, 1, 1, 1) multiplies what the branches give.
    """

    def forward(self, x_WTnC: Tensor, scale: Tensor | None = None) -> Tensor:
        if not self._goes_by_hand(x_WTnC, scale):
            update = self._update(x_WTnC)
            return x_WTnC + (update if scale is None else update * scale)
        plan = Plan.of(self, x_WTnC)
        weights = Weights.merged(self, plan)
        if not torch.is_grad_enabled():
            return step_forward(x_WTnC, scale, weights, plan)
        stepped: Tensor = StepByHand.apply(x_WTnC, scale, plan, *weights[:4], *weights.mixing)
        return stepped

    def _update(self, x_WTnC: Tensor) -> Tensor:
        """The sum of what the branches give; in inference on a CPU a few windows at a time."""
        at_once = torch.is_grad_enabled() or not eager_on_cpu(x_WTnC)
        if not at_once and len(x_WTnC) > (few := windows_at_once(x_WTnC)):
            return torch.cat([self._update(x) for x in x_WTnC.split(few)])
        first, *others = self.values()
        update: Tensor = first(x_WTnC)
        for branch in others:
            update = update + branch(x_WTnC)
        return update

    def _goes_by_hand(self, x_WTnC: Tensor, scale: Tensor | None) -> bool:
        """Whether `posmlp.by_hand` computes it: the paper's gate on a CPU, training or inference.

        In eval mode PyTorch's own gradient is taken, which can be differentiated again.
        """
        wanted = self.training or not torch.is_grad_enabled()
        if not wanted or not eager_on_cpu(x_WTnC) or (scale is not None and scale.requires_grad):
            return False
        branches = list(self.values())
        return all(type(branch) is Branch for branch in branches) and can_merge(branches)


class Block(nn.Module):
    """Residual steps one after the other.

    Source: the released block is `T+S`; the paper's other orders are the other layouts.
    """

    def __init__(self, config: PosMLPConfig, stage: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            Step({axes: Branch(config, stage, axes) for axes in step})
            for step in parse_layout(config.layouts[stage])
        )

    def forward(self, x_WTnC: Tensor, scales: list[Tensor | None]) -> Tensor:
        for step, scale in zip(self.steps, scales, strict=True):
            x_WTnC = step(x_WTnC, scale)
        return x_WTnC


Scales = list[list[Tensor | None]]
"""Of each block, one scale for each residual step, or None."""


class Stage(nn.Module):
    """Blocks over one division into windows: (B, T, H, W, C) -> the same."""

    def __init__(self, config: PosMLPConfig, stage: int) -> None:
        super().__init__()
        self.window = config.windows[stage]
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))

    def forward(self, x_BTHWC: Tensor, scales: Scales) -> Tensor:
        B, T, H, W, C = x_BTHWC.shape
        k = self.window
        grid = (B, H // k, W // k)
        x = x_BTHWC.reshape(B, T, H // k, k, W // k, k, C).permute(0, 2, 4, 1, 3, 5, 6)
        x = x.reshape(-1, T, k * k, C)  # (windows, T, n, C)
        per_window = [
            [None if s is None else self._repeat(s, grid) for s in block] for block in scales
        ]
        x = self._run(x, per_window)
        x = x.reshape(*grid, T, k, k, C).permute(0, 3, 1, 4, 2, 5, 6)
        return x.reshape(B, T, H, W, C)

    def _run(self, x_WTnC: Tensor, scales: Scales) -> Tensor:
        for block, each in zip(self.blocks, scales, strict=True):
            x_WTnC = block(x_WTnC, each)
        return x_WTnC

    @staticmethod
    def _repeat(scale_B: Tensor, grid: tuple[int, int, int]) -> Tensor:
        return scale_B[:, None, None].expand(grid).reshape(-1, 1, 1, 1)


class PosMLPVideo(nn.Module):
    """Clips (B, 3, T, H, W) float -> logits (B, num_classes).

    Raises ValueError for clips whose channels, frames or size the configuration does not take.
    Source: section 3 of the paper; zhouds1918/PosMLP_Video for the released configuration.
    """

    def __init__(self, config: PosMLPConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        self.downsamples = nn.ModuleList(
            Downsample(config, i) if config.halves(i) else nn.Identity()
            for i in range(1, config.num_stages)
        )
        self.stages = nn.ModuleList(Stage(config, i) for i in range(config.num_stages))
        self.norm = nn.LayerNorm(config.dims[-1], eps=config.norm_eps)
        classes = config.num_classes
        self.head = Linear(config.dims[-1], classes) if classes else nn.Identity()

    def forward(self, clips: Tensor, residual_scales: Tensor | None = None) -> Tensor:
        """Logits. `residual_scales` (steps, B) replaces the drawn stochastic depth, if given."""
        tokens = self.norm(self._features(clips, residual_scales)[-1])
        return self.head(tokens.mean(dim=(1, 2, 3)))

    def forward_features(self, clips: Tensor) -> list[Tensor]:
        """The stem's output and each stage's, every one (B, T, H, W, C)."""
        return self._features(clips, None)

    def _features(self, clips: Tensor, residual_scales: Tensor | None) -> list[Tensor]:
        self._check(clips, residual_scales)
        if residual_scales is None and self.training and self.config.drop_path:
            residual_scales = self.draw_residual_scales(clips.shape[0], device=clips.device)
        if residual_scales is not None:
            residual_scales = residual_scales.to(clips.dtype)
        scales = iter(
            self.num_residual_steps * [None] if residual_scales is None else residual_scales
        )
        frames = clips.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().permute(0, 3, 1, 2)
        frames = self.stem(frames)  # from here on channels come last in memory
        x = frames.permute(0, 2, 3, 1).unflatten(0, (clips.shape[0], clips.shape[2]))
        features = [x]
        for i, stage in enumerate(self.stages):
            x = self.downsamples[i - 1](x) if i else x
            x = stage(x, [[next(scales) for _ in block.steps] for block in self._blocks(stage)])
            features.append(x)
        return features

    @staticmethod
    def _blocks(stage: nn.Module) -> list[Block]:
        return [module for module in stage.modules() if isinstance(module, Block)]

    def _check(self, clips: Tensor, residual_scales: Tensor | None) -> None:
        if clips.dim() != 5 or clips.shape[1] != self.config.in_channels:
            raise ValueError(
                f"clips of shape {tuple(clips.shape)} are not "
                f"(B, {self.config.in_channels}, T, H, W)"
            )
        if not clips.is_floating_point():
            raise ValueError(
                f"clips of {clips.dtype} must be floating point; posmlp.train.normalise makes them"
            )
        self.config.check_clip(*clips.shape[2:])
        steps = (self.num_residual_steps, clips.shape[0])
        if residual_scales is not None and residual_scales.shape != steps:
            raise ValueError(
                f"residual_scales of shape {tuple(residual_scales.shape)} are not (steps, B), here "
                f"{steps}"
            )

    @property
    def num_residual_steps(self) -> int:
        return sum(len(block.steps) for block in self._blocks(self))

    def draw_residual_scales(
        self,
        num_clips: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Stochastic depth: (steps, num_clips) of 0 (dropped) or 1 / (1 - rate).

        Each step draws its own mask, one value a clip.
        """
        keep = self.keep_rates(self.config.drop_path)[:, None]
        draw = torch.rand(len(keep), num_clips, generator=generator)
        return ((draw < keep) / keep).to(device)

    def keep_rates(self, drop_path: float) -> Tensor:
        """(steps,): the probability that a residual step of a clip is not dropped.

        Rates of dropping rise linearly over the blocks, from 0 to `drop_path`; all steps of a block
        share its rate.
        """
        blocks = self._blocks(self)
        rates = torch.linspace(0, drop_path, len(blocks))
        steps = torch.tensor([len(block.steps) for block in blocks])
        return 1 - rates.repeat_interleave(steps, output_size=self.num_residual_steps)


class PosMLP(PosMLPVideo):
    """Images (B, 3, H, W) -> logits (B, num_classes): the video model of one frame with layout S.

    Clips of one frame, (B, 3, 1, H, W), are images too.
    Source: Zhicaiwww/PosMLP (ACM MM 2022).
    """

    def forward(self, images: Tensor, residual_scales: Tensor | None = None) -> Tensor:
        return super().forward(self._one_frame(images), residual_scales)

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """The stem's output and each stage's, every one (B, H, W, C)."""
        return [x.squeeze(1) for x in super().forward_features(self._one_frame(images))]

    def _one_frame(self, images: Tensor) -> Tensor:
        if images.dim() != 4 and not (images.dim() == 5 and images.shape[2] == 1):
            raise ValueError(f"images of shape {tuple(images.shape)} are not (B, 3, H, W)")
        return images[:, :, None] if images.dim() == 4 else images


def create_model(config: PosMLPConfig | str, **overrides: Any) -> PosMLPVideo:
    """A model from a config or a preset's name, with fields replaced: a PosMLP if kind is `image`.

    Raises ValueError that names the field, the value and the valid ones.
    """
    config = resolve(config, **overrides)
    _keep_freed_memory()
    return (PosMLP if config.kind == "image" else PosMLPVideo)(config)


def _keep_freed_memory() -> None:
    """Let glibc, a CPU's allocator on Linux, keep the memory of one pass for the next.

    It gives back what is free above a threshold that is twice the largest block freed so far, if
    that is below 32 MiB; one such block, never touched, raises it for the process. Otherwise the
    toy model takes some 900 pages anew, and waits for each, whenever it sees 16 clips.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")
