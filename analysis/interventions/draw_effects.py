"""Figures of interventions: they take rows of `analysis.intervene` and of `analysis.exemplars`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from analysis.bias.draw_bias import draw_spatial_bias, draw_temporal_bias
from analysis.figures.place import lay_out, place_of, set_texts
from analysis.figures.style import check_rows, colour, styled, wrapped
from posmlp.config_checks import BRANCHES

METRICS = {"top1": "top-1 accuracy", "within_pair": "within-pair accuracy"}
ALL_BRANCHES = "several"


@styled
def draw_interventions(
    effects: pd.DataFrame,
    *,
    metric: str | None = None,
    most: int = 24,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """The paired change of each intervention with its 95% interval, largest loss at the top.

    `effects`: rows of `intervene`. `metric`: `within_pair` or `top1`; by default the first that
    there is. Of more than `most` interventions those of the largest |change| are drawn, and the
    axis says so. Colours are branches. Raises ValueError for no rows, a missing metric or column,
    a metric without any change, and a `most` below 1.
    """
    present = [name for name in reversed(METRICS) if f"{name}_change" in effects.columns]
    metric = metric or (present[0] if present else "within_pair")
    if metric not in present or not len(effects):
        raise ValueError(
            f"{len(effects)} rows with metrics {present}, asked for {metric!r}; give rows of "
            "analysis.intervene, and within_pair only where classes have reversals"
        )
    columns = [f"{metric}_change", f"{metric}_low", f"{metric}_high"]
    others = (metric, "intervention", "branch", "num_clips", "num_units")
    check_rows(effects, [*columns, *others], "analysis.intervene")
    if not effects[columns[0]].notna().any():
        raise ValueError(f"no row has a value of {columns[0]!r}; there is nothing to draw")
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"most={most!r} must be a whole number of at least 1")
    effects = effects.reset_index(drop=True)  # rows of several models may repeat their labels
    change = 100 * effects[columns]
    change.columns = pd.Index(["mean", "low", "high"])
    kept = change["mean"].abs().nlargest(most, keep="first").index
    change = change.loc[kept].sort_values("mean", kind="stable")
    ax = ax or plt.subplots(figsize=(6.4, 0.9 + 0.2 * len(change)))[1]
    ax.axvline(0, color="0.6", linewidth=0.7, zorder=0)
    branches = effects.loc[change.index, "branch"].fillna(ALL_BRANCHES)
    for branch in dict.fromkeys(branches):
        hue = colour([*BRANCHES, ALL_BRANCHES].index(branch))
        here = np.flatnonzero(branches == branch)
        rows = change.iloc[here]
        ax.hlines(here, rows["low"], rows["high"], color=hue, linewidth=1)
        ax.plot(rows["mean"], here, "o", color=hue, label=branch)
    ax.set_yticks(range(len(change)), effects.loc[change.index, "intervention"])
    ax.tick_params(axis="y", labelsize=7)
    ax.invert_yaxis()
    ax.legend(title="branch", loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_xlabel(_caption(effects, metric, len(change)))
    text = title or f"What interventions change in {METRICS[metric]}"
    ax.set_title(wrapped(text, 4.0))
    return ax


def _caption(effects: pd.DataFrame, metric: str, num_drawn: int) -> str:
    intact = 100 * (effects[metric] - effects[f"{metric}_change"]).dropna().iloc[0]
    clips, units = effects["num_clips"].iloc[0], effects["num_units"].iloc[0]
    paired = f" in {units} pairs" if units != clips else ""
    lines = [
        f"change in {METRICS[metric]} (percentage points; intact {intact:.1f}%)",
        f"{clips} clips{paired}, 95% t-interval each",
    ]
    if num_drawn < len(effects):
        lines.append(f"the {num_drawn} largest of {len(effects)} interventions")
    return "\n".join(lines)


@styled
def draw_exemplars(
    rows: pd.DataFrame,
    clips: Tensor | NDArray[np.uint8],
    maps: pd.DataFrame,
    *,
    num_clips: int = 4,
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """The clips in which a group says most beside its map, a clip a row, its largest frame framed.

    `rows`: of `exemplars`; `clips`: pixels, (B, T, H, W, 3) uint8; `maps`: the group's rows of
    `bias_maps`, of which joint ones are drawn at dy = dx = 0. Numbers are the change in the framed
    frame. `ax`: in whose place to draw. Returns the Axes, the map's first. Raises ValueError for no
    rows, a missing column, rows of several groups, and clips that are not those of the rows.
    """
    check_rows(rows, ("clip", "frame", "change"), "analysis.exemplars")
    check_rows(maps, ("group", "dt", "dy", "dx", "bias"), "analysis.bias_maps")
    pixels, group = np.asarray(clips), maps["group"].unique().tolist()
    if len(group) > 1:
        raise ValueError(f"maps of groups {group}; give the rows of the group that is asked about")
    if pixels.ndim != 5 or len(pixels) <= rows["clip"].max() or pixels.dtype != np.uint8:
        raise ValueError(
            f"clips of {pixels.dtype} and shape {pixels.shape} must be uint8 (B, T, H, W, 3), all "
            f"{rows['clip'].max() + 1} that the rows are of"
        )
    best = rows.drop_duplicates("clip").head(num_clips)
    place = place_of(ax, (9.0, 0.7 + 0.95 * len(best)))
    grid = place.add_gridspec(len(best), 2, width_ratios=[1, 2.4])
    axes = [place.add_subplot(grid[:, 0])]
    over_time = maps["dt"].nunique() > 1
    if over_time:
        draw_temporal_bias(maps[(maps["dy"] == 0) & (maps["dx"] == 0)], ax=axes[0], title=" ")
        if legend := axes[0].get_legend():
            legend.remove()
    else:
        draw_spatial_bias(maps, axes=np.array(axes), title=" ")
    for i, row in enumerate(best.to_dict("records")):
        strip = place.add_subplot(grid[i, 1])
        frames = pixels[row["clip"]]
        strip.imshow(np.concatenate(list(frames), axis=1))
        height, width = frames.shape[1:3]
        corner = (row["frame"] * width - 0.5, -0.5)
        ringed = [withStroke(linewidth=4, foreground="black")]  # seen on any picture
        strip.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="#F0E442",
                                  linewidth=2, path_effects=ringed))  # fmt: skip
        strip.set(xticks=[], yticks=[])
        strip.set_ylabel(f"clip {row['clip']}\n{row['change']:.2g}", fontsize=7, rotation=0,
                         ha="right", va="center")  # fmt: skip
        axes.append(strip)
    share = best["change"].iloc[0] / max(float(rows["change"].median()), 1e-12)
    words = (
        f"Group {group[0]} says most in clip {best['clip'].iloc[0]}: {share:.1f} times the median"
    )
    told = "left: the group's weights; right: clips, framed where its knock-out changes most"
    set_texts(place, title or words, f"{told}, {len(rows)} frames searched")
    lay_out(place)
    return np.array(axes)
