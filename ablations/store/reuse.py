"""Take over finished trainings from other run folders, where the content hash is the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ablations.commands import repeat_command
from ablations.grid.grid import Cell, Grid
from ablations.store.files import write_json
from ablations.store.store import Result, Store


def opened(folders: Sequence[str | Path], grid: Grid) -> list[Store]:
    """The run folders to take over from.

    Raises StoreError if one holds no ablation, or its results come from other defaults.
    """
    stores = [Store(folder) for folder in folders]
    for store in stores:
        store.plan()
        store.check_cells(grid)
    return stores


def take_over(
    cell: Cell, seed: int, repeat: int, store: Store, sources: Sequence[Store]
) -> Result | None:
    """The result of a training, copied with its run folder from the first source with one.

    It says where it is from. None if no source has finished it.
    """
    for source in sources:
        result = source.sound_result(cell.id, seed, repeat)
        if result is not None and result["status"] == "done" and source.root != store.root:
            return _copied(cell, result, source, store)
    return None


def _copied(cell: Cell, result: Result, source: Store, store: Store) -> Result:
    """Copy beside the place and rename, so that a kill leaves nothing half taken over."""
    which = cell.id, result["seed"], result.get("repeat", 0)
    home = store.run_folder(*which)
    new = home.with_name(f".{home.name}.{os.getpid()}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    source.copy_run(*which, new)
    where = result["worker"]["device"], result["worker"]["num_threads"]
    result = result | {
        "name": cell.name,
        "reused_from": result.get("reused_from") or str(source.root),
        "command": repeat_command(store.root, *which[:2], *where),
    }
    write_json(new / "result.json", result)
    log = result.get("log")
    if log and (source.root / log).is_file():
        shutil.copyfile(source.root / log, store.root / log)
    shutil.rmtree(home, ignore_errors=True)
    new.replace(home)
    return result
