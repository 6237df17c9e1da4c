"""Answers to lesson 02: token mixing is a matrix."""

from __future__ import annotations

import math


def dense_params(window: tuple[int, ...]) -> int:
    """A free number for each pair (output, input) of the N tokens."""
    return math.prod(window) ** 2


def tied_params(window: tuple[int, ...], num_groups: int) -> int:
    """Offsets along an axis of w tokens run from -(w-1) to w-1: 2w-1 of them."""
    return num_groups * math.prod(2 * side - 1 for side in window)


def most_groups(window: tuple[int, ...]) -> int:
    """The largest G with G * (numbers of one table) < numbers of one dense matrix."""
    return (dense_params(window) - 1) // tied_params(window, 1)
