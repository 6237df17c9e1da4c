"""The section of a run's page on what its model relies on: tables set to 0, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.bias.figures import call_scores, content_note
from analysis.bias.maps import bias_maps
from analysis.cost.costs import cost
from analysis.interventions.draw_effects import METRICS, draw_exemplars, draw_interventions
from analysis.interventions.intervene import exemplars, intervene
from analysis.interventions.interventions import Intervention, free_tables, knock_outs
from analysis.interventions.run_clips import run_clips
from analysis.page.sections import Section, Table
from posmlp.data.augment import normalise
from posmlp.data.sources import HeldClips
from posmlp.model import PosMLPVideo
from posmlp.predict import open_run

MOST_CLIPS = 560
FEWEST_CLIPS = 28
KNOCK_OUT_GMACS = 180  # about ten seconds of one core on a toy model
NUM_KNOCK_OUTS = 24


def group_knock_outs(run: Path, variant: str | None = None) -> Section:
    """What the tables are used for: those of a branch or stage together, then each group alone."""
    opened = open_run(run, variant=variant)
    whole, single = together(opened.model), knock_outs(opened.model)
    runs = len(whole) + len(single)
    affordable = int(KNOCK_OUT_GMACS / (cost(opened.model, memory=False)["gmacs"] * runs))
    if affordable < FEWEST_CLIPS:
        raise ValueError(
            f"{runs} knock-outs of this model on {FEWEST_CLIPS} clips take more than "
            f"{KNOCK_OUT_GMACS} GMACs; call analysis.intervene with some of them, on a GPU"
        )
    clips = run_clips(run, min(MOST_CLIPS, affordable))
    fewer = run_clips(run, max(FEWEST_CLIPS, len(clips) // 2))
    changes = (clips, whole), (fewer, single)
    effects = pd.concat([intervene(opened.model, *each) for each in changes], ignore_index=True)
    layouts = opened.model.config.layouts
    effects["intervention"] = [_place(row, layouts) for row in effects.to_dict("records")]
    of_whole, of_single = effects[: len(whole)], effects[len(whole) :]
    metric = "within_pair" if "within_pair" in effects else "top1"
    order = of_single[f"{metric}_change"].abs().sort_values(ascending=False, kind="stable").index
    sums = of_whole[of_whole["stage"].isna()]
    titles = _lost_in_words(sums, metric), _alone_in_words(of_single, metric, sums)
    drawn = [
        draw_interventions(rows, metric=metric, most=NUM_KNOCK_OUTS, title=title).figure
        for rows, title in zip((of_whole, of_single), titles, strict=True)
    ]
    columns = [name for name in ("top1", "within_pair") if name in effects]
    cells = [
        [row["intervention"], *(_change(row, name) for name in columns), f"{row['changed']:.1%}"]
        for row in effects.loc[[*of_whole.index, *order]].to_dict("records")
    ]
    head = ["set to 0", *(f"{METRICS[name]}, change in points [95%]" for name in columns)]
    words = (
        f"Tables of seed {opened.seed} are set to 0, and test clips are scored with and without "
        f"them: first the tables of a branch or stage together, on {len(clips)} test clips, then "
        f"each group's by itself, on {len(fewer)} of these. What many groups hold together, no "
        "single one shows. Intervals are "
        f"not widened for the {len(effects)} knock-outs: at 95% about one in twenty excludes 0 by "
        "chance."
    )
    folded = Table("all knock-outs", [*head, "predictions changed"], cells, folded=True)
    captions = (
        "Tables set to 0 together.",
        (f"Each group alone: the {min(NUM_KNOCK_OUTS, len(single))} largest changes."),
    )
    figures = [
        *zip(captions, drawn, strict=True),
        *_exemplars(opened.model, fewer, of_single, f"{metric}_change"),
    ]
    verdict = f"{titles[0]}."
    return Section(words, [folded], figures, verdict=verdict)


def _exemplars(
    model: PosMLPVideo, held: HeldClips, single: pd.DataFrame, change: str
) -> Iterator[tuple[str, Figure]]:
    """Of each branch the group that is missed most: the clips in which it says most."""
    maps, inputs = bias_maps(model), normalise(held.clips)
    for branch, rows in single.groupby("branch", sort=False):
        row = rows.loc[rows[change].idxmin()]
        at = [row[name] for name in ("stage", "block", "step", "branch", "group")]
        unit = "stage{}.block{}.step{}.{}".format(*at)
        own = maps[(maps[["stage", "block", "step", "branch", "group"]] == at).all(axis=1)]
        found = exemplars(model, inputs, unit, at[-1])
        caption = (
            f"What drives group {at[-1]} of {unit}, the one of branch {branch} whose absence costs "
            "most: the clips in which it says most, with the change that its knock-out makes there."
        )
        figure = draw_exemplars(found, held.clips, own)[0].figure
        if content_note(model):
            call_scores(figure)
        yield caption, figure


def together(model: PosMLPVideo) -> list[Intervention]:
    """The knock-outs of each branch's tables, in all stages and in each."""
    places = [table.place for table in free_tables(model)]
    of = {place.branch: sorted({p.stage for p in places if p.branch == place.branch})
          for place in places}  # fmt: skip
    return [
        Intervention("knock_out", branch=branch, stage=stage)
        for branch, stages in of.items()
        for stage in (None, *stages)
    ]


def _place(row: dict[str, Any], layouts: Sequence[str]) -> str:
    """What is set to 0, for a reader: `T of stage 4`, `T of stage 3, block 2, group 5`."""
    if pd.isna(row["stage"]):
        return f"{row['branch']} of all stages"
    step = f", step {row['step']}" if not pd.isna(row["step"]) and ">" in "".join(layouts) else ""
    block = "" if pd.isna(row["block"]) else f", block {row['block']}"
    group = "" if pd.isna(row["group"]) else f", group {row['group']}"
    return f"{row['branch']} of stage {row['stage']}{block}{step}{group}"


def _lost_in_words(sums: pd.DataFrame, metric: str) -> str:
    """What the tables of each branch are worth together, largest loss first."""
    rows = sums.sort_values(f"{metric}_change", kind="stable").to_dict("records")
    lost = ", ".join(
        f"all of branch {row['branch']} by {100 * row[f'{metric}_change']:+.0f} points"
        for row in rows
    )
    return f"Tables set to 0 change {METRICS[metric]}: {lost}"


def _alone_in_words(effects: pd.DataFrame, metric: str, sums: pd.DataFrame) -> str:
    """One group at a time beside its branch together."""
    low = effects.loc[effects[f"{metric}_change"].idxmin()]
    certain = (effects[f"{metric}_low"] > 0) | (effects[f"{metric}_high"] < 0)
    whole = sums.set_index("branch").loc[low["branch"], f"{metric}_change"]
    return (
        f"{METRICS[metric].capitalize()}: each group alone {100 * low[f'{metric}_change']:+.1f} "
        f"points at most, {certain.sum()} of {len(effects)} intervals without 0; all groups of "
        f"{low['branch']} together {100 * whole:+.0f}"
    )


def _change(row: dict[str, Any], name: str) -> str:
    mean, low, high = (100 * row[f"{name}_{part}"] for part in ("change", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
