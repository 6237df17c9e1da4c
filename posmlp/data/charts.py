"""Charts that commands write beside their tables: matplotlib figures, and their PNG files.

A figure is of its own, outside pyplot, so that no window opens and no setting of a caller changes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY = COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"),
)
"""Okabe and Ito's, which the colour-blind tell apart, with grey in place of their black."""
DPI = 110

_STYLE: dict[Any, Any] = {
    **{"text.parse_math": False, "font.size": 9},  # a class may be called $x
    **{"axes.spines.top": False, "axes.spines.right": False},
}


@contextmanager
def _plain() -> Iterator[None]:
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        yield


drawn = _plain()
"""Decorates what draws a chart. A letter that the font lacks is an empty box, without a warning."""


def new_chart(width: float, height: float, num_axes: int = 1) -> tuple[Figure, list[Any]]:
    """A figure of so many inches, and its axes side by side."""
    figure = Figure((width, height), dpi=DPI, layout="constrained")
    return figure, list(figure.subplots(1, num_axes, squeeze=False)[0])


@drawn
def as_png(figure: Figure) -> bytes:
    """The content of its file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
