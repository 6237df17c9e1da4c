"""Mixing weights of a run as figures and tables: each unit, trained beside its initial state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from analysis.bias.draw_bias import (
    FROM_TOKEN,
    LABELS,
    by_peak,
    check_weights,
    draw_map,
    draw_temporal_bias,
    growth,
    hidden,
    seen,
)
from analysis.bias.draw_joint_bias import draw_joint_bias
from analysis.bias.maps import UNIT, bias_maps, units
from analysis.bias.statistics import bias_statistics
from analysis.figures.pictures import png
from analysis.figures.style import add_colour_bar, styled, symmetric_limit, wrapped
from posmlp.checkpoint import write_atomically
from posmlp.gates.attention import AttentionGate
from posmlp.model import PosMLPVideo
from posmlp.predict import open_run
from posmlp.train.population import seeded_model

MOST_GROUPS = 8
STATES = ("trained", "at initialisation")


class UnitFigure(NamedTuple):
    """`name` is fit for a file; `caption` says what the figure shows."""

    name: str
    caption: str
    figure: Figure


def bias_figures(
    trained: pd.DataFrame, initial: pd.DataFrame, *, view: str = FROM_TOKEN, note: str = ""
) -> Iterator[UnitFigure]:
    """A figure of each unit's time axis and one of its space axes, trained beside initial.

    Both are rows of `bias_maps`, of the same units. ST branches are drawn slice by slice of time.
    Axes of one token are left out: there is no offset to draw. `view`: as `draw_temporal_bias` and
    `draw_spatial_bias` take it. `note`: `content_note` of the model; with one, axes are of scores
    before a softmax, not of mixing weights. What a mean over pairs hides stands in title and
    caption. Raises ValueError for weights that are not finite and for another view.
    """
    for drawn in _unit_figures(trained, initial, view, note):
        if note:
            call_scores(drawn.figure)
        yield drawn


def call_scores(figure: Figure) -> None:
    """Label a figure of mixing weights as one of scores before a softmax, as attention's are."""
    for ax in figure.axes:
        if ax.get_ylabel() == "mixing weight":
            ax.set_ylabel("position score")


def _unit_figures(
    trained: pd.DataFrame, initial: pd.DataFrame, view: str, note: str
) -> Iterator[UnitFigure]:
    for key, rows in trained.groupby(UNIT, sort=False):
        stage, block, step, branch = key
        start = initial.merge(pd.DataFrame([key], columns=UNIT), on=UNIT)
        where = f"stage {stage}, block {block}" + (f", step {step}" if step > 1 else "")
        check_weights(rows, f"{where}, {branch}")
        name = f"stage{stage}-block{block}-step{step}-{branch}"
        in_time, in_space = rows["dt"].nunique() > 1, rows["dy"].nunique() > 1
        kept = hidden(rows) + note
        text = f"Trained weights: {growth(rows, start)}{kept}"
        if in_time and in_space:
            joint = {"control": start, "control_name": "initial", "view": view}
            axes = draw_joint_bias(rows, title=text if note else None, **joint)
            caption = f"{where}, {branch}: over space, slice by slice of time{kept}"
            yield UnitFigure(f"{name}-joint", caption, axes[0, 0].figure)
        elif in_time:
            figure = _time(rows, start, view, text)
            yield UnitFigure(f"{name}-time", f"{where}, {branch}: over time{kept}", figure)
        elif in_space:
            figure = _space(rows, start, view, text)
            yield UnitFigure(f"{name}-space", f"{where}, {branch}: over space{kept}", figure)


def content_note(model: PosMLPVideo, clips: Tensor | None = None) -> str:
    """What maps of attention leave out, for a title; nothing for other gates.

    `clips` (B, 3, T, H, W), as the model takes them: of these the note tells how widely the scores
    by content vary over a query's keys, which is what the softmax hears of them.
    """
    gates = [place.unit for place in units(model) if isinstance(place.unit, AttentionGate)
             and place.unit.num_tokens > 1]  # fmt: skip
    if not gates:
        return ""
    note = "; position part alone, to which a clip's content is added before the softmax"
    if clips is None:
        return note
    found = content_spreads(model, gates, clips)
    return f"{note}: scores with a standard deviation of {min(found):.2g} to {max(found):.2g}"


@torch.no_grad()
def content_spreads(
    model: PosMLPVideo, gates: Sequence[AttentionGate], clips: Tensor
) -> list[float]:
    """Of each gate the standard deviation of its content scores over a query's keys."""
    found: dict[int, float] = {}

    def keep(gate: AttentionGate, made: Tensor) -> None:
        query, key = (gate.in_groups(x).movedim(-1, -3) for x in made.chunk(2, dim=-1))
        scores = query @ key.mT / query.shape[-1] ** 0.5
        found[id(gate)] = float(scores.double().var(-1, correction=0).mean().sqrt())

    hooks = [
        gate.query_key.register_forward_hook(lambda _m, _i, made, gate=gate: keep(gate, made))
        for gate in gates
    ]
    was_training = model.training
    try:
        model.eval()(clips)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return [found[id(gate)] for gate in gates]


def write_bias(
    run: str | Path,
    out: str | Path | None = None,
    seed: int | None = None,
    variant: str | None = None,
    *,
    view: str = FROM_TOKEN,
) -> Path:
    """Write a run's bias maps and statistics as CSV and its figures, to `out`.

    That is by default RUN/bias, or RUN/bias-VARIANT where the run has variants. maps.csv: rows of
    `bias_maps`; statistics.csv: rows of `bias_statistics` with all controls; a PNG a unit and axis,
    in a `view` of `bias_figures`. Returns the folder. Raises ValueError for a folder without a
    model, and for weights that are not finite.
    """
    run_model = open_run(run, seed, variant)
    name = "-".join(["bias", *([run_model.variant] if run_model.variant else [])])
    folder = Path(out) if out else Path(run) / name
    initial = seeded_model(run_model.model.config, run_model.seed)
    maps, start = bias_maps(run_model.model), bias_maps(initial)
    check_weights(maps, "the model")
    tables = {"maps": maps, "statistics": bias_statistics(run_model.model, initial)}
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False).encode())
    note = content_note(run_model.model)
    for drawn in bias_figures(maps, start, view=view, note=note):
        write_atomically(folder / f"{drawn.name}.png", png(drawn.figure))
    return folder


@styled
def _time(trained: pd.DataFrame, initial: pd.DataFrame, view: str, title: str) -> Figure:
    """Two panels on one scale, of values or of colours, and in one order."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.1))
    orders = None, by_peak(trained, view)  # the same in both panels
    for ax, maps, state, order in zip(axes, (trained, initial), STATES, orders, strict=True):
        draw_temporal_bias(maps, view=view, order=order, ax=ax, title=state)
    one_scale(*axes)
    if not axes[0].images:
        axes[0].get_legend().remove()
    _set_title(figure, title)
    return figure


def one_scale(*axes: Axes) -> None:
    """Temporal figures of several models, made to share their range of values or of colours."""
    images: list[Any] = [image for ax in axes for image in ax.images]
    limit = max([image.norm.vmax for image in images], default=0.0)
    for image in images:
        image.set_clim(-limit, limit)
    bounds = [bound for ax in axes for bound in ax.get_ylim()]
    for ax in axes if not images else ():
        ax.set_ylim(min(bounds), max(bounds))


@styled
def _space(trained: pd.DataFrame, initial: pd.DataFrame, view: str, title: str) -> Figure:
    """A row a state and a column a group, on one colour scale; the eight largest groups."""
    power = trained["bias"].pow(2).groupby(trained["group"]).mean()
    groups = sorted(power.nlargest(MOST_GROUPS).index)
    shown = [seen(maps[maps["group"].isin(groups)], view) for maps in (trained, initial)]
    values = pd.concat(shown)["bias"]
    limit = symmetric_limit(values.to_numpy())
    size = (max(3.9, 1.1 * len(groups) + 1.7), 3.3)
    figure, axes = plt.subplots(2, len(groups), figsize=size, sharex=True, sharey=True)
    image: Any = None
    for row, maps, state in zip(axes.reshape(2, -1), shown, STATES, strict=True):
        row[0].set_ylabel(state, fontsize=8)
        for ax, group in zip(row, groups, strict=True):
            table = maps[maps["group"] == group].pivot(index="dy", columns="dx", values="bias")
            image = draw_map(ax, table, limit)
    for ax, group in zip(axes.reshape(2, -1)[0], groups, strict=True):
        ax.set_title(f"group {group}", fontsize=8, fontweight="normal")
    add_colour_bar(image, axes.ravel().tolist(), values, limit)
    _set_title(figure, title)
    some = f"\n{len(groups)} largest of {len(power)} groups" if len(groups) < len(power) else ""
    figure.supxlabel(f"{LABELS[view][2]}; {LABELS[view][1]}{some}", fontsize=8)
    return figure


def _set_title(figure: Figure, title: str) -> None:
    text = wrapped(title, figure.get_figwidth())
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, fontweight="bold")
