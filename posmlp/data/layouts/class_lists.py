"""UCF101 and HMDB51: one folder of videos a class, and split files, three of each."""

from __future__ import annotations

import re
from pathlib import Path

from posmlp.data.layouts.class_names import read_class_names
from posmlp.data.layouts.listing import (
    Item,
    Listing,
    Problem,
    annotation_files,
    lines_of,
    make_listing,
    media_folder,
    slashed,
    split_missing,
)

NUM_FOLDS = 3


# ---- UCF101: classInd.txt, trainlist01.txt, testlist01.txt ---------------------------------------


def is_ucf101(root: Path) -> bool:
    names = {path.name for path in annotation_files(root, ".txt")}
    return "classInd.txt" in names and any(name.startswith("trainlist0") for name in names)


def has_ucf101_val(root: Path) -> bool:
    return any(path.name.startswith("vallist0") for path in annotation_files(root, ".txt"))


def read_ucf101(root: Path, split: str, fold: int = 1) -> Listing:
    """Read `Class/v.avi 1` lines (1-based, and without number in test lists) of one of 3 folds."""
    lists = {path.name: path for path in annotation_files(root, ".txt")}
    table = lists.get(f"{split}list{fold:02d}.txt")
    if table is None or "classInd.txt" not in lists:
        raise split_missing(root, split, [n for n in lists if "list0" in n or n == "classInd.txt"])
    classes = read_class_names(lists["classInd.txt"])
    rows = [(place, *_ucf101_fields(slashed(root, line))) for place, line in lines_of(table)]
    folder = media_folder(root, [name for _, name, _ in rows])
    items, problems = [], []
    for place, name, number in rows:
        class_name = Path(name).parent.name
        if class_name not in classes:
            reason = f"{name!r} does not begin with one of the {len(classes)} classes"
            problems.append(Problem(place, "mislabelled", reason))
            continue
        label = classes.index(class_name)
        if number is not None and number != str(label + 1):
            reason = f"{name} has number {number}, but classInd.txt says {label + 1} {class_name}"
            problems.append(Problem(place, "mislabelled", reason))
            continue
        items.append(Item(place, folder / name, label))
    rule = f"as listed in {table.name}"
    return make_listing(root, "ucf101", split, rule, classes, items, problems)


def _ucf101_fields(line: str) -> tuple[str, str | None]:
    found = re.fullmatch(r"(?P<name>.+?)(?:\s+(?P<number>\d+))?", line.strip())
    assert found is not None  # the line is not blank
    return found["name"], found["number"]


# ---- HMDB51: CLASS_test_split1.txt ---------------------------------------------------------------

_HMDB51_FILE = re.compile(r"(?P<name>.+)_test_split(?P<fold>[123])\.txt")
_HMDB51_TAGS = {"1": "train", "2": "test", "0": None}  # None: in neither part of this fold


def is_hmdb51(root: Path) -> bool:
    return any(_HMDB51_FILE.fullmatch(path.name) for path in annotation_files(root, ".txt"))


def read_hmdb51(root: Path, split: str, fold: int = 1) -> Listing:
    """Read `file.avi tag` lines of each class's file of one of 3 folds."""
    if split not in ("train", "test"):
        raise split_missing(root, split, ["train", "test"])
    found = [(_HMDB51_FILE.fullmatch(p.name), p) for p in annotation_files(root, ".txt")]
    tables = {m["name"]: path for m, path in found if m and m["fold"] == str(fold)}
    if not tables:
        raise split_missing(root, f"{split} of fold {fold}", [p.name for m, p in found if m])
    classes = tuple(sorted(tables))
    folder = media_folder(root, classes)
    items, problems = [], []
    for label, name in enumerate(classes):
        for place, line in lines_of(tables[name]):
            file, *tags = line.rsplit(maxsplit=1)
            tag = "".join(tags)
            if tag not in _HMDB51_TAGS:
                reason = f"not `file.avi TAG` with TAG 0, 1 (train) or 2 (test): {line!r}"
                problems.append(Problem(place, "malformed", reason))
            elif _HMDB51_TAGS[tag] == split:
                items.append(Item(place, folder / name / file.strip(), label))
    rule = f"tags of *_test_split{fold}.txt"
    return make_listing(root, "hmdb51", split, rule, classes, items, problems)
