"""What a folder holds, as the report needs it: variants, runs, comparisons, noise, provenance."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.commands import command
from ablations.grid.deciding import margin_in, metrics_in
from ablations.grid.expect import Expectation, expectations
from ablations.grid.gridfile import GridError, GridFile
from ablations.report.labels import Metric, short_labels, short_values, varying_axes
from ablations.store.store import Result, Store, StoreError
from ablations.store.table import load
from analysis.cost.costs import counts
from analysis.results.effects import crossed, effects
from analysis.results.runs import val_of
from analysis.results.sequential import Design, looks
from analysis.results.statistics import compare, t_interval

COSTS = ("params", "gmacs")
SAME_COST = 0.05
"""Costs that differ by less than this share count as equal."""


@dataclass(frozen=True)
class Study:
    """One ablation's folder. Shares are in percent throughout: their differences are points."""

    store: Store
    plan: dict[str, Any]
    runs: pd.DataFrame
    """A row a finished or failed run, baseline first, with `label`; no metrics where it failed."""
    repeats: pd.DataFrame
    """Runs made a second time under the same seed."""
    margin: float | None = None
    """The largest difference that counts as none, if other than the grid's."""

    @classmethod
    def open(cls, root: str | Path, margin: float | None = None) -> Study:
        """Read a folder. Raises ValueError if it holds no ablation, or nothing has ended there."""
        store = Store(root)
        plan, table = store.plan(), load(root, repeats=True)
        if table.empty:
            raise ValueError(f"no run in {root} has ended yet; see: {command('status', root)}")
        table = table.assign(label=table["id"].map(short_labels(plan)))
        for metric in map(Metric, metrics_in(plan)):
            if metric.column in table:
                done = table[metric.column].where(table["status"] == "done").astype(float)
                table[metric.column] = metric.whole * done
        table = table.sort_values("baseline", ascending=False, kind="stable")
        table.attrs = {"compares": {"metrics": {}, "seeds": plan["seeds"]}}
        again = table["repeat"] == 1
        return cls(store, plan, table[~again], table[again], margin)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Of each cell by its id, baseline first."""
        found = short_labels(self.plan)
        return {self.plan["baseline"]: found.pop(self.plan["baseline"]), **found}

    @property
    def baseline(self) -> str:
        return self.labels[self.plan["baseline"]]

    @property
    def axes(self) -> list[str]:
        return varying_axes(self.plan)

    @property
    def done(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "done"]

    @property
    def failed(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "failed"]

    @property
    def expectations(self) -> list[Expectation]:
        """What the grid file expects in verdicts; none if the file is lost or damaged."""
        path = self.store.root / "grid.yaml"
        if not path.is_file():
            return []
        cells = [cell["axes"] for cell in self.plan["cells"]]
        try:
            return expectations(GridFile.read(path), self.plan["axes"], cells)
        except GridError as error:
            warnings.warn(f"the report has no expectations: {error}", stacklevel=2)
            return []

    @property
    def num_declared(self) -> int:
        return sum(len(self.seeds_of(cell)) for cell in self.plan["cells"])

    def seeds_of(self, cell: dict[str, Any]) -> list[int]:
        """Those that a cell was asked for so far."""
        return list(self.plan["seeds"][: cell.get("num_seeds")])

    @property
    def metrics(self) -> list[Metric]:
        """Those that the grid compares and any finished run has; the first is the main one."""
        columns = self.done.columns[self.done.notna().any()]
        return [m for m in map(Metric, metrics_in(self.plan)) if m.column in columns]

    def margin_of(self, metric: Metric) -> float | None:
        """The largest difference that counts as none, in points or the metric's own unit."""
        return margin_in(self.plan, metric.of, self.margin)

    def design(self, metric: Metric) -> Design | None:
        """Of a grid whose seeds go on until the verdict; None for others."""
        until, num_others = self.plan.get("until"), len(self.plan["cells"]) - 1
        if not until:
            return None
        return Design(looks(*until), num_others, self.margin_of(metric))

    @cached_property
    def costs(self) -> pd.DataFrame:
        """params, relation_params and gmacs of each variant whose cell file can be read."""
        counted: dict[str, dict[str, float]] = {}
        for cell_id, label in self.labels.items():
            try:
                counted[label] = counts(self.store.configs(cell_id)[0])
            except StoreError as error:
                warnings.warn(f"{label} has no costs: {error}", stacklevel=2)
                continue
        return pd.DataFrame.from_dict(counted, orient="index", columns=[*COSTS, "relation_params"])

    def cost_ratios(self, label: str) -> dict[str, float]:
        """How many times the baseline's cost a variant has, of the costs that differ."""
        if self.baseline not in self.costs.index or label not in self.costs.index:
            return {}
        ratios = self.costs.loc[label, list(COSTS)] / self.costs.loc[self.baseline, list(COSTS)]
        return {name: ratio for name, ratio in ratios.items() if abs(ratio - 1) >= SAME_COST}

    def interval(self, label: str, metric: Metric) -> tuple[int, float, float, float]:
        """n, mean and 95% t-interval of a variant; NaN for what there is not."""
        runs = self.done.loc[self.done["label"] == label, metric.column].dropna()
        mean, low, high = t_interval(runs) if len(runs) else (float("nan"),) * 3
        return len(runs), mean, low, high

    def comparison(self, metric: Metric) -> pd.DataFrame | None:
        """Each variant against the baseline (`analysis.compare`); None without the baseline."""
        if not self.interval(self.baseline, metric)[0]:
            return None
        return compare(
            self.runs,
            self.baseline,
            metric.column,
            by="label",
            higher_is_better=metric.sign > 0,
            margin=self.margin_of(metric),
            unit=metric.points,
            whole=metric.whole if metric.is_share else None,
            design=self.design(metric),
        )

    def effects(self, metric: Metric) -> pd.DataFrame:
        """Main effects and interactions. Raises ValueError with why the design has none."""
        if self.plan["design"] != "full":
            raise ValueError(
                "The design varies one axis at a time from the baseline. The differences above are "
                "the effects of each axis there; how axes act together cannot be known from it."
            )
        if self.plan.get("until"):
            raise ValueError(
                "Seeds went on until each comparison had its verdict, so results chose how many "
                "there are, and intervals of effects over them would be too narrow. The "
                "differences above hold at every look."
            )
        table, factors = self._factors()
        if len(factors) < 2:
            raise ValueError(
                "Only one thing varies, so the differences above are its effects; there is nothing "
                "for it to act together with."
            )
        kept = crossed(table, factors)
        factors = [name for name in factors if kept[name].nunique() > 1]
        if len(factors) < 2:
            raise ValueError(
                "The cells that have finished form no full grid of two axes or more, so effects of "
                "single axes cannot be told from those of the others."
            )
        try:
            found = effects(
                kept, factors, metric.column, margin=self.margin_of(metric), unit=metric.points
            )
        except ValueError as error:
            raise ValueError(f"They cannot be estimated: {error}.") from error
        sentences = found["sentence"].str.replace(metric.column, metric.name, regex=False)
        left_out = sorted(set(table["label"]) - set(kept["label"]))
        return found.assign(sentence=sentences, left_out=", ".join(left_out))

    def _factors(self) -> tuple[pd.DataFrame, list[str]]:
        """The finished runs with a column a factor: axes that move together are one factor."""
        shown = pd.DataFrame({axis: short_values(self.plan, axis) for axis in self.axes})
        groups: list[list[str]] = []
        for axis in self.axes:
            group = next((g for g in groups if _move_together(shown[g[0]], shown[axis])), None)
            if group is None:
                groups.append([axis])
            else:
                group.append(axis)
        table = self.done[["id", "label", "seed", *(m.column for m in self.metrics)]].copy()
        for group in groups:
            joined = shown[group].agg(" & ".join, axis=1)
            table[" & ".join(group)] = table["id"].map(joined)
        return table, [" & ".join(group) for group in groups]

    def noise(self, metric: Metric) -> list[float]:
        """Differences, in points, between two runs of one cell at one seed."""
        if self.repeats.empty or metric.column not in self.repeats:
            return []
        both = self.repeats.merge(self.done, on=["id", "seed"], suffixes=("_again", ""))
        differences = both[f"{metric.column}_again"] - both[metric.column]
        return differences.dropna().abs().tolist()

    def classes(self, metric: Metric) -> pd.DataFrame:
        """Means by class, or by pair of reversed classes: a row a variant, a column a class.

        From classes.csv, which `analysis.results.class_accuracy` writes; empty without it.
        """
        table, score = self._classes, metric.column.removeprefix("test_")
        by = "pair" if score == "within_pair" else "class"
        if not {score, by} <= set(table):
            return pd.DataFrame()
        table = table.dropna(subset=[by])
        means = 100 * table.pivot_table(score, "label", by, sort=False)
        return means.reindex([label for label in self.labels.values() if label in means.index])

    @cached_property
    def _classes(self) -> pd.DataFrame:
        """classes.csv with the variants' labels; empty where there is none."""
        text = self.store.table(self.store.classes_path)
        table = pd.read_csv(io.StringIO(text)) if text else pd.DataFrame({"variant": []})
        labels = {cell["name"]: self.labels[cell["id"]] for cell in self.plan["cells"]}
        return table.assign(label=table["variant"].map(labels)).dropna(subset=["label"])

    def confusion(self, label: str) -> pd.DataFrame:
        """In percent of the row's class: how often its clips are taken for the column's.

        Over all seeds of classes.csv; empty where that tells no answers, or lacks a class.
        """
        table = self._classes[self._classes["label"] == label]
        if "answers" not in table or table["answers"].isna().any() or table.empty:
            return pd.DataFrame()
        counts = pd.DataFrame(
            [[int(count) for count in each.split()] for each in table["answers"]],
            index=table["class"],
        )
        counts = counts.groupby(level=0, sort=False).sum()
        if counts.shape[0] != counts.shape[1]:
            return pd.DataFrame()
        counts.columns = counts.index
        return 100 * counts.div(counts.sum(axis=1), axis=0)

    def results(self) -> Iterator[tuple[str, int, Result]]:
        """The stored result of each run that ended, as label, seed, result."""
        for cell, seed, result in self.store.results(self.plan):
            if isinstance(result, dict):
                yield self.labels[cell["id"]], seed, result

    def histories(self) -> pd.DataFrame:
        """The metrics by epoch of every finished run whose metrics.csv can be read, in percent."""
        parts = []
        for label, seed, result in self.results():
            path = self.store.metrics_path(result["cell"], seed)
            text = self.store.table(path) if result["status"] == "done" else None
            if text is not None:
                rows = _read_history(text, path)
                rows = rows[rows["seed"] == seed] if "seed" in rows else rows.assign(seed=seed)
                parts.append(rows.assign(label=label))
        if not parts:
            return pd.DataFrame()
        table = pd.concat(parts, ignore_index=True)
        for metric in map(Metric, metrics_in(self.plan)):
            for name in {metric.column, val_of(metric.column)} & set(table):
                table[name] *= metric.whole
        return table

    def model_path(self, label: str) -> Path | None:
        """The kept model of a variant's first finished seed."""
        for found, seed, result in self.results():
            path = self.store.run_folder(result["cell"], seed) / f"model-seed{seed}.safetensors"
            if found == label and result["status"] == "done" and path.is_file():
                return path
        return None

    def best_run(self) -> tuple[str, int, Path] | None:
        """Label, seed and folder of the finished run with the best score whose model is kept."""
        if not self.metrics:
            return None
        metric = self.metrics[0]
        runs = self.done.dropna(subset=[metric.column])
        order = (metric.sign * runs[metric.column]).sort_values(ascending=False, kind="stable")
        for row in runs.loc[order.index].to_dict("records"):
            folder = self.store.run_folder(row["id"], row["seed"])
            if (folder / f"model-seed{row['seed']}.safetensors").is_file():
                return row["label"], row["seed"], folder
        return None


def _read_history(text: str, path: Path) -> pd.DataFrame:
    """The rows of a metrics.csv; none where it is damaged."""
    try:
        rows = pd.read_csv(io.StringIO(text))
        rows["epoch"].astype(float)
    except (ValueError, KeyError) as error:
        warnings.warn(f"{path} has no curve, as it is damaged ({error})", stacklevel=2)
        return pd.DataFrame()
    return rows


def _move_together(first: pd.Series, second: pd.Series) -> bool:
    """Whether each value of one goes with one value of the other, both ways."""
    pairs = pd.concat([first, second], axis=1).drop_duplicates()
    return len(pairs) == first.nunique() == second.nunique()
