"""Whether a lesson that was built anew shows what the stored one shows.

Words must be equal and numbers nearly; pictures too, where the same matplotlib drew both.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
from nbformat import NotebookNode
from numpy.typing import NDArray
from PIL import Image

RELATIVE = 1e-3
ABSOLUTE = 1e-6
PIXEL_RMS = {"image/png": 0.5, "image/jpeg": 2.0}  # of 255 levels; a JPEG rounds once more
UNSTEADY = {"trained", "timed"}
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def differences(built: NotebookNode, stored: NotebookNode) -> list[str]:
    """What differs, a line each; empty if nothing does.

    Of cells tagged `trained` or `timed` only the kinds of output are compared.
    """
    if [cell.source for cell in built.cells] != [cell.source for cell in stored.cells]:
        return ["the source has changed since the notebook was built: run `make notebooks`"]
    same_drawing = built.metadata.matplotlib == stored.metadata.matplotlib
    found: list[str] = []
    for new, old in zip(built.cells, stored.cells, strict=True):
        if new.cell_type == "code":
            steady = not UNSTEADY & set(new.metadata.get("tags", []))
            found += [f"{new.id}: {each}" for each in _in_cell(new, old, steady, same_drawing)]
    return found


def _in_cell(new: Any, old: Any, steady: bool, same_drawing: bool) -> Iterator[str]:
    kinds = [[_kind(output) for output in cell.outputs] for cell in (new, old)]
    if kinds[0] != kinds[1]:
        yield f"outputs {kinds[0]} are not {kinds[1]}"
    elif steady:
        for a, b in zip(new.outputs, old.outputs, strict=True):
            yield from _in_output(a, b, same_drawing)


def _kind(output: Any) -> str:
    return " ".join([output.output_type, *sorted(output.get("data", {}))])


def _in_output(new: Any, old: Any, same_drawing: bool) -> Iterator[str]:
    yield from text_differences(new.get("text", ""), old.get("text", ""))
    for kind, value in new.get("data", {}).items():
        if kind.startswith("text/"):
            yield from text_differences(value, old.data[kind])
        elif kind in PIXEL_RMS and same_drawing:
            yield from _picture_differences(_pixels(value), _pixels(old.data[kind]), kind)


def text_differences(new: str, old: str) -> Iterator[str]:
    """Where two texts differ in words, or in a number by more than rounding."""
    lines = zip_longest(new.splitlines(), old.splitlines(), fillvalue="")
    for a, b in lines:
        if NUMBER.sub("#", a) != NUMBER.sub("#", b):
            yield f"{a[:200]!r} was {b[:200]!r}"
            return
    for a, b in zip(NUMBER.findall(new), NUMBER.findall(old), strict=True):
        x, y = (float(number.replace(",", "")) for number in (a, b))
        if a != b and not np.isclose(x, y, rtol=RELATIVE, atol=max(ABSOLUTE, _last_place(b))):
            yield f"{a} was {b}"


def _last_place(number: str) -> float:
    """What the last printed digit of a fraction counts; a rounding may tip it."""
    mantissa, _, exponent = number.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 1.01 * float(f"1e{int(exponent or 0) - decimals}") if decimals or exponent else 0.0


def _pixels(encoded: str) -> NDArray[np.float64]:
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    return np.asarray(picture.convert("RGB"), dtype=np.float64)


def _picture_differences(
    new: NDArray[np.float64], old: NDArray[np.float64], kind: str
) -> Iterator[str]:
    if new.shape != old.shape:
        yield f"a picture of {new.shape[:2]} pixels was {old.shape[:2]}"
    elif (rms := float(np.sqrt(((new - old) ** 2).mean()))) > PIXEL_RMS[kind]:
        yield f"a picture differs by {rms:.1f} levels of 255 (root mean square)"
