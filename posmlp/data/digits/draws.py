"""Counter-based random numbers: a pure function of where they are used, not of what came before.

No generator state means that a clip does not depend on the batch in which it is rendered, on how
many clips there are, or on the device: the hash is integer arithmetic, exact everywhere.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _shift_right(x: Tensor, num_bits: int) -> Tensor:
    """Logical shift; torch's own copies the sign of an int64 into the top bits."""
    return (x >> num_bits) & ((1 << (64 - num_bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Hash int64 to int64. Source: SplitMix64 (Steele, Lea and Flood 2014), its output function."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


class Draws:
    """Random numbers that are a pure function of (seed, split, index, stream name, position)."""

    def __init__(self, seed: int, split: str, indices: Tensor) -> None:
        start = torch.full((), seed, dtype=torch.int64, device=indices.device)
        self.keys = mix(mix(mix(start) + zlib.crc32(split.encode())) + indices)

    def bits(self, stream: str, count: int) -> Tensor:
        """Random int64, (k, count)."""
        keys = mix(self.keys + zlib.crc32(stream.encode()))
        positions = torch.arange(1, count + 1, device=keys.device) * _GOLDEN
        return mix(keys[:, None] + positions)

    def uniform(
        self, stream: str, *shape: int, low: float | Tensor = 0.0, high: float | Tensor = 1.0
    ) -> Tensor:
        """Uniform float64 in [low, high), (k, *shape); limits may be (k,) if no shape is given."""
        bits = self.bits(stream, math.prod(shape))
        unit = _shift_right(bits, 11).double() * 2.0**-53
        return low + (high - low) * unit.reshape(-1, *shape)

    def within(self, stream: str, *shape: int, limit: float) -> Tensor:
        """Uniform float64 in [-limit, limit), (k, *shape)."""
        return self.uniform(stream, *shape, low=-limit, high=limit)
