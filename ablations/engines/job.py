"""One job -> a result for each of its seeds. Failures are results too."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ablations.commands import repeat_command
from ablations.engines import memory
from ablations.engines.ladder import is_out_of_memory
from ablations.engines.population import clear_other_groups, split_run_folder, variants_of
from ablations.engines.worker import Place
from ablations.grid import weights
from ablations.grid.description import started_from
from ablations.grid.grid import Cell, Job
from ablations.store.files import read_json
from ablations.store.store import DEVICE_ERROR, OUT_OF_MEMORY, Result, Store
from posmlp.checkpoint import outline
from posmlp.data.user_cache import CACHE_GIB, NUM_WORKERS
from posmlp.own.code import trust
from posmlp.shapes import NO_ROOM
from posmlp.train.environment import environment
from posmlp.train.execution import in_bfloat16, repeats_bits
from posmlp.train.fitting import fit
from posmlp.train.logs import Log, Row, log_of
from posmlp.train.run_folder import read_config
from posmlp.train.same_run import wherever_it_starts

NOT_METRICS = ("epoch", "variant", "seed", "lr", "seconds", "data_wait_share")


@dataclass
class Training:
    """Trains jobs under `root`; goes to worker processes by pickle. Who runs it stores results."""

    root: Path
    num_decoders: int = NUM_WORKERS
    cache_gib: float = CACHE_GIB
    timeout_s: float | None = None
    """Seconds after which a training's worker is ended; a population has them for each."""
    log: str | None = None
    """What is given the values of each epoch: tensorboard, or a function's name."""

    def limit_s(self, job: Job) -> float | None:
        """Seconds that a job may take; None: any number."""
        return None if self.timeout_s is None else self.timeout_s * len(job.trainings)

    def log_path(self, job: Job) -> Path:
        return Store(self.root).log_path(job)

    def moved_to(self, folder: Path) -> Training:
        """The same below another folder, on another machine."""
        return replace(self, root=folder)

    def __call__(self, job: Job, place: Place) -> list[Result]:
        """Train; a result for each training. Raises OSError if there is no room for the files."""
        folder = Store(self.root).work_folder(job)
        results = Attempt(job, place, self.root).finish(lambda: self._fit(job, place, folder))
        if is_out_of_memory(results):
            memory.release(place.device)
            shutil.rmtree(folder, ignore_errors=True)
        return results

    def _fit(self, job: Job, place: Place, folder: Path) -> list[Result]:
        torch.set_num_threads(place.num_threads)
        store, first = Store(self.root), job.cells[0]
        weights.check_unchanged(first.train.init_from, first.init_sha256)
        clear_other_groups(store, job)
        _clear_unless_resumable(folder, job)
        trust(first.code.values())  # by who named it, in the process that sent the job
        model = outline(first.config)
        history = fit(
            first.config,
            first.train,
            first.data.spec,
            job.seeds,
            folder,
            variants=variants_of(job),
            device=place.device,
            num_workers=self.num_decoders,
            cache_gib=self.cache_gib,
            progress=False,
            micro_batches=job.micro_batches,
            log=self._log(job),
        )
        if len(job.trainings) > 1:
            split_run_folder(store, job)
        outcomes = []
        for cell, seed in job.trainings:
            rows = [r for r in history if (r.get("variant", cell.id), r["seed"]) == (cell.id, seed)]
            home = store.run_folder(cell.id, seed, job.repeat)
            outcomes.append(
                {
                    "metrics": {k: v for k, v in rows[-1].items() if k not in NOT_METRICS},
                    "params": sum(parameter.numel() for parameter in model.parameters()),
                    "train_seconds": sum(row["seconds"] for row in rows) / len(job.trainings),
                    "history": str((home / "metrics.csv").relative_to(self.root)),
                }
            )
        return outcomes

    def _log(self, job: Job) -> Log | None:
        """The log by name, whose runs are called by cell and seed."""
        if self.log is None:
            return None
        log, names = log_of(self.log), {cell.id: cell.name for cell in job.cells}

        def told(run: Path, row: Row) -> None:
            cell_id = row.get("variant", job.cells[0].id)
            name = re.sub(r"[^\w=.,+>-]+", "_", names[cell_id])[:100]
            seed = f"seed{row['seed']}" + "-repeat" * job.repeat
            log(self.root / f"{name}-{cell_id}-{seed}", row)

        return told


@dataclass
class Attempt:
    """What is recorded about running one job, however it ends."""

    job: Job
    place: Place
    root: Path
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    clock: float = field(default_factory=time.perf_counter)

    def finish(self, train: Callable[[], Sequence[Result]]) -> list[Result]:
        """Call `train`, and make results of what it returns, one a training, or raises."""
        memory.reset(self.place.device)
        try:
            outcomes = train()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            reason = f"{type(error).__name__}: {error}"
            return self.failed(_kind(error), reason, traceback.format_exc())
        return [
            self._result(*training, **_checked(outcome))
            for training, outcome in zip(self.job.trainings, outcomes, strict=True)
        ]

    def failed(self, failure: str, reason: str, trace: str = "") -> list[Result]:
        """The results of a job that did not come to its end."""
        how: Result = {"status": "failed", "failure": failure, "reason": reason, "traceback": trace}
        return [self._result(*training, **how) for training in self.job.trainings]

    def _result(
        self, cell: Cell, seed: int, train_seconds: float | None = None, **outcome: Any
    ) -> Result:
        place, num_together = self.place, len(self.job.trainings)
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        seconds = (time.perf_counter() - self.clock) / num_together
        timings = {"started": self.started, "finished": finished, "seconds": seconds}
        default: Result = {"failure": None, "reason": None, "traceback": None, "metrics": {}}
        log, precision = Store(self.root).log_path(self.job), cell.train.precision
        return {
            "cell": cell.id,
            "name": cell.name,
            "seed": seed,
            "repeat": self.job.repeat,
            **default,
            **outcome,
            "config": {"model": cell.config.to_dict(), "train": cell.train.to_dict()},
            "data": cell.data.spec,
            **started_from(cell),
            "timings": timings | {"train_seconds": train_seconds},
            "peak_memory_mb": memory.peak_mb(place.device),
            "together": num_together,
            "micro_batches": self.job.micro_batches,
            "memory_steps": list(self.job.memory_steps),
            "environment": {
                **_environment(place.device),
                "precision": "bfloat16" if in_bfloat16(precision, place.device) else "float32",
                "repeats": repeats_bits(cell.train.deterministic, place.device),
            },
            "worker": place._asdict() | {"pid": os.getpid(), "host": socket.gethostname()},
            "log": str(log.relative_to(self.root)),
            "command": repeat_command(self.root, cell.id, seed, place.device, place.num_threads),
        }


def _checked(outcome: Result) -> Result:
    """The outcome of a training; a failure where a number of it is not finite."""
    lost = [k for k, v in outcome["metrics"].items() if not math.isfinite(v)]
    if not lost:
        return {"status": "done", **outcome}
    said = ", ".join(f"{name} is {outcome['metrics'][name]}" for name in lost)
    metrics = outcome["metrics"] | dict.fromkeys(lost)  # JSON has no NaN
    how = {"status": "failed", "failure": "not finite", "reason": said}
    return {**outcome, **how, "metrics": metrics}


def _kind(error: Exception) -> str:
    """What sort of failure an exception is."""
    if memory.is_out_of_memory(error):
        return OUT_OF_MEMORY
    return DEVICE_ERROR if memory.is_of_device(error) else "exception"


def _clear_unless_resumable(folder: Path, job: Job) -> None:
    """Remove what no training can go on from: a kill's scraps, or a run of before a new field."""
    try:
        stored = wherever_it_starts(read_config(folder))
        made = dict(read_json(folder / "environment.json"))
    except (FileNotFoundError, ValueError, TypeError):
        stored, made = {}, {}
    same_way = made.get("micro_batches", 1) == job.micro_batches
    first = job.cells[0]
    asked = wherever_it_starts(
        {
            "model": first.config.to_dict(),
            "train": first.train.to_dict(),
            "variants": variants_of(job),
            **({"init_sha256": first.init_sha256} if first.init_sha256 else {}),
        }
    )
    if any(stored.get(key) != value for key, value in asked.items()) or not same_way:
        if stored:
            print(f"{folder} was begun with other configuration fields; it starts anew")
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _environment(device: str) -> dict[str, Any]:
    return environment(device)
