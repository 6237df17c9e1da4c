"""Moving digits: clips whose classes come in pairs that are exact time reversals of each other.

A model blind to the order of frames is at chance within a pair, whatever else it sees. Clips are
rendered on the fly, vectorised, on CPU or GPU; `synthetic.py` writes them to video files.

Letters: k clips, S sprites, T frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from posmlp.config_checks import one_of
from posmlp.data.digits import scenes
from posmlp.data.digits.catalogue import (
    CLASSES,
    DIFFICULTIES,
    MOVING_DIGITS,
    REVERSE_OF,
    Difficulty,
)
from posmlp.data.digits.draws import Draws
from posmlp.data.digits.scenes import NUM_MOVERS, NUM_PAIRS
from posmlp.data.digits.sprites import digit_bank, draw_sprites, draw_windows, texture_bank

SPLITS = ("train", "val", "test")
MIN_IMAGE_SIZE = 16
MIN_SHAPE_SIDE = 16
MAX_TILE_SIDE = 160  # textures are not stored larger than the photographs' own squares
CHUNK_PIXELS = {"cpu": 2**18, "cuda": 2**22}  # pixels at once: CPU cache, GPU memory
BACKGROUND_LEVEL = 0.35  # mean grey, darker than sprites, so that they stand out
MIN_VISIBLE = 0.1  # opacity below which a sprite counts as not there
NOISE_BYTES = 2  # the sum of two uniform bytes has a triangular distribution


class RenderedClips(NamedTuple):
    """A batch of clips with its ground truth.

    clips: (k, T, H, W, 3) uint8 RGB.
    labels: (k,) int64, indices into `CLASSES`.
    masks: (k, T, H, W) bool, the visible pixels of the mover (of both movers where there are two).
    moving: (k, T) bool, frames in which the mover is seen and differs from a neighbouring frame.
    """

    clips: Tensor
    labels: Tensor
    masks: Tensor
    moving: Tensor


@dataclass(frozen=True)
class MovingDigits:
    """A data set of moving handwritten digits; clip i is a function of these fields and i alone.

    It does not depend on `num_clips`, nor on the batch in which it is rendered. With `paired`,
    clips 2k and 2k + 1 are exact time reversals of each other, pixel noise included; without,
    every clip has its own nuisances.

    Raises: ValueError where a field is out of range.
    """

    split: str
    num_clips: int
    seed: int = 0
    difficulty: str = "medium"
    num_frames: int = 8
    image_size: int = 32
    paired: bool = False

    name: ClassVar[str] = MOVING_DIGITS
    classes: ClassVar[tuple[str, ...]] = CLASSES

    def __post_init__(self) -> None:
        one_of(self.split, SPLITS, "split")
        one_of(self.difficulty, DIFFICULTIES, "difficulty")
        if self.num_clips < 1:
            raise ValueError(f"num_clips={self.num_clips} is less than 1; ask for at least one")
        if self.paired and self.num_clips % 2:
            raise ValueError(
                f"num_clips={self.num_clips} is odd but clips are paired; make it even"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is not in [0, 2**63); use a non-negative integer")
        if self.num_frames < 2:
            raise ValueError(f"num_frames={self.num_frames} cannot show motion; use 2 or more")
        if self.image_size < MIN_IMAGE_SIZE or self.image_size % 2:
            raise ValueError(
                f"image_size={self.image_size} is odd or less than {MIN_IMAGE_SIZE}; "
                f"use an even size from {MIN_IMAGE_SIZE}"
            )

    def __len__(self) -> int:
        return self.num_clips

    @property
    def labels(self) -> Tensor:
        """Every clip's class, (num_clips,) int64; pairs of classes take turns."""
        return labels_of(torch.arange(self.num_clips))

    @property
    def reverse_of(self) -> Tensor:
        """The class of each class's time reversal, (num_classes,) int64."""
        return torch.tensor(REVERSE_OF)

    def describe(self) -> dict[str, Any]:
        """All that determines the clips, as JSON-able values."""
        return {"name": self.name, **asdict(self)}

    def render(self, indices: Tensor, device: torch.device | str = "cpu") -> RenderedClips:
        """Draw the clips `indices` (k,) int64, with their ground truth, on `device`.

        On one kind of device a clip is bit-exact; between CPU and GPU it differs by rounding.

        Raises: ValueError where an index is not in [0, num_clips), or no clips can be drawn there.
        """
        kind = torch.device(device).type
        if kind not in CHUNK_PIXELS:
            raise ValueError(
                f"device={kind!r} cannot draw clips; use one of {', '.join(CHUNK_PIXELS)}"
            )
        indices = torch.as_tensor(indices, dtype=torch.int64, device=device)
        outside = indices[(indices < 0) | (indices >= self.num_clips)]
        if indices.ndim != 1 or not indices.numel() or outside.numel():
            raise ValueError(
                f"indices of shape {tuple(indices.shape)} with {outside[:5].tolist()} outside; "
                f"use a non-empty vector of integers from 0 to {self.num_clips - 1}"
            )
        num_pixels = self.num_frames * self.image_size**2
        chunk = max(1, CHUNK_PIXELS[kind] // num_pixels)
        parts = [self._render_chunk(part) for part in indices.split(chunk)]
        return RenderedClips(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def identities(self, indices: Tensor) -> Tensor:
        """The digit that the (first) mover of the clips `indices` (k,) wears: (k,), 0 to 9."""
        drawn_as = indices // 2 * 2 if self.paired else indices
        draws = Draws(self.seed, self.split, drawn_as)
        bank = digit_bank(self.split, max(MIN_SHAPE_SIDE, self.image_size // 2), indices.device)
        level = DIFFICULTIES[self.difficulty]
        shapes = scenes.digits(draws, labels_of(indices) // 2, level, bank)[:, 0].contiguous()
        return torch.searchsorted(bank.first, shapes, right=True) - 1

    def _render_chunk(self, indices: Tensor) -> RenderedClips:
        """Draw every clip forwards, then run those of each pair's second class backwards."""
        labels = labels_of(indices)
        drawn_as = indices // 2 * 2 if self.paired else indices
        forward = self._render_forward(drawn_as, labels // 2)
        backward = (labels % 2).bool()

        def turned(frames: Tensor) -> Tensor:
            where = backward.reshape(-1, *[1] * (frames.ndim - 1))
            return torch.where(where, frames.flip(1), frames)

        return RenderedClips(
            turned(forward.clips), labels, turned(forward.masks), turned(forward.moving)
        )

    def _render_forward(self, indices: Tensor, kind: Tensor) -> RenderedClips:
        level = DIFFICULTIES[self.difficulty]
        draws = Draws(self.seed, self.split, indices)
        phase = scenes.change_phase(draws, level, self.num_frames)
        track = scenes.tracks(draws, kind, level, phase)

        bank = digit_bank(self.split, max(MIN_SHAPE_SIDE, self.image_size // 2), indices.device)
        shapes = bank.shapes[scenes.digits(draws, kind, level, bank)]
        ink = draw_sprites(shapes, track.x, track.y, track.size, track.angle, self.image_size)
        frames = self._background(draws, level)
        colours = scenes.colours(draws, level)
        cover = ink * track.opacity.float()[..., None, None]
        order = range(ink.shape[1]) if level.occluders else reversed(range(ink.shape[1]))
        for sprite in order:  # the last is drawn on top
            colour = colours[:, sprite, :, None, None, None]
            frames += cover[:, None, sprite] * (colour - frames)

        masks = _visible(ink, track.opacity, level)
        step = torch.diff(phase, dim=1).ne(0)
        moving = (F.pad(step, (0, 1)) | F.pad(step, (1, 0))) & masks.any(dim=(2, 3))
        return RenderedClips(_film(frames, draws, level), 2 * kind, masks, moving)

    def _background(self, draws: Draws, level: Difficulty) -> Tensor:
        """A window of a photograph that slides over the clip: (k, 3, T, H, W), around [0, 1]."""
        side = min(2 * self.image_size, MAX_TILE_SIDE)
        bank = texture_bank(self.split, side, draws.keys.device)
        tiles = bank[(draws.uniform("tile") * len(bank)).long()]
        window = scenes.window(draws, level, self.num_frames)
        return BACKGROUND_LEVEL + level.texture * draw_windows(tiles, *window, self.image_size)


def labels_of(indices: Tensor) -> Tensor:
    """The class of each clip: pairs of classes take turns, and within a pair its two classes."""
    return 2 * (indices // 2 % NUM_PAIRS) + indices % 2


def _visible(ink: Tensor, opacity: Tensor, level: Difficulty) -> Tensor:
    """Pixels of the movers that are seen, (k, T, H, W) bool."""
    seen = (ink > 0.5) & (opacity > MIN_VISIBLE)[..., None, None]
    mover = seen[:, :NUM_MOVERS].any(dim=1)
    if level.occluders:
        mover &= ~seen[:, NUM_MOVERS:].any(dim=1)
    return mover


def _film(frames: Tensor, draws: Draws, level: Difficulty) -> Tensor:
    """Flicker, noise, grey levels, negative: (k, 3, T, H, W) float -> (k, T, H, W, 3) uint8."""
    gain = 255 * (1 + draws.within("flicker", frames.shape[2], limit=level.flicker))
    bits = draws.bits("noise", NOISE_BYTES * frames[0].numel() // 8)
    noise = bits.view(torch.uint8).view(len(frames), NOISE_BYTES, *frames.shape[1:])
    grain = (noise[:, 0].float() + noise[:, 1].float() - 255) * (level.noise_levels / 255)
    grey = frames.clamp(0, 1) * gain.float()[:, None, :, None, None] + grain
    levels = grey.round().clamp(0, 255).to(torch.uint8)
    if level.inverted:
        negative = draws.uniform("negative").lt(0.5)
        levels = torch.where(negative[:, None, None, None, None], 255 - levels, levels)
    return levels.permute(0, 2, 3, 4, 1).contiguous()
