"""What a grid may set: names, values as their fields mean them, and the configs that they make.

A setting is `preset`, `data`, a field of PosMLPConfig, or `train.` and a field of TrainConfig.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from posmlp.config import MODEL_VERSION, PosMLPConfig, TrainConfig
from posmlp.config_checks import is_own
from posmlp.own.code import digest, file_of
from posmlp.own.names import OF_MODEL, OF_TRAINING, Options, is_own_data, names_in
from posmlp.presets import resolve

TRAIN = "train."
MOST = 20_000
"""Cells before `exclude`, values of a random axis, and seeds: more of them is a slip of the pen."""
_MODEL, _TRAINING = PosMLPConfig(), TrainConfig()
_FIELDS: dict[str, tuple[Field[Any], Any]] = {
    **{field.name: (field, getattr(_MODEL, field.name)) for field in fields(_MODEL)},
    **{TRAIN + field.name: (field, getattr(_TRAINING, field.name)) for field in fields(_TRAINING)},
}
SETTINGS = ("preset", "data", *_FIELDS)
_OWN = (*OF_MODEL, *(TRAIN + name for name in OF_TRAINING))
_WORDS = {"on": True, "yes": True, "off": False, "no": False}
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def meant(name: str, value: Any) -> Any:
    """A value from YAML as the field `name` means it, so that 1 and 1.0 are one value.

    Lists become tuples (one value a stage), and T-S is the layout T>S. Raises ValueError naming
    what the field takes.
    """
    if name not in _FIELDS:
        return _scalar(name, value, str)
    field, default = _FIELDS[name]
    kind = _kind(default)
    declared = str(field.type)
    if kind is Options:
        if not isinstance(value, dict):
            raise ValueError(f"{name}={value!r} must be a mapping, for example {{step: 2}}")
        return Options(value)
    if isinstance(value, list | tuple):
        if "PerStage" not in declared and "tuple" not in declared:
            raise ValueError(f"{name} takes one value, not the list {list(value)}")
        return tuple(_scalar(f"each value of {name}", item, kind) for item in value)
    if declared.startswith("tuple"):
        raise ValueError(f"{name}={value!r} must be a list: [{value}]")
    if value is None and field.default is None:
        return None
    return _scalar(name, value, kind)


def _kind(default: Any) -> type:
    """The type of a value, or of each of several."""
    return type((*default, "")[0] if isinstance(default, tuple) else default)


def may_be_own(name: str, value: Any) -> bool:
    """Whether a setting may name the user's own files (`posmlp.own`)."""
    return is_own_data(value) if name == "data" else name in _OWN


def is_number(name: str) -> bool:
    """Whether a setting takes a number, or one a stage."""
    default = _FIELDS[name][1] if name in _FIELDS else None
    return _kind(default) in (int, float)


def _scalar(name: str, value: Any, kind: type) -> Any:
    if type(value) is kind and kind is not float:
        return str(value).replace("-", ">") if name.endswith("layout") else value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if kind is int and float(value).is_integer():
            return int(value)
        if kind is float:
            return float(f"{value:.12g}")  # 0.1 + 0.2 is 0.3
    if kind is bool and str(value).lower() in _WORDS:
        return _WORDS[value.lower()]
    mend = f"; write it in quotes: '{value}'" if kind is str and value is not None else ""
    raise ValueError(f"{name}={value!r} must be {_WANTED[kind]}{mend}")


def shown_value(value: Any) -> str:
    """A setting's value as it stands in names and tables."""
    if isinstance(value, tuple | list):
        return ",".join(shown_value(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{key}:{shown_value(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def build(
    settings: Mapping[str, Any],
    num_classes: int,
    made: dict[str, PosMLPConfig] | None = None,
    code: Mapping[str, str] | None = None,
) -> tuple[PosMLPConfig, TrainConfig]:
    """The configs that meant settings make; `num_classes` is the data's, unless they set it.

    `made`: models that were made before, by their settings. `code`: sources of the own files that
    the grid names. Options of own code are left out where a cell has a built-in gate or model.
    Raises ValueError where they make no model or no training.
    """
    model = {k: v for k, v in settings.items() if k not in ("preset", "data") and TRAIN not in k}
    train = {k.removeprefix(TRAIN): v for k, v in settings.items() if k.startswith(TRAIN)}
    model.setdefault("num_classes", num_classes)
    for file, source in (model.get("code", {}) | train.pop("code", {})).items():  # as in to_dict
        if (code or {}).get(file) != source:
            raise ValueError(f"code holds not what {file} does, which is read; leave code out")
    model["code"] = Options(code or {})
    for key in ("gate", "model"):
        if not is_own(model.get(key)):
            model.pop(f"{key}_options", None)
    preset, made = settings.get("preset", "toy"), {} if made is None else made
    text = repr([preset, model])
    if text not in made:
        made[text] = resolve(preset, **model)
    data = settings.get("data")
    own = [file_of(name) for name in [*names_in(train), *([data] if is_own_data(data) else [])]]
    train["code"] = Options({file: code[file] for file in own} if code else {})
    return made[text], TrainConfig(**train)


def identity(
    config: PosMLPConfig, train: TrainConfig, data: str, init_sha256: str = ""
) -> dict[str, Any]:
    """All that a cell's results depend on, seed aside: what differs from the defaults.

    A field at its default is left out, so that a field added later changes no identity. A model
    file to start from counts by its content, wherever it lies, and so does a file of own code.
    """
    start = {"init_from": f"sha256:{init_sha256}"} if init_sha256 else {}
    return {
        "model": _not_default(config),
        "train": _not_default(train) | start,
        "data": data,
        "model_version": MODEL_VERSION,
    }


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """What two identities differ in; what neither has is at its default."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key, "default"), new.get(key, "default")
        if isinstance(before, dict) and isinstance(after, dict):
            inner = difference(before, after, f"{key}.")
            found += [inner] if inner else []
        elif before != after:
            found.append(f"{prefix}{key} was {before}, is {after}")
    return ", ".join(found)


def content_hash(value: Any) -> str:
    """12 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _not_default(config: PosMLPConfig | TrainConfig) -> dict[str, Any]:
    found = {k: v for k, v in config.to_dict().items() if not _at_default(config, k)}
    hashes = {file: f"sha256:{digest(source)}" for file, source in config.code.items()}
    return found | ({"code": hashes} if hashes else {})


def _at_default(config: PosMLPConfig | TrainConfig, name: str) -> bool:
    """Whether setting the field to its default makes no difference to this config.

    One default may stand for several values: one a stage, and None for all frames of the clip.
    """
    value, default = getattr(config, name), getattr(type(config), name)
    if isinstance(value, tuple) and not isinstance(default, tuple):
        each = config.num_frames if default is None else default  # type: ignore[union-attr]
        default = (each,) * len(value)
    return bool(value == default)
