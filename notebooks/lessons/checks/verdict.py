"""What a self-check says, and the picture it draws: the target, and your answer under it.

Before a first attempt the picture shows one case with its target, as an example, and no other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis.figures.style import styled

MOST_NUMBERS = 160  # cells of a picture into which numbers are still written
MOST_WORDS = 6  # of a line; more are turned upright
TOLERANCE = 1e-5

Array = NDArray[Any]


@dataclass(frozen=True)
class Verdict:
    """`ok`, `not answered yet`, or `not yet` with the first place that differs."""

    state: str
    where: str = ""

    @property
    def ok(self) -> bool:
        return self.state == "ok"

    def __repr__(self) -> str:
        return f"{self.state}: {self.where}" if self.where else self.state


OK = Verdict("ok")
NOT_ANSWERED = Verdict("not answered yet", "replace `raise NotImplementedError` by your answer")


def wrong(where: str) -> Verdict:
    """A verdict that says where the answer is wrong."""
    return Verdict("not yet", where)


class Case(NamedTuple):
    """One call of the answer: its name in words, its arguments, and what it must return."""

    name: str
    arguments: tuple[Any, ...]
    expected: Any


def judge(yours: Callable[..., Any], cases: Sequence[Case], *, picture: bool = True) -> Verdict:
    """Call the answer on every case; the verdict names the first element that differs.

    `expected` is a number, an array or tensor, or a nested sequence of numbers or words. The
    picture shows all cases if each is one number or made of words, else the first that differs (or
    the first); of an answer that was not attempted the first case alone.
    """
    answers: list[Any] = []
    verdict, shown = OK, 0
    for i, case in enumerate(cases):
        verdict, answer = _judge_one(yours, case)
        answers.append(answer)
        if not verdict.ok:
            shown = i
            break
    if picture and verdict is NOT_ANSWERED:
        _draw(cases[:1], [], 0)
    elif picture:
        _draw(cases, answers, shown)
    return verdict


def _judge_one(yours: Callable[..., Any], case: Case) -> tuple[Verdict, Any]:
    name = case.name.replace("\n", " ")
    try:
        answer = yours(*copy.deepcopy(case.arguments))
    except NotImplementedError:
        return NOT_ANSWERED, None
    except Exception as error:  # whatever a student's code raises is an answer to be corrected
        return wrong(f"for {name} it raised {type(error).__name__}: {error}"), None
    if answer is None:
        return wrong(f"for {name} it returned None; end it with `return ...`"), None
    difference = first_difference(answer, case.expected)
    return (wrong(f"for {name} {difference}") if difference else OK), answer


def first_difference(answer: Any, expected: Any) -> str:
    """Where and how an answer differs from what is expected, in words; empty if it does not."""
    target = _as_array(expected)
    if target is None:
        return _first_structural_difference(answer, expected)
    found = _as_array(answer)
    if found is None:
        return f"it returned {answer!r}, which is not {_kind(target)}"
    if found.shape != target.shape:
        return f"the shape is {found.shape}, it must be {target.shape}"
    differs = ~np.isclose(found, target, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    if not differs.any():
        return ""
    place = tuple(int(i) for i in np.argwhere(differs)[0])
    at = f"at [{', '.join(map(str, place))}] " if place else ""
    return f"{at}it gives {_short(found[place])}, expected {_short(target[place])}"


def _first_structural_difference(answer: Any, expected: Any, path: str = "") -> str:
    at = f"at {path} " if path else ""
    if isinstance(expected, tuple | list):
        if not isinstance(answer, tuple | list):
            return f"{at}it gives {answer!r}, expected {expected!r}"
        if len(answer) != len(expected):
            return f"{at}it has {len(answer)} parts, expected {len(expected)}"
        pairs = enumerate(zip(answer, expected, strict=True))
        parts = (_first_structural_difference(a, b, f"{path}[{i}]") for i, (a, b) in pairs)
        return next((part for part in parts if part), "")
    return "" if answer == expected else f"{at}it gives {answer!r}, expected {expected!r}"


def _as_array(value: Any) -> Array | None:
    """The value as an array of numbers, or None if it is not one."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def _kind(target: Array) -> str:
    return "a number" if target.ndim == 0 else f"{target.ndim}-dimensional numbers"


def _short(value: Any) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{float(value):.4g}"


def _draw(cases: Sequence[Case], answers: list[Any], shown: int) -> None:
    """The target and under it the answer: all cases of one number or word each, else one map."""
    targets = [_as_array(case.expected) for case in cases]
    names = [case.name for case in cases]
    if all(target is None for target in targets):
        draw_words_under_target([case.expected for case in cases], answers, names)
    elif all(target is not None and target.ndim == 0 for target in targets):
        found = [_as_array(answer) for answer in answers]
        scalars = [x if x is not None and x.ndim == 0 else np.array(np.nan) for x in found]
        scalars += [np.array(np.nan)] * (len(cases) - len(scalars))
        yours = np.array([scalars], dtype=float)
        draw_under_target(
            np.array([targets], dtype=float),
            None if np.isnan(yours).all() else yours,
            column_names=names,
        )
    elif (target := targets[shown]) is not None:
        answer = answers[shown] if answers else None
        yours = None if answer is None else _as_array(answer)
        draw_under_target(target, yours, title=names[shown])


@styled
def draw_words_under_target(
    target: Sequence[Any], answers: Sequence[Any], column_names: Sequence[str]
) -> None:
    """A column a case: the target's words above, the answer's below, differing ones framed."""
    rows = {"target": list(target)}
    if any(answer is not None for answer in answers):
        rows["yours"] = [*answers, *[None] * (len(target) - len(answers))]
    upright = len(target) > MOST_WORDS
    size = (min(8.5, 1.5 * len(target)), (1.0 if upright else 0.55) * len(rows) + 1.0 * upright)
    _, ax = plt.subplots(figsize=size)
    ax.set(xlim=(-0.5, len(target) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    for y, words in enumerate(rows.values()):
        for x, (word, expected) in enumerate(zip(words, target, strict=True)):
            text = "?" if word is None else str(_as_lists(word))
            ax.text(x, y, text, ha="center", va="center", fontsize=7, rotation=90 * upright)
            if word is not None and _first_structural_difference(word, expected):
                ax.add_patch(_frame(x, y))
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(len(target)), column_names, fontsize=7, rotation=90 * upright)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _as_lists(value: Any) -> Any:
    return [_as_lists(part) for part in value] if isinstance(value, tuple | list) else value


@styled
def draw_under_target(
    target: Array,
    yours: Array | None = None,
    *,
    title: str = "",
    column_names: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
) -> None:
    """Two maps on one colour scale: the target above, the answer below, differing cells framed."""
    target = _as_rows(target)
    maps = {"target": target} if yours is None else {"target": target, "yours": _as_rows(yours)}
    side = 0.9 if column_names else 0.42 if target.shape[1] <= 16 else 7 / target.shape[1]
    width = max(2.6, min(8.5, side * target.shape[1] * (1.5 if column_names else 1.2)))
    height = max(0.55, min(3.4, 0.42 * target.shape[0] if target.shape[1] <= 16 else 3.0))
    _, axes = plt.subplots(
        len(maps), 1, figsize=(width, (height + 0.35) * len(maps) + 0.3), squeeze=False
    )
    for ax, (name, values) in zip(axes.flat, maps.items(), strict=True):
        _draw_map(ax, values, target)
        if row_names:
            ax.set_yticks(range(len(row_names)), row_names, fontsize=7)
        ax.set_title(f"{name}{', ' + title if title and name == 'target' else ''}", fontsize=9)
    if column_names:
        axes.flat[-1].set_xticks(range(len(column_names)), column_names, fontsize=7)


def _as_rows(values: Array) -> Array:
    return np.atleast_2d(values).reshape(-1, np.atleast_1d(values).shape[-1]).astype(float)


def _draw_map(ax: Axes, values: Array, target: Array) -> None:
    finite = target[np.isfinite(target)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    ax.imshow(values, aspect="auto", cmap="GnBu", vmin=low, vmax=high + 0.6 * (high - low) + 1e-9)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if values.size <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            text = "?" if np.isnan(value) else _short(value)
            ax.text(column, row, text, ha="center", va="center", fontsize=7)
    if values.shape == target.shape:
        differs = ~np.isclose(values, target, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        for row, column in np.argwhere(differs):
            ax.add_patch(_frame(column, row))


def _frame(column: int, row: int) -> Rectangle:
    """Around what differs from the target."""
    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, color="#D55E00", lw=1.5)
