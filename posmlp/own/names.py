"""Own code by name, `file.py:Thing` or `module:Thing`: found, read, and kept by a configuration.

Nothing is run here. A configuration holds the source of each file that it names (its `code`), so
that an edited file is another configuration, and an old one keeps its copy.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from posmlp.config_checks import BRANCHES, SCORES, is_own, one_of
from posmlp.own.code import digest, file_of, trust

OF_MODEL, OF_TRAINING = ("gate", "model", "branches"), ("augment", "metrics")
"""Fields of the two configurations that may name own code; a training's `data` may, too."""


class Options(dict[str, Any]):
    """Plain values by name, as JSON has them; not changed once made, so that it can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


NONE = Options()


def is_own_data(data: object) -> TypeGuard[str]:
    """Whether `data` names own code, `file.py:Clips`, and not videos, as `LAYOUT:FOLDER` does."""
    return isinstance(data, str) and file_of(data).endswith(".py")


def names_in(values: Mapping[str, Any]) -> list[str]:
    """The own things that the settings of a model or a training name."""
    found: list[str] = []
    for key in (*OF_MODEL, *OF_TRAINING):
        each_name(found.append, values.get(key))
    return list(dict.fromkeys(found))


def each_name(change: Callable[[str], Any], value: Any) -> Any:
    """A setting's value, in which each name of own code is changed; lists become tuples."""
    if isinstance(value, dict):
        return Options({key: each_name(change, each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return tuple(each_name(change, each) for each in value)
    return change(value) if is_own(value) else value


def shown(source: str | None) -> str | None:
    """What stands for a source where two are compared."""
    return source and f"sha256:{digest(source)[:12]}"


def bare(name: str) -> str:
    """The short form, `file.py:Thing`, of a name with a path or of a module's."""
    place, _, thing = name.rpartition(":")
    file = Path(place).name if place.endswith(".py") else f"{place.rpartition('.')[2]}.py"
    return f"{file}:{thing}"


def read(name: str, folder: str | Path = ".") -> tuple[str, str]:
    """The name in its short form, `file.py:Thing`, and the source of the file, now trusted.

    `name`: `PATH.py:Thing`, the path from `folder`, or `package.module:Thing`, which is looked for
    there and then on Python's path. Raises ValueError if there is no such file.
    """
    place, _, thing = name.rpartition(":")
    if not thing.isidentifier():
        raise ValueError(f"{name!r} names no class; write file.py:Class or module:Class")
    is_file = place.endswith(".py")
    relative = place if is_file else place.replace(".", "/") + ".py"
    folders = [Path(folder), *([] if is_file else (Path(each or ".") for each in sys.path))]
    path = next((p for each in folders if (p := each / relative).is_file()), None)
    if path is None:
        there = Path(folder) / relative
        raise ValueError(
            f"{name!r} names no file: there is none at {there}; write file.py:Class, the path from "
            "the grid or YAML file, or else from the working folder, or a module on Python's path"
        )
    try:
        source = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text in UTF-8 ({error})") from error
    trust([source])
    return bare(name), source


def beside(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a file in `folder`, whose own files are looked for there at first."""

    def found(name: str) -> str:
        return str(folder / name) if (folder / file_of(name)).is_file() else name

    own = {*OF_MODEL, *OF_TRAINING} & {*values}
    return values | {key: each_name(found, values[key]) for key in own}


def short(
    value: Any, code: dict[str, str], folder: str | Path = ".", known: Collection[str] = ()
) -> Any:
    """A value with its own names in their short form, whose sources are put into `code`.

    Files that are `known` stand there already. Raises ValueError where two files have one name.
    """

    def found(name: str) -> str:
        if file_of(name) in known:
            return name
        short_name, source = read(name, folder)
        if code.setdefault(file_of(short_name), source) != source:
            raise ValueError(
                f"{name!r}: two files are called {file_of(short_name)}; rename one of them"
            )
        return short_name

    return each_name(found, value)


def in_one_form(config: Any) -> dict[str, Any]:
    """Those fields of a model config that tell of own code, names short and sources read.

    Raises ValueError for what is no mapping of plain values, names no file, or has no use.
    """
    found = {name: _plain(name, getattr(config, name)) for name in _MAPPINGS}
    named = {"gate": config.gate, "model": config.model, "branches": found["branches"]}
    known = {file: found["code"].get(file) for file in map(file_of, names_in(named))}
    code = {file: source for file, source in known.items() if source is not None}
    found |= {name: short(value, code, known=tuple(code)) for name, value in named.items()}
    _check_uses(found)
    _check_files(found["code"])
    in_use = re.findall(r"\w+", str(config.layout))
    found["branches"] = Options({k: v for k, v in found["branches"].items() if k in in_use})
    in_use = sorted({file_of(name) for name in names_in(found)})
    found["code"] = Options({file: code[file] for file in in_use})
    return found


_MAPPINGS = ("gate_options", "model_options", "branches", "code")


def training_in_one_form(train: Any) -> dict[str, Any]:
    """The same of a training config, whose `code` may have the file of its data, too."""
    code: dict[str, str] = dict(_plain("code", train.code))
    given = train.metrics
    metrics = tuple(given) if isinstance(given, list | tuple) else (given,)
    for key, named in (("metrics", metrics), ("augment", (train.augment,) * (train.augment != ""))):
        if wrong := [name for name in named if not is_own(name)]:
            raise ValueError(f"{key}={wrong[0]!r} must name your function, as file.py:function")
    found = {"augment": short(train.augment, code, known=tuple(code))}
    found["metrics"] = short(metrics, code, known=tuple(code))
    columns = [name.rpartition(":")[2] for name in found["metrics"]]
    if taken := [name for name in columns if name in SCORES or columns.count(name) > 1]:
        raise ValueError(f"metrics: there is another score {taken[0]!r}; rename your function")
    _check_files(code)
    return found | {"code": Options(code)}


def _plain(name: str, value: Any) -> Options:
    if not isinstance(value, dict):
        raise ValueError(f"{name}={value!r} must be a mapping, for example {{step: 2}}")
    try:
        return Options(json.loads(json.dumps(value)))
    except TypeError as error:
        raise ValueError(
            f"{name}={value!r} cannot be written as JSON ({error}); use numbers, text, lists and "
            "mappings alone, and make the rest of them in your class"
        ) from error


def _check_uses(found: Mapping[str, Any]) -> None:
    gate, model = found["gate"], found["model"]
    for key, name in (("gate", gate), ("model", model)):
        if isinstance(name, str) and name.endswith(".py"):
            raise ValueError(f"{key}={name!r} names no class; write {name}:CLASS")
        if isinstance(name, str) and found[f"{key}_options"] and not is_own(name):
            raise ValueError(
                f"{key}_options={dict(found[f'{key}_options'])} are for a {key} of your own, not "
                f"for {key}={name!r}; leave them out"
            )
    if not is_own(model):
        one_of(model, ("posmlp",), "model (or file.py:Class, of your own)")
    for branch, name in found["branches"].items():
        if not re.fullmatch(r"[A-Z][A-Z0-9]*", branch) or branch in BRANCHES or not is_own(name):
            raise ValueError(
                f"branches={{{branch!r}: {name!r}}} must name file.py:Class by capital letters "
                f"other than {', '.join(BRANCHES)}, for example {{R: my_branches.py:Recurrent}}"
            )


def _check_files(code: Iterable[str]) -> None:
    for file in code:
        if Path(file).name != file or not file.endswith(".py"):
            raise ValueError(f"code has {file!r}, which is no plain name of a Python file")


def check_brought(values: Mapping[str, Any]) -> None:
    """Raise ValueError where stored settings name a file without its source: none is read then."""
    lost = [n for n in names_in(values) if file_of(n) not in (values.get("code") or {})]
    if lost:
        raise ValueError(
            f"{lost[0]!r} comes without the source of its file, under `code`; name the file in "
            "create_model, in a grid or on the command line, which read it"
        )
