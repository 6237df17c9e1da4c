"""Models at frame counts, window sizes and resolutions that they were not trained on.

Position p of a window of w stands at p (w-1) / (w'-1) of one of w', so that first and last stay
first and last; a window of one holds the middle. Offsets are differences of positions, so a table's
offset 0 stays offset 0 and its furthest offset the furthest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from analysis.bias.maps import Place, check_ours, units, window_of
from analysis.borrow import unwrapped
from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of
from posmlp.data.sources import ClipSource
from posmlp.gates.attention import AttentionGate
from posmlp.model import PosMLPVideo, create_model
from posmlp.presets import resolve
from posmlp.train.scoring import evaluate

KEEPS = ("values", "sums")
State = dict[str, Tensor]


def resize_bias(
    model: PosMLPVideo,
    *,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    windows: int | Sequence[int] | None = None,
    temporal_windows: int | Sequence[int] | None = None,
    keep: str = "sums",
) -> PosMLPVideo:
    """The model for another frame count, image size or windows, its tables interpolated.

    What is not given stays, but windows over the whole clip follow `num_frames`. Tables are
    interpolated linearly along each axis of offsets, token biases along each axis of positions;
    all other parameters are kept. Of gates without a table, those whose parameters do not depend on
    the window are kept as they are: `gqpe` (in frames and tokens), `mean`, `none`, and `conv` where
    the window does not cut its kernel.

    `keep`: a table interpolated from N tokens to N' sums over more or fewer terms. `sums`
    multiplies it by N / N', so that the same content, sampled more finely, mixes to the same;
    `values` does not. Attention's tables, which its softmax normalises, always keep their values.

    Returns a new model in eval mode, on the same device. Source: position embeddings carried to
    other sizes by interpolation, Dosovitskiy et al., An image is worth 16x16 words, 2021, section
    3.2; `sums` is this project's. Raises ValueError if the model is none of ours, the windows do
    not divide the new sizes, or a gate has parameters that cannot be carried over.
    """
    model = unwrapped(model)
    check_ours(model)
    one_of(keep, KEEPS, "keep")
    given = {
        "num_frames": num_frames,
        "image_size": image_size,
        "windows": windows,
        "temporal_windows": temporal_windows,
    }
    config = resolve(model.config, **{k: v for k, v in given.items() if v is not None})
    with torch.random.fork_rng(devices=[]):  # the new parameters are drawn, then replaced
        resized = create_model(config)
    state = model.state_dict()
    names = {id(unit): name for name, unit in model.named_modules()}
    for old, new in zip(units(model), units(resized), strict=True):
        before, after = window_of(model.config, old), window_of(config, new)
        if before != after:
            resized_unit = _resized(old, new, before, after, keep)
            state |= {f"{names[id(old.unit)]}.{k}": v for k, v in resized_unit.items()}
    resized.to(next(model.parameters())).load_state_dict(state)  # device and precision
    return resized.eval()


def accuracy_at(
    model: PosMLPVideo,
    data: str | ClipSource,
    *,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    windows: int | Sequence[int] | None = None,
    keep: str = "sums",
    **options: Any,
) -> dict[str, float]:
    """`posmlp.train.evaluate` of the model resized to frames and a resolution not trained on.

    `data`: what `evaluate` takes; a name or folder is opened at the new size, and a source must
    give clips of it. `windows` and `keep` are those of `resize_bias`, further options those of
    `evaluate`. Returns its metrics beside num_frames and image_size. Raises ValueError as
    `resize_bias` does, and for a source of clips of another size.
    """
    resized = resize_bias(
        model, num_frames=num_frames, image_size=image_size, windows=windows, keep=keep
    )
    config: Any = resized.config
    if not isinstance(data, str):
        _check_size(data, config)
    size = {"num_frames": config.num_frames, "image_size": config.image_size}
    return size | evaluate(resized, data, **options)


def _check_size(source: ClipSource, config: PosMLPConfig) -> None:
    found = tuple(next(iter(source.batches([torch.tensor([0])]))).shape[1:4])
    asked = (config.num_frames, *config.size)
    if found != asked:
        raise ValueError(
            f"{source.name} gives clips of {found} frames, rows and columns, not {asked}; open a "
            "source of that size, or name the data instead"
        )


def _resized(
    old: Place, new: Place, before: tuple[int, ...], after: tuple[int, ...], keep: str
) -> State:
    """The state of one unit over another window, by the names within it."""
    axes = [axis for axis, kind in enumerate("TSS") if kind in old.branch]
    before, after = tuple(before[a] for a in axes), tuple(after[a] for a in axes)
    table = old.unit.bias_table() if hasattr(old.unit, "bias_table") else None
    attends = isinstance(old.unit, AttentionGate)
    scale = 1.0 if keep == "values" or attends else math.prod(before) / math.prod(after)
    shapes = {name: tensor.shape for name, tensor in new.unit.state_dict().items()}
    state = {}
    for name, parameter in old.unit.named_parameters():
        values = parameter.detach()
        if parameter is table:
            state[name] = scale * interpolate(values, [2 * side - 1 for side in after])
        elif name == "token_bias":
            grid = values.T.unflatten(1, before)  # (1, positions)
            state[name] = interpolate(grid, after).flatten(1).T
        elif name == "positions.weight" or values.shape != shapes[name]:
            raise ValueError(
                f"{name} {list(values.shape)} of {old.branch} in stage {old.stage} cannot go from "
                f"window {before} to {after}: {_reason(name)}; use a model with gate lrpe or "
                "attention, or keep the window"
            )
        else:
            state[name] = values
    return state


def _reason(name: str) -> str:
    if name == "positions.weight":
        return "it has a free number for each pair of positions, which offsets do not tie"
    if name == "kernel":
        return "the window cuts the convolution's kernel"
    return "its shape depends on the window, and it is not a table by offset"


def interpolate(values: Tensor, sides: Sequence[int]) -> Tensor:
    """(G, n, ...) -> (G, *sides), linearly along each axis, ends on ends; one is the middle."""
    result = values
    for axis, side in enumerate(sides, start=1):
        weights = _linear_weights(values.shape[axis], side).to(values)
        result = torch.tensordot(result, weights, dims=([axis], [1])).movedim(-1, axis)
    return result


def _linear_weights(old: int, new: int) -> Tensor:
    """(new, old): how much of each old place each new place takes."""
    last = max(new - 1, 1)
    first = 0.0 if new > 1 else (old - 1) / 2
    at = first + torch.arange(new, dtype=torch.float64) * (old - 1) / last
    return (1 - (at[:, None] - torch.arange(old)).abs()).clamp(min=0)
