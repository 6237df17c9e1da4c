"""Other ways of seeing time at the toy's size, for `peers.yaml`: about as many parameters.

Clips (B, 3, T, H, W) -> logits (B, num_classes). Each begins with the toy's two stride-2
convolutions, but Windows, which has patches; the filters of pixels start as the toy's do. Each is
its idea alone, without tricks of training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d


class Frames(nn.Sequential):
    """Layers of pictures, run on every frame: (B, C, T, H, W) -> (B, C', T, H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        frames = super().forward(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


@torch.no_grad()
def blind_to_brightness(pixels: nn.Module) -> None:
    """Make a convolution's filters sum to 0 in place, as `init: contrast` does in the toy."""
    weight = pixels.get_parameter("weight")
    weight.sub_(weight.flatten(1).mean(1).view(-1, *[1] * (weight.dim() - 1)))


def stem(dim: int) -> Frames:
    pixels = nn.Conv2d(3, dim // 2, 3, 2, 1)
    blind_to_brightness(pixels)
    half = pixels, nn.BatchNorm2d(dim // 2), nn.GELU()
    return Frames(*half, nn.Conv2d(dim // 2, dim, 3, 2, 1), nn.BatchNorm2d(dim))


class Residual(nn.Module):
    """x + two convolutions of x, each within frames and then, if it is 3, over `time` frames."""

    def __init__(self, dim: int, time: int, shifts: bool = False) -> None:
        super().__init__()
        self.shifts, layers = shifts, list[nn.Module]()
        for _ in range(2):
            layers += [nn.Conv3d(dim, dim, (1, 3, 3), padding=(0, 1, 1), bias=False)]
            if time > 1:
                layers += [nn.BatchNorm3d(dim), nn.GELU()]
                layers += [nn.Conv3d(dim, dim, (time, 1, 1), padding=(time // 2, 0, 0), bias=False)]
            layers += [nn.BatchNorm3d(dim), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(shifted(x) if self.shifts else x)


def shifted(x: Tensor) -> Tensor:
    """An eighth of the channels comes from the frame before, an eighth from the one after."""
    eighth = x.shape[1] // 8
    before, after, rest = x.split((eighth, eighth, x.shape[1] - 2 * eighth), dim=1)
    zero = torch.zeros_like(before[:, :, :1])
    before = torch.cat((zero, before[:, :, :-1]), dim=2)
    return torch.cat((before, torch.cat((after[:, :, 1:], zero), dim=2), rest), dim=1)


class Pyramid(nn.Module):
    """Three stages of residual blocks; between them half the rows and columns, twice the width."""

    def __init__(self, dim: int, time: int, shifts: bool, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [stem(dim), Residual(dim, time, shifts)]
        for width in (2 * dim, 4 * dim):
            layers += [nn.Conv3d(width // 2, width, (1, 3, 3), (1, 2, 2), (0, 1, 1))]
            layers += [nn.BatchNorm3d(width), nn.GELU(), Residual(width, time, shifts)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(4 * dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.layers(clips).mean((2, 3, 4)))


class Shift(Pyramid):
    """Convolutions of pictures, with channels shifted along time. Source: TSM, Lin et al., 2019."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(24, 1, True, num_classes)


class Factorised(Pyramid):
    """3 x 3 within frames, then 3 over time. Source: R(2+1)D, Tran et al., 2018."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(20, 3, False, num_classes)


class Tokens(nn.Module):
    """Blocks over tokens (B, T, n, dim) of a frame's 4 x 4 places; a linear layer on their mean."""

    def __init__(self, block: type[nn.Module], num_classes: int, num_frames: int) -> None:
        super().__init__()
        dim = 64
        self.stem = nn.Sequential(stem(dim // 2), Frames(nn.Conv2d(dim // 2, dim, 3, 2, 1)))
        self.place = nn.Parameter(0.02 * torch.randn(num_frames, 16, dim))
        self.blocks = nn.Sequential(*(block(num_frames, 16, dim) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        tokens = self.stem(clips).flatten(3).permute(0, 2, 3, 1) + self.place
        return self.head(self.norm(self.blocks(tokens)).mean((1, 2)))


class Attends(nn.Module):
    """Self-attention over the last axis but one, after a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(dim), nn.MultiheadAttention(dim, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).flatten(0, 1)
        return self.mix(y, y, y, need_weights=False)[0].unflatten(0, x.shape[:2])


def mlp(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, inputs))


class DividedBlock(nn.Module):
    """Attention over time, then over places, then an MLP, each added to its input."""

    def __init__(self, num_frames: int, num_places: int, dim: int) -> None:
        super().__init__()
        self.time, self.space = Attends(dim), Attends(dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), *mlp(dim, 2 * dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.time(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.space(x)
        return x + self.mlp(x)


class Divided(Tokens):
    """Divided space-time attention. Source: TimeSformer, Bertasius et al., 2021."""

    def __init__(self, num_classes: int, num_frames: int) -> None:
        super().__init__(DividedBlock, num_classes, num_frames)


class MixerBlock(nn.Module):
    """A dense MLP over all tokens of the clip, then one over channels."""

    def __init__(self, num_frames: int, num_places: int, dim: int) -> None:
        super().__init__()
        self.norm, self.tokens = nn.LayerNorm(dim), mlp(num_frames * num_places, 128)
        self.channels = nn.Sequential(nn.LayerNorm(dim), *mlp(dim, 2 * dim))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm(x).flatten(1, 2).transpose(1, 2)
        x = x + self.tokens(flat).transpose(1, 2).unflatten(1, x.shape[1:3])
        return x + self.channels(x)


class Mixer(Tokens):
    """Dense mixing of all tokens of a clip. Source: MLP-Mixer, Tolstikhin et al., 2021."""

    def __init__(self, num_classes: int, num_frames: int) -> None:
        super().__init__(MixerBlock, num_classes, num_frames)


class Windows(SwinTransformer3d):
    """Attention in shifted windows of space-time. Source: Video Swin, Liu et al., 2022."""

    def __init__(self, num_classes: int) -> None:
        heads, window, patch = [2, 4, 8], [4, 4, 4], [1, 4, 4]
        rates = {"dropout": 0.0, "attention_dropout": 0.0, "stochastic_depth_prob": 0.0}
        super().__init__(patch, 32, [1, 2, 1], heads, window, 2.0, num_classes=num_classes, **rates)
        blind_to_brightness(self.patch_embed.proj)
