"""From a grid file's values to the settings of its cells, each with its place in the file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain, product
from math import prod
from typing import Any

from ablations.grid.deciding import (
    FIRST_TRIAL_SEED,
    Metric,
    Tune,
    Until,
    equal_within,
    metrics_of,
    seeds_of,
    tune_of,
)
from ablations.grid.gridfile import Combination, GridFile, Setting, Where
from ablations.grid.random_axes import drawn
from ablations.grid.settings import MOST, SETTINGS, TRAIN
from posmlp.settings import read_recipe, recipes

KEYS = (
    *("question", "prediction", "expect", "base", "axes", "zip", "exclude", "include", "seeds"),
    *("baseline", "design", "match", "match_within", "budget", "repeat", "stop"),
    *("metric", "metrics", "equal_within", "tune"),
)
DESIGNS = ("full", "one-at-a-time")
MATCHES = ("params", "gmacs")
TRAINING = tuple(name for name in SETTINGS if name.startswith(TRAIN))
_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Options:
    """What a grid file says about the whole, cells and seeds aside."""

    design: str
    match: str | None
    """What every variant is made to cost as much of as the baseline: params or gmacs."""
    match_within: float
    """How near they must come, as a share of the baseline's cost."""
    budget_s: float | None
    repeat: bool | None
    """Whether the baseline's first seed is trained twice; None: if it is cheap."""
    metrics: tuple[Metric, ...]
    """What is compared; the first one decides."""
    equal_within: float | None
    """The largest difference that counts as none, in points or the metric's unit."""
    until: Until | None
    """Seeds go on until every comparison has its verdict; None: all seeds are used."""
    tune: Tune | None
    failed_alike: int | None
    """Trainings that may fail for one cause before all stop; 0: any number; None: the default."""


@dataclass(frozen=True)
class Expanded:
    """What a grid file declares, before any config is built."""

    cells: tuple[Combination, ...]
    baseline: Combination
    """Settings that pick out the cell to compare with."""
    seeds: tuple[int, ...]
    axes: tuple[str, ...]
    """All settings that vary, in the file's order."""
    declared: tuple[str, ...]
    """Those that `axes` and `zip` name; the others come from `include`."""
    options: Options


def combinations(file: GridFile, data: str | None = None) -> Expanded:
    """Every cell's settings; `data` replaces that of `base`. Raises GridError."""
    for key in file.values:
        file.named((key,), key, KEYS, "key")
    base = _base(file, data)
    axes = file.mapping(("axes",), file.values.get("axes"))
    alone = [_options(file, ("axes",), {name: values}) for name, values in axes.items()]
    factors = alone + _zips(file)
    declared = tuple(name for factor in factors for name in factor[0])
    _each_once(file, declared)
    included = _list_of_settings(file, "include")
    if data is not None and "data" in (*declared, *(name for cell in included for name in cell)):
        file.fail((), f"data={data!r} is asked for, but the grid varies data itself; leave it out.")
    stated = _settings(file, ("baseline",), file.values.get("baseline") or {})
    centre = [_nearest(factor, stated) for factor in factors]
    seeds, until = seeds_of(file)
    set_elsewhere = {
        k: v for each in (*chain(*factors), *included, stated) for k, v in each.items()
    }
    tune = tune_of(file, set_elsewhere)
    if tune and max(seeds) >= FIRST_TRIAL_SEED:
        problem = f"seeds from {FIRST_TRIAL_SEED} on are those of trials; use smaller ones."
        file.fail(("seeds",), problem)
    options = _whole_grid_options(file, until, tune)
    if options.design == "full" and (count := prod(map(len, factors))) > MOST:
        problem = f"the axes make {count:,} cells, and a grid has {MOST:,} at most; take values "
        file.fail(("axes",), problem + "out, or say design: one-at-a-time.", key=True)
    varied = _excluded(file, _design(options.design, factors, centre))
    reference = _joined(centre)
    included = [reference | extra for extra in included]
    extra_axes = [name for cell in included for name in cell if name not in declared]
    cells = tuple(base | cell for cell in varied + included)
    if not cells:
        file.fail(("exclude",), "every cell is excluded.", key=True)
    varied_axes = tuple(dict.fromkeys([*declared, *extra_axes]))
    return Expanded(cells, stated or reference, seeds, varied_axes, declared, options)


def matches(cell: Combination, wanted: Combination) -> bool:
    """Whether the cell has every wanted value."""
    return all(name in cell and cell[name].value == s.value for name, s in wanted.items())


def _design(
    design: str, factors: list[list[Combination]], centre: list[Combination]
) -> list[Combination]:
    """The product of all factors, or the centre and each factor varied alone."""
    if design == "full":
        return [_joined(options) for options in product(*factors)]
    alone = [
        _joined([*centre[:i], option, *centre[i + 1 :]])
        for i, factor in enumerate(factors)
        for option in factor
        if option is not centre[i]
    ]
    return [_joined(centre), *alone]


def _whole_grid_options(file: GridFile, until: Until | None, tune: Tune | None) -> Options:
    design = file.values.get("design", DESIGNS[0])
    file.named(("design",), design, DESIGNS, "design", key=False)
    match = file.values.get("match")
    if match is not None:
        file.named(("match",), match, MATCHES, "match", key=False)
    repeat = file.values.get("repeat")
    if repeat not in (None, True, False):
        file.fail(("repeat",), f"repeat={repeat!r} must be true or false.")
    within, budget_s = _match_within(file), _budget_s(file)
    return Options(
        *(design, match, within, budget_s, repeat),
        *(metrics_of(file), equal_within(file), until, tune, _failed_alike(file)),
    )


def _match_within(file: GridFile) -> float:
    """The share that a percentage or a number means."""
    within = str(file.values.get("match_within", "1%"))
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", within)
    share = float(found[1]) / (100 if found[2] else 1) if found else 1.0
    if "match_within" in file.values and not ("match" in file.values and 0 < share < 1):
        file.fail(
            ("match_within",),
            f"match_within={within} must be a share such as 1%, beside match: params or gmacs.",
        )
    return share


def _budget_s(file: GridFile) -> float | None:
    """The seconds that a time such as `30min` or `1.5 h` means."""
    budget = file.values.get("budget")
    if budget is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", str(budget))
    seconds = float(found[1]) * _UNITS_S.get(found[2], 0) if found else 0.0
    if not seconds:
        units = ", ".join(_UNITS_S)
        file.fail(("budget",), f"budget={budget!r} must be a time such as 30min (units: {units}).")
    return seconds


def _failed_alike(file: GridFile) -> int | None:
    stop = file.mapping(("stop",), file.values.get("stop"))
    for key in stop:
        file.named(("stop", key), key, ("failed_alike",), "key of stop")
    number = stop.get("failed_alike")
    if number is not None and (type(number) is not int or number < 0):
        problem = f"failed_alike={number!r} must be a number of trainings, or 0 to never stop."
        file.fail(("stop", "failed_alike"), problem)
    return number


def _joined(options: Any) -> Combination:
    return {name: setting for option in options for name, setting in option.items()}


def _nearest(factor: list[Combination], stated: Combination) -> Combination:
    """The factor's option that the stated baseline names; the first where it names none."""
    named = {name: setting for name, setting in stated.items() if name in factor[0]}
    return next((option for option in factor if matches(option, named)), factor[0])


_RECIPE = ("base", "recipe")


def _base(file: GridFile, data: str | None) -> Combination:
    values = dict(file.mapping(("base",), file.values.get("base")))
    settings = _recipe(file, values.pop("recipe", None))
    train = file.mapping(("base", "train"), values.pop("train", None))
    settings |= _settings(file, ("base",), values)
    if own := file.values.get("metrics"):
        settings[f"{TRAIN}metrics"] = Setting(
            file.meant(("metrics",), f"{TRAIN}metrics", own), ("metrics",)
        )
    for name, value in train.items():
        where = ("base", "train", name)
        file.named(where, f"{TRAIN}{name}", TRAINING, "training field")
        said = settings.get(f"{TRAIN}{name}")
        if said is not None and said.where != _RECIPE:
            file.fail(where, f"train.{name} is said twice, here and by {said.where[-1]}.", key=True)
        settings[f"{TRAIN}{name}"] = Setting(file.meant(where, f"{TRAIN}{name}", value), where)
    if data is not None:
        settings["data"] = Setting(file.meant(("base", "data"), "data", data), ("base", "data"))
    return {name: setting._replace(varies=False) for name, setting in settings.items()}


def _recipe(file: GridFile, name: Any) -> Combination:
    """The settings of the recipe that the base starts from."""
    where = _RECIPE
    if name is None:
        return {}
    file.named(where, name, recipes(), "recipe", key=False)
    found = {
        key if key in SETTINGS else f"{TRAIN}{key}": value
        for key, value in read_recipe(name).items()
    }
    return {key: Setting(file.meant(where, key, value), where) for key, value in found.items()}


def _zips(file: GridFile) -> list[list[Combination]]:
    groups = file.sequence(("zip",), file.values.get("zip"))
    return [
        _options(file, ("zip", i), file.mapping(("zip", i), group, empty=False))
        for i, group in enumerate(groups)
    ]


def _options(file: GridFile, where: Where, axes: dict[str, Any]) -> list[Combination]:
    """The values that the axes take together, one combination a place in their lists."""
    lengths, axes = {}, dict(axes)
    for name, values in axes.items():
        file.named((*where, name), name, SETTINGS, "axis")
        if isinstance(values, dict):
            axes[name] = values = drawn(file, (*where, name), name, values)
        if not isinstance(values, list) or not values:
            example = f", for example [{values}]" if values else ""
            file.fail((*where, name), f"axis {name} needs a list of values{example}.")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
        file.fail(where, f"axes that move together need equally many values, not {counts}.")
    return [
        {
            name: Setting(file.meant((*where, name, i), name, axes[name][i]), (*where, name, i))
            for name in axes
        }
        for i in range(next(iter(lengths.values())))
    ]


def _each_once(file: GridFile, declared: tuple[str, ...]) -> None:
    for name in declared:
        if declared.count(name) > 1:
            file.fail(("zip",), f"axis {name} is declared twice; keep one.", key=True)


def _excluded(file: GridFile, cells: list[Combination]) -> list[Combination]:
    """The cells that no `exclude` matches; one that matches nothing is a mistake."""
    rules = _list_of_settings(file, "exclude")
    for rule in rules:
        if not any(matches(cell, rule) for cell in cells):
            where = next(iter(rule.values())).where
            file.fail(where[:2], "this excludes no cell; check its values against the axes.")
    return [cell for cell in cells if not any(matches(cell, rule) for rule in rules)]


def _list_of_settings(file: GridFile, key: str) -> list[Combination]:
    return [
        _settings(file, (key, i), file.mapping((key, i), item, empty=False))
        for i, item in enumerate(file.sequence((key,), file.values.get(key)))
    ]


def _settings(file: GridFile, where: Where, values: Any) -> Combination:
    settings = {}
    for name, value in file.mapping(where, values).items():
        file.named((*where, name), name, SETTINGS, "setting")
        settings[name] = Setting(file.meant((*where, name), name, value), (*where, name))
    return settings
