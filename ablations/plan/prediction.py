"""How long trainings will take and in how much memory: from records, a probe, or other cells."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from ablations.engines.population import kind_of
from ablations.grid.costs import costs
from ablations.grid.grid import Cell, Grid
from ablations.plan.probe import probe
from ablations.progress import duration, of_workers
from ablations.store.files import write_json
from ablations.store.store import Result, Store
from posmlp.data.user_cache import CACHE_GIB

PROBE_S = 60.0


@dataclass(frozen=True)
class Prediction:
    """Of one training of a cell; None where nothing tells."""

    seconds: float | None
    memory_mb: float | None
    source: str


def predict(
    grid: Grid,
    store: Store | None,
    device: str,
    num_threads: int = 1,
    probe_s: float = PROBE_S,
    cache_gib: float = CACHE_GIB,
) -> dict[str, Prediction]:
    """A prediction for each cell and trial, by id.

    From the cell's own finished trainings; or else, where cells differ in values alone, from
    those of one; or else from a probe of at most `probe_s` seconds for all cells; or else from the
    other cells, in proportion to multiply-adds.
    """
    seeds = (*grid.seeds, *(grid.options.tune.seeds if grid.options.tune else ()))
    cells = {cell.id: cell for cell in chain(grid.cells, *grid.trials)}
    kinds = {cell_id: kind_of(cell) for cell_id, cell in cells.items()}
    records = {cell_id: finished(store, cell, seeds) for cell_id, cell in cells.items()}
    known = {cell_id: _of_records(found) for cell_id, found in records.items() if found}
    alike = {kinds[cell_id]: prediction for cell_id, prediction in known.items()}
    unknown = {kinds[i]: cell for i, cell in cells.items() if kinds[i] not in alike}
    probes = probe(list(unknown.values()), device, num_threads, probe_s, cache_gib)
    for cell_id, found in probes.items():
        alike[kinds[cell_id]] = Prediction(found.seconds, found.memory_mb, "a probe")
    known = {i: known.get(i) or alike[kinds[i]] for i in cells if kinds[i] in alike}
    left = [cell for cell_id, cell in cells.items() if cell_id not in known]
    return known | _by_work(left, {cells[cell_id]: each for cell_id, each in known.items()})


def _by_work(cells: Sequence[Cell], known: Mapping[Cell, Prediction]) -> dict[str, Prediction]:
    """Predictions of cells from those of others, in proportion to the work."""
    if not cells:
        return {}
    rates = [p.seconds / work(cell) for cell, p in known.items() if p.seconds is not None]
    if not rates:
        return {cell.id: Prediction(None, None, "nothing") for cell in cells}
    rate = statistics.median(rates)
    return {cell.id: Prediction(rate * work(cell), None, "other cells") for cell in cells}


def work(cell: Cell) -> float:
    """Multiply-adds of one training, up to a factor."""
    num_clips = cell.data.num_train or cell.train.num_clips
    return costs(cell.config)["gmacs"] * cell.train.epochs * num_clips


def finished(
    store: Store | None, cell: Cell, seeds: Sequence[int], repeat: int = 0
) -> list[Result]:
    """The results of a cell that are done."""
    if store is None:
        return []
    results = (store.ended(cell.id, seed, repeat) for seed in seeds)
    return [result for result in results if result and result["status"] == "done"]


def _of_records(results: Sequence[Result]) -> Prediction:
    """The median time, as a process's first training also pays for its imports; the most memory."""
    seconds = statistics.median(result["timings"]["seconds"] for result in results)
    peaks = [peak for result in results if (peak := _memory_mb(result)) is not None]
    return Prediction(seconds, max(peaks, default=None), f"{len(results)} record(s)")


def _memory_mb(result: Result) -> float | None:
    """The peak memory of a training; a population's is shared out, as its time is."""
    peak = result.get("peak_memory_mb")
    return None if peak is None else peak / result.get("together", 1)


def fitted(
    grid: Grid, predictions: Mapping[str, Prediction], store: Store | None, at_once: int
) -> Grid:
    """The grid with as many of its first seeds as its budget has time for, at all cells alike.

    Trials, and seeds that are finished, are never left out. Raises GridError if not even one seed
    fits, or nothing tells how long one takes.
    """
    budget_s = grid.options.budget_s
    if budget_s is None:
        return grid
    if any(predictions[cell.id].seconds is None for cell in grid.cells):
        grid.file.fail(
            ("budget",),
            "nothing tells yet how long a training takes, so that a budget cannot be kept; let "
            "`ablations plan` probe, or leave it out.",
        )
    for count in range(len(grid.seeds), 0, -1):
        part = grid.first_seeds(count)
        needed_s = _needed_s(part, predictions, store) / at_once
        done = (len(finished(store, cell, part.seeds)) for cell in part.cells)
        if needed_s <= budget_s or all(count == len(part.seeds) for count in done):
            return part
    first = "tuning and " * bool(grid.trials) + "the first seed of every cell"
    grid.file.fail(
        ("budget",),
        f"{first} takes about {duration(needed_s)} on {of_workers(at_once)}, more "
        f"than the budget of {duration(budget_s)}; allow that, or take cells out.",
    )


def _needed_s(grid: Grid, predictions: Mapping[str, Prediction], store: Store | None) -> float:
    """How long all trainings of a grid take one after the other, or have taken."""
    total = 0.0
    for job in (*grid.trial_jobs, *grid.jobs):
        for cell, seed in job.trainings:
            done = finished(store, cell, [seed], job.repeat)
            predicted_s = predictions[cell.id].seconds or 0.0
            total += done[0]["timings"]["seconds"] if done else predicted_s
    return total


@dataclass
class Hindsight:
    """Compares what was predicted with what came, training by training."""

    predictions: Mapping[str, Prediction]
    seconds: list[tuple[float, float]] = field(default_factory=list)
    memory_mb: list[tuple[float, float]] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Note a training that has come to its end."""
        predicted = self.predictions.get(result["cell"])
        if predicted is None or result["status"] != "done":
            return
        if predicted.seconds is not None:
            self.seconds.append((predicted.seconds, result["timings"]["seconds"]))
        came_mb = _memory_mb(result)
        if predicted.memory_mb is not None and came_mb is not None:
            self.memory_mb.append((predicted.memory_mb, came_mb))

    def __str__(self) -> str:
        """One line; empty if nothing was predicted or nothing finished."""
        parts = []
        if self.seconds:
            asked, came = (sum(each) for each in zip(*self.seconds, strict=True))
            error = came / asked - 1
            parts.append(f"{duration(asked)} of training, took {duration(came)} ({error:+.0%})")
        if self.memory_mb:
            asked, came = (max(each) for each in zip(*self.memory_mb, strict=True))
            parts.append(f"{asked:,.0f} MB at most, took {came:,.0f} MB ({came / asked - 1:+.0%})")
        return "predicted " + "; ".join(parts) if parts else ""

    def store(self, store: Store, label: str) -> None:
        """Write down what was predicted and what came, where anything was."""
        if not (self.seconds or self.memory_mb):
            return
        written = {}
        for name, pairs in (("seconds", self.seconds), ("memory_mb", self.memory_mb)):
            written[name] = [{"predicted": asked, "measured": came} for asked, came in pairs]
        write_json(store.root / f"prediction{label}.json", written | {"words": str(self)})
