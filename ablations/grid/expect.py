"""What a grid file expects of its variants, in verdicts that a report can check.

expect:
  - {layout: S, verdict: worse}    # every cell with layout S, against the baseline
  - {layout: S, verdict: worse, metric: test_within_pair}
  - {gate: dense, layout: T+S, verdict: equal}

Without a metric it is the grid's first that is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.grid.deciding import metrics_of
from ablations.grid.gridfile import GridFile
from ablations.grid.settings import may_be_own, meant, shown_value
from posmlp.config_checks import one_of
from posmlp.own.names import bare, each_name

VERDICTS = ("better", "worse", "equal")


@dataclass(frozen=True)
class Expectation:
    """A verdict in a metric for every cell, the baseline aside, whose axes have these values."""

    axes: Mapping[str, Any]
    verdict: str
    metric: str

    def covers(self, axes: Mapping[str, Any]) -> bool:
        """Whether a cell with these values of its axes is meant; lists and tuples are one."""
        return all(shown_value(axes.get(name)) == shown_value(v) for name, v in self.axes.items())

    def __str__(self) -> str:
        where = " ".join(f"{name}={shown_value(value)}" for name, value in self.axes.items())
        return f"{where or 'every variant'} {self.verdict}"


def expectations(
    file: GridFile, axes: Sequence[str], cells: Sequence[Mapping[str, Any]]
) -> list[Expectation]:
    """What the file expects. Raises GridError where that is no verdict, or no cell has the values.

    `axes`: the grid's; `cells`: the values of each cell's axes, but the baseline's.
    """
    metrics = [metric.name for metric in metrics_of(file)]
    items = file.values.get("expect") or []
    if not isinstance(items, list):
        file.fail(("expect",), "expect needs a list (- {AXIS: VALUE, verdict: worse}).")
    return list(_expectations(file, items, metrics, axes, cells))


def _expectations(
    file: GridFile,
    items: list[Any],
    metrics: Sequence[str],
    axes: Sequence[str],
    cells: Sequence[Mapping[str, Any]],
) -> Iterator[Expectation]:
    for i, item in enumerate(items):
        where = ("expect", i)
        if not isinstance(item, dict) or "verdict" not in item:
            example = f"{{{axes[0] if axes else 'AXIS'}: VALUE, verdict: worse}}"
            file.fail(where, f"each expectation needs a verdict, for example {example}.")
        named = {name: value for name, value in item.items() if name not in ("verdict", "metric")}
        try:
            one_of(item["verdict"], VERDICTS, "verdict")
            one_of(item.get("metric", metrics[0]), metrics, "metric")
            for name in named:
                one_of(name, axes, "axis")
            values = {name: meant(name, value) for name, value in named.items()}
            own = {k: each_name(bare, v) for k, v in values.items() if may_be_own(k, v)}
            values |= own
        except ValueError as error:
            file.fail(where, f"{error}.")
        found = Expectation(values, item["verdict"], item.get("metric", metrics[0]))
        if not any(found.covers(cell) for cell in cells):
            problem = f"no cell beside the baseline has {found}; check its values against the axes."
            file.fail(where, problem)
        yield found
