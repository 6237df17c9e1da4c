"""The figure of a comparison: it takes rows of `analysis.compare` or `analysis.effects`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes

from analysis.figures.style import check_rows, colour, styled, wrapped
from analysis.results.paired import check_margin, corrected_interval

KINDS = {
    "better": ("better", "higher", "above"),
    "worse": ("worse", "lower", "below"),
    "equal": ("equal",),
    "cannot tell": ("cannot",),
}
"""The kinds of verdict, and the words that verdicts of that kind begin with."""
COLOURS = {"better": 0, "worse": 1, "equal": 2, "cannot tell": 7}


def verdict_kind(verdict: str) -> str:
    """`better`, `worse`, `equal` or `cannot tell`, of a verdict of `compare` or `effects`.

    Raises ValueError for other words.
    """
    first = _first_word(verdict)
    for kind, words in KINDS.items():
        if first in words:
            return kind
    known = ", ".join(word for words in KINDS.values() for word in words)
    raise ValueError(
        f"verdict {verdict!r} must begin with one of {known}; give the verdicts of "
        "analysis.compare or analysis.effects as they are"
    )


def _first_word(verdict: str) -> str:
    return str(verdict).partition(" ")[0].rstrip(",:")


def tally(verdicts: pd.Series) -> str:
    """How many there are of each kind: `1 better, 4 worse, 2 cannot tell`."""
    kinds = verdicts.map(verdict_kind).value_counts()
    return ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kind in kinds)


@styled
def draw_differences(
    table: pd.DataFrame,
    *,
    label: str | None = None,
    margin: float | None = None,
    unit: str = "",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Each row's difference with its interval, coloured by its verdict, in order of appearance.

    `table`: rows of `compare` or of `effects`. `label`: the column of names; by default `variant`,
    else the first, which is the `by` of `compare`; of effects their levels.
    A row without a difference (no seed in common) is named but has no point. `margin`: the band in
    which differences count as none, shaded. The thick bar is the interval of one comparison, the
    thin one that of all of them together, which leaves out 0 where the verdict is a difference. Of
    a design with looks the bars are repeated intervals, cut where they are too wide. Raises
    ValueError for no rows, a missing column, a margin not above 0, and a verdict in other words
    than theirs.
    """
    label = label or _label(table)
    value = "effect" if "effect" in table else "difference"
    columns = (label, value, "low", "high", "verdict")
    check_margin(margin)
    check_rows(table, columns, "analysis.compare or analysis.effects")
    if ax is None:
        width = 4.2 + 0.065 * max(len(str(name)) for name in table[label])
        ax = plt.subplots(figsize=(width, 1.3 + 0.3 * len(table)))[1]
    ax.axvline(0, color="0.3", linewidth=0.8, zorder=0)
    if margin is not None:
        ax.axvspan(-margin, margin, color="0.93", zorder=-1, label=f"within {margin:g}{unit}")
    kinds = table["verdict"].map(verdict_kind)
    for kind in dict.fromkeys(kinds):
        rows, places = table[kinds == kind], np.flatnonzero(kinds == kind)
        hue = colour(COLOURS[kind])
        thick, thin = (0, 1.2) if "look" in table else (3.2, 1.2)
        ax.hlines(places, rows["low"], rows["high"], color=hue, linewidth=thick)
        wide = np.array([corrected_interval(row) for row in rows.to_dict("records")])
        ax.hlines(places, *wide.T, color=hue, linewidth=thin)
        ax.plot(rows[value], places, "D", color=hue, markersize=5, label=_name(kind, rows))
    ax.set_yticks(range(len(table)), table[label].astype(str))
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:+g}" if x else "0"))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(6))
    ax.set_xlabel(f"{value}{unit and f' in{unit}'} ({_bars(table)})")
    _cut(ax, table, value, margin)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_title(wrapped(title or f"{value} by {label}", 4.2))
    return ax


def _bars(table: pd.DataFrame) -> str:
    if "look" in table:
        return "diamond: mean; bar: repeated 95% interval"
    if "p_holm" in table:
        return "diamond: mean; thick bar: 95% t-interval; thin: corrected"
    return "diamond: mean; bar: 95% t-interval"


def _cut(ax: Axes, table: pd.DataFrame, value: str, margin: float | None) -> None:
    """Leave room for differences, margin and bars; cut thin and repeated ones that are wider."""
    kept = table
    if "look" in table:
        kept = table[table["verdict"].map(verdict_kind) != "cannot tell"]
    shown = [*table[value].abs(), *kept["low"].abs(), *kept["high"].abs(), margin or 0]
    reach = (1.5 if "look" in table else 1.2) * np.nanmax(shown)
    left, right = ax.get_xlim()
    if reach:
        ax.set_xlim(max(left, -reach), min(right, reach))


def _label(table: pd.DataFrame) -> str:
    """The column that names rows."""
    first = next((str(column) for column in table.columns), "variant")
    return "variant" if "variant" in table.columns else "levels" if first == "kind" else first


def _name(kind: str, rows: pd.DataFrame) -> str:
    """The rows' verdicts in their own words (`higher / above`), or the kind's."""
    words = dict.fromkeys(_first_word(verdict) for verdict in rows["verdict"])
    return " / ".join(words) if kind in ("better", "worse") else kind
