"""The attribution sections of a run's page: sheets of two clips, and the methods' scorecard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from analysis.attribution.attribution import LARGE_GAP, Attribution, attribute
from analysis.attribution.draw_attribution import LEAST, draw_attribution, draw_scorecard
from analysis.attribution.scorecard import attribution_scorecard
from analysis.interventions.run_clips import independent_clips, run_clips
from analysis.page.sections import Section, Table
from posmlp.data.augment import normalise
from posmlp.data.sources import HeldClips
from posmlp.predict import TrainedModel, open_run

SHEET_METHODS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"baseline": "mean_frame"},
    "grad_cam": {},
}
SAID = {"integrated_gradients": "Integrated Gradients", "grad_cam": "Grad-CAM"}
CAVEATS = {
    "grad_cam": " Read it with care: on models of this kind it points hardly better than a random "
    "map; the scores below say whether it does here."
}
SCORED_METHODS = ("integrated_gradients", "grad_cam", "saliency", "gradient_x_input", "random")
NUM_SHEET_CLIPS = 2
NUM_SCORED_CLIPS = 14
MOST_CANDIDATES = 28  # clips among which the sheets' are found


def sheets(run: Path, variant: str | None = None) -> Section:
    """Contact sheets of two test clips by two methods, explained for their true class."""
    opened = open_run(run, variant=variant)
    held = run_clips(run, MOST_CANDIDATES)
    numbers = torch.tensor(_two_classes(held))
    figures, distrust = [], []
    inputs, labels = normalise(held.clips[numbers]), held.labels[numbers]
    with torch.no_grad():
        like = next(opened.model.parameters())
        predicted = opened.model(inputs.to(like)).argmax(-1).tolist()
    for method in _fit(SHEET_METHODS, opened.model):
        options = SHEET_METHODS[method]
        maps = attribute(opened.model, inputs, labels, method, **options)
        gap = maps.relative_gap
        if gap is not None and gap.max() > LARGE_GAP:
            said = f"{SAID[method]}, whose maps miss up to {gap.max():.0%} of the change in score"
            distrust.append(said)
        for clip in range(len(numbers)):
            name, guess = held.classes[labels[clip]], held.classes[predicted[clip]]
            caption = f"{SAID[method]}: a clip of '{name}', predicted '{guess}'."
            caption += CAVEATS.get(method, "")
            drawn = _sheet(maps, held, numbers, clip, name)
            figures.append((caption, drawn))
    truth = (
        "The contour is the mover, the shaded frames are those in which it moves."
        if held.truth
        else "There is no contour: where the motion is in these videos is not known."
    )
    words = (
        f"What seed {opened.seed} goes by on {len(numbers)} of its test clips, for the true class. "
        f"{truth} Integrated Gradients is against each clip's own mean frame, a still picture."
    )
    return Section(words, figures=figures, distrust=distrust)


def _fit(methods: Iterable[str], model: nn.Module) -> list[str]:
    """The methods that the model can be asked by: one of the user's own has no stages."""
    return [each for each in methods if each != "grad_cam" or hasattr(model, "stages")]


def _two_classes(held: HeldClips) -> list[int]:
    """The first clip, and the first of a class that is neither its own nor its reversal."""
    first = int(held.labels[0])
    related = {first} | (set() if held.reverse_of is None else {int(held.reverse_of[first])})
    labels = held.labels.tolist()
    others = [i for i, label in enumerate(labels) if label not in related] or [1]
    return [0, others[0]][:NUM_SHEET_CLIPS]


def _sheet(maps: Attribution, held: HeldClips, numbers: torch.Tensor, clip: int, name: str) -> Any:
    masks = held.truth.masks[numbers] if held.truth else None
    moving = held.truth.moving[numbers] if held.truth else None
    axes = draw_attribution(
        maps, held.clips[numbers], clip=clip, masks=masks, moving=moving, target_name=name
    )
    return axes[0].figure


def scorecard(run: Path, variant: str | None = None) -> Section:
    """Every score of five methods over a few clips whose mover is known."""
    clips = independent_clips(run, NUM_SCORED_CLIPS)
    if clips is None:
        raise ValueError(
            "these clips are videos, of which it is not known where the motion is; train on the "
            "generated moving-digits to score attributions against the truth"
        )
    opened: TrainedModel = open_run(run, variant=variant)
    card = attribution_scorecard(
        {f"seed {opened.seed}": opened.model}, _fit(SCORED_METHODS, opened.model), clips
    )
    axes = draw_scorecard(card, title=_best_in_words(card))
    cells = [
        [_said(row["method"]), _name(row), row["better"], *_values(row)]
        for row in card.to_dict("records")
    ]
    head = ["method", "score", "better", "mean", "95% interval", "uniform map"]
    words = (
        f"Scores over {len(clips.labels)} new test clips of the same generator, not in reversed "
        "pairs. 'random' is noise that looks at nothing: a method that does no better is no "
        "evidence. Deletion and insertion replace pixels by those of the clip's own mean frame, "
        "from which integrated gradients starts too. Rank correlations are with the same method "
        "on random weights."
    )
    table = Table("all scores", head, cells, folded=True)
    caption = "Mean and 95% t-interval; grey ticks are a map equal everywhere."
    blind = no_better_than_noise(card)
    words += (
        f" Not shown to find the moving object better than noise does: {', '.join(blind)}."
        if blind
        else ""
    )
    doubt = [f"maps of {', '.join(blind)}, which find the object no better than noise"]
    figures = [(caption, axes[0].figure)]
    return Section(words, [table], figures, distrust=doubt if blind else [])


def no_better_than_noise(card: pd.DataFrame) -> list[str]:
    """The methods whose interval of mass on the object does not lie above the mean of `random`."""
    rows = card[card["metric"] == "mass_on_object"].set_index("method")
    least = rows.loc["random", "mean"]
    return [
        _said(str(method))
        for method, row in rows.drop("random").iterrows()
        if not row["low"] > least
    ]


def _said(method: str) -> str:
    return SAID.get(method, method.replace("_", " "))


def _name(row: dict[str, Any]) -> str:
    return row["metric"].replace("_", " ") + ("" if row["metric"] in LEAST else " (%)")


def _values(row: dict[str, Any]) -> list[str]:
    """Mean, interval and uniform map's score, in percent but for correlations."""
    times, digits = (1, 2) if row["metric"] in LEAST else (100, 1)
    mean, low, high, uniform = (
        f"{times * row[name]:.{digits}f}" for name in ("mean", "low", "high", "uniform")
    )
    return [mean, f"[{low}, {high}]", uniform if row["uniform"] == row["uniform"] else ""]


def _best_in_words(card: pd.DataFrame) -> str:
    """Which method lies most on the object, beside a map equal everywhere."""
    rows = card[card["metric"] == "mass_on_object"]
    best = rows.loc[rows["mean"].idxmax()]
    return (
        f"Most of its relevance on the moving object: {_said(best['method'])}, "
        f"{best['mean']:.0%} "
        f"[{best['low']:.0%}, {best['high']:.0%}]; a map equal everywhere {best['uniform']:.0%}"
    )
