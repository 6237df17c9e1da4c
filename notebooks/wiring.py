"""What one block of a layout can see, and the layout builder of lesson 06."""

from __future__ import annotations

import ipywidgets
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from analysis import cost, draw_layout
from posmlp import create_model


def seen(
    layout: str, *, num_frames: int = 4, side: int = 4, frame: int = 1, place: int = 5
) -> Tensor:
    """Which tokens of a window one output token of a block depends on: (T, side, side) bool.

    Found by asking for gradients: an input token is seen where that of the output is not zero.
    `frame` and `place` (counted row by row) name the output token.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"num_frames": num_frames, "image_size": 4 * side, "windows": (side, 1, 1, 1)}
        model = create_model("toy", layout=layout, init="fan_in", **size).double()
        tokens = torch.randn(1, num_frames, side**2, 16, dtype=torch.double, requires_grad=True)
    block = model.stages[0].blocks[0]
    block(tokens, [None] * len(block.steps))[0, frame, place].sum().backward()
    assert tokens.grad is not None
    return (tokens.grad[0].abs().sum(-1) > 0).unflatten(1, (side, side))


def show(layout: str) -> None:
    """Draw a layout with its cost on the toy preset, or say why it is none."""
    try:
        found = cost(create_model("toy", layout=layout))
    except ValueError as error:
        print(error)
        return
    text = f"{layout}: {found['params']:,} parameters, {found['gmacs']:.4f} GMACs a clip"
    draw_layout(layout, title=text)
    plt.show()


def builder(layout: str = "T+S") -> ipywidgets.Widget:
    """A line to type a layout into; its picture and cost follow on Enter."""
    line = ipywidgets.Text(layout, description="layout", continuous_update=False)
    return ipywidgets.VBox([line, ipywidgets.interactive_output(show, {"layout": line})])
