"""A grid's file: its text, its plain values, and messages that say where in the file they stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from ablations.grid.settings import TRAIN, may_be_own, meant
from posmlp.config_checks import one_of
from posmlp.own.names import short
from posmlp.settings import NotYamlError, Where, read_yaml


class Setting(NamedTuple):
    """One value, where it stands, and whether an axis (rather than `base`) gives it."""

    value: Any
    where: Where
    varies: bool = True


Combination = dict[str, Setting]


class GridError(ValueError):
    """A grid file that cannot be run; the message names file, line, column and the mend."""


class GridFile:
    """One grid file's text, its plain `values`, and the position of each."""

    values: dict[str, Any]

    def __init__(self, text: str, path: Path | None = None) -> None:
        self.text, self.path = text, path
        self.code: dict[str, str] = {}
        """The sources of the user's own files that the grid names, by the files' bare names."""
        self.name = str(path or "grid")
        try:
            values, self._positions = read_yaml(text)
        except NotYamlError as error:
            raise GridError(_message(self.name, error.mark, str(error))) from error
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

    def meant(self, where: Where, name: str, value: Any) -> Any:
        """A setting's value as its field means it (`settings.meant`)."""
        folder = self.path.parent if self.path else Path()
        try:
            value = meant(name, value)
            return short(value, self.code, folder) if may_be_own(name, value) else value
        except ValueError as error:
            self.fail(where, f"{error}.")

    def named(self, where: Where, name: str, valid: Any, what: str, *, key: bool = True) -> None:
        """Fail unless the name, or value, is one of the valid ones."""
        if name not in valid and f"{TRAIN}{name}" in valid:
            self.fail(where, f"unknown {what} {name!r}. Did you mean '{TRAIN}{name}'?", key=key)
        try:
            one_of(name, valid, what)
        except ValueError as error:
            self.fail(where, f"{error}.", key=key)

    def mapping(self, where: Where, value: Any, *, empty: bool = True) -> dict[str, Any]:
        """The value as a mapping; nothing counts as an empty one."""
        if (value is None and empty) or (isinstance(value, dict) and (value or empty)):
            return value or {}
        self.fail(where, f"{where[0]} needs a mapping (name: value), not {value!r}.")

    def sequence(self, where: Where, value: Any) -> list[Any]:
        """The value as a list; nothing counts as an empty one."""
        if value is None or isinstance(value, list):
            return value or []
        self.fail(where, f"{where[0]} needs a list (- item), not {value!r}.")


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
