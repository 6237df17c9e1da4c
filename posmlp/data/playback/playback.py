"""Playback: windows of your own videos whose classes are ways of playing them, in reversed pairs.

    forward      evenly, as filmed             reversed   the same frames, last first
    quickening   faster from frame to frame    slowing    its reversal
    starting     stands still, then plays      stopping   its reversal

The last two pairs are filmed forward or backward by the toss of a coin, so that only the first asks
for the arrow of time. Each window gives all six clips, with the same first and last frame, so that
what a window shows tells nothing of the class; the two of a pair are exact reversals, so that a
model blind to the order of frames is at 0.5 within pairs. Standing still throughout is no class,
since any two frames tell it; nor is a steady speed, which a scene of unknown speed does not show.

The folder that `write_playback` makes serves every fold of a cross-validation over files:

    ROOT/sources.csv               each file: its fold, its windows, or why it is left out
    ROOT/clips/SOURCE/00000-CLASS.mp4
    ROOT/fold-0/dataset.json, train.csv, test.csv    a data set: the files of fold 0 are its test

No torch here. Shapes: T frames of a clip.
"""

from __future__ import annotations

import csv
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posmlp.data.files.clip_files import check_width, encode_clip, whole_folder
from posmlp.data.files.video import read_video
from posmlp.data.layouts.listing import as_text
from posmlp.data.playback.footage import Footage, find_footage
from posmlp.data.sampling import resize_box

CLASSES = ("forward", "reversed", "quickening", "slowing", "starting", "stopping")
NUM_PAIRS = len(CLASSES) // 2
VERSION = 1  # raise it when the same videos come to give other clips
SMALLEST_CROP = 0.5  # a crop's side, as a share of the frame's short side
CSV_HEADER = ("path", "label", "class", "index", "pair", "source")

Rows = list[tuple[str, int, str]]  # path from a fold's folder, label, class; six a window


class Source(NamedTuple):
    """What became of one file: its fold and windows, or why it is left out."""

    file: str
    frames: int | None = None
    fold: int | None = None
    windows: int = 0
    hardly_moving: int = 0
    left_out: str = ""


@dataclass(frozen=True)
class Cut:
    """How windows are cut and which are left out.

    `stride` stretches a window, which lasts stride * T * (T - 1) / 2 frame steps of its file.
    A window is left out if some two neighbouring frames of its even clip differ by less than
    `min_motion` grey levels of 255, in the mean over pixels. With a `motion_gain` a clip shows its
    difference from its own mean frame, that many times, around grey: what moves, without the scene.
    """

    num_windows: int = 100
    num_frames: int = 8
    image_size: int = 32
    stride: int = 1
    min_motion: float = 2.0
    motion_gain: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_width(self.image_size)
        if self.num_frames < 4 or self.num_frames % 2:
            raise ValueError(f"num_frames={self.num_frames} must be even, and at least 4")
        for name, least in (("num_windows", 1), ("image_size", 8), ("stride", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        for name in ("min_motion", "motion_gain", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")

    @property
    def span(self) -> int:
        """Frame steps from a clip's first frame to its last."""
        return self.stride * self.num_frames * (self.num_frames - 1) // 2

    def times(self, pair: int) -> NDArray[np.int64]:
        """When the first class of a pair shows its frames, (T,), from 0 to `span`."""
        steps, half = np.arange(1, self.num_frames), self.num_frames // 2
        gaps = (
            np.full_like(steps, half),
            steps,
            np.where(steps < half, 0, self.num_frames - 1),
        )[pair]
        return self.stride * np.concatenate([[0], gaps.cumsum()])


@dataclass(frozen=True)
class Window:
    """A place in a file: when it begins, which square, and which pairs are filmed backward."""

    start: float  # frame steps
    box: tuple[float, float, float]  # left and top, of the room there is; side, of the short side
    backward: tuple[bool, ...]  # a pair; never "forward" and "reversed"

    def frames(self, file: Footage, cut: Cut) -> NDArray[np.int64]:
        """The frames that the first class of each pair shows, (pairs, T)."""
        shown = [cut.times(pair) for pair in range(NUM_PAIRS)]
        turned = [
            cut.span - times if self.backward[pair] else times for pair, times in enumerate(shown)
        ]
        return file.frames_at(self.start + np.stack(turned))

    def cut(self, frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """The square of frames (T, H, W, 3), resized to (T, size, size, 3)."""
        height, width = frames.shape[1:3]
        left, top, share = self.box
        side = max(1, round(share * min(height, width)))
        x, y = round(left * (width - side)), round(top * (height - side))
        return resize_box(frames, (x, y, x + side, y + side), size)


def write_playback(
    root: str | Path,
    videos: str | Path,
    cut: Cut | None = None,
    *,
    num_folds: int = 5,
    progress: bool = True,
) -> list[Source]:
    """Cut a folder of videos into windows, write them as six ways of playing; what became of each.

    From each file `cut.num_windows` windows are drawn, spread over its time. Files take turns in
    the folds, in an order drawn by the seed; there are at most as many folds as files. The same
    files and fields give the same clips.

    Raises ValueError where `root` holds something, fewer than two files can be cut, or `num_folds`
    is below 2.
    """
    root, videos, cut = Path(root).resolve(), Path(videos), cut or Cut()
    if num_folds < 2:
        raise ValueError(f"num_folds={num_folds} leaves nothing to train on; use at least 2")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} holds something already; name a new folder, or remove it")
    files, left_out = find_footage(videos, cut.span, progress)
    with whole_folder(root) as partial:
        rows: dict[str, Rows] = {}
        bar = tqdm(files, "cutting", unit="file", disable=None if progress else True)
        for number, file in enumerate(bar):
            rows[file.place] = _write_clips(partial, number, file, cut)
            if not rows[file.place]:
                left_out[file.place] = f"hardly moves: all {cut.num_windows} windows are too still"
        folds = _folds([place for place in rows if rows[place]], num_folds, cut.seed)
        if len(folds) < 2:
            why = "".join(f"\n  {place}: {reason}" for place, reason in sorted(left_out.items()))
            raise ValueError(
                f"{videos} has {len(folds)} files that can be cut, and testing is on other files "
                f"than training; put at least 2 there that show different footage{why}"
            )
        for fold in range(max(folds.values()) + 1):
            _write_fold(partial / f"fold-{fold}", fold, rows, folds, cut)
        sources = [Source(place, left_out=reason) for place, reason in left_out.items()]
        for file in files:
            kept = len(rows[file.place]) // len(CLASSES)
            if kept:
                fold, still = folds[file.place], cut.num_windows - kept
                sources.append(Source(file.place, len(file.times), fold, kept, still))
        _write_table(partial / "sources.csv", Source._fields, sorted(sources))
    return sorted(sources)


def _folds(places: Sequence[str], num_folds: int, seed: int) -> dict[str, int]:
    order = np.random.default_rng(seed).permutation(len(places))
    num_folds = min(num_folds, len(places))
    return {places[k]: turn % num_folds for turn, k in enumerate(order.tolist())}


def draw_windows(file: Footage, cut: Cut) -> list[Window]:
    """Windows of a file, one in each of `num_windows` equal parts of the time in which one fits.

    They depend on the file's place in its folder, its times and the seed, on no other file.
    """
    rng = np.random.default_rng([cut.seed, zlib.crc32(os.fsencode(file.place))])
    places = (np.arange(cut.num_windows) + rng.random(cut.num_windows)) / cut.num_windows
    starts = places * (file.times[-1] - cut.span)
    boxes = rng.uniform((0, 0, SMALLEST_CROP), 1, (cut.num_windows, 3)).tolist()
    backward = rng.random((cut.num_windows, NUM_PAIRS)) < (0, *[0.5] * (NUM_PAIRS - 1))
    each = zip(starts.tolist(), boxes, backward.tolist(), strict=True)
    return [Window(start, tuple(box), tuple(turned)) for start, box, turned in each]


def _write_clips(root: Path, number: int, file: Footage, cut: Cut) -> Rows:
    """Write the clips of each window that moves."""
    windows = draw_windows(file, cut)
    chosen = np.stack([window.frames(file, cut) for window in windows])  # (windows, pairs, T)
    needed, places = np.unique(chosen, return_inverse=True)
    short_side = round(cut.image_size / SMALLEST_CROP)
    frames = read_video(file.path, lambda _n, _fps: needed, short_side=short_side).frames
    name = os.fsencode(file.path.stem).decode("utf-8", "replace")  # lists are text
    folder = Path("clips") / f"{number:03d}-{name}"
    rows: Rows = []
    for k, (window, shown) in enumerate(zip(windows, places.reshape(chosen.shape), strict=True)):
        clips = [window.cut(frames[indices], cut.image_size) for indices in shown]
        if smallest_step(clips[0]) < cut.min_motion:
            continue
        (root / folder).mkdir(parents=True, exist_ok=True)
        for label, name in enumerate(CLASSES):
            path = folder / f"{k:05d}-{name}.mp4"
            clip = what_moves(clips[label // 2], cut.motion_gain)
            encode_clip(root / path, clip if label % 2 == 0 else clip[::-1])
            rows.append((f"../{path.as_posix()}", label, name))
    return rows


def what_moves(clip: NDArray[np.uint8], gain: float) -> NDArray[np.uint8]:
    """The clip's difference from its mean frame, `gain` times, around grey; as it is at 0."""
    if gain == 0:
        return clip
    moving = clip - clip.mean(axis=0)
    return np.clip(np.rint(128 + gain * moving), 0, 255).astype(np.uint8)


def smallest_step(clip: NDArray[np.uint8]) -> float:
    """The smallest mean difference between neighbouring frames of (T, H, W, 3), in grey levels."""
    grey = clip.astype(np.float32).mean(axis=-1)
    return float(np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2)).min())


def _write_fold(
    root: Path, fold: int, rows: dict[str, Rows], folds: dict[str, int], cut: Cut
) -> None:
    """Write the lists of the data set whose test files are those of one fold."""
    root.mkdir()
    about = {
        "name": "playback",
        "classes": list(CLASSES),
        "reverse_of": {name: CLASSES[label ^ 1] for label, name in enumerate(CLASSES)},
        "generator": {"version": VERSION, **asdict(cut)},
        "test_files": sorted(place for place in folds if folds[place] == fold),
    }
    (root / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for split in ("train", "test"):
        places = [place for place in folds if (folds[place] == fold) == (split == "test")]
        chosen = [(*row, as_text(place)) for place in sorted(places) for row in rows[place]]
        table = [(*row[:3], i, i // 2, row[3]) for i, row in enumerate(chosen)]
        _write_table(root / f"{split}.csv", CSV_HEADER, table)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as table:
        csv.writer(table, lineterminator="\n").writerows([header, *rows])
