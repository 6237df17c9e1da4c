"""What makes tokens of frames, and halves their resolution between stages.

Shapes: B clips, T frames, H x W tokens, C channels; frames are (B*T, C, H, W).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from posmlp.config import PosMLPConfig
from posmlp.parts.initialise import init_conv, init_pixel_filters


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
        halving: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}
        geometry = [halving, halving, {"kernel_size": 1}]
        convs = [
            init_conv(nn.Conv2d(c_in, c_out, **each), config)
            for c_in, c_out, each in zip(widths, widths[1:], geometry, strict=False)
        ]
        init_pixel_filters(convs[0], config)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(
            make_norm(config.stem_norm, width, config.norm_eps) for width in widths[1:]
        )
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.convs[0](x))
        for conv, norm in zip(self.convs[1:], self.norms[1:], strict=True):
            x = norm(conv(self.gelu(x)))
        return x


class Downsample(nn.Module):
    """(B, T, H, W, C) -> (B, T, H/2, W/2, C'), rounded up: a stride-2 convolution and a norm."""

    def __init__(self, config: PosMLPConfig, stage: int) -> None:
        super().__init__()
        c_in, c_out = config.dims[stage - 1], config.dims[stage]
        groups = c_in if config.downsample_depthwise else 1
        conv = nn.Conv2d(c_in, c_out, kernel_size=3, stride=2, padding=1, groups=groups)
        self.conv = init_conv(conv, config)
        self.norm = make_norm(config.downsample_norm, c_out, config.norm_eps)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        frames = x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)  # a view: channels-last memory
        y = self.norm(self.conv(frames)).permute(0, 2, 3, 1)
        return y.unflatten(0, x_BTHWC.shape[:2])
