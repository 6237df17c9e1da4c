"""Short names of variants, what they differ in and no more, and of metrics and their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablations.grid.deciding import Metric as Column
from ablations.grid.settings import shown_value

BETWEEN = " · "
MINUS = "−"
LONGEST = 34  # letters of a label
_SPLITS = {"test": "", "val": "validation ", "train": "training "}
_MEANINGS = {
    "_within_pair": "Within pairs: the share of clips whose class scores higher than the class of "
    "the same clip played backwards; guessing has 50%.",
    "_top1": "Top-1: the share of clips whose class scores highest.",
    "_map": "Mean average precision: of each class over all clips in the order of its scores.",
    "_top5": "Top-5: the share of clips whose class is among the five that score highest.",
}
_SCORES = {
    "top1": "top-1",
    "top5": "top-5",
    "within_pair": "within pairs",
    "loss": "loss",
    "map": "mAP",
}


def varying_axes(plan: Mapping[str, Any]) -> list[str]:
    """The axes in which the plan's cells differ, in the grid file's order."""
    return [
        axis
        for axis in plan["axes"]
        if len({shown_value(cell["axes"].get(axis)) for cell in plan["cells"]}) > 1
    ]


def short_labels(plan: Mapping[str, Any]) -> dict[str, str]:
    """Each cell's label by its id: `lrpe · T+S`; a full name where labels would not differ.

    A word stands alone, a number with its axis (`num_groups=8`) unless it is the only axis. Where
    labels would be long, they name what differs from the baseline.
    """
    axes = varying_axes(plan)
    baseline: Mapping[str, Any] = next(
        (cell["axes"] for cell in plan["cells"] if cell["id"] == plan.get("baseline")), {}
    )
    shown = {axis: short_values(plan, axis) for axis in axes}

    def part(axis: str, value: Any, text: str) -> str:
        alone = len(axes) == 1 or (isinstance(value, str) and not text.isdigit())
        return text if alone else f"{axis.rpartition('.')[2]}={text}"

    def label(cell: Mapping[str, Any], axes: list[str]) -> str:
        parts = (part(each, cell["axes"].get(each), shown[each][cell["id"]]) for each in axes)
        return BETWEEN.join(filter(None, parts))  # a setting may be empty, such as init_from

    labels = {cell["id"]: label(cell, axes) for cell in plan["cells"]}
    if max(map(len, labels.values())) > LONGEST:
        for cell in plan["cells"]:
            changed = [axis for axis in axes if cell["axes"].get(axis) != baseline.get(axis)]
            labels[cell["id"]] = label(cell, changed or axes)
    if len(set(labels.values())) < len(labels) or "" in labels.values():
        return {cell["id"]: cell["name"] for cell in plan["cells"]}
    return labels


def short_values(plan: Mapping[str, Any], axis: str) -> dict[str, str]:
    """Each cell's value of an axis by its id, without the name or folder that all begin with."""
    values = {cell["id"]: short_value(cell["axes"].get(axis)) for cell in plan["cells"]}
    heads = {re.sub(r"[^:/]*$", "", value) for value in values.values()}
    num_shared = len(heads.pop()) if len(heads) == 1 else 0
    return {cell_id: value[num_shared:] for cell_id, value in values.items()}


def short_value(value: Any) -> str:
    """A setting's value; of a list whose values are all one, that one."""
    if isinstance(value, list | tuple):
        items = [shown_value(item) for item in value]
        return items[0] if len(set(items)) == 1 else ",".join(items)
    return shown_value(value)


@dataclass(frozen=True)
class Metric:
    """A column that a grid compares. Shares are written in percent, their differences in points."""

    of: Column

    @property
    def column(self) -> str:
        return self.of.name

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is."""
        return self.of.sign

    @property
    def is_share(self) -> bool:
        return self.of.is_share

    @property
    def whole(self) -> float:
        """What a stored value is multiplied by: 100 for a share."""
        return 100.0 if self.is_share else 1.0

    @property
    def short(self) -> str:
        """What a table's head has room for."""
        split, _, score = self.column.partition("_")
        if split in _SPLITS and score:
            return _SPLITS[split] + _SCORES.get(score, score.replace("_", " "))
        return self.column.replace("_", " ")

    @property
    def name(self) -> str:
        """What a sentence says: `top-1 on test clips`."""
        return self.of.words

    @property
    def meaning(self) -> str:
        """What a reader should know who meets it for the first time; empty for metrics unknown."""
        return next((words for end, words in _MEANINGS.items() if self.column.endswith(end)), "")

    @property
    def is_within_pair(self) -> bool:
        return self.column.endswith("within_pair")

    @property
    def slug(self) -> str:
        """What file names hold."""
        return self.short.replace(" ", "-")

    @property
    def points(self) -> str:
        """The unit of a difference, with a space before it."""
        return " points" if self.is_share else ""

    @property
    def percent(self) -> str:
        """The unit of a value, for the heads of columns and axes."""
        return " (%)" if self.is_share else ""

    def value(self, value: float) -> str:
        """A value without its unit."""
        return f"{value:.1f}" if self.is_share else f"{value:.4g}"

    def full(self, value: float) -> str:
        """A value with its unit."""
        return self.value(value) + "%" * self.is_share

    def said(self, value: float) -> str:
        """A value with what it is of: `75.0% top-1 on test clips`, `loss on test clips 1.2`."""
        both = (self.full(value), self.name) if self.is_share else (self.name, self.full(value))
        return " ".join(both)

    def change(self, value: float) -> str:
        """A signed difference, with a true minus sign."""
        shown = (f"{value:+.1f}" if self.is_share else f"{value:+.3g}").replace("-", MINUS)
        return shown[1:] if not shown[1:].strip("0.") else shown
