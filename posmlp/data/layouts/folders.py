"""Layouts in which folders are the classes, and the layout that `posmlp data make` writes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from posmlp.data.layouts.listing import (
    FRAME_SUFFIXES,
    SHAPE,
    SPLITS,
    VIDEO_SUFFIXES,
    Item,
    Listing,
    Problem,
    by_suffix,
    is_frame_folder,
    make_listing,
    place_of,
    slashed,
    split_missing,
    table_of,
    visible,
)
from posmlp.data.layouts.splits import (
    CLASS_FOLDERS,
    groups_of,
    part_of,
    parts_of,
    split_by_group,
)

IMAGE_FOLDERS = "image-folders"
LABEL_FILE = "labels.csv"
_SPLIT_WORD = re.compile(r"(?i)train(ing)?|test(ing)?|val(id|idation)?|dev|eval(uation)?")

IsItem = Callable[[Path], bool]
"""Whether something in a class folder is one of its videos, or images."""


# ---- ROOT/dataset.json and ROOT/{split}.csv ------------------------------------------------------


def is_listed(root: Path) -> bool:
    return (root / "dataset.json").is_file() and any((root / f"{s}.csv").is_file() for s in SPLITS)


def has_val_table(root: Path) -> bool:
    return (root / "val.csv").is_file()


def read_listed(root: Path, split: str) -> Listing:
    """Read `path,label` rows of ROOT/{split}.csv, with the classes of ROOT/dataset.json."""
    name, classes, reverse_of = _described(root)
    table = root / f"{split}.csv"
    if not table.is_file():
        raise split_missing(root, split, [s for s in SPLITS if (root / f"{s}.csv").is_file()])
    items: list[Item] = []
    problems: list[Problem] = []
    columns, rows = table_of(table)
    if not {"path", "label"} <= set(columns):
        raise ValueError(f"{table} has columns {columns}; it needs 'path' and 'label'")
    for place, values in rows:
        row = dict(zip(columns, values, strict=False))
        label = row.get("label", "")
        if not row.get("path") or len(values) > len(columns):
            problems.append(Problem(place, "malformed", f"not {','.join(columns)}: {values}"))
        elif label.isdecimal() and int(label) < len(classes):
            items.append(Item(place, root / slashed(root, row["path"]), int(label)))
        else:
            reason = (
                f"label {label!r} is not a number from 0 to {len(classes) - 1}; dataset.json "
                f"names {len(classes)} classes"
            )
            problems.append(Problem(place, "mislabelled", reason))
    rule = f"as listed in {table.name}"
    return make_listing(
        root, "listed", split, rule, classes, items, problems, name=name, reverse_of=reverse_of
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


# ---- ROOT/labels.csv: clips of several labels ----------------------------------------------------


def is_labelled(root: Path) -> bool:
    return (root / LABEL_FILE).is_file()


def read_labelled(root: Path, split: str) -> Listing:
    """Read rows `path,labels` of ROOT/labels.csv, as in `a.mp4,jump;turn`, and split by group."""
    columns, rows = table_of(root / LABEL_FILE)
    if not {"path", "labels"} <= set(columns):
        raise ValueError(
            f"{root / LABEL_FILE} has columns {columns}; it needs 'path' and 'labels', a comma "
            f"between; or name another layout, as in class-folders:{root}"
        )
    named: dict[tuple[str, Path], set[str]] = {}
    problems = []
    for place, values in rows:
        row = dict(zip(columns, values, strict=False))
        names = {name.strip() for name in re.split("[;|]", row.get("labels", ""))} - {""}
        if row.get("path") and names and len(values) == len(columns):
            named[place, root / slashed(root, row["path"])] = names
        else:
            reason = f"{','.join(values)!r} is no path and labels, as in a.mp4,jump;turn"
            problems.append(Problem(place, "malformed", reason))
    counts = Counter(name for names in named.values() for name in names)
    known = all if any(len(names) > 1 for names in named.values()) else any
    for (place, path), names in list(named.items()):
        for name in names:
            if "," in name and known(part.strip() in counts for part in name.split(",")):
                reason = f"{name!r} has commas between labels, and needs semicolons"
                problems.append(Problem(place, "malformed", reason))
                named.pop((place, path), None)
    classes = sorted(counts)
    number = {name: k for k, name in enumerate(classes)}
    items = [
        Item(*where, number[min(sorted(names), key=lambda name: counts[name])])
        for where, names in named.items()
    ]
    listing = make_listing(root, "labelled", split, "", classes, items, problems)
    several: dict[Path, tuple[int, ...]] = {}
    for (_, path), names in named.items():
        several.setdefault(path, tuple(sorted(number[name] for name in names)))
    groups, what = groups_of(root, listing.places(), [0] * len(listing.paths), [""])
    each = [(g, k) for g, path in zip(groups, listing.paths, strict=True) for k in several[path]]
    of_each = [group for group, _ in each]
    found = parts_of(of_each, [label for _, label in each], CLASS_FOLDERS)
    parts = dict(zip(of_each, found, strict=True))
    listing = replace(listing, split_rule=f"by whole groups; groups: {what}", several=several)
    return part_of(listing, [parts[group] for group in groups], split)


# ---- ROOT/{train,test,val}/CLASS/* ---------------------------------------------------------------


def has_split_folders(root: Path) -> bool:
    return bool(_splits_of(root))


def _splits_of(root: Path) -> list[str]:
    """The splits that have a folder. Raises ValueError where folders seem splits by other names."""
    folders = [path.name for path in visible(root) if path.is_dir()]
    words = [name for name in folders if _SPLIT_WORD.fullmatch(name)]
    others = [name for name in words if name not in SPLITS]
    if others and ("train" in folders or words == folders):
        raise ValueError(
            f"{root} has the folders {', '.join(words)}; call splits train, val and test, or, if "
            f"they are classes, name the layout: class-folders:{root}"
        )
    return [s for s in SPLITS if s in folders]


def read_split_folders(
    root: Path, split: str, layout: str = "split-folders", is_item: IsItem | None = None
) -> Listing:
    """Read ROOT/{split}/CLASS/*; `test` is ROOT/val where there is no ROOT/test."""
    found, is_item = _splits_of(root), is_item or _is_video
    folder = "val" if split == "test" and "test" not in found else split
    if folder not in found:
        raise split_missing(root, split, found)
    if not any(path.is_dir() for path in visible(root / folder)):
        raise ValueError(
            f"{root / folder} holds no class folders; put its videos into some, or, if {folder!r} "
            f"is a class itself, name the layout: class-folders:{root}"
        )
    files = _class_files(root / folder, is_item)
    # All splits count towards the classes, so that a label means the same in each of them.
    everywhere = {c.name for s in found for c in visible(root / s) if c.is_dir()}
    rule = "by folder" if folder == split else f"by folder, {folder} in place of {split}"
    return _by_class(root, layout, split, rule, tuple(sorted(everywhere)), files, is_item)


# ---- ROOT/{train,test,val}/CLASS/*.jpg -----------------------------------------------------------


def has_image_folders(root: Path) -> bool:
    """Whether class folders of its splits hold images, and none of them a video."""
    classes = [c for s in _splits_of(root) for c in visible(root / s) if c.is_dir()]
    return any(map(is_frame_folder, classes)) and not any(
        _is_video(path) for folder in classes for path in visible(folder)
    )


def has_val_folder(root: Path) -> bool:
    """Whether ROOT/val is not in place of ROOT/test."""
    return {"val", "test"} <= set(_splits_of(root))


def read_image_folders(root: Path, split: str) -> Listing:
    """Read ROOT/{split}/CLASS/*.jpg, each image a video of one frame; else as `split-folders`."""
    return read_split_folders(root, split, IMAGE_FOLDERS, _is_image)


# ---- ROOT/CLASS/*, or ROOT/CLASS/PERSON/*, without a split ---------------------------------------


def has_folders(root: Path) -> bool:
    return True  # the last resort, which then says what is missing


def read_class_folders(root: Path, split: str) -> Listing:
    """Read ROOT/CLASS/*, and split each class by group: see `splits.py`."""
    if split not in SPLITS:
        raise split_missing(root, split, SPLITS)
    files = _class_files(root, _is_video)
    classes = tuple(sorted(files))
    listing = _by_class(root, "class-folders", split, "", classes, files, _is_video)
    parts, what = split_by_group(listing, CLASS_FOLDERS)
    found = set(zip(listing.labels, parts, strict=True))
    for label in set(listing.labels):
        if not {(label, "train"), (label, "test")} <= found:
            raise ValueError(
                f"{root / listing.classes[label]} has {listing.labels.count(label)} video(s), of "
                f"too few groups ({what}) to be split into train and test; add some, or make "
                "folders train/ and test/ yourself"
            )
    given = {split: share.of_groups for split, share in CLASS_FOLDERS.items() if split in parts}
    rule = ", ".join(f"{share:.0%} to {split}" for split, share in given.items())
    listing = replace(listing, split_rule=f"of each class's groups {rule}; groups: {what}")
    return part_of(listing, parts, split)


# ---- Common parts --------------------------------------------------------------------------------


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES or is_frame_folder(path)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in FRAME_SUFFIXES and path.is_file()


def _class_files(folder: Path, is_item: IsItem) -> dict[str, list[Path]]:
    """Return what is in each class folder and below; every class has at least one video."""
    classes = {c.name: list(_below(c, is_item)) for c in visible(folder) if c.is_dir()}
    if not classes:
        raise ValueError(f"{folder} holds no class folders; put {SHAPE} there")
    for name, files in classes.items():
        if not any(map(is_item, files)):
            raise ValueError(
                f"class folder {folder / name} holds no {_wanted(is_item)}; "
                "put some there, or remove the folder"
            )
    return classes


def _below(folder: Path, is_item: IsItem) -> Iterator[Path]:
    """What is in a folder and in those in it; a video is whole, be it a folder of frames."""
    here = folder.resolve()
    for path in visible(folder):
        if path.is_dir() and not is_item(path) and path.resolve() not in (here, *here.parents):
            yield from _below(path, is_item)
        else:
            yield path


def _wanted(is_item: IsItem) -> str:
    if is_item is _is_image:
        return f"image ({' '.join(FRAME_SUFFIXES)})"
    return f"video ({' '.join(VIDEO_SUFFIXES)})"


def _by_class(
    root: Path,
    layout: str,
    split: str,
    split_rule: str,
    classes: tuple[str, ...],
    files: dict[str, list[Path]],
    is_item: IsItem,
) -> Listing:
    """Label the videos by their folder, classes in the order of dataset.json or of their names."""
    name, reverse_of = root.resolve().name, None
    if (root / "dataset.json").is_file():
        name, classes, reverse_of = _described(root)
    unknown = sorted(set(files) - set(classes))
    if unknown:
        raise ValueError(f"{root}: folders {unknown} are not among the classes of dataset.json")
    all_files = [(f, k) for k, c in enumerate(classes) for f in files.get(c, [])]
    items = [Item(place_of(f, root), f, k) for f, k in all_files if is_item(f)]
    listing = make_listing(
        root, layout, split, split_rule, classes, items, [], name=name, reverse_of=reverse_of
    )
    others = [f for f, _ in all_files if not is_item(f)]
    beside = [f for at in (root, root / split) if at.is_dir() for f in visible(at)]
    beside = [f for f in beside if f.is_file() and is_item(f)]
    said = [by_suffix(others)] if others else []
    said += [f"{by_suffix(beside)} in no class folder"] if beside else []
    return replace(listing, num_other_files=len(others) + len(beside), other_files=", ".join(said))
