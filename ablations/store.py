"""The files of an ablation, which are the truth; every table is derived from them. No torch here.

DIR/grid.yaml                        the grid as it was last run
DIR/plan.json                        its cells in order, seeds, baseline, axes, and the command
DIR/cells/ID/cell.json               one cell: configs, data, name, axes
DIR/cells/ID/seed{k}/                the run folder of `posmlp.train.fit`, and result.json
DIR/cells/ID/seed{k}.log             what the training printed, if anything
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.settings import shown_value

if TYPE_CHECKING:
    import pandas as pd

    from ablations.grid import Cell, Grid

Result = dict[str, Any]
STATUSES = ("done", "failed")
DEVICE_ERROR = "device error"
"""The `failure` of a job whose device, not whose mathematics, gave up."""
_IN_PLAN = ("id", "name", "axes")


class StoreError(ValueError):
    """A folder that cannot hold, or does not hold, the ablation that is asked for."""


class Store:
    """One ablation's folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def plan_path(self) -> Path:
        return self.root / "plan.json"

    @property
    def lock_path(self) -> Path:
        return self.root / ".runner.lock"

    @property
    def owner_path(self) -> Path:
        return self.root / ".runner.json"

    def cell_path(self, cell_id: str) -> Path:
        return self.root / "cells" / cell_id / "cell.json"

    def run_folder(self, cell_id: str, seed: int) -> Path:
        return self.root / "cells" / cell_id / f"seed{seed}"

    def result_path(self, cell_id: str, seed: int) -> Path:
        return self.run_folder(cell_id, seed) / "result.json"

    def log_path(self, cell_id: str, seed: int) -> Path:
        return self.root / "cells" / cell_id / f"seed{seed}.log"

    def check(self, grid: Grid) -> None:
        """Raise StoreError if the folder holds something else, or other results."""
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root} is a file; give a new folder with --out")
        ours = self.plan_path.is_file() or self.lock_path.is_file()
        if self.root.is_dir() and any(self.root.iterdir()) and not ours:
            raise StoreError(f"{self.root} is not empty and holds no ablation; give a new folder")
        for cell in grid.cells:
            self._check_cell(cell)

    def declare(self, grid: Grid, command: str) -> None:
        """Write down what is to be run."""
        for cell in grid.cells:
            if self.cell(cell.id) != described_cell(cell):
                write_json(self.cell_path(cell.id), described_cell(cell))
        write_durably(self.root / "grid.yaml", grid.file.text.encode())
        write_json(self.plan_path, described(grid) | {"command": command})

    def cell(self, cell_id: str) -> dict[str, Any]:
        """What cell.json holds; {} if it is missing or damaged, as a run writes it again."""
        try:
            return read_json(self.cell_path(cell_id))
        except (FileNotFoundError, ValueError):
            return {}

    def _check_cell(self, cell: Cell) -> None:
        """Refuse to take results of another configuration for this cell's.

        Ids leave out what is at its default, so a default that was changed would do that.
        """
        path, old, new = self.cell_path(cell.id), self.cell(cell.id), described_cell(cell)
        for part in ("model", "train"):
            for key, value in old.get(part, {}).items():
                if key in new[part] and new[part][key] != value:
                    raise StoreError(
                        f"{path} was made with {part}.{key}={value!r}, which is now "
                        f"{new[part][key]!r} by a changed default; set {key} in the grid to keep "
                        "those results, or give a new folder"
                    )

    def plan(self) -> dict[str, Any]:
        """What the last run declared. Raises StoreError if there is none."""
        if not self.plan_path.is_file():
            raise StoreError(
                f"{self.root} holds no ablation; start one with: ablations run GRID "
                f"--out {self.root}"
            )
        return read_json(self.plan_path)

    def result(self, cell_id: str, seed: int) -> Result | None:
        """The stored result, or None if there is none. Raises ValueError if it is damaged."""
        path = self.result_path(cell_id, seed)
        try:
            result = read_json(path)
        except FileNotFoundError:
            return None
        if (result.get("cell"), result.get("seed")) != (cell_id, seed):
            raise ValueError(f"{path} is the result of another cell or seed")
        if result.get("status") not in STATUSES or not isinstance(result.get("metrics"), dict):
            raise ValueError(f"{path} lacks a status or metrics")
        return result

    def write_result(self, result: Result) -> None:
        write_json(self.result_path(result["cell"], result["seed"]), result)

    def results(self, plan: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, Result | str]]:
        """Each declared cell and seed with its result, or with why there is none."""
        for cell in plan["cells"]:
            for seed in plan["seeds"]:
                try:
                    result: Result | str | None = self.result(cell["id"], seed)
                except ValueError as error:
                    result = f"damaged: {error}"
                yield cell, seed, result or "to do"


def described_cell(cell: Cell) -> dict[str, Any]:
    """A cell in plain values."""
    return {
        "id": cell.id,
        "name": cell.name,
        "axes": {k: list(v) if isinstance(v, tuple) else v for k, v in cell.axes.items()},
        "model": cell.config.to_dict(),
        "train": cell.train.to_dict(),
        "data": asdict(cell.data),
        "identity": cell.identity,
    }


def described(grid: Grid) -> dict[str, Any]:
    """A grid in plain values, for status and report."""
    return {
        "question": grid.question,
        "prediction": grid.prediction,
        "design": grid.design,
        "axes": list(grid.axes),
        "seeds": list(grid.seeds),
        "baseline": grid.baseline.id,
        "cells": [
            {key: value for key, value in described_cell(cell).items() if key in _IN_PLAN}
            for cell in grid.cells
        ],
    }


def load(out: str | Path) -> pd.DataFrame:
    """The tidy table of an ablation: a row for each cell and seed that is finished, or failed.

    Columns: the axes; id, name, baseline, seed, status, failure, reason; the last epoch's metrics
    (test_top1, ...); params; seconds, train_seconds; peak_memory_mb; device, num_threads, host,
    commit, dirty, versions. Damaged result files are named in a warning and have no row.
    """
    import pandas as pd

    store = Store(out)
    plan = store.plan()
    rows = []
    for cell, seed, result in store.results(plan):
        if isinstance(result, dict):
            rows.append(_row(cell, seed, result, plan))
        elif result != "to do":
            warnings.warn(f"{cell['name']} seed {seed} is {result}; it is not done", stacklevel=2)
    table = pd.DataFrame(rows)
    for axis in set(plan["axes"]) & set(table.columns):
        if table[axis].map(lambda value: isinstance(value, list)).any():
            table[axis] = table[axis].map(shown_value)
    return table


def _row(cell: dict[str, Any], seed: int, result: Result, plan: dict[str, Any]) -> dict[str, Any]:
    environment = result.get("environment") or {}
    worker = result.get("worker") or {}
    return {
        **cell["axes"],
        "id": cell["id"],
        "name": cell["name"],
        "baseline": cell["id"] == plan["baseline"],
        "seed": seed,
        **{key: result.get(key) for key in ("status", "failure", "reason")},
        **result["metrics"],
        "params": result.get("params"),
        **(result.get("timings") or {}),
        "peak_memory_mb": result.get("peak_memory_mb"),
        **{key: worker.get(key) for key in ("device", "num_threads", "host")},
        **{key: environment.get(key) for key in ("commit", "dirty", "python", "gpu")},
        **(environment.get("packages") or {}),
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; FileNotFoundError if there is no file, ValueError if it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    write_durably(path, (json.dumps(value, indent=2) + "\n").encode())


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent even after a power cut: fsync, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
