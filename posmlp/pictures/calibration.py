"""How far a model's answers are to be trusted: calibration, and accuracy where clips are shifted.

Shapes: N clips, K classes, b bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from posmlp.checkpoint import write_atomically
from posmlp.clip_scores import ClipScores, as_csv
from posmlp.data.charts import BLUE, GREY, ORANGE, RED, SKY, as_png, drawn, new_chart
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


@drawn
def draw_reliability(logits: Tensor, cooled: Tensor, labels: Tensor) -> Figure:
    """Accuracy against probability in ten bins, of logits (N, K) and of those over temperatures."""
    panels = {"as it is": logits}
    if not torch.equal(logits, cooled):
        panels["with its temperature"] = cooled
    figure, axes = new_chart(3.4 * len(panels), 3.6, len(panels))
    width = 100 / NUM_BINS
    for ax, (name, own) in zip(axes, panels.items(), strict=True):
        found = Calibration.of(own, labels)
        full = found.counts > 0
        left = (width * torch.arange(NUM_BINS))[full].numpy()
        right, said = (100 * each[full].numpy() for each in (found.right, found.said))
        bars = ax.bar(left, right, width, align="edge", color=SKY, edgecolor="white")
        counts = [str(int(count)) for count in found.counts[full]]
        ax.bar_label(bars, counts, label_type="center", fontsize=7)
        ax.hlines(said, left, left + width, color=RED)
        ax.plot((0, 100), (0, 100), color=GREY, linewidth=0.8)
        ax.set(xlim=(0, 100), ylim=(0, 101), title=f"{name}: error {found.error:.1%}")
        ax.set(xlabel="probability of the answer (%)", ylabel="of so many clips right (%)")
    figure.supxlabel("red: as many right as the probabilities say", fontsize=8)
    return figure


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


@drawn
def draw_shifts(rows: Sequence[dict[str, Any]]) -> Figure:
    """A bar a shift: top-1, mean over the models whose rows these are, a dot a model."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row["shift"], []).append(100 * row["top1"])
    means = [sum(own) / len(own) for own in shares.values()]
    figure, (ax,) = new_chart(6.5, 0.8 + 0.28 * len(shares))
    ax.barh([*shares], means, color=[GREY, *[BLUE] * (len(shares) - 1)])
    for place, (own, mean) in enumerate(zip(shares.values(), means, strict=True)):
        ax.plot(own, [place] * len(own), "o", color=ORANGE, markersize=4)
        ax.text(102, place, f"{mean:.1f}", verticalalignment="center")
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="top-1 of shifted clips (%); a dot a model")
    return figure


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
        written.append(Path(out) / f"{name}.png")
        write_atomically(written[-1], as_png(picture))
    return written
