"""From what a user writes, a preset, a YAML file or `key=value`, to the two configs.

YAML scalars are read as YAML 1.2 reads them: `1e-3` is a number; `off`, `010` and `1:30` are words.
A key that stands twice, and a value that holds itself, are errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.config_checks import one_of
from posmlp.data.digits.catalogue import MOVING_DIGITS
from posmlp.data.layouts.layouts import list_videos
from posmlp.own.code import file_of
from posmlp.own.names import beside, is_own_data, read
from posmlp.presets import PRESETS, resolve

_TEXTS = {f.name for f in (*fields(PosMLPConfig), *fields(TrainConfig)) if "str" in str(f.type)}
"""Settings that are text even where it looks like a number: a file may be called 5."""
_OPTIONS = {
    **dict.fromkeys(("config", "preset", "recipe"), "config"),
    **{name: name for name in ("data", "seeds", "seed", "out", "device")},
    **{"workers": "workers", "num_workers": "workers"},
}
"""What commands take as an option, not as key=value, and its name; --seed is --seeds in `train`."""
RECIPES = Path(__file__).with_name("recipes")


def parse_value(text: str) -> Any:
    """A setting's value: a YAML scalar or list, or the text itself where it is neither."""
    try:
        return read_yaml(text)[0]
    except NotYamlError:
        return text


def configs(
    source: str, settings: Sequence[str], data: str | None = None
) -> tuple[PosMLPConfig, TrainConfig]:
    """Model and training configs from a preset, recipe or YAML file, with `key=value` on top.

    A YAML file has any fields of the two and, to start from a preset, `preset`; a recipe, `NAME` or
    `recipes/NAME.yaml`, is found wherever the package is installed. Where none says
    `num_classes` and `data` names videos, it is the number of their classes. Raises ValueError.
    """
    values: dict[str, Any] | None = None
    if source not in PRESETS and (source.endswith((".yaml", ".yml")) or Path(source).exists()):
        values = _read_yaml(Path(source))
    elif source in recipes():
        values = read_recipe(source)
    if values is None:
        values = {}
    else:
        source = values.pop("preset", "toy")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is not key=value; write for example gate=dense")
        if key in _OPTIONS:
            raise ValueError(f"{setting!r} is no setting; write --{_OPTIONS[key]} {text}")
        value = parse_value(text)
        values[key] = text if key in _TEXTS and not isinstance(value, list) else value
    model_keys = [field.name for field in fields(PosMLPConfig)]
    train_keys = [field.name for field in fields(TrainConfig)]
    for key in values:
        one_of(key, [*model_keys, *train_keys], "config key")
    if is_own_data(data):
        from posmlp.data.sources import own_classes

        name, text = read(data)
        values.setdefault("num_classes", len(own_classes(name, {file_of(name): text})))
    elif data is not None and (":" in data or Path(data).exists()) and not _is_generated(data):
        values.setdefault("num_classes", len(list_videos(data, "train").classes))
    model = resolve(source, **{k: v for k, v in values.items() if k in model_keys})
    return model, TrainConfig(**{k: v for k, v in values.items() if k in train_keys})


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe's settings: fields of the two configs, and `preset`. Raises ValueError."""
    one_of(name, recipes(), "recipe")
    return _read_yaml(RECIPES / f"{name}.yaml")


def _is_generated(data: str) -> bool:
    return data.partition(":")[0] == MOVING_DIGITS


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file() and path.parent.name == RECIPES.name:
        return read_recipe(path.stem)
    if not path.is_file():
        raise ValueError(f"no file at {path}; give a preset ({', '.join(PRESETS)}) or a YAML file")
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))[0] or {}
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8 (byte {error.start}); save it as that"
        ) from error
    except NotYamlError as error:
        place = f"{path}:{error.mark.line + 1}:{error.mark.column + 1}" if error.mark else path
        raise ValueError(f"{place}: {str(error).rstrip('.')}") from error
    if isinstance(values, dict):
        return beside(values, path.parent)
    raise ValueError(f"{path} must hold 'key: value' lines, not {type(values).__name__}")


Where = tuple[str | int, ...]
"""The keys and list indices that lead to a value from the top of the text."""


class NotYamlError(ValueError):
    """A text that is not YAML, or that says something twice; `mark` is where."""

    def __init__(self, problem: str, mark: yaml.Mark | None = None) -> None:
        super().__init__(problem)
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's surprises."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NUMBER = r"[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", rf"{_NUMBER}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
):
    _whole = re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole, list(_first))


def read_yaml(text: str) -> tuple[Any, dict[Where, yaml.Mark]]:
    """The plain values of a text, and where each stands; a key stands at (*where, "key of").

    Raises NotYamlError.
    """
    positions: dict[Where, yaml.Mark] = {}
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return None if root is None else _plain(loader, root, (), positions, []), positions
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYamlError(f"this is not YAML: {error.problem or error.context}.", mark) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        mark = yaml.Mark("", error.position, line, column, None, 0)
        problem = f"this is not YAML: it has the control character {chr(error.character)!a}"
        raise NotYamlError(f"{problem}; delete that.", mark) from error
    except RecursionError as error:
        raise NotYamlError("this is nested too deeply to be read; write it flatter.") from error


def _plain(
    loader: _Loader,
    node: yaml.Node,
    where: Where,
    positions: dict[Where, yaml.Mark],
    within: list[yaml.Node],
) -> Any:
    """A node's value; `within` are the nodes that it stands in."""
    if any(node is outer for outer in within):
        mark = node.start_mark
        raise NotYamlError("an anchor stands within itself; write the values out.", mark)
    positions[where] = node.start_mark
    deeper = [*within, node]
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(loader, item, (*where, i), positions, deeper)
            for i, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node)
        except ValueError as error:
            problem = f"{node.value!r} is not what its tag {node.tag!r} says; leave the tag out."
            raise NotYamlError(problem, node.start_mark) from error
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise NotYamlError("a key must be a single word.", key_node.start_mark)
        key = str(key_node.value)
        if key in values:
            raise NotYamlError(f"{key!r} stands twice; keep one.", key_node.start_mark)
        positions[(*where, key, "key of")] = key_node.start_mark
        values[key] = _plain(loader, value_node, (*where, key), positions, deeper)
    return values
