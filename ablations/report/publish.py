"""What of an ablation is worth keeping under version control, taken into a folder of its own.

The folder is an ablation's folder like any other: `ablations.load`, `status`, `why` and `report`
read it. Left out are logs, environments that every result repeats, and weights that are too large
or not asked for.
"""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

from ablations.commands import for_folder
from ablations.store.files import in_checkout
from ablations.store.store import Store, StoreError, read_json, write_durably, write_json

LARGEST_MODEL = 2 * 2**20
"""Bytes; a larger file of weights is not taken along."""
_OF_A_CELL = ("result.json", "metrics.csv", "config.json")
_OF_A_GRID = ("grid.yaml", "plan.json", "classes.csv", "classes.png")


def publish(out: str | Path, to: str | Path, *, models: str = "none") -> Path:
    """Take an ablation's results from `out` to `to`, and write its report there.

    `models`: the weights that come along, `none` or `first` (each cell's at its first seed).
    Raises StoreError if the ablation has unfinished trainings or damaged files, or `to` holds a
    run, or another ablation's grid; ValueError for another value of `models`.
    """
    from ablations.report.page import write_report

    if models not in ("none", "first"):
        raise ValueError(f"models={models!r} must be none, or first (each cell's first seed)")
    source, target = Store(out), Store(to)
    plan = source.plan()
    unfinished = [
        f"{cell['name']} seed {seed} ({state})"
        for cell, seed, state in source.results(plan)
        if isinstance(state, str)
    ]
    unfinished += [
        f"{cell['name']} seed {seed} repeated ({state})"
        for cell, seed, state in source.repeats(plan)
        if isinstance(state, str) and state != "to do"  # which leaves nothing out but itself
    ]
    if unfinished:
        raise StoreError(
            f"{len(unfinished)} trainings of {source.root} are not finished, the first is "
            f"{unfinished[0]}; run them, or take their seeds or cells out of the grid"
        )
    cells = {cell["id"]: source.cell(cell["id"]) for cell in plan["cells"]}
    _same_grid(source, target)
    for name in _OF_A_GRID:
        if (source.root / name).is_file():
            write_durably(target.root / name, (source.root / name).read_bytes())
    repeats = [(cell_id, seed, 1) for cell_id, seed in plan.get("repeats", [])]
    for cell_id, cell in cells.items():
        write_json(target.cell_path(cell_id), cell)
    for which in [*product(cells, plan["seeds"], [0]), *repeats]:
        run, kept = source.run_folder(*which), target.run_folder(*which)
        files = [run / name for name in _OF_A_CELL]
        if models == "first" and which[1:] == (plan["seeds"][0], 0):
            files += _small_models(run)
        for file in filter(Path.is_file, files):
            write_durably(kept / file.name, _repeatable(file, target.root))
    _remove_others(target, set(cells))
    write_report(target.root)
    return target.root


def _repeatable(file: Path, root: Path) -> bytes:
    """A file's content; the command in a result repeats the run from the published folder.

    Called from the root of the checkout, if the folder lies in one.
    """
    if file.name != "result.json":
        return file.read_bytes()
    result = read_json(file)
    result["command"] = for_folder(result["command"], in_checkout(root))
    return (json.dumps(result, indent=2) + "\n").encode()


def _same_grid(source: Store, target: Store) -> None:
    """Raise StoreError if the target is in use for something else."""
    if target.root.exists() and target.root.resolve() == source.root.resolve():
        raise StoreError(f"{target.root} is the run itself; give another folder to publish to")
    if target.root.exists() and any(target.root.iterdir()):
        if target.lock_path.exists() or any(target.root.glob("cells/*/*.log")):
            raise StoreError(f"{target.root} holds a run of its own, not what was published of one")
        there, ours = target.plan(), source.plan()
        if there["question"] != ours["question"]:
            raise StoreError(
                f"{target.root} holds the results of another question ({there['question']!r}); "
                "give a new folder"
            )


def _small_models(run: Path) -> list[Path]:
    models = sorted(run.glob("model-seed*.safetensors"))
    return [path for path in models if path.stat().st_size <= LARGEST_MODEL]


def _remove_others(target: Store, kept: set[str]) -> None:
    """Cells that an earlier version of the grid had."""
    for folder in (target.root / "cells").iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder)
