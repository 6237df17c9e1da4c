"""What the figures share: the style, colours, colour scales, titles, and the check of rows."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from numpy.typing import NDArray

STYLE = str(Path(__file__).with_name("posmlp.mplstyle"))
P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw under the project's style, and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with plt.style.context(STYLE):
            result = draw(*args, **kwargs)
            interactive = plt.isinteractive()
        # The first figure of a notebook loads its backend, which turns this on; leaving the style
        # would turn it off again, and the notebook would show no figure without plt.show().
        plt.interactive(interactive)
        return result

    return wrapper


def check_rows(rows: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise ValueError for no rows, and for a column that is missing or stands twice.

    `source` is what makes such rows.
    """
    missing = [column for column in columns if column not in rows.columns]
    if twice := [name for name in columns if list(rows.columns).count(name) > 1]:
        raise ValueError(f"two columns are called {twice[0]!r}; rename or drop one")
    if missing or not len(rows):
        what = f"have no column {missing[0]!r}" if missing else "are empty"
        raise ValueError(f"the rows {what}; give rows of {source}")


def by_model(rows: pd.DataFrame) -> tuple[list[pd.DataFrame], str]:
    """Rows parted by a column `model`, if there is one, and which is drawn in full lines."""
    if "model" not in rows:
        return [rows], ""
    parts = {str(name): own for name, own in rows.groupby("model", sort=False)}
    first, *others = parts
    return list(parts.values()), ", ".join([f"full: {first}", *(f"dashed: {n}" for n in others)])


def colour(number: int) -> str:
    """The same colour for the same group or variant number in every figure."""
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    return colours[number % len(colours)]


def colours(names: Sequence[str], highlight: Sequence[str] | None = None) -> dict[str, str]:
    """Each variant's colour by its place among those highlighted (all by default), else grey."""
    places = {name: i for i, name in enumerate(names if highlight is None else highlight)}
    return {name: colour(places[name]) if name in places else "0.75" for name in names}


def symmetric_limit(values: NDArray[Any]) -> float:
    """The 99th percentile of |value|, by which colours are cut; 1 if that is 0."""
    return float(np.percentile(np.abs(values), 99)) or 1.0


def add_colour_bar(image: Any, ax: Any, values: Any, limit: float) -> None:
    """A colour bar with pointed ends where values lie beyond it."""
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    key = (bool(values.min() < -limit), bool(values.max() > limit))
    figure = image.axes.figure
    figure.colorbar(image, ax=ax, extend=beyond.get(key, "both"), label="mixing weight", aspect=25)


def plain(value: float, digits: int = 3) -> str:
    """A number to so many digits, in full: `0.00021` and `12,345`, never `2.1e-04`."""
    if not np.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return np.format_float_positional(value, digits, fractional=False, trim="-")


def wrapped(title: str, width_inches: float) -> str:
    """A bold title broken into lines that fit; 11 letters an inch."""
    return textwrap.fill(title, max(20, int(11 * width_inches)))
