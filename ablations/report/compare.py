"""Grids compared: what changed between two trainings of one cell, cells being joined by their axes.

The first folder is what the others are compared with. Cells are the same cell where all axes of the
two grids have the same values in them, whatever else their configs hold; ids tell whether that is
the same, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.grid.settings import TRAIN, difference, shown_value
from ablations.report.data import Study
from ablations.report.labels import Metric
from analysis.results.paired import t_interval, welch
from analysis.results.statistics import paired, tested

_MADE = (
    *("commit", "dirty", "device", "gpu", "num_threads", "host", "precision", "python"),
    *("torch", "numpy", "decord", "av"),
)
SAME_BITS = "the same to the last bit"
Key = tuple[str, ...]


def compare(folders: Sequence[str | Path]) -> pd.DataFrame:
    """What changed between the cells of the first folder and those of each other one.

    A folder is that of a run, or a published one. Cells are joined by the values of all axes of the
    two grids, and compared seed by seed, in finished runs; where no seed is shared, by Welch's
    test. The tests take the numbers of seeds as given, also where a grid stopped at its verdict.

    A row a metric that all compare, other folder and cell, shares in percent: metric, folder, cell;
    n (seeds of both, or the fewer runs of the two where none is shared), unpaired (runs without a
    partner), paired; before (the first folder's mean over these), mean (the other's), difference,
    its 95% interval (low, high), p, p_holm (corrected over all rows of the metric) and p_equal,
    p_equal_holm (that the difference lies within the first grid's `equal_within`); same_content
    (whether the ids are equal), recipe (what differs in the configs), verdict. A cell that one
    folder alone has finished has a row whose verdict says so.

    Raises ValueError for fewer than two folders, one without results, or no metric in common.
    """
    return Comparison.of(folders).table


@dataclass(frozen=True)
class _Grid:
    """A folder's finished cells, by the values of some axes."""

    study: Study
    cells: dict[Key, dict[str, Any]]

    @classmethod
    def of(cls, study: Study, axes: Sequence[str]) -> _Grid:
        ended = set(study.done["id"])
        cells = [cell for cell in study.plan["cells"] if cell["id"] in ended]
        return cls(study, {_key(study, cell, axes): cell for cell in cells})

    @property
    def name(self) -> str:
        return str(self.study.store.root)

    def label(self, key: Key) -> str:
        return self.study.labels[self.cells[key]["id"]]

    def stored(self, key: Key) -> dict[str, Any]:
        """What cell.json holds, and the id."""
        cell_id = self.cells[key]["id"]
        return {"id": cell_id, **self.study.store.cell(cell_id)}

    def runs(self, key: Key, metric: Metric) -> pd.Series:
        """A cell's values by seed."""
        done = self.study.done
        return done[done["id"] == self.cells[key]["id"]].set_index("seed")[metric.column].dropna()

    def made(self, keys: Sequence[Key]) -> dict[str, str]:
        """How the runs of these cells were made."""
        done = self.study.done
        done = done[done["id"].isin([self.cells[key]["id"] for key in keys])]
        values = {name: done[name].dropna().unique() for name in _MADE if name in done}
        return {
            name: ", ".join(sorted(str(value)[:12] for value in values.get(name, []))) or "-"
            for name in _MADE
        }


def _key(study: Study, cell: dict[str, Any], axes: Sequence[str]) -> Key:
    """A cell's values of the axes; of those that its own grid lacks, what its configs have."""
    config, train = study.store.configs(cell["id"])
    values = []
    for axis in axes:
        of, name = (train, axis.removeprefix(TRAIN)) if TRAIN in axis else (config, axis)
        value = getattr(of, name, cell["axes"].get(axis))
        if axis == "data":  # which may lie elsewhere
            value = study.store.cell(cell["id"])["data"]["identity"]
        values.append(shown_value(value))
    return tuple(values)


@dataclass(frozen=True)
class Comparison:
    """The first folder beside each of the others; `str()` is what a terminal shows."""

    table: pd.DataFrame
    pairs: tuple[tuple[_Grid, _Grid], ...]
    metrics: tuple[Metric, ...]

    @classmethod
    def of(cls, folders: Sequence[str | Path]) -> Comparison:
        """Read and compare. Raises ValueError as `compare` does."""
        if len(folders) < 2:
            raise ValueError(f"{len(folders)} folder is nothing to compare; give two or more")
        first, *others = [Study.open(folder) for folder in folders]
        pairs = []
        for other in others:
            axes = list(dict.fromkeys([*first.plan["axes"], *other.plan["axes"]]))
            pairs.append((_Grid.of(first, axes), _Grid.of(other, axes)))
        metrics = [m for m in first.metrics if all(m.column in each.done for each in others)]
        parts = [_compared(metric, pairs) for metric in metrics]
        if not parts:
            wanted = ", ".join(metric.column for metric in first.metrics)
            raise ValueError(f"{folders[0]} compares {wanted}, which not all others have")
        table = pd.concat([*parts, pd.DataFrame(_alone(pairs))], ignore_index=True)
        table = table.astype({"n": "Int64", "unpaired": "Int64"})
        return cls(table, tuple(pairs), tuple(metrics))

    def __str__(self) -> str:
        return "\n".join(line for pair in self.pairs for line in self._lines(*pair))

    def _lines(self, first: _Grid, other: _Grid) -> Iterator[str]:
        both = [key for key in first.cells if key in other.cells]
        same = sum(first.stored(key)["id"] == other.stored(key)["id"] for key in both)
        yield f"{first.name} -> {other.name}: {_cells(len(both))} in both, {same} with the same id"
        before, after = first.made(both), other.made(both)
        made = [f"{k} {v} -> {after[k]}" for k, v in before.items() if v != after[k]]
        if both:
            yield f"made differently: {'; '.join(made) or 'no'}"
        rows = self.table[self.table["folder"] == other.name]
        recipes = rows[rows["recipe"].fillna("") != ""].drop_duplicates("cell")
        for recipe, of in recipes.groupby("recipe", sort=False):
            cells = "all cells" if len(of) == len(both) else "; ".join(of["cell"])
            shown = re.sub(r"(sha256:.{12})[0-9a-f]+", r"\1", str(recipe))
            yield f"recipe: {shown} ({cells})"
        for metric in self.metrics:
            yield from _shown(rows[rows["metric"] == metric.column], metric)
        for verdict, of in rows[rows["metric"].isna()].groupby("verdict", sort=False):
            yield f"{verdict}: {'; '.join(of['cell'])}"


def _cells(count: int) -> str:
    return f"{count} cell" + "s" * (count != 1)


def _compared(metric: Metric, pairs: Sequence[tuple[_Grid, _Grid]]) -> pd.DataFrame:
    """The rows of a metric: each cell that both of a pair have."""
    margin = pairs[0][0].study.margin_of(metric)
    rows: list[dict[Any, Any]] = []
    about: list[dict[str, Any]] = []
    for first, other in pairs:
        for key in (key for key in first.cells if key in other.cells):
            runs = first.runs(key, metric), other.runs(key, metric)
            both = pd.concat([runs[1], runs[0]], axis=1).to_numpy(float)
            row = paired(both, metric.sign, 0.95, margin)
            if not row["n"] and all(len(each) for each in runs):
                row = welch(runs[1].to_numpy(float), runs[0].to_numpy(float), margin)
            shared = both[~np.isnan(both).any(axis=1)]
            old, new = (grid.stored(key) for grid in (first, other))
            about.append(
                {
                    "folder": other.name,
                    "paired": len(shared) > 0,
                    "same_content": old["id"] == new["id"],
                    "recipe": difference(old["identity"], new["identity"]),
                    "same_bits": len(shared) > 0 and (shared[:, 0] == shared[:, 1]).all(),
                }
            )
            rows.append({"cell": first.label(key), **row})
    table = tested(rows, "cell", margin, metric.points, metric.sign)
    beside = ["folder", "paired", "same_content", "recipe", "same_bits"]
    table = table.join(pd.DataFrame(about, columns=beside)).assign(metric=metric.column)
    table["before"] = table["mean"] - table["difference"]
    table.loc[table.pop("same_bits").astype(bool), "verdict"] = SAME_BITS
    equal = [name for name in ("p_equal", "p_equal_holm") if name in table]
    order = ["metric", "folder", "cell", "n", "unpaired", "paired", "before", "mean", "difference"]
    tests = ["low", "high", "p", "p_holm", *equal]
    return table[[*order, *tests, "same_content", "recipe", "verdict"]]


def _alone(pairs: Sequence[tuple[_Grid, _Grid]]) -> Iterator[dict[str, Any]]:
    """A row for each cell that one of a pair alone has finished."""
    for first, other in pairs:
        for grid, beside in ((first, other), (other, first)):
            for key in (key for key in grid.cells if key not in beside.cells):
                verdict = f"finished in {grid.name} alone"
                yield {"folder": other.name, "cell": grid.label(key), "verdict": verdict}


def _shown(rows: pd.DataFrame, metric: Metric) -> Iterator[str]:
    """A metric's rows as a table, and the mean of their differences."""
    if rows.empty:
        return
    kinds = rows["verdict"].str.split(",|:", regex=True).str[0].replace("cannot tell", "undecided")
    kinds = kinds.replace(["better", "worse"], "changed beyond noise")
    counts = ", ".join(f"{_cells(n)} {kind}" for kind, n in kinds.value_counts().items())
    yield f"{metric.short}{metric.percent}: {counts}"
    cells = [("cell", "seeds", "before", "after", "difference", "95% interval", "p", "verdict")]
    for row in rows.to_dict("records"):
        interval = f"{metric.change(row['low'])} to {metric.change(row['high'])}"
        cells.append(
            (
                *(row["cell"], f"{row['n']}{'' if row['paired'] else ' unpaired'}"),
                *(metric.value(row["before"]), metric.value(row["mean"])),
                metric.change(row["difference"]),
                interval if row["n"] > 1 else "-",
                f"{row['p_holm']:.2g}" if row["n"] > 1 else "-",
                row["verdict"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  " + "  ".join(map(str.ljust, line, widths)).rstrip()
    differences = rows["difference"].dropna()
    if len(differences) > 1:
        mean, low, high = t_interval(differences)
        interval = f"95% interval over cells {metric.change(low)} to {metric.change(high)}"
        yield f"  mean of {len(differences)} cells: {metric.change(mean)} ({interval})"
