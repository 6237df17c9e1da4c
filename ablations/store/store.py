"""The files of an ablation, which are the truth; every table is derived from them. No torch here.

DIR/grid.yaml                        the grid as it was last run
DIR/plan.json                        its cells in order, seeds, baseline, axes, and the command
DIR/cells/ID/cell.json               one cell: configs, data, name, axes
DIR/cells/ID/seed{k}/                the run folder of `posmlp.train.fit`, and result.json
DIR/cells/ID/seed{k}.log             what the training printed, if anything
DIR/cells/ID/seed{k}-repeat/, .log   the same seed a second time, for the noise floor
DIR/together/HASH/, .log             several trainings while they are one population, then as above
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.grid.description import described, described_cell
from ablations.grid.settings import content_hash, shown_value
from ablations.store.files import read_json, write_all_json, write_durably, write_json
from ablations.store.shapes import CELL, PLAN, RESULTS
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.shapes import fault

if TYPE_CHECKING:
    import pandas as pd

    from ablations.grid.grid import Cell, Grid, Job

Result = dict[str, Any]
"""One row: what came out of a cell at a seed, and how it was made."""
DEVICE_ERROR = "device error"
"""The `failure` of a job whose device, not whose mathematics, gave up."""
OUT_OF_MEMORY = "out of memory"
_ANEW = "give the `ablations run` command of this folder again, which writes it anew"


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

    def run_folder(self, cell_id: str, seed: int, repeat: int = 0) -> Path:
        return self.root / "cells" / cell_id / f"seed{seed}{'-repeat' if repeat else ''}"

    @property
    def together_path(self) -> Path:
        return self.root / "together"

    def work_folder(self, job: Job) -> Path:
        """Where a job's trainings advance together; the run folder, for one."""
        trainings = [(cell.id, seed) for cell, seed in job.trainings]
        if len(trainings) == 1:
            return self.run_folder(*trainings[0], job.repeat)
        return self.together_path / content_hash(trainings)

    def result_path(self, cell_id: str, seed: int, repeat: int = 0) -> Path:
        return self.run_folder(cell_id, seed, repeat) / "result.json"

    def log_path(self, job: Job) -> Path:
        folder = self.work_folder(job)
        return folder.with_name(f"{folder.name}.log")

    def check(self, grid: Grid) -> None:
        """Raise StoreError if the folder holds something else, or other results."""
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root} is a file; give a new folder with --out")
        if self.root.is_dir() and not self._is_ours():
            raise StoreError(f"{self.root} is not empty and holds no ablation; give a new folder")
        for cell in grid.cells:
            self._check_cell(cell)

    def _is_ours(self) -> bool:
        """Whether the folder is empty or an ablation's, be it one that a shard just begins."""
        if self.plan_path.is_file() or self.lock_path.is_file():
            return True
        visible = {path.name for path in self.root.iterdir() if path.name[0] != "."}
        return visible <= {"cells", "together", "grid.yaml"}

    @contextmanager
    def written(self) -> Iterator[None]:
        """StoreError in place of OSError: a folder that cannot be written to is a wrong choice."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be written to ({error.strerror or error}); give another "
                "folder, or mend that"
            ) from error

    def declare(self, grid: Grid, command: str) -> None:
        """Write down what is to be run."""
        for cell in grid.cells:
            if self.sound_cell(cell.id) != described_cell(cell):
                write_json(self.cell_path(cell.id), described_cell(cell))
        write_durably(self.root / "grid.yaml", grid.file.text.encode())
        write_json(self.plan_path, described(grid) | {"command": command})

    def cell(self, cell_id: str) -> dict[str, Any]:
        """What cell.json holds. Raises StoreError if it is missing or damaged."""
        path = self.cell_path(cell_id)
        try:
            cell = read_json(path)
        except (FileNotFoundError, ValueError) as error:
            raise StoreError(f"{path} is missing or damaged; {_ANEW}") from error
        if wrong := fault(cell, CELL):
            raise StoreError(f"{path} is damaged ({wrong}); {_ANEW}")
        return cell

    def sound_cell(self, cell_id: str) -> dict[str, Any]:
        """The same, and {} where it is missing or damaged, as a run writes it again."""
        try:
            return self.cell(cell_id)
        except StoreError:
            return {}

    def configs(self, cell_id: str) -> tuple[PosMLPConfig, TrainConfig]:
        """Those of cell.json. Raises StoreError if it is missing or damaged."""
        cell = self.cell(cell_id)
        try:
            return PosMLPConfig.from_dict(cell["model"]), TrainConfig.from_dict(cell["train"])
        except (TypeError, ValueError) as error:
            path = self.cell_path(cell_id)
            raise StoreError(f"{path} makes no model or training ({error}); {_ANEW}") from error

    def trained_from(self, cell_id: str, seed: int) -> str:
        """The hash of the model file that a run began with, as its folder tells; else empty.

        Cells did not always hold it.
        """
        try:
            return str(read_json(self.run_folder(cell_id, seed) / "config.json")["init_sha256"])
        except (OSError, ValueError, LookupError, TypeError):
            return ""

    def _check_cell(self, cell: Cell) -> None:
        """Refuse to take results of another configuration for this cell's.

        Ids leave out what is at its default, so a default that was changed would do that.
        """
        path, old, new = self.cell_path(cell.id), self.sound_cell(cell.id), described_cell(cell)
        for part in ("model", "train"):
            for key, value in old.get(part, {}).items():
                if key == "init_from":  # its content is in the id, and it may have moved
                    continue
                if key in new[part] and new[part][key] != value:
                    raise StoreError(
                        f"{path} was made with {part}.{key}={value!r}, which is now "
                        f"{new[part][key]!r} by a changed default; set {key} in the grid to keep "
                        "those results, or give a new folder"
                    )

    def plan(self) -> dict[str, Any]:
        """What the last run declared. Raises StoreError if there is none, or it is damaged."""
        if not self.plan_path.is_file():
            raise StoreError(
                f"{self.root} holds no ablation; start one with: ablations run GRID "
                f"--out {self.root}"
            )
        try:
            plan = read_json(self.plan_path)
        except ValueError as error:
            raise StoreError(f"{error}; {_ANEW}") from error
        wrong = fault(plan, PLAN)
        if not wrong and plan["baseline"] not in {cell["id"] for cell in plan["cells"]}:
            wrong = f"baseline is {plan['baseline']!r}, no cell"
        if not wrong and any(len(pair) != 2 for pair in plan.get("repeats", [])):
            wrong = f"repeats is {plan['repeats']!r}, no pairs of cell and seed"
        if wrong:
            raise StoreError(f"{self.plan_path} is damaged ({wrong}); {_ANEW}")
        return plan

    def result(self, cell_id: str, seed: int, repeat: int = 0) -> Result | None:
        """The stored result, or None if there is none. Raises ValueError if it is damaged."""
        path = self.result_path(cell_id, seed, repeat)
        try:
            result = read_json(path)
        except FileNotFoundError:
            return None
        stands_for = (result.get("cell"), result.get("seed"), result.get("repeat", 0))
        if stands_for != (cell_id, seed, repeat):
            raise ValueError(f"{path} is the result of another cell or seed")
        status = str(result.get("status"))
        wrong = fault(result, RESULTS[status]) if status in RESULTS else f"status is {status!r}"
        if wrong:
            raise ValueError(f"{path} is no whole result ({wrong})")
        return result

    def sound_result(self, cell_id: str, seed: int, repeat: int = 0) -> Result | None:
        """The same, and None for a damaged one too, which is as good as none."""
        try:
            return self.result(cell_id, seed, repeat)
        except ValueError:
            return None

    def write_results(self, results: Sequence[Result]) -> None:
        """Store results durably; many together cost hardly more than one."""
        write_all_json(
            {self.result_path(r["cell"], r["seed"], r.get("repeat", 0)): r for r in results}
        )

    def results(self, plan: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, Result | str]]:
        """Each declared cell and seed with its result, or with why there is none."""
        for cell in plan["cells"]:
            for seed in plan["seeds"]:
                yield cell, seed, self._result_or_state(cell["id"], seed)

    def repeats(self, plan: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, Result | str]]:
        """The same of what is trained a second time under its seed."""
        cells = {cell["id"]: cell for cell in plan["cells"]}
        for cell_id, seed in plan.get("repeats", []):
            if cell_id in cells:
                yield cells[cell_id], seed, self._result_or_state(cell_id, seed, repeat=1)

    def _result_or_state(self, cell_id: str, seed: int, repeat: int = 0) -> Result | str:
        try:
            return self.result(cell_id, seed, repeat) or "to do"
        except ValueError as error:
            return f"damaged: {error}"


def load(out: str | Path, *, repeats: bool = False) -> pd.DataFrame:
    """The tidy table of an ablation: a row for each cell and seed that is finished, or failed.

    repeats: also the rows of what was trained a second time under its seed, for the noise floor.
    Columns: the axes; id, name, baseline, seed, repeat, status, failure, reason; the last epoch's
    metrics (test_top1, ...); params; seconds, train_seconds; peak_memory_mb; together (trainings
    of one population, whose time is shared out), micro_batches, memory_steps (what was done when
    memory ran out), reused_from; init_from, init_sha256 (where a model file was the start); device,
    num_threads, host, commit, dirty, versions. Damaged result files are named in a warning and have
    no row.
    """
    import pandas as pd

    store = Store(out)
    plan = store.plan()
    rows = []
    for cell, seed, result in (*store.results(plan), *(store.repeats(plan) if repeats else ())):
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
        "repeat": result.get("repeat", 0),
        **{key: result.get(key) for key in ("status", "failure", "reason")},
        **result["metrics"],
        "params": result.get("params"),
        **(result.get("timings") or {}),
        "peak_memory_mb": result.get("peak_memory_mb"),
        "together": result.get("together", 1),
        "micro_batches": result.get("micro_batches", 1),
        "memory_steps": "; ".join(result.get("memory_steps", [])),
        "reused_from": result.get("reused_from", ""),
        **{key: result[key] for key in ("init_from", "init_sha256") if key in result},
        **{key: worker.get(key) for key in ("device", "num_threads", "host")},
        **{key: environment.get(key) for key in ("commit", "dirty", "python", "gpu")},
        **(environment.get("packages") or {}),
    }
