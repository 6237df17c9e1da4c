"""From the host's memory to the device that computes, without the host waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def uploaded(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device. To a GPU it goes by pinned memory, so that the host goes on at once.

    PyTorch keeps the pinned memory until the copy is made; what computes on the GPU waits for it.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)
