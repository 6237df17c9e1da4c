"""One split of a data set: its videos, their labels, and what is wrong with its annotations.

No torch here: whoever only wants to know what a data set holds starts quickly.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".webm", ".mkv", ".mov"),
    *(".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts", ".m2ts", ".ogv", ".vob"),
)
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SPLITS = ("train", "val", "test")
SHAPE = (
    "ROOT/train/CLASS/*.mp4 and ROOT/test/CLASS/*.mp4, or ROOT/CLASS/*.mp4, or the lists of "
    "Kinetics, Something-Something, UCF101 or HMDB51"
)

Kind = Literal["malformed", "mislabelled", "missing", "empty", "unreadable", "too short", "damaged"]


@dataclass(frozen=True)
class Problem:
    """An item or annotation line that is not as it should be, and why.

    `place` is the item's path relative to the data set's folder, or FILE:LINE of an annotation.
    """

    place: str
    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class SplitMissing(ValueError):
    """The data set has no such split."""


class Item(NamedTuple):
    """What one annotation says."""

    place: str  # FILE:LINE, or the item's own path where a folder is the annotation
    path: Path  # a video file, or a folder of frames
    label: int
    num_frames: int | None = None  # as declared, where the annotation tells


@dataclass(frozen=True)
class Listing:
    """The items of one split, in order, and what their labels mean.

    `problems` are annotations that give no item; `dropped` are items and annotations that are left
    out because a data check found them unusable.
    """

    root: Path
    name: str
    layout: str
    split: str
    split_rule: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    reverse_of: tuple[int, ...] | None = None  # label -> label of its time reversal
    num_other_files: int = 0  # of class folders: no videos by suffix, or of no class
    other_files: str = ""  # which those are, in words
    num_frames: tuple[int | None, ...] = ()  # as declared
    problems: tuple[Problem, ...] = ()
    dropped: tuple[Problem, ...] = ()
    lists: Path | None = None  # the folder of a data check's lists, if one was looked for
    several: Mapping[Path, tuple[int, ...]] = field(default_factory=dict)
    """All labels of each item, where items have several; `labels` then has its rarest."""

    def all_labels(self) -> list[tuple[int, ...]]:
        """The labels of each item, one but where items have several."""
        each = zip(self.paths, self.labels, strict=True)
        return [self.several.get(path, (label,)) for path, label in each]

    def told_labels(self) -> list[str]:
        """The same as text, as in `4`, or `0;4`."""
        return [";".join(map(str, labels)) for labels in self.all_labels()]

    def present(self) -> list[int]:
        """The labels that any item has, in their order."""
        return sorted({label for labels in self.all_labels() for label in labels})

    def sizes(self) -> list[int | None]:
        """Each file's bytes or folder's frames (as declared, or else counted); None if missing."""
        declared = self.num_frames or (None,) * len(self.paths)
        return [_size(path, count) for path, count in zip(self.paths, declared, strict=True)]

    def places(self) -> list[str]:
        """Each item's path relative to the root, with slashes; as it is if it lies elsewhere."""
        return [place_of(path, self.root) for path in self.paths]

    def only(self, kept: Sequence[int]) -> Listing:
        """The listing of some of the items."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in kept),
            labels=tuple(self.labels[i] for i in kept),
            num_frames=tuple(self.num_frames[i] for i in kept) if self.num_frames else (),
        )


def _size(path: Path, declared: int | None) -> int | None:
    if not path.exists():
        return None
    if path.is_dir():
        return declared or len(os.listdir(path))
    return path.stat().st_size


def make_listing(
    root: Path,
    layout: str,
    split: str,
    split_rule: str,
    classes: Sequence[str],
    items: Iterable[Item],
    problems: Iterable[Problem],
    *,
    name: str | None = None,
    reverse_of: tuple[int, ...] | None = None,
) -> Listing:
    """Return the listing of the items whose labels exist and that are listed once."""
    good: list[Item] = []
    bad = list(problems)
    first: dict[Path, Item] = {}
    for item in items:
        if not 0 <= item.label < len(classes):
            bad.append(_outside(item.place, str(item.label), len(classes)))
        elif item.path in first:
            before = first[item.path]
            reason = (
                f"{place_of(item.path, root)} was listed before, in {before.place}, as class "
                f"{before.label} ({classes[before.label]}); here as class {item.label}"
            )
            bad.append(Problem(item.place, "mislabelled", reason))
        else:
            first[item.path] = item
            good.append(item)
    return Listing(
        root=root,
        name=name or root.resolve().name,
        layout=layout,
        split=split,
        split_rule=split_rule,
        classes=tuple(map(as_text, classes)),
        paths=tuple(item.path for item in good),
        labels=tuple(item.label for item in good),
        reverse_of=reverse_of,
        num_frames=tuple(item.num_frames for item in good),
        problems=tuple(bad),
    )


def _outside(place: str, label: str, num_classes: int) -> Problem:
    reason = f"label {label!r} is not a number from 0 to {num_classes - 1}, the class list's ends"
    return Problem(place, "mislabelled", reason)


def as_text(name: str) -> str:
    """A name that figures and tables can show: bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def slashed(root: Path, name: str) -> str:
    """A listed path with slashes, if it has backslashes (as Windows writes) and names no file."""
    return name if "\\" not in name or (root / name).exists() else name.replace("\\", "/")


def place_of(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def plain(name: str) -> str:
    """A class's name, however lists and folders write it."""
    return name.lower().replace("_", " ").strip('"')


def is_frame_folder(path: Path) -> bool:
    """Whether `path` is a folder with at least one image in it, and no video that it pictures."""
    if not path.is_dir():
        return False
    names = [name.lower() for name in os.listdir(path) if not name.startswith(".")]
    has_image = any(name.endswith(FRAME_SUFFIXES) for name in names)
    return has_image and not any(name.endswith(VIDEO_SUFFIXES) for name in names)


def split_missing(root: Path, split: str, found: Iterable[str]) -> SplitMissing:
    found = list(found)
    if not found:
        return SplitMissing(f"{root} holds no lists of this layout; name its own as LAYOUT:{root}")
    return SplitMissing(f"split={split!r} is not in {root}; it has {found}: use one of them")


def by_suffix(paths: Iterable[Path]) -> str:
    """How many files there are of which suffix, in words, most first."""
    counts = Counter(path.suffix.lower() or "without suffix" for path in paths)
    shown = [f"{count} {suffix}" for suffix, count in counts.most_common(5)]
    return ", ".join([*shown, "..."] if len(counts) > 5 else shown)


def visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


# ---- Annotation files ----------------------------------------------------------------------------


def count_from_1(labels: Iterable[int], num_classes: int | None) -> bool:
    """Whether labels count from 1: there is no 0, and the largest is the number of classes.

    Where no names tell that number (None), each number up to the largest must be there.
    """
    found = set(labels)
    if not found or min(found) < 1:
        return False
    return max(found) == (len(found) if num_classes is None else num_classes)


_EXCEL = re.compile(r'"?sep=."?')  # a first line that tells a spreadsheet what separates fields


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield FILE:LINE and text of each line that is not blank."""
    try:
        with path.open("rb") as file:
            wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        with path.open(encoding="utf-16" if wide else "utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not (number == 1 and _EXCEL.fullmatch(line.strip())):
                    yield f"{path.name}:{number}", line.strip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def table_of(path: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The columns that a table's header names, and FILE:LINE and fields of each line below it.

    The header tells what separates fields. Names are in lower case, and blanks around fields go.
    """
    lines = list(lines_of(path))
    header = lines[0][1] if lines else ""
    separator = max(",;\t|", key=header.count)
    rows = [
        (place, [field.strip() for field in next(csv.reader([line], delimiter=separator))])
        for place, line in lines
    ]
    return [name.lower() for name in rows[0][1]] if rows else [], rows[1:]


def annotation_folders(root: Path) -> list[Path]:
    """The folders in which annotation files may lie."""
    names = ("", "labels", "annotations", "ucfTrainTestlist", "testTrainMulti_7030_splits")
    return [root / name for name in (*names, "splits") if (root / name).is_dir()]


def annotation_files(root: Path, suffix: str) -> list[Path]:
    """Files of that suffix where annotation files may lie, in the order of their names."""
    return [
        path
        for folder in annotation_folders(root)
        for path in visible(folder)
        if path.suffix.lower() == suffix and path.is_file()
    ]


def media_folder(root: Path, names: Sequence[str]) -> Path:
    """Return the folder in which the first of `names` are: `root`, or one directly below it.

    `root` if none is anywhere, so that the files are then reported missing by their names.
    """
    probes = names[:10]

    def has(folder: Path) -> bool:
        return any((folder / name).exists() for name in probes)

    if has(root):
        return root
    with os.scandir(root) as entries:
        below = sorted(entry.path for entry in entries if entry.is_dir())
    return next((Path(folder) for folder in below if has(Path(folder))), root)
