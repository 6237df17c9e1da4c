"""What of an ablation is worth keeping under version control, taken into a folder of its own.

The folder holds six files (see `published`) and is read as an ablation's folder is: by
`ablations.load`, `status`, `why`, `repeat`, `report` and `--reuse`. Left out are logs, and weights
that are too large or not asked for.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ablations.commands import for_folder
from ablations.store.files import in_checkout
from ablations.store.published import CELLS, CURVES, GRID, csv_rows, pack
from ablations.store.status import are_open
from ablations.store.store import Result, Store, StoreError, write_durably, write_json
from posmlp.train.run_folder import write_code

LARGEST_MODEL = 2 * 2**20
"""Bytes; a larger file of weights is not taken along."""
Which = tuple[str, int, int]
"""A cell's id, a seed, and 1 where that is trained a second time."""


def publish(
    out: str | Path, to: str | Path, *, models: str = "none", unfinished: bool = False
) -> Path:
    """Take an ablation's results from `out` to `to`, and write its report there.

    `models`: the weights that come along, `none` or `first` (each cell's at its first seed, in its
    run folder). `unfinished`: take what has ended of a run that is not; the report says what is
    missing, and a run with `--reuse TO` goes on from it. Raises StoreError if the ablation has
    unfinished trainings otherwise, damaged files, or `to` holds anything else than an earlier
    version; ValueError for another value of `models`.
    """
    from ablations.report.page import write_report

    if models not in ("none", "first"):
        raise ValueError(f"models={models!r} must be none, or first (each cell's first seed)")
    source, target = Store(out), Store(to)
    plan = source.plan()
    _check_target(source, target)
    results = _finished(source, plan, unfinished)
    ids = dict.fromkeys([which[0] for which in results] + [cell["id"] for cell in plan["cells"]])
    cells = {cell_id: source.cell(cell_id) for cell_id in ids}
    trainings = [
        (
            _repeatable(result, target.root),
            _config(source, which),
            _table(source, source.metrics_path(*which)),
        )
        for which, result in results.items()
    ]
    packed = pack(plan, cells, trainings, _table(source, source.classes_path))
    packed[GRID] = _grid(source)
    for name in (CURVES, GRID, CELLS):  # the last says which curves are its own
        write_durably(target.root / name, packed[name])
    for cell in cells.values():  # copies of the user's own files, which the grid names
        for part in ("model", "train"):
            write_code(target.root, cell[part].get("code", {}))
    shutil.rmtree(target.root / "cells", ignore_errors=True)  # models of an earlier version
    if models == "first":
        for cell in plan["cells"]:
            _keep_model(source, target, (cell["id"], plan["seeds"][0], 0))
    write_report(target.root)
    return target.root


def _finished(source: Store, plan: dict[str, Any], unfinished: bool) -> dict[Which, Result]:
    """Every training's result, or those there are. Raises StoreError for a damaged one, or none."""
    found: dict[Which, Result] = {}
    missing = []
    rows = [(0, row) for row in (*source.trials(plan), *source.results(plan))]
    rows += [(1, row) for row in source.repeats(plan)]
    for repeat, (cell, seed, result) in rows:
        if not isinstance(result, str):
            found[cell["id"], seed, repeat] = result
        elif result != "to do" or not (repeat or unfinished):  # a repetition is itself alone
            again = " repeated" * repeat
            missing.append(f"{cell['name']} seed {seed}{again} ({result})")
    if are_open(plan) and not unfinished:
        raise StoreError(
            f"{source.root} has variants without a verdict that may have more seeds; go on with "
            "its run, lower seeds' to in the grid, or publish it as it is with --unfinished"
        )
    if missing:
        raise StoreError(
            f"{len(missing)} trainings of {source.root} are not finished, the first is "
            f"{missing[0]}; run them, take their seeds or cells out of the grid, or publish what "
            "there is with --unfinished"
        )
    return found


def _repeatable(result: Result, root: Path) -> Result:
    """A result whose command repeats the training from the published folder.

    Called from the root of the checkout, if the folder lies in one.
    """
    return result | {"command": for_folder(result["command"], in_checkout(root))}


def _config(source: Store, which: Which) -> dict[str, Any] | None:
    """A training's config.json; None for one that failed before it wrote any."""
    try:
        return source.json(source.run_folder(*which) / "config.json")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(f"{error}; put a sound one back, or train that cell again") from error


def _table(source: Store, path: Path) -> str | None:
    """The text of a table; None if there is none. Raises StoreError if a line is cut off."""
    text = source.table(path)
    try:
        csv_rows(text or "")
    except ValueError as error:
        raise StoreError(
            f"{path} is damaged ({error}); put a sound one back, or make it again"
        ) from error
    return text


def _grid(source: Store) -> bytes:
    path = source.root / GRID
    if not path.is_file():
        raise StoreError(f"{path} is missing; put it back, or give the command of this run again")
    return path.read_bytes()


def _check_target(source: Store, target: Store) -> None:
    """Raise StoreError if the target is in use for something else than this grid, published."""
    if target.root.exists() and not target.root.is_dir():
        raise StoreError(f"{target.root} is a file; give a new folder")
    if not target.root.exists() or not any(target.root.iterdir()):
        return
    if target.root.resolve() == source.root.resolve():
        raise StoreError(f"{target.root} is the run itself; give another folder to publish to")
    if not target.published:
        raise StoreError(
            f"{target.root} holds something else than a published grid; give a new folder"
        )
    try:
        there = target.plan()["question"]
    except StoreError:  # half of an earlier one, which this one mends
        return
    if there != source.plan()["question"]:
        raise StoreError(
            f"{target.root} holds the results of another question ({there!r}); give a new folder"
        )


def _keep_model(source: Store, target: Store, which: Which) -> None:
    """The run folder of a training with its model, where that is small."""
    run, kept = source.run_folder(*which), target.run_folder(*which)
    models = [
        path
        for path in sorted(run.glob("model-seed*.safetensors"))
        if path.stat().st_size <= LARGEST_MODEL
    ]
    if models:
        write_json(target.cell_path(which[0]), source.cell(which[0]))
    for path in (*models, *(run / name for name in ("config.json", "metrics.csv"))):
        if models and path.is_file():
            write_durably(kept / path.name, path.read_bytes())
