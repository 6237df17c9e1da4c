"""Baselines: what a clip, or a part of it, is replaced by when it is 'taken away'.

Shapes: B clips, T frames, H x W pixels. Clips are (B, 3, T, H, W) float, as a model takes them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import torch
from scipy import ndimage
from torch import Tensor

from posmlp.config_checks import one_of

Baseline: TypeAlias = str | Tensor
"""One of BASELINES, or clips of the same shape as those to be explained."""

BLUR_SHARE = 1 / 8  # standard deviation of the blur as a share of the frame's shorter side


def _zero(clips: Tensor) -> Tensor:
    """Zeros: after normalisation that is the data's mean grey, not black."""
    return torch.zeros_like(clips)


def _blur(clips: Tensor) -> Tensor:
    """Each frame under a wide Gaussian blur. Motion survives it: a weak 'nothing' for video."""
    sigma = BLUR_SHARE * min(clips.shape[-2:])
    blurred = ndimage.gaussian_filter(clips.cpu().numpy(), (0, 0, 0, sigma, sigma), mode="nearest")
    return torch.from_numpy(blurred).to(clips)


def _mean_frame(clips: Tensor) -> Tensor:
    """The mean over time, at every frame: the scene without its motion."""
    return clips.mean(dim=2, keepdim=True).expand_as(clips).contiguous()


def _first_frame(clips: Tensor) -> Tensor:
    """The clip frozen at its first frame."""
    return clips[:, :, :1].expand_as(clips).contiguous()


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean_frame": _mean_frame,
    "first_frame": _first_frame,
    "zero": _zero,
    "blur": _blur,
}


def baseline_clips(baseline: Baseline, clips: Tensor) -> Tensor:
    """The baseline of each of `clips` (B, 3, T, H, W), of their shape.

    `mean_frame`: the mean over time at every frame; `first_frame`: frozen at the first; `zero`:
    zeros, the data's mean grey after normalisation; `blur`: each frame blurred, standard deviation
    an eighth of its shorter side. A tensor is taken as it is. Raises ValueError for another name,
    or a tensor of another shape. Source: zero and blur are compared by Sturmfels et al.,
    Visualizing the impact of feature attribution baselines, 2020; the two still clips are this
    project's.
    """
    if isinstance(baseline, Tensor):
        if baseline.shape != clips.shape:
            raise ValueError(
                f"baseline of shape {tuple(baseline.shape)} for clips of {tuple(clips.shape)}; "
                f"give one of the clips' shape, or a name: {', '.join(BASELINES)}"
            )
        return baseline.to(clips)
    one_of(baseline, BASELINES, "baseline")
    return BASELINES[baseline](clips)


def warn_of_no_way(baseline: Baseline, clips: Tensor) -> None:
    """Warn of clips that equal their baseline, from which no map can tell anything."""
    same = _equal(baseline, clips)
    if not any(same):
        return
    number = same.index(True)
    others = [name for name in BASELINES if not _equal(name, clips)[number]]
    mend = f"use another baseline ({', '.join(others)})" if others else "give clips as the baseline"
    name = "given" if isinstance(baseline, Tensor) else repr(baseline)
    warnings.warn(
        f"{sum(same)} of {len(clips)} clips (the first is number {number}) equal the baseline "
        f"{name}, so that every value is 0. A still clip, for example, equals its mean frame; "
        f"{mend}",
        stacklevel=3,
    )


def _equal(baseline: Baseline, clips: Tensor) -> list[bool]:
    """Of each clip, whether it is its own baseline, up to rounding."""
    start = baseline_clips(baseline, clips)
    return torch.isclose(start, clips, rtol=1e-5, atol=1e-5).flatten(1).all(1).tolist()
