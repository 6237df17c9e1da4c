"""Training in several processes: `torchrun --nproc-per-node N -m posmlp train ...`.

Every process holds the whole population and computes its part of each batch. Gradients are averaged
over processes and batch norm sees the whole batch, so that the numbers are those of one process.
All of them read and the first one writes the run folder, which has to be one folder for all nodes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from posmlp.train.stopping import asked


class Team(NamedTuple):
    """The processes that train together: this one's number, and how many there are."""

    rank: int = 0
    size: int = 1
    launcher: int = 0
    """The process id of the torchrun that started this one."""

    def asked(self) -> str:
        """What asks this process to stop: a signal, or torchrun's end, which some bring about."""
        return asked() or ("" if os.getppid() == self.launcher else "the end of torchrun")

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, total: int) -> slice:
        """This process's part of `total` things; parts differ by one at most."""
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    @contextmanager
    def first_first(self) -> Iterator[None]:
        """The first process runs the block before the others do."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wait(self) -> None:
        """Until every process of the team has come here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over processes, all in one message."""
        if self.size == 1:
            return tensors
        flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors.values()])
        return {k: p.view_as(v) for (k, v), p in zip(tensors.items(), parts, strict=True)}

    def gather(self, value: Tensor, dim: int) -> Tensor:
        """The processes' tensors (on the CPU), joined along `dim`."""
        if self.size == 1:
            return value
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, value)
        return torch.cat(parts, dim)


ALONE = Team()


def join(device: torch.device) -> tuple[Team, torch.device]:
    """The team that torchrun started, and this process's device; a team of one without torchrun."""
    if not dist.is_torchelastic_launched():
        return ALONE, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return Team(dist.get_rank(), dist.get_world_size(), os.getppid()), device


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device (torch's is for GPUs only).

    Every process must hold equally many values.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce

        num_values = dist.get_world_size() * x.numel() / x.shape[1]
        values = x if x.dtype == torch.float64 else x.float()
        mean = all_reduce(values.sum((0, 2, 3))) / num_values
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / num_values
        with torch.no_grad():  # the running statistics hold the unbiased variance
            own: Any = self
            own.running_mean.lerp_(mean, own.momentum)
            own.running_var.lerp_(variance * num_values / (num_values - 1), own.momentum)
            own.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Replace a model's batch norms by ones over all processes; names and values stay."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                synced = SyncedBatchNorm2d(child.num_features, eps=child.eps)
                synced.load_state_dict(child.state_dict())
                setattr(parent, name, synced.to(child.weight.device))
