"""What a folder holds, as the report needs it: variants, runs, comparisons, noise, provenance."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.commands import command
from ablations.grid.costs import costs
from ablations.grid.deciding import margin_in, metrics_in
from ablations.grid.expect import Expectation, expectations
from ablations.grid.gridfile import GridError, GridFile
from ablations.report.labels import Metric, short_labels, short_values, varying_axes
from ablations.store.store import Result, Store, StoreError
from ablations.store.table import load
from analysis.results.effects import crossed, effects
from analysis.results.runs import val_of
from analysis.results.sequential import Design, looks
from analysis.results.statistics import compare, paired, t_interval, tested
from posmlp.clip_scores import score_files

COSTS = ("params", "gmacs")
_HOW_MADE = (
    *("environment", "worker", "timings", "data", "init_from", "init_sha256"),
    *("reused_from", "memory_steps"),
)
MOST_SHOWN = 40
"""Variants, beside the baseline, up to which a page shows all that it compares."""
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
    whole: Study | None = None
    """All variants, where these are the few of them that a page shows; see `shown`."""
    known: dict[Metric, pd.DataFrame | None] = field(default_factory=dict)
    """Comparisons that were made."""

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

    def shown(self) -> Study:
        """The same with the variants that a page shows: all, or of many the best and the worst.

        They are compared as among all, and keep their labels.
        """
        if len(self.labels) <= MOST_SHOWN:
            return self
        ids = {label: cell_id for cell_id, label in self.labels.items()}
        kept = [self.plan["baseline"], *(ids[label] for label in self._best_and_worst())]
        places = {cell_id: i for i, cell_id in enumerate(dict.fromkeys(kept))}
        cells = {cell["id"]: cell for cell in self.plan["cells"]}
        plan = self.plan | {"cells": [cells[cell_id] for cell_id in places]}
        if "trials" in plan:
            of = {i: places.get(cell["id"]) for i, cell in enumerate(self.plan["cells"])}
            trials = [t | {"of": of[t["of"]]} for t in plan["trials"]["cells"]]
            trials = [trial for trial in trials if trial["of"] is not None]
            plan |= {"trials": plan["trials"] | {"cells": trials}}
        runs = self.runs[self.runs["id"].isin(list(places))]
        runs = runs.sort_values("id", key=lambda found: found.map(places), kind="stable")
        return replace(self, plan=plan, runs=runs, whole=self, known={})

    def _best_and_worst(self) -> list[str]:
        """The labels of half of `MOST_SHOWN` from either end, the best first."""
        if not self.metrics:
            return list(self.labels.values())[:MOST_SHOWN]
        metric = self.metrics[0]
        means = metric.sign * self.done.groupby("label", sort=False)[metric.column].mean()
        order = means.dropna().sort_values(ascending=False, kind="stable").index.tolist()
        return [*order[: MOST_SHOWN // 2], *order[-MOST_SHOWN // 2 :]]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Of each cell by its id, baseline first."""
        if self.whole:
            return {cell["id"]: self.whole.labels[cell["id"]] for cell in self.plan["cells"]}
        found = short_labels(self.plan)
        return {self.plan["baseline"]: found.pop(self.plan["baseline"]), **found}

    @property
    def baseline(self) -> str:
        return self.labels[self.plan["baseline"]]

    @cached_property
    def axes(self) -> list[str]:
        return self.whole.axes if self.whole else varying_axes(self.plan)

    @cached_property
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

    @cached_property
    def metrics(self) -> list[Metric]:
        """Those that the grid compares and any finished run has; the first is the main one."""
        columns = self.done.columns[self.done.notna().any()]
        return [m for m in map(Metric, metrics_in(self.plan)) if m.column in columns]

    def margin_of(self, metric: Metric) -> float | None:
        """The largest difference that counts as none, in points or the metric's own unit."""
        return margin_in(self.plan, metric.of, self.margin)

    def design(self, metric: Metric) -> Design | None:
        """Of a grid whose seeds go on until the verdict; None for others."""
        if self.whole:
            return self.whole.design(metric)
        until, num_others = self.plan.get("until"), len(self.plan["cells"]) - 1
        if not until:
            return None
        return Design(looks(*until), num_others, self.margin_of(metric))

    @cached_property
    def costs(self) -> pd.DataFrame:
        """params, relation_params and gmacs of each variant whose cell file can be read."""
        if self.whole:
            return self.whole.costs.reindex(list(self.labels.values())).dropna()
        counted: dict[str, dict[str, float]] = {}
        of_models: dict[str, dict[str, float]] = {}
        for cell_id, label in self.labels.items():
            try:
                cell = self.store.cell(cell_id)
                model = json.dumps(cell["model"])
                if model not in of_models:  # of own code they are stored, as none runs here
                    config = self.store.configs(cell_id)[0]
                    of_models[model] = cell.get("costs") or costs(config)
                counted[label] = of_models[model]
            except StoreError as error:
                warnings.warn(f"{label} has no costs: {error}", stacklevel=2)
                continue
        return pd.DataFrame.from_dict(counted, orient="index", columns=[*COSTS, "relation_params"])

    def cost_ratios(self, label: str) -> dict[str, float]:
        """How many times the baseline's cost a variant has, of the costs that differ."""
        ratios = self._cost_ratios.get(label, {})
        return {name: ratio for name, ratio in ratios.items() if abs(ratio - 1) >= SAME_COST}

    @cached_property
    def _cost_ratios(self) -> dict[str, dict[str, float]]:
        if self.baseline not in self.costs.index:
            return {}
        ratios = self.costs[list(COSTS)] / self.costs.loc[self.baseline, list(COSTS)]
        return {str(label): row for label, row in ratios.to_dict("index").items()}

    def interval(self, label: str, metric: Metric) -> tuple[int, float, float, float]:
        """n, mean and 95% t-interval of a variant; NaN for what there is not."""
        return self._intervals[metric.column].get(label, (0, *(float("nan"),) * 3))

    @cached_property
    def _intervals(self) -> dict[str, dict[str, tuple[int, float, float, float]]]:
        """By column of a metric, then by label."""
        found: dict[str, dict[str, tuple[int, float, float, float]]] = {}
        for metric in self.metrics:
            runs = self.done[["label", metric.column]].dropna()
            values = runs.groupby("label", sort=False)[metric.column].agg(list)
            found[metric.column] = {
                str(label): (len(each), *t_interval(each)) for label, each in values.items()
            }
        return found

    def comparison(self, metric: Metric) -> pd.DataFrame | None:
        """Each variant against the baseline (`analysis.compare`); None without the baseline."""
        if metric not in self.known:
            self.known[metric] = self._compared(metric)
        return self.known[metric]

    def _compared(self, metric: Metric) -> pd.DataFrame | None:
        if self.whole:
            table = self.whole.comparison(metric)
            there = set() if table is None else set(table["label"])
            labels = [label for label in self.labels.values() if label in there]
            return None if table is None else table.set_index("label").loc[labels].reset_index()
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
            whole=metric.whole if metric.is_share and not metric.column.endswith("map") else None,
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
        table, factors = self.factors()
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

    def factors(self) -> tuple[pd.DataFrame, list[str]]:
        """The finished runs with a column a factor: axes that go together are one factor."""
        shown = pd.DataFrame({axis: short_values(self.plan, axis) for axis in self.axes})
        groups = factors_of(shown)
        table = self.done[["id", "label", "seed", *(m.column for m in self.metrics)]].copy()
        for group in groups:
            joined = shown[group].agg(" & ".join, axis=1)
            table[" & ".join(group)] = table["id"].map(joined)
        return table, [" & ".join(group) for group in groups]

    def in_settings(self) -> pd.DataFrame:
        """The runs of a grid that crosses gates with others, as `setting`, and `relation_params`.

        Those that have the baseline's gate and another, named by what that gate is called in them;
        empty for other grids.
        """
        runs, factors = self.factors()
        if "gate" not in factors or len(factors) < 2:
            return runs.iloc[:0].assign(setting="")
        setting = runs[[name for name in factors if name != "gate"]].agg(" & ".join, axis=1)
        params = runs["label"].map(self.costs["relation_params"])
        runs = runs.assign(setting=setting, relation_params=params)[params > 0]
        of_baseline = runs["gate"] == self.gate_of_baseline
        named = runs[of_baseline & (runs["label"] != self.baseline)]
        gates = runs.groupby("setting")["gate"].transform("nunique")
        runs = runs[(gates > 1) & runs["setting"].isin(runs.loc[of_baseline, "setting"])]
        return runs.replace({"setting": dict(zip(named["setting"], named["label"], strict=True))})

    @property
    def gate_of_baseline(self) -> str:
        return str(short_values(self.plan, "gate")[self.plan["baseline"]])

    def gate_differences(self, metric: Metric) -> pd.DataFrame:
        """Each gate against the baseline's in each setting, as `analysis.compare` gives them.

        A row a setting and gate, paired by seed, in points; p-values and verdicts are corrected
        for all rows (Holm), and the t-intervals are 95% each.
        """
        rows, margin = [], self.margin_of(metric)
        for setting, of_setting in self.in_settings().groupby("setting", sort=False):
            scores = of_setting.pivot(index="seed", columns="gate", values=metric.column)
            for gate in scores.columns.drop(self.gate_of_baseline):
                both = scores[[gate, self.gate_of_baseline]].to_numpy(float)
                row = paired(both, metric.sign, 0.95, margin)
                if row["n"] > 1:
                    rows.append({"setting": setting, "gate": gate, **row})
        table = tested(rows, "setting", margin, metric.points, metric.sign)
        table.insert(1, "gate", [row["gate"] for row in rows])
        return table

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
        score, table = metric.column.removeprefix("test_"), self._by_class
        score = "average_precision" if score == "map" else score
        by = "pair" if score == "within_pair" else "class"
        if not {score, by} <= set(table):
            return pd.DataFrame()
        means = 100 * table.dropna(subset=[by]).pivot_table(score, "label", by, sort=False)
        return means.reindex([label for label in self.labels.values() if label in means.index])

    def confusion(self, label: str) -> pd.DataFrame:
        """In percent of the row's class: how often its clips are taken for the column's.

        Over all seeds of classes.csv; empty where that tells no answers, or lacks a class.
        """
        table = self._by_class[self._by_class["label"] == label]
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

    @cached_property
    def made(self) -> list[Result]:
        """How each run and trial that ended was made; parts that are equal are kept once."""
        kept: dict[str, Any] = {}
        found = []
        stored = chain(self.store.results(self.plan), self.store.trials(self.plan))
        for result in (each for *_, each in stored if isinstance(each, dict)):
            parts = {key: result[key] for key in _HOW_MADE if result.get(key)}
            found.append({k: kept.setdefault(json.dumps(v), v) for k, v in parts.items()})
        return found

    @property
    def never_predicted(self) -> dict[str, list[str]]:
        """By label, the classes that no model of the variant takes any clip for."""
        table = self._by_class
        if "num_predicted" not in table:
            return {}
        most = table.groupby(["label", "class"], sort=False)["num_predicted"].max()
        found: dict[str, list[str]] = {}
        for label, name in most.index[most == 0]:
            found.setdefault(label, []).append(name)
        return found

    @cached_property
    def _by_class(self) -> pd.DataFrame:
        """The rows of classes.csv whose variant is here, with `label`; empty without that file."""
        text = self.store.table(self.store.classes_path)
        table = pd.read_csv(io.StringIO(text)) if text else pd.DataFrame(columns=["variant"])
        labels = {cell["name"]: self.labels[cell["id"]] for cell in self.plan["cells"]}
        return table.assign(label=table["variant"].map(labels)).dropna(subset=["label"])

    def score_files(self) -> Iterator[tuple[str, list[Path]]]:
        """What `posmlp eval RUN --out` wrote into a run's own folder, by label and seed."""
        for label, cell_id, seed in self._finished(self.labels.values()):
            if found := list(score_files(self.store.run_folder(cell_id, seed))):
                yield f"{label}, seed {seed}", found

    @cached_property
    def folds(self) -> str:
        """What seeds are tested on in turn, with the data's word for groups; else empty."""
        for _, cell_id, seed in self._finished(self.labels.values()):
            path = self.store.run_folder(cell_id, seed) / "config.json"
            with suppress(OSError, ValueError, KeyError):
                about = self.store.json(path)
                count, rule = about["train"]["folds"], about["data"]["test"].get("split_rule", "")
                groups = rule.rpartition("groups: ")[2]
                return f"{count} folds of whole groups ({groups})" if count else ""
        return ""

    def histories(self, labels: Collection[str]) -> pd.DataFrame:
        """The metrics by epoch of these variants' finished runs whose metrics.csv can be read.

        In percent.
        """
        parts = []
        for label, cell_id, seed in self._finished(labels):
            path = self.store.metrics_path(cell_id, seed)
            text = self.store.table(path)
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
        for _, cell_id, seed in self._finished([label]):
            path = self.store.run_folder(cell_id, seed) / f"model-seed{seed}.safetensors"
            if path.is_file():
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

    def _finished(self, labels: Collection[str]) -> list[tuple[str, str, int]]:
        """Label, cell and seed of each finished run of these variants."""
        runs = self.done[self.done["label"].isin(list(labels))]
        return list(zip(runs["label"], runs["id"], runs["seed"], strict=True))


def _read_history(text: str, path: Path) -> pd.DataFrame:
    """The rows of a metrics.csv; none where it is damaged."""
    try:
        rows = pd.read_csv(io.StringIO(text))
        rows["epoch"].astype(float)
    except (ValueError, KeyError) as error:
        warnings.warn(f"{path} has no curve, as it is damaged ({error})", stacklevel=2)
        return pd.DataFrame()
    return rows


def factors_of(cells: pd.DataFrame) -> list[list[str]]:
    """The axes of a plan's cells (a column each) in groups, each of which is one factor.

    Axes are one factor where they are not crossed, as windows that are listed together, if all
    factors then cross. Else they are where each value of one goes with one value of the other.
    """

    def grouped(most: Callable[[int, int], int]) -> list[list[str]]:
        groups: list[list[str]] = []
        for axis in cells:
            near = [g for g in groups if any(num(a, axis) <= most(num(a), num(axis)) for a in g)]
            others = [group for group in groups if group not in near]
            groups = [*others, [*chain.from_iterable(near), axis]]
        return groups

    def num(*axes: str) -> int:
        return len(cells[list(axes)].drop_duplicates())

    crossing = grouped(lambda a, b: a * b - 1)
    if len(crossing) > 1 and prod(num(*group) for group in crossing) == num(*cells):
        return crossing
    return grouped(min)
