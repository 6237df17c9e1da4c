"""Whether what was read from a JSON file is what its readers count on; anything else is damage.

A shape is a type, a list of one shape (of all items), or a mapping: by key, where `?` marks a key
that may be missing, and `*` stands for all keys. No torch here.
"""

from __future__ import annotations

from typing import Any


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
