"""The attribution sections of a run's page: sheets of two clips, and the methods' scorecard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.attribution.attribution import Attribution, attribute
from analysis.attribution.draw_attribution import draw_attribution, draw_scorecard
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
SCORED_METHODS = ("integrated_gradients", "grad_cam", "saliency", "gradient_x_input", "random")
NUM_SHEET_CLIPS = 2
NUM_SCORED_CLIPS = 14
MOST_CANDIDATES = 28  # clips among which the sheets' are found


def sheets(run: Path, variant: str | None = None) -> Section:
    """Contact sheets of two test clips by two methods, explained for their true class."""
    opened = open_run(run, variant=variant)
    held = run_clips(run, MOST_CANDIDATES)
    numbers = torch.tensor(_two_classes(held))
    figures = []
    inputs, labels = normalise(held.clips[numbers]), held.labels[numbers]
    with torch.no_grad():
        like = next(opened.model.parameters())
        predicted = opened.model(inputs.to(like)).argmax(-1).tolist()
    for method, options in SHEET_METHODS.items():
        maps = attribute(opened.model, inputs, labels, method, **options)
        for clip in range(len(numbers)):
            name, guess = held.classes[labels[clip]], held.classes[predicted[clip]]
            caption = f"{method.replace('_', ' ')}: a clip of '{name}', predicted '{guess}'."
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
    return Section(words, figures=figures)


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
    card = attribution_scorecard({f"seed {opened.seed}": opened.model}, SCORED_METHODS, clips)
    axes = draw_scorecard(card, title=_best_in_words(card))
    cells = [
        [row["method"], row["metric"].replace("_", " "), row["better"], f"{row['mean']:.3f}",
         f"[{row['low']:.3f}, {row['high']:.3f}]",
         f"{row['uniform']:.3f}" if row["uniform"] == row["uniform"] else ""]
        for row in card.to_dict("records")
    ]  # fmt: skip
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
    return Section(words, [table], [(caption, axes[0].figure)])


def _best_in_words(card: pd.DataFrame) -> str:
    """Which method lies most on the object, beside a map equal everywhere."""
    rows = card[card["metric"] == "mass_on_object"]
    best = rows.loc[rows["mean"].idxmax()]
    return (
        f"Most of its relevance on the moving object: {best['method']}, {best['mean']:.0%} "
        f"[{best['low']:.0%}, {best['high']:.0%}]; a map equal everywhere {best['uniform']:.0%}"
    )
