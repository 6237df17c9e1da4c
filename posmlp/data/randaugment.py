"""RandAugment on clips: which operations at what strength, and what they do to frames.

Source: the released loaders' `rand-m7-n4-mstd0.5-inc1` (timm's "increasing" operations), with
torchvision's kernels in place of Pillow's, so that it runs on the device that trains. Those of them
that send numbers to a GPU, for which the host waits, are written anew here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

FILL = 128.0  # what a turned or shifted frame uncovers; released
PROBABILITY = 0.5
OPERATIONS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize-add",
    "colour", "contrast", "brightness", "sharpness", "shear-x", "shear-y", "translate-x",
    "translate-y",
)  # fmt: skip


class Operation(NamedTuple):
    """One of OPERATIONS, its strength from 0 to 1, and its direction, 1 or -1."""

    name: str
    strength: float
    sign: int


def draw_operations(
    count: int, magnitude: float, magnitude_std: float, rng: np.random.Generator
) -> list[Operation]:
    """The operations that one clip undergoes: `count` are drawn, each happens with PROBABILITY.

    `magnitude` and its standard deviation are in tenths of the full strength.
    """
    drawn = []
    for name in rng.choice(OPERATIONS, size=count):
        happens, sign = rng.random() < PROBABILITY, 1 if rng.random() < 0.5 else -1
        strength = float(np.clip(rng.normal(magnitude, magnitude_std), 0, 10)) / 10
        if happens:
            drawn.append(Operation(str(name), strength, sign))
    return drawn


def apply_operation(frames: Tensor, operation: Operation) -> Tensor:
    """One operation on uint8 frames (T, 3, H, W), the same on every frame."""
    name, strength, sign = operation
    factor = max(0.1, 1 + sign * 0.9 * strength)  # of colour, contrast, brightness, sharpness
    match name:
        case "autocontrast":
            return V.autocontrast(frames)
        case "equalize":
            return V.equalize(frames)
        case "invert":
            return V.invert(frames)
        case "posterize":
            return V.posterize(frames, 4 - int(strength * 4))
        case "solarize":
            inverted = int(strength * 256)  # levels, from the brightest down
            return V.solarize(frames, 256.0 - inverted) if inverted else frames
        case "solarize-add":
            added = (frames.int() + min(128, int(strength * 110))).clamp(max=255).to(frames.dtype)
            return added.where(frames < 128, frames)
        case "colour":
            return V.adjust_saturation(frames, factor)
        case "contrast":
            return V.adjust_contrast(frames, factor)
        case "brightness":
            return V.adjust_brightness(frames, factor)
        case "sharpness":
            return _sharpened(frames, factor)
    return _moved(frames, name, sign * strength)


def _sharpened(frames: Tensor, factor: float) -> Tensor:
    """Frames blended with their blur, but for the pixels at the edge."""
    x = frames.float()
    inside = x[..., 1:-1, 1:-1]
    blurred = ((9 * F.avg_pool2d(x, 3, stride=1) + 4 * inside) / 13).round()
    inside.lerp_(blurred, 1 - factor)
    return x.clamp(0, 255).to(frames.dtype)


def _moved(frames: Tensor, name: str, amount: float) -> Tensor:
    """Frames turned by up to 30 degrees, or sheared by 0.3, or shifted by 0.45 of a side."""
    height, width = frames.shape[-2:]
    x = torch.arange(width, device=frames.device) + 0.5
    y = torch.arange(height, device=frames.device)[:, None] + 0.5
    from_x, from_y = x, y  # where a pixel comes from
    match name:
        case "rotate":
            cos, sin = np.cos(np.radians(30 * amount)), np.sin(np.radians(30 * amount))
            right, down = x - width / 2, y - height / 2
            from_x, from_y = cos * right + sin * down, cos * down - sin * right
            from_x, from_y = from_x + width / 2, from_y + height / 2
        case "shear-x":
            from_x = x + 0.3 * amount * y
        case "shear-y":
            from_y = y + 0.3 * amount * x
        case "translate-x":
            from_x = x - 0.45 * amount * width
        case "translate-y":
            from_y = y - 0.45 * amount * height
    places = torch.broadcast_tensors(2 * from_x / width - 1, 2 * from_y / height - 1)
    grid = torch.stack(places, dim=-1).expand(len(frames), -1, -1, -1)
    moved = F.grid_sample(frames - FILL, grid, align_corners=False)  # 0 beyond the edge
    return (moved + FILL).round().to(frames.dtype)
