"""A compared metric in words and figures: what it is called, and how its values are written."""

from __future__ import annotations

from dataclasses import dataclass

from ablations.grid.deciding import Metric as Column

MINUS = "−"
_SPLITS = {"test": "", "val": "validation ", "train": "training "}
_SCORES = {"top1": "top-1", "top5": "top-5", "within_pair": "within-pair", "loss": "loss"}


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
        return f"{self.short} accuracy" if self.is_share else self.short

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

    def change(self, value: float) -> str:
        """A signed difference, with a true minus sign."""
        shown = (f"{value:+.1f}" if self.is_share else f"{value:+.3g}").replace("-", MINUS)
        return shown[1:] if not shown[1:].strip("0.") else shown

    def best(self, values: list[float]) -> float:
        return max(values, key=lambda value: self.sign * value)
