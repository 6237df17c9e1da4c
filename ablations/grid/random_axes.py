"""An axis of random values: `train.lr: {log_uniform: [1e-4, 1e-2], n: 8}` -> eight numbers.

What is drawn depends on the axis alone: its name, its distribution, its bounds and the place of the
draw. So every machine draws the same values, and a larger `n` keeps those of a smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ablations.grid.gridfile import GridFile, Where
from ablations.grid.settings import MOST, is_number

DRAWS: dict[str, Callable[[float, float, float], float]] = {
    "uniform": lambda low, high, share: low + (high - low) * share,
    "log_uniform": lambda low, high, share: low * (high / low) ** share,
    "int_uniform": lambda low, high, share: low + int((high - low + 1) * share),
}
"""A value between two bounds for a share from 0 to 1, 1 left out; whole numbers reach both."""
DIGITS = 4
"""Significant digits of a value: a power's last bits differ between machines, and names are read.
"""
MOST_TRIES = 100
"""Draws for each value that is wanted, as those that came before do not count."""


def drawn(file: GridFile, where: Where, name: str, said: dict[str, Any]) -> list[float]:
    """The different values of a random axis, in the order of their draws. Raises GridError."""
    for key in said:
        file.named((*where, key), key, (*DRAWS, "n"), "key of a random axis")
    kinds = [key for key in said if key != "n"]
    if len(kinds) != 1 or not is_number(name):
        problem = "needs one of " + ", ".join(DRAWS) + ", and n"
        problem = problem if is_number(name) else "takes no number; give a list of its values"
        file.fail(where, f"random axis {name} {problem}.")
    (kind,), n = kinds, said.get("n")
    if type(n) is not int or not 1 <= n <= MOST:
        problem = f"n={n!r} of random axis {name} must be a number of values, {MOST:,} at most."
        file.fail((*where, "n"), problem)
    low, high = _bounds(file, (*where, kind), kind, said[kind])
    found: dict[float, None] = {}
    for place in range(MOST_TRIES * n):
        value = DRAWS[kind](low, high, _share(name, kind, float(low), float(high), place))
        if kind != "int_uniform":
            value = min(max(float(f"{value:.{DIGITS}g}"), low), high)
        found[value] = None
        if len(found) == n:
            return list(found)
    problem = f"n={n} is more than there are values between {low:g} and {high:g}; ask for fewer."
    file.fail((*where, "n"), problem)


def _bounds(file: GridFile, where: Where, kind: str, said: Any) -> tuple[float, float]:
    number = int if kind == "int_uniform" else int | float
    good = isinstance(said, list) and len(said) == 2 and not any(type(v) is bool for v in said)
    good = good and all(isinstance(value, number) and abs(value) < 1e300 for value in said)
    if not good or not said[0] < said[1] or (kind == "log_uniform" and said[0] <= 0):
        what = {"int_uniform": "two whole numbers", "log_uniform": "two numbers above 0"}
        kinds = what.get(kind, "two numbers")
        file.fail(where, f"{kind}={said!r} must be {kinds}, the lower one first: [low, high].")
    return said[0], said[1]


def _share(*content: Any) -> float:
    """A number from 0 to 1, 1 left out, that a content decides: 53 bits of its hash."""
    digest = hashlib.sha256(repr(content).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
