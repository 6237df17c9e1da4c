"""What the stored JSON files must hold for their readers; anything else counts as damage.

A shape is a type, a list of one shape (of all items), or a mapping: by key, where `?` marks a key
that may be missing, and `*` stands for all keys.
"""

from __future__ import annotations

from typing import Any

_NUMBER = int | float

PLAN = {
    "question": str,
    "prediction": str,
    "design": str,
    "axes": [str],
    "seeds": [int],
    "left_out_seeds?": [int],
    "repeats?": [[str | int]],
    "match?": str | None,
    "baseline": str,
    "cells": [{"id": str, "name": str, "axes": dict}],
    "command": str,
}
CELL = {
    "name": str,
    "axes": dict,
    "model": dict,
    "train": dict,
    "data": {"spec": str, "identity": str},
    "identity": dict,
    "init_sha256?": str,
}
_RESULT = {
    "repeat?": int,
    "timings": {"started": str, "finished": str, "seconds": _NUMBER},
    "worker": {"device": str, "num_threads": int, "host": str},
    "log": str,
    "command": str,
    "traceback?": str | None,
    "history?": str | None,
    "peak_memory_mb?": _NUMBER | None,
    "together?": int,
    "memory_steps?": [str],
    "environment?": {"packages?": dict, "commit?": str | None},
}
RESULTS = {
    "done": _RESULT | {"metrics": {"*": _NUMBER}},
    "failed": _RESULT | {"metrics": {"*": _NUMBER | None}, "failure": str, "reason": str | None},
}
"""By status."""
POPULATION = {"variants": dict, "seeds": [int]}
"""What tells which trainings a folder below together/ holds."""
PROBE = {"seconds": _NUMBER, "memory_mb": _NUMBER | None}


def fault(value: Any, shape: Any, where: str = "it") -> str:
    """The first thing that keeps a value from having the shape, in words; empty if nothing does."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        parts = [(f"{where}[{i}]", part, shape[0]) for i, part in enumerate(value)]
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is no mapping"
        parts = []
        for key, its_shape in (dict.fromkeys(value, shape["*"]) if "*" in shape else shape).items():
            name = key.removesuffix("?")
            if name in value:
                parts.append((f"{where}.{name}".removeprefix("it."), value[name], its_shape))
            elif name == key:
                return f"{where}.{name} is missing".removeprefix("it.")
    else:
        return "" if isinstance(value, shape) else f"{where} is {value!r}"
    return next(filter(None, (fault(part, its, place) for place, part, its in parts)), "")
