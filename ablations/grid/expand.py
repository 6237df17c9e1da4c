"""From a grid file's values to the settings of its cells, each with its place in the file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from ablations.grid.gridfile import GridFile, Where
from ablations.grid.settings import SETTINGS, TRAIN, meant
from posmlp.config_checks import one_of

KEYS = (
    *("question", "prediction", "expect", "base", "axes", "zip", "exclude", "include", "seeds"),
    *("baseline", "design", "match", "match_within", "budget", "repeat", "stop"),
)
DESIGNS = ("full", "one-at-a-time")
MATCHES = ("params", "gmacs")
TRAINING = tuple(name for name in SETTINGS if name.startswith(TRAIN))
_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}


class Setting(NamedTuple):
    """One value, where it stands, and whether an axis (rather than `base`) gives it."""

    value: Any
    where: Where
    varies: bool = True


Combination = dict[str, Setting]


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
        _named(file, (key,), key, KEYS, "key")
    base = _base(file, data)
    factors = _axes(file) + _zips(file)
    declared = tuple(name for factor in factors for name in factor[0])
    _each_once(file, declared)
    included = _list_of_settings(file, "include")
    if data is not None and "data" in (*declared, *(name for cell in included for name in cell)):
        file.fail((), f"data={data!r} is asked for, but the grid varies data itself; leave it out.")
    stated = _settings(file, ("baseline",), file.values.get("baseline") or {})
    centre = [_nearest(factor, stated) for factor in factors]
    options = _whole_grid_options(file)
    varied = _excluded(file, _design(options.design, factors, centre))
    reference = _joined(centre)
    included = [reference | extra for extra in included]
    extra_axes = [name for cell in included for name in cell if name not in declared]
    cells = tuple(base | cell for cell in varied + included)
    if not cells:
        file.fail(("exclude",), "every cell is excluded.", key=True)
    axes = tuple(dict.fromkeys([*declared, *extra_axes]))
    return Expanded(cells, stated or reference, _seeds(file), axes, declared, options)


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


def _whole_grid_options(file: GridFile) -> Options:
    design = file.values.get("design", DESIGNS[0])
    _named(file, ("design",), design, DESIGNS, "design", key=False)
    match = file.values.get("match")
    if match is not None:
        _named(file, ("match",), match, MATCHES, "match", key=False)
    repeat = file.values.get("repeat")
    if repeat not in (None, True, False):
        file.fail(("repeat",), f"repeat={repeat!r} must be true or false.")
    within, budget_s, alike = _match_within(file), _budget_s(file), _failed_alike(file)
    return Options(design, match, within, budget_s, repeat, alike)


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
    stop = _mapping(file, ("stop",), file.values.get("stop"))
    for key in stop:
        _named(file, ("stop", key), key, ("failed_alike",), "key of stop")
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


def _base(file: GridFile, data: str | None) -> Combination:
    values = dict(_mapping(file, ("base",), file.values.get("base")))
    train = _mapping(file, ("base", "train"), values.pop("train", None))
    settings = _settings(file, ("base",), values)
    for name, value in train.items():
        where = ("base", "train", name)
        _named(file, where, f"{TRAIN}{name}", TRAINING, "training field")
        settings[f"{TRAIN}{name}"] = Setting(_meant(file, where, f"{TRAIN}{name}", value), where)
    if data is not None:
        settings["data"] = Setting(data, ("base", "data"))
    return {name: setting._replace(varies=False) for name, setting in settings.items()}


def _axes(file: GridFile) -> list[list[Combination]]:
    axes = _mapping(file, ("axes",), file.values.get("axes"))
    return [_options(file, ("axes",), {name: values}) for name, values in axes.items()]


def _zips(file: GridFile) -> list[list[Combination]]:
    groups = _sequence(file, ("zip",), file.values.get("zip"))
    return [
        _options(file, ("zip", i), _mapping(file, ("zip", i), group, empty=False))
        for i, group in enumerate(groups)
    ]


def _options(file: GridFile, where: Where, axes: dict[str, Any]) -> list[Combination]:
    """The values that the axes take together, one combination a place in their lists."""
    lengths = {}
    for name, values in axes.items():
        _named(file, (*where, name), name, SETTINGS, "axis")
        if not isinstance(values, list) or not values:
            example = f", for example [{values}]" if values else ""
            file.fail((*where, name), f"axis {name} needs a list of values{example}.")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
        file.fail(where, f"axes that move together need equally many values, not {counts}.")
    return [
        {
            name: Setting(_meant(file, (*where, name, i), name, axes[name][i]), (*where, name, i))
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
        _settings(file, (key, i), _mapping(file, (key, i), item, empty=False))
        for i, item in enumerate(_sequence(file, (key,), file.values.get(key)))
    ]


def _settings(file: GridFile, where: Where, values: Any) -> Combination:
    settings = {}
    for name, value in _mapping(file, where, values).items():
        _named(file, (*where, name), name, SETTINGS, "setting")
        settings[name] = Setting(_meant(file, (*where, name), name, value), (*where, name))
    return settings


def _seeds(file: GridFile) -> tuple[int, ...]:
    seeds = file.values.get("seeds", [0])
    if type(seeds) is int and seeds >= 1:
        return tuple(range(seeds))
    good = isinstance(seeds, list) and all(type(s) is int and 0 <= s < 2**63 for s in seeds)
    if not good or not seeds or len(set(seeds)) < len(seeds):
        problem = f"seeds={seeds!r} must be a count or a list of different whole numbers from 0, "
        problem += "each below 2**63."
        file.fail(("seeds",), problem)
    return tuple(seeds)


def _meant(file: GridFile, where: Where, name: str, value: Any) -> Any:
    try:
        return meant(name, value)
    except ValueError as error:
        file.fail(where, f"{error}.")


def _named(
    file: GridFile, where: Where, name: str, valid: Any, what: str, *, key: bool = True
) -> None:
    if name not in valid and f"{TRAIN}{name}" in valid:
        file.fail(where, f"unknown {what} {name!r}. Did you mean '{TRAIN}{name}'?", key=key)
    try:
        one_of(name, valid, what)
    except ValueError as error:
        file.fail(where, f"{error}.", key=key)


def _mapping(file: GridFile, where: Where, value: Any, *, empty: bool = True) -> dict[str, Any]:
    if (value is None and empty) or (isinstance(value, dict) and (value or empty)):
        return value or {}
    file.fail(where, f"{where[0]} needs a mapping (name: value), not {value!r}.")


def _sequence(file: GridFile, where: Where, value: Any) -> list[Any]:
    if value is None or isinstance(value, list):
        return value or []
    file.fail(where, f"{where[0]} needs a list (- item), not {value!r}.")
