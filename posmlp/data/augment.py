"""From uint8 clips to what the model sees: normalisation, and augmentation in training.

It runs on the device that trains, and treats all frames of a clip alike. Everything random comes
from the generators that are handed in: one a clip, and one for the mixing of a batch.

Shapes: b clips of a batch, T frames, H x W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from posmlp.config import TrainConfig
from posmlp.data.mirror import mirror_of
from posmlp.own.code import called

MEAN, STD = 0.45, 0.225  # of pixels in 0..1, all channels; the released models' normalisation
ERASED_AREA = (0.02, 1 / 3)  # of a frame; released
ERASED_ASPECT = (0.3, 1 / 0.3)
NUM_TRIES = 10  # boxes drawn until one fits


def normalise(clips: Tensor) -> Tensor:
    """uint8 (..., T, H, W, 3) -> float (..., 3, T, H, W), centred and scaled for the model."""
    return ((clips.float() / 255 - MEAN) / STD).movedim(-1, -4)


class Augmentation:
    """What a training configuration does to a batch before the model sees it.

    The user's own function, RandAugment, normalisation, brightness, shift, flip, erasing, mixup or
    cutmix. Source: the released loaders, in their order, but that they have no brightness and no
    shift, and that RandAugment sees the crop instead of the whole frame, and interpolates linearly
    instead of cubically. Raises ValueError if clips of these classes cannot be flipped as asked, or
    RandAugment is asked for without torchvision.
    """

    def __init__(self, train: TrainConfig, classes: Sequence[str]) -> None:
        self.train = train
        self.num_classes = len(classes)
        self.mirrored = _mirrored_labels(train.flip, classes)
        self.randaugment: Any = _randaugment() if train.rand_ops else None
        self.mixes = bool(train.mixup or train.cutmix)

    @property
    def is_plain(self) -> bool:
        """Whether clips are normalised and nothing else."""
        train = self.train
        others = train.augment or train.rand_ops or train.erase or train.shift or train.brightness
        return train.flip == "none" and not (others or self.mixes)

    def __call__(
        self,
        clips: Tensor,
        labels: Tensor,
        rngs: Sequence[np.random.Generator],
        batch_rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Clips (b, 3, T, H, W) float and targets of uint8 clips (b, T, H, W, 3) and labels.

        Targets are labels, (b,) or (b, K), or the shares of classes (b, K) where clips are mixed.
        """
        if self.is_plain:
            return normalise(clips), labels
        if self.train.augment:
            changed = [own_augmented(self.train, c, r) for c, r in zip(clips, rngs, strict=True)]
            clips = torch.stack(changed)
        if self.randaugment is not None:
            clips = torch.stack(
                [self._rand_augment(c, r) for c, r in zip(clips, rngs, strict=True)]
            )
        x = normalise(clips).contiguous()
        if self.train.brightness:
            brighten(x, self.train.brightness, rngs)
        if self.train.shift:
            x = torch.stack(
                [shifted(clip, self.train.shift, rng) for clip, rng in zip(x, rngs, strict=True)]
            )
        if self.mirrored is not None:
            x, labels = self._flip(x, labels, rngs)
        if self.train.erase:
            erase(x, [rng if rng.random() < self.train.erase else None for rng in rngs])
        return (
            mix(x, labels, self.train, self.num_classes, batch_rng) if self.mixes else (x, labels)
        )

    def _rand_augment(self, clip_THWC: Tensor, rng: np.random.Generator) -> Tensor:
        train, frames = self.train, clip_THWC.movedim(-1, -3)
        strength = (train.rand_ops, train.rand_magnitude, train.rand_magnitude_std)
        for operation in self.randaugment.draw_operations(*strength, rng):
            frames = self.randaugment.apply_operation(frames, operation)
        return frames.movedim(-3, -1)

    def _flip(
        self, x: Tensor, labels: Tensor, rngs: Sequence[np.random.Generator]
    ) -> tuple[Tensor, Tensor]:
        assert self.mirrored is not None
        flipped = uploaded(torch.tensor([rng.random() < 0.5 for rng in rngs]), x.device)
        self.mirrored = uploaded(self.mirrored, labels.device)  # once: it stays there
        x = torch.where(flipped.view(-1, 1, 1, 1, 1), x.flip(-1), x)
        if labels.dim() == 2:  # a mirror image's mirror image is itself
            return x, torch.where(flipped[:, None], labels[:, self.mirrored], labels)
        return x, torch.where(flipped, self.mirrored[labels], labels)


def own_augmented(train: TrainConfig, clip: Tensor, rng: np.random.Generator) -> Tensor:
    """A clip (T, H, W, 3) uint8 as the user's function changes it. Raises ValueError."""
    found = called(train.augment, train.code, {}, clip, rng)
    wanted = tuple(clip.shape), clip.dtype
    if (said := (tuple(getattr(found, "shape", ())), getattr(found, "dtype", None))) != wanted:
        raise ValueError(f"{train.augment} gives {said} for a clip {wanted}; give the same")
    return found


def _mirrored_labels(flip: str, classes: Sequence[str]) -> Tensor | None:
    """Each class's label once its clips are flipped, (K,); None where clips are not flipped."""
    if flip == "none":
        return None
    mirrored = mirror_of(classes)
    if mirrored is None:
        raise ValueError(
            f"flip={flip!r}, but a class names a direction whose mirror image is no class; use "
            "flip=none"
        )
    changed = [classes[i] for i, label in enumerate(mirrored) if i != label]
    if flip == "mirror" and changed:
        raise ValueError(
            f"flip='mirror', but the mirror image of {changed[0]!r} is another class; use "
            "flip=labels, which gives flipped clips the other label, or flip=none"
        )
    return torch.tensor(mirrored)


def _randaugment() -> Any:
    """The module of that name, imported when it is asked for: it needs torchvision."""
    try:
        from posmlp.data import randaugment
    except ImportError as error:
        raise ValueError(
            f"RandAugment (rand_ops) needs torchvision ({error}); pip install "
            "posmlp-workbench[vision]"
        ) from error
    return randaugment


def brighten(x: Tensor, share: float, rngs: Sequence[np.random.Generator]) -> None:
    """Multiply the pixels of normalised clips (b, ...) by 1 - share to 1 + share each, in place."""
    scales = torch.tensor([rng.uniform(1 - share, 1 + share) for rng in rngs], dtype=x.dtype)
    scales = uploaded(scales, x.device).view(-1, *(1,) * (x.dim() - 1))
    x.mul_(scales).add_((scales - 1) * (MEAN / STD))


def shifted(clip: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """A clip (..., H, W) moved by up to a share of each side; pixels of the edge repeat."""
    places = []
    for side in clip.shape[-2:]:
        most = round(share * side)
        by = int(rng.integers(-most, most, endpoint=True))
        places.append((torch.arange(side, device=clip.device) - by).clamp(0, side - 1))
    return clip[..., places[0][:, None], places[1]]


def erase(x: Tensor, rngs: Sequence[np.random.Generator | None]) -> None:
    """Fill a box of each clip (b, 3, T, H, W) that has a generator with normal noise, in place.

    A clip's box is the same in all its frames. The noise of all clips goes to the device at once.
    Source: the released random erasing ("pixel" noise, one box).
    """
    boxes, noise = [], []
    for clip, rng in zip(x, rngs, strict=True):
        if rng is None or (place := _erased_box(x.shape[-2], x.shape[-1], rng)) is None:
            continue
        boxes.append(clip[..., place[0], place[1]])
        noise.append(rng.standard_normal(tuple(boxes[-1].shape), dtype=np.float32).ravel())
    if not boxes:
        return
    there = uploaded(torch.from_numpy(np.concatenate(noise)), x.device)
    for box, values in zip(boxes, there.split([box.numel() for box in boxes]), strict=True):
        box.copy_(values.view(box.shape))


def _erased_box(height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice] | None:
    """Rows and columns; None where no box fitted."""
    for _ in range(NUM_TRIES):
        area = height * width * rng.uniform(*ERASED_AREA)
        aspect = math.exp(rng.uniform(*np.log(ERASED_ASPECT)))
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if box_height < height and box_width < width:
            y = int(rng.integers(0, height - box_height, endpoint=True))
            x = int(rng.integers(0, width - box_width, endpoint=True))
            return slice(y, y + box_height), slice(x, x + box_width)
    return None


def mix(
    x: Tensor, labels: Tensor, train: TrainConfig, num_classes: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each clip (b, 3, T, H, W) with that of the reversed batch; targets (b, K).

    Mixup blends the two; cutmix puts a box of the other, through all frames, into the clip. One
    share a batch. Source: the released mixing (timm's batch mode), mixup or cutmix by a fair coin.
    """
    cut = bool(train.cutmix) and (not train.mixup or rng.random() < 0.5)
    alpha = train.cutmix if cut else train.mixup
    own = float(rng.beta(alpha, alpha))
    if cut:
        height, width = x.shape[-2:]
        top, bottom, left, right = cut_box(height, width, own, rng)
        other = x.flip(0)[..., top:bottom, left:right].clone()
        x[..., top:bottom, left:right] = other
        own = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        x = x * own + x.flip(0) * (1 - own)
    shares = labels if labels.dim() == 2 else F.one_hot(labels, num_classes).float()
    return x, shares * own + shares.flip(0) * (1 - own)


def cut_box(
    height: int, width: int, own: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box of share 1 - own around a uniform centre, clipped."""
    side = math.sqrt(1 - own)
    cut_height, cut_width = int(height * side), int(width * side)
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    rows = np.clip([y - cut_height // 2, y + cut_height // 2], 0, height)
    columns = np.clip([x - cut_width // 2, x + cut_width // 2], 0, width)
    return int(rows[0]), int(rows[1]), int(columns[0]), int(columns[1])


def uploaded(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device. To a GPU it goes by pinned memory, so that the host goes on at once.

    PyTorch keeps the pinned memory until the copy is made; what computes on the GPU waits for it.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)
