"""The published form of an ablation: a run's many small files in three, read by their old paths.

DIR/cells.json   plan.json, and what each cell.json, config.json and result.json hold, a line each
DIR/curves.csv   what each metrics.csv holds: a row a training and epoch
DIR/grid.yaml    the grid as it was run
DIR/rows.csv, table.md, report.html   what `ablations report DIR` makes of these
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ablations.store.files import read_json
from ablations.store.shapes import PUBLISHED
from posmlp.shapes import fault

CELLS, CURVES, GRID, CLASSES = "cells.json", "curves.csv", "grid.yaml", "classes.csv"
_OF_A_RUN = ("config", "environment", "history", "log")
"""What a result repeats, or names of files that are not kept."""
_KEYS = ("id", "variant", "repeat")


class Published:
    """The small files of a published folder. Raises ValueError where it is not whole."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def is_at(root: Path) -> bool:
        """Whether a folder is a published one; one that is being replaced still has its plan."""
        whole = not (root / "plan.json").is_file()
        return whole and any((root / name).is_file() for name in (CELLS, CURVES))

    def named(self, path: Path) -> str:
        """Where the content of a small file stands."""
        return f"{self.root / CELLS} ({path.relative_to(self.root).as_posix()})"

    def json(self, path: Path) -> dict[str, Any]:
        """What a JSON file held. Raises FileNotFoundError if there was none."""
        try:
            return self._json[path.relative_to(self.root).as_posix()]
        except KeyError as error:
            raise FileNotFoundError(self.named(path)) from error

    def cell_ids(self) -> list[str]:
        return sorted(self._content["cells"])

    def table(self, path: Path) -> str | None:
        """What a metrics.csv or classes.csv held; None if there was none."""
        return self._tables.get(path.relative_to(self.root).as_posix())

    @cached_property
    def _content(self) -> dict[str, Any]:
        for name in (CELLS, CURVES, GRID):
            if not (self.root / name).is_file():
                raise ValueError(f"{self.root / name} is missing")
        content = read_json(self.root / CELLS)
        if wrong := fault(content, PUBLISHED) or _lost_reference(content):
            raise ValueError(f"{self.root / CELLS} is damaged ({wrong})")
        return content

    @cached_property
    def _json(self) -> dict[str, dict[str, Any]]:
        content = self._content
        files = {"plan.json": content["plan"]}
        files |= {f"cells/{cell_id}/cell.json": cell for cell_id, cell in content["cells"].items()}
        for training in content["trainings"]:
            folder, result = _folder(training), dict(training)
            config, environment = (result.pop(key, None) for key in ("config", "environment"))
            if environment is not None:
                result["environment"] = content["environments"][environment]
            if config is not None:
                own = {"seeds": [result["seed"]]}
                files[f"{folder}/config.json"] = content["configs"][config] | own
            files[f"{folder}/result.json"] = result
        return files

    @cached_property
    def _tables(self) -> dict[str, str]:
        path, content = self.root / CURVES, self._content
        text = path.read_text(encoding="utf-8", errors="replace")
        if _sha256(text) != content["curves_sha256"]:
            raise ValueError(f"{path} is not the one that {CELLS} was published with")
        found: dict[str, list[dict[str, str]]] = {}
        for row in csv.DictReader(io.StringIO(text)):
            key = {"cell": row["id"], "seed": row["seed"], "repeat": int(row["repeat"])}
            own = {name: value for name, value in row.items() if name not in _KEYS}
            found.setdefault(f"{_folder(key)}/metrics.csv", []).append(own)
        classes = {CLASSES: csv_text(content["classes"])} if content["classes"] else {}
        return classes | {name: csv_text(_without_empty(rows)) for name, rows in found.items()}


def _folder(training: Mapping[str, Any]) -> str:
    again = "-repeat" if training.get("repeat") else ""
    return f"cells/{training['cell']}/seed{training['seed']}{again}"


def _lost_reference(content: dict[str, Any]) -> str:
    """The first cell, config or environment that a training names in vain; else empty."""
    for place, training in enumerate(content["trainings"]):
        for key in ("cell", "config", "environment"):
            known = content[f"{key}s"]
            known = known if isinstance(known, dict) else range(len(known))
            if key in training and training[key] not in known:
                return f"trainings[{place}].{key} is {training[key]!r}"
    return ""


def pack(
    plan: dict[str, Any],
    cells: Mapping[str, dict[str, Any]],
    trainings: Iterable[tuple[dict[str, Any], dict[str, Any] | None, str | None]],
    classes: str | None,
) -> dict[str, bytes]:
    """The content of curves.csv and cells.json. Each training: result, config.json, metrics.csv.

    Configs and environments that are the same are kept once, and trainings name their numbers.
    """
    curves: list[dict[str, Any]] = []
    kept: dict[str, list[Any]] = {"configs": [], "environments": [], "trainings": []}
    for result, config, metrics in trainings:
        training = {key: value for key, value in result.items() if key not in _OF_A_RUN}
        if config is not None:
            without_seed = {key: value for key, value in config.items() if key != "seeds"}
            training["config"] = _number(without_seed, kept["configs"])
        if result.get("environment"):
            training["environment"] = _number(result["environment"], kept["environments"])
        kept["trainings"].append(training)
        which = (result["cell"], cells[result["cell"]]["name"], result.get("repeat", 0))
        curves += [dict(zip(_KEYS, which, strict=True)) | row for row in csv_rows(metrics or "")]
    text = csv_text(curves) if curves else ",".join((*_KEYS, "epoch", "seed")) + "\n"
    content = {"plan": plan, "cells": cells, **kept, "classes": csv_rows(classes or "")}
    content["curves_sha256"] = _sha256(text)
    return {CURVES: text.encode(), CELLS: _lines(content).encode()}


def _number(value: Any, among: list[Any]) -> int:
    """The place of a value in a list, at whose end it is put where it is new."""
    if value not in among:
        among.append(value)
    return among.index(value)


def csv_rows(text: str) -> list[dict[str, str]]:
    """The rows of a table as they are written. Raises ValueError for one that is cut off."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a line has not as many values as the first")
    return rows


def csv_text(rows: list[dict[str, Any]]) -> str:
    """A table of rows, whose columns are all that any row has."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _without_empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows without the columns that only other trainings have."""
    kept = [name for name in rows[0] if any(row[name] for row in rows)]
    return [{name: row[name] for name in kept} for row in rows]


def _sha256(text: str) -> str:
    """The hash of a text, whatever ends its lines."""
    return hashlib.sha256("\n".join(text.splitlines()).encode()).hexdigest()


def _lines(content: Mapping[str, Any]) -> str:
    """JSON with a line for each entry of each part, so that versions of it can be compared."""
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {_part(v)}" for k, v in content.items()) + "\n}\n"


def _part(value: Any) -> str:
    if isinstance(value, Mapping):
        entries = (f"  {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items())
        return "{\n" + ",\n".join(entries) + "\n}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"  {json.dumps(each)}" for each in value) + "\n]"
    return json.dumps(value)
