"""The sections of a run's page: each function gathers one, or raises ValueError with the reason.

A section of data that a run lacks is thus shown as that reason, not left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.bias.figures import bias_figures
from analysis.bias.maps import bias_maps, kind_of, unit_tables
from analysis.bias.statistics import DISTANCE, STATISTICS, bias_statistics
from analysis.cost.costs import cost
from analysis.explorer.explorer import BiasExplorer
from analysis.interventions.draw_effects import draw_interventions
from analysis.interventions.intervene import intervene
from analysis.interventions.interventions import knock_outs
from analysis.interventions.run_clips import run_clips
from analysis.results.draw_learning import draw_learning_curves
from posmlp.clip_scores import score_files
from posmlp.predict import open_run
from posmlp.train.population import seeded_model
from posmlp.train.run_folder import read_config, read_metrics
from posmlp.train.run_members import one_variant

SCORES = ("train_top1", "val_top1", "val_within_pair", "test_top1", "test_within_pair")
MOST_CLIPS = 560
FEWEST_CLIPS = 28
KNOCK_OUT_GMACS = 600  # about half a minute of one core on a toy model
NUM_KNOCK_OUTS = 24


@dataclass
class Table:
    """Cells as text; `folded`: shown only when the reader asks."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclass
class Section:
    """One chapter of the page: words, tables, and pictures after their captions.

    Pictures are matplotlib figures, animated PNGs as bytes, and HTML pages to stand in a frame.
    """

    words: str
    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[str, Any]] = field(default_factory=list)
    animations: list[tuple[str, bytes]] = field(default_factory=list)
    frames: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """What the page links."""


def accuracy(run: Path, variant: str | None = None) -> Section:
    """The last epoch of every seed, and the learning curves."""
    path, member = run / "metrics.csv", one_variant(run, variant)[0]
    stored = read_metrics(path) if path.is_file() else []
    rows = pd.DataFrame([row for row in stored if row.get("variant", "") == member.variant])
    if not len(rows):
        raise ValueError("the run has no metrics.csv, which training writes after each epoch")
    last = rows.sort_values("epoch").groupby("seed").tail(1).sort_values("seed")
    shown = [name for name in rows.columns if name.startswith(("train_", "val_", "test_"))]
    cells = [
        [str(row["seed"]), str(row["epoch"]), *(f"{row[name]:.3f}" for name in shown)]
        for row in last.to_dict("records")
    ]
    scores = [name for name in SCORES if name in rows]
    curves = rows.melt(["seed", "epoch"], scores, "score", "share of clips")
    reached = ", ".join(f"{name} {last[name].mean():.0%}" for name in scores)
    title = f"At the end: {reached}"
    axes = draw_learning_curves(curves, metric="share of clips", by="score", title=title)
    words = f"Scores after the last of {member.train.epochs} epochs, one row a seed. "
    if "val_top1" in rows:
        words += "Val clips are scored every epoch, test clips once, at the end. "
    elif rows["epoch"].nunique() > 1 and rows["test_top1"].notna().all():
        words += "This run is older than val clips: its test clips were scored every epoch. "
    if "test_within_pair" in rows:
        words += (
            "A test clip counts as right in test_within_pair if its class outscores that of the "
            "same clip played backwards. A model that is blind to the order of frames gets 50%."
        )
    caption = "Shares of clips by epoch; the band is from the lowest to the highest seed, marks "
    caption += "are scored once."
    figures = [(caption, axes.figure)]
    files = list(score_files(run))
    if not files:
        words += " `posmlp eval RUN --out RUN/eval` tells clip by clip, and class by class."
    table = Table("", ["seed", "epoch", *shown], cells)
    return Section(words, [table], figures, files=files)


def maps(run: Path, variant: str | None = None) -> Section:
    """The first block of each stage over time and over space, beside its initial state."""
    opened = open_run(run, variant=variant)
    initial = seeded_model(opened.model.config, opened.seed)
    learned, start = bias_maps(opened.model), bias_maps(initial)
    figures = [
        (drawn.caption, drawn.figure)
        for drawn in bias_figures(learned.query("block == 1"), start.query("block == 1"))
    ]
    words = (
        f"Mixing weight by offset (query - key) of seed {opened.seed}, block 1 of each stage. "
        "Trained and initial share one scale; initial is the model made again from its seed. "
        "Axes of a single token have no offset and no map. The explorer at the end shows every "
        "unit and group, trained beside initial. "
    )
    hidden = learned["bias_std"].max()
    if hidden > 0:
        kinds = sorted(
            {kind_of(p.unit) for p, _, spread in unit_tables(opened.model) if spread.any()}
        )
        words += (
            f"This gate ({', '.join(kinds)}) is not tied by offset. A map shows means over pairs "
            f"of equal offset, whose standard deviation is up to {hidden:.2g}."
        )
    explorer = BiasExplorer(opened.model, initial, names=["trained", "initial"])
    caption = "Explorer: choose a unit, then click a token or use the arrow keys."
    return Section(words, figures=figures, frames=[(caption, explorer.page())])


def statistics(run: Path, variant: str | None = None) -> Section:
    """Means over the groups and blocks of each stage and branch, each beside its controls."""
    opened = open_run(run, variant=variant)
    table = bias_statistics(opened.model, seeded_model(opened.model.config, opened.seed))
    words = (
        "Means over groups and blocks: trained / the same model at initialisation / trained with "
        "offsets shuffled. A statistic that is not far from both controls shows nothing learned. "
        "Definitions: analysis.bias_statistics. Distances are from initialisation, so that their "
        "middle value is 0 by definition; locality_temporal and centre_dt are in frames, "
        "locality_spatial, centre_dy and centre_dx in tokens, entropy in nats. Shuffling cannot "
        "change entropy, and a window of one token has a single offset, hence nothing but zeros."
    )
    tables = []
    for branch, rows in table.groupby("branch", sort=False):
        means = rows.drop(columns=["branch", "block", "step", "group"]).groupby("stage").mean()
        cells = []
        for name in (*STATISTICS, DISTANCE):
            values = [_triple(row, name) for _, row in means.iterrows()]
            if any(values):
                cells.append([name.replace("_", " "), *(value or "undefined" for value in values)])
        stages = [f"stage {stage}" for stage in means.index]
        tables.append(Table(f"branch {branch}", ["statistic", *stages], cells))
    return Section(words, tables)


def _triple(row: pd.Series, name: str) -> str:
    """Trained / initial / shuffled; empty where the trained value is undefined."""
    if pd.isna(row[name]):
        return ""
    initial = 0.0 if name == DISTANCE else row[f"{name}_initial"]
    values = (row[name], initial, row[f"{name}_shuffled"])
    return " / ".join("undefined" if pd.isna(value) else f"{value:.2f}" for value in values)


def group_knock_outs(run: Path, variant: str | None = None) -> Section:
    """What each group's knock-out changes, the largest drawn and all in a table."""
    opened = open_run(run, variant=variant)
    changes = knock_outs(opened.model)
    affordable = int(KNOCK_OUT_GMACS / (cost(opened.model, memory=False)["gmacs"] * len(changes)))
    if affordable < FEWEST_CLIPS:
        raise ValueError(
            f"{len(changes)} knock-outs of this model on {FEWEST_CLIPS} clips take more than "
            f"{KNOCK_OUT_GMACS} GMACs; call analysis.intervene with some of them, on a GPU"
        )
    clips = run_clips(run, min(MOST_CLIPS, affordable))
    effects = intervene(opened.model, clips, changes)
    metric = "within_pair" if "within_pair" in effects else "top1"
    order = effects[f"{metric}_change"].abs().sort_values(ascending=False, kind="stable").index
    title = _knock_outs_in_words(effects, metric, effects.loc[order[0]])
    axes = draw_interventions(effects, metric=metric, most=NUM_KNOCK_OUTS, title=title)
    columns = [name for name in ("top1", "within_pair") if name in effects]
    cells = [
        [row["intervention"], *(_change(row, name) for name in columns), f"{row['changed']:.1%}"]
        for row in effects.loc[order].to_dict("records")
    ]
    head = ["intervention", *(f"{name}, change in points [95%]" for name in columns)]
    words = (
        f"Each group's table of seed {opened.seed} is set to 0 by itself, and the model is scored "
        f"on the same {len(clips)} test clips. Intervals are not widened for the "
        f"{len(changes)} knock-outs: at 95% about one in twenty excludes 0 by chance."
    )
    folded = Table("all knock-outs", [*head, "predictions changed"], cells, folded=True)
    caption = f"The {min(NUM_KNOCK_OUTS, len(effects))} largest changes."
    return Section(words, [folded], [(caption, axes.figure)])


def _knock_outs_in_words(effects: pd.DataFrame, metric: str, largest: pd.Series) -> str:
    certain = (effects[f"{metric}_low"] > 0) | (effects[f"{metric}_high"] < 0)
    return (
        f"One group's table set to 0: {100 * largest[f'{metric}_change']:+.1f} points at most; "
        f"{certain.sum()} of {len(effects)} intervals exclude 0"
    )


def _change(row: dict[str, Any], name: str) -> str:
    mean, low, high = (100 * row[f"{name}_{part}"] for part in ("change", "low", "high"))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def provenance(run: Path, variant: str | None = None) -> Section:
    """What the run was made from, as it stored it."""
    stored = read_config(run)
    machine = _environment(run / "environment.json")
    if machine.pop("dirty", False) and machine.get("commit"):
        machine["commit"] += " with uncommitted changes"
    name = one_variant(run, variant)[0].variant
    own = {f"variant {name}": stored["variants"][name]} if name else {}
    groups = {
        "model": stored["model"],
        "training": stored["train"],
        "test clips": stored.get("data", {}).get("test", {}),
        "seeds": {"seeds": stored["seeds"]},
        **own,
        "environment": machine or {"environment.json": "missing"},
    }
    tables = [
        Table(name, ["field", "value"], [[key, _text(value)] for key, value in values.items()])
        for name, values in groups.items()
    ]
    for table in tables[:3]:
        table.folded = True
    return Section("As stored in the run's config.json and environment.json.", tables)


def _environment(path: Path) -> dict[str, Any]:
    """What the file holds, nothing if there is none. Raises ValueError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); put a sound one back") from error


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
