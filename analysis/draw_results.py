"""Figures of results: they take a row a variant and seed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import patheffects, ticker
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.statistics import t_interval
from analysis.style import colour, styled, wrapped

LABELS = {
    "gmacs": "multiply-adds of a clip (G, log scale)",
    "params": "parameters (log scale)",
    "latency_ms": "latency of a clip (ms, log scale)",
}


class Summary(NamedTuple):
    """One variant's finished runs."""

    name: Any
    values: NDArray[np.float64]
    num_runs: int
    mean: float
    low: float
    high: float


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
    by: str = "variant",
    chance: float | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Each variant's mean and its 95% t-interval, and below it the seeds, in order of appearance.

    `df`: a row a variant and seed; a NaN metric is a run that is missing, which the variant's
    label says. `chance`: the score of guessing, drawn as a line. Raises ValueError for a missing
    column or no value at all.
    """
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
    explanation = f"diamond and bar: mean, 95% t-interval; points: {count_seeds(summaries)}"
    ax.set_xlabel(f"{metric}\n{explanation}")
    ax.set_title(wrapped(title or f"{metric} by {by}", 4.2))
    return ax


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
    by: str = "variant",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """A point a variant: mean of `y` and its 95% t-interval over seeds, against log `x`.

    Where `x` differs between the runs of a variant, the point is at its median and a bar spans the
    quartiles. Variants without a finished run are named in the axis label. Raises ValueError for a
    missing column, an `x` that is not positive, or no value of `y` at all.
    """
    summaries = summarise(df, y, by)
    finished = df[df[y].notna()]
    ax = ax or plt.subplots(figsize=(5.2, 3.6))[1]
    label_points(ax, draw_points(ax, finished, x, by, summaries))
    missing = [str(s.name) for s in summaries if not len(s.values)]
    note = f"\nno finished run: {', '.join(missing)}" if missing else ""
    ax.set_xlabel(LABELS.get(x, f"{x} (log scale)") + note)
    ax.set_ylabel(f"{y}\n(mean, 95% t-interval, {count_seeds(summaries)})")
    ax.set_title(wrapped(title or f"{y} against {x}", 4.6))
    return ax


def draw_points(
    ax: Axes, finished: pd.DataFrame, x: str, by: str, summaries: list[Summary]
) -> list[Point]:
    """Each variant's point with its two bars on a log axis; returns where they stand.

    Raises ValueError where `x` is missing from the finished runs or not positive.
    """
    if x not in finished.columns:
        raise ValueError(f"no column {x!r}; the columns are {list(finished.columns)}")
    if not (finished[x] > 0).all():
        raise ValueError(f"{x} has the value {finished[x].min()}; a log axis needs positive ones")
    points = []
    for i, s in enumerate(summaries):
        if len(s.values):
            costs = finished.loc[finished[by] == s.name, x]
            lower, median, upper = np.percentile(costs, [25, 50, 75])
            ax.plot([median, median], [s.low, s.high], color=colour(i))
            ax.plot([lower, upper], [s.mean, s.mean], color=colour(i))
            ax.plot(median, s.mean, "o", color=colour(i), markersize=5)
            points.append(Point(float(median), s.mean, str(s.name), colour(i)))
    ax.set_xscale("log")
    _set_log_ticks(ax, [point.x for point in points])
    ax.margins(x=0.12, y=0.08)
    return points


@styled
def draw_learning_curves(
    df: pd.DataFrame,
    *,
    metric: str,
    by: str = "variant",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """A metric against epochs: a thin line a run, a thick one for each variant's mean.

    `df`: a row a variant, seed and epoch, with columns `by`, seed, epoch and `metric`. The mean is
    drawn over the epochs that all of a variant's runs have. Raises ValueError for a missing column.
    """
    missing = [column for column in (by, "seed", "epoch", metric) if column not in df.columns]
    if missing:
        raise ValueError(f"no column {missing[0]!r}; the columns are {list(df.columns)}")
    ax = ax or plt.subplots(figsize=(5.6, 3.6))[1]
    counts = []
    for i, (name, rows) in enumerate(df.groupby(by, sort=False)):
        runs = rows.pivot_table(index="epoch", columns="seed", values=metric)
        counts.append(runs.shape[1])
        ax.plot(runs.index, runs, color=colour(i), linewidth=0.7, alpha=0.5)
        ax.plot(runs.dropna().index, runs.dropna().mean(axis=1), color=colour(i), label=str(name))
    ax.set_xlabel(f"epoch (thin: {_seeds(counts)})")
    ax.set_ylabel(metric)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set_title(wrapped(title or f"{metric} by epoch", 5.6))
    return ax


def _set_log_ticks(ax: Axes, costs: list[float]) -> None:
    """Plain numbers: 1, 2, 5 a decade, or even steps where that would leave hardly a tick."""
    wide = max(costs) >= 4 * min(costs)
    even = ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)) if wide else even)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(ticker.NullLocator())


def label_points(ax: Axes, points: list[Point]) -> None:
    """Names beside points, to the left where the right has no room, moved up where one is below."""
    line_height, letter_width = 9.0, 5.0  # points, at the font size below
    points_a_pixel = 72 / ax.figure.dpi
    edge = ax.bbox.x1 * points_a_pixel
    placed: list[tuple[float, float, float]] = []  # left, right, height
    for point in sorted(points, key=lambda point: point.y):
        x, bottom = ax.transData.transform((point.x, point.y)) * points_a_pixel
        width = letter_width * len(point.name) + 6
        to_left = x + width > edge
        left, height = x - width if to_left else x, bottom
        for other_left, other_right, other_height in sorted(placed, key=lambda label: label[2]):
            overlaps = left < other_right and other_left < left + width
            if overlaps and abs(height - other_height) < line_height:
                height = other_height + line_height
        placed.append((left, left + width, height))
        ax.annotate(
            point.name,
            (point.x, point.y),
            xytext=(-6 if to_left else 6, height - bottom),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va="center",
            fontsize=8,
            color=point.colour,
            path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
        )


def summarise(df: pd.DataFrame, metric: str, by: str) -> list[Summary]:
    """Each variant in order of appearance; one without a finished run has NaN for its mean."""
    missing = [column for column in (metric, by) if column not in df.columns]
    if missing:
        raise ValueError(f"no column {missing[0]!r}; the columns are {list(df.columns)}")
    if not df[metric].notna().any():
        raise ValueError(f"no row has a value of {metric!r}; there is nothing to draw")
    summaries = []
    for name, rows in df.groupby(by, sort=False):
        values = rows[metric].dropna().to_numpy(float)
        interval = t_interval(values) if len(values) else (np.nan, np.nan, np.nan)
        summaries.append(Summary(name, values, len(rows), *interval))
    return summaries


def count_seeds(summaries: list[Summary]) -> str:
    """How many seeds the variants have, in words."""
    return _seeds([len(s.values) for s in summaries if len(s.values)])


def _seeds(counts: list[int]) -> str:
    fewest, most = min(counts), max(counts)
    number = str(most) if fewest == most else f"{fewest} to {most}"
    return f"{number} seed" + ("s" if most > 1 else "")
