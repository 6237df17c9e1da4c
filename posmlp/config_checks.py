"""Whether the values of a config are valid, and one way of writing each; needs no torch."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

GATE_NAMES = (
    *("lrpe", "gqpe", "dense", "lrpe+dense", "attention", "conv", "mean", "none"),
    *("qkv-attention", "centred-attention", "centred-gqpe", "centred-mean"),
)
SCORES = ("top1", "top5", "within_pair", "map", "loss")
LOWER_IS_BETTER = re.compile(
    r"(?i)(.*_)?(loss|errors?|error_rate|distance|wer|cer|seconds|ms|memory_mb|params|gmacs)"
)
"""Columns that are better where they are lower, by their names, unless someone says else."""
GATE_FORMS = ("multiply", "add", "mix")
INITS = ("normal", "fan_in", "unit_bias", "released", "steady", "contrast")
BRANCHES = ("T", "S", "ST")
GQPE_SPREADS = ("full", "diagonal", "scalar")


_ALSO_CALLED = {
    **dict.fromkeys(("learning_rate", "base_lr", "max_lr", "peak_lr", "rate"), "lr"),
    **dict.fromkeys(("dropout", "drop_rate", "stochastic_depth"), "drop_path"),
    **dict.fromkeys(("resolution", "img_size", "input_size", "size"), "image_size"),
    **dict.fromkeys(("pretrained", "weights", "checkpoint", "finetune"), "init_from"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("clip_grad", "max_norm"), "grad_clip"),
    **dict.fromkeys(("bs", "batch"), "batch_size"),
    **{"ema": "ema_decay", "smoothing": "label_smoothing", "frames": "num_frames"},
    **{"warmup": "warmup_epochs", "classes": "num_classes", "groups": "num_groups"},
}
"""What other tools call a setting, and its name here."""


def one_of(value: object, valid: Iterable[str], what: str) -> None:
    """Raise a ValueError that names the valid values, nearest first, unless `value` is one."""
    valid = list(valid)
    if value not in valid:
        bare = str(value).lower().replace("-", "_")
        bare = bare.removeprefix("train.").removeprefix("model.")
        bare = _ALSO_CALLED.get(bare, bare)
        near = [name for name in (bare, f"train.{bare}") if name in valid]
        near = near or [name for name in valid if name.startswith(f"{bare}_")][:1]
        for name in (str(value), bare):  # of long names a few letters are others' too
            cutoff = 0.6 if len(name) < 5 else 0.7
            near = near or difflib.get_close_matches(name, valid, n=1, cutoff=cutoff)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {value!r}.{hint} Use one of: {', '.join(valid)}")


def is_own(name: object) -> bool:
    """Whether a value names the user's own code (`posmlp.own`) rather than a part of ours."""
    return isinstance(name, str) and ":" in name


def parse_layout(layout: str, own: Iterable[str] = ()) -> tuple[tuple[str, ...], ...]:
    """Residual steps of a block, each the parallel branches whose sum it adds.

    `"T+S"` is `(("T", "S"),)`, `"T>S"` is `(("T",), ("S",))`, and so is `"T-S"`, which no shell
    takes for a file to write to. Raises ValueError on anything that is not branches (T, S, ST, and
    a config's `own`) joined by `+` (in parallel) and `>` or `-` (one after the other).
    """
    if not isinstance(layout, str):
        raise ValueError(f"layout {layout!r} is not a string; write for example 'T+S'")
    written = layout.replace("-", ">").split(">")
    steps = tuple(tuple(part.strip() for part in step.split("+")) for step in written)
    for branch in (branch for step in steps for branch in step):
        if branch not in (*BRANCHES, *own):
            raise ValueError(
                f"layout {layout!r} has {branch!r} where a branch should stand; branches are T "
                "(time), S (space), ST (joint), and names of `branches`, joined by '+' (parallel) "
                "or '>' (sequential; in a shell '-'), for example 'T+S' or 'T>S>ST'"
            )
    for step in steps:
        if len(set(step)) < len(step):
            raise ValueError(
                f"layout {layout!r} has a branch twice in parallel in {'+'.join(step)!r}; name it "
                "once there, or in another step after '>'"
            )
    return steps


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _real(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value)


_POSITIVE = ("whole numbers of at least 1", _whole)
_SWITCH = ("true or false", lambda value: isinstance(value, bool))
_ABOVE_ZERO = ("a number above 0", lambda value: _real(value) and value > 0)
_SHARE = ("a number of at least 0 and less than 1", lambda value: _real(value) and 0 <= value < 1)
_COUNT = ("a whole number of at least 0", lambda value: type(value) is int and value >= 0)
_VALID: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_classes": _COUNT,
    **dict.fromkeys(("in_channels", "num_frames", "image_size", "conv_size"), _POSITIVE),
    **dict.fromkeys(("depths", "dims", "num_groups", "windows", "temporal_windows"), _POSITIVE),
    **dict.fromkeys(("token_bias", "gqpe_symmetric", "gqpe_softmax"), _SWITCH),
    **dict.fromkeys(("downsample", "downsample_depthwise"), _SWITCH),
    **dict.fromkeys(("mlp_ratio", "norm_eps"), _ABOVE_ZERO),
    "drop_path": _SHARE,
}
_RATE = ("a number of at least 0", lambda value: _real(value) and value >= 0)
_VALID_IN_TRAINING: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("epochs", "batch_size", "sampling_rate", "num_clips", "repeats"),
        ("a whole number of at least 1", _whole),
    ),
    **dict.fromkeys(
        ("num_val_clips", "num_test_clips"),
        ("an even number of at least 2", lambda value: _whole(value) and value % 2 == 0),
    ),
    **dict.fromkeys(("balanced", "deterministic"), _SWITCH),
    **dict.fromkeys(("checkpoint_every", "rand_ops"), _COUNT),
    "test_short_side": ("a number of pixels, 0 for image_size", _COUNT[1]),
    **dict.fromkeys(("lr", "min_lr", "warmup_epochs", "weight_decay", "grad_clip"), _RATE),
    **dict.fromkeys(
        ("relation_lr_scale", "head_lr_scale", "mixup", "cutmix", "rand_magnitude_std"), _RATE
    ),
    "init_from": ("text, the path of a model file", lambda value: isinstance(value, str)),
    "rand_magnitude": ("a number from 0 to 10", lambda value: _real(value) and 0 <= value <= 10),
    **dict.fromkeys(("label_smoothing", "max_bad_share", "ema_decay"), _SHARE),
    **dict.fromkeys(("shift", "brightness"), _SHARE),
    **dict.fromkeys(
        ("min_crop_area", "min_time_share"),
        ("a share above 0, at most 1", lambda value: _real(value) and 0 < value <= 1),
    ),
    "folds": (
        "0 for none, or at least 3",
        lambda value: type(value) is int and (value == 0 or value >= 3),
    ),
    "freeze": ("text, such as stem,stage1", lambda value: isinstance(value, str)),
    "erase": ("a probability, from 0 to 1", lambda value: _real(value) and 0 <= value <= 1),
}
_LISTS = {"depths", "dims", "num_groups", "windows", "temporal_windows", "mlp_ratio"}
_LISTS |= {"downsample", "image_size"}


_CHOICES = {
    "gate_form": GATE_FORMS,
    "init": INITS,
    "gqpe_spread": GQPE_SPREADS,
    "kind": ("video", "image"),
    "stem_norm": ("batch", "layer"),
    "downsample_norm": ("batch", "layer"),
}
_CHOICES_IN_TRAINING = {
    "precision": ("auto", "float32", "bfloat16"),
    "sampling": ("segment", "dense"),
    "flip": ("none", "mirror", "labels"),
    "keep": ("last", "best"),
    "class_weights": ("none", "balanced"),
}


def check_training(config: Any) -> None:
    """Raise ValueError for a value that a training config cannot have."""
    for name, choices in _CHOICES_IN_TRAINING.items():
        one_of(getattr(config, name), choices, name)
    for name, (what, valid) in _VALID_IN_TRAINING.items():
        value = getattr(config, name)
        if not valid(value):
            raise ValueError(f"{name}={value!r} must be {what}")
    if config.min_time_share < 1 and config.sampling != "segment":
        raise ValueError(
            f"min_time_share={config.min_time_share} is for sampling='segment': clips of "
            f"sampling={config.sampling!r} start at any place already; leave it at 1"
        )
    if config.balanced and config.batch_size % config.repeats:
        raise ValueError(
            f"batch_size={config.batch_size} must be a multiple of repeats={config.repeats} for "
            "balanced=True, so that all copies of a clip are in one batch"
        )


def in_one_form(config: Any) -> dict[str, Any]:
    """Those values of a model config that may be written in several ways, each in one way.

    Lists are tuples, one value for all stages is one a stage, and layouts have no spaces, and `>`
    for `-`. Raises ValueError for a value of the wrong type or sign, and for a wrong number of
    values.
    """
    found = {name: _typed(name, getattr(config, name)) for name in _VALID}
    depths, dims = found["depths"], found["dims"]
    if len(depths) != len(dims) or not depths:
        raise ValueError(f"depths {depths} and dims {dims} must name the same number of stages")
    if found["temporal_windows"] is None:
        found["temporal_windows"] = config.num_frames
    for name in ("num_groups", "windows", "temporal_windows", "mlp_ratio"):
        found[name] = _one_a_stage(name, found[name], len(depths))
    found["downsample"] = _one_a_stage("downsample", found["downsample"], len(depths) - 1)
    layouts = _one_a_stage("layout", config.layout, len(depths))
    parsed = (parse_layout(one, config.branches) for one in layouts)
    layouts = tuple(">".join("+".join(step) for step in steps) for steps in parsed)
    found["layout"] = layouts[0] if len(set(layouts)) == 1 else layouts
    size = found["image_size"]
    if isinstance(size, tuple) and size[0] == size[1]:
        found["image_size"] = size[0]
    return found


def _typed(name: str, value: Any) -> Any:
    """The value, a list as a tuple; ValueError if it is of the wrong type or sign."""
    what, valid = _VALID[name]
    value = tuple(value) if isinstance(value, list) else value
    values = value if isinstance(value, tuple) else (value,)
    if name == "image_size" and isinstance(value, tuple) and len(value) != 2:
        raise ValueError(f"image_size={value!r} must be a side or (height, width)")
    if name == "temporal_windows" and value is None:
        return None
    if name in ("depths", "dims") and not isinstance(value, tuple):
        raise ValueError(f"{name}={value!r} must be a list of one value a stage")
    if isinstance(value, tuple) and name not in _LISTS:
        raise ValueError(f"{name}={value!r} must be a single value: {what}")
    if not all(valid(each) for each in values):
        raise ValueError(f"{name}={value!r} must be {what}")
    return value


def _one_a_stage(name: str, value: Any, count: int) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        return (value,) * count
    if len(value) != count:
        raise ValueError(
            f"{name}={list(value)} has {len(value)} values for {count} places; give one value "
            "or one for each"
        )
    return tuple(value)


def check_model(config: Any) -> None:
    """Raise ValueError for values of a model config that are not valid, or not together."""
    if callable(config.gate) or is_own(config.gate):
        if config.gate_form != "multiply" or not config.token_bias:
            raise ValueError(
                "gate_form and token_bias are for the gates of this package; build them into "
                "your own gate and leave both at their defaults"
            )
    else:
        one_of(config.gate, GATE_NAMES, "gate")
    for name, choices in _CHOICES.items():
        one_of(getattr(config, name), choices, name)
    if config.stem_convs not in (2, 3):
        raise ValueError(f"stem_convs={config.stem_convs} must be 2 (video) or 3 (image)")
    if config.conv_size % 2 == 0:
        raise ValueError(f"conv_size={config.conv_size} must be odd, for example 3")
    if config.gate == "centred-gqpe" and not config.gqpe_softmax:
        raise ValueError(
            "gqpe_softmax=False leaves rows that do not sum to 1, which gate='centred-gqpe' needs; "
            "leave gqpe_softmax at True, or use gate='gqpe'"
        )
    if config.kind == "image" and config.model != "posmlp":
        raise ValueError(
            f"model={config.model!r} takes clips, but kind='image' asks for images; leave kind out"
        )
    if config.kind == "image" and (config.num_frames != 1 or set(config.layouts) != {"S"}):
        raise ValueError(
            f"kind='image' needs num_frames=1 and layout='S', not num_frames={config.num_frames} "
            f"and layout={config.layout!r}; use kind='video' for clips"
        )
    _check_widths(config)


def _check_widths(config: Any) -> None:
    dims = config.dims
    if dims[0] % 2:
        raise ValueError(f"dims[0]={dims[0]} must be even: the stem starts with half")
    for i, groups in enumerate(config.num_groups):
        width = config.gate_dim(i)
        if width < 1 or width % groups:
            raise ValueError(
                f"num_groups={groups} does not divide the {width} gated channels of stage "
                f"{i + 1}; use one of {[g for g in range(1, width + 1) if width % g == 0]}"
            )
        if config.downsample_depthwise and i and dims[i] % dims[i - 1]:
            raise ValueError(
                f"dims[{i}]={dims[i]} is not a multiple of dims[{i - 1}]={dims[i - 1]}, which "
                "downsample_depthwise=True needs"
            )


def check_clip(config: Any, num_frames: int, height: int, width: int) -> None:
    """Raise ValueError unless every stage's windows divide its frames, height and width."""
    for i, (rows, columns) in enumerate(config.stage_sizes(height, width)):
        window, temporal = config.windows[i], config.temporal_windows[i]
        for axis, side in (("H", rows), ("W", columns)):
            if side % window:
                divisors = [w for w in range(1, side + 1) if side % w == 0]
                raise ValueError(
                    f"{axis}={side} is not divisible by window {window} (stage {i + 1}, clips "
                    f"of {height}x{width}); use a window that divides {side}: {divisors}"
                )
        if num_frames % temporal:
            raise ValueError(
                f"{num_frames} frames are not divisible by temporal window {temporal} (stage "
                f"{i + 1}); use a number of frames that is a multiple of {temporal}, or set "
                "temporal_windows to a divisor"
            )
