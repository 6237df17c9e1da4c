"""Which classes a trained model tells apart: its stored weights, run again on its test clips."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from analysis.figures.pictures import png
from analysis.figures.style import styled, wrapped
from analysis.results.curves import no_model_under, runs_under, variant_of
from posmlp.checkpoint import write_atomically
from posmlp.clip_scores import ClipScores
from posmlp.config import TrainConfig
from posmlp.predict import open_run
from posmlp.train.run_folder import model_path, read_config, run_members
from posmlp.train.scoring import logits_of, metrics

METRICS = ("top1", "within_pair")


def class_accuracy(
    run: str | Path, seed: int | None = None, variant: str | None = None
) -> pd.DataFrame:
    """Scores of one model of a run on each class of its test clips, in the classes' order.

    Columns: class, num_clips, num_predicted (clips of any class that are taken for it), answers
    (how many of its clips are taken for each class, in the order of all classes), top1 (share of
    the class's clips whose own class scores highest); where classes have time reversals also pair
    and within_pair (share whose own class outscores that of its reversal; .5 for a model blind to
    order). Of clips with several labels: `ClipScores.by_class`. `seed`: by default the run's first;
    `variant`: where the run has several. Raises ValueError if the folder holds no finished run, or
    its clips cannot be had any more.
    """
    trained, stored = open_run(run, seed, variant), read_config(run)
    train = TrainConfig.from_dict(stored["train"])
    if not stored.get("source"):
        raise ValueError(f"{run} was given its clips as Python objects, which it does not keep")
    logits, clips = logits_of(trained.model, stored["source"], train=train)
    if trained.multi_label:
        return pd.DataFrame(ClipScores.of("", logits, clips).by_class())
    rows = []
    for number, name in enumerate(clips.classes):
        own = clips.labels == number
        if not own.any():
            continue
        found = metrics(logits[own], clips.labels[own], clips.reverse_of)
        counts = logits[own].argmax(-1).bincount(minlength=len(clips.classes))
        row = {"class": name, "num_clips": int(own.sum())}
        row["num_predicted"] = int((logits.argmax(-1) == number).sum())
        row["answers"] = " ".join(map(str, counts.tolist()))
        if clips.reverse_of is not None:
            ends = sorted((number, int(clips.reverse_of[number])))
            row["pair"] = " / ".join(clips.classes[end] for end in ends)
        rows.append(row | {name: found[name] for name in METRICS if name in found})
    return pd.DataFrame(rows)


def gather_classes(folder: str | Path) -> pd.DataFrame:
    """`class_accuracy` of every finished run under a folder, by variant and seed.

    Raises ValueError if there is none.
    """
    tables = []
    for run in runs_under(folder):
        for member in run_members(run):
            if model_path(run, member).is_file():
                table = class_accuracy(run, member.seed, member.variant or None)
                name, _ = variant_of(run, Path(folder), member.variant)
                table.insert(0, "variant", name)
                table.insert(1, "seed", member.seed)
                tables.append(table)
    if not tables:
        raise no_model_under(folder)
    return pd.concat(tables).sort_values(["variant", "seed"], kind="stable", ignore_index=True)


@styled
def draw_classes(df: pd.DataFrame, *, metric: str = "within_pair", ax: Axes | None = None) -> Axes:
    """The mean over seeds of each variant (a row) on each class, or each pair of reversed classes.

    `df` as `gather_classes` gives it. Pairs are shown for within_pair, classes for top1. Raises
    ValueError if there is no such metric.
    """
    if metric not in df:
        raise ValueError(f"metric={metric!r} is not in the table; use one of {list(df.columns)}")
    by = "pair" if metric == "within_pair" else "class"
    table = df.pivot_table(metric, "variant", by, sort=False)
    if ax is None:
        size = (2.6 + 0.75 * table.shape[1], 1.6 + 0.34 * table.shape[0])
        ax = plt.subplots(figsize=size)[1]
    low = 0.5 if metric == "within_pair" else 0.0
    sns.heatmap(
        table,
        vmin=low,
        vmax=1,
        cmap="viridis",
        annot=True,
        fmt=".2f",
        annot_kws={"fontsize": 8},
        linewidths=0.5,
        cbar_kws={"label": f"{metric}, from chance to 1" if low else metric},
        ax=ax,
    )
    ax.grid(False)
    ax.set_xticks(ax.get_xticks(), [name.replace(" / ", " /\n") for name in table.columns])
    ax.set_yticks(ax.get_yticks(), [re.sub(r"=\S*/", "=", name) for name in table.index])
    ax.tick_params(axis="x", rotation=40)
    ax.set(xlabel="", ylabel="")
    num_seeds = df.groupby("variant")["seed"].nunique()
    at_least = "" if num_seeds.nunique() == 1 else "at least "
    plural = "s" if num_seeds.max() > 1 else ""
    over = f"mean over {at_least}{num_seeds.min()} seed{plural}"
    ax.set_title(wrapped(f"{metric} by {by}, {over}", 5.0))
    return ax


def write_classes(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write classes.csv and classes.png of a folder's runs to `out` (by default the folder)."""
    target = Path(out or folder)
    table = gather_classes(folder)
    metric = next(name for name in (*METRICS[::-1], "average_precision") if name in table)
    write_atomically(target / "classes.csv", table.round(6).to_csv(index=False).encode())
    write_atomically(target / "classes.png", png(draw_classes(table, metric=metric).figure))
    return target
