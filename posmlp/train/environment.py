"""Where a run is made: versions, device, machine and commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from posmlp.data.files.frame_file import version_of

_REPORTED = ("torch", "numpy", "decord", "av", "scikit-learn", "scikit-image", "safetensors")


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, device, threads and commit that a result depends on, in plain values."""
    device = torch.device(device)
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "packages": {name: found for name in _REPORTED if (found := version_of(name))},
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        **commit(),
    }


def commit() -> dict[str, Any]:
    """The source tree's commit and whether it had changes; None outside a git checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # git is not installed here
            return ""
        return told.stdout.strip()

    head = git("rev-parse", "HEAD")
    if not head:
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(git("status", "--porcelain"))}
