"""The files that `posmlp data check` leaves in a data set's folder, and who reads them.

ROOT/data-problems.csv   what is wrong, a row an item or annotation; `dropped` rows are left out of
                         training, whoever set them: a check, or you
ROOT/data-files.csv      every file that can be read: its frames, rate, size and decoder, so that
                         training need not read it again to know

Where ROOT must not be written to, they lie in a folder of their own that stands for the data set:

LISTS/data-root.txt      the data set's folder, as LAYOUT:ROOT or ROOT
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast, get_args

from posmlp.data.layouts.listing import Kind, Problem
from posmlp.shapes import not_written

PROBLEM_FILE = "data-problems.csv"
FILES_FILE = "data-files.csv"
ROOT_FILE = "data-root.txt"
_NAMES = "surrogateescape"  # file names need not be UTF-8: they are written as they are
_PROBLEM_COLUMNS = ("split", "place", "problem", "dropped", "reason")


@dataclass(frozen=True)
class FileFacts:
    """What reading one file told; `size_bytes` and `changed_ns` tell whether it is still that."""

    split: str
    place: str
    label: int
    size_bytes: int
    changed_ns: int
    num_frames: int  # that can be decoded
    num_lacking: int  # that are declared and cannot be decoded
    fps: float | None
    width: int
    height: int
    decoder: str
    notes: str  # what is odd about it, joined by semicolons

    def still_holds(self, path: Path) -> bool:
        """Whether the file is as it was when it was read."""
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size_bytes, self.changed_ns)


def write_problems(root: Path, rows: Iterable[tuple[str, Problem, bool]]) -> Path:
    """Write (split, problem, whether it is dropped) rows; returns the file's path."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_PROBLEM_COLUMNS)
    for split, problem, dropped in rows:
        use = "yes" if dropped else "no"
        writer.writerow((split, problem.place, problem.kind, use, problem.reason))
    return _write(root / PROBLEM_FILE, text.getvalue())


def read_dropped(root: Path) -> dict[str, Problem]:
    """Return the problems that are left out, by their place; none where nothing was checked.

    Raises ValueError, with the line, where the file is not as `write_problems` writes it.
    """
    path = root / PROBLEM_FILE
    if not path.is_file():
        return {}
    found = {}
    with path.open(newline="", encoding="utf-8-sig", errors=_NAMES) as file:
        separator = max(",;\t", key=file.readline().count)  # a spreadsheet may have stored it
        file.seek(0)
        rows = csv.DictReader(file, delimiter=separator)
        if rows.fieldnames is None or not set(_PROBLEM_COLUMNS) <= set(rows.fieldnames):
            raise ValueError(f"{path} needs the columns {', '.join(_PROBLEM_COLUMNS)}; mend it")
        for row in rows:
            if row["dropped"] not in ("yes", "no") or row["problem"] not in get_args(Kind):
                raise ValueError(
                    f"{path}:{rows.line_num}: dropped={row['dropped']!r} must be yes or no, and "
                    f"problem={row['problem']!r} one of {', '.join(get_args(Kind))}"
                )
            if row["dropped"] == "yes":
                kind = cast(Kind, row["problem"])
                found[row["place"]] = Problem(row["place"], kind, row["reason"])
    return found


def write_files(root: Path, facts: Iterable[FileFacts]) -> Path:
    """Write a row a file that could be read; returns the path of the list."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(FileFacts)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in facts)
    return _write(root / FILES_FILE, text.getvalue())


def read_files(root: Path) -> dict[str, FileFacts]:
    """Return what a check knows of each file, by its place; empty if there was no check."""
    path = root / FILES_FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8", errors=_NAMES) as file:
        try:
            facts = [_facts(row) for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not what `posmlp data check` writes ({error}); remove it or check again"
            ) from error
    return {each.place: each for each in facts}


def _facts(row: dict[str, str]) -> FileFacts:
    whole = ("label", "size_bytes", "changed_ns", "num_frames", "num_lacking", "width", "height")
    return FileFacts(
        split=row["split"],
        place=row["place"],
        fps=float(row["fps"]) if row["fps"] else None,
        decoder=row["decoder"],
        notes=row["notes"],
        **{name: int(row[name]) for name in whole},
    )


def write_root(lists: Path, layout: str | None, root: Path) -> None:
    """Say in the folder of the lists whose they are."""
    prefix = f"{layout}:" if layout else ""
    _write(lists / ROOT_FILE, f"{prefix}{root.resolve()}\n")


def read_root(lists: Path) -> str | None:
    """Return the data set, `LAYOUT:ROOT` or `ROOT`, that a folder of lists stands for, if any."""
    path = lists / ROOT_FILE
    if not path.is_file():
        return None
    return path.read_text(encoding="utf-8", errors=_NAMES).strip("\n")


def _write(path: Path, text: str) -> Path:
    """Write by way of another name, so that a reader never meets half a list."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors=_NAMES)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise not_written(path, 0, error) from error
    return path
