"""Learned mixing weights of chosen variants, beside the same before training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ablations.report.data import Study
from ablations.report.figures import Drawn, drawn
from ablations.report.labels import Metric
from analysis.bias.draw_bias import by_peak, check_weights, draw_temporal_bias, hidden
from analysis.bias.figures import bias_figures, content_note, one_scale
from analysis.bias.maps import UNIT, bias_maps
from analysis.bias.statistics import bias_statistics
from analysis.figures.style import styled
from posmlp.checkpoint import load as load_model
from posmlp.model import PosMLPVideo
from posmlp.train.population import seeded_model


def chosen(study: Study, metric: Metric) -> list[str]:
    """The baseline and the variant with the best mean."""
    means = study.done.groupby("label", sort=False)[metric.column].mean().dropna()
    return list(dict.fromkeys([study.baseline, str((metric.sign * means).idxmax())]))


def bias(study: Study, label: str, prefix: str) -> Iterator[Drawn]:
    """Over time in the first block of each stage, and over space in that of the first stage.

    Nothing where no model is kept that can be read, where its weights are not finite, or where it
    mixes over one token only.
    """
    path = study.model_path(label)
    if path is None:
        return
    try:
        trained = load_model(path)
        learned = bias_maps(trained)
        check_weights(learned, "the model")
    except ValueError as error:
        warnings.warn(f"{label} has no maps: {error}", stacklevel=2)
        return
    seed = int(path.stem.removeprefix("model-seed"))
    initial = seeded_model(trained.config, seed)
    learned, start = (maps.query("block == 1") for maps in (learned, bias_maps(initial)))
    where = f"{label}, seed {seed}, block 1 of each stage"
    over_time = learned[(learned["dt"] != 0) & learned["branch"].str.contains("T")]
    for branch in over_time["branch"].unique()[:1]:
        figure = _over_time(learned, start, branch)
        caption = f"{where}. Mixing weight, a line or row a channel group, by where the key stands "
        caption += "seen from the token: earlier frames on the left. "
        first = over_time[over_time["branch"] == branch].groupby(UNIT, sort=False)
        about = hidden(next(iter(first))[1]) + content_note(trained)
        caption += f"The first: {about.removeprefix('; ')}. " if about else ""
        caption += _antisymmetry(trained, initial, branch)
        yield drawn(f"{prefix}temporal-bias", f"{label}: learned temporal bias", figure, caption)
    of_stage = [maps.query("stage == 1") for maps in (learned, start)]
    for unit in bias_figures(*of_stage, note=content_note(trained)):
        if unit.name.endswith("-space"):
            caption = f"{label}, seed {seed}, {unit.caption}. Mixing weight seen from the token."
            title = f"{label}: learned spatial bias"
            yield drawn(
                f"{prefix}spatial-bias-{unit.name.split('-')[-2]}", title, unit.figure, caption
            )
        else:
            plt.close(unit.figure)


@styled
def _over_time(learned: pd.DataFrame, start: pd.DataFrame, branch: str) -> Figure:
    """A column a stage; above trained, below before training, on one scale and in one order."""
    at_centre = f"branch == '{branch}' and dy == 0 and dx == 0"
    states = {"trained": learned.query(at_centre), "at the start": start.query(at_centre)}
    stages = sorted(states["trained"]["stage"].unique())
    size = (2.9 * len(stages), 5.0)
    figure, axes = plt.subplots(2, len(stages), figsize=size, squeeze=False, sharex="col")
    for column, stage in zip(axes.T, stages, strict=True):
        order: list[int] | None = None
        for ax, (state, maps) in zip(column, states.items(), strict=True):
            unit = maps[(maps["stage"] == stage) & (maps["step"] == maps["step"].min())]
            draw_temporal_bias(unit, ax=ax, order=order, title=f"stage {stage}, {state}")
            order = order or by_peak(unit)  # the trained one's
            ax.set(xlabel="frames before (-) or after (+)" if ax is column[-1] else "")
            if ax.get_legend():
                ax.get_legend().remove()
        one_scale(*column)
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    return figure


def _antisymmetry(trained: PosMLPVideo, initial: PosMLPVideo, branch: str) -> str:
    """How much of the temporal weights tells past from future, in a sentence."""
    found = bias_statistics(trained, initial).query(f"branch == '{branch}'")
    means = found[[name for name in found if name.startswith("temporal_asymmetry")]].mean()
    return (
        f"Share of antisymmetric energy, mean over groups: {means['temporal_asymmetry']:.2f} "
        f"trained, {means['temporal_asymmetry_shuffled']:.2f} with offsets shuffled, "
        f"{means['temporal_asymmetry_initial']:.2f} at the start."
    )
