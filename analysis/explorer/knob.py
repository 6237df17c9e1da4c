"""The page with the knob: a small model runs on clips in the browser while its arrow of time turns.

`posmlp/pictures` has the page. The animated picture shows the same without a browser.
Shapes: N clips of T frames of S x S pixels.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from analysis.bias.maps import units
from analysis.figures.pictures import raster, write_animation
from analysis.figures.style import colour, styled
from analysis.inside.arrow import arrow_curve, arrow_of_time
from analysis.interventions.run_clips import run_clips
from posmlp.checkpoint import load, write_atomically
from posmlp.config import PosMLPConfig
from posmlp.config_checks import parse_layout
from posmlp.data.augment import MEAN, STD, normalise
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import GeneratedClips, HeldClips
from posmlp.model import PosMLPVideo
from posmlp.pictures.knob_page import OWN, knob_page, with_weights
from posmlp.predict import open_run
from posmlp.train.population import seeded_model

MOST_BYTES = 1_000_000
NUM_SHOWN = 5
NUM_JUDGED = 280
PICTURES = (".png", ".apng")


class Shown(NamedTuple):
    """A model, the clips that it is judged on, and those of them that are shown (numbers)."""

    model: PosMLPVideo
    initial: PosMLPVideo
    held: HeldClips
    chosen: list[int]


def write_knob(source: str | Path, out: str | Path, seed: int | None = None) -> Path:
    """Write the page of a run's or a file's model, or, to a .png, the animated picture of it.

    `source`: a run folder, or a model file of 14 classes (or the name of a shipped one), which is
    shown generated moving digits. To a .json goes what the page reads but for the model's weights,
    from which `posmlp try` makes the page.
    Returns the path. Raises ValueError for models that the page cannot run, for clips without
    reversed classes, and if the page would pass a megabyte.
    """
    out = Path(out)
    if out.suffix not in (".html", ".json", *PICTURES):
        raise ValueError(f"{out} must end in .html for the page, or in .png for the picture")
    shown = _opened(Path(source), seed)
    if out.suffix in PICTURES:
        return write_animation(swing_pictures(shown), out, 6.0)
    state = knob_state(shown)
    if out.suffix == ".json":
        write_atomically(out, json.dumps(state).encode())
        return out
    page = knob_page(with_weights(state, shown.model.state_dict())).encode()
    if len(page) > MOST_BYTES:
        raise ValueError(
            f"the page would have {len(page):,} bytes, more than {MOST_BYTES:,}; give a model with "
            "fewer parameters or smaller clips"
        )
    write_atomically(out, page)
    return out


def _opened(source: Path, seed: int | None) -> Shown:
    if source.is_dir():
        opened = open_run(source, seed)
        model, held, seed = opened.model, run_clips(source, NUM_JUDGED), opened.seed
    else:
        model = load(source)
        held = _digits(model.config, source)
    check_knob(model)
    if held.reverse_of is None:
        raise ValueError(
            f"the classes of {held.name} have no reversals, between which an answer could swing; "
            "train on moving-digits"
        )
    return Shown(model, seeded_model(model.config, seed or 0), held, clips_shown(model, held))


def _digits(config: PosMLPConfig, source: Path) -> HeldClips:
    """Generated test clips for a model of which only the file is known."""
    if config.num_classes != len(MovingDigits.classes):
        raise ValueError(
            f"{source} tells {config.num_classes} classes apart and moving-digits has "
            f"{len(MovingDigits.classes)}; give the run folder, which knows its clips"
        )
    digits = MovingDigits(
        "test", NUM_JUDGED, num_frames=config.num_frames, image_size=config.side, paired=True
    )
    made = GeneratedClips(digits)
    return HeldClips(
        digits.name, digits.classes, digits.labels, digits.reverse_of, made.clips,
        digits.describe(),
    )  # fmt: skip


def check_knob(model: PosMLPVideo) -> None:
    """Raise ValueError for what knob.js cannot compute, and for a model that mixes over no time."""
    config = model.config
    wanted = {
        "kind": "video", "gate": "lrpe", "gate_form": "multiply", "stem_convs": 2,
        "in_channels": 3, "downsample_depthwise": False,
    }  # fmt: skip
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name}={getattr(config, name)!r}: the page runs models with {name}={value!r}"
            )
    if config.num_frames < 2 or not any("T" in layout for layout in config.layouts):
        raise ValueError("the model never mixes over time, so that there is no arrow to turn")


@torch.no_grad()
def clips_shown(model: PosMLPVideo, held: HeldClips) -> list[int]:
    """Of each pair of classes the clip that model and reversed model tell best, the surest few.

    That is the clip for which the smaller of two shares is largest: of its class, and of the class
    of its reversal when it is played backwards.
    """
    assert held.reverse_of is not None
    model = model.eval()
    reverse = held.reverse_of[held.labels]
    rows = torch.arange(len(held))
    forward, backward = (
        torch.cat([model(part.flip(2) if turn else part).softmax(-1)
                   for part in normalise(held.clips).split(64)])
        for turn in (False, True)
    )  # fmt: skip
    sure = torch.minimum(forward[rows, held.labels], backward[rows, reverse])
    best: dict[int, int] = {}
    for i in sure.argsort(descending=True, stable=True).tolist():
        label = int(held.labels[i])
        pair = min(label, int(held.reverse_of[label]))
        if label == pair:  # one direction of each pair; the page turns it round
            best.setdefault(pair, i)
    surest = sorted(best.values(), key=lambda i: -float(sure[i]))[:NUM_SHOWN]
    return sorted(surest, key=lambda i: int(held.labels[i]))


def _words(shown: Shown) -> list[str]:
    curve = arrow_curve(shown.model, shown.held, (1.0, 0.0, -1.0)).set_index("strength")
    learned, blind, reversed_ = (f"{curve['within_pair'][s]:.0%}" for s in (1.0, 0.0, -1.0))
    return [
        "A small model of moving digits runs in this page. Order reaches its answer through its "
        "tables over time and, a little, through one bias a frame. The knob multiplies the part of "
        "both that differs between past and future. At 1 the model is as it learned. At 0 it gives "
        "a clip and its reversal the same answer. At -1 it gives each the other's, exactly.",
        f"Of {len(shown.held)} test clips it scores the true class above that of the reversal in "
        f"{learned} at 1, {blind} at 0, {reversed_} at -1. The clips here are some that it tells "
        "well.",
    ]


def knob_state(shown: Shown) -> dict[str, Any]:
    """What knob.js reads but for the model's weights, as values for JSON."""
    model, initial, held, chosen = shown
    config = model.config
    assert held.reverse_of is not None
    arrays = {name: x for name, x in model.state_dict().items() if x.is_floating_point()}
    first = initial.state_dict()
    tables = [f"{name}.positions.table" for name in _gate_names(model)]
    arrays |= {f"{OWN}{name}": first[name] for name in tables}
    tensors, start = {}, 0
    for name, x in arrays.items():
        tensors[name] = {"start": start, "shape": list(x.shape)}
        start += x.numel()
    own = [first[name].half().numpy().astype("<f2").ravel() for name in tables]
    sizes = config.stage_sizes(*config.size)
    return {
        "config": {
            "frames": config.num_frames,
            "size": config.side,
            "depths": config.depths,
            "dims": config.dims,
            "groups": config.num_groups,
            "windows": config.windows,
            "temporal_windows": config.temporal_windows,
            "layouts": [parse_layout(layout) for layout in config.layouts],
            "sides": [rows for rows, _ in sizes],
            "halves": [config.halves(i) for i in range(1, config.num_stages)],
            "stem_norm": config.stem_norm,
            "downsample_norm": config.downsample_norm,
            "eps": config.norm_eps,
        },
        "mean": MEAN,
        "std": STD,
        "tensors": tensors,
        "weights": _base64(np.concatenate(own)),
        "classes": list(held.classes),
        "clips": [
            {
                "label": int(held.labels[i]),
                "reverse": int(held.reverse_of[held.labels[i]]),
                "pixels": _base64(held.clips[i].numpy()),
            }
            for i in chosen
        ],
        "units": _units(model),
        "words": _words(shown),
    }


def _gate_names(model: PosMLPVideo) -> list[str]:
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(place.unit)] for place in units(model)]


def _units(model: PosMLPVideo) -> list[dict[str, Any]]:
    """Tables that can be painted: those over time first, and the last stage's before others."""
    found = []
    for name, place in zip(_gate_names(model), units(model), strict=True):
        table = place.unit.positions.table
        if place.branch == "ST" or table[0].numel() == 1:
            continue
        step = f", step {place.step}" if ">" in model.config.layouts[place.stage - 1] else ""
        what = "over time" if place.branch == "T" else "over space"
        label = f"stage {place.stage}, block {place.block}{step}, {what}"
        found.append(
            {
                "label": label,
                "table": f"{name}.positions.table",
                "groups": len(table),
                "sides": list(table.shape[1:]),
            }
        )
    return sorted(found[::-1], key=lambda unit: len(unit["sides"]))


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


HOLD, TURN = 10, 14  # pictures at either end, and between


@styled
def swing_pictures(shown: Shown) -> list[NDArray[np.uint8]]:
    """A clip and its reversal play while the strength goes from 1 to -1 and back: RGB pictures."""
    model, _, held, chosen = shown
    clip = held.clips[chosen[0]]
    assert held.reverse_of is not None
    label = int(held.labels[chosen[0]])
    pair = [label, int(held.reverse_of[label])]
    names = [held.classes[each] for each in pair]
    both = torch.stack([clip, clip.flip(0)])
    turn = np.cos(np.linspace(0, np.pi, TURN + 2))[1:-1]
    strengths = [*[1.0] * HOLD, *turn, *[-1.0] * HOLD, *turn[::-1]]
    answers: dict[float, tuple[Tensor, Tensor]] = {}
    for s in set(strengths):
        turned = arrow_of_time(model, float(s)).eval()
        with torch.no_grad():
            shares = turned(normalise(both)).softmax(-1)[:, pair]
        answers[s] = (shares, _last_table(turned))
    limit = 1.1 * float(answers[1.0][1].abs().max()) or 1.0
    figure = plt.figure(figsize=(7.6, 2.9), dpi=90)
    try:
        return [
            _picture(figure, both, i % clip.shape[0], s, *answers[s], names, limit)
            for i, s in enumerate(strengths)
        ]
    finally:
        plt.close(figure)


def _last_table(model: PosMLPVideo) -> Tensor:
    """The last table over time, a joint one at dy = dx = 0: (G, 2T-1), earlier on the left."""
    unit = [place.unit for place in units(model) if "T" in place.branch][-1]
    table = unit.bias_table().detach()
    while table.dim() > 2:
        table = table[..., table.shape[-1] // 2]
    return table.flip(1)


def _picture(
    figure: Figure,
    both: Tensor,
    frame: int,
    strength: float,
    shares: Tensor,
    table: Tensor,
    names: Sequence[str],
    limit: float,
) -> NDArray[np.uint8]:
    figure.clear()
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 2.2, 2.2])
    for row, (clip, what) in enumerate(zip(both, ("clip", "backwards"), strict=True)):
        ax = figure.add_subplot(grid[row, 0])
        ax.imshow(clip[frame].numpy(), interpolation="nearest")
        ax.set_title(what, fontsize=8, fontweight="normal")
        ax.set_xticks([], [])
        ax.set_yticks([], [])
        bars = figure.add_subplot(grid[row, 2])
        bars.barh(names, 100 * shares[row].numpy(), color=[colour(0), colour(1)])
        bars.invert_yaxis()
        bars.set_xlim(0, 100)
        if row:
            bars.set_xlabel("answer (%)")
        else:
            bars.set_xticklabels([])
    ax = figure.add_subplot(grid[:, 1])
    reach = table.shape[1] // 2
    for values in table:
        ax.plot(range(-reach, reach + 1), values.numpy(), color=colour(2), alpha=0.6, linewidth=0.8)
    ax.axvline(0, color="0.7", linewidth=0.7, zorder=0)
    ax.axhline(0, color="0.7", linewidth=0.7, zorder=0)
    ax.set_ylim(-limit, limit)
    ax.set_xticks([-reach, 0, reach])
    ax.set_xlabel("the frame read: earlier (left), later (right)")
    ax.set_title("tables over time, last stage: a line each", fontsize=8, fontweight="normal")
    at = {1.0: ": as learned", 0.0: ": no direction", -1.0: ": reversed"}.get(strength, "")
    figure.suptitle(f"the tables' odd part x {strength:+.1f}{at}", x=0.01, ha="left", fontsize=11)
    return raster(figure)
