"""What moving digits there are: classes, difficulties, version. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

MOVING_DIGITS = "moving-digits"
GENERATOR_VERSION = 2  # raise it when the same fields come to give other clips

CLASSES = (
    "right", "left",
    "down", "up",
    "nearer", "farther",
    "clockwise", "counterclockwise",
    "appear", "vanish",
    "zero-then-one", "one-then-zero",
    "part", "meet",
)  # fmt: skip
REVERSE_OF = tuple(label ^ 1 for label in range(len(CLASSES)))


@dataclass(frozen=True)
class Difficulty:
    """Nuisance strengths of a clip; lengths are shares of the frame's side, angles radians."""

    extent: tuple[float, float]  # share of the largest change that fits, drawn from this range
    hold: float  # longest still stretch before, and after, the change; share of the clip
    veer: float  # largest angle between a path and its class's axis
    tilt: float  # largest rotation of any sprite at rest
    faint: float  # opacity of the faintest sprite
    saturation: float  # 0: sprites are white; 1: any colour
    num_distractors: int
    sway: float  # how far a distractor moves, there and back
    occluders: bool  # distractors pass in front of the mover
    texture: float  # contrast of the background
    drift: float  # how far the background slides over the clip
    flicker: float  # brightness of a frame varies by this share
    noise_levels: float  # largest pixel noise, in grey levels of 255
    inverted: bool  # half of the clips are negatives


DIFFICULTIES = {
    "easy": Difficulty(
        extent=(0.8, 1.0), hold=0.1, veer=0.1, tilt=0.15, faint=0.9, saturation=0.3,
        num_distractors=1, sway=0.0, occluders=False,
        texture=0.6, drift=0.0, flicker=0.0, noise_levels=10.0, inverted=False,
    ),
    "medium": Difficulty(
        extent=(0.6, 1.0), hold=0.2, veer=0.3, tilt=0.3, faint=0.75, saturation=0.5,
        num_distractors=2, sway=0.1, occluders=False,
        texture=1.0, drift=0.1, flicker=0.05, noise_levels=25.0, inverted=True,
    ),
    "hard": Difficulty(
        extent=(0.4, 1.0), hold=0.3, veer=0.5, tilt=0.5, faint=0.6, saturation=0.7,
        num_distractors=3, sway=0.2, occluders=True,
        texture=1.4, drift=0.25, flicker=0.12, noise_levels=50.0, inverted=True,
    ),
}  # fmt: skip
