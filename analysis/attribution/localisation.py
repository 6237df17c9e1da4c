"""Where an attribution points, against clips whose moving object is known.

Shapes: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from analysis.attribution.attribution import Attribution

Array = NDArray[Any]
Maps: TypeAlias = Attribution | Tensor | Array
"""An attribution, or its bare values (B, T, H, W)."""


def localisation(
    attribution: Maps, masks: Tensor | Array, moving: Tensor | Array | None = None
) -> pd.DataFrame:
    """How well each clip's map finds the object, one row a clip.

    With a = |values|, frame t and pixel p:

    - `mass_on_object`: sum of a over the mask / sum of a.
    - `pointing_game`: share of the frames that show the object in which the largest a of the frame
      lies on it, without tolerance; equal maxima count by the share of them on the object.
    - `mass_in_moving_frames`: sum of a over moving frames / sum of a. Only with `moving`.
    - `uniform_mass_on_object`, `uniform_pointing_game`, `uniform_mass_in_moving_frames`: the same
      of a map that is equal everywhere, which is the object's size and the motion's length.

    Evidence may rightly lie where the object no longer is, or is not yet (`vanish`, `appear`): read
    such classes apart. A score is NaN where it has no meaning: a map of zeros, no object, no
    moving frame.

    Parameters
    ----------
    attribution : Attribution, or (B, T, H, W)
    masks : (B, T, H, W) bool
        The object's visible pixels, as `RenderedClips.masks` and `load_truth` give them.
    moving : (B, T) bool, optional
        Frames in which it moves or changes.

    Raises
    ------
    ValueError
        For shapes that do not agree, masks that are not bool, and values that are not finite.

    Source: relevance mass, Arras et al., 2022; pointing game, Zhang et al., 2016.
    """
    size = _values(attribution)
    mask = _truth("masks", masks, size.shape)
    rows = _object_scores(size, mask)
    uniform = _object_scores(np.ones_like(size), mask)
    if moving is not None:
        moves = _truth("moving", moving, size.shape[:2])
        rows["mass_in_moving_frames"] = _moving_mass(size, moves)
        uniform["mass_in_moving_frames"] = _moving_mass(np.ones_like(size), moves)
    columns = {"clip": np.arange(len(size)), **rows}
    return pd.DataFrame(columns | {f"uniform_{name}": value for name, value in uniform.items()})


def _object_scores(size: Array, mask: Array) -> dict[str, Array]:
    seen = mask.any(axis=(1, 2, 3))
    on_object = _share((size * mask).sum(axis=(1, 2, 3)), size.sum(axis=(1, 2, 3)))
    pixels = size.reshape(*size.shape[:2], -1)
    largest = pixels == pixels.max(axis=-1, keepdims=True)
    hits = (largest & mask.reshape(pixels.shape)).sum(axis=-1) / largest.sum(axis=-1)
    shown = mask.any(axis=(2, 3))
    points = _share((hits * shown).sum(axis=1), shown.sum(axis=1))
    has_mass = size.any(axis=(1, 2, 3))
    return {
        "mass_on_object": np.where(seen, on_object, np.nan),
        "pointing_game": np.where(has_mass, points, np.nan),
    }


def _moving_mass(size: Array, moves: Array) -> Array:
    frames = size.sum(axis=(2, 3))
    share = _share((frames * moves).sum(axis=1), frames.sum(axis=1))
    return np.where(moves.any(axis=1), share, np.nan)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _values(attribution: Maps) -> Array:
    """|values| (B, T, H, W) in double precision, or ValueError."""
    values = _array(attribution.values if isinstance(attribution, Attribution) else attribution)
    if values.ndim != 4 or not len(values):
        raise ValueError(
            f"attribution of shape {values.shape} is not (B, T, H, W); sum or take the largest "
            "over colours first"
        )
    if not np.isfinite(values).all():
        raise ValueError("attribution holds NaN or infinity; look at the model's output first")
    return np.abs(values.astype(np.float64))


def _truth(name: str, given: Tensor | Array, shape: tuple[int, ...]) -> Array:
    truth = _array(given)
    if truth.dtype != bool or truth.shape != shape:
        raise ValueError(
            f"{name} of {truth.dtype} and shape {truth.shape} must be bool and {shape}, as the "
            "attribution's clips are"
        )
    return truth


def _array(values: Any) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
