"""What a model answers clip by clip: accuracy of each class, what is taken for what, worst clips.

And the features behind the answers, as a table for other tools.

Shapes: N clips, K classes, C channels of the last stage.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from posmlp.checkpoint import write_atomically
from posmlp.data.augment import normalise, uploaded
from posmlp.data.charts import as_png, drawn, new_chart
from posmlp.data.clips import load_clip
from posmlp.data.layouts.listing import as_text
from posmlp.data.sources import ClipSource
from posmlp.predict import TrainedModel, draws_of
from posmlp.train.scoring import average_precisions, metrics

FILES = ("clips.csv", "classes.csv", "confusion.csv", "confusion.png")
NUM_SHOWN = 5  # classes that are named on screen
LARGEST, MOST_NAMED = 10, 100  # inches of a confusion matrix, and the classes that it names
TABLES = (".parquet", ".npz")


@dataclass(frozen=True)
class ClipScores:
    """Logits (N, K) of the clips of a split, with their files and true labels (N,) or (N, K)."""

    model: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: Tensor
    logits: Tensor
    reverse_of: Tensor | None = None

    @classmethod
    def of(cls, model: str, logits: Tensor, source: ClipSource) -> ClipScores:
        """The scores of a source's clips; those that come from no file are numbered from 0."""
        paths = getattr(source, "paths", None) or [f"clip {i}" for i in range(len(source))]
        labels, reverse_of = source.labels, source.reverse_of
        return cls(model, tuple(source.classes), tuple(paths), labels, logits, reverse_of)

    @property
    def multi_label(self) -> bool:
        """Whether clips have several labels."""
        return self.labels.dim() == 2

    def metrics(self) -> dict[str, float]:
        """`metrics` and `class_mean`, the mean of top-1 over classes; no top5 of 5 classes."""
        found = metrics(self.logits, self.labels, self.reverse_of)
        if len(self.classes) <= 5:
            del found["top5"]
        if self.multi_label:
            return found
        by_class = [row["top1"] for row in self.by_class()]
        return found | {"class_mean": sum(by_class) / len(by_class)}

    def confusion(self) -> Tensor:
        """(K, K) counts: how often clips of the row's class are taken for the column's."""
        count = len(self.classes)
        pairs = self.labels * count + self.logits.argmax(-1)
        return torch.bincount(pairs, minlength=count * count).view(count, count)

    def by_class(self) -> list[dict[str, Any]]:
        """Of each class that has clips: class, num_clips, top1, num_predicted, taken_for.

        num_predicted: clips of any class that are taken for this one. taken_for: the other class
        that its clips are most often taken for, if any is. Where clips have several labels: class,
        num_clips, average_precision, num_predicted (clips that have it with 50% or more).
        """
        if self.multi_label:
            precisions = average_precisions(self.logits, self.labels)
            return [
                {
                    "class": self.classes[k],
                    "num_clips": int(self.labels[:, k].sum()),
                    "average_precision": precision,
                    "num_predicted": int((self.logits[:, k] >= 0).sum()),
                }
                for k, precision in enumerate(precisions)
                if precision is not None
            ]
        confusion, rows = self.confusion(), []
        for label, counts in enumerate(confusion):
            if not (num_clips := int(counts.sum())):
                continue
            others = counts.clone()
            others[label] = 0
            rows.append(
                {
                    "class": self.classes[label],
                    "num_clips": num_clips,
                    "top1": int(counts[label]) / num_clips,
                    "num_predicted": int(confusion[:, label].sum()),
                    "taken_for": self.classes[int(others.argmax())] if others.any() else "",
                }
            )
        return rows

    def say(self) -> Iterator[str]:
        """Lines about classes: their mean, the worst ones, and those that are never predicted."""
        score = "average_precision" if self.multi_label else "top1"
        rows = sorted(self.by_class(), key=lambda row: row[score])
        mean = sum(row[score] for row in rows) / len(rows)
        worst = ", ".join(
            f"{r['class']} {r[score]:.1%} of {r['num_clips']}" for r in rows[:NUM_SHOWN]
        )
        yield f"  mean over classes {mean:.1%}; lowest: {worst}"
        never = [row["class"] for row in rows if not row["num_predicted"]]
        if never:
            more = f" and {len(never) - NUM_SHOWN} more" if len(never) > NUM_SHOWN else ""
            yield f"  never predicted: {', '.join(never[:NUM_SHOWN])}{more}"

    def by_clip(self) -> list[dict[str, Any]]:
        """A row a clip, the worst first, by the probability of its own class, or least likely one.

        Columns: file, truth, probability (of the truth), first to fifth (the likeliest classes),
        and `logit CLASS` for each class.
        """
        if self.multi_label:
            own = self.logits.sigmoid().where(self.labels > 0, 1.0).amin(1)
            true = [row.nonzero()[:, 0].tolist() for row in self.labels]
        else:
            own = self.logits.softmax(-1).gather(1, self.labels[:, None])[:, 0]
            true = [[label] for label in self.labels.tolist()]
        best = self.logits.topk(min(5, len(self.classes)), dim=-1).indices
        rows = []
        for i in own.argsort(stable=True).tolist():
            row: dict[str, Any] = {
                "file": self.files[i],
                "truth": ";".join(self.classes[k] for k in true[i]),
            }
            row["probability"] = f"{own[i]:.6f}"
            row |= zip(_PLACES, (self.classes[k] for k in best[i].tolist()), strict=False)
            logits = zip(self.classes, self.logits[i].tolist(), strict=True)
            rows.append(row | {f"logit {name}": f"{value:.6g}" for name, value in logits})
        return rows


_PLACES = ("first", "second", "third", "fourth", "fifth")


def write_scores(scores: Sequence[ClipScores], out: str | Path) -> list[Path]:
    """Write what models answer on one split to a folder: clips, classes, confusion (.csv, .png).

    Each table has a column `model`; the picture shows the models' mean. Clips of several labels
    have no confusion.
    """
    out = Path(out)
    names = scores[0].classes
    tables = {
        "clips": [{"model": s.model, **row} for s in scores for row in s.by_clip()],
        "classes": [{"model": s.model, **row} for s in scores for row in s.by_class()],
    }
    confusions = [] if scores[0].multi_label else [each.confusion() for each in scores]
    if confusions:
        tables["confusion"] = [
            {"model": s.model, "truth": names[k], **dict(zip(names, row, strict=True))}
            for s, counts in zip(scores, confusions, strict=True)
            for k, row in enumerate(counts.tolist())
        ]
    written = []
    for name, rows in tables.items():
        written.append(out / f"{name}.csv")
        write_atomically(written[-1], as_csv(rows))
    if not confusions:
        return written
    written.append(out / "confusion.png")
    write_atomically(written[-1], as_png(draw_confusion(torch.stack(confusions).sum(0), names)))
    return written


def score_files(run: str | Path) -> Iterator[Path]:
    """The files of `write_scores` in a run folder or in a folder of it, as `posmlp eval --out`."""
    for clips in sorted((*Path(run).glob("clips.csv"), *Path(run).glob("*/clips.csv"))):
        found = [path for name in FILES if (path := clips.with_name(name)).is_file()]
        if len(found) in (len(FILES), 2):  # two of clips of several labels
            yield from found


def link(path: Path, folder: Path) -> str:
    """A path as a page in `folder` writes it in a link."""
    return quote(os.fsencode(os.path.relpath(path, folder)))


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """A table whose columns are the keys of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")  # a file's name need not be UTF-8


@drawn
def draw_confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """A matrix (K, K) of counts as a chart: rows are true classes, columns what was answered.

    Colour is the share of the row, which cells show in percent where there is room.
    """
    import seaborn

    count = len(names)
    shares = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    side = min(max(2.0, 0.32 * count), LARGEST)
    figure, (ax,) = new_chart(side + 1.6, side + 1.8)
    told = [[f"{share:.0f}" if share >= 0.5 else "" for share in row] for row in shares]
    named = [as_text(name) for name in names] if count <= MOST_NAMED else False
    seaborn.heatmap(
        shares,
        **{"vmin": 0, "vmax": 100, "cmap": "Blues"},
        annot=told if side < LARGEST else None,
        **{"fmt": "", "cbar": False, "square": True, "ax": ax},
        **{"xticklabels": named, "yticklabels": named, "linewidths": 0.5 if named else 0},
    )
    size = min(9.0, 60 * side / count)
    ax.tick_params("x", rotation=90, labelsize=size, length=0)
    ax.tick_params("y", rotation=0, labelsize=size, length=0)
    ax.set(xlabel="what was answered\n(percent of the row)", ylabel="true class")
    return figure


def clip_features(
    trained: TrainedModel, video: str | Path, *, num_views: int = 1, num_crops: int = 1
) -> dict[str, NDArray[Any]]:
    """What the model makes of a video file or frame folder, a row a clip: each view and crop.

    Arrays video, view, crop (n,), features (n, C) and logits (n, K), float32. Features are the mean
    over all tokens after the last norm, which the classifier reads. Bytes of a file's name that are
    no UTF-8 are written as \\x... . Raises VideoError for a video that cannot be read, ValueError
    for views that do not exist and for a whole model of the user's own, which has no such tokens.
    """
    draws = draws_of(num_views, num_crops)
    model = trained.model
    like = next(model.parameters())
    frames = torch.from_numpy(np.stack([load_clip(str(video), trained.rule, d).frames
                                        for d in draws]))  # fmt: skip
    with torch.no_grad():
        inputs = normalise(uploaded(frames, like.device)).to(like)
        tokens = model.forward_features(inputs)[-1]
        features = model.norm(tokens).flatten(1, -2).mean(dim=1)
        found = [x.float().cpu().numpy() for x in (features, model.head(features))]
    name = str(video).encode(errors="surrogateescape").decode(errors="backslashreplace")
    return {
        "video": np.array([name] * len(draws)),
        "view": np.array([draw.view for draw in draws]),
        "crop": np.array([draw.crop for draw in draws]),
        **dict(zip(("features", "logits"), found, strict=True)),
    }


def check_table(path: str | Path) -> Path:
    """The path of a table of features. Raises ValueError unless it ends in one of TABLES."""
    path = Path(path)
    if path.suffix not in TABLES:
        raise ValueError(f"--out {path} must end in {' or '.join(TABLES)}, which names the form")
    return path


def write_features(
    rows: Sequence[dict[str, NDArray[Any]]], classes: Sequence[str], path: str | Path
) -> dict[str, tuple[int, ...]]:
    """Write what `clip_features` gave to a .parquet or .npz file; returns the arrays' shapes.

    The parquet table has a row a clip, with columns video, view, crop, `feature 0` and so on, and
    `logit CLASS` for each class. The .npz file holds the arrays, and classes (K,). Raises
    ValueError for another suffix, NotWrittenError where it cannot be written.
    """
    path, content = check_table(path), io.BytesIO()
    arrays: dict[str, Any] = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    if path.suffix == ".npz":
        np.savez(content, classes=np.array(list(classes)), **arrays)
    else:
        import pyarrow as pa
        from pyarrow import parquet

        columns = {name: arrays[name] for name in ("video", "view", "crop")}
        columns |= {f"feature {i}": column for i, column in enumerate(arrays["features"].T)}
        columns |= {f"logit {c}": x for c, x in zip(classes, arrays["logits"].T, strict=True)}
        parquet.write_table(pa.table(columns), content)
    write_atomically(path, content.getvalue())
    return {name: array.shape for name, array in arrays.items()}
