"""What was predicted before the run, beside the verdicts that came."""

from __future__ import annotations

import re
from typing import NamedTuple

from ablations.report.data import Study
from ablations.report.labels import short_value
from ablations.report.words import Finding
from analysis.results.draw_comparison import verdict_kind


def named(study: Study, found: list[Finding]) -> list[str]:
    """The verdict of each variant with a setting that the prediction names, for the reader.

    A prediction in words cannot be graded by a program; what it speaks of can be looked up.
    """
    words = set(re.findall(r"[^\s,.;:()]+", study.plan["prediction"]))
    axes = {cell["id"]: cell["axes"] for cell in study.plan["cells"]}
    base = axes[study.plan["baseline"]]
    ids = {label: cell_id for cell_id, label in study.labels.items()}
    return [
        f"{finding.label}: {finding.verdict}"
        for finding in found
        if any(
            short_value(value) in words and value != base.get(axis)
            for axis, value in axes[ids[finding.label]].items()
        )
    ]


class Outcome(NamedTuple):
    """What became of one expectation at one variant; `state`: held, failed or open."""

    expected: str
    label: str
    state: str
    verdict: str


def outcomes(study: Study) -> list[Outcome]:
    """Each expectation of the grid file at each variant that it covers: held, failed or open."""
    tables = {metric.column: (metric, study.comparison(metric)) for metric in study.metrics}
    found = []
    for expectation in study.expectations:
        metric, table = tables.get(expectation.metric, (None, None))
        verdicts = {} if table is None else dict(zip(table["label"], table["verdict"], strict=True))
        of = f" ({metric.name})" if metric else ""
        for cell in study.plan["cells"]:
            label = study.labels[cell["id"]]
            if label != study.baseline and expectation.covers(cell["axes"]):
                verdict = verdicts.get(label, "cannot tell: not compared yet")
                state = _state(expectation.verdict, verdict)
                found.append(Outcome(f"{expectation}{of}", label, state, verdict))
    return found


def _state(expected: str, verdict: str) -> str:
    kind, is_small = verdict_kind(verdict), "but by less" in verdict
    if kind == "cannot tell":
        return "open"
    return "held" if kind == expected or (expected == "equal" and is_small) else "failed"
