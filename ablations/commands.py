"""The commands that results and plans name, as they hold for a folder."""

from __future__ import annotations

import shlex
from pathlib import Path


def repeat_command(root: Path, cell_id: str, seed: int, device: str, num_threads: int) -> str:
    """What trains this cell and seed again in another folder, and compares."""
    words = ["ablations", "repeat", str(root), cell_id, "--seed", str(seed)]
    return shlex.join([*words, "--device", device, "--threads", str(num_threads)])
