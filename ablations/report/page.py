"""The report of an ablation: one HTML file that needs no network, and its tables.

The page is read from what the folder stores; nothing is trained or evaluated for it.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ablations.report import bias, clips, dots, figures, prediction, tables, words
from ablations.report.data import MOST_SHOWN, Study
from ablations.report.figures import Drawn
from ablations.report.labels import Metric
from ablations.report.provenance import (
    grid_text,
    is_dirty,
    links,
    provenance,
    reproduce,
    time_need,
)
from ablations.report.tuning import Tuning, tuning
from ablations.report.words import Finding
from posmlp.checkpoint import write_atomically
from posmlp.clip_scores import link
from posmlp.own.code import trusts_all

ANALYSIS = (sys.executable, "-m", "analysis", "all")
MOST_SENTENCES = 8
MOST_EFFECTS = 200
"""Of which a page has sentences; a CSV file has all."""


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
    all_of_them: pd.DataFrame | None = None
    """Where there are more than the page has sentences of."""

    @property
    def num_left_out(self) -> int:
        return 0 if self.all_of_them is None else len(self.all_of_them) - len(self.sentences)


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
    nothing has ended there, the margin is not above 0, `out` is no .html file, or there is no model
    to look inside.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"margin={margin} must be above 0 points, for example 2")
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out={str(out)!r}: a report is a page; name it FILE.html")
    study = Study.open(root, margin)
    out = Path(out) if out else study.store.root / "report.html"
    if not look_inside:
        return _write(study, out, None)
    inside = _Inside.begin(study, out.parent)
    try:
        return _write(study, out, inside)
    finally:
        inside.process.kill()  # which has ended, unless the report failed


def _write(study: Study, out: Path, inside: _Inside | None) -> Path:
    shown = study.shown()
    histories = shown.histories(set(shown.labels.values()))
    compared = [_compared(shown, metric, histories) for metric in study.metrics]
    effects = _effects(study)
    maps, tuned = _bias(study), tuning(shown)
    table = tables.variants(study)
    text = tables.shown(study, table)
    link = inside.end() if inside else ("", "")
    page = _page(shown, text, compared, effects, maps, tuned, link, out.parent)
    write_atomically(out, page.encode(errors="backslashreplace"))
    tables.write_readable(study, text, out.parent)
    if study.store.published and out.parent.resolve() == study.store.root.resolve():
        return out  # which is kept small
    tables.write_tables(study, table, text, out.parent)
    if effects.all_of_them is not None:
        content = effects.all_of_them.to_csv(index=False)
        write_atomically(out.parent / "effects.csv", content.encode())
    drawn = [figure for each in compared for figure in each.figures]
    for figure in [*drawn, *effects.figures, *maps, *(tuned.figures if tuned else ())]:
        write_atomically(out.parent / "figures" / f"{figure.name}.png", figure.png)
    return out


@dataclass
class _Inside:
    """The analysis of the best run, which a process writes while the report is drawn."""

    run: str
    page: Path
    process: subprocess.Popen[str]

    @classmethod
    def begin(cls, study: Study, folder: Path) -> _Inside:
        best = study.best_run()
        if best is None:
            raise ValueError(
                f"{study.store.root} keeps no trained model to look inside; train in a new folder, "
                "without --reuse, or leave --look-inside out"
            )
        label, seed, run = best
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / "analysis.html"
        command = [*ANALYSIS, str(run), "--out", str(page)]
        command += ["--trust-code"] if trusts_all() else []
        off, kept = subprocess.DEVNULL, subprocess.PIPE
        process = subprocess.Popen(command, stdout=off, stderr=kept, text=True)
        return cls(f"{label}, seed {seed}", page, process)

    def end(self) -> tuple[str, str]:
        """Wait for the page; the run's name, and the name of its page, which lies beside ours."""
        said = self.process.communicate()[1].strip()
        if self.process.returncode:
            raise ValueError(f"no page of {self.run}: {(said.splitlines() or ['no word'])[-1]}")
        return self.run, self.page.name


def _compared(study: Study, metric: Metric, histories: pd.DataFrame) -> Compared:
    """Of the variants that are shown; the first two sentences are on all of them."""
    table, whole = study.comparison(metric), study.whole or study
    main = metric == study.metrics[0]
    return Compared(
        metric,
        words.headline(whole, metric, whole.comparison(metric)),
        words.highest(whole, metric, whole.comparison(metric)),
        words.findings(study, metric, table),
        study.classes(metric),
        list(figures.differences(study, metric, table)),
        list(figures.accuracies(study, metric)),
        list(figures.learning_curves(study, histories, metric)),
        [
            *(figures.costs(study, metric) if main else ()),
            *(figures.gates_in_settings(study, metric) if main else ()),
            *figures.along_numbers(study, metric),
        ],
    )


def _effects(study: Study) -> Effects:
    if not study.metrics:
        return Effects("No run has finished.")
    try:
        table = study.effects(study.metrics[0])
    except ValueError as error:
        return Effects(str(error))
    drawn = list(figures.effects(study, study.metrics[0], table))
    large = table.loc[table["effect"].abs().nlargest(MOST_EFFECTS).index].sort_index()
    open_last = large.sort_values(
        "verdict", key=lambda found: found.str.startswith("cannot tell"), kind="stable"
    )
    return Effects(
        "",
        words.together(study, table),
        open_last["sentence"].tolist(),
        table["left_out"].iloc[0],
        drawn,
        table if len(large) < len(table) else None,
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
    text: pd.DataFrame,
    compared: list[Compared],
    effects: Effects,
    maps: list[Drawn],
    tuned: Tuning | None,
    inside: tuple[str, str],
    folder: Path,
) -> str:
    """The page of the variants that are shown; `text`: the table of all."""
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
    main, whole = study.metrics[0] if study.metrics else None, study.whole or study
    comparison = whole.comparison(main) if main else None
    outcomes = prediction.outcomes(whole)
    states = Counter(outcome.state for outcome in outcomes)
    values: dict[str, Any] = {
        "study": study,
        "num_variants": len(whole.labels),
        "all_rows": _packed(text) if study.whole else "",
        "question": study.plan["question"] or "Ablation report",
        "prediction": study.plan["prediction"],
        "progress": words.progress(whole),
        "compared": compared,
        "named": prediction.named(study, compared[0].findings if compared else []),
        "outcomes": outcomes[:MOST_SHOWN],
        "num_outcomes": len(outcomes),
        "expected": words.expected(states),
        "dots": dots.dot_plot(study, main, study.comparison(main)) if main else "",
        "far_seeds": words.far_seeds(study, main)[:MOST_SENTENCES] if main else [],
        "links": links(study, folder),
        "inside": inside,
        "confusions": _confusions(study),
        "how_to_read": words.how_to_read(whole, comparison),
        "matching": words.matching(whole),
        "label_key": words.label_key(study),
        "text": text.set_index("variant").loc[list(study.labels.values())].reset_index(),
        "effects": effects,
        "most_sentences": MOST_SENTENCES,
        "bias": maps,
        "strips": clips.strips(whole, folder),
        "tuning": tuned,
        "scored": [
            (name, [(path.name, link(path, folder)) for path in files])
            for name, files in study.score_files()
        ],
        "noise_floor": words.noise_floor(whole),
        "failures": whole.failed.head(MOST_SHOWN).to_dict("records"),
        "num_failures": len(whole.failed),
        "provenance": list(provenance(whole)),
        "time_need": time_need(whole, folder),
        "reproduce": reproduce(whole),
        "is_dirty": is_dirty(whole),
        "grid_text": grid_text(study),
    }
    return environment.get_template("template.html").render(values)


def _packed(text: pd.DataFrame) -> str:
    """A table as compressed JSON in letters, which the page's script unpacks."""
    content = json.dumps(text.to_dict("split", index=False), ensure_ascii=False)
    return base64.b64encode(gzip.compress(content.encode(), mtime=0)).decode()


def _shade(percent: float) -> str:
    """The background of a table's cell that holds a share: the higher, the bluer."""
    if percent != percent:
        return ""
    return f"background: rgb(0 114 178 / {0.55 * min(max(percent, 0), 100) / 100:.2f})"
