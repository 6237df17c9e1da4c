"""Lists of frame folders: `folder frames label`, and PySlowFast's tables with a line a frame."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from posmlp.data.layouts.class_names import class_names
from posmlp.data.layouts.listing import (
    Item,
    Listing,
    Problem,
    annotation_files,
    count_from_1,
    lines_of,
    make_listing,
    media_folder,
    slashed,
    split_missing,
)

_WORDS = {"train": "train", "test": "val", "val": "val"}  # of a list's file name
_LINE = re.compile(
    r"(?P<folder>\S.*?)(?:\s*(?P<by>[,;|])\s*|\s+)"
    r"(?P<frames>\d+)(?(by)\s*(?P=by)\s*|\s+)(?P<label>\d+)\s*"
)


class _Row(NamedTuple):
    place: str
    folder: str
    label: int
    num_frames: int


# ---- Finding the list of a split -----------------------------------------------------------------


def lists_of(root: Path, suffix: str, split: str) -> list[Path]:
    """The annotation files of a split, by their names; `test` is the validation list."""
    files = annotation_files(root, suffix)
    names = [(path, path.stem.lower()) for path in files]
    return [path for path, name in names if _WORDS[split] in name and "label" not in name]


def first_list(root: Path, suffix: str, is_one: Callable[[Path], bool], split: str) -> Path | None:
    """The first annotation file of a split that `is_one` accepts."""
    return next((path for path in lists_of(root, suffix, split) if is_one(path)), None)


def needed(path: Path | None, root: Path, split: str, suffix: str) -> Path:
    """Return the path; raises SplitMissing, with the lists that there are, if there is none."""
    if path is None:
        raise split_missing(root, split, [p.name for p in annotation_files(root, suffix)])
    return path


def first_line(path: Path) -> str:
    return next((line for _, line in lines_of(path)), "")


# ---- folder number-of-frames label ---------------------------------------------------------------


def is_frame_list(root: Path) -> bool:
    return first_list(root, ".txt", _has_frame_rows, "train") is not None


def is_ssv2_frame_list(root: Path) -> bool:
    path = first_list(root, ".txt", _has_frame_rows, "train")
    return path is not None and "v2" in path.stem.lower()


def is_ssv1_frame_list(root: Path) -> bool:
    path = first_list(root, ".txt", _has_frame_rows, "train")
    return path is not None and "v1" in path.stem.lower()


def _has_frame_rows(path: Path) -> bool:
    return _LINE.fullmatch(first_line(path)) is not None


def read_frame_list(root: Path, split: str, layout: str = "frame-list") -> Listing:
    """Read lines `folder number-of-frames label`, as the released code and mmaction2 write them."""
    table = needed(first_list(root, ".txt", _has_frame_rows, split), root, split, ".txt")
    rows, problems = _list_rows(table)
    classes, everywhere = class_names(root), list(rows)
    if not classes or all(row.label for row in rows):
        others = [first_list(root, ".txt", _has_frame_rows, other) for other in ("train", "val")]
        everywhere += [row for path in others if path for row in _list_rows(path)[0]]
    from_1 = count_from_1([row.label for row in everywhere], len(classes) if classes else None)
    classes = classes or _numbered(everywhere)[from_1:]
    rows = [row._replace(label=row.label - from_1) for row in rows]
    form = " (labels from 1)" if from_1 else ""
    return _frame_listing(root, layout, split, table, classes, rows, problems, form)


def _list_rows(table: Path) -> tuple[list[_Row], list[Problem]]:
    rows, problems = [], []
    for place, line in lines_of(table):
        if found := _LINE.fullmatch(line):
            folder, frames = slashed(table.parent, found["folder"]), int(found["frames"])
            rows.append(_Row(place, folder, int(found["label"]), frames))
        else:
            reason = f"not `folder number-of-frames label`: {line!r}"
            problems.append(Problem(place, "malformed", reason))
    return rows, problems


# ---- original_vido_id video_id frame_id path labels ----------------------------------------------


def is_frame_table(path: Path) -> bool:
    return {"video_id", "frame_id", "path"} <= set(first_line(path).split())


def read_frame_table(
    root: Path, split: str, classes: Sequence[str] | None, templates: Mapping[str, str]
) -> Listing:
    """Read a line a frame, `original_vido_id video_id frame_id path labels`, labels quoted.

    Where labels are left empty, as PySlowFast allows, they are those of `templates`, by video.
    """
    table = needed(first_list(root, ".csv", is_frame_table, split), root, split, ".csv")
    label_of = {name: label for label, name in enumerate(classes or ())}
    labels = {name: label_of[text] for name, text in templates.items() if text in label_of}
    rows, problems = _table_rows(table, labels)
    if not classes:
        others = [first_list(root, ".csv", is_frame_table, other) for other in ("train", "val")]
        everywhere = [row for path in others if path for row in _table_rows(path, labels)[0]]
        classes = _numbered([*everywhere, *rows])
    return _frame_listing(root, "ssv2", split, table, classes, rows, problems)


def _table_rows(table: Path, labels: Mapping[str, int]) -> tuple[list[_Row], list[Problem]]:
    lines = lines_of(table)
    columns = next(lines)[1].split()
    path_column = columns.index("path")
    label_column = columns.index("labels") if "labels" in columns else None
    problems: list[Problem] = []
    videos: dict[str, tuple[str, str, str, int]] = {}  # id -> first place, folder, label, frames
    for place, line in lines:
        values = next(csv.reader([line], delimiter=" "))
        if len(values) != len(columns):
            reason = f"{len(values)} fields, the header has {len(columns)}: {line!r}"
            problems.append(Problem(place, "malformed", reason))
            continue
        path = slashed(table.parent, values[path_column])
        name, folder = values[0], Path(path).parent.as_posix()
        label = values[label_column] if label_column is not None else ""
        first, where, known, count = videos.get(name, (place, folder, label, 0))
        if (folder, label) == (where, known):
            videos[name] = (first, where, known, count + 1)
            continue
        reason = f"video {name} is in {where} with label {known!r} by {first}, not here: {line!r}"
        problems.append(Problem(place, "malformed", reason))
    rows = []
    for name, (place, folder, label, count) in videos.items():
        number = int(label) if label.isdecimal() else labels.get(name)
        if number is None:
            reason = f"video {name} has no label: {label!r} here, and none in a JSON list"
            problems.append(Problem(place, "mislabelled", reason))
        else:
            rows.append(_Row(place, folder, number, count))
    return rows, problems


# ---- Common parts --------------------------------------------------------------------------------


def _numbered(rows: list[_Row]) -> tuple[str, ...]:
    """Name the classes by their numbers, up to the largest of all splits, so that splits agree."""
    largest = max((row.label for row in rows), default=0)
    return tuple(map(str, range(largest + 1)))


def _frame_listing(
    root: Path,
    layout: str,
    split: str,
    table: Path,
    classes: Sequence[str],
    rows: list[_Row],
    problems: list[Problem],
    form: str = "",
) -> Listing:
    folder = media_folder(root, [row.folder for row in rows])
    items = [Item(row.place, folder / row.folder, row.label, row.num_frames) for row in rows]
    rule = f"as listed in {table.name}{form}"
    return make_listing(root, layout, split, rule, classes, items, problems)
