"""YAML with positions: plain values, and where in the file each of them stands.

Scalars are read as YAML 1.2 reads them: `1e-3` is a number, `off` and `no` are words, `010` is no
octal number. A key that stands twice is an error rather than a silent replacement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

Where = tuple[str | int, ...]
"""The keys and list indices that lead to a value from the top of the file."""


class GridError(ValueError):
    """A grid file that cannot be run; the message names file, line, column and the mend."""


class _Loader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's surprises."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _whole = re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole, list(_first))


class GridFile:
    """One grid file's text, its plain `values`, and the position of each."""

    values: dict[str, Any]

    def __init__(self, text: str, path: Path | None = None) -> None:
        self.text, self.path = text, path
        self.name = str(path or "grid")
        self._positions: dict[Where, yaml.Mark] = {}
        self._loader = _Loader(text)
        try:
            root = self._loader.get_single_node()
            values = None if root is None else self._plain(root, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = f"this is not YAML: {error.problem or error.context}."
            raise GridError(_message(self.name, mark, problem)) from error
        if not isinstance(values, dict):
            self.fail((), "a grid is a mapping of keys such as base, axes and seeds.")
        self.values = values

    @classmethod
    def read(cls, grid: str | Path | Mapping[str, Any]) -> GridFile:
        """From a file's path, or from the same content as a mapping."""
        if isinstance(grid, Mapping):
            try:
                return cls(yaml.safe_dump(_listed(grid), sort_keys=False, allow_unicode=True))
            except yaml.representer.RepresenterError as error:
                problem = f"{error.args[-1]!r} cannot be written down; use plain values."
                raise GridError(_message("grid", None, problem)) from error
        path = Path(grid)
        if not path.is_file():
            raise GridError(f"there is no grid file at {path}; give a YAML file. Nothing was run.")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            problem = f"{path} is no text in UTF-8 (byte {error.start}); save it as that."
            raise GridError(f"{problem} Nothing was run.") from error
        except OSError as error:
            problem = f"{path} cannot be read ({error.strerror}); give a file that can."
            raise GridError(f"{problem} Nothing was run.") from error
        return cls(text, path)

    def fail(self, where: Where, problem: str, *, key: bool = False) -> NoReturn:
        """Raise GridError at a value, or at the key that it stands under."""
        place = (*where, "key of") if key else where
        while place not in self._positions and place:
            place = place[:-1]
        raise GridError(_message(self.name, self._positions.get(place), problem))

    def _plain(self, node: yaml.Node, where: Where) -> Any:
        self._positions[where] = node.start_mark
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*where, i)) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._loader.construct_object(node)
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in values:
                mark = key_node.start_mark
                raise GridError(_message(self.name, mark, f"{key!r} stands twice; keep one."))
            self._positions[(*where, key, "key of")] = key_node.start_mark
            values[key] = self._plain(value_node, (*where, key))
        return values


def _message(name: str, mark: yaml.Mark | None, problem: str) -> str:
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    return f"{place}: {problem} Nothing was run."


def _listed(value: Any) -> Any:
    """Mappings as dicts, tuples and ranges as lists: what safe_dump can write."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_listed(item) for item in value]
    return value
