"""The section of a run's page on where the order of frames becomes the answer, and its files."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd
from torch import Tensor

from analysis.cost.costs import cost
from analysis.figures.pictures import png
from analysis.inside.activations import hook_points
from analysis.inside.arrow import arrow_curve
from analysis.inside.draw_patching import (
    carrying,
    draw_arrow,
    draw_patching,
    found_in_words,
    over_seeds,
)
from analysis.inside.patching import MEAN, UNRELATED, patch
from analysis.inside.paths import contributions, patch_paths
from analysis.interventions.run_clips import run_clips
from analysis.page.learned import trained_models
from analysis.page.sections import Section, Table
from posmlp.checkpoint import write_atomically
from posmlp.data.augment import normalise
from posmlp.data.sources import HeldClips
from posmlp.model import PosMLPVideo
from posmlp.predict import open_run

PATCH_GMACS = 60  # some seconds of one core on a toy model
MOST_CLIPS = 56
FEWEST_CLIPS = 8
STRENGTHS = (1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5, -0.75, -1.0)
NO_ARROW = "the model answers"


def order_of_frames(run: Path, variant: str | None = None) -> Section:
    """Patching on reversed pairs, what the last stage's branches add, and the arrow of time."""
    opened = open_run(run, variant=variant)
    model = opened.model
    held = run_clips(run, _num_clips(model))
    clips = _inputs(model, held)
    patched, summands = _quietly(model, clips)
    curve = arrow_curve(model, held, STRENGTHS)
    cells = [
        [row["name"].removesuffix(".out"), str(row["how"]), _interval(row)]
        for row in summands.to_dict("records")
    ]
    num_pairs = int(patched["n"].max())
    words = (
        f"{found_in_words(patched)}. Seed {opened.seed} is run on {len(clips)} test clips and on "
        "their reversals; then one activation is replaced by that of the reversal, turned back in "
        "time. Its share is how far the answer moves towards the reversal's: 0 nothing, 100% all. "
        f"The answers of {num_pairs} pairs differ. The curve turns what is odd in time in all "
        "temporal tables and token biases. At 1 the model is as it learned, at 0 it cannot tell a "
        "clip from its reversal, at -1 it answers each clip as it did the reversal."
    )
    head = ["branch", "how it was found", "share of the difference (%) [95%]"]
    table = Table("what each branch adds (shares of the last stage sum to 100%)", head, cells)
    figures = [
        ("Share of the difference between a clip's answer and its reversal's, by activation.",
         draw_patching(patched).figure),
        ("Scores as the arrow of time is turned.", draw_arrow(curve).figure),
    ]  # fmt: skip
    return Section(words, [table], figures, verdict=_verdict(patched, curve))


def write_inside(
    run: str | Path,
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    variant: str | None = None,
    num_clips: int = MOST_CLIPS,
    where: str = "*",
    frames: bool = False,
) -> Path:
    """Write patching.csv, contributions.csv and arrow.csv with their figures; returns the folder.

    control.csv is the patching with unrelated clips, mean.csv what mean ablation takes away, and
    paths.csv what goes straight from a temporal branch to a later one. RUN/inside by default.
    Of a folder of several runs, such as an ablation's cells/ID, every model is patched: its rows
    stand in patching.csv by `seed`, and seeds.csv says which branches carry a tenth in how many.
    `where` and `frames` are those of `patch`. Raises ValueError for a
    folder without a trained model, clips that cannot be had, and clips of a single frame.
    """
    if num_clips < 4:
        raise ValueError(
            f"--clips {num_clips} leaves one pair, which has no control; use 4 or more"
        )
    out = Path(out) if out else Path(run) / "inside"
    if seed is None and not (Path(run) / "config.json").is_file():
        return _write_seeds(Path(run), out, variant, num_clips, where, frames)
    opened = open_run(run, seed, variant)
    held = run_clips(run, num_clips)
    clips = _inputs(opened.model, held)
    _check_time(opened.model)
    tables = {
        "patching": patch(opened.model, clips, where=where, frames=frames),
        "control": patch(opened.model, clips, UNRELATED, where, frames=frames),
        "mean": patch(opened.model, clips, MEAN, "*.out"),
        "paths": patch_paths(opened.model, clips, "*T*.out"),
        "contributions": contributions(opened.model, clips),
        "arrow": arrow_curve(opened.model, held, STRENGTHS),
    }
    for name, table in tables.items():
        write_atomically(out / f"{name}.csv", table.to_csv(index=False).encode())
    drawn = {
        "patching": draw_patching(tables["patching"], control=tables["control"]),
        "arrow": draw_arrow(tables["arrow"]),
    }
    for name, axes in drawn.items():
        write_atomically(out / f"{name}.png", png(axes.figure))
    return out


def _write_seeds(
    folder: Path, out: Path, variant: str | None, num_clips: int, where: str, frames: bool
) -> Path:
    parts = []
    for run, opened in trained_models(folder, variant):
        _check_time(opened.model)
        clips = _inputs(opened.model, run_clips(run, num_clips))
        rows = patch(opened.model, clips, where=where, frames=frames)
        parts.append(rows.assign(seed=opened.seed))
    patched = pd.concat(parts, ignore_index=True)
    for name, table in (("patching", patched), ("seeds", over_seeds(patched))):
        write_atomically(out / f"{name}.csv", table.to_csv(index=False).encode())
    write_atomically(out / "patching.png", png(draw_patching(patched).figure))
    return out


def _inputs(model: PosMLPVideo, held: HeldClips) -> Tensor:
    """Clips as the model takes them, on its device."""
    return normalise(held.clips.to(next(model.parameters()).device))


def _verdict(patched: pd.DataFrame, curve: pd.DataFrame) -> str:
    """Where a clip and its reversal part, for the top of the page."""
    if not patched["share"].notna().any():
        return "Nothing in this model tells a clip from its reversal."
    named = ", ".join(
        f"{row['branch']} of stage {row['stage']}, block {row['block']} ({row['share']:.0%})"
        for row in carrying(patched)
    )
    if not named:
        return "No single branch carries the difference between a clip and its reversal."
    said = f"The order of frames becomes the answer in branch {named}."
    if "within_pair" in curve:
        right = curve.set_index("strength")["within_pair"]
        said += (
            f" With the arrow of time in its weights reversed, {right[-1.0]:.0%} within pairs are "
            f"right in place of {right[1.0]:.0%} ({curve['num_clips'].iloc[0]} clips)."
        )
    return said


def _num_clips(model: PosMLPVideo) -> int:
    """How many clips are affordable. Raises ValueError if too few, and for a model without time."""
    _check_time(model)
    runs = len(hook_points(model)) + len(STRENGTHS)
    affordable = int(PATCH_GMACS / (cost(model, memory=False)["gmacs"] * runs))
    if affordable < FEWEST_CLIPS:
        raise ValueError(
            f"exchanging {runs} activations of this model on {FEWEST_CLIPS} clips takes more than "
            f"{PATCH_GMACS} GMACs; call analysis.patch with some names, on a GPU"
        )
    return min(MOST_CLIPS, affordable)


def _check_time(model: PosMLPVideo) -> None:
    config = model.config
    if config.num_frames < 2 or not any("T" in layout for layout in config.layouts):
        raise ValueError(
            f"layout {', '.join(dict.fromkeys(config.layouts))} over {config.num_frames} frames "
            "never mixes over time, so that each clip is answered as its reversal; train a layout "
            "with T or ST on clips of several frames"
        )


def _quietly(model: PosMLPVideo, clips: Tensor) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables without the warning, which the section's own words repeat."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=NO_ARROW)
        return patch(model, clips), contributions(model, clips)


def _interval(row: dict[str, float]) -> str:
    if pd.isna(row["share"]):
        return "undefined"
    share, low, high = (100 * row[name] for name in ("share", "low", "high"))
    said = f"{share:+.1f} [{low:+.1f}, {high:+.1f}]"
    return said.replace("+0.0", "0.0").replace("-0.0", "0.0")
