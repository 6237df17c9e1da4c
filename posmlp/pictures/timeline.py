"""What is answered when, in a long recording: a coloured line of time, and a table."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageColor, ImageDraw

from posmlp.clip_scores import as_csv
from posmlp.data.charts import COLOURS, drawn, new_chart
from posmlp.data.layouts.listing import as_text
from posmlp.predict import Prediction


def colours_of(parts: Sequence[Prediction]) -> dict[str, str]:
    """A colour for each class that is ever the likeliest, those of most seconds first.

    More classes than there are colours share the last.
    """
    seconds: dict[str, float] = {}
    for part in parts:
        start, end = part.seconds
        (name, _), *_ = part.top(1)
        seconds[name] = seconds.get(name, 0.0) + end - start
    order = sorted(seconds, key=lambda name: -seconds[name])
    return {name: COLOURS[min(i, len(COLOURS) - 1)] for i, name in enumerate(order)}


def timeline_csv(parts: Sequence[Prediction]) -> bytes:
    """A row a part: its seconds, its likeliest class and the probability of each class."""
    rows = []
    for part in parts:
        (name, probability), *_ = part.top(1)
        start, end = (f"{second:.3f}" for second in part.seconds)
        row = {"video": part.video, "start_s": start, "end_s": end, "class": name}
        each = {"probability": probability}
        names = [f"probability {k}" for k in part.classes]
        each |= zip(names, part.probabilities.tolist(), strict=True)
        rows.append(row | {k: f"{value:.4f}" for k, value in each.items()})
    return as_csv(rows)


def draw_band(parts: Sequence[Prediction], width: int, height: int) -> Image.Image:
    """The parts of one video side by side, in their class's colour, the paler the less sure."""
    colours, length = colours_of(parts), parts[-1].seconds[1]
    band = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(band)
    for part in parts:
        (name, probability), *_ = part.top(1)
        ink = ImageColor.getrgb(colours[name])
        shade = tuple(round(255 + (c - 255) * (0.25 + 0.75 * probability)) for c in ink[:3])
        left, right = (round(width * second / length) for second in part.seconds)
        draw.rectangle((left, 0, max(left, right - 1), height), shade)
    return band


@drawn
def draw_timeline(parts: Sequence[Prediction]) -> Figure:
    """The band of one video over its seconds, with a key of colours."""
    colours, end = colours_of(parts), parts[-1].seconds[1]
    figure, (ax,) = new_chart(9, 1.1 + 0.2 * len(colours))
    ax.imshow(draw_band(parts, 960, 48), extent=(0, end, 0, 1), aspect="auto")
    ax.set(yticks=[], xlabel="seconds; the paler, the less sure")
    key = [Patch(color=colour, label=as_text(name)) for name, colour in colours.items()]
    figure.legend(handles=key, loc="outside lower left", frameon=False)
    return figure
