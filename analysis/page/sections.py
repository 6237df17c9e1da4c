"""The sections of a run's page: each function gathers one, or raises ValueError with the reason.

A section of data that a run lacks is thus shown as that reason, not left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from analysis.bias.figures import bias_figures, content_note
from analysis.bias.maps import bias_maps, kind_of, unit_tables
from analysis.bias.statistics import DISTANCE, STATISTICS, bias_statistics
from analysis.cost.costs import cost
from analysis.explorer.explorer import BiasExplorer
from analysis.interventions.interventions import knock_outs
from analysis.interventions.run_clips import run_clips
from analysis.results.draw_learning import draw_learning_curves
from posmlp.clip_scores import score_files
from posmlp.data.augment import normalise
from posmlp.model import PosMLPVideo
from posmlp.predict import open_run
from posmlp.train.population import seeded_model
from posmlp.train.run_folder import one_variant, read_config, read_metrics

SCORES = {
    "train_top1": "train top-1",
    "val_top1": "val top-1",
    "val_within_pair": "val within pairs",
    "test_top1": "test top-1",
    "test_within_pair": "test within pairs",
}
CLIPS = "clips (%)"
NOTED_CLIPS = 28  # by which the content scores of attention are measured
EXEMPLAR_GMACS = 60  # some seconds of one core on a toy model
SHARES = ("temporal_asymmetry",)  # statistics that are shares


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
    `verdict`: what the section found, a sentence for the top of the page; `distrust`: what of it
    the reader should not rest on.
    """

    words: str
    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[str, Any]] = field(default_factory=list)
    animations: list[tuple[str, bytes]] = field(default_factory=list)
    frames: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """What the page links."""
    verdict: str = ""
    distrust: list[str] = field(default_factory=list)


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
        [str(row["seed"]), str(row["epoch"]), *(_score(name, row[name]) for name in shown)]
        for row in last.to_dict("records")
    ]
    scores = [name for name in SCORES if name in rows]
    curves = rows[["seed", "epoch"]].join(100 * rows[scores].rename(columns=SCORES))
    curves = curves.melt(["seed", "epoch"], [SCORES[name] for name in scores], "score", CLIPS)
    ends = [name for name in scores if last[name].notna().any()]
    reached = ", ".join(f"{SCORES[name]} {last[name].mean():.0%}" for name in ends)
    title = f"At the end: {reached}"
    axes = draw_learning_curves(curves, metric=CLIPS, by="score", title=title)
    words = f"Scores after the last of {member.train.epochs} epochs, one row a seed. "
    if "val_top1" in rows:
        words += "Val clips are scored every epoch, test clips once, at the end. "
    elif rows["epoch"].nunique() > 1 and rows["test_top1"].notna().all():
        words += "This run is older than val clips: its test clips were scored every epoch. "
    if "test_within_pair" in rows:
        words += (
            "A test clip is right within its pair if its class outscores that of the same clip "
            "played backwards. A model that is blind to the order of frames gets 50%."
        )
    caption = "Clips by epoch, in percent; the band is from the lowest to the highest seed, marks "
    caption += "are scored once."
    figures = [(caption, axes.figure)]
    files = list(score_files(run))
    if not files:
        words += " `posmlp eval RUN --out RUN/eval` tells clip by clip, and class by class."
    tables = [Table("", ["seed", "epoch", *map(_head, shown)], cells)]
    verdict = _accuracy_in_words(last, read_config(run))
    return Section(words, tables, figures, files=files, verdict=verdict)


def _head(name: str) -> str:
    """A column of metrics.csv as the head of a table: `test_top1` is `test top-1 (%)`."""
    unit = "" if name.endswith("loss") else " (%)"
    return name.replace("_", " ").replace("top1", "top-1").replace("top5", "top-5") + unit


def _score(name: str, value: float) -> str:
    """A loss as it is, every other score in percent."""
    return f"{value:.3f}" if name.endswith("loss") else f"{100 * value:.1f}"


def _accuracy_in_words(last: pd.DataFrame, stored: dict[str, Any]) -> str:
    """Test scores beside chance, or of val clips where none are scored."""
    split = "test" if "test_top1" in last and last["test_top1"].notna().any() else "val"
    if f"{split}_top1" not in last:
        return ""
    seeds = f", mean of {len(last)} seeds" if len(last) > 1 else ""
    chance = 1 / len(stored["classes"])
    said = f"{last[f'{split}_top1'].mean():.0%} of {split} clips are answered right{seeds}"
    said += f" (chance {chance:.0%})"
    pairs = f"{split}_within_pair"
    if pairs in last and last[pairs].notna().any():
        said += f", and {last[pairs].mean():.0%} within pairs of a clip and its reversal"
        said += " (chance 50%)"
    return said + "."


def maps(run: Path, variant: str | None = None) -> Section:
    """The first block of each stage over time and over space, beside its initial state."""
    opened = open_run(run, variant=variant)
    initial = seeded_model(opened.model.config, opened.seed)
    learned, start = bias_maps(opened.model), bias_maps(initial)
    of_first = [maps.query("block == 1") for maps in (learned, start)]
    note = content_note(opened.model)
    if note:
        with suppress(ValueError):  # clips that cannot be had: the note goes without its number
            clips = normalise(run_clips(run, NOTED_CLIPS).clips)
            note = content_note(opened.model, clips.to(next(opened.model.parameters())))
    figures = [(drawn.caption, drawn.figure) for drawn in bias_figures(*of_first, note=note)]
    words = (
        f"Mixing weights of seed {opened.seed}, block 1 of each stage, by where the key stands "
        "seen from the token: earlier frames on the left, and places as in the image. "
        "Trained and initial share one scale; initial is the model made again from its seed. "
        "Sizes are root mean squares over all pairs of tokens. "
        "Axes of a single token have no map. The explorer at the end shows every "
        "unit and group, trained beside initial. "
    )
    largest, distrust = learned["bias_std"].max(), []
    if largest > 0:
        kinds = sorted(
            {kind_of(p.unit) for p, _, spread in unit_tables(opened.model) if spread.any()}
        )
        words += (
            f"This gate ({', '.join(kinds)}) is not tied by offset. A map shows means over pairs "
            f"of equal offset, whose standard deviation is up to {largest:.2g}."
        )
        distrust.append("maps by offset, which are means over pairs that differ")
    if note:
        distrust.append("maps of attention, which leave out what a clip's content adds")
    shown = _exemplar_clips(run, opened.model)
    explorer = BiasExplorer(opened.model, initial, names=["trained", "initial"], clips=shown)
    caption = "Explorer: choose a unit, then click a token or use the arrow keys."
    frames = [(caption, explorer.page())]
    return Section(words, figures=figures, frames=frames, distrust=distrust)


def _exemplar_clips(run: Path, model: PosMLPVideo) -> Tensor | None:
    """One of each pair for the explorer; None where knock-outs cannot tell, or cost too much."""
    with suppress(ValueError):
        runs = NOTED_CLIPS * len(knock_outs(model))
        if runs * cost(model, memory=False)["gmacs"] <= EXEMPLAR_GMACS:
            return run_clips(run, NOTED_CLIPS).clips[::2]
    return None


def statistics(run: Path, variant: str | None = None) -> Section:
    """Means over the groups and blocks of each stage and branch, each beside its controls."""
    opened = open_run(run, variant=variant)
    table = bias_statistics(opened.model, seeded_model(opened.model.config, opened.seed))
    words = (
        "Means over groups and blocks: trained / the same model at initialisation / trained with "
        "offsets shuffled. A statistic that is not far from both controls shows nothing learned. "
        "Definitions: analysis.bias_statistics. Distances are from initialisation, so that their "
        "middle value is 0 by definition. Centres are of offsets, query - key. Those over time "
        "and the temporal locality are in frames, those over space in tokens, entropy in nats. "
        "Shuffling cannot "
        "change entropy, and a window of one token has a single offset, hence nothing but zeros."
    )
    tables = []
    for branch, rows in table.groupby("branch", sort=False):
        means = rows.drop(columns=["branch", "block", "step", "group"]).groupby("stage").mean()
        cells = []
        for name in (*STATISTICS, DISTANCE):
            values = [_triple(row, name) for _, row in means.iterrows()]
            if any(values):
                said = name.replace("_", " ") + " (%)" * (name in SHARES)
                cells.append([said, *(value or "undefined" for value in values)])
        stages = [f"stage {stage}" for stage in means.index]
        tables.append(Table(f"branch {branch}", ["statistic", *stages], cells))
    return Section(words, tables)


def _triple(row: pd.Series, name: str) -> str:
    """Trained / initial / shuffled; empty where the trained value is undefined."""
    if pd.isna(row[name]):
        return ""
    initial = 0.0 if name == DISTANCE else row[f"{name}_initial"]
    values = (row[name], initial, row[f"{name}_shuffled"])
    times, digits = (100, 0) if name in SHARES else (1, 2)
    shown = (
        "undefined" if pd.isna(value) else f"{times * value:.{digits}f}".replace("-0.00", "0.00")
        for value in values
    )
    return " / ".join(shown)


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
