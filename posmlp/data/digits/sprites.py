"""What moving-digits clips are made of: handwritten digits and photographs, all bundled offline.

Digits: the 1,797 handwritten digits of scikit-learn. Textures: photographs that ship inside the
scikit-learn and scikit-image wheels. No two splits share either: a digit belongs to one split (in
scikit-learn's order the first 80% train, the next 5% val, the rest test), and of each photograph
the left half is for train, the right half's top for val and its bottom for test.

Letters: k clips, S sprites, T frames, H W pixels.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import distribution
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DIGIT_SHARES = {"train": (0.0, 0.8), "val": (0.8, 0.85), "test": (0.85, 1.0)}
IN_SCIKIT_IMAGE = (
    *("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "coins.png", "grass.png"),
    *("gravel.png", "rocket.jpg"),
)
IN_SCIKIT_LEARN = ("china.jpg", "flower.jpg")
TILE_SIDES_PX = (96, 160)  # two zoom levels, in the photographs' own pixels


class DigitBank(NamedTuple):
    """Digit shapes sorted by digit, so that the shapes of one digit are neighbours.

    shapes: (n, side, side) float in [0, 1], the share of a pixel that is ink.
    first, num_each: (10,) int64, where a digit's shapes begin and how many there are.
    """

    shapes: Tensor
    first: Tensor
    num_each: Tensor


@cache
def digit_bank(split: str, side: int, device: torch.device) -> DigitBank:
    """The split's handwritten digits as shapes of `side` x `side` pixels."""
    table = torch.from_numpy(
        np.loadtxt(_in_wheel("scikit-learn", "sklearn/datasets/data/digits.csv.gz"), delimiter=",")
    )
    start, end = (round(share * len(table)) for share in DIGIT_SHARES[split])
    own = table[start:end]
    labels = own[:, -1].long()
    images = own[:, :-1].reshape(-1, 8, 8).float() / 16.0

    order = labels.argsort(stable=True)
    ink = F.interpolate(images[order, None], size=(side, side), mode="bicubic")[:, 0]
    shapes = ((ink - 0.2) / 0.4).clamp(0, 1)  # steeper edges: 8 x 8 scans are blurred
    count = torch.bincount(labels, minlength=10)
    first = count.cumsum(0) - count
    return DigitBank(shapes.to(device), first.to(device), count.to(device))


def _in_wheel(package: str, name: str) -> str:
    """The path of a file in an installed wheel, whose import would take longer than all."""
    return str(distribution(package).locate_file(name))


def _photographs() -> list[np.ndarray]:
    """All photographs, (H, W, 3) uint8; every one is a file inside an installed wheel."""
    from PIL import Image

    paths = [_in_wheel("scikit-image", f"skimage/data/{name}") for name in IN_SCIKIT_IMAGE]
    paths += [
        _in_wheel("scikit-learn", f"sklearn/datasets/images/{name}") for name in IN_SCIKIT_LEARN
    ]
    return [np.array(Image.open(path).convert("RGB")) for path in paths]


def _part(photograph: Tensor, split: str) -> Tensor:
    """The split's part of a photograph (3, H, W)."""
    height, width = (side // 2 for side in photograph.shape[1:])
    if split == "train":
        return photograph[:, :, :width]
    return photograph[:, :height, width:] if split == "val" else photograph[:, height:, width:]


def _tiles(part: Tensor, side_px: int, side: int) -> Tensor:
    """Squares of `side_px` that cover part of a photograph, (3, H, W) -> (n, 3, side, side).

    The last row and column of squares are pushed back inside the part, so squares may overlap; they
    are as large as the part where that is smaller.
    """
    height, width = part.shape[1:]
    side_px = min(side_px, height, width)
    tops = sorted({min(y, height - side_px) for y in range(0, height, side_px)})
    lefts = sorted({min(x, width - side_px) for x in range(0, width, side_px)})
    squares = torch.stack([part[:, y : y + side_px, x : x + side_px] for y in tops for x in lefts])
    return F.interpolate(squares, size=(side, side), mode="bilinear", antialias=True)


@cache
def texture_bank(split: str, side: int, device: torch.device) -> Tensor:
    """The split's textures and their mirror images: (n, 3, side, side) float, mean grey 0 each."""
    banks = []
    for photograph in _photographs():
        image = torch.from_numpy(photograph).permute(2, 0, 1).float() / 255.0
        part = _part(image, split)
        banks += [_tiles(part, side_px, side) for side_px in TILE_SIDES_PX]
    bank = torch.cat(banks)
    bank = torch.cat([bank, bank.flip(-1)])
    return (bank - bank.mean(dim=(1, 2, 3), keepdim=True)).to(device)


def pixel_centres(image_size: int, device: torch.device) -> Tensor:
    """Where the pixels' centres lie along one side of the frame, (image_size,) float64 in (0, 1).

    Coordinates are float64 until the last step: sums and cosines then round to the same float32
    whatever the batch.
    """
    return (torch.arange(image_size, dtype=torch.float64, device=device) + 0.5) / image_size


def draw_sprites(
    shapes: Tensor, x: Tensor, y: Tensor, size: Tensor, angle: Tensor, image_size: int
) -> Tensor:
    """The share of each pixel that each sprite covers, (k, S, T, H, W) float32.

    shapes: (k, S, side, side); x, y, size, angle: (k, S, T), in shares of the frame and radians.
    """
    pixels = pixel_centres(image_size, x.device)
    from_x, from_y = pixels - x[..., None], pixels - y[..., None]  # (k, S, T, W), (k, S, T, H)
    cos, sin = (2 / size * turn for turn in (angle.cos(), angle.sin()))
    # Into the sprite's own square, [-1, 1] each way: the inverse of turning and scaling it.
    across = (cos[..., None] * from_x, sin[..., None] * from_y)
    down = (-sin[..., None] * from_x, cos[..., None] * from_y)
    grid = torch.empty(*x.shape, image_size, image_size, 2, device=x.device)
    for axis, (part_x, part_y) in enumerate((across, down)):
        part_x, part_y = part_x.float()[..., None, :], part_y.float()[..., :, None]
        torch.add(part_x, part_y, out=grid[..., axis])
    # One grid_sample draws all frames of a sprite, stacked as one tall picture.
    tall = grid.reshape(x.shape[0] * x.shape[1], -1, image_size, 2)
    ink = F.grid_sample(shapes.flatten(0, 1)[:, None], tall, align_corners=False)
    return ink.reshape(grid.shape[:-1])


def draw_windows(tiles: Tensor, x: Tensor, y: Tensor, side: Tensor, image_size: int) -> Tensor:
    """What a window shows of a texture at each frame, (k, 3, T, H, W) float32.

    tiles: (k, 3, side, side); x, y: (k, T) the window's centre, [-1, 1] over the tile;
    side: (k,) the window's side as a share of the tile's.
    """
    pixels = side[:, None, None] * (2 * pixel_centres(image_size, x.device) - 1)
    grid = torch.empty(*x.shape, image_size, image_size, 2, device=x.device)
    grid[..., 0] = (x[..., None] + pixels).float()[..., None, :]
    grid[..., 1] = (y[..., None] + pixels).float()[..., :, None]
    tall = grid.flatten(1, 2)
    frames = F.grid_sample(tiles, tall, padding_mode="reflection", align_corners=False)
    return frames.unflatten(2, (x.shape[1], image_size))
