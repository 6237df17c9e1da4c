"""Saving and loading models, the released key names, and image-to-video initialisation."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PosixPath, WindowsPath
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from posmlp.config import PosMLPConfig
from posmlp.config_checks import parse_layout
from posmlp.model import PosMLP, PosMLPVideo, create_model
from posmlp.presets import PRESETS

StateDict = Mapping[str, Tensor]
_CONTAINERS = ("model_state", "state_dict", "model", "state_dict_ema", "model_ema", "ema")
"""Keys under which savers put the tensors; of two, the first counts."""
_SETTINGS = (argparse.Namespace, PosixPath, WindowsPath)
"""Objects that savers put beside the tensors, and that run no code when they are loaded."""
_WRAPPED = re.compile(r"(^|\.)(module|_orig_mod)(?=\.)")
"""What DataParallel and torch.compile put into key names."""
# Buffers that the released files hold and that positions alone determine.
_DERIVED = re.compile(r"(window_relative_position_index|rel_indices)$")


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save(model: PosMLPVideo, path: str | Path, **metadata: str) -> None:
    """Write a model's state and its config to one safetensors file.

    A compiled or data-parallel model is saved as the one that it wraps, and a tensor that two parts
    share is written twice. Raises ValueError for a model that `load` could not read.
    """
    if "config" in metadata:
        raise ValueError("the metadata key 'config' is the model's own; choose another name")
    inner = own_model(model)
    if inner is None:
        raise ValueError(
            f"{path} was not written: {type(model).__name__} is no model of this package; save its "
            "state_dict with torch.save"
        )
    config = inner.config
    header = {"config": json.dumps(config.to_dict()), **metadata}
    state = {_unwrapped(name): tensor for name, tensor in inner.state_dict().items()}
    _check_saved(state, config, path)
    owners: dict[int, str] = {}
    for name, tensor in state.items():
        shared = owners.setdefault(tensor.untyped_storage().data_ptr(), name) != name
        state[name] = tensor.detach().clone() if shared else tensor.contiguous()
    write_atomically(path, to_bytes(state, header))


def own_model(model: Any) -> PosMLPVideo | None:
    """A model of this package, itself or within a compiled or data-parallel one; else None."""
    while not isinstance(model, PosMLPVideo):
        if not isinstance(model, nn.Module):
            return None
        model = getattr(model, "_orig_mod", getattr(model, "module", None))
    return model


def _unwrapped(name: str) -> str:
    return _WRAPPED.sub("", name).removeprefix(".")


def _check_saved(state: StateDict, config: PosMLPConfig, path: str | Path) -> None:
    """Raise ValueError unless a model of `config` has the same keys and shapes."""
    with torch.device("meta"):
        expected = {k: tuple(v.shape) for k, v in create_model(config).state_dict().items()}
    found = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    differ = [name for name in (*found, *expected) if found.get(name) != expected.get(name)]
    if differ:
        name = differ[0]
        has, wants = (f"shape {list(d[name])}" if name in d else "none" for d in (found, expected))
        raise ValueError(
            f"{path} was not written, as load could not read it: the model's {name!r} has {has}, "
            f"that of its config {wants}; {_end_of(name)}"
        )
    empty = [name for name, tensor in state.items() if tensor.is_meta]
    if empty:
        raise ValueError(
            f"{path} was not written: {empty[0]!r} is on meta and has no numbers; load them first"
        )


def _end_of(name: str) -> str:
    """What makes a model with such a key one that can be saved."""
    if name.endswith(("_orig", "_mask")):
        return "end the pruning first with torch.nn.utils.prune.remove"
    if ".parametrizations." in name:
        return "end it first with torch.nn.utils.parametrize.remove_parametrizations"
    return "create the model with the config that it has now, or save its state_dict by torch.save"


def load(path: str | Path) -> PosMLPVideo:
    """A model from a file that `save` wrote, in eval mode; halves are widened to float32.

    Raises ValueError if the file is missing, is no safetensors file, or holds another model.
    """
    state, metadata = _read_safetensors(path)
    if "config" not in metadata:
        raise ValueError(
            f"{path} holds no config, so it was not written by this package; read a released "
            "checkpoint with load_released"
        )
    try:
        config = PosMLPConfig.from_dict(dict(json.loads(metadata["config"])))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} holds a damaged config ({error}); put a sound file back, or train again"
        ) from error
    model = create_model(config)
    _check_keys(state, {k: tuple(v.shape) for k, v in model.state_dict().items()}, str(path))
    model.to(_precision(state)).load_state_dict(state)
    return model.eval()


def _precision(state: StateDict) -> torch.dtype:
    """The type that holds all of a state's numbers, float32 or float64.

    Halves are widened, which loses nothing: clips are float32.
    """
    types = {tensor.dtype for tensor in state.values()}
    return torch.float64 if torch.float64 in types else torch.float32


def _read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; give a file, such as a run's model-*.safetensors")
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint at {path}; give the path of a .safetensors file")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
        return load_file(str(path)), metadata
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable safetensors file: {error}; put a sound one back"
        ) from error


def _check_keys(state: StateDict, expected: dict[str, tuple[int, ...]], where: str) -> None:
    """Raise ValueError naming the first missing, misshapen or unexpected key of `state`."""
    for name, shape in expected.items():
        if name not in state:
            raise ValueError(
                f"{where}: missing key {name!r}, expected with shape {list(shape)}; this is a "
                "checkpoint of another model or configuration"
            )
        if tuple(state[name].shape) != shape:
            raise ValueError(
                f"{where}: key {name!r} has shape {list(state[name].shape)}, expected "
                f"{list(shape)}; this is a checkpoint of another model or configuration"
            )
    extra = [name for name in state if name not in expected]
    if extra:
        raise ValueError(
            f"{where}: {len(extra)} unexpected keys, the first {extra[0]!r} of shape "
            f"{list(state[extra[0]].shape)}; this is a checkpoint of another model or configuration"
        )


def load_released(
    source: StateDict | str | Path, config: PosMLPConfig | None = None
) -> PosMLPVideo | PosMLP:
    """A model in eval mode from a checkpoint of either released repository.

    `source`: a dict of tensors, a safetensors file, or a .pth file (read with weights_only).
    Halves are widened to float32.
    Without a config, depths, widths, windows, groups and the rest come from the shapes; what shapes
    do not tell takes the released defaults (GQPE symmetric, with softmax; no stochastic depth).
    Keys that the released code stores but does not use are left out: index buffers, and
    `token_proj_n_weight` beside GQPE. Raises ValueError naming the key and the expected shape.

    Source: zhouds1918/PosMLP_Video, Zhicaiwww/PosMLP.
    """
    state = source if isinstance(source, Mapping) else _read_released(Path(source))
    where = "state dict" if isinstance(source, Mapping) else str(source)
    state = {_unwrapped(k): v for k, v in state.items() if not _DERIVED.search(k)}
    config = config or infer_config(state)
    if config.gate == "gqpe":
        state = {k: v for k, v in state.items() if not k.endswith("token_proj_n_weight")}
    if not config.token_bias:
        state = {k: v for k, v in state.items() if not k.endswith("token_proj_n_bias")}
    model = create_model(config)
    ours = model.state_dict()
    names = {key: released_name(key, config.kind) for key in ours}
    shapes = {names[key]: _released_shape(names[key], tensor) for key, tensor in ours.items()}
    _check_keys(state, shapes, where)
    converted = {key: _ours(names[key], state[names[key]], ours[key]) for key in ours}
    model.to(_precision(converted)).load_state_dict(converted)
    return model.eval()


def _read_released(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[0]
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}; give a .safetensors or .pth file")
    try:
        with torch.serialization.safe_globals([*_SETTINGS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if match := re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} holds a Python object, {match[1]}, which is not loaded as it may run any "
                "code; save its dict of tensors alone with torch.save"
            ) from error
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors ({first}); put a sound one back"
        ) from error
    for container in _CONTAINERS:
        content = content.get(container, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no dict of tensors, nor one under any of {_CONTAINERS}")
    return content


_PARTS = {
    "gate.token_bias": "gate_unit.pos.token_proj_n_bias",
    "gate.positions.table": "gate_unit.pos.window_relative_position_bias_table",
    "gate.positions.centers": "gate_unit.pos.attention_centers",
    "gate.positions.spreads": "gate_unit.pos.attention_spreads",
    "gate.positions.weight": "gate_unit.token_proj_n_weight",
}
_IMAGE_LINEARS = {"fc1": "proj_c_e", "fc2": "proj_c_s"}
_BRANCH = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.steps\.0\.(T|S)\.(.+)")


def released_name(key: str, kind: str) -> str:
    """The released repositories' name of one of our state-dict keys; `kind` is video or image."""
    if match := re.fullmatch(r"stem\.(conv|norm)s\.(\d)\.(\w+)", key):
        part, i, leaf = match.groups()
        part = {"conv": "proj"}.get(part, part)
        i = int(i)
        return (
            f"patch_embed1.{part}{i + 1}.{leaf}"
            if kind == "video"
            else f"patch_embed.{part}s.{i}.{leaf}"
        )
    if match := re.fullmatch(r"downsamples\.(\d+)\.(conv|norm)\.(\w+)", key):
        i, part, leaf = int(match[1]), match[2], match[3]
        if kind == "image":
            return f"levels.{i + 1}.pool.{part}.{leaf}"
        return f"patch_embed{i + 2}.{'proj' if part == 'conv' else part}.{leaf}"
    if match := _BRANCH.fullmatch(key):
        stage, block, axes, part = int(match[1]), match[2], match[3], match[4]
        part = _PARTS.get(part, part)
        if kind == "image":
            module, _, leaf = part.partition(".")
            return f"levels.{stage}.encoder.{block}.{_IMAGE_LINEARS.get(module, module)}.{leaf}"
        branch = {"T": "t_fc", "S": "fc"}[axes]
        return f"blocks{stage + 1}.{block}.{branch}.encoder.{part}"
    if key.startswith(("norm.", "head.")):
        return key
    raise ValueError(
        f"{key!r} has no counterpart in the released models: they have layout 'T+S' (video) or 'S' "
        "(image) and gates lrpe, gqpe or lrpe+dense; give load_released such a config"
    )


def _released_shape(name: str, ours: Tensor) -> tuple[int, ...]:
    """The shape in the released file of the tensor that is `ours` here."""
    if name.endswith("bias_table"):
        return (math.prod(ours.shape[1:]), ours.shape[0])
    if name.endswith("token_proj_n_bias"):
        return (1, *ours.shape)
    if ours.dim() == 4 and ".proj" in name and "projs" not in name:
        return (*ours.shape[:2], 1, *ours.shape[2:])
    return tuple(ours.shape)


def _ours(name: str, released: Tensor, ours: Tensor) -> Tensor:
    return (released.T if name.endswith("bias_table") else released).reshape(ours.shape)


def infer_config(state: StateDict) -> PosMLPConfig:
    """The configuration that a released state dict's shapes tell, or ValueError."""
    if "patch_embed1.proj1.weight" in state:
        return _infer_video(state)
    if "patch_embed.projs.0.weight" in state:
        return _infer_image(state)
    raise ValueError(
        "the keys are of neither released model: a PosMLP-Video checkpoint has "
        "'patch_embed1.proj1.weight', a PosMLP checkpoint 'patch_embed.projs.0.weight'"
    )


def _count(state: StateDict, pattern: str) -> int:
    """1 + the largest number that stands in the group of `pattern` at a key's start."""
    found = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1


def _infer_video(state: StateDict) -> PosMLPConfig:
    num_stages = _count(state, r"blocks(\d+)\.") - 1
    depths = tuple(_count(state, rf"blocks{s}\.(\d+)\.") for s in range(1, num_stages + 1))
    first = [f"blocks{s}.0." for s in range(1, num_stages + 1)]
    bias, table = "encoder.gate_unit.pos.token_proj_n_bias", "encoder.gate_unit.pos.window_"
    table += "relative_position_bias_table"
    frames = tuple(_shape(state, f"{b}t_fc.{bias}")[1] for b in first)
    windows = tuple(math.isqrt(_shape(state, f"{b}fc.{bias}")[1]) for b in first)
    return PosMLPConfig(
        num_classes=_num_classes(state),
        in_channels=_shape(state, "patch_embed1.proj1.weight")[1],
        num_frames=math.lcm(*frames),
        image_size=_smallest_image(windows),
        depths=depths,
        dims=tuple(_shape(state, f"{b}fc.encoder.fc2.weight")[0] for b in first),
        num_groups=tuple(_shape(state, f"{b}fc.{table}")[1] for b in first),
        windows=windows,
        temporal_windows=frames,
        downsample=tuple(f"patch_embed{s}.proj.weight" in state for s in range(2, num_stages + 1)),
        init="released",
    )


def _infer_image(state: StateDict) -> PosMLPConfig:
    num_stages = _count(state, r"levels\.(\d+)\.")
    first = [f"levels.{s}.encoder.0." for s in range(num_stages)]
    unit = f"{first[0]}gate_unit."
    gqpe = f"{unit}pos.attention_centers" in state
    dense = f"{unit}token_proj_n_weight" in state
    groups = "pos.attention_centers" if gqpe else "pos.window_relative_position_bias_table"
    group_axis = 0 if gqpe else 1
    windows = tuple(
        math.isqrt(_shape(state, f"{b}gate_unit.pos.token_proj_n_bias")[1]) for b in first
    )
    dims = tuple(_shape(state, f"{b}proj_c_s.weight")[0] for b in first)
    full = gqpe and state[f"{unit}pos.attention_spreads"].dim() == 3
    depthwise = num_stages > 1 and _shape(state, "levels.1.pool.conv.weight")[1] == 1 < dims[0]
    return replace(
        PRESETS["image-t"],
        num_classes=_num_classes(state),
        in_channels=_shape(state, "patch_embed.projs.0.weight")[1],
        image_size=_smallest_image(windows),
        depths=tuple(_count(state, rf"levels\.{s}\.encoder\.(\d+)\.") for s in range(num_stages)),
        dims=dims,
        num_groups=tuple(_shape(state, f"{b}gate_unit.{groups}")[group_axis] for b in first),
        windows=windows,
        temporal_windows=None,
        gate="gqpe" if gqpe else "lrpe+dense" if dense else "lrpe",
        gqpe_spread="full" if full or not gqpe else "scalar",
        mlp_ratio=tuple(
            _shape(state, f"{b}proj_c_e.weight")[0] / dim
            for b, dim in zip(first, dims, strict=True)
        ),
        stem_norm="batch" if "patch_embed.norms.0.running_mean" in state else "layer",
        downsample=True,
        downsample_norm="batch" if "levels.1.pool.norm.running_mean" in state else "layer",
        downsample_depthwise=depthwise,
        drop_path=0.0,
    )


def _shape(state: StateDict, key: str) -> torch.Size:
    if key not in state:
        raise ValueError(
            f"missing key {key!r}, from whose shape the configuration would be read; this is a "
            "checkpoint of another model, or give its config"
        )
    return state[key].shape


def _num_classes(state: StateDict) -> int:
    return _shape(state, "head.weight")[0] if "head.weight" in state else 0


def _smallest_image(windows: tuple[int, ...]) -> int:
    """The smallest square image whose stages all windows divide."""
    return math.lcm(*(4 * 2**stage * window for stage, window in enumerate(windows)))


# What stem, downsampling, norms and spatial branches depend on.
_COPIED = (
    "in_channels",
    "depths",
    "dims",
    "num_groups",
    "windows",
    "gate",
    "gate_form",
    "token_bias",
    "mlp_ratio",
    "gqpe_spread",
    "gqpe_symmetric",
    "gqpe_softmax",
    "conv_size",
    "stem_convs",
    "stem_norm",
    "downsample",
    "downsample_norm",
    "downsample_depthwise",
    "norm_eps",
)


def inflate(image_model: PosMLP, video_config: PosMLPConfig) -> PosMLPVideo:
    """A video model that starts as the image model applied to each frame, its logits averaged.

    Spatial branches, stem, downsampling, norm and (if the classes agree) head are copied; temporal
    and joint branches start with fc2 = 0, so that their residual step is the identity. Raises
    ValueError where the two configurations differ in a part that is copied.
    """
    for name in _COPIED:
        ours, theirs = getattr(video_config, name), getattr(image_model.config, name)
        if ours != theirs:
            raise ValueError(
                f"{name}={ours!r} but the image model has {theirs!r}; derive the video config from "
                "image_model.config with dataclasses.replace"
            )
    for stage, layout in enumerate(video_config.layouts):
        if sum(step.count("S") for step in parse_layout(layout)) != 1:
            raise ValueError(
                f"layout {layout!r} (stage {stage + 1}) must have exactly one S branch to hold the "
                "image model's; use for example 'T+S' or 'T>S'"
            )
    video = create_model(video_config).to(_precision(image_model.state_dict()))
    image_state, state = image_model.state_dict(), video.state_dict()
    for key, tensor in state.items():
        if re.search(r"\.steps\.\d+\.(T|ST)\.", key):
            if ".fc2." in key:
                tensor.zero_()
            continue
        source = re.sub(r"\.steps\.\d+\.S\.", ".steps.0.S.", key)
        if key.startswith("head.") and video_config.num_classes != image_model.config.num_classes:
            continue
        tensor.copy_(image_state[source])
    return video


def start_from(path: str | Path, config: PosMLPConfig) -> PosMLPVideo:
    """A model of `config` with the weights of a model file, ours or a released one.

    A video model starts from an image model by `inflate`, else from a model of its own
    configuration; only the number of classes may differ, and the head is then new. Raises
    ValueError naming the first field that differs.
    """
    source = _load_any(Path(path))
    if source.config.kind == "image" and config.kind == "video":
        return inflate(source, config)  # type: ignore[arg-type]
    free = {"num_classes", "drop_path", "init", "image_size"}
    for name, ours in config.to_dict().items():
        theirs = source.config.to_dict()[name]
        if name not in free and ours != theirs:
            raise ValueError(
                f"init_from {path} holds a model with {name}={theirs!r}, not {ours!r}; set "
                f"{name}={theirs!r}, or start from another file"
            )
    model, state = create_model(config), source.state_dict()
    if config.num_classes != source.config.num_classes:
        state |= {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    model.load_state_dict(state)
    return model


def _load_any(path: Path) -> PosMLPVideo:
    """A model from a file of `save`, or of either released repository."""
    if path.suffix == ".safetensors" and "config" in _read_safetensors(path)[1]:
        return load(path)
    return load_released(path)
