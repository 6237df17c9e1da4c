"""Answers to lesson 03: the relative position index."""

from __future__ import annotations

import torch
from torch import Tensor


def index_1d(w: int) -> Tensor:
    """The entry of each pair: query - key, moved up by w - 1 so that it starts at 0."""
    frame = torch.arange(w)
    return frame[:, None] - frame[None, :] + w - 1


def index_2d(height: int, width: int) -> Tensor:
    """Row-major in (dy, dx): a step of dy is a whole row of the table, 2 width - 1 entries."""
    token = torch.arange(height * width)
    y, x = token // width, token % width
    dy = y[:, None] - y[None, :] + height - 1
    dx = x[:, None] - x[None, :] + width - 1
    return dy * (2 * width - 1) + dx


def offset_of(entry: int, height: int, width: int) -> tuple[int, int]:
    """The way back: which (dy, dx) an entry of the flattened table stands for."""
    row, column = divmod(entry, 2 * width - 1)
    return row - (height - 1), column - (width - 1)
