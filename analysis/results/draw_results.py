"""Figures of results: they take a row a variant and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import patheffects, ticker
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures.style import colour, colours, styled, wrapped
from analysis.results.runs import finals, pareto, refuse_unnamed, variant_column
from analysis.results.statistics import t_interval

LABELS = {
    "gmacs": "multiply-adds of a clip (G, log scale)",
    "params": "parameters (log scale)",
    "relation_params": "parameters of the relations (log scale)",
    "latency_ms": "latency of a clip (ms, log scale)",
    "train_seconds": "training time of a run (s, log scale)",
}

QUARTILES = ["latency_q1_ms", "latency_q3_ms"]


class Summary(NamedTuple):
    """One variant's finished runs."""

    name: Any
    values: NDArray[np.float64]
    num_runs: int
    mean: float
    low: float
    high: float


class Look(NamedTuple):
    """How a variant's point is drawn; `hollow` for a score that was not measured here."""

    colour: str
    marker: str = "o"
    hollow: bool = False


class Point(NamedTuple):
    """Where a variant stands in a figure, its name and its colour."""

    x: float
    y: float
    name: str
    colour: str


@styled
def draw_accuracy(
    df: pd.DataFrame,
    *,
    metric: str,
    by: str | None = None,
    chance: float | None = None,
    bounds: tuple[float, float] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Each variant's mean and its 95% t-interval, and below it the seeds, in order of appearance.

    `df`: a row a variant and seed; a NaN metric is a run that is missing, which the variant's
    label says. `chance`: the score of guessing, drawn as a line. `bounds`: the least and greatest
    value that there can be; an interval over few seeds may reach beyond, and is cut there. Raises
    ValueError for a missing column or no value at all.
    """
    by, df = variant_column(df, by), finals(df, metric)
    summaries = summarise(df, metric, by)
    names = [
        str(name) if len(values) == num_runs else f"{name} ({len(values)}/{num_runs} runs)"
        for name, values, num_runs, *_ in summaries
    ]
    if ax is None:
        width = 4.2 + 0.065 * max(len(name) for name in names)
        ax = plt.subplots(figsize=(width, 1.1 + 0.36 * len(names)))[1]
    for i, s in enumerate(summaries):
        ax.plot(s.values, np.full(len(s.values), i + 0.25), "o", color="0.6", markersize=3)
        ax.plot([s.low, s.high], [i, i], color=colour(0), linewidth=2)
        ax.plot(s.mean, i, "D", color=colour(0), markersize=5)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5 if chance is None else -0.9)
    if chance is not None:
        _draw_chance(chance, ax)
    if bounds is not None:
        ax.set_xlim(_cut(ax.get_xlim(), bounds))
    explanation = f"diamond and bar: mean, 95% t-interval; points: {count_seeds(summaries)}"
    ax.set_xlabel(f"{metric}\n{explanation}")
    ax.set_title(wrapped(title or f"{metric} by {by}", 4.2))
    return ax


def _cut(limits: tuple[float, float], bounds: tuple[float, float]) -> tuple[float, float]:
    """An axis' limits within what the values can be, with room for a marker there."""
    room = 0.03 * (bounds[1] - bounds[0])
    return max(limits[0], bounds[0] - room), min(limits[1], bounds[1] + room)


def _draw_chance(chance: float, ax: Axes) -> None:
    ax.axvline(chance, color="0.4", linestyle="--", linewidth=0.9, zorder=0)
    ax.annotate(
        "chance",
        (chance, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color="0.4",
    )


@styled
def draw_cost_accuracy(
    df: pd.DataFrame,
    *,
    x: str = "gmacs",
    y: str = "accuracy",
    by: str | None = None,
    highlight: Sequence[str] | None = None,
    front: bool = False,
    bounds: tuple[float, float] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """A point a variant: mean of `y` and its 95% t-interval over seeds, against log `x`.

    Where `x` differs between the runs of a variant, the point is at its median and a bar spans the
    quartiles. Variants without a finished run are named in the axis label. `highlight`: the
    variants that get a name and a colour, all by default. `front`: draw the Pareto front of the
    points as a step line. `bounds`: of `y`, as for `draw_accuracy`. Raises ValueError for a missing
    column, an `x` that is not positive, or no value of `y` at all.
    """
    by, df = variant_column(df, by), finals(df, y)
    summaries = summarise(df, y, by)
    finished = df[df[y].notna()]
    ax = ax or plt.subplots(figsize=(5.2, 3.6))[1]
    hues = colours([str(s.name) for s in summaries], highlight)
    looks = {name: Look(hue) for name, hue in hues.items()}
    points = draw_points(ax, finished, x, by, summaries, looks)
    if front:
        draw_front(ax, points)
    if bounds is not None:
        ax.set_ylim(_cut(ax.get_ylim(), bounds))
    figure: Any = ax.get_figure(root=True)
    figure.draw_without_rendering()  # labels are placed by where the points come to lie
    label_points(ax, [point for point in points if highlight is None or point.name in highlight])
    missing = [str(s.name) for s in summaries if not len(s.values)]
    note = f"\nno finished run: {', '.join(missing)}" if missing else ""
    ax.set_xlabel(LABELS.get(x, f"{x} (log scale)") + note)
    ax.set_ylabel(f"{y}\n(mean, 95% t-interval, {count_seeds(summaries)})")
    ax.set_title(wrapped(title or f"{y} against {x}", 4.6))
    return ax


@styled
def draw_cost_pairs(
    df: pd.DataFrame,
    *,
    x: str = "relation_params",
    y: str = "accuracy",
    by: str = "gate",
    pair: str = "setting",
    bounds: tuple[float, float] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """What each of several gates costs and scores in each setting: points of a setting are joined.

    `df`: a row a gate (`by`), setting (`pair`) and seed. A point has the mean of `y`, its 95%
    t-interval over seeds, the colour of its gate, and `x` on a log scale. A line that rises to the
    right says that the costlier gate scores more in that setting, which stands at its right end.
    `bounds`: of `y`, as for `draw_accuracy`. Raises ValueError for a missing column, an `x` that
    is not positive, or no value of `y` at all.
    """
    check_numbers(df, y, by, pair, x)
    df = finals(df, y)
    finished = df.assign(point=df[by].astype(str) + "\n" + df[pair].astype(str))
    summaries = summarise(finished, y, "point")
    ax = ax or plt.subplots(figsize=(5.6, 3.9))[1]
    gates = list(dict.fromkeys(df[by].astype(str)))
    looks = {s.name: Look(colour(gates.index(s.name.partition("\n")[0]))) for s in summaries}
    points = draw_points(ax, finished[finished[y].notna()], x, "point", summaries, looks)
    ends = []
    for setting in dict.fromkeys(df[pair].astype(str)):
        joined = sorted(point for point in points if point.name.partition("\n")[2] == setting)
        ax.plot([p.x for p in joined], [p.y for p in joined], color="0.7", linewidth=1, zorder=0)
        ends += [joined[-1]._replace(name=setting, colour="0.2")] if joined else []
    figure: Any = ax.get_figure(root=True)
    ax.set_xlim(right=ax.get_xlim()[1] * 4)  # room for the names
    if bounds is not None:
        ax.set_ylim(_cut(ax.get_ylim(), bounds))
    figure.draw_without_rendering()  # labels are placed by where the points come to lie
    label_points(ax, ends)
    ax.legend(handles=[Line2D([], [], color=colour(i), marker="o") for i in range(len(gates))],
              labels=gates)  # fmt: skip
    ax.set_xlabel(LABELS.get(x, f"{x} (log scale)"))
    ax.set_ylabel(f"{y}\n(mean, 95% t-interval, {count_seeds(summaries)})")
    ax.set_title(wrapped(title or f"{y} against {x}", 4.6))
    return ax


def draw_points(
    ax: Axes,
    finished: pd.DataFrame,
    x: str,
    by: str,
    summaries: list[Summary],
    looks: Mapping[str, Look],
) -> list[Point]:
    """Each variant's point with its two bars on a log axis; one without a value of `x` has none.

    Returns where they stand. The bar along `x` spans the quartiles, over the rows or as columns
    tell them. Raises ValueError where `x` is missing from the finished runs or not positive.
    """
    check_numbers(finished, x)
    if not (finished[x].dropna() > 0).all():
        raise ValueError(f"{x} has the value {finished[x].min()}; a log axis needs positive ones")
    points = []
    for s in summaries:
        rows = finished[(finished[by] == s.name) & finished[x].notna()]
        if not len(rows):
            continue
        hue, marker, hollow = looks[str(s.name)]
        lower, median, upper = np.percentile(rows[x], [25, 50, 75])
        if x == "latency_ms" and set(QUARTILES) <= set(rows):
            lower, upper = rows[QUARTILES].median()
        ax.plot([median, median], [s.low, s.high], color=hue)
        ax.plot([lower, upper], [s.mean, s.mean], color=hue)
        face = "white" if hollow else hue
        ax.plot(median, s.mean, marker, color=hue, markersize=5, markerfacecolor=face)
        points.append(Point(float(median), s.mean, str(s.name), hue))
    ax.set_xscale("log")
    set_log_ticks(ax, [point.x for point in points])
    ax.margins(x=0.12, y=0.08)
    return points


def draw_front(ax: Axes, points: list[Point], *, more_is_better: bool = False) -> None:
    """The best score to be had at each cost, on to the costliest variant, as a grey step line."""
    sign = -1 if more_is_better else 1
    table = pd.DataFrame(points).assign(cost=lambda rows: sign * rows["x"])
    front = pareto(table, "cost", "y")
    costs = np.append(front["x"], table.loc[table["cost"].idxmax(), "x"])
    scores = np.append(front["y"], front["y"].iloc[-1])
    ax.plot(costs, scores, color="0.6", linewidth=1, drawstyle="steps-post", zorder=0)


def set_log_ticks(ax: Axes, costs: list[float]) -> None:
    """Plain numbers: 1, 2, 5 a decade, or even steps where that would leave hardly a tick."""
    wide = max(costs) >= 4 * min(costs)
    even = ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)) if wide else even)
    ax.xaxis.set_major_formatter(lambda x, _: _short(x))
    ax.xaxis.set_minor_locator(ticker.NullLocator())


def _short(number: float) -> str:
    """For example 0.5, 2000, 20k, 13M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 10 * size or (size > 1e3 and abs(number) >= size):
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def label_points(ax: Axes, points: list[Point]) -> None:
    """Names beside points, to the left where the right has no room, up or down off what is there.

    Each stays within the axes, as near to its point as that allows.
    """
    line_height, letter_width = 9.0, 5.0  # points, at the font size below
    gap, radius = 6.0, 3.0
    points_a_pixel = 72 / ax.figure.dpi
    edge, floor, top = (at * points_a_pixel for at in (ax.bbox.x1, ax.bbox.y0, ax.bbox.y1))
    at = {point: ax.transData.transform(point[:2]) * points_a_pixel for point in points}
    placed = [(x - radius, x + radius, y) for x, y in at.values()]  # left, right, height
    steps = [line_height / 3 * k for k in sorted(range(-40, 41), key=lambda k: (abs(k), -k))]
    for point in sorted(points, key=lambda point: point.y):
        x, bottom = at[point]
        width = letter_width * len(point.name)
        to_left = x + gap + width > edge
        left = x - gap - width if to_left else x + gap
        beside = [y for start, end, y in placed if left < end and start < left + width]
        free = (
            step
            for step in steps
            if floor <= bottom + step <= top - line_height
            and all(abs(bottom + step - y) >= line_height for y in beside)
        )
        step = next(free, 0.0)
        placed.append((left, left + width, bottom + step))
        ax.annotate(
            point.name,
            (point.x, point.y),
            xytext=(-gap if to_left else gap, step),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va="bottom",  # above the front's line, which runs on through the point
            fontsize=8,
            color=point.colour,
            path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
        )


def check_numbers(df: pd.DataFrame, metric: str, *others: str) -> None:
    """Raise ValueError for a missing column, and for a metric that is no number."""
    missing = [column for column in (*others, metric) if column not in df.columns]
    if missing:
        raise ValueError(f"no column {missing[0]!r}; the columns are {list(df.columns)}")
    if len(df) and not pd.api.types.is_numeric_dtype(df[metric]):
        numbers = list(df.select_dtypes("number").columns)
        raise ValueError(f"column {metric!r} holds no numbers; those that do are {numbers}")


def summarise(df: pd.DataFrame, metric: str, by: str) -> list[Summary]:
    """Each variant in order of appearance; one without a finished run has NaN for its mean."""
    check_numbers(df, metric, by)
    if not df[metric].notna().any():
        raise ValueError(f"no row has a value of {metric!r}; there is nothing to draw")
    summaries = []
    refuse_unnamed(df, by)
    for name, rows in df.groupby(by, sort=False):
        values = rows[metric].dropna().to_numpy(float)
        interval = t_interval(values) if len(values) else (np.nan, np.nan, np.nan)
        summaries.append(Summary(name, values, len(rows), *interval))
    return summaries


def count_seeds(summaries: list[Summary]) -> str:
    """How many seeds the variants have, in words."""
    return seeds_in_words([len(s.values) for s in summaries if len(s.values)])


def seeds_in_words(counts: list[int]) -> str:
    """For example `3 seeds`, or `2 to 5 seeds`."""
    fewest, most = min(counts), max(counts)
    number = str(most) if fewest == most else f"{fewest} to {most}"
    return f"{number} seed" + ("s" if most > 1 else "")
