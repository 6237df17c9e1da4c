"""Tasks that workers of the tests run, tiny grids and helpers; worker processes import it too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.engines.memory import is_out_of_memory
from ablations.engines.worker import Place
from ablations.grid.grid import Grid, Job, read_grid
from ablations.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

TIMES = ("started", "finished", "seconds", "train_seconds")
CANNOT_AGREE = (*TIMES, "peak_memory_mb", "commit", "dirty")
TINY: dict[str, Any] = {
    "base": {
        "data": "moving-digits:easy",
        **{"depths": [1], "dims": [8], "num_groups": 1, "windows": 4, "temporal_windows": 2},
        **{"num_frames": 2, "image_size": 16, "mlp_ratio": 2, "downsample": []},
        "train": {
            **{"epochs": 1, "num_clips": 32, "batch_size": 16},
            **{"num_val_clips": 28, "num_test_clips": 56},
        },
    },
    "axes": {"gate": ["lrpe", "mean"]},
    "seeds": 2,
}
ONE: dict[str, Any] = TINY | {"axes": {}, "seeds": 1}
"""A single training, the smallest there is."""


def facts(table: pd.DataFrame) -> pd.DataFrame:
    """A table without times, memory and the state of the checkout."""
    return table.drop(columns=list(CANNOT_AGREE))


def changed(**base: Any) -> dict[str, Any]:
    train = {**TINY["base"]["train"], **base.pop("train", {})}
    return TINY | {"base": {**TINY["base"], **base, "train": train}}


def how_made(log: str) -> dict[str, Any]:
    """What every result says of its making."""
    return {
        "timings": {"started": "before", "finished": "then", "seconds": 1.0},
        "worker": {"device": "cpu", "num_threads": 1, "host": "here"},
        "log": log,
        "command": "ablations repeat",
    }


def stored(store: Store, grid: Grid, seed: int, **outcome: Any) -> dict[str, Any]:
    """Write a result of the grid's baseline."""
    cell = grid.baseline
    result = {
        **{"cell": cell.id, "seed": seed, "status": "done", "metrics": {"test_top1": 0.5}},
        **how_made(f"cells/{cell.id}/seed0.log"),
        **outcome,
    }
    store.write_results([result])
    return result


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but was not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(
    holds: Callable[[], bool], *processes: subprocess.Popen[str], timeout_s: float = 300
) -> None:
    """Until it holds; AssertionError when the time is over, or one of the processes has ended."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert all(process.poll() is None for process in processes), "one ended before"
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
        time.sleep(0.01)


def jobs(count: int, **train: Any) -> list[Job]:
    """That many jobs, told apart by their seeds."""
    return read_grid({"base": {"train": train}, "seeds": count, "repeat": False}).jobs


@dataclass
class Task:
    """Behaves as the method `deed` says, on the seeds `bad`, and reports who ran it."""

    folder: Path
    deed: str = ""
    bad: tuple[int, ...] = ()
    worker: int = -1
    timeout_s: float | None = None
    home: Path | None = None
    """The folder before it was moved to another machine's."""

    def log_path(self, job: Job) -> Path:
        return self.folder / f"{job.seeds[0]}.log"

    def limit_s(self, job: Job) -> float | None:
        return self.timeout_s

    def moved_to(self, folder: Path) -> Task:
        return replace(self, folder=folder, home=self.folder)

    def __call__(self, job: Job, place: Place) -> list[dict[str, Any]]:
        self.worker = place.worker
        (self.folder / f"{job.seeds[0]}.started").write_text(str(os.getpid()))
        outcome: dict[str, Any] = {}
        if job.seeds[0] in self.bad or not self.bad:
            outcome = getattr(self, self.deed, lambda: None)() or {}
        with (self.folder / "finished").open("a") as file:
            file.write(f"{job.seeds[0]}\n")
        seed = job.seeds[0]
        return [{"seed": seed, "pid": os.getpid(), "worker": place.worker} | outcome]

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def crash(self) -> None:
        os.abort()

    def die_on_worker_0(self) -> None:
        self._die_three_times(self.worker == 0)

    def _die_three_times(self, here: bool) -> None:
        """Elsewhere jobs wait for the third death, so that there are some left for it."""
        folder = self.home or self.folder
        if here:
            (folder / f"{os.getpid()}.died").touch()
            self.die()
        wait_until(lambda: len(list(folder.glob("*.died"))) == 3)

    def wait_for_go(self) -> None:
        wait_until((self.folder / "go").exists)

    def meet(self) -> None:
        """Waits for a job of another worker to have begun."""
        (self.folder / f"{self.worker}.here").touch()
        wait_until(lambda: len(list(self.folder.glob("*.here"))) == 2)

    def die_on_the_second_node(self) -> None:
        self._die_three_times(os.environ.get("TEST_NODE") == "second")

    def gives_up(self) -> dict[str, Any]:
        return {"failure": "device error"}

    def runs_out_of_memory(self) -> dict[str, Any]:
        """Fails as torch does when it asks the system for too much."""
        import torch

        try:
            torch.empty(1 << 60, dtype=torch.uint8)
        except RuntimeError as error:
            return {"failure": "out of memory"} if is_out_of_memory(error) else {}
        return {}

    def needs_all_the_memory(self) -> dict[str, Any]:
        """Runs out of memory beside another job, as the first one of worker 1 is sure to be."""
        mine, ran_out = self.folder / f"{os.getpid()}.running", self.folder / "ran out"
        mine.touch()
        if self.worker == 1 and not ran_out.exists():
            wait_until(self._is_another_running)
        else:
            wait_until(ran_out.exists)
            time.sleep(0.3)
        crowded = self._is_another_running()
        mine.unlink()
        outcome = self.runs_out_of_memory() if crowded else {}
        ran_out.touch()
        return outcome

    def _is_another_running(self) -> bool:
        return any(path.stem != str(os.getpid()) for path in self.folder.glob("*.running"))

    def nap(self) -> None:
        time.sleep(0.2)

    def sleep(self) -> None:
        time.sleep(60)

    def shout(self) -> None:
        print("to the output")
        print("to the error of \udce9", file=sys.stderr)
        os.write(1, b"by the system\n")

    def fail(self) -> None:
        raise OSError("no room to store this")


@dataclass
class KilledWhenIdle(Task):
    """The worker is killed between its first job and the next, when the driver asks for a log."""

    driver: int = 0

    def log_path(self, job: Job) -> Path:
        if os.getpid() == self.driver and job.seeds[0] == 0:
            pid = int((self.folder / "0.started").read_text())
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # wholly ended, all its threads
        return super().log_path(job)


class CannotStart(Task):
    """Cannot be read by a worker."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)
