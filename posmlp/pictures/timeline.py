"""What is answered when, in a long recording: a coloured line of time, and a table."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageColor, ImageDraw, ImageFont

from posmlp.clip_scores import as_csv
from posmlp.predict import Prediction

# Okabe and Ito's colours, which the colour-blind tell apart; more classes share the last.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
_WIDTH, _BAND, _ROW, _MARGIN = 960, 48, 20, 12


def colours_of(parts: Sequence[Prediction]) -> dict[str, str]:
    """A colour for each class that is ever the likeliest, those of most seconds first."""
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


def draw_timeline(parts: Sequence[Prediction]) -> Image.Image:
    """The band of one video over its seconds, with a key of colours."""
    colours, font = colours_of(parts), ImageFont.load_default(size=13)
    height = 3 * _MARGIN + _BAND + _ROW * (len(colours) + 1)
    page = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(page)
    inner = _WIDTH - 2 * _MARGIN
    page.paste(draw_band(parts, inner, _BAND), (_MARGIN, _MARGIN))
    y, end = _MARGIN + _BAND + 4, parts[-1].seconds[1]
    for tenth in range(0, 11, 2):
        x = _MARGIN + inner * tenth // 10
        anchor = "la" if tenth == 0 else "ra" if tenth == 10 else "ma"
        draw.text((x, y), f"{end * tenth / 10:.1f} s", "black", font, anchor)
    for i, (name, colour) in enumerate(colours.items()):
        top = y + _MARGIN + _ROW * (i + 1)
        draw.rectangle((_MARGIN, top, _MARGIN + 12, top + 12), colour)
        draw.text((_MARGIN + 20, top - 2), name, "black", font)
    return page
