"""Train, val and test where a data set does not say: whole groups at a time, by a hash of each.

A group is what must not be on two sides: clips of one recording, or of one person. It is told, in
this order and class by class, by

    ROOT/groups.csv   rows `path,group`, paths relative to ROOT; it names every video. A column of
                      another name, such as `speaker`, tells what groups are
    folders           below the class's own: CLASS/anna/1.mp4 is of anna's, in every class
    names             a person's number (person03_cam1, S001C001P003R001A013), or what stands before
                      a part's number or times: v_Biking_g01_c02 is of v_Biking_g01

Names count where they show at least three groups in a class; else each file is a group of its own,
and it is said where one or two recordings seem to fill a class.
The class's name is no part of a group's, so that `p1_run_2` and `p1_walk_1` are both of p1.

No torch here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from posmlp.data.layouts.listing import Listing, SplitMissing, place_of, slashed, table_of

FEWEST_BY_NAME = 3  # recordings that names must show in a class
GROUP_FILE = "groups.csv"
FILES, FOLDERS = "files", "folders"
_PART = re.compile(r"(?:[\W_]+[A-Za-z]*)?\d+[\W_]*$")  # the number of a part: _c02, -part3, (4), 17
_TAGS = re.compile(r"_[hufl]_[nc]m_np\d_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+$")  # as HMDB51 has
_SPAN = re.compile(r"[\W_]+(\d{4,})[\W_]+(\d{4,})$")  # from when to when, as Kinetics writes it
# From when to when, with points, film-00.01.30.000-00.01.40.000-seg2, or units, film_1m30s:
_TIMES = re.compile(
    r"(?:(?:[\W_]+\d+(?:[.:]\d+)+){2}(?:[\W_]*seg\d+)?|(?:[\W_]+(?:\d+h)?(?:\d+m)?\d+s){1,2})$"
)
_CHAPTER = re.compile(r"G(?:[HXLPS]\d\d|OPR)(\d{4})(?!\d)", re.I)  # GH020123 goes on with GH010123
_NUMBERED = r"(?:person|subject|subj|actor|signer|speaker)[\W_]?\d+|[ps]\d+"
_PERSON = re.compile(  # of NTU, RAVDESS and CREMA-D, or named before another number: person03_cam1
    r"^S\d+C\d+(P\d+)R\d+A\d+|^(?:\d\d-){6}(\d\d)$|^(\d{4})_[A-Z]{3}_[A-Z]{3}_[A-Z]{2}$|"
    rf"(?:^|[\W_])({_NUMBERED})(?=[\W_].*\d)",
    re.I,
)
_ENDING = re.compile(r"[\W_][A-Za-z]+$")  # a word that all names of a class end in


# ---- Groups --------------------------------------------------------------------------------------


def groups_of(
    root: Path, places: Sequence[str], labels: Sequence[int], classes: Sequence[str]
) -> tuple[list[str], str]:
    """Each item's group, and in words what groups are.

    Raises ValueError if there is a groups.csv that does not name one group of every item.
    """
    if (root / GROUP_FILE).is_file():
        return _listed_groups(root, places)
    of_class: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        of_class[label].append(i)
    folders, names = list(places), list(places)
    for label, items in of_class.items():
        own, name = [places[i] for i in items], classes[label]
        for i, folder, stem in zip(items, _folders(own, name), _stems(own, name), strict=True):
            folders[i], names[i] = folder or places[i], stem or places[i]
    folders, names = _one_spelling(folders), _one_spelling(names)
    several = {name for name, count in Counter(names).items() if count > 1}
    by_name = {label: {names[i] for i in items} for label, items in of_class.items()}
    found = list(places)
    kinds: dict[str, str] = {}  # a class's name: what its groups are
    for label, items in of_class.items():
        by_folder, by_stem = {folders[i] for i in items}, by_name[label]
        kind = FILES
        if len(by_folder) > 1 and not by_folder <= {places[i] for i in items}:
            kind, found = FOLDERS, _with(found, folders, items)
        elif several.isdisjoint(by_stem):
            pass
        elif len(by_stem) >= FEWEST_BY_NAME:
            kind = f"recordings, by their names ({min(several & by_stem)}, ...)"
            found = _with(found, names, items)
        elif len(by_stem) > 1 or any(other != by_stem for other in by_name.values()):
            # else all files of all classes are a camera's IMG_17
            kind = f"{FILES}, as names show {len(by_stem)} only ({', '.join(sorted(by_stem))})"
        kinds[classes[label]] = kind
    if FOLDERS in kinds.values():
        kinds |= _of_one_folder(places, of_class, classes, kinds)
    return found, _in_words(kinds)


def _of_one_folder(
    places: Sequence[str],
    of_class: Mapping[int, list[int]],
    classes: Sequence[str],
    kinds: Mapping[str, str],
) -> dict[str, str]:
    """What is said of classes all of whose files are in one folder, as another's groups are."""
    deepest, said = max(place.count("/") for place in places), {}
    for label, items in of_class.items():
        within = {PurePosixPath(places[i]).parent for i in items}
        one = min(within)
        if kinds[classes[label]] == FILES and within == {one} and len(one.parts) == deepest:
            said[classes[label]] = f"{FILES}, as folders show 1 only ({one.name})"
    return said


def _with(found: list[str], keys: list[str], items: list[int]) -> list[str]:
    chosen = set(items)
    return [keys[i] if i in chosen else group for i, group in enumerate(found)]


def _in_words(kinds: Mapping[str, str]) -> str:
    """What groups are in the first class, and of each other kind the first class that has it."""
    first: dict[str, str] = {}  # of each kind, its first class
    for name, kind in kinds.items():
        first.setdefault(kind.partition(" (")[0], name)
    usual, *others = first.values() or [""]
    said = [kinds.get(usual, FILES), *(f"in {name}: {kinds[name]}" for name in others)]
    return "; ".join(said)


def _listed_groups(root: Path, places: Sequence[str]) -> tuple[list[str], str]:
    path = root / GROUP_FILE
    columns, rows = table_of(path)
    words = [name for name in columns if name != "path"]
    word = "group" if "group" in words else words[0] if len(words) == 1 else None
    if word is None or "path" not in columns:
        raise ValueError(
            f"{path} has columns {columns}; it needs 'path' and 'group', or 'path' and one other"
        )
    group: dict[str, str] = {}
    for _, values in rows:
        row = dict(zip(columns, values, strict=False))
        place, own = place_of(root / slashed(root, row.get("path", "")), root), row.get(word, "")
        if group.setdefault(place, own).casefold() != own.casefold():
            raise ValueError(f"{path} says both {group[place]!r} and {own!r} of {place}; drop one")
    lost = [place for place in places if not group.get(place)]
    if lost:
        raise ValueError(f"{path} names no group of {lost[0]} ({len(lost)} such); add its row")
    what = "groups" if word == "group" else f"each {word}"
    return _one_spelling([group[place] for place in places]), f"{what} of {GROUP_FILE}"


def _one_spelling(names: Sequence[str]) -> list[str]:
    """The names, those that differ in upper and lower case alone made the same."""
    spelt = {name.casefold(): name for name in sorted(names, reverse=True)}
    return [spelt[name.casefold()] for name in names]


def _folders(places: Sequence[str], name: str) -> list[str]:
    """Each item's folder at the first level at which those of a class differ; else empty."""
    parts = [
        tuple(p for part in PurePosixPath(place).parent.parts if (p := _without(name, part)))
        for place in places
    ]
    depth = 0
    while all(len(each) > depth for each in parts) and len({each[depth] for each in parts}) == 1:
        depth += 1
    return ["/".join(each[: depth + 1]) if len(each) > depth else "" for each in parts]


def is_person(name: str) -> bool:
    """Whether a folder's name is that of a person by number: person_3, s01."""
    return re.fullmatch(_NUMBERED, name, re.I) is not None


def _stems(places: Sequence[str], name: str) -> list[str]:
    """Each item's person, or its name without the number of its part and the class's name."""
    stems = [PurePosixPath(place).stem for place in places]
    persons = [found[found.lastindex or 0] for stem in stems if (found := _PERSON.search(stem))]
    if len(persons) == len(stems) and len(set(persons)) >= FEWEST_BY_NAME:
        return persons
    ending = _ENDING.search(stems[0])
    if ending and len(stems) > 1 and all(stem.endswith(ending[0]) for stem in stems):
        stems = [stem.removesuffix(ending[0]) for stem in stems]
    return [_without(name, _recording(stem)) for stem in stems]


def _recording(stem: str) -> str:
    if chapter := _CHAPTER.match(stem):
        return chapter[1]
    span = _SPAN.search(stem)
    times = span if span and int(span[1]) < int(span[2]) else _TIMES.search(stem)
    end = _TAGS.search(stem) or times or _PART.search(stem)
    return stem[: end.start()] if end else stem


def _without(name: str, stem: str) -> str:
    """A stem, or a folder, without the class's name; empty if nothing but that was there.

    A name of one letter must stand alone: of a class S, s01 is a person.
    """
    pattern = r"[\W_]*".join(map(re.escape, re.split(r"[\W_]+", name)))
    after = "[a-z]" if len(name) > 1 else "[a-z0-9]"
    return re.sub(rf"(?i)(?<![a-z]){pattern}(?!{after})", "", stem).strip("_-. ")


# ---- Parts ---------------------------------------------------------------------------------------


class Share(NamedTuple):
    """What a split gets of each class's groups: at least one, of a class that has `fewest`."""

    of_groups: float
    fewest: int


def parts_of(
    groups: Sequence[str], labels: Sequence[int], shares: Mapping[str, Share]
) -> list[str]:
    """The split of each item: "train", or one of `shares`.

    Groups are taken in the order of their hashes, so that a place in a folder or a list moves none,
    until each class has given its share; one group is left to train.
    """
    classes_of: dict[str, set[int]] = defaultdict(set)
    for group, label in zip(groups, labels, strict=True):
        classes_of[group].add(label)
    spare = Counter(label for found in classes_of.values() for label in found)
    spare.subtract(dict.fromkeys(spare, 1))  # one to train
    lacking: dict[str, dict[int, int]] = {split: {} for split in shares}
    for label, most in list(spare.items()):
        for split, share in shares.items():
            of_all = spare[label] + 1
            count = min(most, max(1, round(share.of_groups * of_all)))
            count = count if of_all >= share.fewest else 0
            lacking[split][label], most = count, most - count
    order = sorted(classes_of, key=_hash)
    part = dict.fromkeys(order, "train")
    for split in shares:
        for group in order:
            own = classes_of[group]
            needed = {k: sum(of[k] for of in lacking.values()) for k in own}
            wanted = [k for k in own if lacking[split][k]]
            # What no class lacks any more, or some class must leave to another split, stays.
            if (
                part[group] == "train"
                and wanted
                and all(spare[k] > needed[k] or k in wanted for k in own)
            ):
                part[group] = split
                for k in own:
                    spare[k] -= 1
                    lacking[split][k] -= k in wanted
    return [part[group] for group in groups]


def _hash(group: str) -> bytes:
    return hashlib.sha256(group.encode(errors="surrogateescape")).digest()


def folds_of(groups: Sequence[str], labels: Sequence[int], count: int) -> list[int]:
    """The fold of each item, from 0: whole groups, with about as many clips of each class in each.

    The largest groups are dealt first, each to the fold that has least of its classes.
    """
    of_group: dict[str, Counter[int]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        of_group[group][label] += 1
    held = [Counter[int]() for _ in range(count)]
    fold = {}
    for group in sorted(of_group, key=lambda g: (-of_group[g].total(), _hash(g))):
        own = of_group[group]
        loads = [(sum(own[k] * there[k] for k in own), there.total()) for there in held]
        fold[group] = loads.index(min(loads))
        held[fold[group]] += own
    return [fold[group] for group in groups]


def split_by_group(listing: Listing, shares: Mapping[str, Share]) -> tuple[list[str], str]:
    """`parts_of` the items of a listing, and in words what their groups are.

    Where fewer than two classes can give to val, there is none.
    """
    groups, what = groups_of(listing.root, listing.places(), listing.labels, listing.classes)
    parts = parts_of(groups, listing.labels, shares)
    of_val = {label for label, part in zip(listing.labels, parts, strict=True) if part == "val"}
    if len(of_val) < 2:
        parts = ["train" if part == "val" else part for part in parts]
    return parts, what


def part_of(listing: Listing, parts: Sequence[str], split: str) -> Listing:
    """The items of a split. Raises SplitMissing for a val without any."""
    if split == "val" and "val" not in parts:
        raise SplitMissing(
            f"{listing.root} has no val clips, and too few groups of training clips to spare some "
            "in two classes; add some"
        )
    kept = [i for i, part in enumerate(parts) if part == split]
    return replace(listing.only(kept), split=split)


CLASS_FOLDERS = {"test": Share(0.2, fewest=2), "val": Share(0.1, fewest=3)}
OF_TRAIN = {"val": Share(0.1, fewest=5)}
"""Where train is given: a class does not give more than a fifth."""


def share_of_train(listing: Listing, split: str) -> Listing:
    """What is val, or what is left as train, of the train list of a data set without val list."""
    parts, what = split_by_group(listing, OF_TRAIN)
    rule = f"{OF_TRAIN['val'].of_groups:.0%} of its groups are val; groups: {what}"
    return replace(
        part_of(listing, parts, split),
        split_rule=f"{listing.split_rule}, {rule}" if "val" in parts else listing.split_rule,
        problems=listing.problems if split == "train" else (),
    )
