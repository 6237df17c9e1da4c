"""The grid file: a question, axes and seeds -> cells with ids that only their content decides.

An example with every key:

    question: does a relation that is shared along offsets beat a free one?
    prediction: lrpe is ahead of dense at every layout
    expect: [{gate: dense, verdict: worse}]    # the same in verdicts, which the report checks
    base: {recipe: steady, data: moving-digits, train: {epochs: 6}}    # or a preset
    axes: {gate: [lrpe, dense], layout: [T+S, S]}    # every combination is a cell
    zip: [{num_frames: [8, 16], train.lr: [2e-3, 1e-3]}]    # axes that move together
    # in place of a list: {log_uniform: [1e-4, 1e-2], n: 8}, or uniform, or int_uniform
    exclude: [{gate: dense, layout: S}]
    include: [{gate: none}]    # what is not named is as in the baseline
    seeds: [0, 1, 2]    # or a count, or {from: 3, to: 20, until: verdict}: decided variants stop
    metric: [test_top1, {name: test_loss, direction: lower}]    # the first decides
    metrics: [my_metrics.py:edit_distance]    # columns of your own: test_edit_distance
    equal_within: 2    # points (for a loss: its unit) that count as no difference
    tune: {train.lr: [1e-3, 2e-3, 4e-3], train.weight_decay: [0.05, 0.2], seeds: 2, trials: 4}
    baseline: {gate: lrpe, layout: T+S}
    design: full    # or one-at-a-time, from the baseline
    match: params    # or gmacs: variants are resized to cost what the baseline does
    match_within: 2%    # how near they must come; 1% by default
    budget: 30min    # the last seeds are left out until the predicted time fits; not with --shard
    repeat: true    # the baseline's first seed a second time; by default from 10 trainings on
    stop: {failed_alike: 3}    # trainings that fail for one cause, and none succeeds; 0: go on

Under `tune` several settings multiply, and `trials` are sampled from all combinations, that of the
base among them. Every variant tries the same ones, at `seeds` seeds from 1000 on. It is compared,
at the seeds of the grid, with the values whose validation score is the best on average; a trial
that failed counts as worst, and the base's values win a draw.

A model file that trainings start from (`train.init_from`) counts by its content, not by its path:
another file in its place makes other cells. So does a file of your own that `gate`, `branches`,
`model`, `data`, `metrics` or `train.augment` names, as `my_gates.py:Shift`, from the grid file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ablations.grid import datasets, weights
from ablations.grid.expand import Expanded, Options, combinations, matches
from ablations.grid.expect import expectations
from ablations.grid.gridfile import Combination, GridFile
from ablations.grid.matching import Match, matched
from ablations.grid.settings import build, content_hash, identity, shown_value
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.digits.catalogue import MOVING_DIGITS

CHEAP_TO_REPEAT = 10
"""Trainings from which on one more, for the noise floor, costs at most a tenth."""


@dataclass(frozen=True)
class Cell:
    """One variant: what is trained, on what, and where it stands in the grid."""

    name: str
    config: PosMLPConfig
    train: TrainConfig
    data: datasets.Data
    axes: dict[str, Any] = field(hash=False)
    """The value of every axis of the grid, for tables."""
    match: Match | None = None
    """How it was resized to the baseline's cost, where the grid asks for that."""
    init_sha256: str = ""
    """Of the file that `train.init_from` names, where it names one."""
    tuned: dict[str, Any] | None = field(default=None, hash=False)
    """The values of what the grid tunes: a trial's, or what was chosen; None until then."""

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits over everything that changes the result, seed aside."""
        return content_hash(self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """All that changes the result, seed aside, where it differs from the defaults."""
        return identity(self.config, self.train, self.data.identity, self.init_sha256)

    @property
    def code(self) -> dict[str, str]:
        """The sources of the user's own files that its configs hold."""
        return self.config.code | self.train.code


@dataclass(frozen=True)
class Job:
    """One training: a cell at a seed. Or several that train together, each cell at each seed."""

    cells: tuple[Cell, ...]
    """Where there are several, they differ in values alone (`posmlp.train.variants`)."""
    seeds: tuple[int, ...]
    repeat: int = 0
    """1 for a second training under a seed that another job has too."""
    micro_batches: int = 1
    """Parts of each batch whose gradients are summed, because the whole did not fit."""
    memory_steps: tuple[str, ...] = ()
    """What was done so far because memory ran out."""

    @property
    def trainings(self) -> list[tuple[Cell, int]]:
        """Each cell at each seed, in the order of `posmlp.train.variants.members`."""
        return [(cell, seed) for cell in self.cells for seed in self.seeds]

    def __str__(self) -> str:
        seeds = ", ".join(str(seed) for seed in self.seeds)
        cells = "; ".join(cell.name for cell in self.cells)
        name = f"{cells} seed{'s' if len(self.seeds) > 1 else ''} {seeds}"
        return f"{name} repeated" if self.repeat else name


class Asked(NamedTuple):
    """How far a cell is in a grid whose seeds go on until the verdict."""

    num_seeds: int
    """As many of the grid's first seeds are asked of it so far."""
    verdict: str | None
    """Against the baseline; None for that itself, and before the first look."""


@dataclass(frozen=True)
class Grid:
    """A checked grid file."""

    file: GridFile
    cells: tuple[Cell, ...]
    baseline: Cell
    seeds: tuple[int, ...]
    axes: tuple[str, ...]
    settings: tuple[Combination, ...]
    """Of each cell: its settings, and where in the file they stand."""
    options: Options
    left_out_seeds: tuple[int, ...] = ()
    """Those that a budget has no time for."""
    points: tuple[Combination, ...] = ()
    """The values that every cell tries before it is compared; empty without `tune`."""
    trials: tuple[tuple[Cell, ...], ...] = ()
    """Of each cell, in their order: itself at each of the points."""
    untuned: int | None = None
    """The place of the point that has the base's own values, if one has."""
    asked: Mapping[str, Asked] = field(default_factory=dict)
    """By cell id, where seeds go on until the verdict; a cell that is not here has all seeds."""

    @property
    def question(self) -> str:
        return str(self.file.values.get("question") or "").strip()

    @property
    def prediction(self) -> str:
        return str(self.file.values.get("prediction") or "").strip()

    @property
    def repeat(self) -> bool:
        """Whether the baseline's first seed is trained a second time."""
        asked, num_trainings = self.options.repeat, len(self.cells) * len(self.seeds)
        return num_trainings >= CHEAP_TO_REPEAT if asked is None else asked

    @property
    def jobs(self) -> list[Job]:
        """The baseline at every seed, its repetition, then all other cells at each seed in turn.

        So that stopping at any moment leaves a table whose cells have the same seeds.
        """
        return self.jobs_of(self.cells, self.seeds)

    def jobs_of(self, cells: Sequence[Cell], seeds: Sequence[int]) -> list[Job]:
        """The same of some of the cells, at some of the seeds, and of the baseline at them."""
        others = [cell for cell in cells if cell.id != self.baseline.id]
        first = self.seeds[:1] if self.repeat and self.seeds[0] in seeds else ()
        return (
            [Job((self.baseline,), (seed,)) for seed in seeds]
            + [Job((self.baseline,), (seed,), repeat=1) for seed in first]
            + [Job((cell,), (seed,)) for seed in seeds for cell in others]
        )

    @property
    def trial_jobs(self) -> list[Job]:
        """Every variant's trials at each of their seeds; none without `tune`."""
        tune = self.options.tune
        seeds = tune.seeds if tune else ()
        return [Job((cell,), (s,)) for s in seeds for each in self.trials for cell in each]

    def with_chosen(self, chosen: Sequence[Cell | None]) -> Grid:
        """The grid whose cells have the values of one of their trials each; None: not yet."""
        cells = [
            replace(trial, name=cell.name) if trial else cell
            for cell, trial in zip(self.cells, chosen, strict=True)
        ]
        baseline = cells[[cell.id for cell in self.cells].index(self.baseline.id)]
        return replace(self, cells=tuple(cells), baseline=baseline)

    def first_seeds(self, count: int) -> Grid:
        """The grid without its last seeds; each cell keeps the same ones."""
        return replace(self, seeds=self.seeds[:count], left_out_seeds=self.seeds[count:])

    def check_data(self) -> None:
        """Raise GridError where clips, or a model to start from, are not what a config asks for."""

        metric = self.options.metrics[0]

        def check(cell: Cell) -> None:
            if metric.name.partition("_")[2] in cell.data.lacks:
                raise ValueError(
                    f"metric={metric.name} decides, and {cell.data.spec} has labels without it; "
                    "name another metric first, such as test_top1"
                )
            datasets.check(cell.data, cell.config, cell.train)
            weights.check(cell.train.init_from, cell.init_sha256, cell.config)
            if cell.code:
                from posmlp.train.fitting import check_own

                check_own(cell.config, cell.train)

        _all_possible(self.file, self.settings, [lambda c=cell: check(c) for cell in self.cells])
        tried = [lambda c=cell: check(c) for each in self.trials for cell in each]
        _all_possible(self.file, _tried(self.settings, self.points), tried)


def read_grid(grid: str | Path | Mapping[str, Any], data: str | None = None) -> Grid:
    """Read and check a grid: a file's path, or the same content as a mapping.

    `data` replaces the data of `base`. Raises GridError (a ValueError) that names file, line,
    column, what is wrong and what would be right.
    """
    file = GridFile.read(grid)
    plan = combinations(file, data)
    if plan.options.match and "dims" in plan.axes:
        file.fail(("match",), f"match: {plan.options.match} resizes dims; they cannot be an axis.")
    sources: dict[str, datasets.Data] = {}
    models: dict[str, PosMLPConfig] = {}
    init_sha256 = cache(weights.sha256)

    def cell_of(settings: Combination) -> Cell:
        values = {name: setting.value for name, setting in settings.items()}
        spec = str(values.get("data", MOVING_DIGITS))
        source = sources[spec] = sources.get(spec) or datasets.describe(spec, file.code)
        config, train = build(values, source.num_classes, models, file.code)
        source = datasets.counted(source, config, train)
        axes = {name: _value(name, values, config, train) for name in plan.axes}
        axes = {n: shown_value(v) if isinstance(v, dict) else v for n, v in axes.items()}
        shown = [name for name in plan.axes if name in plan.declared or name in settings]
        name = " ".join(f"{axis}={shown_value(axes[axis])}" for axis in shown)
        start = init_sha256(train.init_from)
        return Cell(name or "base", config, train, source, axes, init_sha256=start)

    cells = _all_possible(file, plan.cells, [lambda s=s: cell_of(s) for s in plan.cells])
    _all_different(file, plan.cells, cells)
    wanted = {name: setting.value for name, setting in plan.baseline.items()}
    found = {
        cell: settings
        for cell, settings in zip(cells, plan.cells, strict=True)
        if matches(settings, plan.baseline)
        or all(_value(n, {}, cell.config, cell.train) == v for n, v in wanted.items())
    }
    if len(found) > 1:  # an included cell may be the baseline with something more
        plain = [c for c, s in found.items() if all(s[n].varies <= (n in plan.declared) for n in s)]
        found = {cell: found[cell] for cell in plain or found}
    if len(found) != 1:
        _fail_baseline(file, wanted, list(found) or cells, len(found))
    (baseline,) = found
    expectations(file, plan.axes, [cell.axes for cell in cells if cell is not baseline])
    if plan.options.match:
        cells = _matched(file, plan, cells, baseline)
    if plan.options.until and len(cells) == 1:
        file.fail(("seeds",), "until: verdict needs a variant beside the baseline to judge.")
    whole = plan.seeds, plan.axes, plan.cells, plan.options
    untuned = Grid(file, tuple(cells), baseline, *whole)
    return _with_trials(untuned, cell_of) if plan.options.tune else untuned


def _with_trials(grid: Grid, cell_of: Callable[[Combination], Cell]) -> Grid:
    """The grid with what each of its cells tries."""
    tune, base = grid.options.tune, grid.baseline
    assert tune is not None
    points = tune.tried({n: _one(_value(n, {}, base.config, base.train)) for n in tune.values})

    def trial(cell: Cell, settings: Combination, point: Combination) -> Cell:
        found = cell_of(settings | point)
        values = {name: setting.value for name, setting in point.items()}
        name = " ".join([cell.name, *(f"{n}={shown_value(v)}" for n, v in values.items())])
        if cell.match:  # what is tuned then is no part of the model
            found = replace(found, config=cell.config, match=cell.match)
        return replace(found, name=name, axes=cell.axes, tuned=values)

    attempts = [
        lambda c=cell, s=settings, p=point: trial(c, s, p)
        for cell, settings in zip(grid.cells, grid.settings, strict=True)
        for point in points
    ]
    tried = _tried(grid.settings, points)
    cells = _all_possible(grid.file, tried, attempts)
    _all_different(grid.file, tried, cells)
    each = len(points)
    trials = tuple(tuple(cells[i : i + each]) for i in range(0, len(cells), each))
    at_base = trials[grid.cells.index(base)]
    untuned = next((i for i, each in enumerate(at_base) if each.id == base.id), None)
    return replace(grid, points=points, trials=trials, untuned=untuned)


def _tried(
    settings: tuple[Combination, ...], points: tuple[Combination, ...]
) -> tuple[Combination, ...]:
    """The settings of all trials, cell by cell."""
    return tuple(each | point for each in settings for point in points)


def _one(value: Any) -> Any:
    """A value a stage, if all are the same, as the one that a grid file would say."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _matched(file: GridFile, plan: Expanded, cells: list[Cell], baseline: Cell) -> list[Cell]:
    """The cells at widths that make them cost what the baseline does."""
    by = plan.options.match
    assert by is not None

    def resized(cell: Cell) -> Cell:
        if cell is baseline:
            return cell
        config, match = matched(cell.config, baseline.config, by, plan.options.match_within)
        return replace(cell, config=config, match=match)

    cells = _all_possible(file, plan.cells, [lambda c=cell: resized(c) for cell in cells])
    _all_different(file, plan.cells, cells)
    return cells


def _value(name: str, values: dict[str, Any], config: PosMLPConfig, train: TrainConfig) -> Any:
    """What a cell has at `name`: as the grid says, or else as the configs have it."""
    if name in values or name in ("preset", "data"):
        return values.get(name)
    if name.startswith("train."):
        return getattr(train, name.removeprefix("train."))
    return getattr(config, name)


def _all_possible(
    file: GridFile, settings: tuple[Combination, ...], attempts: list[Any]
) -> list[Any]:
    """What the attempts return; GridError with the first reason if any raises ValueError."""
    results, failures = [], []
    for combination, attempt in zip(settings, attempts, strict=True):
        try:
            results.append(attempt())
        except ValueError as error:
            failures.append((combination, str(error)))
    if failures:
        combination, reason = failures[0]
        cell = " ".join(f"{n}={shown_value(s.value)}" for n, s in combination.items() if s.varies)
        more = f" ({len(failures)} of {len(settings)} cells are impossible.)"
        more = more if len(failures) > 1 else ""
        file.fail(
            _culprit(combination, reason), f"cell {cell or 'base'} is impossible: {reason}.{more}"
        )
    return results


def _culprit(combination: Combination, reason: str) -> tuple[str | int, ...]:
    """Where the setting stands whose name and value the reason mentions."""

    def score(item: tuple[str, Any]) -> int:
        name, setting = item
        named = re.search(rf"\b{name.removeprefix('train.')}\b", reason) is not None
        return named * (2 + 2 * (repr(setting.value) in reason)) + setting.varies

    best = max(combination.items(), key=score, default=None)
    return best[1].where if best and score(best) else ("base",)


def _all_different(file: GridFile, settings: tuple[Combination, ...], cells: list[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for combination, cell in zip(settings, cells, strict=True):
        if cell.id in seen:
            where = next((s.where for s in reversed(combination.values()) if s.varies), ("base",))
            other = f"cells {seen[cell.id].name!r} and {cell.name!r}"
            file.fail(where, f"{other} are the same configuration; take one out.")
        seen[cell.id] = cell


def _fail_baseline(
    file: GridFile, wanted: dict[str, Any], cells: list[Cell], num_found: int
) -> NoReturn:
    settings = " ".join(f"{name}={shown_value(value)}" for name, value in wanted.items())
    which = "; ".join(cell.name for cell in cells[:6]) + ("; ..." if len(cells) > 6 else "")
    found = f"{num_found} cells" if num_found else "no cell"
    file.fail(("baseline",), f"baseline {settings} is {found}; name one of: {which}.", key=True)
