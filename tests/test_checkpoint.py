"""Saving, loading, the released files, exports, and starting a video model from an image one."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from ablations.store.files import write_durably
from posmlp import (
    PosMLP,
    PosMLPConfig,
    PosMLPVideo,
    create_model,
    inflate,
    load,
    load_released,
    save,
)
from posmlp.checkpoint import read_tensors, write_atomically
from posmlp.cli import main
from posmlp.config_checks import GATE_NAMES
from posmlp.export import _EXPORTERS, LARGEST_DIFFERENCE, example_clips, export
from posmlp.presets import resolve
from posmlp.shapes import NotWrittenError
from tests import reference
from tests.test_model import SMALL, listed_shapes, make, randn, randomise
from tests.train.test_population import TINY

F64 = torch.float64
DEPTHS, DIMS, SIDES, GROUPS = (1, 2, 1, 1), (8, 12, 16, 20), (4, 2, 2, 1), (2, 3, 8, 10)
TABLE = "blocks2.0.t_fc.encoder.gate_unit.pos.window_relative_position_bias_table"


def released_state(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    shapes = reference.video_shapes(DEPTHS, DIMS, SIDES, 4, GROUPS, 6)
    state = reference.random_state(shapes, seed=1, dtype=dtype)
    for key in [k for k in state if k.endswith("bias_table")]:  # the buffers of a released file
        index = key.replace("bias_table", "index")
        num_tokens = state[key.replace("window_relative_position_bias_table", "token_proj_n_bias")]
        count = num_tokens.shape[1]
        temporal = ".t_fc." in key
        whole = reference.index_1d(count) if temporal else reference.index_2d(int(count**0.5))
        state[index] = whole[..., None] if temporal else whole
    return state


# Our own files


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_saved_model_loads_equal(gate: str, tmp_path: Path) -> None:
    model = randomise(create_model(PosMLPConfig(**SMALL, gate=gate, layout="T>S")))
    path = tmp_path / "folder" / "model.safetensors"
    save(model, path)
    again = load(path)
    assert again.config == model.config
    assert not again.training
    clips = randn(2, 3, 4, 16, 16)  # in float64, which is kept
    assert torch.equal(again(clips), model(clips))
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]  # nothing temporary


def with_shared_tables() -> PosMLPVideo:
    model = create_model("toy", num_classes=5)
    first, second = (block.steps[0]["T"].gate.positions for block in model.stages[2].blocks)
    second.table = first.table
    return model


def with_a_shared_linear() -> PosMLPVideo:
    model = create_model("toy", num_classes=5)
    first, second = (block.steps[0]["S"] for block in model.stages[2].blocks)
    second.fc1 = first.fc1
    return model


def compiled_in_part() -> PosMLPVideo:
    model = create_model("toy", num_classes=5)
    model.stages[1] = torch.compile(model.stages[1], backend="eager")
    return model


WRAPPED = {
    "tied tables": with_shared_tables,
    "a shared linear layer": with_a_shared_linear,
    "compiled in part": compiled_in_part,
    "compiled and data-parallel": lambda: torch.compile(
        torch.nn.DataParallel(create_model("toy")), backend="eager"
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_model_that_shares_or_wraps_comes_back(name: str, tmp_path: Path) -> None:
    model = WRAPPED[name]().eval()
    save(model, tmp_path / "model.safetensors")
    clips = randn(2, 3, 8, 32, 32, dtype=torch.float32)
    with torch.compiler.set_stance("force_eager"):  # what is compiled computes the same
        expected = model(clips)
    assert torch.allclose(load(tmp_path / "model.safetensors")(clips), expected, atol=1e-6)


def _prune(model: PosMLPVideo) -> object:
    return prune.l1_unstructured(model.head, "weight", amount=0.5)


class Sharpened(nn.Linear):
    """Logits of another scale, from the same weights."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def _replace_mix(model: PosMLPVideo) -> None:
    model.stages[0].blocks[0].steps[0]["T"].gate.mix = torch.zeros_like


CHANGED: dict[str, tuple[Callable[[PosMLPVideo], object], str]] = {
    "another head": (
        lambda model: setattr(model, "head", nn.Linear(128, 10)),
        r"the model's 'head\.weight' has shape \[10, 128\], that of its config shape \[5, 128\]; "
        "create the model with the config that it has now",
    ),
    "no head": (
        lambda model: setattr(model, "head", nn.Identity()),
        r"'head\.weight' has none, that of its config shape",
    ),
    "pruned": (_prune, r"'head\.weight_orig' has .*prune\.remove"),
    "parametrised": (
        lambda model: nn.utils.parametrizations.weight_norm(model.head),
        r"parametrizations\.weight\.original0' has .*remove_parametrizations",
    ),
    "a part more": (
        lambda model: model.add_module("projection", nn.Linear(2, 2)),
        r"'projection\.weight' has shape \[2, 2\], that of its config none",
    ),
    "a class more": (
        lambda model: setattr(model, "head", Sharpened(128, 5)),
        r"not compute the same: .*'head' is a Sharpened\(\), .* a Linear\(in_features=128",
    ),
    "another activation": (lambda model: setattr(model.stem, "gelu", nn.ReLU()), "is a ReLU"),
    "another epsilon": (lambda model: setattr(model.norm, "eps", 0.5), r"'norm' .*eps=0\.5"),
    "another mix": (_replace_mix, r"T\.gate' has a 'mix' of its own, .* PositionalGatingUnit"),
    "another class": (
        lambda model: setattr(model, "__class__", type("Mine", (PosMLPVideo,), {})),
        r"'class' is a Mine\(\)",
    ),
    "without numbers": (lambda model: model.to("meta"), "is on meta and has no numbers"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_load_could_not_read_is_refused_at_saving(name: str, tmp_path: Path) -> None:
    change, message = CHANGED[name]
    model = create_model("toy", num_classes=5)
    change(model)
    with pytest.raises(ValueError, match=r"model\.safetensors was not written.*" + message):
        save(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="Linear is no model of this package"):
        save(nn.Linear(2, 2), tmp_path / "model.safetensors")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """As those of shards on machines whose process numbers are the same; here threads of one."""
    contents = [bytes([i]) * 100_000 for i in range(4)]
    with ThreadPoolExecutor(4) as threads:
        writes = [
            threads.submit(write_atomically, tmp_path / "file", content)
            for content in contents * 50
        ]
    assert all(write.result() is None for write in writes)
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_saved_image_model_loads_as_an_image_model(tmp_path: Path) -> None:
    model = make(num_frames=1, layout="S", kind="image")
    save(model, tmp_path / "model.safetensors")
    assert isinstance(load(tmp_path / "model.safetensors"), PosMLP)


@pytest.mark.parametrize("folder", [b"plain", b"caf\xe9"])
def test_saved_file_holds_its_config_and_metadata(folder: bytes, tmp_path: Path) -> None:
    model, path = make(), tmp_path / os.fsdecode(folder) / "model.safetensors"
    save(model, path, seed="3")
    tensors, metadata = read_tensors(path)
    assert tensors.keys() == load(path).state_dict().keys() == model.state_dict().keys()
    assert PosMLPConfig.from_dict(json.loads(metadata["config"])) == model.config
    assert metadata["seed"] == "3"


def test_metadata_cannot_replace_the_config(tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match="config"):
        save(make(), tmp_path / "model.safetensors", config="{}")


def write(path: Path, state: dict[str, Tensor], config: PosMLPConfig) -> None:
    save_file(state, path, {"config": json.dumps(config.to_dict())})


@pytest.mark.parametrize("change", ["missing", "shape", "extra"])
def test_loading_another_models_file_names_the_key(change: str, tmp_path: Path) -> None:
    model, path = make(), tmp_path / "model.safetensors"
    state, key = dict(model.state_dict()), "stages.0.blocks.0.steps.0.T.fc1.weight"
    if change == "missing":
        del state[key]
    elif change == "shape":
        state[key] = torch.zeros(3, 8)
    else:
        key = "stages.7.weight"
        state[key] = torch.zeros(1)
    write(path, state, model.config)
    with pytest.raises(ValueError, match=re.escape(key)) as error:
        load(path)
    expected = {"missing": ["[16, 8]"], "shape": ["[3, 8]", "[16, 8]"], "extra": ["unexpected"]}
    assert all(part in str(error.value) for part in expected[change]), str(error.value)


def test_loading_what_is_no_model_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.safetensors"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"path=5 must be a file, a run folder or toy-ts"):
        load(5)  # type: ignore[arg-type]
    text = tmp_path / "text.safetensors"
    text.write_text("no tensors here", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.safetensors"):
        load(text)
    bare = tmp_path / "bare.safetensors"
    save_file({"weight": torch.zeros(2)}, bare)
    with pytest.raises(ValueError, match="load_released"):
        load(bare)
    wrong = tmp_path / "wrong.safetensors"
    save_file({"weight": torch.zeros(2)}, wrong, {"config": json.dumps({"gamma": 8})})
    with pytest.raises(ValueError, match="gamma"):
        load(wrong)


# Released files


def released_file(kind: str, folder: Path, state: dict[str, Tensor]) -> Path:
    """A released checkpoint as its repository would write it."""
    path = folder / f"model.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
        return path
    content: Any = {
        "pth": state,
        "slowfast": {"epoch": 3, "model_state": state, "cfg": "NUM_GPUS: 8"},
        "timm": {"state_dict": state, "arch": "posmlp"},
        "parallel": {"model": {f"module.{k}": v for k, v in state.items()}},
        "settings": {"state_dict": state, "args": Namespace(lr=0.1, out=Path("runs")), "epoch": 3},
        "best": {"model_state_dict": state, "best": np.float64(0.5), "curve": np.arange(3)},
        "average": {"model_ema": {f"module.{k}": v for k, v in state.items()}},
        "timm average": {"state_dict_ema": state, "args": Namespace(opt="adamw")},
        "compiled": {f"_orig_mod.module.{k}": v for k, v in state.items()},
        "nested": {"model": None, "module": {"state_dict": state}},
        "averaged": {f"module.{k}": v for k, v in state.items()} | {"n_averaged": torch.tensor(2)},
        "lightning": {"state_dict": {f"model.{k}": v for k, v in state.items()}, "loops": {}},
        "a part of a module": {
            "state_dict": {f"net.video.{k}": v for k, v in state.items()}
            | {"loss.w": torch.ones(6)}
        },
        "sharded": {f"_fsdp_wrapped_module.module.{k}": v for k, v in state.items()},
    }[kind]
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("safetensors", "pth", "slowfast", "timm", "parallel", "best"),
        *(
            "settings",
            "best",
            "average",
            "timm average",
            "compiled",
            "nested",
            "averaged",
            "lightning",
        ),
        *("a part of a module", "sharded"),
    ],
)
def test_released_file_of_every_container_loads_as_its_state(kind: str, tmp_path: Path) -> None:
    state = released_state()
    path = released_file(kind, tmp_path, state)
    clips = randn(1, 3, 4, 32, 32, dtype=torch.float32)
    assert torch.equal(load_released(path)(clips), load_released(state)(clips))
    assert torch.equal(load_released(str(path))(clips), load_released(state)(clips))


def test_of_two_released_models_in_a_file_none_is_chosen() -> None:
    both = {f"{name}.{k}": v for name in ("pupil", "teacher") for k, v in released_state().items()}
    with pytest.raises(ValueError, match=r"holds the models \['pupil.', 'teacher.'\]; save the"):
        load_released(both)


def test_released_video_config_is_read_from_the_shapes() -> None:
    config = load_released(released_state()).config
    assert (config.depths, config.dims, config.windows) == (DEPTHS, DIMS, SIDES)
    assert (config.num_groups, config.temporal_windows) == (GROUPS, (4,) * 4)
    assert (config.num_classes, config.num_frames, config.kind) == (6, 4, "video")
    assert (config.layout, config.gate, config.token_bias) == ("T+S", "lrpe", True)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        (
            "image tiny LRPE + token_proj_n_weight",
            dict(gate="lrpe+dense", stem_norm="layer", downsample_norm="batch",
                 downsample_depthwise=False),
        ),
        ("image tiny GQPE generalised", dict(gate="gqpe", gqpe_spread="full",
                                             downsample_depthwise=True, stem_norm="batch")),
        ("image tiny GQPE plain", dict(gate="gqpe", gqpe_spread="scalar")),
        ("image tiny LRPE (golden d)", dict(gate="lrpe", downsample_norm="layer")),
    ],
)  # fmt: skip
def test_released_image_config_is_read_from_the_shapes(
    shared: Path, title: str, expected: dict[str, Any]
) -> None:
    state = reference.random_state(listed_shapes(shared, title), seed=2)
    config = load_released(state).config
    assert config.dims == (16, 32, 64, 128)
    assert config.num_groups == (2, 4, 8, 16)
    assert (config.depths, config.windows, config.mlp_ratio) == (
        (1, 1, 2, 1), (4, 4, 4, 2), (4.0, 4.0, 4.0, 2.0)
    )  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("title", "num_parameters"),
    [("video SSV1_MLP_S16", 13_509_537), ("image PosMLP-T 224", 20_925_538)],
)
def test_whole_released_key_list_loads(shared: Path, title: str, num_parameters: int) -> None:
    shapes = listed_shapes(shared, title)
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    model = load_released(state)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert isinstance(model, PosMLP if title.startswith("image") else PosMLPVideo)


def test_released_dtype_is_kept_exactly() -> None:
    state = released_state(F64)
    state["norm.weight"] = state["norm.weight"] + 1e-12  # no float32 number
    model = load_released(state)
    assert model.norm.weight.dtype == F64
    assert torch.equal(model.norm.weight, state["norm.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("whole", [True, False])
def test_halves_of_a_checkpoint_are_widened(
    dtype: torch.dtype, whole: bool, tmp_path: Path
) -> None:
    state = released_state()
    halves = {k: v.to(dtype) if whole or k.startswith("patch") else v for k, v in state.items()}
    torch.save(halves, tmp_path / "model.pth")
    model = load_released(tmp_path / "model.pth")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.norm.weight, halves["norm.weight"].float())
    assert model(randn(1, 3, 4, 32, 32, dtype=torch.float32)).isfinite().all()
    save(model.to(dtype), tmp_path / "ours.safetensors")
    assert load(tmp_path / "ours.safetensors").norm.weight.dtype == torch.float32


def test_load_released_does_not_share_memory_with_its_source() -> None:
    state = released_state()
    model = load_released(state)
    state["norm.weight"].zero_()
    assert model.norm.weight.any()


@pytest.mark.parametrize("with_config", [True, False])
def test_released_key_that_is_missing_is_named(with_config: bool) -> None:
    state = released_state()
    config = load_released(state).config if with_config else None
    del state[TABLE]
    with pytest.raises(ValueError, match=re.escape(TABLE)) as error:
        load_released(state, config)
    assert "[7, 3]" in str(error.value)


def test_released_checkpoint_of_another_model_is_refused() -> None:
    state = released_state()
    config = load_released(state).config
    with pytest.raises(ValueError, match=rf"{re.escape(TABLE)}.* \[15, 3\], expected \[7, 3\]"):
        load_released(state | {TABLE: torch.zeros(15, 3)}, config)
    with pytest.raises(ValueError, match=r"decoder\.weight"):
        load_released(state | {"decoder.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="patch_embed"):
        load_released({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)})


@pytest.mark.parametrize(
    "change", [{"layout": "T>S"}, {"layout": "S"}, {"gate": "conv"}, {"num_classes": 9}]
)
def test_released_checkpoint_does_not_fit_another_config(change: dict[str, Any]) -> None:
    state = released_state()
    config = dataclasses.replace(load_released(state).config, **change)
    with pytest.raises(ValueError, match=r"T\+S|key"):
        load_released(state, config)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.to(torch.int8), "torch.int8, .* save it as dense floats"),
        (lambda t: t.to(torch.complex64), "torch.complex64, .* save it as dense floats"),
        (lambda t: t.to_sparse(), "torch.sparse_coo"),
        (lambda t: t.to("meta"), "on meta; save it as dense floats"),
        (lambda t: t.sum(), "other numbers of axes"),
    ],
)
def test_released_numbers_that_are_no_dense_floats_are_refused(
    change: Callable[[Tensor], Tensor], told: str
) -> None:
    state = {k: change(v) if v.is_floating_point() else v for k, v in released_state().items()}
    with pytest.raises(ValueError, match=told):
        load_released(state)
    with pytest.raises(ValueError, match="keys that are no text"):
        load_released({0: torch.zeros(1)})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<html>404", "it is damaged, or of another kind"),
        (b"PK\3\4 cut", "a file of torch or NumPy, cut or of another kind"),
    ],
)
@pytest.mark.parametrize("read", [load, load_released])
def test_file_of_another_kind_is_told_without_advice_to_trust_it(
    content: bytes, told: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / ("model.safetensors" if read is load else "model.pth")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told) as error:
        read(path)
    assert "weights_only" not in str(error.value)


class Payload:
    """A pickle that would write a file when read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.write_text, (self.path, "ran"))


def test_pickle_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "model.pth"
    torch.save({"model_state": released_state(), "cfg": Payload(witness)}, path)
    with pytest.raises(ValueError, match=r"model\.pth holds a Python object, .*may run any code"):
        load_released(path)
    path.write_bytes(pickle.dumps(Payload(witness)))
    with pytest.raises(ValueError, match=r"model\.pth"):
        load_released(path)
    assert not witness.exists()


def test_released_file_that_is_absent_or_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.pth"):
        load_released(tmp_path / "absent.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth"):
        load_released(tmp_path / "list.pth")


# From images to clips


def image_model(**values: Any) -> PosMLP:
    model = make(**{"num_frames": 1, "layout": "S", "kind": "image", "stem_convs": 3, **values})
    assert isinstance(model, PosMLP)
    return model


def video_config(image: PosMLP, **values: Any) -> PosMLPConfig:
    changes = {"kind": "video", "num_frames": 4, "temporal_windows": None, "layout": "T+S"}
    return dataclasses.replace(image.config, **{**changes, **values})


@pytest.mark.parametrize(
    ("layout", "gate"),
    [
        *((layout, "lrpe") for layout in ("T>S", "S>T", "ST+S", "T>S>ST", "S", "T + S")),
        *(("T+S", "gqpe"), ("T+S", "attention")),
    ],
)
def test_inflated_model_starts_as_the_image_model_averaged_over_frames(
    layout: str, gate: str
) -> None:
    image = image_model(gate=gate)
    video = inflate(image, video_config(image, layout=layout)).eval()
    clips = randn(2, 3, 4, 16, 16)
    frames = torch.stack([image(clips[:, :, t]) for t in range(4)])
    assert torch.equal(video.norm.weight, image.norm.weight)
    torch.testing.assert_close(video(clips), frames.mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"windows": (1, 1)},
        {"num_groups": (4, 3)},
        {"gate": "dense"},
        {"gate_form": "add"},
        {"gqpe_softmax": False},
        {"norm_eps": 1e-3},
        {"stem_convs": 2},
        {"stem_norm": "layer"},
        {"layout": "T"},
        {"layout": "S>S"},
    ],
    ids=str,
)
def test_inflating_into_another_computation_is_refused(change: dict[str, Any]) -> None:
    """Whatever would make the first outputs differ, not only what changes a shape."""
    image = image_model(gate="gqpe")
    with pytest.raises(ValueError, match=r"."):
        inflate(image, video_config(image, **change))


def test_inflated_head_is_new_where_the_classes_differ() -> None:
    image = image_model()
    video = inflate(image, video_config(image, num_classes=9))
    dtype = image.head.weight.dtype
    assert video(torch.zeros(1, 3, 4, 16, 16, dtype=dtype)).shape == (1, 9)
    assert torch.equal(video.stem.convs[0].weight, image.stem.convs[0].weight)


def test_inflate_leaves_the_image_model_as_it_was() -> None:
    image = image_model()
    before = {k: v.clone() for k, v in image.state_dict().items()}
    video = inflate(image, video_config(image))
    with torch.no_grad():
        for parameter in video.parameters():
            parameter.zero_()
    assert all(torch.equal(v, before[k]) for k, v in image.state_dict().items())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.ENOSPC,
            r"the disk of .*there is full \([\d,.]+ MB free, 2\.5 MB wanted\); ",
        ),
        (errno.EDQUOT, r"your quota in .*there is used up \(2\.5 MB wanted\)"),
        (errno.EROFS, r"there is read-only; give a folder that can be written to"),
        (errno.EACCES, r"you may not write to .*there"),
        (errno.ENAMETOOLONG, r", or the whole path, is too long a name; give a"),
        (errno.EIO, r"Input/output error \(2\.5 MB wanted\)"),
    ],
)
@pytest.mark.parametrize("write", [write_atomically, write_durably])
def test_what_cannot_be_written_is_said_in_a_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, number: int, words: str
) -> None:
    path = tmp_path / "there" / "file"
    write(path, b"before")

    def fail(_path: Path, content: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(NotWrittenError, match=f"^/.*file cannot be written: .*{words}") as said:
        write(path, bytes(2_500_000))
    assert said.value.errno == number
    assert "Errno" not in str(said.value)
    assert [each.name for each in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def test_names_that_no_disk_takes_are_said_in_a_sentence(tmp_path: Path) -> None:
    for place in ("n" * 300, f"{'n' * 300}/file"):
        with pytest.raises(NotWrittenError, match="is too long a name; give a shorter one"):
            write_atomically(tmp_path / place, b"content")
    (tmp_path / "there").touch()
    for place in ("there/file", "there/folder/file"):
        with pytest.raises(NotWrittenError, match=r"there is a file; give another folder"):
            write_atomically(tmp_path / place, b"content")
    for write in (write_atomically, write_durably):
        for folder in (tmp_path, Path()):
            with pytest.raises(NotWrittenError, match="it is a folder; name a file"):
                write(folder, b"content")


# Exported models give the model's logits, at any batch size, without this package

ONE_BLOCK = resolve(TINY, depths=(1,), layout="T")
IMAGE = resolve(ONE_BLOCK, kind="image", layout="S", num_frames=1)

RUN_WITHOUT_US = """
import sys, torch, onnxruntime
clips = torch.load("clips")
found = [torch.export.load("model.pt2").module()(clips)]
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
found.append(torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0]))
torch.save(found, "logits")
assert "posmlp" not in sys.modules
"""


def test_exported_files_give_the_models_logits_in_another_process(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install -e '.[export]'")
    model = randomise(create_model(ONE_BLOCK, layout="T>S+ST")).train()
    paths = [tmp_path / "model.onnx", tmp_path / "model.pt2"]
    assert all(export(model, path) <= LARGEST_DIFFERENCE for path in paths)
    assert model.training
    clips = example_clips(model, 5)
    torch.save(clips, tmp_path / "clips")
    subprocess.run([sys.executable, "-c", RUN_WITHOUT_US], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = model.eval()(clips.double()).float()
    for found in torch.load(tmp_path / "logits"):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert sorted(tmp_path.glob("*.*")) == paths, "scraps were left"


@pytest.mark.parametrize("gate", ["gqpe", "attention"])
def test_every_gate_can_be_exported(gate, tmp_path):
    """To ONNX, which is made of what goes into a .pt2."""
    pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install -e '.[export]'")
    model = randomise(create_model(ONE_BLOCK, gate=gate))
    assert export(model, tmp_path / "model.onnx") <= LARGEST_DIFFERENCE


def _deny(*_args, **_more):
    raise PermissionError(errno.EACCES, "Permission denied")


def _full(*_args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_places_that_cannot_be_written_to_are_named_before_the_work(tmp_path, capsys, monkeypatch):
    source = tmp_path / "model.safetensors"
    save(create_model(ONE_BLOCK), source)
    (tmp_path / "folder.pt2").mkdir()
    monkeypatch.setattr("posmlp.export._program", lambda _model: pytest.fail("it was exported"))
    cases = {
        "model.pth": "model.pth, '.pth'. Did you mean '.pt2'? Use one of: .pt2, .onnx",
        "model": "model, ''. Use one of: .pt2, .onnx",
        "folder.pt2": "is a folder; name a file, for example",
        "model.safetensors/model.pt2": "model.safetensors is a file; give another folder",
    }
    before = sorted(tmp_path.rglob("*"))
    for name, message in cases.items():
        assert main(["export", str(source), str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    monkeypatch.setattr(Path, "touch", _deny)
    assert main(["export", str(source), str(tmp_path / "model.pt2")]) == 2
    assert f"you may not write to {tmp_path}; give a folder" in capsys.readouterr().err
    assert main(["export", str(tmp_path), str(tmp_path / "model.pt2")]) == 2
    assert "is a folder; give a file, such as a run's model-" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(_EXPORTERS, ".pt2", lambda model: (bytes(1_200_000), model))
    monkeypatch.setattr(Path, "write_bytes", _full)
    assert main(["export", str(source), str(tmp_path / "model.pt2")]) == 2
    assert re.search(r"model.pt2 cannot .* full \(.* free, 1.2 MB wanted", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


def test_command_exports_an_image_model_and_says_how_close(tmp_path, capsys):
    model, target = create_model(IMAGE), tmp_path / os.fsdecode(b"caf\xe9.pt2")
    save(model, tmp_path / "model.safetensors")
    assert main(["export", str(tmp_path / "model.safetensors"), str(target)]) == 0
    assert "largest difference" in capsys.readouterr().out
    images = example_clips(model, 2)
    assert images.shape == (2, 3, 8, 8)
    with target.open("rb") as file:
        assert torch.export.load(file).module()(images).shape == (2, 3)
