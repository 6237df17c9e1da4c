"""Kinetics' lists: `path,label` or `path label`, with a header or without, and the official csv.

They are called train, val and test, or have that word in their names, as mmaction2's have.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from posmlp.data.layouts.class_names import class_names
from posmlp.data.layouts.listing import (
    SPLITS,
    VIDEO_SUFFIXES,
    Item,
    Listing,
    Problem,
    annotation_files,
    count_from_1,
    lines_of,
    make_listing,
    media_folder,
    plain,
    slashed,
    split_missing,
)

_PATH_COLUMNS = (
    *("path", "video", "video_path", "video_file", "video_name", "filename", "file_name"),
    *("file_path", "filepath", "file", "clip", "clip_path", "name"),
)
_LABEL_COLUMNS = (
    *("label", "labels", "class", "class_id", "label_id", "class_index", "target"),
    *("class_name", "label_name", "category", "action"),
)
_OFFICIAL = {"youtube_id", "time_start", "time_end"}
_VIDEO_ROW = re.compile(
    rf"\S.*({'|'.join(map(re.escape, VIDEO_SUFFIXES))})\"?[, \t;|]\s*\S.*", re.IGNORECASE
)


@dataclass
class _Table:
    """The rows of one list: (FILE:LINE, path, label), both as text."""

    path: Path
    form: str  # how the rows are written, in words
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def is_kinetics(root: Path) -> bool:
    return any(_list_of(root, split) for split in SPLITS)


def has_own_val(root: Path) -> bool:
    """Whether there is a val list beside a test list with labels."""
    test = _list_of(root, "test")
    return bool(test and _list_of(root, "val") and _read_table(test))


def read_kinetics(root: Path, split: str) -> Listing:
    """Read a split's list; `test` is the val list where there is no test list with labels.

    Class names come from a class file (see `listing.class_names`), from the list itself where its
    labels are names, or from the videos' folders where each belongs to one label. Otherwise they
    are the numbers.
    """
    lists = {s: found for s in SPLITS if (found := _list_of(root, s))}
    tables = {s: table for s, path in lists.items() if (table := _read_table(path))}
    source = "val" if split == "test" and "test" not in tables else split
    if source not in tables:
        raise split_missing(root, split, tables)
    for each in tables.values():
        each.rows = [(place, slashed(root, path), label) for place, path, label in each.rows]
    names = class_names(root)
    from_1 = _count_from_1(list(tables.values()), names)
    classes = names or _classes_of(list(tables.values()))
    if from_1 and classes[0] == "0":
        classes = tuple(str(label + 1) for label in range(len(classes)))
    table = tables[source]
    items, problems = _items(root, table, classes)
    form = f"{table.form}, labels from 1" if from_1 else table.form
    rule = f"as listed in {table.path.name} ({form})"
    problems = table.problems + problems
    return make_listing(root, "kinetics", split, rule, classes, items, problems)


def _count_from_1(tables: list[_Table], names: tuple[str, ...] | None) -> bool:
    """Whether labels are numbers from 1 on; they then count from 0 in the tables."""
    labels = {label for table in tables for _, _, label in table.rows}
    if not all(label.isdecimal() for label in labels):
        return False
    if not count_from_1(map(int, labels), len(names) if names else None):
        return False
    for table in tables:
        table.rows = [(place, path, str(int(label) - 1)) for place, path, label in table.rows]
    return True


def _items(root: Path, table: _Table, classes: tuple[str, ...]) -> tuple[list[Item], list[Problem]]:
    """Return the rows as items, and those whose label is no class or not the one of the folder."""
    official = _files_by_stem(root) if table.form.startswith("official") else None
    folder = root if official else media_folder(root, [path for _, path, _ in table.rows])
    label_of = {name: label for label, name in enumerate(classes)}
    label_of_folder = {} if classes[0].isdecimal() else {plain(n): k for n, k in label_of.items()}
    items, problems = [], []
    for place, path, text in table.rows:
        if text not in label_of and not text.isdecimal():
            known = f"one of the {len(classes)} classes, nor a number"
            problems.append(Problem(place, "mislabelled", f"label {text!r} is not {known}"))
            continue
        label = int(text) if text.isdecimal() else label_of[text]
        by_folder = label_of_folder.get(plain(Path(path).parent.name), label)
        if by_folder != label and label < len(classes):
            reason = f"{path} has label {label}, {classes[label]}, but its folder is {by_folder}'s"
            problems.append(Problem(place, "mislabelled", reason))
            continue
        where = official.get(path, root / f"{path}.mp4") if official else folder / path
        items.append(Item(place, where, label))
    return items, problems


def _list_of(root: Path, split: str) -> Path | None:
    files = [path for each in (".csv", ".txt", ".tsv") for path in annotation_files(root, each)]
    named = (
        path for path in files if path.stem == split and (path.parent == root or lists_videos(path))
    )
    words = (path for path in files if split in re.split("[-_]", path.stem.lower()))
    return next(named, None) or next((path for path in words if lists_videos(path)), None)


def lists_videos(path: Path) -> bool:
    """Whether a file lists videos with their labels."""
    first, second = ([line for _, line in islice(lines_of(path), 2)] + ["", ""])[:2]
    columns = set(re.split(r'[",\s;|]+', first.lower()))
    has_header = columns & set(_PATH_COLUMNS) and columns & set(_LABEL_COLUMNS)
    is_row = _VIDEO_ROW.fullmatch(first) or _VIDEO_ROW.fullmatch(second)  # below another header
    return bool(has_header or columns >= _OFFICIAL or is_row)


def _read_table(path: Path) -> _Table | None:
    """Return what a list holds; None for one without labels, as official test lists may be."""
    lines = list(lines_of(path))
    if not lines:
        raise ValueError(f"{path} is empty; it needs a line `path,label` for each video")
    first = lines[0][1]
    separator = next((each for each in ",\t;|" if each in first), " ")
    columns = [name.strip().lower() for name in next(csv.reader([first], delimiter=separator))]
    if set(columns) >= _OFFICIAL:
        if "label" not in columns:
            return None
        table = _Table(path, "official, with header")
        _read_columns(table, lines[1:], separator, columns, _OFFICIAL_PATH, "label")
        return table
    path_column = next((name for name in _PATH_COLUMNS if name in columns), None)
    label_column = next((name for name in _LABEL_COLUMNS if name in columns), None)
    word = {",": "comma", "\t": "tab", " ": "space", ";": "semicolon", "|": "bar"}
    if path_column and label_column:
        others = [name for name in columns if name not in (path_column, label_column)]
        unread = f"; not read: {', '.join(others)}" * bool(others)
        table = _Table(path, f"{word[separator]}-separated, with header{unread}")
        if separator == " " and columns == [path_column, label_column]:
            _read_plain(table, lines[1:], separator)  # paths may have spaces
        else:
            _read_columns(table, lines[1:], separator, columns, path_column, label_column)
        return table
    separator = _separator(lines[:1000])
    table = _Table(path, f"{word[separator]}-separated, no header")
    if not _VIDEO_ROW.fullmatch(first) and len(lines) > 1 and _VIDEO_ROW.fullmatch(lines[1][1]):
        known = "no video and its label, nor a header `path,label`"
        table.problems.append(Problem(lines[0][0], "malformed", f"{known}: {first!r}"))
        lines = lines[1:]
    _read_plain(table, lines, separator)
    return table


_OFFICIAL_PATH = ""  # no column: the file's name is made of three


def _read_columns(
    table: _Table,
    lines: list[tuple[str, str]],
    separator: str,
    columns: list[str],
    path_column: str,
    label_column: str,
) -> None:
    for place, line in lines:
        values = [value.strip() for value in next(csv.reader([line], delimiter=separator))]
        row = dict(zip(columns, values, strict=False))
        try:
            if len(values) != len(columns):
                raise ValueError(f"{len(values)} fields, the header has {len(columns)}")
            name = row[path_column] if path_column else _official_name(row)
            if not name or not row[label_column]:
                raise ValueError("path or label is missing")
        except ValueError as error:
            table.problems.append(Problem(place, "malformed", f"{error}: {line!r}"))
            continue
        table.rows.append((place, name, row[label_column]))


def _official_name(row: dict[str, str]) -> str:
    """Return the stem of the file that a row of the official csv names."""
    start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


def _separator(lines: list[tuple[str, str]]) -> str:
    """Return what stands before the last field: what a number follows in most lines."""

    def count(separator: str) -> int:
        return sum(line.rpartition(separator)[2].strip(' "').isdecimal() for _, line in lines)

    best = max((",", "\t", ";", "|", " "), key=count)
    if count(best):
        return best
    most = len(lines) / 2  # one that is malformed has none
    return next((s for s in ",\t;|" if sum(s in line for _, line in lines) > most), " ")


def _read_plain(table: _Table, lines: list[tuple[str, str]], separator: str) -> None:
    """Split each line at its last separator, so that paths may hold the separator too."""
    for place, line in lines:
        path, label = _two_fields(line.strip(), separator)
        if path and label:
            table.rows.append((place, path, label))
        else:
            reason = f"not `path{separator}label`: {line!r}"
            table.problems.append(Problem(place, "malformed", reason))


def _two_fields(line: str, separator: str) -> tuple[str, str]:
    if '"' in (line[0], line[-1]):  # quoted, as where a field holds the separator
        *path, label = next(csv.reader([line], delimiter=separator))
        return separator.join(path).strip(), label.strip()
    path_text, _, label = line.rpartition(separator)
    return path_text.strip(), label.strip()


def _classes_of(tables: list[_Table]) -> tuple[str, ...]:
    """Return class names from all lists, so that a label means the same in each of them."""
    rows = [row for table in tables for row in table.rows]
    if not rows:
        raise ValueError(f"{tables[0].path} has no line `path,label` that can be read")
    folders: dict[int, set[str]] = {}
    for _, path, label in rows:
        if label.isdecimal():
            folders.setdefault(int(label), set()).add(Path(path).parent.name)
    if not folders:
        return tuple(sorted({label for _, _, label in rows}))
    names = [next(iter(folders[k])) for k in sorted(folders)]
    every_label = sorted(folders) == list(range(len(folders)))
    one_each = all(len(found) == 1 for found in folders.values()) and len(set(names)) == len(names)
    if every_label and one_each and all(names):
        return tuple(names)
    return tuple(str(label) for label in range(max(folders) + 1))


def _files_by_stem(root: Path) -> dict[str, Path]:
    """Return the videos anywhere under `root`, by their names without suffix."""
    return {path.stem: path for path in _videos_under(root)}


def _videos_under(root: Path) -> Iterator[Path]:
    """Yield them, in linked folders too; each folder once, however many links lead to it."""
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        below[:] = [name for name in sorted(below) if _is_new(os.path.join(folder, name), seen)]
        for name in names:
            if name.lower().endswith(VIDEO_SUFFIXES):
                yield Path(folder, name)


def _is_new(folder: str, seen: set[str]) -> bool:
    """Whether a folder is not in `seen`, where it is then put."""
    real, before = os.path.realpath(folder), len(seen)
    seen.add(real)
    return len(seen) > before
