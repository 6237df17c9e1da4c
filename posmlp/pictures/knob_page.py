"""What a shipped model answers to a clip and to its reversal, and the page that turns its arrow.

The page is made by `python -m analysis knob NAME --no-weights` and stands beside the model. It has
the clips and the script; the weights are put in from the model's file, so that they ship once.

Shapes: T frames of S x S pixels.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from posmlp.checkpoint import load, shipped, write_atomically
from posmlp.data.augment import normalise

OPEN, CLOSE = 'id="state">', "</script>"
OWN = "initial."
"""How the names of tensors begin that the page holds itself: the tables before training."""


class Tried(NamedTuple):
    """Shares of the clip's class and of its reversal's, for the clip and for its reversal."""

    model: str
    num_parameters: int
    num_frames: int
    classes: tuple[str, str]
    forward: tuple[float, float]
    backward: tuple[float, float]
    page: Path


@torch.no_grad()
def try_shipped(out: str | Path, name: str = "toy-ts") -> Tried:
    """Ask a shipped model about a clip and its reversal, and write the page with its knob.

    Raises ValueError for a name that is not shipped, and OSError where `out` cannot be written.
    """
    file = shipped(name)
    if file is None:
        raise ValueError(f"{name!r} is no shipped model; use toy-ts")
    model, page = load(file), file.with_suffix(".html").read_text("utf-8")
    state = page_state(page)
    clip = state["clips"][0]
    pair = [clip["label"], clip["reverse"]]
    frames = clip_of(state, 0)
    shares = model(normalise(torch.stack([frames, frames.flip(0)]))).softmax(-1)[:, pair]
    forward, backward = map(tuple, shares.tolist())
    out = Path(out)
    write_atomically(out, with_weights(page, model.state_dict()).encode())
    return Tried(
        name,
        sum(each.numel() for each in model.parameters()),
        len(frames),
        (state["classes"][pair[0]], state["classes"][pair[1]]),
        forward,
        backward,
        out,
    )


def page_state(page: str) -> dict[str, Any]:
    """What the script of a page with a knob reads."""
    return json.loads(page.partition(OPEN)[2].partition(CLOSE)[0])


def clip_of(state: dict[str, Any], number: int) -> Tensor:
    """A clip of the page, (T, S, S, 3) uint8."""
    size = state["config"]["size"]
    pixels = np.frombuffer(base64.b64decode(state["clips"][number]["pixels"]), np.uint8)
    return torch.from_numpy(pixels.reshape(-1, size, size, 3).copy())


def with_weights(page: str, weights: dict[str, Tensor]) -> str:
    """The page with a model's weights as float16, before those tensors that it holds itself."""
    state = page_state(page)
    names = [name for name in state["tensors"] if not name.startswith(OWN)]
    halves = b"".join(weights[name].half().numpy().astype("<f2").tobytes() for name in names)
    held = base64.b64decode(state["weights"])
    state["weights"] = base64.b64encode(halves + held).decode()
    head, _, rest = page.partition(OPEN)
    text = json.dumps(state).replace("<", r"\u003c")  # else a class's name could end the element
    return f"{head}{OPEN}{text}{CLOSE}{rest.partition(CLOSE)[2]}"
