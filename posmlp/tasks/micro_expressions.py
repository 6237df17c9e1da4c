"""Micro-expressions: short clips at a high frame rate, each from onset over apex to offset.

ROOT/annotations.csv has a row a clip: `path,subject,onset,apex,offset,expression`, with frame
numbers from 0 and paths of video files or frame folders relative to ROOT.

Shapes: n clips, T frames, S pixels a side, K expressions.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from posmlp.checkpoint import load
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.digits.sprites import digit_bank, texture_bank
from posmlp.data.files.video import read_video
from posmlp.data.sampling import crop_offsets, resize_short_side
from posmlp.data.sources import HeldClips
from posmlp.train.fitting import fit
from posmlp.train.scoring import predict

COLUMNS = ("path", "subject", "onset", "apex", "offset", "expression")
DEFORMATIONS = ("squeeze", "stretch", "lean", "bulge")


@dataclass(frozen=True)
class MicroExpressions:
    """A data set in memory, as there are few: clips (n, T, S, S, 3) uint8, labels (n,) int64."""

    name: str
    classes: tuple[str, ...]
    clips: Tensor
    labels: Tensor
    subjects: tuple[str, ...]

    def folds(self) -> Iterator[tuple[str, HeldClips, HeldClips]]:
        """Each subject in turn, with the clips of all others to train on, and its own to test.

        Raises ValueError if there is only one subject.
        """
        names = sorted(set(self.subjects))
        if len(names) < 2:
            raise ValueError(f"{self.name} has {len(names)} subject; leaving one out needs two")
        for name in names:
            own = torch.tensor([subject == name for subject in self.subjects])
            yield name, self._part(~own, f"all but {name}"), self._part(own, name)

    def _part(self, chosen: Tensor, what: str) -> HeldClips:
        about = {"name": self.name, "subjects": what, "num_clips": int(chosen.sum())}
        labels, clips = self.labels[chosen], self.clips[chosen]
        return HeldClips(self.name, self.classes, labels, None, clips, about)


def phase_indices(onset: int, apex: int, offset: int, num_frames: int) -> NDArray[np.int64]:
    """`num_frames` frames, half of them evenly from onset to apex, the rest from there to offset.

    The apex is frame `num_frames // 2` of the clip, so that clips of different speeds agree in
    phase. Raises ValueError unless onset <= apex <= offset.
    """
    if not 0 <= onset <= apex <= offset:
        raise ValueError(f"onset={onset}, apex={apex}, offset={offset} must not decrease from 0")
    if num_frames < 3:
        raise ValueError(
            f"num_frames={num_frames} cannot show onset, apex and offset; use 3 or more"
        )
    places = [0, num_frames // 2, num_frames - 1]
    frames = np.interp(np.arange(num_frames), places, [onset, apex, offset])
    return np.rint(frames).astype(np.int64)


def read_micro_expressions(root: str | Path, config: PosMLPConfig) -> MicroExpressions:
    """The clips of ROOT/annotations.csv, at the frames and size that `config` takes.

    Raises ValueError that lists malformed lines by their numbers, VideoError for a file that cannot
    be read.
    """
    root = Path(root)
    rows = _read_rows(root / "annotations.csv")
    classes = tuple(sorted({row["expression"] for row in rows}))
    clips = [_read_clip(root, row, config.num_frames, config.side) for row in rows]
    labels = torch.tensor([classes.index(row["expression"]) for row in rows])
    subjects = tuple(row["subject"] for row in rows)
    return MicroExpressions(root.resolve().name, classes, torch.stack(clips), labels, subjects)


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"no file at {path}; write one with the columns {','.join(COLUMNS)}")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path} has columns {reader.fieldnames}; it needs {','.join(COLUMNS)}"
            )
        rows, bad = [], []
        for row in reader:
            phases = [row[name] or "" for name in COLUMNS[2:5]]
            ordered = all(p.isdecimal() for p in phases) and phases == sorted(phases, key=int)
            whole = None not in row and all(row[name] for name in COLUMNS)
            if whole and ordered:
                rows.append(row)
            else:
                bad.append(f"line {reader.line_num}: {','.join(map(str, row.values()))}")
    if bad or not rows:
        raise ValueError(
            f"{path}: {len(bad)} malformed lines and {len(rows)} good ones; each needs all of "
            f"{','.join(COLUMNS)}, with onset <= apex <= offset: " + "; ".join(bad[:10])
        )
    return rows


def _read_clip(root: Path, row: dict[str, str], num_frames: int, size: int) -> Tensor:
    onset, apex, offset = (int(row[name]) for name in ("onset", "apex", "offset"))

    def choose(num_frames_in_video: int, fps: float | None) -> NDArray[np.int64]:
        if offset >= num_frames_in_video:
            raise ValueError(
                f"{row['path']}: offset={offset}, but it has frames 0 to {num_frames_in_video - 1}"
            )
        return phase_indices(onset, apex, offset, num_frames)

    frames = resize_short_side(read_video(root / row["path"], choose).frames, size)
    height, width = frames.shape[1:3]
    y, x = crop_offsets(height, width, size, 0, 1)
    return torch.from_numpy(frames[:, y : y + size, x : x + size].copy())


def tiny_deformations(
    num_subjects: int = 6,
    clips_per_subject: int = 24,
    *,
    num_frames: int = 8,
    image_size: int = 32,
    amplitude_px: float = 1.5,
    seed: int = 0,
) -> MicroExpressions:
    """Digits that deform by at most `amplitude_px` and return: micro-expressions with known truth.

    A subject is a digit over a texture with a brightness of its own, in all of its clips; no still
    frame tells the expression from the subject's looks. The whole clips last 30 to 60 frames, of
    which `phase_indices` takes `num_frames`, so that speed tells nothing.
    """
    rng = np.random.default_rng(seed)
    shapes = digit_bank("train", image_size, torch.device("cpu")).shapes
    tiles = texture_bank("train", image_size, torch.device("cpu"))
    clips, labels, subjects = [], [], []
    for subject in range(num_subjects):
        shape, tile = (bank[rng.integers(len(bank))] for bank in (shapes, tiles))
        face = (0.35 + 0.5 * tile) * (1 - shape) + rng.uniform(0.7, 1.0) * shape
        for i in range(clips_per_subject):
            label = i % len(DEFORMATIONS)
            strengths = _course(rng, num_frames) * amplitude_px * rng.uniform(0.7, 1.0)
            clips.append(_film(face, DEFORMATIONS[label], strengths, rng))
            labels.append(label)
            subjects.append(f"s{subject:02d}")
    return MicroExpressions(
        "tiny-deformations",
        DEFORMATIONS,
        torch.stack(clips),
        torch.tensor(labels),
        tuple(subjects),
    )


def _course(rng: np.random.Generator, num_frames: int) -> NDArray[np.float64]:
    """How far the deformation has come, 0 to 1 and back, at the frames that are taken."""
    total = int(rng.integers(30, 60))
    onset = int(rng.integers(0, 6))
    apex = int(rng.integers(onset + 8, total - 10))
    offset = int(rng.integers(apex + 6, total))
    course = np.interp(np.arange(total), [onset, apex, offset], [0.0, 1.0, 0.0])
    return course[phase_indices(onset, apex, offset, num_frames)]


def _film(
    face: Tensor, deformation: str, strengths_px: NDArray[np.float64], rng: np.random.Generator
) -> Tensor:
    """(T, S, S, 3) uint8: the face, (3, S, S), deformed by each strength, with pixel noise."""
    size = face.shape[-1]
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    near = torch.exp(-2 * (x**2 + y**2))  # the frame's edge stays where it is
    radius = (x**2 + y**2).sqrt()
    shifts = {
        "squeeze": (x, 0 * y),
        "stretch": (0 * x, -y),
        "lean": (y, 0 * y),
        "bulge": (-x * radius, -y * radius),
    }
    shift = torch.stack(shifts[deformation], -1) * near[..., None]
    shift = shift / shift.norm(dim=-1).max()  # its largest is one pixel per unit of strength
    grid = torch.stack([x, y], -1) + shift * (
        torch.tensor(strengths_px, dtype=torch.float32) * 2 / size
    ).view(-1, 1, 1, 1)
    frames = F.grid_sample(
        face.expand(len(grid), -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    noise = torch.from_numpy(rng.normal(0, 3 / 255, tuple(frames.shape)).astype(np.float32))
    return ((frames + noise).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def leave_one_subject_out(
    config: PosMLPConfig,
    train: TrainConfig,
    data: MicroExpressions,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    **execution: Any,
) -> list[dict[str, float]]:
    """UF1 and UAR of each seed, over the clips of all subjects, each tested by the others' model.

    `out` gets a run folder for each subject; one that is there is not trained again. `execution`
    goes to `fit` (device, micro_batches, ...).
    """
    guesses: dict[int, list[Tensor]] = {seed: [] for seed in seeds}
    labels = []
    for subject, others, own in data.folds():
        run = Path(out) / f"without-{subject}"
        fit(config, train, (others, own), seeds, run, **execution)
        labels.append(own.labels)
        for seed in seeds:
            model = load(run / f"model-seed{seed}.safetensors")
            guesses[seed].append(predict(model, own).argmax(-1))
    true, num_classes = torch.cat(labels), len(data.classes)
    return [
        {"seed": seed, **unweighted_scores(torch.cat(guesses[seed]), true, num_classes)}
        for seed in seeds
    ]


def unweighted_scores(predicted: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
    """UF1 and UAR: F1 and recall of each class, averaged without regard to how frequent it is.

    Predictions of all subjects are pooled first. Source: the protocol of the micro-expression
    grand challenges (MEGC 2019). Raises ValueError if a class has no clips.
    """
    from sklearn.metrics import f1_score, recall_score

    if missing := sorted({*range(num_classes)} - set(labels.tolist())):
        raise ValueError(f"classes {missing} have no clips, so that they have no recall")
    uf1, uar = (score(labels, predicted, average="macro") for score in (f1_score, recall_score))
    return {"uf1": float(uf1), "uar": float(uar)}
