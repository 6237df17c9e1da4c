"""What tuning found: scores against the tuned values, best values at an edge, verdicts untuned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ablations.grid.deciding import Metric as Column
from ablations.grid.settings import shown_value
from ablations.report.data import POINTS, Study
from ablations.report.figures import MOST_COLOURS, Drawn, drawn
from ablations.report.words import points
from ablations.store.store import measured
from analysis.figures.style import colours, styled, wrapped
from analysis.results.statistics import compare

NOTHING = "–"
EDGE = {"lowest": "↓", "highest": "↑"}
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
        [_edge_in_words(study, *edge) for edge in edges],
        _untuned_in_words(study, table),
        _chosen(study, table, edges),
        _verdicts(study),
        _all_trials(study, table),
        [_figure(study, table, name) for name in study.plan["trials"]["values"]],
    )


def _by(study: Study) -> Column:
    """The column that has chosen."""
    return Column(study.plan["trials"]["by"], study.plan["trials"]["direction"])


def _scores(study: Study) -> pd.DataFrame:
    """A row a variant and combination: label, values, score (mean over seeds), n, and marks.

    Shares are in percent. A combination that failed at a seed has no score.
    """
    by, rows = _by(study), {}
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
        done = isinstance(result, dict) and result["status"] == "done"
        row["scores"].append(measured(result)[by.name] / by.points if done else np.nan)
    table = pd.DataFrame(rows.values())
    return table.assign(score=table["scores"].map(np.mean), n=table["scores"].map(len))


def _value(value: Any) -> Any:
    """A number, or the text of anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else shown_value(value)


def _method(study: Study) -> str:
    trials, by = study.plan["trials"], _by(study)
    seeds = ", ".join(map(str, trials["seeds"]))
    count = len(trials["cells"]) // len(study.plan["cells"])
    return (
        f"Every variant had the same {count} trials of {', '.join(trials['values'])}, each at seeds "
        f"{seeds}. Its values were chosen by the mean of {by.name} over these seeds. All other "
        "results of this page are of other seeds, at the values that were chosen."
    )


def _edges(study: Study, table: pd.DataFrame) -> Iterator[tuple[str, str, Any, str]]:
    """Each chosen number that is the lowest or highest tried: variant, setting, value, which end.

    0 is the end of every range of rates and shares, and no edge.
    """
    for name in study.plan["trials"]["values"]:
        if not pd.api.types.is_numeric_dtype(table[name]):
            continue
        for row in table[table["chosen"]].to_dict("records"):
            value = row[name]
            if value in (table[name].min(), table[name].max()) and value != 0:
                yield row["label"], name, value, EDGE_OF[value == table[name].max()]


EDGE_OF = ("lowest", "highest")


def _edge_in_words(study: Study, label: str, name: str, value: Any, end: str) -> str:
    way = "higher" if end == "highest" else "lower"
    return (
        f"{label} is best at {name}={shown_value(value)}, the {end} that was tried: its best may "
        f"lie beyond. Add {way} values to tune, and run again."
    )


def _chosen(study: Study, table: pd.DataFrame, edges: list[tuple[str, str, Any, str]]) -> pd.DataFrame:
    marks = {(label, name): f" {EDGE[end]} edge" for label, name, _, end in edges}
    names, by = list(study.plan["trials"]["values"]), _by(study)
    unit = " (%)" * by.is_share
    rows = []
    for label in study.labels.values():
        own = table[table["label"] == label]
        best, base = own[own["chosen"]].iloc[0], own[own["untuned"]]
        before = base["score"].iloc[0] if len(base) else np.nan
        gain = by.sign * (best["score"] - before)
        row = {"variant": label}
        row |= {n: shown_value(best[n]) + marks.get((label, n), "") for n in names}
        row[f"{by.name}{unit}"] = _number(best["score"])
        row[f"untuned{unit}"] = _number(before)
        row["gain"] = points(gain) if gain == gain else NOTHING
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
        if trial["untuned"] and isinstance(result, dict):
            done = result["status"] == "done"
            score = 100 * measured(result).get(metric.column, np.nan) if done else np.nan
            label = study.labels[study.plan["cells"][trial["of"]]["id"]]
            rows.append({"label": label, "seed": seed, metric.column: score})
    tuned = study.comparison(metric)
    if not rows or tuned is None:
        return pd.DataFrame()
    untuned = compare(
        pd.DataFrame(rows), study.baseline, metric.column, by="label", margin=study.margin,
        unit=POINTS,
    )  # fmt: skip
    both = untuned.merge(tuned, on="label", suffixes=("_untuned", "_tuned"))
    return pd.DataFrame(
        {
            "variant": both["label"],
            **{
                f"{head} {metric.short} {way}": both[f"{column}_{way}"].map(form)
                for way in ("untuned", "tuned")
                for head, column, form in (("Δ", "difference", _points), ("verdict,", "verdict", str))
            },
        }
    )


def _points(value: float) -> str:
    return points(value) if value == value else NOTHING


def _figure(study: Study, table: pd.DataFrame, name: str) -> Drawn:
    by = _by(study)
    title = f"{by.name} against {name}"
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
    ax.set_ylabel(f"{by.name}{' (%)' * by.is_share}")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set_title(wrapped(title, 5.6))
    return ax


def _is_number(table: pd.DataFrame, name: str) -> bool:
    return bool(pd.api.types.is_numeric_dtype(table[name]))
