"""What a runner costs beside the training: ours and others', on this machine, in one run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.bench.peers import CONTENDERS, NUM_WORKERS, Contender
from ablations.store.files import write_json

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Measured:
    """One run of a contender, as seen from outside of its process."""

    start_s: float
    """From the command to the beginning of the first job: Python, imports, workers."""
    jobs_s: float
    """From the beginning of the first job until the last has ended and, with us, is stored."""


def bench(num_jobs: int = 24, seconds: float = 1.0, only: str = "") -> Iterator[str]:
    """The lines of the table, as they are measured: no-op jobs, then jobs of `seconds` each.

    only: contenders whose names contain it. Raises ValueError if there is none, or num_jobs < 2.
    """
    if num_jobs < 2 or seconds <= 0:
        raise ValueError(f"num_jobs={num_jobs} must be at least 2, and seconds={seconds} positive")
    chosen = [each for each in CONTENDERS if only.lower() in each.name.lower()]
    if not chosen:
        names = "; ".join(each.name for each in CONTENDERS)
        raise ValueError(f"only={only!r} is part of no name; there are: {names}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    yield (
        f"{num_jobs} jobs each, {NUM_WORKERS} workers, {os.cpu_count()} CPUs, load {load:.1f}; "
        f"one durable write takes {_durable_write_ms():.2f} ms here"
    )
    yield (
        f"{'':<20}{'workers':>8}{'durable':>8}{'start-up s':>11}{'ms a no-op':>11}"
        f"{f'{seconds:g} s jobs: s':>16}{'ideal s':>9}{'of ideal':>9}"
    )
    for contender in chosen:
        yield _row(contender, num_jobs, seconds)


def _durable_write_ms(times: int = 20) -> float:
    """What the disk alone costs each job that is stored durably."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for i in range(times):
            write_json(Path(folder) / f"{i}.json", {})
        return (time.perf_counter() - began) / times * 1000


def _row(contender: Contender, num_jobs: int, seconds: float) -> str:
    missing = [name for name in contender.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"{contender.name:<20}not run: no {', '.join(missing)} (extra: bench)"
    try:
        empty = measure(contender, num_jobs, 0.0)
        full = measure(contender, num_jobs, seconds)
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", None) or b""
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        return f"{contender.name:<20}failed: {type(error).__name__} {last}"
    ms = empty.jobs_s / num_jobs * 1000
    ideal = -(-num_jobs // contender.workers) * seconds
    wall = full.jobs_s
    return (
        f"{contender.name:<20}{contender.workers:>8}{'yes' if contender.durable else 'no':>8}"
        f"{empty.start_s:>11.2f}{ms:>11.2f}{wall:>16.2f}{ideal:>9.1f}{ideal / wall:>9.1%}"
    )


def measure(contender: Contender, num_jobs: int, seconds: float) -> Measured:
    """Run a contender in a process of its own. Raises SubprocessError if it fails or hangs."""
    with tempfile.TemporaryDirectory() as folder:
        words: Sequence[str] = [contender.name, str(num_jobs), str(seconds), folder]
        called = time.time()
        subprocess.run(
            [sys.executable, "-m", contender.run.__module__, *words],
            check=True,
            capture_output=True,
            timeout=TIMEOUT_S + num_jobs * seconds,
        )
        begun, ended = (
            [float(line) for line in (Path(folder) / name).read_text().split()]
            for name in ("begun", "ended")
        )
    if len(begun) != num_jobs:
        raise OSError(f"{len(begun)} of {num_jobs} jobs began")
    return Measured(min(begun) - called, max(ended) - min(begun))
