"""The page's dot plot: differences to the baseline as an SVG, with their values under the mouse."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from ablations.report.data import Study
from ablations.report.labels import LONGEST, Metric
from analysis.results.draw_comparison import verdict_kind
from analysis.results.paired import corrected_interval

ROW, TOP, BOTTOM, WIDTH = 26, 8, 40, 460  # pixels
LETTER = 7.4  # pixels, about
MOST_ROWS = 16
NUM_TICKS = 5


def dot_plot(study: Study, metric: Metric, table: pd.DataFrame | None) -> Markup:
    """A row a variant: a dot at its difference, a thick bar for one comparison, a thin one for all.

    A dot that has no bar has one seed, or no interval yet. Of many variants those with the largest
    differences. Empty where nothing was compared.
    """
    rows = [] if table is None else table[table["difference"].notna()].to_dict("records")
    left_out = max(0, len(rows) - MOST_ROWS)
    if left_out:
        largest = sorted(rows, key=lambda row: -abs(row["difference"]))[:MOST_ROWS]
        rows = [row for row in rows if row in largest]
    if not rows:
        return Markup()
    left = 12 + LETTER * max(len(_short(row["label"])) for row in rows)
    low, high, ticks = _axis(rows, study.margin_of(metric))

    def x(value: float) -> float:
        return left + WIDTH * (min(max(value, low), high) - low) / (high - low)

    height = TOP + ROW * len(rows)
    parts = [_ground(x, ticks, height, study.margin_of(metric))]
    parts += [_row(x, row, study, metric, TOP + ROW * i + ROW / 2) for i, row in enumerate(rows)]
    unit = metric.points.strip() or "its own unit"
    words = f"{metric.name.capitalize()}: difference to the baseline, in {unit}"
    if left_out:
        words += f"; {left_out} smaller differences stand in the table"
    parts.append(_text(left + WIDTH / 2, height + 34, words, "middle"))
    size = f"{left + WIDTH + 20:.0f} {height + BOTTOM}"
    return Markup(
        '<svg class="dots" viewBox="0 0 {}" role="img" aria-label="{}" style="max-width:{:.0f}px">'
        "{}</svg>"
    ).format(size, words, left + WIDTH + 20, Markup("").join(parts))


def _axis(rows: list[dict[str, Any]], margin: float | None) -> tuple[float, float, list[float]]:
    """The ends of the axis and its ticks; bars that are much wider than all dots are cut."""
    dots = [0.0, *(row["difference"] for row in rows), margin or 0.0, -(margin or 0.0)]
    reach = 1.6 * max(map(abs, dots)) or 1.0
    ends = [bound for row in rows for bound in corrected_interval(row) if bound == bound]
    shown = dots + [min(max(end, -reach), reach) for end in ends]
    low, high = min(shown), max(shown)
    room = 0.04 * (high - low)
    low, high = low - room, high + room
    ticks = MaxNLocator(NUM_TICKS, steps=[1, 2, 5, 10]).tick_values(low, high)
    return low, high, [float(tick) for tick in ticks if low <= tick <= high]


def _ground(x: Any, ticks: list[float], height: int, margin: float | None) -> Markup:
    """The margin, shaded, and the ticks with their lines."""
    parts = []
    if margin is not None:
        band = '<rect class="band" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
        wide = x(margin) - x(-margin)
        parts.append(Markup(band).format(x(-margin), TOP, wide, height - TOP))
    for tick in ticks:
        line = '<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>'
        kind = "zero" if tick == 0 else "grid"
        parts.append(Markup(line).format(kind, x(tick), x(tick), TOP, height))
        said = f"{tick:+.4g}".replace("-", "−") if tick else "0"
        parts.append(_text(x(tick), height + 15, said, "middle"))
    return Markup("").join(parts)


def _row(x: Any, row: dict[str, Any], study: Study, metric: Metric, y: float) -> Markup:
    kind = verdict_kind(row["verdict"]).replace(" ", "-")
    bars = [(*corrected_interval(row), 1.5)]
    bars += [(row["low"], row["high"], 5)] * ("look" not in row)
    line = '<line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}" stroke-width="{}"/>'
    drawn = [
        Markup(line).format(x(low), x(high), y, y, width) for low, high, width in bars if low == low
    ]
    dot = Markup('<circle cx="{:.1f}" cy="{}" r="4.5"/>').format(x(row["difference"]), y)
    end = x(-math.inf) - 8
    return Markup('<g class="{}"><title>{}</title>{}{}{}{}</g>').format(
        kind,
        _hover(row, study, metric),
        Markup('<rect class="reach" x="0" y="{}" width="100%" height="{}"/>').format(
            y - ROW / 2, ROW
        ),
        _text(end, y + 4, _short(row["label"]), "end"),
        Markup("").join(drawn),
        dot,
    )


def _hover(row: dict[str, Any], study: Study, metric: Metric) -> str:
    """All that is known of a row, in lines."""

    def span(low: float, high: float) -> str:
        return f"{metric.change(low)} to {metric.change(high)}"

    lines = [
        f"{row['label']}: {metric.full(row['mean'])}, "
        f"{metric.change(row['difference'])}{metric.points} against {study.baseline}"
    ]
    wide = corrected_interval(row)
    if "look" in row:
        known = row["low"] == row["low"]
        lines.append(f"repeated 95% interval: {span(*wide) if known else 'not yet'}")
    elif row["low"] == row["low"]:
        lines.append(f"95% interval of this comparison alone: {span(row['low'], row['high'])}")
        lines.append(f"corrected for all comparisons: {span(*wide)}")
    return "\n".join([*lines, f"{row['verdict']} ({row['n']} seeds)"])


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    text = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    return Markup(text).format(x, y, anchor, escape(words))
