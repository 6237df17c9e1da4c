"""Attribution methods on one scale: which look where the motion is, and which can be believed.

Shapes: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from torch import nn

from analysis.attribution.attribution import attribute
from analysis.attribution.faithfulness import curve_areas, perturbation_curves, randomisation_check
from analysis.attribution.localisation import localisation
from analysis.attribution.methods import METHODS
from analysis.results.statistics import t_interval
from posmlp.data.augment import normalise
from posmlp.data.digits.moving_digits import RenderedClips

Models: TypeAlias = Mapping[str, nn.Module]
Methods: TypeAlias = Sequence[str] | Mapping[str, Mapping[str, Any]]
"""Names, or label -> {"method": name, option: value, ...}, to try one method in several ways."""

METRICS = {
    "mass_on_object": "higher",
    "pointing_game": "higher",
    "mass_in_moving_frames": "higher",
    "deletion_auc": "lower",
    "insertion_auc": "higher",
    "rank_correlation": "nearer 0",
    "rank_correlation_magnitude": "nearer 0",
    "completeness_gap": "nearer 0",
}
"""Every score and which way is better."""
CARD = ["model", "method", "metric", "better", "n", "mean", "low", "high", "uniform"]
"""The columns of a scorecard."""


def attribution_scores(
    models: Models,
    methods: Methods,
    clips: RenderedClips,
    *,
    baseline: str = "mean_frame",
    num_steps: int = 16,
    seed: int = 0,
    internal_batch_size: int = 32,
) -> pd.DataFrame:
    """Every score of every method on every model, one row a model, method and clip.

    The clips' labels are the targets. Columns: model, method, clip, label, probability (of the
    label), those of `localisation`, `curve_areas` and `randomisation_check`, and completeness_gap
    (|gap| / |change|; NaN for methods that promise none). Put the method `random` beside the
    others: it is the control.

    Parameters
    ----------
    models : Mapping
        Name -> model.
    methods : Sequence or Mapping
        Names of methods, or label -> {"method": name, option: value}.
    clips : RenderedClips
        As `MovingDigits.render` gives them, B of them.
    baseline, num_steps
        Of the deletion and insertion curves; not of the methods, which have their own options.
    seed : int
        Of the re-initialised models, and of the order of equal values.

    Raises
    ------
    ValueError
        For no models or methods, and whatever `attribute` refuses.
    """
    ways = _ways(methods)
    if not models or not ways:
        raise ValueError("nothing to score; give at least one model and one method")
    tables = []
    for name, model in models.items():
        for label, way in ways.items():
            table = _scores(model, way, clips, baseline, num_steps, seed, internal_batch_size)
            table.insert(0, "method", label)
            table.insert(0, "model", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _scores(
    model: nn.Module,
    way: dict[str, Any],
    clips: RenderedClips,
    baseline: str,
    num_steps: int,
    seed: int,
    batch: int,
) -> pd.DataFrame:
    """The rows of one model and method."""
    inputs = normalise(clips.clips)
    maps = attribute(model, inputs, clips.labels, internal_batch_size=batch, **way)
    curves = perturbation_curves(
        model, inputs, maps,
        baseline=baseline, num_steps=num_steps, seed=seed, internal_batch_size=batch,
    )  # fmt: skip
    check = randomisation_check(model, inputs, maps, seed=seed, internal_batch_size=batch)
    table = localisation(maps, clips.masks, clips.moving)
    table = table.merge(curve_areas(curves), on="clip").merge(check, on="clip")
    gap = maps.relative_gap
    table["completeness_gap"] = np.nan if gap is None else gap.numpy()
    whole = curves.query("curve == 'deletion' and share == 0")["probability"]
    table.insert(1, "label", clips.labels.cpu().numpy())
    table.insert(2, "probability", whole.to_numpy())
    return table


def attribution_scorecard(
    models: Models, methods: Methods, clips: RenderedClips, **options: Any
) -> pd.DataFrame:
    """Mean of every score over clips with its 95% t-interval, one row a model, method and metric.

    Columns: model, method, metric, better ("higher", "lower" or "nearer 0"), n (clips with that
    score), mean, low, high, uniform (the mean score of a map equal everywhere; NaN where there is
    none). Takes what `attribution_scores` takes. The interval takes clips as independent: render
    them with paired=False. Metrics that a method does not have are left out.
    """
    return summarise_scores(attribution_scores(models, methods, clips, **options))


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The scorecard of some rows of `attribution_scores`, for example of one class.

    Columns as of `attribution_scorecard`; scores that are NaN for a clip leave that clip out.
    """
    rows = []
    for (model, method), group in scores.groupby(["model", "method"], sort=False):
        for metric, better in METRICS.items():
            values = group[metric].dropna()
            if len(values):
                mean, low, high = t_interval(values)
                uniform = group.get(f"uniform_{metric}", pd.Series(dtype=float)).mean()
                rows.append((model, method, metric, better, len(values), mean, low, high, uniform))
    return pd.DataFrame(rows, columns=CARD)


def _ways(methods: Methods) -> dict[str, dict[str, Any]]:
    if isinstance(methods, str):
        raise ValueError(f"methods={methods!r} must be a list, for example {[methods]}")
    if isinstance(methods, Mapping):
        for label, way in methods.items():
            if "method" not in way:
                raise ValueError(
                    f"methods[{label!r}] = {dict(way)} names no method; write for example "
                    f"{{'method': {next(iter(METHODS))!r}, 'baseline': 'zero'}}"
                )
        return {label: dict(way) for label, way in methods.items()}
    return {name: {"method": name} for name in methods}
