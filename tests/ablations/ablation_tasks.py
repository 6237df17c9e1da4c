"""Tasks that workers of the tests run, and tiny grids; imported by worker processes too."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.grid import Job, read_grid
from ablations.worker import Place

TINY: dict[str, Any] = {
    "base": {
        "data": "moving-digits:easy",
        **{"depths": [1], "dims": [8], "num_groups": 1, "windows": 4, "temporal_windows": 8},
        **{"image_size": 16, "mlp_ratio": 2, "downsample": []},
        "train": {"epochs": 1, "num_clips": 64, "batch_size": 16},
    },
    "axes": {"gate": ["lrpe", "mean"]},
    "seeds": 2,
}


def jobs(count: int) -> list[Job]:
    """That many jobs, told apart by their seeds."""
    return read_grid({"seeds": count}).jobs


@dataclass
class Task:
    """Behaves as the method `deed` says, on the seeds `bad`, and reports who ran it."""

    folder: Path
    deed: str = ""
    bad: tuple[int, ...] = ()

    def log_path(self, job: Job) -> Path:
        return self.folder / f"{job.seed}.log"

    def __call__(self, job: Job, place: Place) -> dict[str, Any]:
        (self.folder / f"{job.seed}.started").write_text(str(os.getpid()))
        if job.seed in self.bad or not self.bad:
            getattr(self, self.deed, lambda: None)()
        with (self.folder / "finished").open("a") as file:
            file.write(f"{job.seed}\n")
        return {"seed": job.seed, "pid": os.getpid(), "worker": place.worker}

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def crash(self) -> None:
        os.abort()

    def nap(self) -> None:
        time.sleep(0.2)

    def sleep(self) -> None:
        time.sleep(60)

    def shout(self) -> None:
        print("to the output")
        print("to the error", file=sys.stderr)
        os.write(1, b"by the system\n")

    def fail(self) -> None:
        raise OSError("no room to store this")


class CannotStart(Task):
    """Cannot be read by a worker."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)
