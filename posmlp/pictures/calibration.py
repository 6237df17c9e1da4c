"""How far a model's answers are to be trusted: calibration, and accuracy where clips are shifted.

Shapes: N clips, K classes, b bins.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from posmlp.checkpoint import write_atomically
from posmlp.clip_scores import ClipScores, as_csv
from posmlp.data.files.clip_files import compressed
from posmlp.data.sources import ClipSource
from posmlp.train.scoring import metrics

NUM_BINS = 10
FEW_CLIPS = 100
"""To which a temperature may fit by chance."""
RATE_FACTOR = 40
"""Of compressed clips; usual is 23, and 51 is coarsest."""
Shift = Callable[[Tensor], Tensor]
"""What is done to uint8 clips (k, T, H, W, 3)."""


@dataclass(frozen=True)
class Calibration:
    """Of clips binned by the probability p of their likeliest class: counts, mean p, accuracy (b,).

    `error`: the mean over clips of |accuracy - p| of their bin, the expected calibration error.
    Source: Guo, Pleiss, Sun and Weinberger (2017), with ten bins of one width.
    """

    counts: Tensor
    said: Tensor
    right: Tensor
    error: float

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Calibration:
        """That of logits (N, K), divided by a temperature, and labels (N,)."""
        best, answers = (logits.double() / temperature).softmax(-1).max(-1)
        bins = (best * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        counts = torch.bincount(bins, minlength=NUM_BINS)
        hits = (answers == labels).double()
        said, right = (
            torch.bincount(bins, each, NUM_BINS) / counts.clamp(min=1) for each in (best, hits)
        )
        error = float((counts * (said - right).abs()).sum() / counts.sum())
        return cls(counts, said, right, error)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """What logits (N, K) are best divided by: of least cross-entropy, from 1/20 to 20.

    Raises ValueError where all clips are right, or none is, as no temperature is best then.
    """
    from scipy.optimize import minimize_scalar

    num_right = int((logits.argmax(-1) == labels).sum())
    if num_right in (0, len(labels)):
        raise ValueError(
            f"{num_right} of {len(labels)} val clips are right, and no temperature can be fitted "
            "to that; leave --calibrate out, or add val clips"
        )

    def loss(log: float) -> float:
        return float(F.cross_entropy(logits.double() / torch.tensor(log).exp(), labels))

    return float(torch.tensor(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x).exp())


def say_calibration(logits: Tensor, labels: Tensor, temperature: float) -> str:
    """The calibration error, and with the temperature where there is one, in words."""
    said = f"calibration error {Calibration.of(logits, labels).error:.1%}"
    if temperature == 1.0:
        return said
    after = Calibration.of(logits, labels, temperature).error
    return f"{said}, and {after:.1%} at temperature {temperature:.2f}, which predict uses"


def draw_reliability(logits: Tensor, cooled: Tensor, labels: Tensor) -> Image.Image:
    """Accuracy against probability in ten bins, of logits (N, K) and of those over temperatures."""
    panels = {"as it is": logits}
    if not torch.equal(logits, cooled):
        panels["with its temperature"] = cooled
    side, left, top, gap = 240, 56, 30, 70
    size = (left + (side + gap) * len(panels), top + side + 64)
    page, font = Image.new("RGB", size, "white"), ImageFont.load_default(size=12)
    draw = ImageDraw.Draw(page)
    for i, (name, own) in enumerate(panels.items()):
        found = Calibration.of(own, labels)
        x, bottom = left + i * (side + gap), top + side
        for k in range(NUM_BINS):
            if found.counts[k]:
                edges = x + side * k // NUM_BINS + 1, x + side * (k + 1) // NUM_BINS - 1
                height = float(found.right[k]) * side
                draw.rectangle((edges[0], bottom - height, edges[1], bottom), "#56b4e9")
                said = bottom - float(found.said[k]) * side
                draw.line((edges[0], said, edges[1], said), "#d55e00", 2)
                draw.text((edges[0], bottom + 3), str(int(found.counts[k])), "black",
                          ImageFont.load_default(size=9))  # fmt: skip
        draw.rectangle((x, top, x + side, bottom), outline="black")
        draw.line((x, bottom, x + side, top), "#999999")
        draw.text((x, top - 18), f"{name}: error {found.error:.1%}", "black", font)
        for share in (0.0, 0.5, 1.0):
            draw.text((x - 6, bottom - side * share), f"{share:.0%}", "black", font, anchor="rm")
        draw.text((x, bottom + 16), "probability of the answer, 0 to 100%;", "black", font)
        draw.text((x, bottom + 32), "bars: right, lines: said, numbers: clips", "black", font)
    return page


# ---- Shifts --------------------------------------------------------------------------------------


def _frames(choose: Callable[[Tensor, int], Tensor]) -> Shift:
    """The frames (T,) that `choose` names, of their numbers and their count."""

    def shift(clips: Tensor) -> Tensor:
        count = clips.shape[1]
        places = choose(torch.arange(count), count).clamp(0, count - 1)
        return clips[:, places.to(clips.device)]

    return shift


def _resolution(share: float) -> Shift:
    """Clips shrunk to a share of their sides, over areas, and enlarged again."""

    def shift(clips: Tensor) -> Tensor:
        frames = clips.flatten(0, 1).movedim(-1, 1).float()
        small = [max(1, round(side * share)) for side in frames.shape[-2:]]
        found = F.interpolate(frames, small, mode="area")
        found = F.interpolate(found, frames.shape[-2:], mode="bilinear", align_corners=False)
        return found.round().to(torch.uint8).movedim(1, -1).view(clips.shape)

    return shift


def _compression(clips: Tensor) -> Tensor:
    found = [torch.from_numpy(compressed(clip, RATE_FACTOR)) for clip in clips.cpu().numpy()]
    return torch.stack(found).to(clips.device)


SHIFTS: dict[str, Shift] = {
    "none": lambda clips: clips,
    "frame rate x 0.5": _frames(lambda t, _: t // 2 * 2),
    "speed x 0.5": _frames(lambda t, count: count // 4 + t // 2),
    "speed x 2": _frames(lambda t, count: 2 * t - count // 2),
    "resolution x 0.5": _resolution(0.5),
    "resolution x 0.25": _resolution(0.25),
    "compression": _compression,
}
"""Every second frame twice; the middle half, slowly; all of it in half of the frames, between the
first and the last held; coarser frames; H.264 at RATE_FACTOR."""


class ShiftedClips:
    """A source whose clips are shifted; else as it is."""

    def __init__(self, source: ClipSource, shift: Shift) -> None:
        self._source, self._shift = source, shift

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def batches(self, index_batches: Iterable[Tensor], **options: Any) -> Iterator[Tensor]:
        """Shifted clips of each batch."""
        return map(self._shift, self._source.batches(index_batches, **options))


def shifted_scores(
    answer: Callable[[ShiftedClips], tuple[Tensor, Any]], source: ClipSource
) -> list[dict[str, Any]]:
    """A row a shift: its name, `metrics` of the logits (N, K) that come first in `answer`'s result.

    `lost`: the top-1 that the shift costs.
    """
    rows: list[dict[str, Any]] = []
    for name, shift in SHIFTS.items():
        logits, _ = answer(ShiftedClips(source, shift))
        rows.append({"shift": name, **metrics(logits, source.labels, source.reverse_of)})
        rows[-1]["lost"] = rows[0]["top1"] - rows[-1]["top1"]
    if close := getattr(source, "close", None):  # decoding workers, which began anew
        close()
    return rows


def draw_shifts(rows: Sequence[dict[str, Any]]) -> Image.Image:
    """A bar a shift: top-1, mean over the models whose rows these are, a dot a model."""
    names = list(dict.fromkeys(row["shift"] for row in rows))
    page = Image.new("RGB", (760, 40 + 26 * len(names)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    draw.text((14, 8), "Top-1 of shifted clips; a dot a model", "black", font)
    for i, name in enumerate(names):
        own, y = [row["top1"] for row in rows if row["shift"] == name], 34 + 26 * i
        mean = sum(own) / len(own)
        draw.text((14, y), name, "black", font)
        draw.rectangle((170, y, 170 + 480 * mean, y + 15), "#0072b2" if i else "#999999")
        for share in own:
            x = 170 + 480 * share
            draw.ellipse((x - 3, y + 5, x + 3, y + 11), "#e69f00")
        draw.text((664, y), f"{mean:.1%}", "black", font)
    return page


def write_trust(
    scores: Sequence[ClipScores],
    temperatures: Sequence[float],
    shifts: Sequence[dict[str, Any]],
    out: str | Path,
) -> list[Path]:
    """Write the reliability of the clips of all models to a folder, and a table of shifts, if any.

    Raises NotWrittenError.
    """
    pictures = {}
    if not scores[0].multi_label:
        logits = torch.cat([each.logits for each in scores])
        cooled = [each.logits / by for each, by in zip(scores, temperatures, strict=True)]
        labels = torch.cat([each.labels for each in scores])
        pictures["reliability"] = draw_reliability(logits, torch.cat(cooled), labels)
    written = []
    if shifts:
        pictures["shifts"] = draw_shifts(shifts)
        written.append(Path(out) / "shifts.csv")
        write_atomically(written[-1], as_csv(shifts))
    for name, picture in pictures.items():
        content = io.BytesIO()
        picture.save(content, "png")
        written.append(Path(out) / f"{name}.png")
        write_atomically(written[-1], content.getvalue())
    return written
