"""A video with its likeliest classes written under it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from posmlp.data.files.packets import pyav
from posmlp.data.files.video import iterate_frames
from posmlp.pictures.timeline import colours_of, draw_band
from posmlp.predict import Prediction
from posmlp.shapes import not_written

SHORT_SIDE = 360  # pixels; larger videos are shown at about this size
LEAST_WIDTH = 320  # pixels; smaller ones are enlarged, so that the words below them can be read
ROW, MARGIN, TIMELINE = 24, 8, 16  # pixels
TICK_S = Fraction(1, 90_000)  # of the clock by which frames are shown
_INK, _BAR, _BEST = "#1b1f24", "#9fb0c6", "#2a78c2"
_PAPER, _TRACK, _FAINT = "#ffffff", "#f0f2f5", "#d9dee5"


def annotate_video(
    found: Prediction | Sequence[Prediction], out: str | Path, num_classes: int = 5
) -> None:
    """Write the whole video to `out` (.mp4), its likeliest classes as bars below each frame.

    `found`: of the video, or of its parts in order, each of which is shown as long as it lasts.
    Frames keep their times. A line at the bottom runs with the video; marks on it are the frames
    that the model saw, or else its colours the likeliest classes of the parts.
    Raises ValueError for another suffix, VideoError where the video cannot be read, and
    NotWrittenError.
    """
    parts = [found] if isinstance(found, Prediction) else list(found)
    out, whole = Path(out), parts[0]
    if out.suffix.lower() != ".mp4":
        raise ValueError(f"an annotated video is an mp4; name it {out.with_suffix('.mp4')}")
    if out.exists() and out.samefile(whole.video):
        raise ValueError(f"{out} is the video itself, which would be lost; give another name")
    partial = out.with_name(f".{out.stem}.partial.mp4")
    length = whole.second(whole.num_frames)
    rate = Fraction(whole.num_frames / length).limit_denominator(1001)
    panel: Image.Image | None = None
    av = pyav()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(partial), "w") as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = TICK_S
            part, later = whole, parts[1:]
            for position, frame in enumerate(iterate_frames(whole.video, short_side=SHORT_SIDE)):
                picture = _enlarged(frame)
                if later and position >= later[0].first:
                    part, later, panel = later[0], later[1:], None
                if panel is None:
                    panel = _draw_panel(part, parts, picture.width, num_classes)
                if position == 0:
                    stream.width, stream.height = picture.width, picture.height + panel.height
                second = whole.second(position)
                page = np.asarray(_page(picture, panel, second / length))
                written = av.VideoFrame.from_ndarray(page, format="rgb24")
                written.pts, written.time_base = round(second / TICK_S), TICK_S
                container.mux(stream.encode(written))
            container.mux(stream.encode())
        os.replace(partial, out)
    except OSError as error:
        raise not_written(out, 0, error) from error
    finally:
        with suppress(OSError):  # it may never have come to be
            partial.unlink()


def _enlarged(frame: NDArray[np.uint8]) -> Image.Image:
    """Return the frame with even sides, by a whole factor so large that the panel is legible."""
    height, width = frame.shape[:2]
    factor = max(1, -(-LEAST_WIDTH // width))
    size = (width * factor // 2 * 2, height * factor // 2 * 2)
    return Image.fromarray(frame).resize(size, Image.Resampling.NEAREST)


def _draw_panel(
    found: Prediction, parts: Sequence[Prediction], width: int, num_classes: int
) -> Image.Image:
    rows = found.top(num_classes)
    best = colours_of(parts)[rows[0][0]] if len(parts) > 1 else _BEST
    panel = Image.new("RGB", (width, 2 * MARGIN + ROW * len(rows) + TIMELINE), _PAPER)
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=15)
    bar_left, bar_right = round(0.62 * width), width - MARGIN - 52
    for i, (name, probability) in enumerate(rows):
        top = MARGIN + i * ROW
        middle = top + ROW // 2
        name = _shortened(name, bar_left - 2 * MARGIN, font)
        draw.text((MARGIN, middle), name, _INK, font, anchor="lm")
        draw.rectangle((bar_left, top + 5, bar_right, top + ROW - 6), _TRACK)
        right = bar_left + round((bar_right - bar_left) * probability)
        draw.rectangle((bar_left, top + 5, right, top + ROW - 6), _BAR if i else best)
        draw.text((width - MARGIN, middle), f"{probability:.1%}", _INK, font, anchor="rm")
    y = _timeline_y(panel)
    if len(parts) > 1:
        panel.paste(draw_band(parts, width - 2 * MARGIN, 10), (MARGIN, y - 5))
        return panel
    draw.line((MARGIN, y, width - MARGIN, y), _FAINT, 3)
    for index in found.indices.tolist():
        x = _timeline_x(found.second(index) / found.second(found.num_frames), width)
        draw.line((x, y - 5, x, y + 5), _BEST, 2)
    return panel


def _page(picture: Image.Image, panel: Image.Image, share: float) -> Image.Image:
    """Put the panel under a frame, the moment marked at that share of the video."""
    page = Image.new("RGB", (picture.width, picture.height + panel.height))
    page.paste(picture, (0, 0))
    page.paste(panel, (0, picture.height))
    x, y = _timeline_x(share, picture.width), picture.height + _timeline_y(panel)
    ImageDraw.Draw(page).ellipse((x - 4, y - 4, x + 4, y + 4), _INK)
    return page


def _timeline_x(share: float, width: int) -> int:
    return MARGIN + round(share * (width - 1 - 2 * MARGIN))


def _timeline_y(panel: Image.Image) -> int:
    return panel.height - MARGIN - TIMELINE // 2 + 2


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."
