"""What is to be trained now, as far as results go: trials, then the seeds until the next look.

Nothing of this is kept: the same results lead to the same choices and verdicts whenever they are
asked for, so that running again goes on where a run was stopped.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, nan, sqrt
from typing import TYPE_CHECKING

from ablations.grid.deciding import Metric
from ablations.grid.grid import Asked, Cell, Grid, Job
from ablations.store.store import Result, Store, StoreError, measured

if TYPE_CHECKING:
    from analysis.results.sequential import Design

TRIALS = "trials"
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Round:
    """Trainings that wait for nothing but their turn, and the grid as it stands before them."""

    grid: Grid
    jobs: tuple[Job, ...]
    """All of the round, finished or not; none where nothing is left to ask for."""
    name: str = ""
    """Where there are several rounds."""

    @property
    def metrics(self) -> list[str]:
        """What tells how a training went: of trials, the validation scores that choose."""
        of_trials = self.name == TRIALS
        return [m.of_val if of_trials else m.name for m in self.grid.options.metrics]


def rounds(grid: Grid, store: Store) -> Iterator[Round]:
    """Each round as soon as the one before has ended in the store, and at the end one without jobs.

    The trials; then all seeds, or those until the next look, of the baseline and of what is
    undecided. Raises StoreError if a result lacks the metric that decides.
    """
    if grid.trials:
        yield Round(grid, tuple(grid.trial_jobs), TRIALS)
        grid = with_chosen(grid, store)
        if any(cell.tuned is None for cell in grid.cells):
            return
    going = [cell for cell in grid.cells if cell.id != grid.baseline.id]
    before = 0
    for look in design(grid).looks if grid.options.until else (len(grid.seeds),):
        jobs = tuple(grid.jobs_of(going, grid.seeds[before:look]))
        if grid.options.until:
            asked = {cell.id: Asked(look, UNDECIDED) for cell in going}
            grid = replace(grid, asked={**grid.asked, **asked, grid.baseline.id: Asked(look, None)})
        yield Round(grid, jobs, f"seeds to {look}" if grid.options.until else "")
        trainings = ((cell, s, job.repeat) for job in jobs for cell, s in job.trainings)
        if not all(store.ended(cell.id, seed, repeat) for cell, seed, repeat in trainings):
            return
        if grid.options.until:
            asked = {cell.id: Asked(look, _verdict(grid, cell, look, store)) for cell in going}
            grid = replace(grid, asked={**grid.asked, **asked})
            going = [cell for cell in going if grid.asked[cell.id].verdict == UNDECIDED]
        before = look
        if not going:
            break
    yield Round(grid, ())


def current(grid: Grid, store: Store) -> Round:
    """The round that has not ended; where all have, the last one, without jobs."""
    *_, last = rounds(grid, store)
    return last


def design(grid: Grid) -> Design:
    """Of a grid whose seeds go on until the verdict."""
    from analysis.results.sequential import Design, looks

    assert grid.options.until is not None
    within = grid.options.equal_within
    within = None if within is None else within * grid.options.metrics[0].points
    return Design(looks(*grid.options.until), len(grid.cells) - 1, within)


def with_chosen(grid: Grid, store: Store) -> Grid:
    """The grid with the best values of each cell whose trials have all ended.

    Best is the mean validation score over the trials' seeds; one that failed counts as worst, and
    the values of the base win a draw.
    """
    if not grid.trials:
        return grid
    return grid.with_chosen([_best(grid, trials, store) for trials in grid.trials])


def _best(grid: Grid, trials: Sequence[Cell], store: Store) -> Cell | None:
    scores = [_score(grid, trial, store) for trial in trials]
    known = [score for score in scores if score is not None]
    if len(known) < len(trials):
        return None
    return trials[max(range(len(trials)), key=lambda i: (known[i], i == grid.untuned, -i))]


def _score(grid: Grid, trial: Cell, store: Store) -> float | None:
    """Of a trial, larger is better; None until it has ended at all of its seeds."""
    assert grid.options.tune is not None
    metric = grid.options.metrics[0]
    results = [store.ended(trial.id, seed) for seed in grid.options.tune.seeds]
    if None in results:
        return None
    of_val = Metric(metric.of_val, metric.direction)
    values = [_value(result, of_val, trial) for result in results if result]
    return -inf if any(map(isnan, values)) else statistics.mean(values)


def _value(result: Result | None, metric: Metric, cell: Cell) -> float:
    """Of a training, larger is better; NaN where it failed or is missing."""
    if result is None or result["status"] == "failed":
        return nan
    value = measured(result).get(metric.name)
    if value is None:
        raise StoreError(
            f"{cell.name} seed {result['seed']} has no {metric.name}, by which this grid decides; "
            "name another metric first, or train on data that has it"
        )
    return metric.sign * float(value)


def differences(grid: Grid, cell: Cell, num_seeds: int, store: Store) -> list[float]:
    """A variant minus the baseline at each of the first seeds, larger is better, NaN: failed."""
    own, base = (
        [_value(store.ended(c.id, s), grid.options.metrics[0], c) for s in grid.seeds[:num_seeds]]
        for c in (cell, grid.baseline)
    )
    return [x - y for x, y in zip(own, base, strict=True)]


def seeds_of(grid: Grid, cell: Cell) -> tuple[int, ...]:
    """Those that a cell may still be asked for, or was: fewer than all only once it is decided."""
    asked = grid.asked.get(cell.id)
    decided = {cell.id} if cell.id != grid.baseline.id else set(grid.asked) - {cell.id}
    if asked is None or any(grid.asked[i].verdict == UNDECIDED for i in decided):
        return grid.seeds
    return grid.seeds[: asked.num_seeds]


def sd(grid: Grid, store: Store) -> float | None:
    """Of the seed-paired differences that are stored, over all variants; None for too few."""
    found = [
        [d for d in differences(grid, cell, len(grid.seeds), store) if not isnan(d)]
        for cell in grid.cells
        if cell.id != grid.baseline.id
    ]
    enough = [each for each in found if len(each) > 1]
    freedom = sum(len(each) - 1 for each in enough)
    if not freedom:
        return None
    return sqrt(sum((len(each) - 1) * statistics.variance(each) for each in enough) / freedom)


def _verdict(grid: Grid, cell: Cell, num_seeds: int, store: Store) -> str:
    from analysis.results.sequential import judge

    found = judge({cell.id: differences(grid, cell, num_seeds, store)}, design(grid))
    return str(found["verdict"].item())
