"""Do maps come again with another seed? What does, and what is chance.

Nothing ties group 3 of one training to group 3 of another: channels start alike. Nor does a map's
sign mean anything by itself: with its table, its token bias and the weights that read it negated, a
unit computes the same. So groups are compared by number, and each with its best match in the other
model, whatever their signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from analysis.bias.maps import UNIT, Array, columns_of, unit_tables
from analysis.figures.place import lay_out, place_of, set_texts
from analysis.figures.style import check_rows, colour, styled
from posmlp.model import PosMLPVideo

BY_NUMBER, BEST_MATCH = "by number", "best match"


def recurrence(
    models: Sequence[PosMLPVideo],
    initial: Sequence[PosMLPVideo] | None = None,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """How alike the maps of two trainings are, for the first and second model, third and fourth...

    No model stands in two pairs, so that pairs are independent, and t-intervals over them hold.

    Parameters
    ----------
    models : sequence of PosMLPVideo
        Trainings of one config from different seeds; of an odd number the last is left out.
    initial : sequence of PosMLPVideo, optional
        The same models before training.
    seed : int
        Of the permutations of offsets, one for each group: maps with the same values and no shape.

    Returns
    -------
    DataFrame
        A row a unit (stage, block, step, branch), `of` (learned, shuffled and, with `initial`,
        initial), `paired` and `pair`, with `alike`: the mean over groups of |cosine| of their maps,
        0 where one is all zero. `by number` compares groups of the same number; `best match` takes
        the one-to-one assignment that makes the mean largest, which is above 0 for unrelated maps,
        too: read it beside its controls.
    """
    rng = np.random.default_rng(seed)
    tables = [{place[:4]: (place, table) for place, table, _ in unit_tables(m)} for m in models]
    starts = [{place[:4]: table for place, table, _ in unit_tables(m)} for m in initial or []]
    rows: list[dict[str, Any]] = []
    for key, (place, _) in (tables[0] if tables else {}).items():
        learned = [_flat(each[key][1]) for each in tables]
        versions = {"learned": learned, "shuffled": [rng.permuted(b, axis=1) for b in learned]}
        if starts:
            versions["initial"] = [_flat(each[key]) for each in starts]
        for of, maps in versions.items():
            for pair, (one, other) in enumerate(zip(maps[::2], maps[1::2], strict=False)):
                for paired, alike in _alike(one, other).items():
                    row = {"paired": paired, "of": of, "pair": pair, "alike": alike}
                    rows.append({**columns_of(place), **row})
    return pd.DataFrame(rows, columns=[*UNIT, "paired", "of", "pair", "alike"])


def _flat(table: Array) -> Array:
    return table.reshape(len(table), -1)


def _alike(one: Array, other: Array) -> dict[str, float]:
    """Mean |cosine| of the groups of two units, (G, offsets) each, paired in both ways."""
    ends = [b / np.maximum(np.linalg.norm(b, axis=1, keepdims=True), 1e-300) for b in (one, other)]
    cosines = np.abs(ends[0] @ ends[1].T)
    best = cosines[linear_sum_assignment(-cosines)]
    return {BY_NUMBER: float(np.diag(cosines).mean()), BEST_MATCH: float(best.mean())}


@styled
def draw_maps_over_seeds(
    maps: pd.DataFrame, *, group: int = 0, ax: Axes | None = None, title: str | None = None
) -> NDArray[Any]:
    """What every seed's temporal maps have in common, and what one group of them is.

    `maps`: rows of `bias_maps` of several models of one config, with columns `seed` and `of`
    (`learned`, and `initial` for the start). A column a unit over time. Above, the root mean square
    over groups of the weight at each offset: how strongly the unit weighs what lies so far away.
    Below, the weights of one group. A thin line a seed, a thick one their mean, and dashed the mean
    at the start. A column's title says where most seeds weigh most; that of the figure how much
    each varies: the root mean square of the difference to the seeds' mean, as a share of that of
    the values. `ax`: in whose place to draw. Returns the Axes, (2, units). Raises ValueError for no
    rows over time alone, a missing column, and a group that a unit lacks.
    """
    check_rows(maps, [*UNIT, "group", "dt", "bias", "seed", "of"], "analysis.bias_maps of seeds")
    maps = maps[maps["branch"] == "T"]
    units = [(key, rows) for key, rows in maps.groupby(UNIT)]
    if not units:
        raise ValueError("no unit is over time alone (branch T); draw others with draw_joint_bias")
    fewest = min(rows["group"].nunique() for _, rows in units)
    if not 0 <= group < fewest:
        raise ValueError(f"group={group} must be from 0 to {fewest - 1}, which all units have")
    figure = place_of(ax, (1.2 + 1.9 * len(units), 3.9))
    axes = figure.subplots(2, len(units), sharex=True, sharey="row", squeeze=False)
    vary: tuple[list[float], list[float]] = ([], [])
    for column, (key, rows) in zip(axes.T, units, strict=True):
        power = rows.assign(bias=rows["bias"] ** 2).groupby(["of", "seed", "dt"])["bias"].mean()
        one = rows[rows["group"] == group].set_index(["of", "seed", "dt"])["bias"]
        for ax, values, varies in zip(column, (np.sqrt(power), one), vary, strict=True):
            varies.append(_draw_lines(ax, values.unstack("dt").sort_index(axis=1)))
        peaks = power.loc["learned"].unstack("dt").idxmax(axis=1).abs().value_counts()
        most = f"most at |dt| = {peaks.index[0]} in {peaks.iloc[0]} of {peaks.sum()}"
        column[0].set_title(f"stage {key[0]}, block {key[1]}\n{most}", fontsize=8)
    axes[0, 0].set_ylabel("all groups: rms weight")
    axes[1, 0].set_ylabel(f"group {group}: weight")
    reach, own = (f"{np.mean(shares):.0%}" for shares in vary)
    found = f"the reach of a unit varies by {reach}, its group {group} by {own}"
    caption = "dt = query - key (frames; right: key in the past). Thin: a seed; thick: their mean"
    caption += "; dashed: the mean at the start." if "initial" in set(maps["of"]) else "."
    set_texts(figure, title or f"Over {maps['seed'].nunique()} seeds {found}", caption)
    lay_out(figure)
    return axes


def _draw_lines(ax: Axes, table: pd.DataFrame) -> float:
    """A line a row (of, seed), by dt; how much the learned ones vary, as a share of their size."""
    learned = table.loc["learned"]
    ax.axhline(0, color="0.6", linewidth=0.7, zorder=0)
    ax.plot(learned.columns, learned.T, color="0.75", linewidth=0.6)
    ax.plot(learned.columns, learned.mean(), color=colour(0), linewidth=2)
    if "initial" in table.index:
        ax.plot(table.columns, table.loc["initial"].mean(), "--", color=colour(1), linewidth=1.2)
    apart = ((learned - learned.mean()) ** 2).mean(axis=None)
    return float(np.sqrt(apart / (learned**2).mean(axis=None)))
