"""The report's figures, each a PNG with a title that says what it shows and a caption."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ablations.report.data import MOST_SHOWN, Study
from ablations.report.labels import Metric
from ablations.report.words import label_key
from analysis.results.draw_comparison import draw_differences, tally
from analysis.results.draw_learning import draw_learning_curves
from analysis.results.draw_results import draw_accuracy, draw_cost_accuracy, draw_cost_pairs
from analysis.results.runs import pareto

MOST_COLOURS = 8
NAMED_AMONG_MANY = 4  # names beside points; more would lie on each other
DPI = 160
SHARE = (0.0, 100.0)
CHANCE_WITHIN_PAIR = 50.0
COSTS = {
    "params": "parameters",
    "gmacs": "multiply-adds",
    "train_seconds": "training time",
}


class Drawn(NamedTuple):
    """A figure of the page; `name` is that of its file, `width` in pixels of the page."""

    name: str
    title: str
    caption: str
    png: bytes
    width: int

    @property
    def source(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def drawn(name: str, title: str, axes: Any, caption: str = "") -> Drawn:
    """A matplotlib figure, or the Axes of one, as it stands on the page; it is closed."""
    figure = axes if isinstance(axes, Figure) else axes.figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    plt.close(figure)
    png = buffer.getvalue()
    pixels = int.from_bytes(png[16:20], "big")  # the width, in the PNG header
    return Drawn(name, title, caption, png, round(pixels * 96 / DPI))


def highlighted(study: Study, metric: Metric) -> list[str]:
    """The variants that get a colour: all, or of many the baseline, the best and the worst."""
    means = study.done.groupby("label", sort=False)[metric.column].mean().dropna()
    if len(means) <= MOST_COLOURS:
        return means.index.tolist()
    ordered = means.sort_values(ascending=metric.sign < 0).index.tolist()
    chosen = [study.baseline, *ordered[:4], *ordered[-2:]]
    return [label for label in dict.fromkeys(chosen) if label in means.index]


def differences(study: Study, metric: Metric, table: pd.DataFrame | None) -> Iterator[Drawn]:
    """Each variant's paired difference to the baseline."""
    if table is None or table.empty or table["difference"].isna().all():
        return
    of_all = (study.whole or study).comparison(metric)
    assert of_all is not None
    title = f"{metric.name.capitalize()} against {study.baseline}: {tally(of_all['verdict'])}"
    axes = draw_differences(
        table.rename(columns={"label": "variant"}),
        margin=study.margin_of(metric),
        unit=metric.points,
        title=title,
    )
    caption = (
        f"{'Points of percent, p' if metric.is_share else 'P'}aired by seed. A thin bar that "
        "crosses 0 leaves the sign open. Colours are verdicts after correction for all comparisons"
    )
    caption += "; shaded: differences that count as none." if study.margin_of(metric) else "."
    key = f" Labels: {label_key(study)}." if len(study.axes) > 1 else ""
    yield drawn(f"difference-{metric.slug}", title, axes, caption + key + of_how_many(study))


def accuracies(study: Study, metric: Metric) -> Iterator[Drawn]:
    """Each variant's mean, interval and seeds."""
    runs = _named(study, metric)
    order = "does-it-see-the-order-of-frames"
    named = f"{metric.name}{metric.percent}"
    if metric.is_within_pair:
        axes = draw_accuracy(
            runs, metric=named, chance=CHANCE_WITHIN_PAIR, bounds=SHARE,
            title="Does it see the order of frames?",
        )  # fmt: skip
        caption = (
            "Share of clips whose true class outscores the class of the same clip played "
            "backwards. A model blind to the order of frames is at exactly 50%."
        )
        yield drawn(order, "Does it see the order of frames?", axes, caption + of_how_many(study))
        return
    title = metric.name.capitalize()
    axes = draw_accuracy(runs, metric=named, bounds=SHARE if metric.is_share else None, title=title)
    name = "accuracy" if metric.short == "top-1" else metric.column
    yield drawn(name, title, axes, of_how_many(study).strip())


def learning_curves(study: Study, histories: pd.DataFrame, metric: Metric) -> Iterator[Drawn]:
    """The metric by epoch, as far as the runs' histories are kept."""
    if metric.column not in histories:
        return
    chosen = highlighted(study, metric)
    title = f"{metric.name.capitalize()} by epoch"
    axes = draw_learning_curves(
        histories, metric=metric.column, by="label", highlight=chosen, title=title
    )
    clips = axes.get_ylabel().replace(metric.column.removeprefix("test_"), "")
    axes.set_ylabel(f"{metric.name}{metric.percent}: {clips.replace('_', '')}")
    yield drawn(f"learning-curves-{metric.slug}", title, axes, _others(study, chosen).strip())


def costs(study: Study, metric: Metric) -> Iterator[Drawn]:
    """Accuracy against each cost, with the front that no variant beats."""
    whole = study.whole or study
    runs, named = _named(whole, metric), f"{metric.short}{metric.percent}"
    for name in ("params", "gmacs"):
        runs[name] = runs["variant"].map(whole.costs[name])
    chosen = highlighted(study, metric)
    chosen = chosen if len(chosen) == study.done["label"].nunique() else chosen[:NAMED_AMONG_MANY]
    for name, words in COSTS.items():
        known = runs[runs[name].notna() & runs[named].notna()]
        if known.empty:
            continue
        if study.whole:
            means = known.groupby("variant").agg({name: "median", named: "mean"}).reset_index()
            front = pareto(means, name, named)["variant"] if metric.sign > 0 else []
            known = known[known["variant"].isin([*study.labels.values(), *front])]
        title = f"{metric.short.capitalize()} against {words}"
        axes = draw_cost_accuracy(
            known,
            x=name,
            y=named,
            front=metric.sign > 0,
            highlight=chosen,
            bounds=SHARE if metric.is_share else None,
            title=title,
        )
        front = "Grey line: the best mean to be had at each cost." * (metric.sign > 0)
        caption = (front + _others(study, chosen)).strip()
        yield drawn(f"cost-{name}", title, axes, caption)


def gates_in_settings(study: Study, metric: Metric) -> Iterator[Drawn]:
    """Of a grid that crosses gates with other settings: what each relation costs, and scores."""
    runs = study.in_settings()
    if runs["setting"].nunique() < 2:
        return
    named = f"{metric.short}{metric.percent}"
    title = f"{metric.short.capitalize()} against parameters of the relations"
    axes = draw_cost_pairs(
        runs.rename(columns={metric.column: named}),
        y=named,
        bounds=SHARE if metric.is_share else None,
        title=title,
    )
    caption = (
        "A line joins the gates in one setting. Where it rises to the right, the relation with "
        "more parameters scores more."
    )
    for row in study.gate_differences(metric).itertuples():
        between = f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
        caption += f" {row.gate} in {row.setting}: {between}, {row.verdict}."
    caption += (
        " Differences to the baseline's gate are paired by seed; each interval is 95%, and the "
        "verdicts are corrected for all of them (Holm)."
    )
    yield drawn("cost-relations", title, axes, caption)


def along_numbers(study: Study, metric: Metric) -> Iterator[Drawn]:
    """Of a grid that crosses an axis of numbers with other settings: the scores along it."""
    runs, factors = study.factors()
    for axis in study.axes:
        numbers = {cell["id"]: cell["axes"][axis] for cell in study.plan["cells"]}
        others = [name for name in factors if name != axis]
        if axis not in factors or not others or not _are_many_numbers(numbers.values()):
            continue
        name = axis.rpartition(".")[2]
        shown = f"{metric.short}{metric.percent}"
        line = runs[others].agg(" & ".join, axis=1)
        lines = runs.assign(
            line=line, **{name: runs["id"].map(numbers), shown: runs[metric.column]}
        )
        title = f"{metric.short.capitalize()} by {name}"
        axes = draw_learning_curves(lines, metric=shown, by="line", x=name, title=title)
        yield drawn(f"along-{name}", title, axes)


def _are_many_numbers(values: Collection[Any]) -> bool:
    """Whether they are at least three numbers above 0."""
    are_numbers = all(type(value) in (int, float) and value > 0 for value in values)
    return are_numbers and len(set(values)) > 2


def effects(study: Study, metric: Metric, table: pd.DataFrame | None) -> Iterator[Drawn]:
    """Main effects and interactions with their intervals."""
    if table is None:
        return
    table, left_out = _largest(table)
    alone = table["kind"] == "main effect"
    names = (table["axes"] + ": " + table["levels"] + " for " + table["references"]).where(
        alone, table["levels"]
    )
    title = f"What each setting changes in {metric.name}"
    axes = draw_differences(
        table.assign(effect_of=names),
        label="effect_of",
        margin=study.margin_of(metric),
        unit=metric.points,
        title=title,
    )
    caption = (
        "A main effect is the mean change over all combinations of the other settings; an "
        "interaction (x) is what two settings do together beyond the sum of each alone. Accuracy "
        "has a floor and a ceiling: near them settings cannot add up, whatever they do."
    )
    yield drawn("effects", title, axes, caption + left_out)


def _largest(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Of many effects the main ones, or the largest of them; and a sentence on the others."""
    alone = table["kind"] == "main effect"
    if len(table) <= MOST_SHOWN:
        return table, ""
    kept = table[alone].loc[table[alone]["effect"].abs().nlargest(MOST_SHOWN).index].sort_index()
    others = len(table) - len(kept)
    return kept, f" Not drawn: {others} smaller main effects and interactions."


def _named(study: Study, metric: Metric) -> pd.DataFrame:
    """The runs with the columns as axes of figures call them."""
    runs = study.runs.rename(columns={"label": "variant"})
    values = runs[metric.column]
    names = {f"{name}{metric.percent}" for name in (metric.name, metric.short)}
    return runs.assign(**dict.fromkeys(names, values))


def _others(study: Study, chosen: list[str]) -> str:
    num_others = study.done["label"].nunique() - len(chosen)
    grey = f" Grey: {num_others} other variants." * (num_others > 0)
    return grey + of_how_many(study)


def of_how_many(study: Study) -> str:
    """A sentence on what is left out where a page shows only some of the variants."""
    if study.whole is None:
        return ""
    best, all_of_them = study.metrics[0].name, len(study.whole.labels)
    return f" Of {all_of_them} variants, the best and the worst by {best} are shown."
