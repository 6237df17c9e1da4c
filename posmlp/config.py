"""What a model is, as a frozen dataclass of plain values, and the presets.

Nothing here needs torch, so the command line can answer and a grid can be checked without it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

MODEL_VERSION = "1"
"""Changes when the same config and seed give another model; part of every result's identity."""

GATE_NAMES = ("lrpe", "gqpe", "dense", "lrpe+dense", "attention", "conv", "mean", "none")
GATE_FORMS = ("multiply", "add", "mix")
INITS = ("normal", "fan_in", "unit_bias", "released")
BRANCHES = ("T", "S", "ST")
GQPE_SPREADS = ("full", "diagonal", "scalar")


PerStage: TypeAlias = Any
"""One value for all stages, or a sequence of one a stage; a tuple once the config is made."""


def one_of(value: object, valid: Iterable[str], what: str) -> None:
    """Raise a ValueError that names the valid values, nearest first, unless `value` is one."""
    valid = list(valid)
    if value not in valid:
        near = difflib.get_close_matches(str(value), valid, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {value!r}.{hint} Use one of: {', '.join(valid)}")


def parse_layout(layout: str) -> tuple[tuple[str, ...], ...]:
    """Residual steps of a block, each the parallel branches whose sum it adds.

    `"T+S"` is `(("T", "S"),)`, `"T>S"` is `(("T",), ("S",))`. Raises ValueError on anything that
    is not branches (T, S, ST) joined by `+` (in parallel) and `>` (one after the other).
    """
    if not isinstance(layout, str):
        raise ValueError(f"layout {layout!r} is not a string; write for example 'T+S'")
    steps = tuple(tuple(part.strip() for part in step.split("+")) for step in layout.split(">"))
    for branch in (branch for step in steps for branch in step):
        if branch not in BRANCHES:
            raise ValueError(
                f"layout {layout!r} has {branch!r} where a branch should stand; branches are T "
                "(time), S (space), ST (joint), joined by '+' (parallel) or '>' (sequential), "
                "for example 'T+S' or 'T>S>ST'"
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
    **dict.fromkeys(("checkpoint_every", "rand_ops"), _COUNT),
    "test_short_side": ("a number of pixels, 0 for image_size", _COUNT[1]),
    **dict.fromkeys(("lr", "min_lr", "warmup_epochs", "weight_decay", "grad_clip"), _RATE),
    **dict.fromkeys(("mixup", "cutmix", "rand_magnitude_std"), _RATE),
    "rand_magnitude": ("a number from 0 to 10", lambda value: _real(value) and 0 <= value <= 10),
    **dict.fromkeys(("label_smoothing", "max_bad_share", "ema_decay"), _SHARE),
    "min_crop_area": ("a share above 0, at most 1", lambda value: _real(value) and 0 < value <= 1),
    "erase": ("a probability, from 0 to 1", lambda value: _real(value) and 0 <= value <= 1),
}
_LISTS = {"depths", "dims", "num_groups", "windows", "temporal_windows", "mlp_ratio"}
_LISTS |= {"downsample", "image_size"}


def gated_channels(mlp_ratio: float, dim: int) -> int:
    """Channels of u, the half that is mixed, in blocks of that many channels."""
    return int(round(mlp_ratio * dim, 6)) // 2  # 122 / 56 * 56 is 122


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


@dataclass(frozen=True)
class PosMLPConfig:
    """A PosMLP or PosMLP-Video model in plain values: JSON in, JSON out.

    One value or one a stage: `num_groups`, `windows`, `temporal_windows`, `mlp_ratio`, `layout`.
    Every field is checked when the config is made; ValueError names the value and the mend.

    Source: section 3 of the paper for the parts; the released repositories for the rest.
    """

    num_classes: int = 14
    """Width of the head; 0 leaves the pooled features as they are."""
    in_channels: int = 3
    num_frames: int = 8
    image_size: int | tuple[int, int] = 32
    """Side in pixels, or (height, width). Any size whose stages the windows divide works too."""
    depths: tuple[int, ...] = (1, 1, 2, 1)
    """Blocks a stage."""
    dims: tuple[int, ...] = (16, 32, 64, 128)
    """Channels a stage."""
    num_groups: PerStage = (2, 4, 8, 16)
    """Channel groups (the paper's gamma): channel c uses relation c % num_groups."""
    windows: PerStage = (4, 4, 2, 1)
    """Side of the spatial window in tokens."""
    temporal_windows: PerStage = None
    """Frames a temporal window; None: the whole clip."""
    layout: PerStage = "T+S"
    """How a block is wired: see `parse_layout`."""
    gate: str | Callable[..., Any] = "lrpe"
    """One of GATE_NAMES, or in a notebook a callable `Gate(dim, window, num_groups)`."""
    gate_form: str = "multiply"
    """`multiply`: mix(u) * v; `add`: mix(u) + v; `mix`: mix(u), and fc1 makes no v."""
    token_bias: bool = True
    """Whether each output position has a learned bias, shared by channels, after the mixing."""
    mlp_ratio: PerStage = 2.0
    """Width of fc1's output (u and v together) over the block's width."""
    gqpe_spread: str = "full"
    """GQPE's precision matrix: `full`, `diagonal`, or `scalar` (released `generalized=False`)."""
    gqpe_symmetric: bool = True
    """Whether GQPE's matrix is A A^T (positive semi-definite) or A itself."""
    gqpe_softmax: bool = True
    """Whether GQPE's scores are normalised over the input positions."""
    conv_size: int = 3
    """Side of the `conv` gate's kernel along each axis; odd."""
    init: str = "normal"
    """One of INITS: see `posmlp.gating.initialise`."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; rates rise linearly from 0 at the first."""
    kind: str = "video"
    """`video` (PosMLPVideo) or `image` (PosMLP: one frame, layout S)."""
    stem_convs: int = 2
    """2: the video stem; 3: the image stem, which adds a pointwise convolution."""
    stem_norm: str = "batch"
    downsample: PerStage = True
    """Whether stage i + 1 halves the resolution; it always does where the width changes."""
    downsample_norm: str = "layer"
    downsample_depthwise: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        self._check_types()
        if len(self.depths) != len(self.dims) or not self.depths:
            raise ValueError(
                f"depths {self.depths} and dims {self.dims} must name the same number of stages"
            )
        if self.temporal_windows is None:
            object.__setattr__(self, "temporal_windows", self.num_frames)
        for name in ("num_groups", "windows", "temporal_windows", "mlp_ratio"):
            object.__setattr__(self, name, self._one_a_stage(name, self.num_stages))
        object.__setattr__(self, "downsample", self._one_a_stage("downsample", self.num_stages - 1))
        self._set_layout()
        if not isinstance(self.image_size, int):
            height, width = self.image_size
            object.__setattr__(self, "image_size", height if height == width else (height, width))
        self._check_values()
        self._check_stages()

    def _check_types(self) -> None:
        """Raise ValueError for a value of the wrong type or sign; turn lists into tuples."""
        for name, (what, valid) in _VALID.items():
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, name, value)
            values = value if isinstance(value, tuple) else (value,)
            if name == "image_size" and isinstance(value, tuple) and len(value) != 2:
                raise ValueError(f"image_size={value!r} must be a side or (height, width)")
            if name == "temporal_windows" and value is None:
                continue
            if name in ("depths", "dims") and not isinstance(value, tuple):
                raise ValueError(f"{name}={value!r} must be a list of one value a stage")
            if isinstance(value, tuple) and name not in _LISTS:
                raise ValueError(f"{name}={value!r} must be a single value: {what}")
            if not all(valid(each) for each in values):
                raise ValueError(f"{name}={value!r} must be {what}")

    def _one_a_stage(self, name: str, count: int) -> tuple[Any, ...]:
        value = getattr(self, name)
        if not isinstance(value, tuple | list):
            return (value,) * count
        if len(value) != count:
            raise ValueError(
                f"{name}={list(value)} has {len(value)} values for {count} places; give one value "
                "or one for each"
            )
        return tuple(value)

    def _set_layout(self) -> None:
        """Write layouts without spaces, and as one string where all stages agree."""
        layouts = self._one_a_stage("layout", self.num_stages)
        layouts = tuple(">".join("+".join(step) for step in parse_layout(one)) for one in layouts)
        same = len(set(layouts)) == 1
        object.__setattr__(self, "layout", layouts[0] if same else layouts)

    def _check_values(self) -> None:
        if callable(self.gate):
            if self.gate_form != "multiply" or not self.token_bias:
                raise ValueError(
                    "gate_form and token_bias are for the gates of this package; build them into "
                    "your own gate and leave both at their defaults"
                )
        else:
            one_of(self.gate, GATE_NAMES, "gate")
        one_of(self.gate_form, GATE_FORMS, "gate_form")
        one_of(self.init, INITS, "init")
        one_of(self.gqpe_spread, GQPE_SPREADS, "gqpe_spread")
        one_of(self.kind, ("video", "image"), "kind")
        one_of(self.stem_norm, ("batch", "layer"), "stem_norm")
        one_of(self.downsample_norm, ("batch", "layer"), "downsample_norm")
        if self.stem_convs not in (2, 3):
            raise ValueError(f"stem_convs={self.stem_convs} must be 2 (video) or 3 (image)")
        if self.conv_size % 2 == 0:
            raise ValueError(f"conv_size={self.conv_size} must be odd, for example 3")
        if self.kind == "image" and (self.num_frames != 1 or set(self.layouts) != {"S"}):
            raise ValueError(
                f"kind='image' needs num_frames=1 and layout='S', not num_frames={self.num_frames} "
                f"and layout={self.layout!r}; use kind='video' for clips"
            )

    def _check_stages(self) -> None:
        for i in range(self.num_stages):
            width, groups = self.gate_dim(i), self.num_groups[i]
            if width < 1 or width % groups:
                raise ValueError(
                    f"num_groups={groups} does not divide the {width} gated channels of stage "
                    f"{i + 1}; use one of {[g for g in range(1, width + 1) if width % g == 0]}"
                )
            if self.dims[0] % 2:
                raise ValueError(f"dims[0]={self.dims[0]} must be even: the stem starts with half")
            if self.downsample_depthwise and i and self.dims[i] % self.dims[i - 1]:
                raise ValueError(
                    f"dims[{i}]={self.dims[i]} is not a multiple of dims[{i - 1}]="
                    f"{self.dims[i - 1]}, which downsample_depthwise=True needs"
                )
        height, width = self.size
        self.check_clip(self.num_frames, height, width)

    def check_clip(self, num_frames: int, height: int, width: int) -> None:
        """Raise ValueError unless every stage's windows divide its frames, height and width."""
        for i, (rows, columns) in enumerate(self.stage_sizes(height, width)):
            window, temporal = self.windows[i], self.temporal_windows[i]
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

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    @property
    def layouts(self) -> tuple[str, ...]:
        """The layout of each stage."""
        return (self.layout,) * self.num_stages if isinstance(self.layout, str) else self.layout

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size

    def stage_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of tokens in each stage for frames of `height` x `width` pixels."""
        rows, columns = (math.ceil(math.ceil(side / 2) / 2) for side in (height, width))
        sizes = [(rows, columns)]
        for i in range(1, self.num_stages):
            if self.halves(i):
                rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
            sizes.append((rows, columns))
        return sizes

    def halves(self, stage: int) -> bool:
        """Whether `stage` (from 0) starts with a stride-2 convolution."""
        changes_width = self.dims[stage] != self.dims[stage - 1]
        return stage > 0 and (self.downsample[stage - 1] or changes_width)

    def gate_dim(self, stage: int) -> int:
        """Channels of u, the half that is mixed, in `stage` (from 0)."""
        return gated_channels(self.mlp_ratio[stage], self.dims[stage])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal config back."""
        if callable(self.gate):
            raise ValueError(
                f"gate {self.gate!r} is a Python object and cannot be written as JSON; "
                f"use one of: {', '.join(GATE_NAMES)}"
            )
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PosMLPConfig:
        """A config from plain values; an unknown key raises ValueError naming the valid ones."""
        for key in values:
            one_of(key, [field.name for field in fields(cls)], "config key")
        return cls(**_with_tuples(values))


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained, in plain values; checked when it is made.

    Source: the released recipe (AdamW, weight decay 0.05 on tensors of two or more dimensions,
    linear warm-up and cosine an iteration, label smoothing 0.1, gradient norm clipped), with the
    toy preset's epochs, batch and rate.
    """

    epochs: int = 10
    batch_size: int = 32
    """Clips a step and seed."""
    lr: float = 2e-3
    """Peak learning rate; not scaled by the batch."""
    min_lr: float = 1e-6
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    grad_clip: float = 1.0
    """Largest gradient norm, per seed; 0 leaves gradients as they are."""
    precision: str = "auto"
    """`float32`, `bfloat16` (autocast), or `auto`: bfloat16 on a GPU, float32 elsewhere."""
    sampling: str = "segment"
    """How frames are chosen from longer videos: `segment` or `dense`."""
    sampling_rate: int = 4
    """Frames between the frames of a `dense` clip."""
    min_crop_area: float = 1.0
    """Smallest area of a training crop as a share of the frame's (released: 0.08), resized to
    `image_size`; at 1 crops are random squares of the video resized to its short side."""
    test_short_side: int = 0
    """Short side in pixels that one test crop is cut from (released, Kinetics: 256 for 224); 0:
    `image_size`. Three crops are always cut from `image_size`."""
    max_bad_share: float = 0.0
    """Share of unreadable files up to which training goes on without them."""
    num_clips: int = 4000
    """Training clips when the data are generated (`moving-digits`) rather than read."""
    checkpoint_every: int = 0
    """Epochs between the models kept under RUN/checkpoints; 0: only the last is kept."""
    flip: str = "none"
    """Flip half of the training clips left to right: `none`, `mirror`, or `labels`, by which a
    flipped clip gets the label of its class's mirror image (`left` becomes `right`)."""
    rand_ops: int = 0
    """RandAugment: operations drawn a clip, each applied with probability 1/2; 0: none."""
    rand_magnitude: float = 7.0
    """Mean strength of RandAugment's operations, of 10."""
    rand_magnitude_std: float = 0.5
    erase: float = 0.0
    """Probability that a box of a clip is filled with noise."""
    mixup: float = 0.0
    """Alpha of mixup's Beta(alpha, alpha); 0: none. With cutmix, either by the toss of a coin."""
    cutmix: float = 0.0
    """Alpha of cutmix's Beta(alpha, alpha); 0: none."""
    repeats: int = 1
    """Times a clip comes in an epoch, in one batch, each with its own frames and augmentation."""
    ema_decay: float = 0.0
    """Decay of the average of weights that is scored and saved instead of the last; 0: none."""
    init_from: str = ""
    """A model file to start from: an image model is inflated, a video model is copied."""

    def __post_init__(self) -> None:
        one_of(self.precision, ("auto", "float32", "bfloat16"), "precision")
        one_of(self.sampling, ("segment", "dense"), "sampling")
        one_of(self.flip, ("none", "mirror", "labels"), "flip")
        for name, (what, valid) in _VALID_IN_TRAINING.items():
            value = getattr(self, name)
            if not valid(value):
                raise ValueError(f"{name}={value!r} must be {what}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """A config from plain values; an unknown key raises ValueError naming the valid ones."""
        for key in values:
            one_of(key, [field.name for field in fields(cls)], "training key")
        return cls(**values)


_S16 = PosMLPConfig(
    num_classes=174,
    num_frames=16,
    image_size=224,
    depths=(3, 4, 9, 3),
    dims=(72, 144, 288, 576),
    num_groups=(8, 16, 32, 64),
    windows=(14, 14, 14, 7),
    drop_path=0.1,
    init="released",
)
_B_DEPTHS = (4, 6, 15, 4)
_WIDE: dict[str, Any] = {"dims": (112, 224, 392, 784), "num_groups": (8, 16, 28, 56)}
_IMAGE_T = PosMLPConfig(
    num_classes=1000,
    num_frames=1,
    image_size=224,
    depths=(2, 2, 18, 2),
    dims=(96, 192, 384, 768),
    num_groups=(8, 16, 32, 64),
    windows=(14, 14, 14, 7),
    layout="S",
    gate="gqpe",
    mlp_ratio=(4.0, 4.0, 4.0, 2.0),
    drop_path=0.1,
    init="released",
    kind="image",
    stem_convs=3,
    downsample_depthwise=True,
    norm_eps=1e-6,
)
_REPAIRED = (
    "repaired: the released file of this size sets no windows, temporal windows or groups and does "
    "not run; temporal window = frames, groups 8, 16, 28, 56 (the widths allow no 32 and 64)"
)
_WIDTHS_96 = "the released history: S16 at the image model's widths 96 to 768"
_REPAIRED_32 = (
    "repaired: the released 32-frame file builds MorphMLP or does not run; this is the 16-frame "
    "size with 32 frames"
)

_PRESETS: dict[str, tuple[PosMLPConfig, str]] = {
    "toy": (PosMLPConfig(), "ours: 8x32x32 clips, trains in about a minute on two CPU cores"),
    "toy-16": (
        PosMLPConfig(num_frames=16, image_size=64, windows=(8, 8, 4, 2)),
        "ours: the toy at 16x64x64",
    ),
    "s16": (_S16, "released: SSV1_S16, the one released video configuration that runs"),
    "s16-96": (replace(_S16, dims=(96, 192, 384, 768)), _WIDTHS_96),
    "s16-112": (replace(_S16, **_WIDE), _REPAIRED),
    "s32-112": (replace(_S16, **_WIDE, num_frames=32, temporal_windows=None), _REPAIRED_32),
    "b16": (replace(_S16, depths=_B_DEPTHS), "ours: B's depths at the released S16's widths"),
    "b16-96": (
        replace(_S16, depths=_B_DEPTHS, dims=(96, 192, 384, 768)),
        _WIDTHS_96 + ", B's depths",
    ),
    "b16-112": (replace(_S16, **_WIDE, depths=_B_DEPTHS), _REPAIRED),
    "b32-112": (
        replace(_S16, **_WIDE, depths=_B_DEPTHS, num_frames=32, temporal_windows=None),
        _REPAIRED_32,
    ),
    "image-t": (_IMAGE_T, "released: PosMLP-T (ACM MM 2022), GQPE"),
    "image-s": (
        replace(_IMAGE_T, dims=(128, 256, 512, 1024)),
        "released: PosMLP-S (ACM MM 2022), GQPE",
    ),
    "image-b": (
        replace(_IMAGE_T, dims=(192, 384, 768, 1536)),
        "PosMLP-B: widths inferred from the published 82 M parameters",
    ),
}

PRESETS: dict[str, PosMLPConfig] = {name: config for name, (config, _) in _PRESETS.items()}
PRESET_SOURCES: dict[str, str] = {name: source for name, (_, source) in _PRESETS.items()}


_A_STAGE = ("depths", "dims", "num_groups", "windows", "temporal_windows", "mlp_ratio", "layout")


def _for_as_many_stages(config: PosMLPConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    """The config's fields of one value a stage, for as many stages as the overrides name."""
    named = [overrides[name] for name in ("depths", "dims") if name in overrides]
    counts = {len(value) for value in named if isinstance(value, tuple | list)}
    if len(counts) != 1 or counts == {config.num_stages}:
        return {}  # nothing to do, or nothing that fits, of which the config itself will tell
    (count,) = counts
    found = {}
    for name, places in (*((name, count) for name in _A_STAGE), ("downsample", count - 1)):
        value = getattr(config, name)
        if isinstance(value, tuple):
            alike = len(set(value)) == 1
            found[name] = value[:1] * places if alike else value[:places]
    return found


def resolve(config: PosMLPConfig | str, **overrides: Any) -> PosMLPConfig:
    """The config itself or the preset of that name, with fields replaced.

    Where `depths` or `dims` name fewer stages than the config has, its other fields of one value a
    stage keep those of its first stages; where they name more, those that are alike everywhere
    stay so. Raises ValueError for an unknown preset or field.
    """
    if isinstance(config, str):
        one_of(config, PRESETS, "preset")
        config = PRESETS[config]
    names = [field.name for field in fields(PosMLPConfig)]
    for key in overrides:
        one_of(key, names, "config key")
    whole_clip = all(t == config.num_frames for t in config.temporal_windows)
    if "num_frames" in overrides and whole_clip:
        overrides.setdefault("temporal_windows", None)
    overrides = _for_as_many_stages(config, overrides) | overrides
    return replace(config, **_with_tuples(overrides))
