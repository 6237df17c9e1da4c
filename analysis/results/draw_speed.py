"""Score against every cost at once, with the front of variants that no other beats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures.place import Place, lay_out, place_of, set_texts
from analysis.figures.style import colour, styled
from analysis.results.draw_results import (
    LABELS,
    Look,
    Point,
    Summary,
    count_seeds,
    draw_front,
    draw_points,
    label_points,
    summarise,
)
from analysis.results.runs import finals, variant_column

PANELS = {
    **{name: LABELS[name] for name in ("params", "gmacs", "latency_ms")},
    "clips_per_s": "throughput (clips a second, log scale)",
}
MORE_IS_BETTER = "clips_per_s"
MEASURED = "measured"
MARKERS = "osD^vP*X"
CIRCUMSTANCES = {
    "device": "{}",
    "mode": "{}",
    "num_threads": "threads: {}",
    "batch_size": "throughput at batch {}",
    "torch": "torch {}",
}


@styled
def draw_speed_accuracy(
    df: pd.DataFrame,
    *,
    metric: str = "test_top1",
    by: str | None = None,
    family: str | None = None,
    marker: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """A panel a cost, of those of params, gmacs, latency_ms and clips_per_s that `df` has.

    `df`: a row a variant and seed; a NaN metric is a run that is missing, a column without any
    value counts as not there. Points are means of `metric` with 95% t-intervals over seeds, at the
    median cost with a bar over its quartiles: over the rows, or `latency_q1_ms` and `latency_q3_ms`
    where `df` has them. The grey step line is the Pareto front of the measured points.

    `family`: a column whose values share a colour and a line in order of cost; `marker`: a column
    whose values share a marker, such as the layout. Where `df` has a column `source`, points other
    than "measured" (published ones) are hollow. Where it has `num_views`, gmacs are multiplied by
    it. The device, mode, threads, batch and torch version are stated where `df` has those columns.
    `ax`: in whose place to draw. Returns the array of Axes. Raises ValueError if no cost is there,
    one is not positive, or a column is missing.
    """
    by, df = variant_column(df, by), finals(df, metric)
    summaries = summarise(df, metric, by)
    finished = df[df[metric].notna()]
    if {"num_views", "gmacs"} <= set(finished):
        finished = finished.assign(gmacs=finished["gmacs"] * finished["num_views"])
    present = [name for name in PANELS if name in df and finished[name].notna().any()]
    if not present:
        raise ValueError(
            f"no column of {', '.join(PANELS)} among {list(df.columns)}; add one, for example from "
            "analysis.cost or analysis.measure_speed"
        )
    looks = _looks(finished, by, family, marker)
    rows, columns = (1, len(present)) if len(present) < 3 else (2, 2)
    size = (4.6 * columns, 3.5 * rows + 0.6)
    figure = place_of(ax, size)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for spare in grid.flat[len(present) :]:
        figure.delaxes(spare)
    axes = grid.ravel()[: len(present)]
    for panel in grid[:, 0]:
        panel.set_ylabel(_score_label(metric, summaries))
    drawn = []
    for panel, name in zip(axes, present, strict=True):
        points = draw_points(panel, finished, name, by, summaries, looks)
        if family:
            _join_families(panel, points)
        measured = [point for point in points if not looks[point.name].hollow]
        if measured:
            draw_front(panel, measured, more_is_better=name == MORE_IS_BETTER)
        drawn.append(points)
        times = " x views" if name == "gmacs" and "num_views" in df else ""
        panel.set_xlabel(PANELS[name].replace("of a clip", f"of a clip{times}"))
    set_texts(figure, title or f"{metric} against cost", _caption(finished, looks))
    _add_legend(figure, finished, by, looks, family, marker)
    lay_out(figure, now=True)  # labels are placed by where the points come to lie
    for panel, points in zip(axes, drawn, strict=True):
        label_points(panel, points)
    return axes


def _score_label(metric: str, summaries: list[Summary]) -> str:
    """What a point's height is; a single value has no interval."""
    if all(len(summary.values) < 2 for summary in summaries):
        return metric
    return f"{metric}\n(mean, 95% t-interval, {count_seeds(summaries)})"


def _looks(
    finished: pd.DataFrame, by: str, family: str | None, marker: str | None
) -> dict[str, Look]:
    """Each variant's colour by its family, marker by its layout, hollow if not measured here."""
    for column in (family, marker):
        if column is not None and column not in finished:
            raise ValueError(f"no column {column!r}; the columns are {list(finished.columns)}")
    firsts = finished.drop_duplicates(by)
    families = firsts[family or by].unique().tolist()
    kinds = firsts[marker].unique().tolist() if marker else []
    return {
        str(row[by]): Look(
            colour(families.index(row[family or by])),
            MARKERS[kinds.index(row[marker]) % len(MARKERS)] if marker else "o",
            row.get("source", MEASURED) != MEASURED,
        )
        for row in firsts.to_dict("records")
    }


def _join_families(ax: Axes, points: list[Point]) -> None:
    for hue in dict.fromkeys(point.colour for point in points):
        line = sorted(point[:2] for point in points if point.colour == hue)
        xs, ys = zip(*line, strict=True)
        ax.plot(xs, ys, color=hue, linewidth=0.8, alpha=0.6, zorder=0.5)


def _caption(finished: pd.DataFrame, looks: Mapping[str, Look]) -> str:
    """What the numbers rest on."""
    notes = []
    if any(not look.hollow for look in looks.values()):
        notes.append("grey line: the front that no variant beats")
    if any(look.hollow for look in looks.values()):
        notes.append("hollow: from the paper or the makers of the weights, not measured here")
    for column, words in CIRCUMSTANCES.items():
        values = finished[column].dropna().unique().tolist() if column in finished else []
        if values:
            notes.append(words.format(" / ".join(map(str, values))))
    return "; ".join(notes)


def _add_legend(
    figure: Place,
    finished: pd.DataFrame,
    by: str,
    looks: Mapping[str, Look],
    family: str | None,
    marker: str | None,
) -> None:
    """A line a family and a marker a layout; none where each point has its own name and colour."""
    lines, markers = {}, {}
    for row in finished.drop_duplicates(by).to_dict("records"):
        look = looks[str(row[by])]
        if family:
            lines[row[family]] = Line2D([], [], color=look.colour)
        if marker:
            markers[row[marker]] = Line2D([], [], color="0.4", marker=look.marker, linestyle="")
    handles, names = [*lines.values(), *markers.values()], [*lines, *markers]
    if handles:
        figure.legend(handles, names, loc="outside right upper")
