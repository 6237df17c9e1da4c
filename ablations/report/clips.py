"""Test clips that a grid's models answer rightly and wrongly, as strips of frames.

The models are those whose files are kept; nothing is trained. Shapes: N clips, T frames of S x S
pixels, K classes.
"""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ablations.report.data import Study
from ablations.report.provenance import paths_of
from analysis.interventions.run_clips import run_clips
from posmlp.data.sources import HeldClips
from posmlp.predict import open_run
from posmlp.train.run_folder import read_config
from posmlp.train.scoring import predict

NUM_EACH = 3  # clips that are answered rightly, and wrongly
MOST_CLIPS, FEWEST_CLIPS = 112, 14  # among which these are sought
GMACS = 120  # what all models may compute: some seconds of one core
MOST_MODELS = 5
MOST_FRAMES, SIDE, GAP = 8, 48, 2  # of a strip; in pixels


class Answer(NamedTuple):
    """What one model answers: a class, with its share in percent; `run` leads to the model's."""

    model: str
    run: str
    name: str
    percent: float
    is_right: bool


class Strip(NamedTuple):
    """One clip: its class, the picture as a data URI, and the models' answers, the best's first."""

    truth: str
    source: str
    answers: list[Answer]


def strips(study: Study, folder: Path) -> list[Strip]:
    """Clips on which the best run is surest: those that it answers rightly, then the others.

    Beside its answers stand those of each variant's first kept model, of five variants at most,
    that was tested on the same clips. Links are as seen from `folder`. Empty where no model is
    kept, or a few clips take longer than some seconds; where they cannot be had any more a warning
    says why.
    """
    best = study.best_run()
    if best is None or study.store.published:
        return []
    runs = {best[0]: (best[1], best[2])}
    for label in study.labels.values():
        path = study.model_path(label)
        if path and label not in runs and len(runs) < MOST_MODELS:
            runs[label] = int(path.stem.removeprefix("model-seed")), path.parent
    gmacs = study.costs["gmacs"].reindex(list(runs)).sum()
    count = min(MOST_CLIPS, int(GMACS / gmacs)) if gmacs else MOST_CLIPS
    if count < FEWEST_CLIPS:
        return []
    try:
        held = run_clips(best[2], count)
        tested = read_config(best[2])["data"].get("test")
        logits = {}
        for label, (seed, run) in runs.items():
            if read_config(run)["data"].get("test") == tested:
                there, page = paths_of(run, folder)
                model = open_run(run, seed).model
                logits[f"{label}, seed {seed}", page or there] = predict(model, held)
    except (ValueError, OSError) as error:
        warnings.warn(f"the report has no clips: {error}", stacklevel=2)
        return []
    return [_strip(held, i, logits) for i in chosen(next(iter(logits.values())), held.labels)]


def chosen(logits: Tensor, labels: Tensor) -> list[int]:
    """The surest clips, each of another class: `NUM_EACH` right ones, then as many wrong ones."""
    shares, answers = logits.softmax(-1).max(-1)
    found = []
    for wanted in (True, False):
        of_class: dict[int, int] = {}
        for i in shares.argsort(descending=True, stable=True).tolist():
            if bool(answers[i] == labels[i]) == wanted:
                of_class.setdefault(int(labels[i]), i)
        found += list(of_class.values())[:NUM_EACH]
    return found


def _strip(held: HeldClips, clip: int, logits: dict[tuple[str, str], Tensor]) -> Strip:
    truth, answers = int(held.labels[clip]), []
    for which, each in logits.items():
        share, answer = each[clip].softmax(-1).max(-1)
        name = held.classes[int(answer)]
        answers.append(Answer(*which, name, 100 * float(share), int(answer) == truth))
    return Strip(held.classes[truth], _picture(held.clips[clip].numpy()), answers)


def _picture(frames: NDArray[np.uint8]) -> str:
    """(T, S, S, 3) as a row of frames, of many those at even distances: a PNG as a data URI."""
    shown = frames[
        np.linspace(0, len(frames) - 1, min(MOST_FRAMES, len(frames))).round().astype(int)
    ]
    tiles = [Image.fromarray(frame) for frame in shown]
    for tile in tiles:
        tile.thumbnail((SIDE, SIDE))
    width, height = tiles[0].size
    row = Image.new("RGB", (len(tiles) * (width + GAP) - GAP, height), "white")
    for t, tile in enumerate(tiles):
        row.paste(tile, (t * (width + GAP), 0))
    content = io.BytesIO()
    row.save(content, "png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
