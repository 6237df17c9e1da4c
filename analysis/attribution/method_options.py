"""The options of an attribution method: those given, checked, and the others at their defaults."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import Tensor, nn

from analysis.attribution.baselines import baseline_clips
from analysis.attribution.methods import METHODS

COARSEST = 4  # tokens a side that Grad-CAM's default stage has at the least
LEAST = {"num_steps": 1, "num_samples": 1, "seed": 0}


def checked_options(
    method: str, options: dict[str, Any], model: nn.Module, clips: Tensor
) -> dict[str, Any]:
    """Every option of the method with its value, also where it depends on the model and clips.

    Raises ValueError for one that the method does not have, and for a value that does not fit.
    """
    options = _defaults(method) | check_names(method, options)
    _check_numbers(options)
    if "baseline" in options:
        baseline_clips(options["baseline"], clips)
    if "tube" in options:
        options |= _tubes(options["tube"], options["stride"], tuple(clips.shape[2:]))
    if "layer" in options:
        options["layer"] = _checked_layer(options["layer"], model, clips)
    return options


def check_names(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options as they are. Raises ValueError for one that the method does not have."""
    known = _defaults(method)
    for name in options:
        if name not in known:
            has = f"it takes {', '.join(known)}" if known else "it takes no options"
            raise ValueError(f"method {method!r} has no option {name!r}; {has}")
    return options


def _defaults(method: str) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(METHODS[method].run).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _check_numbers(options: dict[str, Any]) -> None:
    for name, least in LEAST.items():
        value = options.get(name, least)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    noise = options.get("noise", 1.0)
    if not isinstance(noise, int | float) or not 0 < noise < math.inf:
        raise ValueError(f"noise={noise!r} must be a positive share of the range, for example 0.15")


def _tubes(tube: Any, stride: Any, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Occlusion's tube and stride (t, h, w), or ValueError; `size` is the clips' (T, H, W)."""
    if tube == ():
        tube = [max(1, side // 4) for side in size]
    if _are_three_numbers(tube) and stride == ():
        stride = [math.ceil(side / 2) for side in tube]
    fits = _are_three_numbers(tube) and _are_three_numbers(stride)
    if not fits or not all(1 <= s <= w <= n for s, w, n in zip(stride, tube, size, strict=True)):
        raise ValueError(
            f"tube={tube} and stride={stride} must be three whole numbers each, so that every "
            f"pixel is in a tube: 1 <= stride <= tube <= (T, H, W) = {size}"
        )
    return {"tube": tuple(tube), "stride": tuple(stride)}


def _are_three_numbers(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) == 3
    return is_list and all(isinstance(side, int) for side in value)


def _checked_layer(layer: Any, model: nn.Module, clips: Tensor) -> int | nn.Module:
    """A module as it is, if it can give (B, T, H, W, C), and else a stage's number from 1."""
    stages: Any = getattr(model, "stages", None)
    if isinstance(layer, nn.Module):
        if any(layer is part for stage in stages or () for part in list(stage.modules())[1:]):
            raise ValueError(
                f"layer, a {type(layer).__name__}, gives tokens by windows, not (B, T, H, W, C); "
                "name a stage by its number"
            )
        return layer
    if stages is None:
        raise ValueError(
            f"{type(model).__name__} has no stages; give grad_cam layer=, a module of it that "
            "returns (B, T, H, W, C)"
        )
    if layer is None:
        config: Any = model.config
        sizes = config.stage_sizes(*clips.shape[3:])
        return max((i for i, s in enumerate(sizes, start=1) if min(s) >= COARSEST), default=1)
    if not isinstance(layer, int) or not 1 <= layer <= len(stages):
        raise ValueError(f"layer={layer!r} is not a stage of this model; use 1 to {len(stages)}")
    return layer
