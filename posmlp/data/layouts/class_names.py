"""Class names from the files that data sets come with: text, tables and JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from posmlp.data.layouts.listing import annotation_files, lines_of

_CLASS_FILE = re.compile(
    r"(.*[-_])?(classes|class_?names|labels?|categor\w+|categroies|label_map\w*)"
)
_OF_A_SPLIT = re.compile(r"(.*[-_])?(train|val|validation|test)[-_].*")
_NUMBERED = (
    r"(?P<name>.+)\t(?P<number>\d+)",
    r"(?P<number>\d+)\s+(?P<name>.+)",
    r"(?P<number>\d+),(?P<name>.+)",
    r"(?P<name>.+),(?P<number>\d+)",
)
_HEADER = re.compile(r"(id|index|label|number)[,\t](name|class)|(name|class)[,\t](id|index|label)")


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

    A line holds a name, `name<TAB>number`, `number name`, or `number,name`, in either order and
    under a header or none; JSON holds `{name: number}`. Raises ValueError where the numbers do not
    count the classes, or a name stands twice.
    """
    if path.suffix.lower() == ".json":
        try:
            pairs = [(int(number), name) for name, number in read_json(path, dict).items()]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: a class's number is no whole number ({error})") from error
        return _in_order(path, pairs)
    lines = [text.strip() for _, text in lines_of(path)]
    rows = lines[1:] if lines and _HEADER.fullmatch(lines[0].lower()) else lines
    for pattern in _NUMBERED:
        found = [re.fullmatch(pattern, line) for line in rows]
        if rows and all(found):
            return _in_order(path, [(int(m["number"]), m["name"]) for m in found if m])
    if len(set(lines)) < len(lines) or not lines:
        raise ValueError(f"{path} must name each class once, one a line; it has {len(lines)} lines")
    return tuple(lines)


def _in_order(path: Path, pairs: list[tuple[int, str]]) -> tuple[str, ...]:
    numbers = sorted(number for number, _ in pairs)
    start = numbers[0]
    if start > 1 or numbers != list(range(start, start + len(pairs))):
        raise ValueError(
            f"{path}: the numbers of its {len(pairs)} classes do not count from 0 or 1 "
            "without a gap; mend them"
        )
    return tuple(name.strip().strip('"') for _, name in sorted(pairs))


def read_json(path: Path, kind: type) -> Any:
    """Return what a file holds. Raises ValueError unless it is a `kind`, and not empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, kind) or not content:
        raise ValueError(f"{path} must hold a {kind.__name__} of entries, and has none")
    return content
