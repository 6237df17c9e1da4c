"""How a grid decides: what it compares, what counts as equal, what it tunes, when it stops.

metric: test_within_pair            # or a list; {name: test_loss, direction: lower} says it all
equal_within: 2                     # points for shares such as accuracy, else the metric's own unit
tune: {train.lr: [1e-3, 2e-3], seeds: 2}
seeds: {from: 3, to: 20, until: verdict}   # numbers of seeds; `first: 10` counts from seed 10 on
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from ablations.grid.gridfile import Combination, GridFile, Setting, Where
from ablations.grid.settings import MOST, SETTINGS, TRAIN, content_hash
from posmlp.config_checks import LOWER_IS_BETTER, SCORES

FIRST_TRIAL_SEED = 1000
"""Trials have seeds from here on, so that no seed both chooses and compares."""
_SHARES = ("top1", "top5", "within_pair", "map")
_COSTS = ("params", "seconds", "train_seconds", "peak_memory_mb")
COLUMNS = (*(f"{split}_{s}" for split in ("test", "val") for s in SCORES), "train_loss", *_COSTS)
_CLIPS = {"test": "test clips", "val": "validation clips", "train": "training clips"}
_WORDS = {
    "top1": "top-1",
    "top5": "top-5",
    "within_pair": "within pairs",
    "map": "mean average precision",
}
DIRECTIONS = ("higher", "lower")


class Metric(NamedTuple):
    """A column of the table of runs, and which way it is better."""

    name: str
    direction: str = "higher"

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is."""
        return 1 if self.direction == "higher" else -1

    @property
    def is_share(self) -> bool:
        """Whether it is stored as a share, and spoken of in percent and points."""
        return self.name.partition("_")[2] in _SHARES

    @property
    def words(self) -> str:
        """What a person calls it: `top-1 on test clips`."""
        split, _, score = self.name.partition("_")
        if split not in _CLIPS or not score:
            return self.name.replace("_", " ")
        return f"{_WORDS.get(score, score.replace('_', ' '))} on {_CLIPS[split]}"

    def said(self, value: float) -> str:
        """Its words with a value: a share in percent."""
        return f"{self.words} {value:.1%}" if self.is_share else f"{self.words} {value:.3f}"

    @property
    def points(self) -> float:
        """What `equal_within` counts in, in the column's own unit."""
        return 0.01 if self.is_share else 1.0

    @property
    def of_val(self) -> str:
        """The column of the same score on validation clips, by which trials are chosen."""
        return f"val_{self.name.partition('_')[2]}"


METRICS = (Metric("test_top1"), Metric("test_within_pair"))
"""What is compared where a grid does not say; the first decides."""


MARGIN = 2.0
"""Points of a share that count as none where a grid of fixed seeds does not say."""


def metrics_in(plan: Mapping[str, Any]) -> tuple[Metric, ...]:
    """What a stored plan compares."""
    return tuple(Metric(*each) for each in plan.get("metrics", METRICS))


def margin_in(plan: Mapping[str, Any], metric: Metric, margin: float | None = None) -> float | None:
    """The largest difference of a metric that counts as none, in points or its own unit.

    `margin`, else what the plan says, is that of the first metric, and of others in points where
    that is. None: nothing is called equal, as where seeds go on until the verdict without one.
    """
    first = metrics_in(plan)[0]
    margin = plan.get("equal_within") if margin is None else margin
    if margin is None:
        return MARGIN if metric.is_share and not plan.get("until") else None
    alike = metric.is_share if first.is_share else metric.name == first.name
    return margin if alike else None


class Until(NamedTuple):
    """Seeds until a verdict: the fewest and the most that a comparison gets."""

    first: int
    last: int


@dataclass(frozen=True)
class Tune:
    """Which settings every variant tries before it is compared, and at how many seeds."""

    values: Mapping[str, tuple[Any, ...]]
    """Of each tuned setting, in the file's order."""
    points: tuple[Combination, ...]
    """All combinations of the values, in the order of their product."""
    num_trials: int
    """How many of them each variant tries."""
    num_seeds: int

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(FIRST_TRIAL_SEED, FIRST_TRIAL_SEED + self.num_seeds))

    def tried(self, untuned: Mapping[str, Any]) -> tuple[Combination, ...]:
        """The combinations that are tried, that of the values `untuned` among them where it is one.

        The others are the first in the order of a hash of their values: the same everywhere, and
        more trials keep those that fewer have.
        """

        def place(point: Combination) -> tuple[bool, str]:
            values = {name: setting.value for name, setting in point.items()}
            return values != untuned, content_hash(values)

        taken = sorted(self.points, key=place)[: self.num_trials]
        return tuple(point for point in self.points if point in taken)


def metrics_of(file: GridFile) -> tuple[Metric, ...]:
    """What the grid compares, the deciding one first. Raises GridError."""
    given = file.values.get("metric")
    if given is None:
        return METRICS
    listed = isinstance(given, list)
    found = [
        _metric(file, ("metric", i) if listed else ("metric",), item)
        for i, item in enumerate(given if listed else [given])
    ]
    names = [metric.name for metric in found]
    if not names or len(set(names)) < len(names):
        file.fail(("metric",), "metric needs a column, or a list of different ones.")
    return tuple(found)


def _metric(file: GridFile, where: Where, item: Any) -> Metric:
    said = item if isinstance(item, dict) else {"name": item}
    for key in said:
        file.named((*where, key), key, Metric._fields, "key of a metric")
    if "name" not in said:
        file.fail(where, "a metric needs its name, for example {name: test_loss}.")
    at = (*where, "name") if isinstance(item, dict) else where
    own = [str(name).rpartition(":")[2] for name in file.values.get("metrics") or ()]
    columns = [f"{split}_{name}" for split in ("test", "val") for name in own]
    file.named(at, said["name"], (*COLUMNS, *columns), "metric", key=False)
    lower = LOWER_IS_BETTER.fullmatch(said["name"]) is not None
    direction = said.get("direction", DIRECTIONS[lower])
    file.named((*where, "direction"), direction, DIRECTIONS, "direction", key=False)
    return Metric(said["name"], direction)


def equal_within(file: GridFile) -> float | None:
    """The largest difference that counts as none; None: the grid does not say. Raises GridError."""
    within = file.values.get("equal_within")
    if within is None:
        return None
    if type(within) not in (int, float) or not 0 < within < float("inf"):
        file.fail(
            ("equal_within",),
            f"equal_within={within!r} must be a number above 0: points for shares such as "
            "test_top1, else in the metric's unit.",
        )
    return float(within)


def seeds_of(file: GridFile) -> tuple[tuple[int, ...], Until | None]:
    """All seeds that may be used, and when they end sooner. Raises GridError."""
    seeds, until = file.values.get("seeds", [0]), None
    if isinstance(seeds, dict):
        until, start = _until(file, seeds)
        seeds = list(range(start, start + until.last))
    if type(seeds) is int and 1 <= seeds <= MOST:
        seeds = list(range(seeds))
    good = isinstance(seeds, list) and all(type(s) is int and 0 <= s < 2**63 for s in seeds)
    if not good or not seeds or len(set(seeds)) < len(seeds):
        problem = f"seeds={seeds!r} must be a count, {MOST:,} at most, or a list of different "
        problem += "whole numbers from 0, each below 2**63."
        file.fail(("seeds",), problem)
    return tuple(seeds), until


def _until(file: GridFile, seeds: dict[str, Any]) -> tuple[Until, int]:
    """The fewest and the most seeds, and the first of them."""
    for key in seeds:
        file.named(("seeds", key), key, ("first", "from", "to", "until"), "key of seeds")
    if seeds.get("until") != "verdict":
        problem = f"seeds={seeds!r} must say until: verdict, or be a count or a list of seeds."
        file.fail(("seeds", "until"), problem)
    for key in ("from", "to"):
        if type(seeds.get(key)) is not int:
            file.fail(
                ("seeds", key), f"seeds need {key!r}, a number of seeds, for example {key}: 5."
            )
    start = seeds.get("first", 0)
    if type(start) is not int or not 0 <= start < 2**62:
        problem = f"first={start!r} must be the first seed, a whole number from 0, for example 10."
        file.fail(("seeds", "first"), problem)
    first, last = seeds["from"], seeds["to"]
    if not 2 <= first < last:
        problem = f"from={first} must be at least 2, to show a spread, and less than to={last}."
        file.fail(("seeds", "from"), problem)
    if last > MOST:
        file.fail(("seeds", "to"), f"to={last} must be a number of seeds, {MOST:,} at most.")
    if "budget" in file.values:
        problem = "budget and until: verdict both choose how many seeds there are; leave the "
        problem += "budget out, and set seeds' to by the time that `ablations plan` says."
        file.fail(("budget",), problem)
    return Until(first, last), start


def tune_of(file: GridFile, fixed: Mapping[str, Setting]) -> Tune | None:
    """What is tuned. Raises GridError.

    fixed: settings that the grid's axes, `include` or `baseline` give, which cannot be tuned too.
    """
    if file.values.get("tune") is None:
        return None
    said = dict(file.mapping(("tune",), file.values["tune"], empty=False))
    num_seeds, num_trials = (_count(file, said, key) for key in ("seeds", "trials"))
    if not said:
        file.fail(
            ("tune",), "tune needs a setting with values, for example train.lr: [1e-3, 2e-3]."
        )
    options = [_options(file, name, values, fixed) for name, values in said.items()]
    points = [
        {name: s for each in choice for name, s in each.items()} for choice in product(*options)
    ]
    if num_trials is not None and num_trials > len(points):
        problem = f"trials={num_trials} is more than the {len(points)} combinations of the values; "
        file.fail(("tune", "trials"), problem + "leave it out to try them all.")
    if metrics_of(file)[0].name.partition("_")[0] not in ("test", "val"):
        problem = "tune chooses by the first metric on validation clips; name one such as "
        file.fail(("metric",), problem + "test_top1 first.")
    values = {
        name: tuple(s[name].value for s in each) for name, each in zip(said, options, strict=True)
    }
    return Tune(values, tuple(points), num_trials or len(points), num_seeds or 2)


def _count(file: GridFile, said: dict[str, Any], key: str) -> int | None:
    """A whole number of at least 1, taken out of what is said; None where there is none."""
    if key not in said:
        return None
    count = said.pop(key)
    if type(count) is not int or count < 1:
        file.fail(("tune", key), f"{key}={count!r} must be a whole number of at least 1.")
    return count


def _options(
    file: GridFile, name: str, values: Any, fixed: Mapping[str, Setting]
) -> list[Combination]:
    """The values of one tuned setting."""
    where = ("tune", name)
    file.named(where, name, (*SETTINGS, "seeds", "trials"), "setting")
    if name in fixed:
        problem = f"{name} is tuned and also set at {'.'.join(map(str, fixed[name].where))}; "
        file.fail(where, problem + "keep one.", key=True)
    if name in ("data", "preset"):
        problem = f"{name} cannot be tuned, as scores on other data or of another network do not "
        file.fail(where, problem + "compare; make it an axis.", key=True)
    if "match" in file.values and not name.startswith(TRAIN):
        problem = f"match: {file.values['match']} sets every variant's cost, which tuning {name} "
        file.fail(
            where, problem + f"could change; tune settings of training ({TRAIN}FIELD).", key=True
        )
    if not isinstance(values, list) or len(values) < 2:
        file.fail(where, f"{name} needs a list of at least two values to be tuned.")
    places = [(*where, i) for i in range(len(values))]
    found = [Setting(file.meant(at, name, v), at) for at, v in zip(places, values, strict=True)]
    for i, setting in enumerate(found):
        if setting.value in [other.value for other in found[:i]]:
            file.fail(setting.where, f"{name} has {setting.value!r} twice; keep one.")
    return [{name: setting} for setting in found]
