"""How stages answer to motion: a blob drifts in every direction, at several speeds.

Shapes: D directions, T frames, S pixels a side, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from analysis.borrow import borrowed, unwrapped
from analysis.figures.place import lay_out, place_of, set_texts
from analysis.figures.style import by_model, check_rows, colour, styled
from analysis.inside.activations import chosen_points, run_hooked
from posmlp.data.augment import normalise
from posmlp.model import PosMLPVideo

GROUND, BLOB = 0.35, 0.95  # grey levels of the background and of the blob's middle
SIZE = 0.12  # standard deviation of the blob, as a share of the frame's side
VALUES = {
    "response": "response to motion",
    "direction": "what tells a direction from its opposite",
    "activation": "activation",
}


def tuning(
    model: PosMLPVideo,
    where: str = "stage?",
    *,
    num_directions: int = 48,
    speeds: Sequence[float] = (1.0, 2.0, 4.0),
    channels: bool = False,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Responses of each activation to a bright blob that drifts through the middle of the frame.

    The blob passes the middle at half time, so that the clip of the opposite direction is the exact
    reversal. With a(d) the activation's mean over all tokens at direction d, and a(rest) of a blob
    that rests in the middle, `response` is the root mean square over channels of a(d) - a(rest),
    and `direction` that of (a(d) - a(opposite of d)) / 2: what is odd in time. Where relations are
    even in time `direction` is 0.

    Parameters
    ----------
    model : PosMLPVideo
        Over square frames; on any device; handed back as it was.
    where : str
        A shell pattern over the names of `analysis.activations`; all stages by default. `logits`
        gives the answers' tuning.
    num_directions : int
        Even, 2 or more, evenly over the circle.
    speeds : sequence of float
        In pixels a frame.
    channels : bool
        Rows are single channels (of `logits`: classes), whose mean is the column `activation`.

    Returns
    -------
    DataFrame
        name, stage, speed, angle (degrees, 0 to the right, 90 upwards), response and direction; or
        name, stage, speed, angle, channel and activation.

    Raises
    ------
    ValueError
        If `where` fits nothing, directions are odd, or a blob leaves the frame.
    """
    model = unwrapped(model)
    points = chosen_points(model, where)
    if num_directions < 2 or num_directions % 2:
        raise ValueError(f"num_directions={num_directions} must be even, so that each has its "
                         "opposite")  # fmt: skip
    config: Any = model.config
    angles = torch.arange(num_directions, dtype=torch.float64) * (2 * math.pi / num_directions)
    like = next(model.parameters())
    rows = []
    with borrowed(model), torch.no_grad():
        blobs = partial(drifting_blobs, config.num_frames, config.side)
        rest = _means(model, blobs(0.0, angles[:1]).to(like), points, batch_size)
        for speed in speeds:
            found = _means(model, blobs(speed, angles).to(like), points, batch_size)
            for point in points:
                a = found[point.name]
                each: dict[str, Any] = {"name": point.name, "stage": point.stage}
                each |= {"speed": float(speed), "angle": np.rad2deg(angles.numpy())}
                if channels:
                    rows += [pd.DataFrame({**each, "channel": c, "activation": a[:, c]})
                             for c in range(a.shape[1])]  # fmt: skip
                    continue
                odd = (a - np.roll(a, num_directions // 2, axis=0)) / 2
                sizes = {"response": a - rest[point.name], "direction": odd}
                each |= {name: np.sqrt((x**2).mean(1)) for name, x in sizes.items()}
                rows.append(pd.DataFrame(each))
    return pd.concat(rows, ignore_index=True).astype({"stage": "Int64"})


def drifting_blobs(num_frames: int, side: int, speed: float, angles: Tensor) -> Tensor:
    """Clips (D, 3, T, S, S) as models take them; speed in pixels a frame, angles in radians.

    Raises ValueError if the blob's middle leaves the frame.
    """
    if not 0 <= speed * (num_frames - 1) <= side:
        raise ValueError(
            f"speed={speed:g} moves a blob by {speed * (num_frames - 1):g} pixels in {num_frames} "
            f"frames, out of the {side} that there are; use 0 to {side / (num_frames - 1):.3g}"
        )
    time = torch.arange(num_frames, dtype=torch.float64) - (num_frames - 1) / 2
    pixels = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    angles = angles.double()[:, None]
    across, up = speed * angles.cos() * time, speed * angles.sin() * time  # (D, T)
    distance = (pixels - across[..., None])[..., None, :] ** 2
    distance = distance + (pixels + up[..., None])[..., :, None] ** 2  # y goes down
    level = GROUND + (BLOB - GROUND) * (-distance / (2 * (SIZE * side) ** 2)).exp()
    return normalise((255 * level)[..., None].expand(*level.shape, 3))


def _means(
    model: PosMLPVideo, clips: Tensor, points: Sequence[Any], batch_size: int
) -> dict[str, NDArray[np.float64]]:
    """Each activation's mean over tokens, (D, C)."""
    kept: dict[str, list[Tensor]] = {}

    def keep(name: str, x: Tensor) -> None:
        kept.setdefault(name, []).append(x.double().flatten(1, -2).mean(1) if x.dim() > 2 else x)

    for batch in clips.split(batch_size):
        run_hooked(model, batch, points, {}, keep)
    return {name: torch.cat(parts).double().cpu().numpy() for name, parts in kept.items()}


@styled
def draw_tuning(
    data: pd.DataFrame,
    *,
    value: str = "direction",
    ax: Axes | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """Polar plots of tuning, a panel an activation (of rows of channels: a line a channel).

    `data`: rows of `tuning`; `value`: its column `direction` or `response`, a line a speed, from
    light to dark; rows of channels show `activation`, less its lowest value in the panel, and take
    one activation and speed. A column `model`, if there is one, tells models apart: the first is
    drawn in full lines, others dashed. Panels have scales of their own. `ax`: in whose place to
    draw. Returns the Axes, (panels,). Raises ValueError for no rows, a missing column or value.
    """
    by_channel = "channel" in data
    value = "activation" if by_channel else value
    check_rows(data, ("name", "speed", "angle", value), "analysis.tuning")
    if by_channel and len(data[["name", "speed"]].drop_duplicates()) > 1:
        raise ValueError("rows of channels of several activations or speeds; choose one of each")
    names = list(dict.fromkeys(data["name"]))
    place = place_of(ax, (2.3 * len(names) + 0.6 + 1.5 * by_channel, 3.3))
    axes = np.atleast_1d(place.subplots(1, len(names), subplot_kw={"projection": "polar"}))
    models, told = by_model(data)
    lines = "channel" if by_channel else "speed"
    kinds, shades = list(dict.fromkeys(data[lines])), plt.colormaps["viridis_r"]
    for panel, name in zip(axes, names, strict=True):
        lowest = data.loc[data["name"] == name, value].min() if by_channel else 0.0
        for i, rows in enumerate(models):
            own = rows[rows["name"] == name]
            for number, kind in enumerate(kinds):
                line = own[own[lines] == kind].sort_values("angle")
                r = np.append(line[value], line[value].iloc[:1]) - lowest
                hue = colour(number) if by_channel else shades(0.25 + 0.75 * number / len(kinds))
                label = f"{kind:g} pixels a frame" if not by_channel else f"channel {kind}"
                panel.plot(np.deg2rad(np.append(line["angle"], line["angle"].iloc[:1])), r,
                           "-" if i == 0 else "--", color=hue, linewidth=1.2,
                           label=label if i == 0 and panel is axes[-1] else None)  # fmt: skip
        top = panel.get_rmax()
        panel.set_title(
            f"{name}, to {top:.1g}" if top < 0.1 else f"{name}, to {top:.1f}", fontsize=8
        )
        panel.set_xticks(np.deg2rad([0, 90, 180, 270]), ["right", "up", "left", "down"])
        panel.set_yticks(panel.get_rmax() * np.array([0.5, 1.0]), ["", ""])
        panel.tick_params(labelsize=6)
        panel.set_rmin(0)
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.2, 0.5), frameon=False, fontsize=7)
    caption = f"outwards: {VALUES[value]}; each panel has its own scale, to the number in its title"
    set_texts(place, title or _finding(models[0], value), f"{told}; {caption}" if told else caption)
    lay_out(place)
    return axes


def _finding(data: pd.DataFrame, value: str) -> str:
    """What a model's rows show, for a title."""
    if value == "activation":
        name, speed = data["name"].iloc[0], data["speed"].iloc[0]
        return f"Each channel of {name} against the direction of a blob, {speed:g} pixels a frame"
    largest = data.groupby("name")[value].max().sort_values(ascending=False)
    best, top = largest.index[0], largest.iloc[0]
    if value == "response":
        return f"Motion moves {best} most"
    if not top:
        return "Opposite directions are the same here"
    if len(largest) == 1:
        return f"What tells opposite directions apart in {best}"
    beside = f", {top / largest.iloc[1]:.0f} times as far as at {largest.index[1]}"
    return f"Opposite directions lie apart at {best}{beside if largest.iloc[1] else ' alone'}"
