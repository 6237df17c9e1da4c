"""Own code by name, `file.py:Thing` or `module:Thing`: found, read, and kept by a configuration.

Nothing is run here. A configuration holds the source of each file that it names (its `code`), so
that an edited file is another configuration, and an old one keeps its copy.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from posmlp.config_checks import BRANCHES, is_own, one_of
from posmlp.own.code import digest, file_of, trust


class Options(dict[str, Any]):
    """Plain values by name, as JSON has them; not changed once made, so that it can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


NONE = Options()


def names_in(values: Mapping[str, Any]) -> list[str]:
    """The own things that a model's settings name: a gate, a whole model, branches."""
    branches = values.get("branches") or {}
    named = (values.get("gate"), values.get("model"), *dict(branches).values())
    return list(dict.fromkeys(name for name in named if is_own(name)))


def shown(source: str | None) -> str | None:
    """What stands for a source where two are compared."""
    return source and f"sha256:{digest(source)[:12]}"


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
    return f"{path.name}:{thing}", source


def beside(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A model's settings of a file in `folder`, whose own files are looked for there at first."""

    def found(name: Any) -> Any:
        there = is_own(name) and (folder / file_of(name)).is_file()
        return str(folder / name) if there else name

    near = {key: found(value) for key, value in values.items() if key in ("gate", "model")}
    if isinstance(values.get("branches"), dict):
        near["branches"] = {key: found(name) for key, name in values["branches"].items()}
    return values | near


def short(
    name: Any, code: dict[str, str], folder: str | Path = ".", known: Collection[str] = ()
) -> Any:
    """A value with its own names in their short form, whose sources are put into `code`.

    Files that are `known` stand there already. Raises ValueError where two files have one name.
    """
    if isinstance(name, dict):
        return Options({key: short(each, code, folder, known) for key, each in name.items()})
    if not is_own(name) or file_of(name) in known:
        return name
    found, source = read(name, folder)
    if code.setdefault(file_of(found), source) != source:
        raise ValueError(f"{name!r}: two files are called {file_of(found)}; rename one of them")
    return found


def in_one_form(config: Any) -> dict[str, Any]:
    """Those fields of a model config that tell of own code, names short and sources read.

    Raises ValueError for what is no mapping of plain values, names no file, or has no use.
    """
    found = {name: _plain(name, getattr(config, name)) for name in _MAPPINGS}
    code = dict(found["code"])
    for name in ("gate", "model", "branches"):
        value = found.get(name, getattr(config, name))
        found[name] = short(value, code, known=found["code"])
    _check_uses(found)
    in_use = re.findall(r"\w+", str(config.layout))
    found["branches"] = Options({k: v for k, v in found["branches"].items() if k in in_use})
    named = sorted({file_of(name) for name in names_in(found)})
    found["code"] = Options({file: code[file] for file in named})
    return found


_MAPPINGS = ("gate_options", "model_options", "branches", "code")


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
    gate, model, code = found["gate"], found["model"], found["code"]
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
