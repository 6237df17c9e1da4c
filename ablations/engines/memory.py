"""Peak memory of one job, in MB of 10^6 bytes: of the GPU, or of this process on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import sys
from pathlib import Path


def reset(device: str) -> None:
    """Forget earlier peaks, where the system can (Linux, CUDA)."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.init()  # which the statistics do not do
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: str) -> float | None:
    """The peak since `reset`; None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e6
    if (told := _told_mb("/proc/self/status", "VmHWM:")) is not None:
        return told
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None


def free_mb(device: str) -> float:
    """What a new training could have, of the GPU or of this machine; infinite if not told."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0] / 1e6
    told = _told_mb("/proc/meminfo", "MemAvailable:")
    return math.inf if told is None else told


def _told_mb(path: str, key: str) -> float | None:
    """What Linux says of memory, in KiB, under a key of one of its files; None elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024 / 1e6
    return None


def release(device: str) -> None:
    """Give back what a failed training held, so that a lighter one, or a neighbour, can have it."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
    elif sys.platform == "linux":  # glibc keeps what is freed, and oneDNN cannot use that
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in OUT_OF_MEMORY)


def is_of_device(error: BaseException) -> bool:
    """Whether an error says that the GPU gave up; the process cannot compute on it any more."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in GAVE_UP)


OUT_OF_MEMORY = (
    "can't allocate memory",
    "could not create a primitive",  # oneDNN, whose convolutions allocate by themselves
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "Unable to find a valid cuDNN algorithm",  # there was no room for any algorithm's workspace
    "unable to find an engine to execute this computation",
)
"""What errors say where memory ran out; asked before GAVE_UP, as some say both."""
GAVE_UP = (
    *("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS"),
    *("CUSOLVER_STATUS", "CUFFT_", "NCCL error", "unhandled cuda error"),
)
"""What errors say where a device, or its driver, failed."""
