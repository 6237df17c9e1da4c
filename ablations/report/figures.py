"""The report's figures, each a PNG with a title that says what it shows and a caption."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ablations.report.data import POINTS, Metric, Study
from ablations.report.words import label_key
from analysis.results.draw_comparison import draw_differences, tally
from analysis.results.draw_learning import draw_learning_curves
from analysis.results.draw_results import draw_accuracy, draw_cost_accuracy

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
    ordered = means.sort_values(ascending=False).index.tolist()
    chosen = [study.baseline, *ordered[:4], *ordered[-2:]]
    return [label for label in dict.fromkeys(chosen) if label in means.index]


def differences(study: Study, metric: Metric, table: pd.DataFrame | None) -> Iterator[Drawn]:
    """Each variant's paired difference to the baseline."""
    if table is None or table.empty or table["difference"].isna().all():
        return
    title = f"{metric.name.capitalize()} against {study.baseline}: {tally(table['verdict'])}"
    axes = draw_differences(
        table.rename(columns={"label": "variant"}), margin=study.margin, unit=POINTS, title=title
    )
    caption = (
        "Points of percent, paired by seed. A bar that crosses 0 leaves the sign open. Colours are "
        "verdicts after correction for all comparisons; shaded: differences that count as none."
    )
    key = f" Labels: {label_key(study)}." if len(study.axes) > 1 else ""
    yield drawn(f"difference-{metric.short}", title, axes, caption + key)


def accuracies(study: Study, metric: Metric) -> Iterator[Drawn]:
    """Each variant's mean, interval and seeds."""
    runs = _named(study, metric)
    order = "does-it-see-the-order-of-frames"
    if metric.short == "within-pair":
        axes = draw_accuracy(
            runs, metric=f"{metric.name} (%)", chance=CHANCE_WITHIN_PAIR, bounds=SHARE,
            title="Does it see the order of frames?",
        )  # fmt: skip
        caption = (
            "Share of clips whose true class outscores the class of the same clip played "
            "backwards. A model blind to the order of frames is at exactly 50%."
        )
        yield drawn(order, "Does it see the order of frames?", axes, caption)
        return
    title = f"{metric.name.capitalize()}, held-out clips"
    axes = draw_accuracy(runs, metric=f"{metric.name} (%)", bounds=SHARE, title=title)
    yield drawn("accuracy", title, axes)


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
    axes.set_ylabel(f"{metric.name} (%): {clips.replace('_', '')}")
    yield drawn(f"learning-curves-{metric.short}", title, axes, _others(study, chosen).strip())


def costs(study: Study, metric: Metric) -> Iterator[Drawn]:
    """Accuracy against each cost, with the front that no variant beats."""
    runs = _named(study, metric)
    for name in ("params", "gmacs"):
        runs[name] = runs["variant"].map(study.costs[name])
    chosen = highlighted(study, metric)
    chosen = chosen if len(chosen) == study.done["label"].nunique() else chosen[:NAMED_AMONG_MANY]
    for name, words in COSTS.items():
        known = runs[runs[name].notna() & runs[f"{metric.short} (%)"].notna()]
        if known.empty:
            continue
        title = f"{metric.short.capitalize()} against {words}"
        axes = draw_cost_accuracy(
            known,
            x=name,
            y=f"{metric.short} (%)",
            front=True,
            highlight=chosen,
            bounds=SHARE,
            title=title,
        )
        caption = "Grey line: the best mean to be had at each cost." + _others(study, chosen)
        yield drawn(f"cost-{name}", title, axes, caption)


def effects(study: Study, metric: Metric, table: pd.DataFrame | None) -> Iterator[Drawn]:
    """Main effects and interactions with their intervals."""
    if table is None:
        return
    alone = table["kind"] == "main effect"
    names = (table["axes"] + ": " + table["levels"] + " for " + table["references"]).where(
        alone, table["levels"]
    )
    title = f"What each setting changes in {metric.name}"
    axes = draw_differences(
        table.assign(effect_of=names), label="effect_of", value="effect", margin=study.margin,
        unit=POINTS, title=title,
    )  # fmt: skip
    caption = (
        "A main effect is the mean change over all combinations of the other settings; an "
        "interaction (x) is what two settings do together beyond the sum of each alone. Accuracy "
        "has a floor and a ceiling: near them settings cannot add up, whatever they do."
    )
    yield drawn("effects", title, axes, caption)


def _named(study: Study, metric: Metric) -> pd.DataFrame:
    """The runs with the columns as axes of figures call them."""
    runs = study.runs.rename(columns={"label": "variant"})
    values = runs[metric.column]
    return runs.assign(**{f"{name} (%)": values for name in (metric.name, metric.short)})


def _others(study: Study, chosen: list[str]) -> str:
    num_others = study.done["label"].nunique() - len(chosen)
    return f" Grey: {num_others} other variants." * (num_others > 0)
