"""Something-Something V1 and V2 as they are distributed: ids with label texts or templates.

The official test lists come without labels, so `test` is the validation list, as in the released
code. Lists of frame folders, which both versions also come as, are read by `frame_lists`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from posmlp.data.layouts.class_names import class_names, read_class_names, read_json
from posmlp.data.layouts.frame_lists import (
    first_list,
    is_frame_table,
    lists_of,
    needed,
    read_frame_list,
    read_frame_table,
)
from posmlp.data.layouts.kinetics import lists_videos
from posmlp.data.layouts.listing import (
    VIDEO_SUFFIXES,
    Item,
    Listing,
    Problem,
    annotation_files,
    lines_of,
    make_listing,
    media_folder,
)

# ---- V2: JSON with templates ---------------------------------------------------------------------


def is_ssv2(root: Path) -> bool:
    has_json = bool(lists_of(root, ".json", "train")) and _label_file(root) is not None
    return has_json or first_list(root, ".csv", is_frame_table, "train") is not None


def read_ssv2(root: Path, split: str) -> Listing:
    """Read the JSON lists (videos or frame folders), the frame tables, or both.

    Where both are there, the frame tables say where the frames are and the JSON what they show.
    """
    labels = _label_file(root)
    classes = _template_classes(labels) if labels else class_names(root)
    has_table = first_list(root, ".csv", is_frame_table, split) is not None
    if labels is None and not has_table:
        return read_frame_list(root, split, "ssv2")
    annotation = next(iter(lists_of(root, ".json", split)), None)
    if annotation is None or classes is None:
        if not has_table:
            needed(annotation, root, split, ".json")
        return read_frame_table(root, split, classes, {})
    templates, problems = _templates(annotation)
    if has_table:
        listing = read_frame_table(root, split, classes, templates)
        return replace(listing, problems=(*listing.problems, *problems))
    items, wrong = _template_items(root, annotation, classes, templates)
    rule = f"as listed in {annotation.name}"
    return make_listing(root, "ssv2", split, rule, classes, items, problems + wrong)


def _label_file(root: Path) -> Path | None:
    return next((p for p in annotation_files(root, ".json") if "label" in p.stem.lower()), None)


def _template_classes(path: Path) -> tuple[str, ...]:
    """Return the templates of a labels file `{template: "number"}` in the order of the numbers."""
    return tuple(_bare(template) for template in read_class_names(path))


def _bare(template: str) -> str:
    """Return a template without the brackets of its placeholders."""
    return re.sub(r"[\[\]]", "", template).strip()


def _templates(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """Return each video's bare template by its id, and the entries that do not say it."""
    templates: dict[str, str] = {}
    problems = []
    for number, entry in enumerate(read_json(path, list), 1):
        fields = entry if isinstance(entry, dict) else {}
        if fields.get("id") not in (None, "") and isinstance(fields.get("template"), str):
            templates[str(fields["id"])] = _bare(fields["template"])
            continue
        reason = f"entry {number} has no 'id' or no 'template': {json.dumps(entry)[:80]}"
        problems.append(Problem(f"{path.name}:entry {number}", "malformed", reason))
    return templates, problems


def _template_items(
    root: Path, annotation: Path, classes: tuple[str, ...], templates: dict[str, str]
) -> tuple[list[Item], list[Problem]]:
    where = _videos_by_id(root, list(templates))
    label_of = {name: label for label, name in enumerate(classes)}
    items, problems = [], []
    for name, template in templates.items():
        place = f"{annotation.name}:id {name}"
        if template in label_of:
            items.append(Item(place, where(name), label_of[template]))
        else:
            reason = f"template {template!r} is not one of the {len(classes)} classes"
            problems.append(Problem(place, "mislabelled", reason))
    return items, problems


def _videos_by_id(root: Path, names: list[str]) -> Callable[[str], Path]:
    """Return where the video of an id lies: a frame folder ID, or a file ID.webm or the like."""
    for suffix in ("", ".webm", *VIDEO_SUFFIXES):
        probes = [name + suffix for name in names[:3]]
        folder = media_folder(root, probes)
        if any((folder / probe).exists() for probe in probes):
            return lambda name: folder / (name + suffix)
    return lambda name: root / f"{name}.webm"


# ---- V1: `id;label text` -------------------------------------------------------------------------


def is_ssv1(root: Path) -> bool:
    return first_list(root, ".csv", _is_label_text, "train") is not None


def read_ssv1(root: Path, split: str) -> Listing:
    """Read the official `id;label text` lists, or else lists `folder frames label`."""
    table = first_list(root, ".csv", _is_label_text, split)
    if table is None:
        return read_frame_list(root, split, "ssv1")
    rows, problems = _label_texts(table)
    trained = first_list(root, ".csv", _is_label_text, "train") or table
    named = class_names(root)
    classes = named or tuple(sorted({text for _, _, text in _label_texts(trained)[0]}))
    label_of = {name: label for label, name in enumerate(classes)}
    where = _videos_by_id(root, [name for _, name, _ in rows])
    items = []
    for place, name, text in rows:
        if text in label_of:
            items.append(Item(place, where(name), label_of[text]))
        else:
            reason = f"label {text!r} is not one of the {len(classes)} classes"
            problems.append(Problem(place, "mislabelled", reason))
    return make_listing(root, "ssv1", split, f"as listed in {table.name}", classes, items, problems)


_HEADER = {"id", "video_id", "label", "labels", "template", "class", "text"}


def _is_label_text(path: Path) -> bool:
    if lists_videos(path):
        return False
    first = [text for _, text in islice(lines_of(path), 20)]
    return sum(";" in text for text in first) * 2 > len(first)


def _label_texts(table: Path) -> tuple[list[tuple[str, str, str]], list[Problem]]:
    rows, problems = [], []
    for place, line in lines_of(table):
        name, _, text = (part.strip(' "') for part in line.partition(";"))
        if place.endswith(":1") and {name.lower(), text.lower()} <= _HEADER:
            continue
        if name and text:
            rows.append((place, name, text))
        else:
            problems.append(Problem(place, "malformed", f"not `id;label text`: {line!r}"))
    return rows, problems
