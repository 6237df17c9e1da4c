"""What a model is and how it is trained, as two frozen dataclasses of plain values.

Nothing here needs torch, so the command line can answer and a grid can be checked without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from posmlp import config_checks
from posmlp.config_checks import GATE_NAMES, one_of
from posmlp.own import names
from posmlp.own.names import NONE, Options

PerStage: TypeAlias = Any
"""One value for all stages, or a sequence of one a stage; a tuple once the config is made."""


@dataclass(frozen=True)
class PosMLPConfig:
    """A PosMLP or PosMLP-Video model in plain values: JSON in, JSON out.

    Every field is checked when the config is made; ValueError names the value and the mend.

    Source: section 3 of the paper for the parts; the released repositories for the rest.
    """

    num_classes: int = 14
    """Width of the head; 0 leaves the pooled features as they are."""
    in_channels: int = 3
    """Colours of a frame."""
    num_frames: int = 8
    """Frames of a clip."""
    image_size: int | tuple[int, int] = 32
    """Side in pixels, or (height, width); the windows must divide the tokens of every stage."""
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
    """How a block is wired: branches T, S and ST, `+` in parallel, `>` one after the other."""
    gate: str | Callable[..., Any] = "lrpe"
    """One of GATE_NAMES, or your own: `file.py:Gate`, or in a notebook a callable `Gate`."""
    gate_options: Options = NONE
    """What your own gate takes beside dim, window and num_groups, by name: `{step: 2}`."""
    branches: Options = NONE
    """Branches of your own, by the names that a layout has them by: `{R: file.py:Branch}`."""
    model: str = "posmlp"
    """A whole model of your own, `file.py:Model`, in place of this package's."""
    model_options: Options = NONE
    """What it takes beside those of these fields that its `__init__` names."""
    code: Options = field(default=NONE, repr=False)
    """The source of each file of your own that is named here; read when it is named."""
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
    """How parameters start, one of `INITS`: see `posmlp.parts.initialise`."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; rates rise linearly from 0 at the first."""
    kind: str = "video"
    """`video` (PosMLPVideo) or `image` (PosMLP: one frame, layout S)."""
    stem_convs: int = 2
    """2: the video stem; 3: the image stem, which adds a pointwise convolution."""
    stem_norm: str = "batch"
    """The stem's normalisation: `batch` or `layer`."""
    downsample: PerStage = True
    """Whether stage i + 1 halves the resolution; it always does where the width changes."""
    downsample_norm: str = "layer"
    """Normalisation between stages: `batch` or `layer`."""
    downsample_depthwise: bool = False
    """Whether the convolution between stages is depthwise, as in the image models."""
    norm_eps: float = 1e-5
    """Added to the variance in every layer norm."""

    def __post_init__(self) -> None:
        for forms in (names.in_one_form, config_checks.in_one_form):
            for name, value in forms(self).items():
                object.__setattr__(self, name, value)
        config_checks.check_model(self)
        self.check_clip(self.num_frames, *self.size)

    def check_clip(self, num_frames: int, height: int, width: int) -> None:
        """Raise ValueError unless every stage's windows divide its frames, height and width."""
        if self.model == "posmlp":
            config_checks.check_clip(self, num_frames, height, width)

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    @property
    def layouts(self) -> tuple[str, ...]:
        """The layout of each stage."""
        return (self.layout,) * self.num_stages if isinstance(self.layout, str) else self.layout

    def steps(self, stage: int) -> tuple[tuple[str, ...], ...]:
        """The residual steps of a block of `stage` (from 0), each its parallel branches.

        None in a whole model of the user's own.
        """
        if self.model != "posmlp":
            return ()
        return config_checks.parse_layout(self.layouts[stage], self.branches)

    def window(self, stage: int, axes: str) -> tuple[int, ...]:
        """Tokens along each axis that a branch `T`, `S` or `ST` of `stage` (from 0) mixes over."""
        frames, side = self.temporal_windows[stage], self.windows[stage]
        return {"T": (frames,), "S": (side, side)}.get(axes, (frames, side, side))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels."""
        return (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size

    @property
    def side(self) -> int:
        """Side of a square frame in pixels. Raises ValueError if frames are not square."""
        if not isinstance(self.image_size, int):
            raise ValueError(
                f"image_size={self.image_size} is not square, but clips are; use one side length"
            )
        return self.image_size

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
                f"gate {self.gate!r} is a Python object and cannot be written as JSON; name it by "
                f"its file, as file.py:Gate, or use one of: {', '.join(GATE_NAMES)}"
            )
        return _plain(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PosMLPConfig:
        """A config from plain values; an unknown key raises ValueError naming the valid ones.

        No file is read: own code has to stand in `code`.
        """
        for key in values:
            one_of(key, [field.name for field in fields(cls)], "config key")
        names.check_brought(values)
        return cls(**values)


def _plain(config: PosMLPConfig | TrainConfig) -> dict[str, Any]:
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()}
    return {k: dict(v) if isinstance(v, Options) else v for k, v in lists.items()}


def gated_channels(mlp_ratio: float, dim: int) -> int:
    """Channels of u, the half that is mixed, in blocks of `dim` channels."""
    return int(round(mlp_ratio * dim, 6)) // 2  # 122 / 56 * 56 is 122


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained, in plain values; checked when it is made.

    Source: the released recipe (AdamW, weight decay 0.05 on tensors of two or more dimensions,
    linear warm-up and cosine an iteration, label smoothing 0.1, gradient norm clipped), with the
    toy preset's epochs, batch and rate.
    """

    epochs: int = 10
    """Times that all training clips are seen."""
    batch_size: int = 32
    """Clips a step and seed."""
    balanced: bool = False
    """Whether numbers of clips a class differ by at most one in a batch: `train/batches.py`."""
    lr: float = 2e-3
    """Peak learning rate; not scaled by the batch."""
    relation_lr_scale: float = 1.0
    """Learning rate of relations (tables, kernels, matrices, centres, spreads) over `lr`."""
    head_lr_scale: float = 1.0
    """Learning rate of the classifier over `lr`, as for a new one on a body that is trained."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate rises to its peak."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    label_smoothing: float = 0.1
    """Share of a label's probability that is spread over all classes."""
    folds: int = 0
    """Of all videos' groups; seed s is tested on fold s modulo that, val is the next; 0: none."""
    class_weights: str = "none"
    """`balanced`: a clip's loss counts the more, the rarer its class is in training; or `none`."""
    grad_clip: float = 1.0
    """Largest gradient norm, per seed; 0 leaves gradients as they are."""
    precision: str = "auto"
    """`float32`, `bfloat16` (autocast) or `auto` (bfloat16 on a GPU); of scoring too."""
    deterministic: bool = False
    """Whether a GPU adds in one order, slower, so that a repeat gives the same bits."""
    sampling: str = "segment"
    """How frames are chosen from longer videos: `segment` or `dense`."""
    sampling_rate: int = 4
    """Frames between the frames of a `dense` clip."""
    min_crop_area: float = 1.0
    """Least share of a frame that a training crop shows (released: 0.08); 1: square crops."""
    min_time_share: float = 1.0
    """Least share of a video's frames that a training clip spans, at any place in it; 1: all."""
    test_short_side: int = 0
    """Short side that one test crop is cut from (Kinetics: 256 for 224); 0: `image_size`."""
    max_bad_share: float = 0.0
    """Share of unreadable files up to which training goes on without them."""
    num_clips: int = 4000
    """Training clips when the data are generated (`moving-digits`) rather than read."""
    num_val_clips: int = 560
    """Generated val clips, 40 a class: 280 exactly reversed pairs."""
    num_test_clips: int = 2800
    """Generated test clips, in such pairs too."""
    keep: str = "last"
    """The weights that are tested and saved: of the `last` epoch, or the `best` by val top-1."""
    checkpoint_every: int = 0
    """Epochs between the models kept under RUN/checkpoints; 0: only the last is kept."""
    flip: str = "none"
    """Flip half of the training clips: `none`, `mirror`, or `labels` (`left` becomes `right`)."""
    shift: float = 0.0
    """Share of the side by which a training clip is moved at most, either way; edges repeat."""
    brightness: float = 0.0
    """Share by which the brightness of a training clip differs at most, either way."""
    rand_ops: int = 0
    """RandAugment: operations drawn a clip, each applied with probability 1/2; 0: none."""
    rand_magnitude: float = 7.0
    """Mean strength of RandAugment's operations, of 10."""
    rand_magnitude_std: float = 0.5
    """Standard deviation of that strength."""
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
    """A model to start from, `toy-ts`, a run's folder or a file: an image model is inflated."""
    freeze: str = ""
    """Parts that stay as they start, as in `stem,stage1`; `norm` and `head` are parts too."""
    augment: str = ""
    """A function of your own, `file.py:jitter`: `jitter(clip, rng)` gives the changed clip."""
    metrics: tuple[str, ...] = ()
    """Scores of your own beside top-1: `[file.py:score]`, of (logits, labels)."""
    code: Options = field(default=NONE, repr=False)
    """The source of each file of your own that training names; read when it is named."""

    def __post_init__(self) -> None:
        for name, value in names.training_in_one_form(self).items():
            object.__setattr__(self, name, value)
        config_checks.check_training(self)

    def to_dict(self) -> dict[str, Any]:
        return _plain(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """A config from plain values; an unknown key raises ValueError naming the valid ones."""
        for key in values:
            one_of(key, [field.name for field in fields(cls)], "training key")
        names.check_brought(values)
        return cls(**values)


MODEL_VERSION = "1"
"""Changes when the same config and seed give another model; part of every result's identity."""
