"""Which layout a data set has on disk, and its videos and labels.

A layout is named (`NAME:ROOT`) or recognised by what stands in the folder, and read into a
`Listing`. To add one, write its two functions and put them into `LAYOUTS`; where none is named, the
first that recognises a folder wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from posmlp.config_checks import one_of
from posmlp.data.layouts.class_lists import (
    NUM_FOLDS,
    has_ucf101_val,
    is_hmdb51,
    is_ucf101,
    read_hmdb51,
    read_ucf101,
)
from posmlp.data.layouts.folders import (
    IMAGE_FOLDERS,
    has_folders,
    has_image_folders,
    has_split_folders,
    has_val_folder,
    has_val_table,
    is_labelled,
    is_listed,
    read_class_folders,
    read_image_folders,
    read_labelled,
    read_listed,
    read_split_folders,
)
from posmlp.data.layouts.frame_lists import (
    is_frame_list,
    is_ssv1_frame_list,
    is_ssv2_frame_list,
    read_frame_list,
)
from posmlp.data.layouts.kinetics import has_own_val, is_kinetics, read_kinetics
from posmlp.data.layouts.listing import SHAPE, SPLITS, Listing, Problem, SplitMissing, plain
from posmlp.data.layouts.problem_list import PROBLEM_FILE, read_dropped, read_root
from posmlp.data.layouts.something import is_ssv1, is_ssv2, read_ssv1, read_ssv2
from posmlp.data.layouts.splits import (
    GROUP_FILE,
    folds_of,
    groups_of,
    is_person,
    part_of,
    share_of_train,
)

NUM_SHOWN = 10  # problems that an error message names


class Layout(NamedTuple):
    """How a layout is recognised by its root folder, and how one split of it is listed.

    `has_val`: whether it has val clips that are not its test clips; else they are a share of train.
    """

    recognises: Callable[[Path], bool]
    read: Callable[[Path, str], Listing]
    has_val: Callable[[Path], bool] = lambda root: False


LAYOUTS: dict[str, Layout] = {
    "listed": Layout(is_listed, read_listed, has_val_table),
    "labelled": Layout(is_labelled, read_labelled, lambda root: True),
    "ucf101": Layout(is_ucf101, read_ucf101, has_ucf101_val),
    "hmdb51": Layout(is_hmdb51, read_hmdb51),
    "ssv2": Layout(lambda root: is_ssv2(root) or is_ssv2_frame_list(root), read_ssv2),
    "ssv1": Layout(lambda root: is_ssv1(root) or is_ssv1_frame_list(root), read_ssv1),
    "frame-list": Layout(is_frame_list, read_frame_list),
    "kinetics": Layout(is_kinetics, read_kinetics, has_own_val),
    IMAGE_FOLDERS: Layout(has_image_folders, read_image_folders, has_val_folder),
    "split-folders": Layout(has_split_folders, read_split_folders, has_val_folder),
    "class-folders": Layout(has_folders, read_class_folders, lambda root: True),
}
for fold in range(2, NUM_FOLDS + 1):  # only by name: the first fold is the default
    LAYOUTS[f"ucf101-{fold}"] = Layout(is_ucf101, partial(read_ucf101, fold=fold), has_ucf101_val)
    LAYOUTS[f"hmdb51-{fold}"] = Layout(is_hmdb51, partial(read_hmdb51, fold=fold))


def split_spec(spec: str | Path) -> tuple[str | None, Path, Path]:
    """Return layout and folder that `NAME:ROOT` or `ROOT` names, and the folder of a check's lists.

    The layout is None if it is not named. The lists are in ROOT, but where ROOT is itself a folder
    of lists that stands for a data set elsewhere (see `problem_list`).

    Raises ValueError if there is no such folder, or no such layout.
    """
    name: str | None = None
    root = Path(spec)
    if not root.exists() and ":" in str(spec):
        name, _, folder = str(spec).partition(":")
        one_of(name, LAYOUTS, "layout")
        root = Path(folder)
    if not root.exists():
        raise ValueError(f"data folder {root} does not exist; give the folder that holds the data")
    if not root.is_dir():
        raise ValueError(f"{root} is a file, not a data folder; give the folder that holds it")
    if not any(root.iterdir()):
        raise ValueError(f"data folder {root} is empty; put {SHAPE} there")
    elsewhere = read_root(root)
    if elsewhere is None:
        return name, root, root
    layout, data, _ = split_spec(elsewhere)
    return name or layout, data, root


def list_videos(spec: str | Path, split: str) -> Listing:
    """List the videos of `split` of the data set that `NAME:ROOT` or `ROOT` names.

    What a data check found unusable is left out (`Listing.dropped`).

    Raises:
        ValueError: nothing usable is there, or annotations cannot be used: the message names them.
    """
    listing = read_listing(spec, split)
    dropped = read_dropped(listing.lists or listing.root)
    left = [problem for problem in listing.problems if problem.place not in dropped]
    if left:
        raise ValueError(_refusal(listing, left))
    listing = _without(listing, dropped)
    if len(present := listing.present()) < 2:
        found = [listing.classes[k] for k in present]
        kind = SplitMissing if split == "val" else ValueError  # training goes on without val
        raise kind(
            f"{listing.root} ({split}, layout {listing.layout!r}) has videos of {len(found)} class "
            f"{found}; a data set needs at least 2 classes"
        )
    return listing


def read_listing(spec: str | Path, split: str) -> Listing:
    """Read a split's annotations as they are: with their problems, and with nothing left out.

    `foldKofN:` before a spec makes splits of all its videos: see `_read_fold`.
    """
    if fold := re.fullmatch(r"fold(\d+)of(\d+):(.+)", str(spec), re.DOTALL):
        if re.match(r"fold\d+of\d+:", fold[3]):
            raise ValueError(f"{spec} has a fold of a fold, and clips have one; give one, or folds")
        return _read_fold(fold[3], int(fold[1]), int(fold[2]), split)
    name, root, lists = split_spec(spec)
    if name is None:
        name = next(n for n, layout in LAYOUTS.items() if layout.recognises(root))
    layout = LAYOUTS[name]
    try:
        if split == "test" or layout.has_val(root):
            listing = layout.read(root, split)
        else:
            listing = share_of_train(layout.read(root, "train"), split)
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename} is not there, which layout {name!r} begins with; put it there, or "
            f"name the folder alone: {root}"
        ) from error
    return replace(listing, lists=lists)


def all_videos(spec: str | Path) -> tuple[Listing, list[str], str]:
    """The videos of all splits in one listing, the group of each, and in words what groups are.

    The folder of a split makes no group. Raises ValueError as `list_videos` does.
    """
    listings: list[Listing] = []
    for split in SPLITS:
        try:
            listings.append(list_videos(spec, split))
        except SplitMissing:
            continue
    if not listings:
        raise ValueError(f"{spec} has none of the splits {', '.join(SPLITS)}; give one")
    label = {
        p: k for each in reversed(listings) for p, k in zip(each.paths, each.labels, strict=True)
    }
    labels = tuple(label.values())
    listing = replace(listings[0], paths=tuple(label), labels=labels, num_frames=())
    places = listing.places()
    firsts = {place.partition("/")[0] for place in places}
    if firsts <= set(SPLITS) and not (listing.root / GROUP_FILE).is_file():
        places = [place.partition("/")[2] for place in places]
    return listing, *groups_of(listing.root, places, labels, listing.classes)


def _read_fold(spec: str, fold: int, count: int, split: str) -> Listing:
    """A split of a cross-validation over groups: a fold is test, the next one val, the rest train.

    Raises ValueError for a fold that is not there, or that leaves a class without training clips.
    """
    if not (0 <= fold < count and count >= 3):
        raise ValueError(
            f"fold{fold}of{count}: folds count from 0, and there are at least 3, as one is test "
            "and the next val"
        )
    listing, groups, what = all_videos(spec)
    if (most := len(set(groups))) < count:
        raise ValueError(
            f"{listing.root} has {most} groups ({what}), too few for {count} folds; give at most "
            f"{most}, and at least 3"
        )
    folds = folds_of(groups, listing.labels, count)
    next_one = (fold + 1) % count
    parts = ["test" if f == fold else "val" if f == next_one else "train" for f in folds]
    taught = listing.only([i for i, part in enumerate(parts) if part == "train"]).present()
    if lost := sorted(set(listing.present()) - set(taught)):
        raise ValueError(
            f"fold{fold}of{count} has no training clips of class {listing.classes[lost[0]]!r}, as "
            "its groups are few; give another number of folds, or add clips of other groups"
        )
    rule = f"fold {fold} of {count}, val is fold {next_one}; groups: {what}"
    return replace(part_of(listing, parts, split), split_rule=rule)


def say(listing: Listing) -> str:
    """Return a line that says what was found, and how."""
    present, known = len(listing.present()), len(listing.classes)
    found = f"{len(listing.paths)} videos of {present} of {known} classes"
    if listing.dropped:
        found += f"; {len(listing.dropped)} left out by {PROBLEM_FILE}"
    if listing.num_other_files:
        found += f"; {listing.num_other_files} other files left alone ({listing.other_files})"
    spelt: dict[str, list[str]] = {}
    for name in listing.classes:
        spelt.setdefault(plain(name), []).append(name)
    if alike := next((names for names in spelt.values() if len(names) > 1), None):
        found += f"; classes {' and '.join(alike)} differ in spelling alone"
    if listing.layout == "class-folders" and all(map(is_person, listing.classes)):
        first = ", ".join(listing.classes[:2])
        found += (
            f"; classes such as {first} look like persons: put the folders of classes outermost"
        )
    where = f"{listing.root} ({listing.split})"
    return f"{where}: layout '{listing.layout}', {listing.split_rule}: {found}"


def _without(listing: Listing, dropped: dict[str, Problem]) -> Listing:
    """Leave out the items that a data check found unusable."""
    if not dropped:
        return listing
    places = listing.places()
    keep = [i for i, place in enumerate(places) if place not in dropped]
    known = {*places, *(problem.place for problem in listing.problems)}
    return replace(
        listing.only(keep),
        problems=(),
        dropped=tuple(problem for place, problem in dropped.items() if place in known),
    )


def _refusal(listing: Listing, problems: list[Problem]) -> str:
    first = "".join(f"\n  {problem}" for problem in problems[:NUM_SHOWN])
    more = f"\n  and {len(problems) - NUM_SHOWN} more" if len(problems) > NUM_SHOWN else ""
    return (
        f"{listing.root} ({listing.split}, layout {listing.layout!r}): {len(problems)} of its "
        f"annotations cannot be used; mend them, or let `posmlp data check` list them, after which "
        f"training leaves them out:{first}{more}"
    )
