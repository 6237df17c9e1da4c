"""What a process takes of its machine: CPU cores, and room in the user's cache folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CACHE_GIB = 2.0
"""Decoded frames that the user's cache folder is to hold, unless another number is given."""
CACHE_HELP = "GiB of decoded frames that the user's cache folder is to hold; 0: none"


def cache_folder(kind: str) -> Path:
    """The user's folder for things of a kind that can be made again; it need not exist."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "posmlp-workbench" / kind


def usable_cores(groups: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self")) -> int:
    """CPU cores that this process may use: by its affinity, and by its control groups' quotas.

    Slurm, containers and `taskset` limit a process in these two ways. `groups`, `of`: where Linux
    tells of control groups, and of this process.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, *map(int, _quotas(groups, of))))


def _quotas(groups: Path, of: Path) -> Iterator[float]:
    """The cores that each control group of a process, and each above it, may keep busy."""
    yield float(os.cpu_count() or 1)
    lines: list[str] = []
    with suppress(OSError):
        lines = (of / "cgroup").read_text().splitlines()
    for _, kinds, place in (line.split(":", 2) for line in lines):
        if kinds and "cpu" not in kinds.split(","):
            continue
        within = Path(place.lstrip("/"))
        for group in (within, *within.parents):
            with suppress(OSError, ValueError):  # no such file, or "max": no quota
                if kinds:  # version 1
                    folder = groups / "cpu" / group
                    quota, period = (
                        int((folder / f"cpu.cfs_{what}_us").read_text())
                        for what in ("quota", "period")
                    )
                else:
                    quota, period = map(int, (groups / group / "cpu.max").read_text().split())
                if quota > 0:
                    yield quota / period


NUM_WORKERS = min(2, usable_cores())
"""Decoding processes, unless another number is asked for."""
