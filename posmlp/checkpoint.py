"""Saving and loading models, ours and released ones, and starting a model from another's file."""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import reprlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path, PosixPath, WindowsPath
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from posmlp.config import PosMLPConfig
from posmlp.model import PosMLP, PosMLPVideo, create_model
from posmlp.own.code import admit
from posmlp.own.names import shown
from posmlp.released.configs import FIRST_KEYS, StateDict, infer_config
from posmlp.released.names import DERIVED, as_ours, released_name, released_shape
from posmlp.shapes import not_written

Model = TypeVar("Model", bound=nn.Module)
_LENT: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LENDING = threading.Lock()
_CONTAINERS = (
    *("model_state", "model_state_dict", "state_dict", "model", "module"),
    *("state_dict_ema", "model_ema", "ema"),
)
"""Keys under which savers put the tensors; of two, the first counts."""
_MAKERS: Any = [each.__reduce__()[0] for each in (np.zeros(1), np.float64(1))]
"""What makes NumPy's arrays and numbers of their bytes; NumPy 1 has it in another module."""
_SETTINGS: Any = (
    *(argparse.Namespace, PosixPath, WindowsPath, np.ndarray, np.dtype),
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"),
    *(
        (each, f"numpy.{of}.multiarray.{each.__name__}")
        for of in ("core", "_core")
        for each in _MAKERS
    ),
)
"""Objects that savers put beside the tensors, and that run no code when they are loaded."""
_WRAPPED = re.compile(
    r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)"
)
"""What DataParallel, torch.compile, FSDP and checkpointing put into key names."""
SHIPPED = Path(__file__).parent / "models"


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Raises NotWrittenError (an OSError), which says in a sentence why it cannot be written.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise not_written(path, len(content), error) from error
    finally:
        with suppress(OSError):  # it has its name, or never came to be
            temporary.unlink()


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
            f"{path} was not written: {type(model).__name__} is no model of this package; save the "
            "one within it, or its state_dict with torch.save"
        )
    config = inner.config
    header = {"config": json.dumps(config.to_dict()), **metadata}
    like = outline(config)
    expected = {k: tuple(v.shape) for k, v in like.state_dict().items()}
    state = {
        name if name in expected else _unwrapped(name): tensor
        for name, tensor in inner.state_dict().items()
    }
    _check_saved(state, expected, path)
    _check_parts(inner, like, path)
    owners: dict[int, str] = {}
    for name, tensor in state.items():
        shared = owners.setdefault(tensor.untyped_storage().data_ptr(), name) != name
        state[name] = tensor.detach().clone() if shared else tensor.contiguous()
    write_atomically(path, to_bytes(state, header))


@contextmanager
def in_turn(model: nn.Module) -> Iterator[None]:
    """Within the block no other thread that calls this has the model, whose mode may change."""
    with _LENDING:
        lent = _LENT.setdefault(model, threading.RLock())
    with lent:
        yield


def copied(model: Model) -> Model:
    """A copy of a model; ValueError for a pruned one and its like, whose weights are made anew."""
    try:
        with in_turn(model):
            return copy.deepcopy(model)
    except RuntimeError as error:
        if "graph leaves" not in str(error):
            raise
        raise ValueError(
            f"{type(model).__name__} makes weights from others, as a pruned model does, and cannot "
            "be copied; end the pruning first with torch.nn.utils.prune.remove"
        ) from error


def own_model(model: Any) -> PosMLPVideo | None:
    """A model of this package, itself or within a compiled or data-parallel one; else None."""
    while not isinstance(model, PosMLPVideo):
        if not isinstance(model, nn.Module):
            return None
        wraps = type(model).__module__.startswith("torch.")  # a user's own may compute more
        model = getattr(model, "_orig_mod", getattr(model, "module", None)) if wraps else None
    return model


def outline(config: PosMLPConfig) -> PosMLPVideo:
    """A model of a config for its names and shapes, on `meta`; one of own code, which may compute
    when it is made, on the CPU. The caller's random numbers do not move.
    """
    device = torch.device("cpu" if config.code else "meta")
    with device, torch.random.fork_rng(devices=[]):
        return create_model(config)


def _unwrapped(name: str) -> str:
    return _WRAPPED.sub("", name).removeprefix(".")


def _check_saved(state: StateDict, expected: dict[str, tuple[int, ...]], path: str | Path) -> None:
    """Raise ValueError unless a model of the config has the same keys and shapes."""
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


def _check_parts(model: PosMLPVideo, like: PosMLPVideo, path: str | Path) -> None:
    """Raise ValueError unless the model's modules are those that its config makes."""
    wanted, parts = dict(like.named_modules()), {}
    for name, part in model.named_modules(remove_duplicate=False):
        parts[name if name in wanted else _unwrapped(f".{name}.")[:-1]] = part
    for name, module in wanted.items():
        part = parts[name]
        own = [each for each in vars(part) if callable(getattr(type(part), each, None))]
        if own or _said(part) != _said(module):
            has = f"has a {own[0]!r} of its own" if own else f"is a {_said(part)}"
            raise ValueError(
                f"{path} was not written, as load would not compute the same: the model's "
                f"{name or 'class'!r} {has}, that of its config is a {_said(module)}; describe it "
                "by the config (its fields gate, branches and model take code of your own), or "
                "save its state_dict by torch.save"
            )


def _said(module: nn.Module) -> str:
    """A module's class, and of torch's own the settings that act when a model is used."""
    kind = type(module)
    settings = module.extra_repr() if kind.__module__.startswith("torch.nn.") else ""
    said = f"{kind.__name__}({settings})".replace("SyncBatchNorm", "BatchNorm2d")
    return re.sub(r"momentum=[^,]*, ", "", said)


def _end_of(name: str) -> str:
    """What makes a model with such a key one that can be saved."""
    if name.endswith(("_orig", "_mask")):
        return "end the pruning or the norm first with torch.nn.utils.prune.remove or its like"
    if name.endswith(("weight_g", "weight_v")):
        return "end the norm first with torch.nn.utils.remove_weight_norm"
    if ".parametrizations." in name:
        return "end it first with torch.nn.utils.parametrize.remove_parametrizations"
    return "create the model with the config that it has now, or save its state_dict by torch.save"


def shipped(name: str | Path) -> Path | None:
    """The file of a model that comes with the package, such as `toy-ts`; None for other names.

    What is at a path of that name goes first.
    """
    file = SHIPPED / f"{name}.safetensors"
    return file if file.parent == SHIPPED and file.is_file() and not Path(name).exists() else None


def model_file(name: str | Path) -> Path:
    """The file of a model that is named so: a shipped one, a run's only one, or the path itself."""
    if not isinstance(name, str | os.PathLike):
        raise ValueError(
            f"path={reprlib.repr(name)} must be a file, a run folder or toy-ts, as text"
        )
    return shipped(name) or _only_model(Path(name))


def load(path: str | Path, *, trust_code: bool = False) -> PosMLPVideo:
    """A model in eval mode: a shipped one by name, or from a file that `save` wrote.

    `path`: "toy-ts", or a file, or a folder of a run that trained one model. Halves are widened to
    float32. A file may bring code, of a user's own gate: it runs, in this process from then on, if
    `trust_code`, or if it was named here before. Raises ValueError if there is no such file, or it
    is no safetensors file, or holds another model, or code that is not trusted.
    """
    path = model_file(path)
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
    admit(config.code, path, trust_code)
    model = create_model(config)
    _check_keys(state, {k: tuple(v.shape) for k, v in model.state_dict().items()}, str(path))
    model.to(_precision(state)).load_state_dict(state)
    return model.eval()


def _only_model(path: Path) -> Path:
    """The model file of a run of one model; any other path as it is."""
    found = sorted(path.glob("model-*.safetensors")) if path.is_dir() else []
    return found[0] if len(found) == 1 else path


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
        names = ", ".join(sorted(each.stem for each in SHIPPED.glob("*.safetensors")))
        raise ValueError(
            f"no checkpoint at {path}; give the path of a .safetensors file, or the name of a "
            f"shipped model: {names}"
        )
    try:
        return read_tensors(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable safetensors file: {_looks_like(Path(path))}"
        ) from error


def _looks_like(path: Path) -> str:
    """What a file that cannot be read seems to be, and the mend."""
    with path.open("rb") as file:
        head = file.read(40)
    if not head:
        return "it is empty; put a sound one back"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file with git lfs pull"
    if head[:1] in (b"P", b"\x80"):
        return (
            "it is a file of torch or NumPy, cut or of another kind; save a dict of tensors with "
            "torch.save, and read it with load_released"
        )
    return "it is damaged, or of another kind; put a sound one back"


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata. Raises SafetensorError or OSError."""
    with open(path, "rb") as file:
        name = os.fspath(path)
        try:
            name.encode()
        except UnicodeEncodeError:  # only text is taken for a name
            name = f"/dev/fd/{file.fileno()}"
        with safe_open(name, "pt") as found:
            keys, metadata = found.keys(), found.metadata()
            return {key: found.get_tensor(key) for key in keys}, metadata or {}


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


def _of_attribute(state: StateDict, where: str) -> StateDict:
    """The keys of the model that Lightning or another module keeps as an attribute, without it."""
    found = {
        key.removesuffix(first) for key in state for first in FIRST_KEYS if key.endswith(first)
    }
    if len(found) > 1 and "" not in found:
        raise ValueError(f"{where} holds the models {sorted(found)}; save the tensors of one")
    attribute = "" if "" in found or not found else found.pop()
    return {k.removeprefix(attribute): v for k, v in state.items() if k.startswith(attribute)}


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
    if not all(isinstance(name, str) for name in state):
        raise ValueError(f"{where} has keys that are no text, which no released model has")
    state = _of_attribute(
        {_unwrapped(k): v for k, v in state.items() if not DERIVED.search(k)}, where
    )
    try:
        config = config or infer_config(state)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except IndexError as error:
        raise ValueError(
            f"{where} has tensors of other numbers of axes than the released models; give another"
        ) from error
    if config.gate == "gqpe":
        state = {k: v for k, v in state.items() if not k.endswith("token_proj_n_weight")}
    if not config.token_bias:
        state = {k: v for k, v in state.items() if not k.endswith("token_proj_n_bias")}
    model = create_model(config)
    ours = model.state_dict()
    names = {key: released_name(key, config.kind) for key in ours}
    shapes = {names[key]: released_shape(names[key], tensor) for key, tensor in ours.items()}
    _check_keys(state, shapes, where)
    for key, name in names.items():
        tensor, is_count = state[name], not ours[key].is_floating_point()
        is_dense = tensor.layout == torch.strided and not tensor.is_meta
        if not is_dense or not (is_count or tensor.is_floating_point()):
            raise ValueError(
                f"{where}: key {name!r} is {tensor.dtype}, {tensor.layout}, on {tensor.device}; "
                "save it as dense floats"
            )
    converted = {key: as_ours(names[key], state[names[key]], ours[key]) for key in ours}
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
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors: {_looks_like(path)}"
        ) from error
    while isinstance(content, dict):
        within = [content[key] for key in _CONTAINERS if isinstance(content.get(key), dict)]
        if not within:
            break
        content = within[0]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no dict of tensors, nor one under any of {_CONTAINERS}")
    return content


_FREE = {"num_classes", "drop_path", "init", "image_size"}
"""Fields in which a model may differ from the one whose weights it starts from."""
_OF_CLIPS = {"kind", "num_frames", "temporal_windows", "layout"}


def _first_difference(config: PosMLPConfig, other: PosMLPConfig, free: set[str]) -> str | None:
    names = (field.name for field in fields(config) if field.name not in free)
    return next((name for name in names if getattr(config, name) != getattr(other, name)), None)


def inflate(image_model: PosMLP, video_config: PosMLPConfig) -> PosMLPVideo:
    """A video model that starts as the image model applied to each frame, its logits averaged.

    Spatial branches, stem, downsampling, norm and (if the classes agree) head are copied; temporal
    and joint branches start with fc2 = 0, so that their residual step is the identity. Raises
    ValueError where the two configurations differ in a part that is copied.
    """
    if name := _first_difference(video_config, image_model.config, _FREE | _OF_CLIPS):
        ours, theirs = getattr(video_config, name), getattr(image_model.config, name)
        raise ValueError(
            f"{name}={ours!r} but the image model has {theirs!r}; derive the video config from "
            "image_model.config with dataclasses.replace"
        )
    for stage, layout in enumerate(video_config.layouts):
        if sum(step.count("S") for step in video_config.steps(stage)) != 1:
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
    """A model of `config` with the weights of another: `model_file` of ours, or a released one.

    A video model starts from an image model by `inflate`, else from a model of its own
    configuration; only the number of classes may differ, and the head is then new. Raises
    ValueError naming the first field that differs.
    """
    source = _load_any(model_file(path))
    if source.config.kind == "image" and config.kind == "video":
        return inflate(source, config)  # type: ignore[arg-type]
    if name := _first_difference(config, source.config, _FREE):
        ours, theirs = config.to_dict()[name], source.config.to_dict()[name]
        if name == "code":
            ours, theirs = ({k: shown(v) for k, v in each.items()} for each in (ours, theirs))
        raise ValueError(
            f"init_from {path} holds a model with {name}={theirs!r}, not {ours!r}; set "
            f"{name}={theirs!r}, or start from another file"
        )
    model, state = create_model(config), source.state_dict()
    if config.num_classes != source.config.num_classes:
        state |= {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    model.load_state_dict(state)
    return model


def said_of_start(path: str | Path, config: PosMLPConfig) -> str:
    """What `start_from` copies, and what starts anew, in words."""
    source = _load_any(model_file(path)).config
    new = ["branches over time, as the identity"] if source.kind != config.kind else []
    if source.num_classes != config.num_classes:
        new.append(f"the head ({source.num_classes} classes there, {config.num_classes} here)")
    return f"init_from {path}: its weights are copied; anew start: {', '.join(new) or 'none'}"


def _load_any(path: Path) -> PosMLPVideo:
    """A model from a file of `save`, or of either released repository."""
    if path.suffix == ".safetensors" and "config" in _read_safetensors(path)[1]:
        return load(path)
    return load_released(path)
