"""What tuning found: scores against the tuned values, best values at an edge, verdicts untuned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ablations.grid.deciding import Metric as Column
from ablations.grid.deciding import metrics_in
from ablations.grid.settings import shown_value
from ablations.report.data import Study
from ablations.report.figures import MOST_COLOURS, Drawn, drawn
from ablations.report.labels import Metric
from ablations.report.tables import NOTHING
from ablations.store.store import Result, measured
from analysis.figures.style import colours, styled, wrapped
from analysis.results.statistics import compare

ARROWS = {"lowest": "↓", "highest": "↑"}
FAR_APART = 4.0
"""Values whose largest is this many times the smallest are drawn on a logarithmic axis."""


@dataclass
class Tuning:
    """The section: sentences, tables of text, and a figure for each tuned setting."""

    method: str
    edges: list[str]
    untuned: str
    chosen: pd.DataFrame
    """A row a variant: what was chosen, its score, and that of the base's values."""
    verdicts: pd.DataFrame
    """A row a variant but the baseline: its difference untuned, and as it was tuned."""
    trials: pd.DataFrame
    """A row a variant and combination of values."""
    figures: list[Drawn] = field(default_factory=list)


def tuning(study: Study) -> Tuning | None:
    """What the trials of a grid that tunes show; None for other grids, and until all have ended."""
    if "trials" not in study.plan or any(not cell["tuned"] for cell in study.plan["cells"]):
        return None
    table = _scores(study)
    edges = list(_edges(study, table))
    return Tuning(
        _method(study),
        [str(edge) for edge in edges],
        _untuned_in_words(study, table),
        _chosen(study, table, edges),
        _verdicts(study),
        _all_trials(study, table),
        [_figure(study, table, name, edges) for name in study.plan["trials"]["values"]],
    )


def _by(study: Study) -> Column:
    """The column that has chosen."""
    first = metrics_in(study.plan)[0]
    return Column(first.of_val, first.direction)


def _words(study: Study) -> str:
    """What has chosen, as a reader calls it."""
    return Metric(_by(study)).short


def _scores(study: Study) -> pd.DataFrame:
    """A row a variant and combination: label, values, score (mean over seeds), n, and marks.

    Shares are in percent. A combination that failed at a seed has no score.
    """
    by = _by(study)
    rows: dict[str, dict[str, Any]] = {}
    for trial, _, result in study.store.trials(study.plan):
        cell = study.plan["cells"][trial["of"]]
        row = rows.setdefault(
            trial["id"],
            {
                "label": study.labels[cell["id"]],
                **{name: _value(value) for name, value in trial["tuned"].items()},
                "untuned": trial["untuned"],
                "chosen": trial["tuned"] == cell["tuned"],
                "scores": [],
            },
        )
        row["scores"].append(_score(result, by.name, by.points))
    table = pd.DataFrame(rows.values())
    return table.assign(score=table["scores"].map(np.mean), n=table["scores"].map(len))


def _score(result: Result | str, column: str, points: float) -> float:
    """Of a training; NaN where it failed or cannot be read."""
    if isinstance(result, str) or result["status"] == "failed":
        return float("nan")
    return float(measured(result)[column]) / points


def _value(value: Any) -> Any:
    """A number, or the text of anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else shown_value(value)


def _method(study: Study) -> str:
    trials = study.plan["trials"]
    seeds = ", ".join(map(str, trials["seeds"]))
    count = len(trials["cells"]) // len(study.plan["cells"])
    return (
        f"Every variant had the same {count} trials of {', '.join(trials['values'])}, each at "
        f"seeds {seeds}. Its values were chosen by the mean {_words(study)} over "
        "these seeds. All other results of this page are of other seeds, at what was chosen."
    )


class Edge(NamedTuple):
    """A chosen number that is the lowest or highest that was tried."""

    label: str
    setting: str
    value: float
    end: str

    def __str__(self) -> str:
        way = "higher" if self.end == "highest" else "lower"
        return (
            f"{self.label} is best at {self.setting}={shown_value(self.value)}, the {self.end} "
            f"that was tried: its best may lie beyond. Add {way} values to tune, and run again."
        )


def _edges(study: Study, table: pd.DataFrame) -> Iterator[Edge]:
    """The chosen numbers that are an end of what was tried.

    0 is the end of every range of rates and shares, and no edge.
    """
    for name in study.plan["trials"]["values"]:
        if not pd.api.types.is_numeric_dtype(table[name]):
            continue
        for row in table[table["chosen"]].to_dict("records"):
            value = row[name]
            if value in (table[name].min(), table[name].max()) and value != 0:
                end = "highest" if value == table[name].max() else "lowest"
                yield Edge(row["label"], name, value, end)


def _chosen(study: Study, table: pd.DataFrame, edges: list[Edge]) -> pd.DataFrame:
    marks = {(e.label, e.setting): f" {ARROWS[e.end]} edge" for e in edges}
    names, by = list(study.plan["trials"]["values"]), _by(study)
    unit = " (%)" * by.is_share
    rows = []
    for label in study.labels.values():
        own = table[table["label"] == label]
        best, base = own[own["chosen"]].iloc[0], own[own["untuned"]]
        before = base["score"].iloc[0] if len(base) else np.nan
        row = {"variant": label}
        row |= {n: shown_value(best[n]) + marks.get((label, n), "") for n in names}
        row[f"{_words(study)}{unit}"] = _number(best["score"])
        row[f"untuned{unit}"] = _number(before)
        row["change"] = _signed(Metric(by), best["score"] - before)
        rows.append(row)
    return pd.DataFrame(rows)


def _number(value: float) -> str:
    return f"{value:.4g}" if value == value else NOTHING


def _all_trials(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    names = list(study.plan["trials"]["values"])
    shown = table[["label", *names]].map(shown_value).rename(columns={"label": "variant"})
    mark = np.where(table["chosen"], "chosen", np.where(table["untuned"], "untuned", ""))
    scores = [
        "failed at a seed" if np.isnan(each).any() else ", ".join(map(_number, each))
        for each in table["scores"]
    ]
    return shown.assign(**{"mean": table["score"].map(_number), "by seed": scores, "": mark})


def _untuned_in_words(study: Study, table: pd.DataFrame) -> str:
    at = table[table["untuned"]]
    if at.empty:
        return (
            "The base's own values are not among the trials, so what the verdicts would have been "
            "untuned is not known; list them under tune to see it."
        )
    values = ", ".join(
        f"{name}={shown_value(at[name].iloc[0])}" for name in study.plan["trials"]["values"]
    )
    return (
        f"Untuned, all variants would have had {values}. What the trials with these values would "
        f"have shown stands beside the verdicts of this page; they have {at['n'].iloc[0]} seeds."
    )


def _verdicts(study: Study) -> pd.DataFrame:
    """The comparison at the base's values, from the trials' seeds, beside that of the page."""
    if not study.metrics:
        return pd.DataFrame()
    metric = study.metrics[0]
    rows = []
    for trial, seed, result in study.store.trials(study.plan):
        if trial["untuned"]:
            score = _score(result, metric.column, metric.of.points)
            label = study.labels[study.plan["cells"][trial["of"]]["id"]]
            rows.append({"label": label, "seed": seed, metric.column: score})
    tuned = study.comparison(metric)
    if not rows or tuned is None:
        return pd.DataFrame()
    untuned = compare(
        pd.DataFrame(rows),
        study.baseline,
        metric.column,
        by="label",
        higher_is_better=metric.sign > 0,
        margin=study.margin_of(metric),
        unit=metric.points,
    )
    both = untuned.merge(tuned, on="label", suffixes=("_untuned", "_tuned"))
    shown = {"variant": both["label"]}
    for way in ("untuned", "tuned"):
        shown[f"Δ {metric.short} {way}"] = [
            _signed(metric, difference) for difference in both[f"difference_{way}"]
        ]
        shown[f"verdict {way}"] = both[f"verdict_{way}"]
    return pd.DataFrame(shown)


def _signed(metric: Metric, value: float) -> str:
    return metric.change(value) if value == value else NOTHING


def _figure(study: Study, table: pd.DataFrame, name: str, edges: list[Edge]) -> Drawn:
    at_edge = sum(edge.setting == name for edge in edges)
    found = f"{at_edge} of {len(study.labels)}" if at_edge else "none"
    title = f"{_words(study).capitalize()} against {name}: {found} best at an edge"
    axes = _draw(study, table, name, title)
    others = " Each point is the best over the other settings." * (
        len(study.plan["trials"]["values"]) > 1
    )
    caption = (
        f"Mean over the trials' seeds on validation clips; star: chosen; a combination that failed "
        f"at a seed has no point.{others}"
    )
    return drawn(f"tuning-{name.replace('.', '-')}", title, axes, caption)


@styled
def _draw(study: Study, table: pd.DataFrame, name: str, title: str) -> Axes:
    """The best score of each variant at each value of one setting; a star where it was chosen."""
    by, labels = _by(study), list(study.labels.values())
    ax = plt.subplots(figsize=(5.6, 3.6))[1]
    values = sorted(table[name].unique()) if _is_number(table, name) else list(table[name].unique())
    place = {value: value if _is_number(table, name) else i for i, value in enumerate(values)}
    hues = colours(labels, labels[:MOST_COLOURS])
    for label in labels:
        own = table[table["label"] == label].dropna(subset=["score"])
        best = own.loc[(by.sign * own["score"]).groupby(own[name]).idxmax()]
        best = best.assign(at=best[name].map(place)).sort_values("at")
        ax.plot(best["at"], best["score"], "o-", color=hues[label], markersize=3, label=label)
        star = own[own["chosen"]]
        ax.plot(star[name].map(place), star["score"], "*", color=hues[label], markersize=11)
    if not _is_number(table, name):
        ax.set_xticks(list(place.values()), list(place))
    elif min(values) > 0 and max(values) >= FAR_APART * min(values):
        ax.set_xscale("log")
        ax.set_xticks(values, [shown_value(value) for value in values])
        ax.minorticks_off()
    ax.set_xlabel(name)
    ax.set_ylabel(f"{_words(study)}{' (%)' * by.is_share}")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set_title(wrapped(title, 5.6))
    return ax


def _is_number(table: pd.DataFrame, name: str) -> bool:
    return bool(pd.api.types.is_numeric_dtype(table[name]))
