"""What running a grid would take, and what it could show; trains nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.grid import Cell, Grid, read_grid
from ablations.progress import duration
from ablations.store import Store
from analysis.cost import cost
from analysis.statistics import detectable_effect

POWER = 0.8


@dataclass
class PlannedCell:
    """A cell's state and cost."""

    cell: Cell
    counts: dict[str, int]
    """Seeds by state: done, failed, to do."""
    params: int
    gmacs: float
    """Of one clip, in units of 1e9 multiply-adds."""
    seconds: list[float]
    """Of its finished trainings."""

    @property
    def work(self) -> float:
        """Multiply-adds of one training, up to a factor."""
        train = self.cell.train
        return self.gmacs * train.epochs * (self.cell.data.num_train or train.num_clips)


@dataclass
class Plan:
    """What `plan` found; printing it says all."""

    grid: Grid
    cells: list[PlannedCell]
    stale: list[str]
    """Stored cells that are not in the grid (any more), each with the reason."""
    workers: int

    @property
    def num_todo(self) -> int:
        return sum(planned.counts["to do"] for planned in self.cells)

    @property
    def seconds(self) -> float | None:
        """How long the trainings to do take one after the other; None without past records.

        From the same cell's records, or else from the others' in proportion to the work.
        """
        known = [planned for planned in self.cells if planned.seconds]
        if not known:
            return None
        rate = statistics.median(statistics.mean(p.seconds) / p.work for p in known)
        return sum(
            p.counts["to do"] * (statistics.mean(p.seconds) if p.seconds else rate * p.work)
            for p in self.cells
        )

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for key, text in (("question", self.grid.question), ("prediction", self.grid.prediction)):
            if text:
                yield f"{key}: {text}"
        yield from self._table()
        counts = {k: sum(p.counts[k] for p in self.cells) for k in self.cells[0].counts}
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        num_cells, num_seeds = len(self.cells), len(self.grid.seeds)
        yield f"{num_cells} cells x {num_seeds} seeds = {num_cells * num_seeds} trainings: {states}"
        if counts["failed"]:
            yield "failed ones run again with --retry-failed"
        yield from (f"stale: {reason}" for reason in self.stale)
        yield f"time: {self._time()}"
        yield f"seeds: {detectable(num_seeds)}"

    def _table(self) -> Iterator[str]:
        width = max(len(planned.cell.name) for planned in self.cells)
        yield f"  {'cell':{width}}  {'id':12}  {'params':>11}  {'GMACs':>9}  done failed to do"
        for planned in self.cells:
            cell, counts = planned.cell, planned.counts
            mark = "*" if cell.id == self.grid.baseline.id else " "
            yield (
                f"{mark} {cell.name:{width}}  {cell.id}  {planned.params:>11,}  "
                f"{planned.gmacs:>9.4g}  {counts['done']:>4} {counts['failed']:>6} "
                f"{counts['to do']:>5}"
            )
        yield "* the baseline"

    def _time(self) -> str:
        if not self.num_todo:
            return "nothing is to do"
        if self.seconds is None:
            return "unknown, as nothing of this grid has been trained here yet"
        share = max(self.seconds / self.workers, self.seconds / self.num_todo)
        num_records = sum(len(planned.seconds) for planned in self.cells)
        return f"about {duration(share)} on {self.workers} worker(s), by {num_records} past records"


def detectable(num_seeds: int) -> str:
    """In words, what difference to the baseline this number of seeds can show."""
    if num_seeds < 2:
        return "1 seed shows no difference, however large: it leaves no spread to test with"
    effect = detectable_effect(num_seeds, POWER)
    return (
        f"{num_seeds} seeds find a true difference to the baseline with {POWER:.0%} probability if "
        f"it is at least {effect:.2g} times the standard deviation of the seed-paired differences "
        "(paired t-test at 5%, before correction for the number of cells)"
    )


def plan(
    grid: str | Path | Mapping[str, Any] | Grid,
    out: str | Path | None = None,
    *,
    data: str | None = None,
    workers: int = 1,
) -> Plan:
    """State and cost of every cell of a grid, given what is stored in `out`.

    Raises ValueError for a grid or a folder that cannot be run.
    """
    grid = grid if isinstance(grid, Grid) else read_grid(grid, data)
    grid.check_data()
    store = Store(out) if out is not None else None
    if store is not None:
        store.check(grid)
    cells = [_planned(cell, grid.seeds, store) for cell in grid.cells]
    return Plan(grid, cells, list(_stale(grid, store)) if store else [], workers)


def _planned(cell: Cell, seeds: tuple[int, ...], store: Store | None) -> PlannedCell:
    counts, seconds = {"done": 0, "failed": 0, "to do": 0}, []
    for seed in seeds:
        try:
            result = store.result(cell.id, seed) if store else None
        except ValueError:  # damaged: will be trained again
            result = None
        counts[result["status"] if result else "to do"] += 1
        if result and result["status"] == "done":
            seconds.append(result["timings"]["seconds"])
    costs = cost(cell.config)
    return PlannedCell(cell, counts, costs["params"], costs["gmacs"], seconds)


def _stale(grid: Grid, store: Store) -> Iterator[str]:
    """Each stored cell that the grid does not have, with what has changed."""
    by_name = {cell.name: cell for cell in grid.cells}
    ids = {cell.id for cell in grid.cells}
    for path in sorted(store.root.glob("cells/*/cell.json")):
        if path.parent.name in ids:
            continue
        stored = store.cell(path.parent.name)
        label = f"{stored.get('name', 'damaged cell.json')} ({path.parent.name})"
        now = by_name.get(stored.get("name", ""))
        change = _difference(stored["identity"], now.identity) if now else "not in this grid"
        yield f"{label}: {change}; its files are kept"


def _difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """What two identities differ in; what neither has is at its default."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key, "default"), new.get(key, "default")
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _difference(before, after, f"{key}.")
            found += [inner] if inner else []
        elif before != after:
            found.append(f"{prefix}{key} was {before}, is {after}")
    return ", ".join(found)
