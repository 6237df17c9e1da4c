"""Answers to lesson 12: where the model reads the arrow of time."""

from __future__ import annotations

from torch import Tensor


def turn_back(x: Tensor) -> Tensor:
    """(B, T, H, W, C) with its frames in reversed order."""
    return x.flip(1)


def share(before: Tensor, after: Tensor, other: Tensor) -> float:
    """The projection of the change on the difference of the two answers."""
    d = other - before
    return float((after - before) @ d / (d @ d))


def turned(table: Tensor, strength: float) -> Tensor:
    """The even part, and the odd part times the strength."""
    even, odd = (table + table.flip(0)) / 2, (table - table.flip(0)) / 2
    return even + strength * odd
