"""Peak memory of one job, in MB of 10^6 bytes: of the GPU, or of this process on a CPU."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

_PROC = Path("/proc/self")


def reset(device: str) -> None:
    """Forget earlier peaks, where the system can (Linux, CUDA)."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        (_PROC / "clear_refs").write_text("5")


def peak_mb(device: str) -> float | None:
    """The peak since `reset`; None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e6
    with contextlib.suppress(OSError):
        lines = (_PROC / "status").read_text().splitlines()
        kib = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        if kib:
            return kib[0] * 1024 / 1e6
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
