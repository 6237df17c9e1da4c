"""Where the videos and labels of a data set are: one reader for each folder layout.

A layout is recognised by what stands in the data set's folder, and read into a `Listing`. To add
one, write its two functions and put them into `LAYOUTS`; the first that recognises a folder wins.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov")
SPLITS = ("train", "test", "val")
TEST_SHARE = 0.2  # of each class, where the data set comes without a split
SPLIT_SEED = 0


@dataclass(frozen=True)
class Listing:
    """The files of one split, in order, and what their labels mean."""

    root: Path
    name: str
    layout: str
    split: str
    split_rule: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    reverse_of: tuple[int, ...] | None = None  # label -> label of its time reversal
    num_other_files: int = 0  # in class folders, not videos by their suffix: left alone


def list_videos(root: str | Path, split: str) -> Listing:
    """List the videos of `split` under `root`.

    Raises:
        ValueError: nothing usable is there; the message says what was expected.
    """
    root = Path(root)
    if not root.exists():
        raise ValueError(f"data folder {root} does not exist; give the folder that holds the data")
    if not root.is_dir():
        raise ValueError(f"{root} is a file, not a data folder; give the folder that holds it")
    if not any(root.iterdir()):
        raise ValueError(f"data folder {root} is empty; put {SHAPE} there")
    name, layout = next((n, layout) for n, layout in LAYOUTS.items() if layout.recognises(root))
    listing = layout.read(root, split)
    if len(set(listing.labels)) < 2:
        found = [listing.classes[k] for k in sorted(set(listing.labels))]
        raise ValueError(
            f"{root} ({split}, layout {name!r}) has videos of {len(found)} class {found}; "
            "a data set needs at least 2 classes"
        )
    return listing


SHAPE = "ROOT/train/CLASS/*.mp4 and ROOT/test/CLASS/*.mp4, or ROOT/CLASS/*.mp4"


# ---- ROOT/dataset.json and ROOT/{split}.csv ------------------------------------------------------


def _is_listed(root: Path) -> bool:
    return (root / "dataset.json").is_file() and any((root / f"{s}.csv").is_file() for s in SPLITS)


def _read_listed(root: Path, split: str) -> Listing:
    name, classes, reverse_of = _described(root)
    table = root / f"{split}.csv"
    if not table.is_file():
        raise _split_missing(root, split, [s for s in SPLITS if (root / f"{s}.csv").is_file()])
    paths, labels = [], []
    with table.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{table} has columns {rows.fieldnames}; it needs 'path' and 'label'")
        for row in rows:
            label = row["label"]
            if not label.isdecimal() or int(label) >= len(classes):
                raise ValueError(
                    f"{table}:{rows.line_num}: label {label!r} is not a number from 0 to "
                    f"{len(classes) - 1}; dataset.json names {len(classes)} classes"
                )
            paths.append(root / row["path"])
            labels.append(int(label))
    rule = f"as listed in {table.name}"
    return Listing(
        root, name, "listed", split, rule, classes, tuple(paths), tuple(labels), reverse_of
    )


def _described(root: Path) -> tuple[str, tuple[str, ...], tuple[int, ...] | None]:
    """Return name, classes and reversals from dataset.json."""
    path = root / "dataset.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple(about["classes"])
        reverse = about.get("reverse_of")
        reverse_of = tuple(classes.index(reverse[c]) for c in classes) if reverse else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not as expected ({error}); it needs 'classes', a list of names, and may "
            "have 'reverse_of', a name for each class"
        ) from error
    return about.get("name", root.resolve().name), classes, reverse_of


# ---- ROOT/{train,test,val}/CLASS/* ---------------------------------------------------------------


def _has_split_folders(root: Path) -> bool:
    return any((root / s).is_dir() for s in SPLITS)


def _read_split_folders(root: Path, split: str) -> Listing:
    if not (root / split).is_dir():
        raise _split_missing(root, split, [s for s in SPLITS if (root / s).is_dir()])
    files = _class_files(root / split)
    # All splits count towards the classes, so that a label means the same in each of them.
    everywhere = {
        c.name for s in SPLITS if (root / s).is_dir() for c in _visible(root / s) if c.is_dir()
    }
    return _by_class(root, "split-folders", split, "by folder", tuple(sorted(everywhere)), files)


# ---- ROOT/CLASS/*, without a split ---------------------------------------------------------------


def _has_folders(root: Path) -> bool:
    return True  # the last resort, which then says what is missing


def _read_class_folders(root: Path, split: str) -> Listing:
    if split not in ("train", "test"):
        raise _split_missing(root, split, ["train", "test"])
    files = _class_files(root)
    chosen = {name: _seeded_part(root / name, found, split) for name, found in files.items()}
    rule = f"{TEST_SHARE:.0%} of each class's files to test, the rest to train; seed {SPLIT_SEED}"
    return _by_class(root, "class-folders", split, rule, tuple(sorted(files)), chosen)


def _seeded_part(folder: Path, files: list[Path], split: str) -> list[Path]:
    """Return this split's share of one class, in the order of the names."""
    videos = [f for f in files if f.suffix.lower() in VIDEO_SUFFIXES]
    if len(videos) < 2:
        raise ValueError(
            f"{folder} has {len(videos)} video, which cannot be split into train and test; "
            "add a second one, or make folders train/ and test/ yourself"
        )
    num_test = max(1, round(TEST_SHARE * len(videos)))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(videos))
    chosen = order[:num_test] if split == "test" else order[num_test:]
    return [videos[i] for i in sorted(chosen)]


# ---- Common parts --------------------------------------------------------------------------------


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each class folder; every class has at least one video."""
    folders = [c for c in _visible(folder) if c.is_dir()]
    classes = {c.name: [f for f in _visible(c) if f.is_file()] for c in folders}
    if not classes:
        raise ValueError(f"{folder} holds no class folders; put {SHAPE} there")
    for name, files in classes.items():
        if not any(f.suffix.lower() in VIDEO_SUFFIXES for f in files):
            raise ValueError(
                f"class folder {folder / name} holds no video ({' '.join(VIDEO_SUFFIXES)}); "
                "put some there, or remove the folder"
            )
    return classes


def _by_class(
    root: Path,
    layout: str,
    split: str,
    split_rule: str,
    classes: tuple[str, ...],
    files: dict[str, list[Path]],
) -> Listing:
    """Label the videos by their folder, classes in the order of dataset.json or of their names."""
    name, reverse_of = root.resolve().name, None
    if (root / "dataset.json").is_file():
        name, classes, reverse_of = _described(root)
    unknown = sorted(set(files) - set(classes))
    if unknown:
        raise ValueError(f"{root}: folders {unknown} are not among the classes of dataset.json")
    paths, labels, num_other = [], [], 0
    for label, class_name in enumerate(classes):
        for file in files.get(class_name, []):
            if file.suffix.lower() in VIDEO_SUFFIXES:
                paths.append(file)
                labels.append(label)
            else:
                num_other += 1
    return Listing(
        root=root,
        name=name,
        layout=layout,
        split=split,
        split_rule=split_rule,
        classes=classes,
        paths=tuple(paths),
        labels=tuple(labels),
        reverse_of=reverse_of,
        num_other_files=num_other,
    )


def _split_missing(root: Path, split: str, found: list[str]) -> ValueError:
    return ValueError(f"split={split!r} is not in {root}; it has {found}: use one of them")


class Layout(NamedTuple):
    """How a layout is recognised by its root folder, and how one split of it is listed."""

    recognises: Callable[[Path], bool]
    read: Callable[[Path, str], Listing]


LAYOUTS: dict[str, Layout] = {
    "listed": Layout(_is_listed, _read_listed),
    "split-folders": Layout(_has_split_folders, _read_split_folders),
    "class-folders": Layout(_has_folders, _read_class_folders),
}
