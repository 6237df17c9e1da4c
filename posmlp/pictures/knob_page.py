"""What a shipped model answers to a clip and to its reversal, and the page that turns its arrow.

knob.js is the model's forward pass and the page. What it reads stands beside the model, but for the
weights, which are put in from the model's file, so that they ship once:
`python -m analysis knob NAME --out NAME.json`.

Shapes: T frames of S x S pixels.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from posmlp.checkpoint import load, shipped, write_atomically
from posmlp.data.augment import normalise

SCRIPT = Path(__file__).with_name("knob.js")
OWN = "initial."
"""How the names of tensors begin that the state holds itself: the tables before training."""
# The policy lets nothing be fetched: the page holds all it needs. Its script has `openPage`.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>:root {{ color-scheme: light dark; }}</style>
</head>
<body>
<main id="explorer"></main>
<script type="application/json" id="state">{state}</script>
<script type="module">
{script}
openPage(
  JSON.parse(document.getElementById("state").textContent),
  (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)),
);
</script>
</body>
</html>
"""


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
    model, state = load(file), json.loads(file.with_suffix(".json").read_text("utf-8"))
    clip = state["clips"][0]
    pair = [clip["label"], clip["reverse"]]
    frames = clip_of(state, 0)
    shares = model(normalise(torch.stack([frames, frames.flip(0)]))).softmax(-1)[:, pair]
    forward, backward = map(tuple, shares.tolist())
    out = Path(out)
    write_atomically(out, knob_page(with_weights(state, model.state_dict())).encode())
    return Tried(
        name,
        sum(each.numel() for each in model.parameters()),
        len(frames),
        (state["classes"][pair[0]], state["classes"][pair[1]]),
        forward,
        backward,
        out,
    )


def clip_of(state: dict[str, Any], number: int) -> Tensor:
    """A clip of the page, (T, S, S, 3) uint8."""
    size = state["config"]["size"]
    pixels = np.frombuffer(base64.b64decode(state["clips"][number]["pixels"]), np.uint8)
    return torch.from_numpy(pixels.reshape(-1, size, size, 3).copy())


def with_weights(state: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    """What knob.js reads, with a model's weights as float16 before the tensors that it holds."""
    names = [name for name in state["tensors"] if not name.startswith(OWN)]
    halves = b"".join(weights[name].half().numpy().astype("<f2").tobytes() for name in names)
    held = base64.b64decode(state["weights"])
    return {**state, "weights": base64.b64encode(halves + held).decode()}


def knob_page(state: dict[str, Any]) -> str:
    """The page as HTML that fetches nothing."""
    return page_of("Turn the arrow of time", state, SCRIPT)


def page_of(title: str, state: dict[str, Any], script: Path) -> str:
    """An HTML page that fetches nothing: `script` opens it on `state`, bytes of which are base64.

    In the script `openPage(state, decoded)` builds the page in `#explorer`; `decoded` makes bytes
    of base64.
    """
    return PAGE.format(
        title=html.escape(title),
        state=json.dumps(state).replace("<", r"\u003c"),  # else a name could end the element
        script=script.read_text("utf-8"),
    )
