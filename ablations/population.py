"""Seeds that trained together: one run folder becomes one a seed, as if each had been alone."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablations.files import read_json, write_durably, write_json


def split_run_folder(folder: Path, homes: Mapping[int, Path]) -> None:
    """Give each seed of a finished run its own run folder; the folder itself stays."""
    for seed, home in homes.items():
        new = home.with_name(f".{home.name}.{os.getpid()}.tmp")
        shutil.rmtree(new, ignore_errors=True)
        write_json(new / "config.json", read_json(folder / "config.json") | {"seeds": [seed]})
        write_json(new / "environment.json", read_json(folder / "environment.json"))
        write_durably(new / "metrics.csv", _rows_of(folder / "metrics.csv", seed))
        for model in (*folder.glob(f"*-seed{seed}.*"), *folder.glob(f"*/*-seed{seed}.*")):
            target = new / model.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(model, target)
        shutil.rmtree(home, ignore_errors=True)
        new.replace(home)


def _rows_of(metrics: Path, seed: int) -> bytes:
    with metrics.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if int(row["seed"]) == seed]
        names = list(reader.fieldnames or ())
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def clear_other_groups(folder: Path, seeds: Sequence[int]) -> None:
    """Remove what other groups with one of these seeds left when they were stopped."""
    for other in folder.parent.glob("seeds*"):
        if other.is_dir() and other != folder:
            label = other.name.removeprefix("seeds").removesuffix("-repeat")
            if {int(seed) for seed in label.split("-")} & set(seeds):
                shutil.rmtree(other)
