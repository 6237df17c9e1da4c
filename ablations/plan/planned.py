"""What running a grid would take, and what it could show; trains no more than a probe does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ablations.engines.dispatch import Engine
from ablations.grid.costs import costs
from ablations.grid.deciding import METRICS
from ablations.grid.grid import Cell, Grid, read_grid
from ablations.grid.settings import difference, shown_value
from ablations.plan.prediction import PROBE_S, Prediction, fitted, predict
from ablations.plan.rounds import current, design, sd, seeds_of, with_chosen
from ablations.progress import duration, of_workers
from ablations.store.store import Store
from analysis.results.sequential import expected_seeds
from analysis.results.statistics import detectable_effect

POWER = 0.8
STATES = ("done", "failed", "to do")
UNKNOWN = "unknown, as nothing of this grid was trained here yet, and no probe measured it"


@dataclass
class PlannedCell:
    """A cell's state and cost."""

    cell: Cell
    counts: dict[str, int]
    """Seeds by state: done, failed, to do."""
    params: int
    gmacs: float
    """Of one clip, in units of 1e9 multiply-adds."""
    prediction: Prediction
    """Of one of its trainings."""


@dataclass
class Plan:
    """What `plan` found; printing it says all."""

    grid: Grid
    """With those seeds that its budget has time for."""
    cells: list[PlannedCell]
    trials: list[PlannedCell]
    """What each cell tries before it is compared."""
    stale: list[str]
    """Stored cells that are not in the grid (any more), each with the reason."""
    workers: int
    repeat: str | None
    """State of the training that `Grid.repeat` adds; None where it adds none."""
    sd: float | None = None
    """Of the seed-paired differences that are stored, in the unit of the metric that decides."""

    @property
    def num_todo(self) -> int:
        return len(self._todo)

    @property
    def seconds(self) -> float | None:
        """How long the trainings to do take one after the other; None where nothing tells."""
        known = [each.seconds for each in self._todo if each.seconds is not None]
        return sum(known) if len(known) == self.num_todo else None

    @property
    def _todo(self) -> list[Prediction]:
        """Of each training that is to do, those that are repeated included."""
        each = chain(self.trials, self.cells)
        todo = [[planned.prediction] * planned.counts["to do"] for planned in each]
        if self.repeat == "to do":
            todo += [[p.prediction] for p in self.cells if p.cell.id == self.grid.baseline.id]
        return list(chain(*todo))

    @property
    def memory_mb(self) -> float | None:
        """The most that one training takes; None where nothing tells."""
        known = [p.prediction.memory_mb for p in self.cells if p.prediction.memory_mb is not None]
        return max(known, default=None)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for key, text in (("question", self.grid.question), ("prediction", self.grid.prediction)):
            if text:
                yield f"{key}: {text}"
        if (metrics := self.grid.options.metrics) != METRICS:
            yield "compares: " + ", ".join(f"{m.name} ({m.direction} is better)" for m in metrics)
        yield from self._table()
        yield from self._matches()
        yield from self._tuning()
        num_cells, num_seeds = len(self.cells), len(self.grid.seeds)
        at_most = "at most " * bool(self.grid.options.until)
        total = f"{num_cells} cells x {at_most}{num_seeds} seeds = "
        counts = _counts(self.cells)
        yield f"{total}{at_most}{num_cells * num_seeds} trainings: {_states(counts)}"
        if self.repeat:
            yield f"and the baseline's first seed once more (do equal runs differ?): {self.repeat}"
        if counts["failed"] + _counts(self.trials)["failed"]:
            yield "failed ones run again with --retry-failed"
        yield from (f"stale: {reason}" for reason in self.stale)
        yield from self._budget()
        yield f"time: {self._time()}"
        yield f"memory: {self._memory()}"
        yield f"seeds: {self._until() if self.grid.options.until else detectable(num_seeds)}"

    def _table(self) -> Iterator[str]:
        width = max(len(planned.cell.name) for planned in self.cells)
        yield (
            f"  {'cell':{width}}  {'id':12}  {'params':>11}  {'GMACs':>9}  {'time':>12}  "
            f"{'memory':>9}  done failed to do"
        )
        for planned in self.cells:
            cell, counts, predicted = planned.cell, planned.counts, planned.prediction
            mark = "*" if cell.id == self.grid.baseline.id else " "
            cell_id = "to be tuned " if self.trials and cell.tuned is None else cell.id
            seconds = "?" if predicted.seconds is None else duration(predicted.seconds)
            memory = "?" if predicted.memory_mb is None else f"{predicted.memory_mb:,.0f} MB"
            yield (
                f"{mark} {cell.name:{width}}  {cell_id}  {planned.params:>11,}  "
                f"{planned.gmacs:>9.4g}  {seconds:>12}  {memory:>9}  {counts['done']:>4} "
                f"{counts['failed']:>6} {counts['to do']:>5}"
            )
        yield "* the baseline; time and memory are those of one training"

    def _tuning(self) -> Iterator[str]:
        """How many trials there are, and what they have chosen so far."""
        tune = self.grid.options.tune
        if tune is None:
            return
        cells, num_points = self.grid.cells, len(self.grid.points)
        yield (
            f"tune {', '.join(tune.values)}: {len(cells)} cells x {num_points} trials x "
            f"{tune.num_seeds} seeds from {tune.seeds[0]} = {len(self.trials) * tune.num_seeds} "
            f"trainings: {_states(_counts(self.trials))}"
        )
        for cell in cells:
            if cell.tuned is not None:
                values = ", ".join(f"{n}={shown_value(v)}" for n, v in cell.tuned.items())
                yield f"  {cell.name}: chosen by {self.grid.options.metrics[0].of_val}: {values}"

    def _until(self) -> str:
        """The looks, and how many seeds a verdict takes at the spread that is stored."""
        made, metric = design(self.grid), self.grid.options.metrics[0]
        looks = ", ".join(map(str, made.looks))
        within = self.grid.options.equal_within
        unit = " points" * metric.is_share
        words = ["better", "worse", *([f"equal within {within:g}{unit}"] if within else [])]
        said = f"looks at {looks}; a variant stops when its {metric.words} is {' or '.join(words)}"
        if not self.sd:
            return f"{said}; at most {made.looks[-1]}, as no spread over seeds is stored yet"
        true = [times * self.sd for times in (0, 1, 2, 3)]
        found = zip(expected_seeds(made, self.sd, true), true, strict=True)
        each = ", ".join(f"{num:.0f} if it is {d / metric.points:.2g}{unit}" for num, d in found)
        return f"{said}; to expect by the true difference, at the spread stored so far: {each}"

    def _matches(self) -> Iterator[str]:
        """How each variant was brought to the baseline's cost."""
        if self.grid.options.match:
            within = self.grid.options.match_within
            yield f"match: {self.grid.options.match} of the baseline, within {within:.1%}:"
            for planned in self.cells:
                if planned.cell.match:
                    yield f"  {planned.cell.name}: {planned.cell.match}"

    def _budget(self) -> Iterator[str]:
        if self.grid.options.budget_s is None:
            return
        budget, left_out = duration(self.grid.options.budget_s), self.grid.left_out_seeds
        if left_out:
            seeds = ", ".join(str(seed) for seed in left_out)
            yield f"budget: {budget} has no time for seed(s) {seeds}, which are left out everywhere"
        else:
            yield f"budget: {budget} has time for all seeds"

    def _time(self) -> str:
        if not self.num_todo:
            return "nothing is to do"
        if self.seconds is None:
            return UNKNOWN
        share = max(self.seconds / self.workers, self.seconds / self.num_todo)
        about = "at most about" if self.grid.options.until else "about"
        return f"{about} {duration(share)} on {of_workers(self.workers)}, by {self._sources()}"

    def _memory(self) -> str:
        if self.memory_mb is None:
            return UNKNOWN
        return f"up to about {self.memory_mb:,.0f} MB a training, {self.workers} at once"

    def _sources(self) -> str:
        """What the predictions come from, each said once."""
        sources = [planned.prediction.source for planned in self.cells]
        return ", ".join(f"{source} ({sources.count(source)})" for source in dict.fromkeys(sources))


def _counts(cells: Sequence[PlannedCell]) -> dict[str, int]:
    return {state: sum(planned.counts[state] for planned in cells) for state in STATES}


def _states(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items())


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
    device: str | None = None,
    num_threads: int = 1,
    probe_s: float = PROBE_S,
) -> Plan:
    """State and cost of every cell of a grid, given what is stored in `out`.

    Cells without records are probed, a few steps each on `device` (by default a GPU if there is
    one), within `probe_s` seconds for all; 0: not at all. Of a GPU that is not here, as a cluster's
    may be, nothing tells the time. What a probe found is kept in the user's
    cache folder, and nothing is written elsewhere. Raises ValueError for a grid or a folder that
    cannot be run.
    """
    place = _place(Engine(workers=workers, device=device, num_threads=num_threads))
    grid = grid if isinstance(grid, Grid) else read_grid(grid, data)
    grid.check_data()
    store = Store(out) if out is not None else None
    if store is not None:
        store.check(grid)
    if not 0 <= probe_s < float("inf"):
        raise ValueError(f"probe_s={probe_s} must be seconds from 0, for example 60")
    predictions = predict(grid, store, place, num_threads, probe_s)
    if store is not None:
        grid = with_chosen(grid, store)
    grid = fitted(grid, predictions, store, workers)
    if store is not None:
        grid = current(grid, store).grid
    cells = [_planned(cell, seeds_of(grid, cell), store, predictions) for cell in grid.cells]
    tune = grid.options.tune
    trials = [
        _planned(trial, tune.seeds, store, predictions)
        for trial in chain(*grid.trials)
        if tune is not None
    ]
    repeat = _state(store, grid.baseline, grid.seeds[0], 1) if grid.repeat else None
    stale = list(_stale(grid, store)) if store else []
    spread = sd(grid, store) if store and grid.options.until else None
    return Plan(grid, cells, trials, stale, workers, repeat, spread)


def _place(engine: Engine) -> str:
    """The device that is planned for: one of this machine, or a GPU of another."""
    one = replace(engine, workers=1)  # as many at once as asked may be a cluster's
    if re.fullmatch(r"cuda(:\d+)?", engine.device or ""):
        one.check_cores()
        return str(engine.device)
    return one.here()


def _planned(
    cell: Cell,
    seeds: tuple[int, ...],
    store: Store | None,
    predictions: Mapping[str, Prediction],
) -> PlannedCell:
    counts = dict.fromkeys(STATES, 0)
    for seed in seeds:
        counts[_state(store, cell, seed)] += 1
    costs_of_it = costs(cell.config)
    params, gmacs = int(costs_of_it["params"]), costs_of_it["gmacs"]
    return PlannedCell(cell, counts, params, gmacs, predictions[cell.id])


def _state(store: Store | None, cell: Cell, seed: int, repeat: int = 0) -> str:
    """Of one training: done, failed or to do."""
    result = store.ended(cell.id, seed, repeat) if store else None
    return str(result["status"]) if result else "to do"


def _stale(grid: Grid, store: Store) -> Iterator[str]:
    """Each stored cell that the grid does not have, with what has changed."""
    by_name = {cell.name: cell for cell in grid.cells}
    ids = {cell.id for cell in chain(grid.cells, *grid.trials)}
    for cell_id in store.cell_ids():
        if cell_id in ids:
            continue
        stored = store.sound_cell(cell_id)
        label = f"{stored.get('name', 'damaged cell.json')} ({cell_id})"
        now = by_name.get(stored.get("name", ""))
        change = difference(stored["identity"], now.identity) if now else "not in this grid"
        yield f"{label}: {change}; its files are kept"
