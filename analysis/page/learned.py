"""What the trainings of one variant have in common: maps, what they are used for, attributions.

One trained model shows one outcome of chance. Everything here is computed a seed at a time, and
then summarised over seeds: a mean with its 95% t-interval, in columns mean, low, high and n.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from analysis.attribution.scorecard import METRICS, attribution_scores
from analysis.bias.maps import UNIT, bias_maps
from analysis.bias.recurrence import draw_maps_over_seeds, recurrence
from analysis.bias.statistics import STATISTICS, bias_statistics
from analysis.figures.pictures import png
from analysis.figures.style import colour, styled
from analysis.interventions.intervene import intervene
from analysis.interventions.interventions import Intervention, free_tables, knock_outs
from analysis.interventions.run_clips import independent_clips, run_clips
from analysis.results.curves import no_model_under, runs_under
from analysis.results.statistics import t_interval
from posmlp.checkpoint import write_atomically
from posmlp.predict import TrainedModel, open_run
from posmlp.train.population import seeded_model
from posmlp.train.run_folder import model_path, one_variant

METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "saliency": {"method": "saliency"},
    "gradient x input": {"method": "gradient_x_input"},
    "SmoothGrad": {"method": "smooth_grad"},
    "Grad-CAM": {"method": "grad_cam"},
    "occlusion": {"method": "occlusion"},
    "IG, zero": {"method": "integrated_gradients", "baseline": "zero"},
    "IG, mean frame": {"method": "integrated_gradients", "baseline": "mean_frame"},
}
NUM_ATTRIBUTED_CLIPS = 56
MOST_CLIPS = 560
PANELS_A_ROW = 4


def trained_models(
    folder: str | Path, variant: str | None = None
) -> list[tuple[Path, TrainedModel]]:
    """Every finished model under a folder, with the run folder that it is in.

    `variant`: which, where a run has several. Raises ValueError if there is none, or if they are
    not of one config.
    """
    found = [
        (run, open_run(run, member.seed, variant))
        for run in runs_under(folder)
        for member in one_variant(run, variant)
        if model_path(run, member).is_file()
    ]
    if not found:
        raise no_model_under(folder)
    if any(opened.model.config != found[0][1].model.config for _, opened in found):
        raise ValueError(
            f"the runs under {folder} are of different configs; give the folder of one variant, "
            "such as cells/ID of an ablation"
        )
    return found


def learned_statistics(models: Iterable[TrainedModel]) -> pd.DataFrame:
    """`bias_statistics` of each branch over seeds, beside and less its two controls.

    A row a (branch, statistic, value); value is learned, initial (the same seed untrained),
    shuffled (learned, with its offsets permuted), or the difference of learned to either. A seed's
    value is the mean over the branch's groups in all units.
    """
    rows: list[dict[str, Any]] = []
    for opened in models:
        table = bias_statistics(opened.model, seeded_model(opened.model.config, opened.seed))
        for branch, part in table.groupby("branch"):
            for name in STATISTICS:
                learned, initial, shuffled = (
                    part[name + suffix].mean() for suffix in ("", "_initial", "_shuffled")
                )
                values = {
                    "learned": learned,
                    "initial": initial,
                    "shuffled": shuffled,
                    "learned - initial": learned - initial,
                    "learned - shuffled": learned - shuffled,
                }
                key = {"branch": branch, "statistic": name, "seed": opened.seed}
                rows += [key | {"of": of, "value": value} for of, value in values.items()]
    return over_seeds(pd.DataFrame(rows).dropna(), ["branch", "statistic", "of"], "value")


def whole_interventions(opened: TrainedModel) -> list[Intervention]:
    """Each kind of intervention on all tables of each branch that the model has."""
    branches = dict.fromkeys(table.place.branch for table in free_tables(opened.model))
    made = []
    for branch in branches:
        made += [
            Intervention("knock_out", branch=branch),
            Intervention("shuffle", branch=branch, seed=0),
            Intervention("truncate", branch=branch, radius=1),
        ]
        if "T" in branch:
            made.append(Intervention("symmetrise", branch=branch))
    return made


def learned_interventions(runs: Sequence[tuple[Path, TrainedModel]]) -> pd.DataFrame:
    """What `whole_interventions` change in accuracy, over seeds: a row an intervention and metric.

    Each on the run's own test clips; a seed's value is its paired change.
    """
    rows = []
    for run, opened in runs:
        table = intervene(opened.model, run_clips(run, MOST_CLIPS), whole_interventions(opened))
        changes = table.melt(
            "intervention",
            [name for name in ("top1_change", "within_pair_change") if name in table],
            "metric",
            "change",
        )
        metric = changes["metric"].str.removesuffix("_change")
        rows.append(changes.assign(metric=metric, seed=opened.seed))
    return over_seeds(pd.concat(rows), ["intervention", "metric"], "change")


def map_against_use(runs: Sequence[tuple[Path, TrainedModel]]) -> pd.DataFrame:
    """Does a map tell what a group is used for? Spearman's rank correlation, over seeds.

    Over all groups of a model with a time axis: the energy of the map, sum(b^2), and that of its
    antisymmetric part in dt, each against what knocking that group out costs in accuracy. 1: the
    map's order is the order of use; 0: it tells nothing.
    """
    rows = []
    for run, opened in runs:
        lost = intervene(opened.model, run_clips(run, MOST_CLIPS), knock_outs(opened.model))
        table = lost.merge(_energies(opened), on=[*UNIT, "group"])
        table = table[table["branch"].str.contains("T")]
        for energy in ("energy", "antisymmetric energy"):
            for metric in ("top1", "within_pair"):
                change = table.get(f"{metric}_change", pd.Series(dtype=float))
                if change.nunique() > 1 < table[energy].nunique():  # else there is no order
                    rank = float(spearmanr(table[energy], -change).statistic)
                    rows.append((energy, f"loss in {metric}", opened.seed, rank))
    table = pd.DataFrame(rows, columns=["map", "use", "seed", "rank_correlation"])
    return over_seeds(table, ["map", "use"], "rank_correlation")


def _energies(opened: TrainedModel) -> pd.DataFrame:
    """sum(b^2) of each group's map, and of its antisymmetric part in dt."""
    maps = bias_maps(opened.model)
    offsets = ["dt", "dy", "dx"]
    mirrored = maps.assign(dt=-maps["dt"])[[*UNIT, "group", *offsets, "bias"]]
    both = maps.merge(mirrored, on=[*UNIT, "group", *offsets], suffixes=("", "_mirrored"))
    odd = (both["bias"] - both["bias_mirrored"]) / 2
    both = both.assign(**{"energy": both["bias"] ** 2, "antisymmetric energy": odd**2})
    return both.groupby([*UNIT, "group"], as_index=False)[["energy", "antisymmetric energy"]].sum()


def learned_attributions(runs: Sequence[tuple[Path, TrainedModel]]) -> pd.DataFrame:
    """Every score of every attribution method over seeds: a row a method and metric.

    On new clips of the run's generator, whose truth is known; a seed's value is its mean over
    clips. Raises ValueError if the run was not trained on generated clips.
    """
    rows = []
    for run, opened in runs:
        clips = independent_clips(run, NUM_ATTRIBUTED_CLIPS)
        if clips is None:
            raise ValueError(f"{run} was trained on videos, where the truth is not known")
        scores = attribution_scores({str(opened.seed): opened.model}, METHODS, clips)
        means = scores.groupby("method", sort=False)[[m for m in METRICS if m in scores]].mean()
        long = means.reset_index().melt("method", var_name="metric", value_name="score")
        rows.append(long.assign(seed=opened.seed))
    table = over_seeds(pd.concat(rows).dropna(), ["method", "metric"], "score")
    table.insert(2, "better", table["metric"].map(METRICS))
    return table


def learned_recurrence(models: Sequence[TrainedModel]) -> pd.DataFrame:
    """`recurrence` of each unit's maps, over pairs of seeds; n counts pairs."""
    starts = [seeded_model(opened.model.config, opened.seed) for opened in models]
    rows = recurrence([opened.model for opened in models], starts)
    return over_seeds(rows, [*UNIT, "paired", "of"], "alike")


def maps_of_seeds(models: Sequence[TrainedModel]) -> pd.DataFrame:
    """`bias_maps` of every training and its start, with columns `seed` and `of`."""
    parts = []
    for opened in models:
        start = seeded_model(opened.model.config, opened.seed)
        for of, model in (("learned", opened.model), ("initial", start)):
            parts.append(bias_maps(model).assign(seed=opened.seed, of=of))
    return pd.concat(parts, ignore_index=True)


def over_seeds(rows: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Mean, t-interval and number of seeds of `value` for each of the keys."""
    found = []
    for key, part in rows.groupby(keys, sort=False):
        mean, low, high = t_interval(part[value])
        found.append((*key, len(part), mean, low, high))
    return pd.DataFrame(found, columns=[*keys, "n", "mean", "low", "high"])


@styled
def draw_over_seeds(table: pd.DataFrame, rows: str, panels: str) -> Figure:
    """A panel for each value of `panels`, a row for each of `rows`: means and their intervals."""
    names = list(dict.fromkeys(table[rows]))
    titles = list(dict.fromkeys(table[panels]))
    columns = min(len(titles), PANELS_A_ROW)
    shape = (-(-len(titles) // columns), columns)
    size = (2.2 + 2.3 * columns, 0.4 + shape[0] * (0.8 + 0.24 * len(names)))
    figure, axes = plt.subplots(
        *shape, figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, title in itertools.zip_longest(axes.flat, titles):
        if title is None:
            ax.set_visible(False)
            continue
        part = table[table[panels] == title]
        places = part[rows].map(names.index)
        ax.axvline(0, color="0.6", linewidth=0.7, zorder=0)
        ax.hlines(places, part["low"], part["high"], color=colour(0), linewidth=1.5)
        ax.plot(part["mean"], places, "o", color=colour(0), markersize=4)
        ax.set_title(str(title).replace("_", " "), fontsize=9)
        ax.tick_params(axis="x", labelsize=8)
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"mean over {table['n'].max()} seeds with its 95% t-interval", fontsize=8)
    return figure


def write_learned(folder: str | Path, out: str | Path, variant: str | None = None) -> Path:
    """Write all five tables of a variant's trainings, and their figures, to `out`.

    A table is empty, and has no figure, where nothing can be said: maps against use want groups
    over time, and losses that differ.
    """
    runs = trained_models(folder, variant)
    models = [opened for _, opened in runs]
    target = Path(out)
    write_recurrence(models, target)
    made: dict[str, tuple[Callable[[], pd.DataFrame], str, str]] = {
        "statistics": (lambda: learned_statistics(models), "of", "statistic"),
        "interventions": (lambda: learned_interventions(runs), "intervention", "metric"),
        "map-against-use": (lambda: map_against_use(runs), "map", "use"),
        "attributions": (lambda: learned_attributions(runs), "method", "metric"),
    }
    for name, (gather, rows, panels) in made.items():
        table = gather()
        _write_table(table, target / f"{name}.csv")
        parts = table.groupby("branch") if "branch" in table else [("", table)]
        for part, shown in parts:
            if shown.empty:
                continue
            figure = draw_over_seeds(shown, rows, panels)
            write_atomically(target / f"{name}{part and '-' + str(part)}.png", png(figure))
    return target


def write_recurrence(models: Sequence[TrainedModel], target: Path) -> None:
    """Write recurrence.csv and, of models with units over time alone, maps-over-seeds.png."""
    _write_table(learned_recurrence(models), target / "recurrence.csv")
    maps = maps_of_seeds(models)
    if (maps["branch"] == "T").any():
        axes = draw_maps_over_seeds(maps)
        write_atomically(target / "maps-over-seeds.png", png(axes[0, 0].figure))


def _write_table(table: pd.DataFrame, path: Path) -> None:
    write_atomically(path, table.round(6).to_csv(index=False).encode())
