"""From what a user writes, a preset, a YAML file or `key=value`, to the two configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.config_checks import one_of
from posmlp.data.digits.catalogue import MOVING_DIGITS
from posmlp.data.layouts.layouts import list_videos
from posmlp.presets import PRESETS, resolve

_TEXTS = {f.name for f in (*fields(PosMLPConfig), *fields(TrainConfig)) if "str" in str(f.type)}
"""Settings that are text even where it looks like a number: a file may be called 5."""
RECIPES = Path(__file__).with_name("recipes")


def parse_value(text: str) -> Any:
    """A setting's value: a YAML scalar or list, or the text itself where it is neither."""
    from posmlp.strict_yaml import NotYamlError, read_yaml

    try:
        return read_yaml(text)[0]
    except NotYamlError:
        return text


def configs(
    source: str, settings: Sequence[str], data: str | None = None
) -> tuple[PosMLPConfig, TrainConfig]:
    """Model and training configs from a preset or YAML file, with `key=value` settings on top.

    A YAML file has any fields of the two and, to start from a preset, `preset`; `recipes/NAME.yaml`
    is found wherever the package is installed. Where neither says
    `num_classes` and `data` names videos, it is the number of their classes. Raises ValueError.
    """
    values: dict[str, Any] = {}
    if source not in PRESETS and (source.endswith((".yaml", ".yml")) or Path(source).exists()):
        values = _read_yaml(Path(source))
        source = values.pop("preset", "toy")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is not key=value; write for example gate=dense")
        value = parse_value(text)
        values[key] = text if key in _TEXTS and not isinstance(value, list) else value
    model_keys = [field.name for field in fields(PosMLPConfig)]
    train_keys = [field.name for field in fields(TrainConfig)]
    for key in values:
        one_of(key, [*model_keys, *train_keys], "config key")
    if data is not None and (":" in data or Path(data).exists()) and not _is_generated(data):
        values.setdefault("num_classes", len(list_videos(data, "train").classes))
    model = resolve(source, **{k: v for k, v in values.items() if k in model_keys})
    return model, TrainConfig.from_dict({k: v for k, v in values.items() if k in train_keys})


def _is_generated(data: str) -> bool:
    return data.partition(":")[0] == MOVING_DIGITS


def _read_yaml(path: Path) -> dict[str, Any]:
    from posmlp.strict_yaml import NotYamlError, read_yaml

    if not path.is_file() and path.parent.name == RECIPES.name:
        path = RECIPES / path.name
        one_of(path.name, sorted(each.name for each in RECIPES.glob("*.yaml")), "recipe")
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
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold 'key: value' lines, not {type(values).__name__}")
    return values
