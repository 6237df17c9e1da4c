"""A contact sheet of training clips, as the model gets them: `posmlp data show`.

Shapes: k clips, T frames, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.augment import MEAN, STD, Augmentation
from posmlp.data.layouts.listing import as_text
from posmlp.data.sampling import by_turns
from posmlp.data.sources import ClipSource, open_clips, with_own

SIDE, MARGIN, WORDS = 96, 8, 18  # pixels: of a frame at least, around all, and of a line of words
MOST_FRAMES = 8  # of a clip that are shown, evenly spaced


def show_data(
    data: str,
    config: PosMLPConfig,
    train: TrainConfig,
    *,
    num_clips: int = 12,
    seed: int = 0,
    num_workers: int = 2,
) -> Image.Image:
    """Training clips of as many classes as there is room for, one a row, with their labels.

    Frames, crops, augmentation and mixing are drawn as for a batch of training. Raises ValueError
    as `open_clips` does, and for no clips.
    """
    if num_clips < 1:
        raise ValueError(f"--clips {num_clips} must be at least 1: that many are shown")
    if seed < 0:
        raise ValueError(f"--seed {seed} must be a whole number of at least 0")
    data, train = with_own(data, train)
    source = open_clips(data, "train", config, train=train, num_workers=num_workers, cache_gib=0.0)
    try:
        rng = np.random.default_rng(seed)
        labels = source.labels if source.labels.dim() == 1 else source.labels.argmax(-1)
        chosen = torch.tensor(by_turns(labels.tolist(), rng)[:num_clips])
        (clips,) = source.batches([chosen], rngs=[rng])
        rngs = rng.spawn(len(chosen) + 1)
        augment = Augmentation(train, source.classes)
        inputs, targets = augment(clips, source.labels[chosen], rngs[:-1], rngs[-1])
    finally:
        source.close()
    pixels = ((inputs.movedim(-4, -1) * STD + MEAN) * 255).round().clamp(0, 255)
    frames = pixels.to(torch.uint8).numpy()
    words = [f"{_label(t, source.classes)}   {name}" for t, name in _named(targets, source, chosen)]
    return _sheet(frames, words)


def _named(targets: Tensor, source: ClipSource, chosen: Tensor) -> Iterator[tuple[Tensor, str]]:
    paths = getattr(source, "paths", None)
    for target, place in zip(targets, chosen.tolist(), strict=True):
        yield target, Path(paths[place]).name if paths else f"clip {place}"


def _label(target: Tensor, classes: Sequence[str]) -> str:
    """A class or several, or the shares of those that are mixed."""
    if target.dim() == 0:
        return classes[int(target)]
    shares = [(share, name) for share, name in zip(target.tolist(), classes, strict=True) if share]
    if all(share == 1 for share, _ in shares):
        return " + ".join(name for _, name in shares)
    return " + ".join(f"{share:.0%} {name}" for share, name in sorted(shares, reverse=True))


def _sheet(clips: NDArray[np.uint8], words: Sequence[str]) -> Image.Image:
    """Clips (k, T, S, S, 3), one below the other."""
    places = np.linspace(0, clips.shape[1] - 1, min(MOST_FRAMES, clips.shape[1])).round()
    factor = max(1, -(-SIDE // clips.shape[2]))
    side, font = clips.shape[2] * factor, ImageFont.load_default(size=13)
    row = WORDS + side + MARGIN
    size = (2 * MARGIN + len(places) * (side + 2), MARGIN + row * len(clips))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for i, clip in enumerate(clips):
        top = MARGIN + i * row
        draw.text((MARGIN, top), as_text(words[i]), "black", font)
        for j, frame in enumerate(clip[places.astype(int)]):
            picture = Image.fromarray(frame).resize((side, side), Image.Resampling.NEAREST)
            page.paste(picture, (MARGIN + j * (side + 2), top + WORDS))
    return page
