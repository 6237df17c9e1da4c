"""One frame of an explained clip at a time, with the map as strong as you like."""

from __future__ import annotations

from typing import Any

import ipywidgets
import numpy as np
from matplotlib import pyplot as plt
from torch import Tensor

from analysis import Attribution
from analysis.attribution.draw_attribution import draw_frame, overlay_image
from analysis.figures.style import styled


@styled
def show_frame(
    attribution: Attribution,
    clips: Tensor,
    *,
    clip: int = 0,
    frame: int = 0,
    strength: float = 1.0,
    masks: Tensor | None = None,
) -> None:
    """Draw one frame in colour under its map; `strength` from 0 (the clip alone) to 1."""
    _, ax = plt.subplots(figsize=(3.2, 3.4))
    draw_frame(
        ax, clips[clip, frame].numpy(), None if masks is None else masks[clip, frame].numpy()
    )
    image = overlay_image(attribution, clip, frame)
    image[..., 3] *= np.float64(strength)
    ax.imshow(image)
    share = float(attribution.frame_shares()[clip, frame])
    ax.set_title(f"frame {frame}: {share:.0%} of the relevance")
    plt.show()


def scrubber(attribution: Attribution, clips: Tensor, **options: Any) -> ipywidgets.Widget:
    """Sliders for the frame and the map's strength; `options` as `show_frame` takes them."""
    controls = {
        "frame": ipywidgets.IntSlider(0, 0, clips.shape[1] - 1, description="frame"),
        "strength": ipywidgets.FloatSlider(1.0, min=0, max=1, step=0.05, description="strength"),
    }

    def draw(frame: int, strength: float) -> None:
        show_frame(attribution, clips, frame=frame, strength=strength, **options)

    shown = ipywidgets.interactive_output(draw, controls)
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), shown])
