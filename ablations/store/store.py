"""The files of an ablation, which are the truth; every table is derived from them. No torch here.

A published folder has the same content in three files (see `published`), and is never written to.

DIR/grid.yaml                        the grid as it was last run; my_gates.py: own files it names
DIR/plan.json                        its cells in order, seeds, baseline, axes, and the command
DIR/cells/ID/cell.json               one cell: configs, data, name, axes
DIR/cells/ID/seed{k}/                the run folder of `posmlp.train.fit`, and result.json
DIR/cells/ID/seed{k}.log             what the training printed, if anything
DIR/cells/ID/seed{k}-repeat/, .log   the same seed a second time, for the noise floor
DIR/cells/ID/seed{1000+k}/, .log     trials of a grid that tunes
DIR/together/HASH/, .log             several trainings while they are one population, then as above
DIR/claims/                          what each of several runners trains now (see `claims`)

A training leaves five files, of which result.json alone waits for the disk: once for itself, once
for its folder. A cell waits twice more, when it is declared, and results that come together wait
together (`write_all_durably`). Rows that each worker appends to a file of its own were weighed and
left: a training would wait once in place of twice, and readers would need rules for half a line
after a kill, and for two rows of a training that another machine took over. A file that is whole
or absent needs none. The results of 10,000 cells are read in two seconds.
"""

from __future__ import annotations

import os
import reprlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.commands import command
from ablations.grid.description import described, described_cell
from ablations.grid.settings import content_hash
from ablations.store.files import read_json, write_all_json, write_durably, write_json
from ablations.store.published import Published
from ablations.store.shapes import CELL, PLAN, RESULTS
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.shapes import NotWrittenError, fault

if TYPE_CHECKING:
    from ablations.grid.grid import Cell, Grid, Job

Result = dict[str, Any]
"""One row: what came out of a cell at a seed, and how it was made."""
DEVICE_ERROR = "device error"
"""The `failure` of a job whose device, not whose mathematics, gave up."""
OUT_OF_MEMORY = "out of memory"
Version = tuple[int, int, int]
_HOW_MADE = ("config", "environment", "worker", "command", "history", "log", "traceback")
_ANEW = "give the `ablations run` command of this folder again, which writes it anew"
_AS_PUBLISHED = "put back what was published there, or publish the run again"


def measured(result: Result) -> dict[str, Any]:
    """All numbers that came out of a training, by the names of the table's columns."""
    numbers = {"params": result.get("params"), **(result.get("timings") or {})}
    return {**result["metrics"], **numbers, "peak_memory_mb": result.get("peak_memory_mb")}


def _version(path: Path) -> Version | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class StoreError(ValueError):
    """A folder that cannot hold, or does not hold, the ablation that is asked for."""


class Store:
    """One ablation's folder."""

    def __init__(self, root: str | Path) -> None:
        if not isinstance(root, str | os.PathLike):
            raise StoreError(
                f"out={reprlib.repr(root)} must be the folder of a run, as text or a path"
            )
        self.root = Path(root)
        self._ended: dict[tuple[str, int, int], tuple[Version, Result | None]] = {}
        self._as_asked: dict[tuple[str, str], Version] = {}
        """Id and name of cells whose file held, when it was checked, what their grid asks for."""

    @cached_property
    def published(self) -> Published | None:
        """The content of a published folder; None for the folder of a run."""
        return Published(self.root) if Published.is_at(self.root) else None

    @property
    def _mend(self) -> str:
        return _AS_PUBLISHED if self.published else _ANEW

    def named(self, path: Path) -> str:
        """Where the content of one of the files above stands."""
        return self.published.named(path) if self.published else str(path)

    def json(self, path: Path) -> dict[str, Any]:
        """What a JSON file holds. Raises FileNotFoundError, or ValueError if it is damaged."""
        return self.published.json(path) if self.published else read_json(path)

    def table(self, path: Path) -> str | None:
        """The text of a CSV file; None if there is none. Raises StoreError if it is damaged."""
        if self.published is None:
            return path.read_text("utf-8", errors="replace") if path.is_file() else None
        try:
            return self.published.table(path)
        except ValueError as error:
            raise StoreError(f"{error}; {self._mend}") from error

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
        return self.root / f"cells/{cell_id}/cell.json"

    def run_folder(self, cell_id: str, seed: int, repeat: int = 0) -> Path:
        return self.root / f"cells/{cell_id}/seed{seed}{'-repeat' if repeat else ''}"

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

    def metrics_path(self, cell_id: str, seed: int, repeat: int = 0) -> Path:
        return self.run_folder(cell_id, seed, repeat) / "metrics.csv"

    @property
    def classes_path(self) -> Path:
        return self.root / "classes.csv"

    def log_path(self, job: Job) -> Path:
        folder = self.work_folder(job)
        return folder.with_name(f"{folder.name}.log")

    def check(self, grid: Grid) -> None:
        """Raise StoreError if the folder holds something else, or other results."""
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root} is a file; give a new folder with --out")
        if self.published:
            raise StoreError(
                f"{self.root} is a published grid, to which no run writes; give a new folder, and "
                f"take its trainings over with --reuse {self.root}"
            )
        if self.root.is_dir() and not self._is_ours():
            raise StoreError(f"{self.root} is not empty and holds no ablation; give a new folder")
        self.check_cells(grid)

    def check_cells(self, grid: Grid) -> None:
        """Raise StoreError if results of one of the grid's cells come from other defaults."""
        for cell in (*grid.cells, *(trial for each in grid.trials for trial in each)):
            self._check_cell(cell)

    def _is_ours(self) -> bool:
        """Whether the folder is empty or an ablation's, be it one that a shard just begins."""
        if self.plan_path.is_file() or self.lock_path.is_file():
            return True
        visible = {path.name for path in self.root.iterdir() if path.name[0] != "."}
        ours = {"cells", "together", "claims", "grid.yaml"}
        return {name for name in visible if name[-3:] != ".py"} <= ours

    @contextmanager
    def written(self) -> Iterator[None]:
        """StoreError in place of OSError: a folder that cannot be written to is a wrong choice."""
        try:
            yield
        except NotWrittenError as error:
            raise StoreError(str(error)) from error
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be written to ({error.strerror or error}); give another "
                "folder, or mend that"
            ) from error

    def declare(self, grid: Grid, command: str) -> None:
        """Write down what is to be run."""
        trials = {cell.id: cell for each in grid.trials for cell in each}
        known = [cell for cell in grid.cells if cell.tuned is not None or not trials]
        changed = {}
        for cell in (trials | {cell.id: cell for cell in known}).values():
            path = self.cell_path(cell.id)
            last = self._as_asked.get((cell.id, cell.name))  # a trial and its choice share an id
            if last is not None and last == _version(path):
                continue
            asked = described_cell(cell)
            if self.sound_cell(cell.id) != asked:
                changed[path] = asked
        write_all_json(changed)
        write_durably(self.root / "grid.yaml", grid.file.text.encode())
        for name, source in grid.file.code.items():
            write_durably(self.root / name, source.encode())
        plan = described(grid) | {"command": command}
        try:
            is_known = read_json(self.plan_path) == plan
        except (FileNotFoundError, ValueError):
            is_known = False
        if not is_known:
            write_json(self.plan_path, plan)

    def cell(self, cell_id: str) -> dict[str, Any]:
        """What cell.json holds. Raises StoreError if it is missing or damaged."""
        path = self.cell_path(cell_id)
        try:
            cell = self.json(path)
        except (FileNotFoundError, ValueError) as error:
            named = self.named(path)
            raise StoreError(f"{named} is missing or damaged; {self._mend}") from error
        if wrong := fault(cell, CELL):
            raise StoreError(f"{self.named(path)} is damaged ({wrong}); {self._mend}")
        return cell

    def cell_ids(self) -> list[str]:
        """Those of all cells that are stored, in the plan or not."""
        if self.published:
            return self.published.cell_ids()
        return [path.parent.name for path in sorted(self.root.glob("cells/*/cell.json"))]

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
            named = self.named(self.cell_path(cell_id))
            raise StoreError(
                f"{named} makes no model or training ({error}); {self._mend}"
            ) from error

    def trained_from(self, cell_id: str, seed: int) -> str:
        """The hash of the model file that a run began with, as its folder tells; else empty.

        Cells did not always hold it.
        """
        try:
            return str(self.json(self.run_folder(cell_id, seed) / "config.json")["init_sha256"])
        except (OSError, ValueError, LookupError, TypeError):
            return ""

    def _check_cell(self, cell: Cell) -> None:
        """Refuse to take results of another configuration for this cell's.

        Ids leave out what is at its default, so a default that was changed would do that.
        """
        version = _version(self.cell_path(cell.id))
        old, new = self.sound_cell(cell.id), described_cell(cell)
        if old == new and version is not None:
            self._as_asked[cell.id, cell.name] = version
            return
        for part in ("model", "train"):
            for key, value in old.get(part, {}).items():
                if key == "init_from":  # its content is in the id, and it may have moved
                    continue
                if key in new[part] and new[part][key] != value:
                    named = self.named(self.cell_path(cell.id))
                    raise StoreError(
                        f"{named} was made with {part}.{key}={value!r}, which is now "
                        f"{new[part][key]!r} by a changed default; set {key} in the grid to keep "
                        "those results, or give a new folder"
                    )

    def plan(self) -> dict[str, Any]:
        """What the last run declared. Raises StoreError if there is none, or it is damaged."""
        try:
            plan = self.json(self.plan_path)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.root} holds no ablation; start one with: "
                + command("run", "GRID", "--out", self.root)
            ) from error
        except ValueError as error:
            raise StoreError(f"{error}; {self._mend}") from error
        wrong = fault(plan, PLAN)
        if not wrong and plan["baseline"] not in {cell["id"] for cell in plan["cells"]}:
            wrong = f"baseline is {plan['baseline']!r}, no cell"
        trials = plan.get("trials", {"cells": []})["cells"] if not wrong else []
        if any(not 0 <= trial["of"] < len(plan["cells"]) for trial in trials):
            wrong = "a trial is of no cell"
        if not wrong and any(len(pair) != 2 for pair in plan.get("repeats", [])):
            wrong = f"repeats is {plan['repeats']!r}, no pairs of cell and seed"
        if wrong:
            raise StoreError(f"{self.named(self.plan_path)} is damaged ({wrong}); {self._mend}")
        return plan

    def result(self, cell_id: str, seed: int, repeat: int = 0) -> Result | None:
        """The stored result, or None if there is none. Raises ValueError if it is damaged."""
        path = self.result_path(cell_id, seed, repeat)
        try:
            result = self.json(path)
        except FileNotFoundError:
            return None
        named = self.named(path)
        stands_for = (result.get("cell"), result.get("seed"), result.get("repeat", 0))
        if stands_for != (cell_id, seed, repeat):
            raise ValueError(f"{named} is the result of another cell or seed")
        status = str(result.get("status"))
        wrong = fault(result, RESULTS[status]) if status in RESULTS else f"status is {status!r}"
        if wrong:
            raise ValueError(f"{named} is no whole result ({wrong})")
        return result

    def sound_result(self, cell_id: str, seed: int, repeat: int = 0) -> Result | None:
        """The same, and None for a damaged one too, which is as good as none."""
        try:
            return self.result(cell_id, seed, repeat)
        except ValueError:
            return None

    def ended(self, cell_id: str, seed: int, repeat: int = 0) -> Result | None:
        """The same without how it was made, for who asks of many trainings, and asks again.

        A file is read once for each time that it was replaced.
        """
        if self.published:
            return self.sound_result(cell_id, seed, repeat)
        which = cell_id, seed, repeat
        version = _version(self.result_path(*which))
        if version is None:
            return None
        if which not in self._ended or self._ended[which][0] != version:
            result = self.sound_result(*which)
            short = result and {k: v for k, v in result.items() if k not in _HOW_MADE}
            self._ended[which] = version, short
        return self._ended[which][1]

    def copy_run(self, cell_id: str, seed: int, repeat: int, to: Path) -> None:
        """Copy a training's run folder, as far as it is kept, to a new folder."""
        home = self.run_folder(cell_id, seed, repeat)
        if home.is_dir():
            shutil.copytree(home, to)
            return
        to.mkdir(parents=True)
        with suppress(FileNotFoundError):
            write_json(to / "config.json", self.json(home / "config.json"))
        if (metrics := self.table(home / "metrics.csv")) is not None:
            write_durably(to / "metrics.csv", metrics.encode())

    def write_results(self, results: Sequence[Result]) -> None:
        """Store results durably; many together cost hardly more than one."""
        write_all_json(
            {self.result_path(r["cell"], r["seed"], r.get("repeat", 0)): r for r in results}
        )

    def results(self, plan: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, Result | str]]:
        """Each declared cell and seed with its result, or with why there is none."""
        for cell in plan["cells"]:
            for seed in plan["seeds"][: cell.get("num_seeds")]:
                waits = cell.get("tuned", {}) is None  # what stands there was not chosen
                yield cell, seed, "to do" if waits else self._result_or_state(cell["id"], seed)

    def trials(self, plan: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, Result | str]]:
        """The same of what each cell tries before it is compared; nothing without `tune`."""
        trials = plan.get("trials", {"cells": [], "seeds": []})
        for cell in trials["cells"]:
            for seed in trials["seeds"]:
                yield cell, seed, self._result_or_state(cell["id"], seed)

    def repeats(self, plan: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, Result | str]]:
        """The same of what is trained a second time under its seed."""
        cells = {cell["id"]: cell for cell in plan["cells"]}
        for cell_id, seed in plan.get("repeats", []):
            if cell_id in cells and cells[cell_id].get("tuned", {}) is not None:
                yield cells[cell_id], seed, self._result_or_state(cell_id, seed, repeat=1)

    def _result_or_state(self, cell_id: str, seed: int, repeat: int = 0) -> Result | str:
        try:
            return self.result(cell_id, seed, repeat) or "to do"
        except ValueError as error:
            return f"damaged: {error}"
