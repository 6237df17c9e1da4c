"""The report of an ablation: one HTML file that needs no network, and its tables.

The page is read from what the folder stores; nothing is trained or evaluated for it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ablations.report import bias, dots, figures, prediction, tables, words
from ablations.report.data import Study
from ablations.report.figures import Drawn
from ablations.report.labels import Metric
from ablations.report.provenance import grid_text, is_dirty, links, provenance, reproduce
from ablations.report.tuning import Tuning, tuning
from ablations.report.words import Finding
from analysis.page.page import write_page
from posmlp.checkpoint import write_atomically

MOST_SENTENCES = 8


@dataclass
class Compared:
    """What one metric shows: sentences, and figures in the order of the page."""

    metric: Metric
    headline: str
    highest: str
    findings: list[Finding]
    classes: pd.DataFrame
    differences: list[Drawn] = field(default_factory=list)
    accuracies: list[Drawn] = field(default_factory=list)
    curves: list[Drawn] = field(default_factory=list)
    costs: list[Drawn] = field(default_factory=list)

    @property
    def figures(self) -> list[Drawn]:
        return [*self.differences, *self.accuracies, *self.curves, *self.costs]


@dataclass
class Effects:
    """Main effects and interactions of the main metric, or the reason why there are none."""

    reason: str = ""
    together: str = ""
    """Whether two settings give the sum of each alone, in a sentence."""
    sentences: list[str] = field(default_factory=list)
    left_out: str = ""
    figures: list[Drawn] = field(default_factory=list)


def write_report(
    root: str | Path,
    out: str | Path | None = None,
    margin: float | None = None,
    *,
    look_inside: bool = False,
) -> Path:
    """Write the report of the grid stored in `root` and return its path: root/report.html or `out`.

    Beside it table.md and rows.csv (a row a run). Unless that is a published folder, also
    table.csv, .parquet and .tex, and the figures as PNG files in figures/. `margin`: what
    counts as no difference, either way, in place of the grid's `equal_within`. `look_inside`: also
    write analysis.html beside it, the page of the best run, and link it. Raises ValueError if
    nothing has ended there, the margin is not above 0, or there is no model to look inside.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"margin={margin} must be above 0 points, for example 2")
    study = Study.open(root, margin)
    out = Path(out) if out else study.store.root / "report.html"
    inside = _look_inside(study, out.parent) if look_inside else ("", "")
    histories = study.histories()
    compared = [_compared(study, metric, histories) for metric in study.metrics]
    effects = _effects(study)
    maps, tuned = _bias(study), tuning(study)
    table = tables.variants(study)
    page = _page(study, table, compared, effects, maps, tuned, inside, out.parent)
    write_atomically(out, page.encode())
    tables.write_readable(study, table, out.parent)
    if study.store.published and out.parent.resolve() == study.store.root.resolve():
        return out  # which is kept small
    tables.write_tables(study, table, out.parent)
    drawn = [figure for each in compared for figure in each.figures]
    for figure in [*drawn, *effects.figures, *maps, *(tuned.figures if tuned else ())]:
        write_atomically(out.parent / "figures" / f"{figure.name}.png", figure.png)
    return out


def _look_inside(study: Study, folder: Path) -> tuple[str, str]:
    """Write the analysis of the run with the best score; its name, and the file's, beside us."""
    best = study.best_run()
    if best is None:
        raise ValueError(
            f"{study.store.root} keeps no trained model to look inside; run the grid there, or "
            "leave --look-inside out"
        )
    label, seed, run = best
    return f"{label}, seed {seed}", write_page(run, folder / "analysis.html").name


def _compared(study: Study, metric: Metric, histories: pd.DataFrame) -> Compared:
    table = study.comparison(metric)
    main = metric == study.metrics[0]
    return Compared(
        metric,
        words.headline(study, metric, table),
        words.highest(study, metric, table),
        words.findings(study, metric, table),
        study.classes(metric),
        list(figures.differences(study, metric, table)),
        list(figures.accuracies(study, metric)),
        list(figures.learning_curves(study, histories, metric)),
        list(figures.costs(study, metric)) if main else [],
    )


def _effects(study: Study) -> Effects:
    if not study.metrics:
        return Effects("No run has finished.")
    try:
        table = study.effects(study.metrics[0])
    except ValueError as error:
        return Effects(str(error))
    drawn = list(figures.effects(study, study.metrics[0], table))
    open_last = table.sort_values(
        "verdict", key=lambda found: found.str.startswith("cannot tell"), kind="stable"
    )
    return Effects(
        "",
        words.together(study, table),
        open_last["sentence"].tolist(),
        table["left_out"].iloc[0],
        drawn,
    )


def _confusions(study: Study) -> dict[str, pd.DataFrame]:
    """What is taken for what by the baseline and by the best variant, where it was scored."""
    labels = bias.chosen(study, study.metrics[0]) if study.metrics else []
    found = {label: study.confusion(label) for label in labels}
    return {label: table for label, table in found.items() if not table.empty}


def _bias(study: Study) -> list[Drawn]:
    """The baseline's maps, whose files have plain names, then the best variant's."""
    if not study.metrics:
        return []
    labels = bias.chosen(study, study.metrics[0])
    prefixes = {study.baseline: "learned-"}
    return [
        figure
        for label in labels
        for figure in bias.bias(study, label, prefixes.get(label, "best-learned-"))
    ]


def _page(
    study: Study,
    table: pd.DataFrame,
    compared: list[Compared],
    effects: Effects,
    maps: list[Drawn],
    tuned: Tuning | None,
    inside: tuple[str, str],
    folder: Path,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shade": _shade,
        "kind": tables.kind_of,
        "two_lines": tables.two_lines,
        "whole": lambda text: text.replace("top-1", "top\u20111"),  # no line break in it
    }
    main = study.metrics[0] if study.metrics else None
    comparison = study.comparison(main) if main else None
    outcomes = prediction.outcomes(study)
    states = Counter(outcome.state for outcome in outcomes)
    values: dict[str, Any] = {
        "study": study,
        "question": study.plan["question"] or "Ablation report",
        "prediction": study.plan["prediction"],
        "progress": words.progress(study),
        "compared": compared,
        "named": prediction.named(study, compared[0].findings if compared else []),
        "outcomes": outcomes,
        "expected": words.expected(states),
        "dots": dots.dot_plot(study, main, comparison) if main else "",
        "far_seeds": words.far_seeds(study, main) if main else [],
        "links": links(study, folder),
        "inside": inside,
        "confusions": _confusions(study),
        "how_to_read": words.how_to_read(study, comparison),
        "matching": words.matching(study),
        "label_key": words.label_key(study),
        "text": tables.shown(study, table),
        "effects": effects,
        "most_sentences": MOST_SENTENCES,
        "bias": maps,
        "tuning": tuned,
        "noise_floor": words.noise_floor(study),
        "failures": study.failed.to_dict("records"),
        "provenance": list(provenance(study)),
        "reproduce": reproduce(study),
        "is_dirty": is_dirty(study),
        "grid_text": grid_text(study),
    }
    return environment.get_template("template.html").render(values)


def _shade(percent: float) -> str:
    """The background of a table's cell that holds a share: the higher, the bluer."""
    if percent != percent:
        return ""
    return f"background: rgb(0 114 178 / {0.55 * min(max(percent, 0), 100) / 100:.2f})"
