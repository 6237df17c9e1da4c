"""Class names from the files that data sets come with: text, tables and JSON."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from posmlp.data.layouts.listing import annotation_files, lines_of

_CLASS_FILE = re.compile(
    r"(.*[-_])?(classes|class_?names|labels?|categor\w+|categroies|label_map\w*)"
)
_OF_A_SPLIT = re.compile(r"(.*[-_])?(train|val|validation|test)[-_].*")
_NAME_COLUMNS = ("name", "class", "class_name", "label_name", "category", "action")
_HEADER = {*_NAME_COLUMNS, "id", "index", "label", "number", "class_id", "class_index", "label_id"}
_SINGLE_HEADER = {*_NAME_COLUMNS, "names", "classes", "labels"}


def class_names(root: Path) -> tuple[str, ...] | None:
    """Return the names in a class file; None if there is no such file.

    It is called classes, class_names, category, label_map or the like, or *labels, and not for a
    split; .txt and .csv come before .json. Raises ValueError as `read_class_names` does.
    """
    for suffix in (".txt", ".csv", ".json"):
        for path in annotation_files(root, suffix):
            stem = path.stem.lower()
            if _CLASS_FILE.fullmatch(stem) and not _OF_A_SPLIT.fullmatch(stem):
                return read_class_names(path)
    return None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the class names that a file lists.

    A line holds a name, or a number and a name in either order, with a tab, a semicolon, a bar or a
    comma between (or a space behind the number), under a header or none. JSON holds
    `{name: number}`, `{number: name}` or a list of names. Raises ValueError where the numbers do
    not count the classes, or a name stands twice.
    """
    if path.suffix.lower() == ".json":
        return _in_order(path, _json_pairs(path))
    lines = [text.strip() for _, text in lines_of(path)]
    for separator in "\t;|, ":
        if pairs := _numbered(lines, separator):
            return _in_order(path, pairs)
    names = lines[bool(lines) and lines[0].lower() in _SINGLE_HEADER :]
    return _in_order(path, list(enumerate(names)))


def _json_pairs(path: Path) -> list[tuple[int, str]]:
    content = read_json(path, dict, list)
    pairs = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
    if all(str(key).isdecimal() for key, _ in pairs):
        pairs = [(name, number) for number, name in pairs]
    try:
        return [(int(number), str(name)) for name, number in pairs]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a class's number is no whole number ({error})") from error


def _numbered(lines: list[str], separator: str) -> list[tuple[int, str]]:
    """The number and name of each line; none where not every line behind a header has both."""
    rows = [next(csv.reader([line], delimiter=separator)) for line in lines]
    header: list[str] = []
    if rows and not any(field.strip().isdecimal() for field in rows[0]):
        header = [field.strip().lower() for field in rows.pop(0)]
        if len(header) < 2 or (separator == " " and not set(header) <= _HEADER):
            return []
    named = next((header.index(name) for name in _NAME_COLUMNS if name in header), None)
    width = max(map(len, rows), default=0)

    def name_in(row: list[str], k: int) -> str:
        """A name may hold the separator where it stands last, or alone beside the number."""
        if named in (None, k):
            rest = row[:k] + row[k + 1 :] if k >= 0 else row[:k]
        else:
            rest = row[named:] if named == len(header) - 1 else [row[named]]
        return separator.join(rest).strip(f"{separator} ")

    for k in (0,) if separator == " " else (*range(width), -1):
        if all(len(row) > max(k, 1, named or 0) and row[k].strip().isdecimal() for row in rows):
            return [(int(row[k]), name_in(row, k)) for row in rows]
    return []


def _in_order(path: Path, pairs: list[tuple[int, str]]) -> tuple[str, ...]:
    numbers = sorted(number for number, _ in pairs)
    if len({name for _, name in pairs}) < len(pairs) or not pairs:
        raise ValueError(f"{path} must name each class once, one a line; it has {len(pairs)} lines")
    start = numbers[0]
    if start > 1 or numbers != list(range(start, start + len(pairs))):
        raise ValueError(
            f"{path}: the numbers of its {len(pairs)} classes do not count from 0 or 1 "
            "without a gap; mend them"
        )
    return tuple(name.strip().strip('"') for _, name in sorted(pairs))


def read_json(path: Path, *kinds: type) -> Any:
    """Return what a file holds. Raises ValueError unless it is of `kinds`, and not empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, kinds) or not content:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{path} must hold a {names} of entries, and has none")
    return content
