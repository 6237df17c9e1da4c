"""Detect and name each mover: moving digits with the truth of where they are and what they do.

Two digits move, each in one of four directions, and one stands still, which is no action: only
motion tells them apart. Shapes: k clips, T frames, S pixels a side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posmlp.config_checks import one_of
from posmlp.data.digits.sprites import digit_bank, draw_sprites, texture_bank
from posmlp.tasks.boxes import KeyFrames

SPLITS = ("train", "test")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
SIDES = (0.26, 0.34)  # of a digit, as shares of the frame
TRAVEL = (0.2, 0.35)  # over the clip
NUM_SPRITES = 3  # the last stands still
SIDE, STRIDE = 0.3, 1 / 16  # of the proposals


def sliding_boxes(side: float = SIDE, stride: float = STRIDE) -> Tensor:
    """Square boxes all over the frame, (p, 4): where an actor might be, for want of a detector."""
    start = torch.arange(0, 1 - side + 1e-6, stride)
    top, left = torch.meshgrid(start, start, indexing="ij")
    corners = torch.stack([left, top], -1).reshape(-1, 2)
    return torch.cat([corners, corners + side], 1)


def moving_boxes(
    split: str, num_clips: int, *, num_frames: int = 8, image_size: int = 64, seed: int = 0
) -> KeyFrames:
    """Clips rendered in memory; the key frame is the middle of the clip.

    Train and test share neither digits nor textures nor scenes. Raises ValueError for an unknown
    split.
    """
    one_of(split, SPLITS, "split")
    draw = torch.Generator().manual_seed(2 * seed + SPLITS.index(split))
    centres = torch.stack([_apart(draw) for _ in range(num_clips)])  # (k, sprites, 2)
    side = _uniform(draw, SIDES, num_clips, NUM_SPRITES)
    direction = torch.randint(len(DIRECTIONS), (num_clips, NUM_SPRITES - 1), generator=draw)
    ways = torch.tensor(list(DIRECTIONS.values()))[direction] * 1.0
    still = torch.zeros(num_clips, 1, 2)
    way = torch.cat([ways, still], 1) * _uniform(draw, TRAVEL, num_clips, NUM_SPRITES)[..., None]
    time = torch.linspace(-0.5, 0.5, num_frames)
    place = centres[:, :, None] + way[:, :, None] * time[:, None]  # (k, sprites, T, 2)
    clips = _render(split, place, side, image_size, draw)
    half = side[..., None] / 2
    boxes = torch.cat([centres - half, centres + half], -1)[:, :-1].clamp(0, 1)
    actions = torch.nn.functional.one_hot(direction, len(DIRECTIONS)).bool()
    return KeyFrames(
        "moving-boxes",
        tuple(DIRECTIONS),
        list(boxes),
        list(actions),
        [sliding_boxes()] * num_clips,
        clips.__getitem__,
    )


def _uniform(draw: torch.Generator, limits: tuple[float, float], *shape: int) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * torch.rand(shape, generator=draw)


def _apart(draw: torch.Generator) -> Tensor:
    """Centres (sprites, 2) at the key frame, no two so near that their digits overlap much."""
    while True:
        centres = _uniform(draw, (0.2, 0.8), NUM_SPRITES, 2)
        distance = torch.cdist(centres, centres) + torch.eye(NUM_SPRITES)
        if distance.min() > SIDES[1]:
            return centres


def _render(
    split: str, place: Tensor, side: Tensor, image_size: int, draw: torch.Generator
) -> Tensor:
    """uint8 (k, T, S, S, 3): bright digits over a still texture, with noise."""
    num_clips, _, num_frames, _ = place.shape
    cpu = torch.device("cpu")
    shapes, tiles = (
        digit_bank(split, image_size // 2, cpu).shapes,
        texture_bank(split, image_size, cpu),
    )
    frames_of = []
    for k in range(num_clips):
        worn = torch.randint(len(shapes), (1, NUM_SPRITES), generator=draw)
        x, y = place[k : k + 1].double().unbind(-1)
        sizes = side[k : k + 1, :, None].double().expand_as(x)
        ink = draw_sprites(shapes[worn], x, y, sizes, torch.zeros_like(x), image_size)[0]
        tile = tiles[int(torch.randint(len(tiles), (), generator=draw))]
        frames = (0.35 + 0.6 * tile)[None].expand(num_frames, -1, -1, -1).clone()
        for cover in ink:  # (T, S, S)
            frames = frames + cover[:, None] * (1 - frames)
        noise = 0.03 * torch.randn(frames.shape, generator=draw)
        frames_of.append(((frames + noise).clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.stack(frames_of).permute(0, 1, 3, 4, 2).contiguous()
