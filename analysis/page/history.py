"""The section of a run's page on how its mixing weights came to be."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.bias.draw_history import bias_pictures, draw_arrow_history, draw_bias_history
from analysis.bias.history import bias_history
from analysis.bias.maps import UNIT
from analysis.figures.pictures import to_apng
from analysis.page.sections import Section
from posmlp.predict import open_run

FRAMES_PER_S = 2.0
FEWEST_EPOCHS = 3


def history(run: Path, variant: str | None = None) -> Section:
    """Small multiples over epochs of the unit of each branch that moved furthest; one in motion."""
    seed = open_run(run, variant=variant).seed
    rows = bias_history(run, [seed], variant)
    epochs = rows["epoch"].unique().tolist()
    if len(epochs) < FEWEST_EPOCHS:
        raise ValueError(
            f"the run kept its models of epochs {epochs} only; train with checkpoint_every=1"
        )
    figures, animations = [], []
    for branch in rows["branch"].unique():
        unit = _at_one_place(_furthest(rows[rows["branch"] == branch]))
        if unit[["dt", "dy", "dx"]].nunique().max() == 1:
            continue  # a window of one token has no offsets to draw
        figure = draw_bias_history(unit)[0, 0].figure
        figures.append((f"{branch}: the unit whose weights moved furthest.", figure))
        moving = to_apng(bias_pictures(unit), FRAMES_PER_S)
        animations.append((f"{branch}: the same, in motion.", moving))
    if any("T" in branch for branch in rows["branch"].unique()):
        odd = bias_history(run, [seed], variant, statistics=True)
        caption = "When the arrow of time appears: what is odd in time, of tables and token biases."
        figures.append((caption, draw_arrow_history(odd).figure))
    words = (
        f"Weights of seed {seed} at epochs {', '.join(map(str, epochs))}; 0 is before training. "
        "Of each branch the unit with the largest root mean squared change is shown; a joint "
        "branch at dy = dx = 0. All epochs share one scale."
    )
    return Section(words, figures=figures, animations=animations)


def _furthest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the unit whose weights changed most from the first epoch to the last."""
    ends = rows[rows["epoch"].isin([rows["epoch"].min(), rows["epoch"].max()])]
    key = [*UNIT, "group", "dt", "dy", "dx"]
    change = ends.sort_values("epoch").groupby(key)["bias"].agg(lambda both: both.diff().iloc[-1])
    unit = change.pow(2).groupby(UNIT).mean().idxmax()
    return rows.merge(pd.DataFrame([unit], columns=UNIT), on=UNIT)


def _at_one_place(rows: pd.DataFrame) -> pd.DataFrame:
    """A joint unit at dy = dx = 0; others as they are."""
    return rows.query("dy == 0 and dx == 0") if rows["dt"].nunique() > 1 else rows
