"""What a moving-digits clip shows, as numbers: who is where, how large, how visible, at each frame.

Positions and sizes are shares of the frame's side, x to the right and y down, so a scene fits any
image size. Every clip is laid out forwards in time, as the first class of its pair; the second
class is the same film run backwards (`moving_digits.py` does that, after the pixels are drawn).

Letters: k clips, S sprites (2 movers, then the distractors), T frames.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from posmlp.data.digits.catalogue import CLASSES, Difficulty
from posmlp.data.digits.draws import Draws
from posmlp.data.digits.sprites import DigitBank

NUM_PAIRS = len(CLASSES) // 2
RIGHT, DOWN, NEARER, CLOCKWISE, APPEAR, ZERO_THEN_ONE, PART = range(NUM_PAIRS)
NUM_MOVERS = 2  # the second is seen in "zero-then-one" (the one) and in "part" only
# One row a pair of classes. SIZE: the mover's smallest and largest side. OPACITY: of each mover
# at the start and at the end of the change.
SIZE = ((0.38, 0.5), (0.38, 0.5), (0.55, 0.7), (0.5, 0.7), (0.4, 0.6), (0.48, 0.65), (0.34, 0.42))
OPACITY = (
    *[((1, 1), (0, 0))] * 4,
    ((0, 1), (0, 0)),  # appear
    ((1, 0), (0, 1)),  # zero-then-one
    ((1, 1), (1, 1)),  # part
)
MAX_ZOOM = 2.6  # ratio of sizes in "nearer"
MAX_TURN = math.radians(210)
START_GAP = 0.75  # distance of the parting pair at the start, in sprite sides


class Track(NamedTuple):
    """Five numbers a sprite and frame, each (k, S, T): place of its centre, side, turn, opacity."""

    x: Tensor
    y: Tensor
    size: Tensor
    angle: Tensor  # radians, clockwise as seen
    opacity: Tensor


class Ends(NamedTuple):
    """The same five numbers at the two ends of a change, each (k, S, 2)."""

    x: Tensor
    y: Tensor
    log_size: Tensor
    angle: Tensor
    opacity: Tensor


def travel(ends: Ends, phase: Tensor) -> Track:
    """Go from one end (phase 0) to the other (phase 1): ends (k, S, 2), phase (k, T)."""
    x, y, log_size, angle, opacity = (
        end[..., :1] + (end[..., 1:] - end[..., :1]) * phase[:, None] for end in ends
    )
    return Track(x, y, log_size.exp(), angle, opacity)


def change_phase(draws: Draws, level: Difficulty, num_frames: int) -> Tensor:
    """How far the mover's change has come, 0 to 1, with still stretches at both ends: (k, T)."""
    before, after = draws.uniform("hold", 2, high=level.hold)[:, :, None].unbind(1)
    time = torch.linspace(0, 1, num_frames, dtype=torch.float64, device=before.device)
    return ((time - before) / (1 - before - after)).clamp(0, 1)


def paths(
    draws: Draws, kind: Tensor, level: Difficulty, extent: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """Place the movers at both ends so that all of the path is in view: x, y, (k, movers, 2)."""
    heading = draws.within("veer", limit=level.veer) + (kind == DOWN) * (math.pi / 2)
    heading = torch.where(kind == PART, draws.within("heading", limit=math.pi), heading)
    # Offsets from the path's middle; the second mover's are the first's, negated.
    near = torch.where(kind == PART, START_GAP * size / 2, 0.0)
    far = torch.where(kind == PART, near + extent * ((1 - size) / 2 - near), 0.0)
    reach = torch.where(kind <= DOWN, extent * (1 - size) / 2, 0.0)
    offset = torch.stack([near - reach, far + reach], dim=-1)
    offset = torch.stack([offset, -offset], dim=1)

    def along(stream: str, direction: Tensor) -> Tensor:
        margin = size / 2 + (far + reach) * direction.abs()
        middle = draws.uniform(stream, low=margin, high=1 - margin)
        return middle[:, None, None] + offset * direction[:, None, None]

    return along("x", heading.cos()), along("y", heading.sin())


def movers(draws: Draws, kind: Tensor, level: Difficulty) -> Ends:
    """Lay out the changes of the two movers, for the pairs of classes in `kind` (k,)."""
    sizes = torch.tensor(SIZE, dtype=torch.float64, device=kind.device)[kind]
    opacity = torch.tensor(OPACITY, dtype=torch.float64, device=kind.device)[kind]
    extent = draws.uniform("extent", low=level.extent[0], high=level.extent[1])
    size = draws.uniform("size", low=sizes[:, 0], high=sizes[:, 1])
    x, y = paths(draws, kind, level, extent, size)

    zoom = torch.where(kind == NEARER, extent * math.log(MAX_ZOOM), 0.0)
    turn = torch.where(kind == CLOCKWISE, extent * MAX_TURN, 0.0)
    rest = draws.within("tilt", NUM_MOVERS, limit=level.tilt)
    strength = draws.uniform("strength", low=level.faint)
    return Ends(
        x=x,
        y=y,
        log_size=torch.stack([size.log() - zoom, size.log()], dim=-1)[:, None].expand(x.shape),
        angle=rest[..., None] + torch.stack([-turn / 2, turn / 2], dim=-1)[:, None],
        opacity=opacity * strength[:, None, None],
    )


def distractors(draws: Draws, level: Difficulty) -> Ends:
    """Lay out distractors that sway there and back, and so tell nothing about time's direction."""
    count = level.num_distractors
    heading = draws.within("sway heading", count, limit=math.pi)
    size = draws.uniform("distractor size", count, low=0.3, high=0.45)
    tilt = draws.within("distractor tilt", count, limit=level.tilt)
    strength = draws.uniform("distractor strength", count, low=level.faint)

    def constant(value: Tensor) -> Tensor:
        return value[..., None].expand(-1, -1, 2)

    def place(stream: str, direction: Tensor) -> Tensor:
        start = draws.uniform(stream, count, low=0.1, high=0.9)
        return torch.stack([start, start + level.sway * direction], dim=-1)

    return Ends(
        x=place("distractor x", heading.cos()),
        y=place("distractor y", heading.sin()),
        log_size=constant(size.log()),
        angle=constant(tilt),
        opacity=constant(strength),
    )


def sway_phase(num_frames: int, device: torch.device) -> Tensor:
    """There and back, the same forwards and backwards: (1, T)."""
    time = torch.linspace(-1, 1, num_frames, dtype=torch.float64, device=device)
    return 1 - time.abs()[None]


def tracks(draws: Draws, kind: Tensor, level: Difficulty, phase: Tensor) -> Track:
    """Where all sprites are at each frame, movers first: (k, S, T) each."""
    sway = sway_phase(phase.shape[1], phase.device)
    moved = travel(movers(draws, kind, level), phase)
    swayed = travel(distractors(draws, level), sway)
    return Track(*(torch.cat(parts, dim=1) for parts in zip(moved, swayed, strict=True)))


def window(draws: Draws, level: Difficulty, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """A window that slides over a background tile: centre x, y (k, T) in [-1, 1], side (k,)."""
    device = draws.keys.device
    side = draws.uniform("window side", low=0.4, high=0.6)
    heading = draws.within("drift heading", limit=math.pi)
    time = torch.linspace(-1, 1, num_frames, dtype=torch.float64, device=device)
    slide = (level.drift * draws.uniform("drift") * side)[:, None] * time
    x = draws.within("window x", limit=0.25)[:, None] + slide * heading.cos()[:, None]
    y = draws.within("window y", limit=0.25)[:, None] + slide * heading.sin()[:, None]
    return x, y, side


def digits(draws: Draws, kind: Tensor, level: Difficulty, bank: DigitBank) -> Tensor:
    """Which shape of the bank each sprite wears, (k, S): any, but for "zero-then-one"."""
    any_digit = draws.uniform("digit", NUM_MOVERS + level.num_distractors)
    chosen = (any_digit * len(bank.shapes)).long()
    zero_one = bank.first[:2] + (any_digit[:, :2] * bank.num_each[:2]).long()
    named = (kind == ZERO_THEN_ONE)[:, None]
    chosen[:, :NUM_MOVERS] = torch.where(named, zero_one, chosen[:, :NUM_MOVERS])
    return chosen


def colours(draws: Draws, level: Difficulty) -> Tensor:
    """Bright colours, (k, S, 3) float32; both movers of a clip share theirs."""
    num_sprites = NUM_MOVERS + level.num_distractors
    colour = 1 - level.saturation * draws.uniform("colour", num_sprites, 3)
    colour[:, 1] = colour[:, 0]
    return colour.float()
