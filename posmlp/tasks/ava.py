"""AVA's files: who does what in a box, at a second of a film.

    ROOT/actions.csv            id,name: the actions, in the order of the model's outputs
    ROOT/{train,test}.csv       video_id,second,left,top,right,bottom,action_id,person_id: one line
                                an action, no header, boxes as shares (ava_train_v2.2.csv is so)
    ROOT/{train,test}_boxes.csv video_id,second,left,top,right,bottom,score: a person detector's
                                boxes; a second without any has nothing to judge
    ROOT/videos/VIDEO_ID.*      the films

Frames are resized to squares, so that boxes stay shares of the frame.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.files.packets import list_packets
from posmlp.data.files.video import read_video
from posmlp.data.layouts.listing import VIDEO_SUFFIXES
from posmlp.tasks.boxes import KeyFrames

Key = tuple[str, float]
"""A key frame: its film and second."""

MIN_PERSON_SCORE = 0.8
"""Of a person detector's box that is judged; the usual threshold on AVA."""


def read_ava(root: str | Path, split: str, config: PosMLPConfig, train: TrainConfig) -> KeyFrames:
    """The key frames of a split; films are read when their clips are asked for.

    Raises ValueError that lists malformed lines by their numbers, or names a film that is missing,
    cannot be opened, or ends before one of its key frames.
    """
    root = Path(root)
    names = _read_actions(root / "actions.csv")
    number = {name: i for i, name in enumerate(names)}
    true: dict[Key, dict[tuple[float, ...], set[int]]] = defaultdict(lambda: defaultdict(set))
    for key, box, rest in _rows(root / f"{split}.csv", (7, 8)):
        if rest[0] not in number:
            raise ValueError(f"{root / f'{split}.csv'}: action {rest[0]!r} is not in actions.csv")
        true[key][box].add(number[rest[0]])
    proposed: dict[Key, list[tuple[float, ...]]] = defaultdict(list)
    for key, box, rest in _rows(root / f"{split}_boxes.csv", (7,)):
        if float(rest[0]) >= MIN_PERSON_SCORE:
            proposed[key].append(box)
    keys = sorted(true)
    if not keys:
        raise ValueError(f"{root / f'{split}.csv'} names no box; it needs a line for each")
    last = dict(keys)  # of each film, as the keys are in order
    films = {film: _film(root, film, second) for film, second in last.items()}
    return KeyFrames(
        root.resolve().name,
        tuple(names.values()),
        [torch.tensor(list(true[key])) for key in keys],
        [_multi_hot(list(true[key].values()), len(number)) for key in keys],
        [torch.tensor(proposed[key]).reshape(-1, 4) for key in keys],
        partial(_load, keys, films, config, train.sampling_rate),
    )


def _rows(path: Path, lengths: tuple[int, ...]) -> list[tuple[Key, tuple[float, ...], list[str]]]:
    """Film and second, box, and the rest of each line."""
    if not path.is_file():
        raise ValueError(f"no file at {path}; see posmlp/tasks/ava.py for what it holds")
    good, bad = [], []
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.reader(file), 1):
            try:
                second, *box, _ = (float(text) for text in row[1:7])
                left, top, right, bottom = box
                if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                    raise ValueError("box")
                if len(row) not in lengths or not row[0]:
                    raise ValueError("columns")
                good.append(((row[0], second), tuple(box), row[6:]))
            except ValueError:
                bad.append(f"line {line}: {','.join(row)}")
    if bad:
        raise ValueError(
            f"{path}: {len(bad)} malformed lines. Each needs {lengths[-1]} columns, numbers but in "
            "the first. Its box needs 0 <= left < right <= 1 and 0 <= top < bottom <= 1: "
            f"{'; '.join(bad[:10])}"
        )
    return good


def _read_actions(path: Path) -> dict[str, str]:
    """The actions' names by their numbers in the annotations, in the order of the file."""
    if not path.is_file():
        raise ValueError(f"no file at {path}; it lists the actions as id,name")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"id", "name"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} has columns {rows.fieldnames}; it needs 'id' and 'name'")
        return {row["id"]: row["name"] for row in rows}


def _multi_hot(actions: list[set[int]], num_actions: int) -> Tensor:
    rows = torch.zeros(len(actions), num_actions, dtype=torch.bool)
    for row, chosen in zip(rows, actions, strict=True):
        row[list(chosen)] = True
    return rows


def _film(root: Path, name: str, last_second: float) -> Path:
    """The film's file, which reaches as far as the last of its key frames."""
    for suffix in VIDEO_SUFFIXES:
        if (path := root / "videos" / f"{name}{suffix}").is_file():
            index = list_packets(str(path))
            _frame_at(last_second, index.num_frames, index.fps, path)
            return path
    raise ValueError(f"no film {name!r} in {root / 'videos'}; put it there as {name}.mp4 or alike")


def _frame_at(second: float, num_frames: int, fps: float | None, film: Path) -> int:
    number = round(second * (fps or 30.0))
    if number >= num_frames:
        raise ValueError(f"{film} has {num_frames} frames, and none at second {second:g}")
    return number


def _load(
    keys: list[Key], films: dict[str, Path], config: PosMLPConfig, rate: int, number: int
) -> Tensor:
    """The clip around a key frame: `rate` frames apart, its middle at the second."""
    film, second = keys[number]

    def choose(num_frames: int, fps: float | None) -> NDArray[np.int64]:
        middle = _frame_at(second, num_frames, fps, films[film])
        steps = (np.arange(config.num_frames) - config.num_frames // 2) * rate
        return np.clip(middle + steps, 0, num_frames - 1)

    size = config.size[::-1]  # Pillow's order
    frames = read_video(films[film], choose, short_side=min(size)).frames
    resized = [Image.fromarray(f).resize(size, Image.Resampling.BILINEAR) for f in frames]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in resized]))
