"""What runs the bench's jobs: our engines and, where they are installed, those that others use.

Each contender runs `wait(folder, seconds)` a number of times, on two workers where it has workers,
as its own documentation shows it. `python -m ablations.bench.peers NAME JOBS SECONDS FOLDER`.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.engines.processes import Outcome, WorkerDied, same_imports
from ablations.engines.worker import Place
from ablations.grid.grid import Job
from ablations.store.files import write_all_json

NUM_WORKERS = 2
PLACES = [Place(i, "cpu", 1) for i in range(NUM_WORKERS)]


def wait(folder: Path, seconds: float) -> float:
    """Note when it begins, wait, and note when it ends."""
    note(folder, "begun")
    if seconds:
        time.sleep(seconds)
    note(folder, "ended")
    return 0.0


def note(folder: Path, name: str) -> None:
    """Add the time to those that have this name."""
    with (folder / name).open("a") as file:
        file.write(f"{time.time()}\n")


@dataclass(frozen=True)
class Wait:
    """Our engines' task."""

    root: Path
    seconds: float
    notes: Path

    def limit_s(self, job: Job) -> None:
        """No time is too long."""

    def log_path(self, job: Job) -> Path:
        return self.root / f"{job.seeds[0]}.log"

    def moved_to(self, folder: Path) -> Wait:
        return replace(self, root=folder)

    def __call__(self, job: Job, place: Place) -> list[dict[str, Any]]:
        return [{"seed": job.seeds[0], "metrics": {"value": wait(self.notes, self.seconds)}}]


def _jobs(count: int) -> list[Job]:
    from ablations.grid.grid import read_grid

    return read_grid({"seeds": count, "repeat": False}).jobs


def _store(outcomes: Iterable[Outcome], folder: Path) -> None:
    """As `ablations.run` does with each batch of results: a durable file each."""
    results = [result for each in outcomes if not isinstance(each, WorkerDied) for result in each]
    write_all_json({folder / "run" / f"{result['seed']}.json": result for result in results})
    note(folder, "ended")


def ours_in_process(count: int, seconds: float, folder: Path) -> None:
    from ablations.engines.local import in_process

    for batch in in_process(_jobs(count), Wait(folder / "run", seconds, folder), PLACES[0]):
        _store((outcome for _, outcome in batch), folder)


def ours_pooled(count: int, seconds: float, folder: Path) -> None:
    from ablations.engines.local import pool

    for batch in pool(_jobs(count), Wait(folder / "run", seconds, folder), PLACES):
        _store((outcome for _, outcome in batch), folder)


def ours_on_ray(count: int, seconds: float, folder: Path) -> None:
    from ablations.engines import ray_engine

    request = ray_engine.Request(1, 0)
    with ray_engine.connected(None):
        task = Wait(folder / "run", seconds, folder)
        for _, parcel in ray_engine.on_ray(_jobs(count), task, PLACES[0], request):
            _store([parcel.outcome], folder)


def joblib(count: int, seconds: float, folder: Path) -> None:
    import joblib as peer

    peer.Parallel(n_jobs=NUM_WORKERS)(peer.delayed(wait)(folder, seconds) for _ in range(count))


def optuna_in_memory(count: int, seconds: float, folder: Path) -> None:
    import optuna as peer

    peer.logging.set_verbosity(peer.logging.ERROR)
    study = peer.create_study(sampler=peer.samplers.RandomSampler(0))
    study.optimize(lambda trial: wait(folder, seconds), n_trials=count, n_jobs=NUM_WORKERS)


def optuna_journal(count: int, seconds: float, folder: Path) -> None:
    import optuna as peer
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    peer.logging.set_verbosity(peer.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal")))
    study = peer.create_study(storage=storage, sampler=peer.samplers.RandomSampler(0))
    study.optimize(lambda trial: wait(folder, seconds), n_trials=count, n_jobs=NUM_WORKERS)


def hydra(count: int, seconds: float, folder: Path) -> None:
    """The basic launcher, which has one worker."""
    script = folder / "app.py"
    script.write_text(
        "from pathlib import Path\nimport hydra\nfrom ablations.bench.peers import wait\n\n\n"
        "@hydra.main(version_base=None)\ndef app(config):\n"
        f"    return wait(Path({str(folder)!r}), {seconds})\n\n\napp()\n"
    )
    sweep = f"+number=range(0,{count})"
    command = [sys.executable, str(script), "--multirun", sweep, f"hydra.sweep.dir={folder}/sweep"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=same_imports())


def ray_tune(count: int, seconds: float, folder: Path) -> None:
    import ray
    from ray import tune

    ray.init(num_cpus=NUM_WORKERS, log_to_driver=False, logging_level=logging.ERROR)
    tune.Tuner(
        lambda config: tune.report({"value": wait(folder, seconds)}),
        tune_config=tune.TuneConfig(num_samples=count),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    ray.shutdown()


@dataclass(frozen=True)
class Contender:
    """A way to run jobs. `needs`: modules, by the names they are imported under."""

    name: str
    run: Callable[[int, float, Path], None]
    needs: tuple[str, ...] = ()
    workers: int = NUM_WORKERS
    durable: bool = True
    """Whether the time includes that each result is safe on the disk, by fsync or the like."""


CONTENDERS: Sequence[Contender] = (
    Contender("ours, in-process", ours_in_process, workers=1),
    Contender("ours, pooled", ours_pooled),
    Contender("ours, on Ray Core", ours_on_ray, ("ray",)),
    Contender("joblib", joblib, ("joblib",), durable=False),
    Contender("Optuna, in memory", optuna_in_memory, ("optuna",), durable=False),
    Contender("Optuna, journal", optuna_journal, ("optuna",)),
    Contender("Hydra, basic", hydra, ("hydra",), workers=1, durable=False),
    Contender("Ray Tune", ray_tune, ("ray", "pyarrow", "tensorboardX"), durable=False),
)


if __name__ == "__main__":
    name, count, seconds, folder = sys.argv[1:]
    (chosen,) = [contender for contender in CONTENDERS if contender.name == name]
    from ablations.bench import peers  # tasks must not be of __main__, which workers do not have

    getattr(peers, chosen.run.__name__)(int(count), float(seconds), Path(folder))
