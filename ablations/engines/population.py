"""Trainings that advance together as one population, and leave what each would have left alone."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablations.grid.grid import Cell, Job
from ablations.store.files import read_json, write_durably, write_json
from ablations.store.shapes import POPULATION
from ablations.store.store import Store
from posmlp.shapes import fault
from posmlp.train.run_folder import write_code
from posmlp.train.variants import values_of, without_values


def grouped(jobs: Sequence[Job], many: str, most: Callable[[Job], int]) -> list[Job]:
    """Jobs put together that differ in their `many` ("seeds" or "cells") alone.

    No job gets more trainings than `most` says of its first part, where it stands. Repetitions
    stay alone, as they are to differ from what they repeat in nothing.
    """
    groups: list[Job] = []
    at: dict[Any, int] = {}
    for job in jobs:
        if job.repeat or most(job) == 1:
            groups.append(job)
            continue
        common = _in_common(job, many)
        if common in at:
            last = groups[at[common]]
            joined = replace(last, **{many: getattr(last, many) + getattr(job, many)})
            if len(joined.trainings) <= most(last):
                groups[at[common]] = joined
                continue
        at[common] = len(groups)
        groups.append(job)
    return groups


def training_mb(job: Job) -> float:
    """Roughly the memory, in MB, of one of a job's trainings: activations, weights and moments.

    A branch keeps about twelve tensors of a block's tokens for its backward pass, in 4 bytes each.
    """
    config, train = job.cells[0].config, job.cells[0].train
    sizes = config.stage_sizes(*config.size)
    activations = config.num_frames * math.prod(config.size) * config.dims[0] / 2  # the stem's
    weights = 0
    for stage, (rows, columns) in enumerate(sizes):
        depth, dim = config.depths[stage], config.dims[stage]
        branches = depth * sum(map(len, config.steps(stage)))
        activations += 12 * branches * config.num_frames * rows * columns * dim
        weights += 3 * branches * dim * dim
    return 4 * (activations * train.batch_size / job.micro_batches + 4 * weights) / 1e6


def _in_common(job: Job, many: str) -> Any:
    """What jobs must share to be put together."""
    if many == "cells":
        return kind_of(job.cells[0]), job.seeds
    folds = job.cells[0].train.folds  # seeds of one fold have the same clips
    return job.cells, job.seeds[0] % folds if folds else 0


def kind_of(cell: Cell) -> Hashable:
    """Equal for cells that one population can hold."""
    return without_values(cell.config, cell.train), cell.data.identity, cell.data.spec


def variants_of(job: Job) -> dict[str, dict[str, Any]] | None:
    """A population's cells for `posmlp.train.fit`: how they differ; None for one training."""
    if len(job.trainings) == 1:
        return None
    return {cell.id: values_of(cell.config, cell.train) for cell in job.cells}


def split_run_folder(store: Store, job: Job) -> None:
    """Give each training of a finished population its own run folder; the population's stays."""
    folder = store.work_folder(job)
    about, made = read_json(folder / "config.json"), read_json(folder / "environment.json")
    del about["variants"]
    for cell, seed in job.trainings:
        home = store.run_folder(cell.id, seed, job.repeat)
        new = home.with_name(f".{home.name}.{os.getpid()}.tmp")
        shutil.rmtree(new, ignore_errors=True)
        own = {"model": cell.config.to_dict(), "train": cell.train.to_dict(), "seeds": [seed]}
        write_code(new, cell.code)
        write_json(new / "config.json", about | own)
        write_json(new / "environment.json", made)
        write_durably(new / "metrics.csv", _rows_of(folder / "metrics.csv", cell.id, seed))
        label = f"{cell.id}-seed{seed}."
        for model in (*folder.glob(f"*-{label}*"), *folder.glob(f"*/*-{label}*")):
            target = new / model.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(model, target.with_name(model.name.replace(f"{cell.id}-", "")))
        shutil.rmtree(home, ignore_errors=True)
        new.replace(home)


def _rows_of(metrics: Path, cell_id: str, seed: int) -> bytes:
    with metrics.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if (row.pop("variant"), int(row["seed"])) == (cell_id, seed)]
        names = [name for name in reader.fieldnames or () if name != "variant"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def clear_other_groups(store: Store, job: Job) -> None:
    """Remove what other populations with one of these trainings left when they were stopped."""
    wanted = {(cell.id, seed) for cell, seed in job.trainings}
    for path in store.together_path.glob("*/config.json"):
        try:
            about = read_json(path)
        except (FileNotFoundError, ValueError):  # gone meanwhile, or damaged
            continue
        if fault(about, POPULATION):
            continue
        held = {(name, seed) for name in about["variants"] for seed in about["seeds"]}
        if held & wanted and path.parent != store.work_folder(job):
            shutil.rmtree(path.parent)
