"""Parity with the released models' own numbers: ours, and the reference formulation by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from posmlp import PositionalGatingUnit, PosMLP, PosMLPConfig, PosMLPVideo, load_released
from posmlp.model import Branch, Stage
from posmlp.parts.stem import Downsample, Stem
from tests import reference

REPOSITORY = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[1] / "../shared/golden"
STRIDE = 13  # of the taps kept in the repository: see golden/README.md
WIDE, NARROW = (torch.float64, 1e-10), (torch.float32, 1e-5)

Run = Callable[[Tensor], Tensor]


def folder(place: str) -> Path:
    if place == "shared" and not SHARED.is_dir():
        pytest.skip("the whole golden set is not beside this checkout (../shared/golden)")
    return SHARED if place == "shared" else REPOSITORY


def cast(state: reference.State, dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


def assert_near(ours: Tensor, golden: Tensor, tolerance: float, what: str) -> None:
    """Largest difference over the golden tensor's largest value."""
    assert ours.shape == golden.shape, f"{what}: {tuple(ours.shape)}, not {tuple(golden.shape)}"
    gap = ((ours.double() - golden).abs().max() / golden.abs().max()).item()
    assert gap <= tolerance, f"{what}: relative difference {gap:.1e} > {tolerance:.0e}"


@dataclass(frozen=True)
class Unit:
    """One of our modules as the golden unit: how it runs, and its released parameter names."""

    module: nn.Module
    run: Run
    names: dict[str, str]

    def released(self, key: str) -> str:
        for ours, name in self.names.items():
            key = key.replace(ours, name)
        return key

    def load(self, state: reference.State, dtype: torch.dtype) -> None:
        values = {}
        for key, tensor in self.module.state_dict().items():
            value = state[self.released(key)]
            values[key] = like_ours(self.released(key), value, tensor)
        self.module.load_state_dict(values)
        self.module.to(dtype).eval()


def like_ours(name: str, released: Tensor, ours: Tensor) -> Tensor:
    """A released tensor in our layout: tables are transposed, singleton axes go."""
    return (released.T if name.endswith("bias_table") else released).reshape(ours.shape)


POS = {
    "token_bias": "pos.token_proj_n_bias",
    "positions.table": "pos.window_relative_position_bias_table",
}
LAYER = {f"gate.{ours}": f"gate_unit.{name}" for ours, name in POS.items()}
BLOCK = {"blocks.0.steps.0.S.": "fc.encoder.", "blocks.0.steps.0.T.": "t_fc.encoder.", **LAYER}
STEM = {f"{ours}s.{i}": f"{name}{i + 1}" for ours, name in (("conv", "proj"), ("norm", "norm"))
        for i in (0, 1)}  # fmt: skip


def stage_config(dim: int, side: int, frames: int, groups: int, layout: str) -> PosMLPConfig:
    return PosMLPConfig(
        depths=(1,), dims=(dim,), windows=side, num_frames=frames, num_groups=groups,
        image_size=4 * side, layout=layout,
    )  # fmt: skip


def gate_unit(form: str, window: tuple[int, ...], groups: int) -> Unit:
    unit = PositionalGatingUnit(24, window, groups, form=form)
    bare = {ours: name.removeprefix("pos.") for ours, name in POS.items()}
    return Unit(unit, unit, bare if form == "mix" else POS)


def layer_unit(axes: str, side: int, frames: int, groups: int) -> Unit:
    """The branch alone; the released temporal layer takes (B, places, T, C)."""
    module = Branch(stage_config(24, side, frames, groups, axes), 0, axes)
    if axes == "S":
        return Unit(module, module, LAYER)
    return Unit(module, lambda x: module(x.transpose(1, 2)).transpose(1, 2), LAYER)


def stage_unit(layout: str, side: int, frames: int, groups: int) -> Unit:
    """A stage of one block; the released levels have no residual, the block has."""
    module = Stage(stage_config(24, side, frames, groups, layout), 0)
    if layout == "T+S":
        return Unit(module, module, BLOCK)
    names = {f"blocks.0.steps.0.{layout}.": "encoder.", **LAYER}
    return Unit(module, lambda x: module(x) - x, names)


def stem_unit() -> Unit:
    module = Stem(stage_config(12, 1, 3, 1, "S"))
    return Unit(module, lambda x: over_frames(module, x), STEM)


def over_frames(stem: nn.Module, clips: Tensor) -> Tensor:
    """(B, C, T, H, W) through a module of frames, and back."""
    frames = stem(clips.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (clips.shape[0], clips.shape[2])).transpose(1, 2)


def downsample_unit() -> Unit:
    config = PosMLPConfig(
        depths=(1, 1), dims=(6, 10), windows=1, num_groups=1, num_frames=3, image_size=32
    )
    module = Downsample(config, 1)
    return Unit(module, module, {"conv.": "proj."})


UNITS: dict[str, tuple[Callable[[], Unit], Callable[[reference.State, Tensor], Tensor]]] = {
    "pos_temporal": (
        lambda: gate_unit("mix", (6,), 4),
        lambda state, x: reference.mix_positions(state, x, spatial=False),
    ),
    "pos_spatial": (
        lambda: gate_unit("mix", (3, 3), 6),
        lambda state, x: reference.mix_positions(state, x, spatial=True),
    ),
    "gate_temporal": (
        lambda: gate_unit("multiply", (6,), 4),
        lambda state, x: reference.gate(state, x, spatial=False),
    ),
    "gate_spatial": (
        lambda: gate_unit("multiply", (3, 3), 6),
        lambda state, x: reference.gate(state, x, spatial=True),
    ),
    "layer_temporal": (
        lambda: layer_unit("T", 1, 6, 4),
        lambda state, x: reference.branch(state, x, spatial=False),
    ),
    "layer_spatial": (
        lambda: layer_unit("S", 3, 5, 6),
        lambda state, x: reference.branch(state, x, spatial=True),
    ),
    "level_temporal": (lambda: stage_unit("T", 2, 5, 4), reference.temporal_level),
    "level_spatial": (lambda: stage_unit("S", 2, 5, 3), reference.spatial_level),
    "block": (lambda: stage_unit("T+S", 2, 5, 3), reference.block),
    "stem": (stem_unit, reference.video_stem),
    "downsample": (downsample_unit, reference.video_downsample),
}
IN_REPOSITORY = ("block", "stem", "downsample")
UNIT_PLACES = [("repository", n) for n in IN_REPOSITORY] + [("shared", n) for n in UNITS]


@pytest.mark.parametrize(("place", "name"), UNIT_PLACES)
@pytest.mark.parametrize(("dtype", "tolerance"), [WIDE, NARROW])
def test_unit_output_equals_released(
    place: str, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    golden = load_file(folder(place) / f"g_{name}.safetensors")
    unit = UNITS[name][0]()
    unit.load(reference.within(golden, "sd."), dtype)
    out = unit.run(golden["input"].to(dtype))
    assert_near(out, golden["out_f64"], tolerance, name)


@pytest.mark.parametrize(("place", "name"), UNIT_PLACES)
def test_unit_gradients_equal_released(place: str, name: str) -> None:
    golden = load_file(folder(place) / f"g_{name}.safetensors")
    unit = UNITS[name][0]()
    unit.load(reference.within(golden, "sd."), torch.float64)
    x = golden["input"].double().requires_grad_()
    (unit.run(x) * golden["loss_weights"]).sum().backward()
    assert x.grad is not None
    assert_near(x.grad, golden["grad_input"], 1e-8, "input")
    checked = set()
    for key, parameter in unit.module.named_parameters():
        released = unit.released(key)
        assert parameter.grad is not None, f"{key} has no gradient"
        expected = like_ours(released, golden[f"grad.{released}"], parameter)
        assert_near(parameter.grad, expected, 1e-8, key)
        checked.add(released)
    assert checked == set(reference.within(golden, "grad."))


@pytest.mark.parametrize("name", ["pos_temporal", "pos_spatial"])
def test_relation_equals_released_position_map(name: str) -> None:
    golden = load_file(folder("shared") / f"g_{name}.safetensors")
    unit = UNITS[name][0]()
    unit.load(reference.within(golden, "sd."), torch.float64)
    assert isinstance(unit.module, PositionalGatingUnit)
    assert torch.equal(unit.module.relation(), golden["posmap_f64"])


@pytest.mark.parametrize(("place", "name"), UNIT_PLACES)
def test_reference_unit_equals_released(place: str, name: str) -> None:
    golden = load_file(folder(place) / f"g_{name}.safetensors")
    state = cast(reference.within(golden, "sd."), torch.float64)
    gradients = reference.within(golden, "grad.")
    for key in gradients:
        state[key].requires_grad_()
    x = golden["input"].double().requires_grad_()
    out = UNITS[name][1](state, x)
    assert_near(out, golden["out_f64"], 1e-12, name)
    (out * golden["loss_weights"]).sum().backward()
    for key, expected in {**gradients, "input": golden["grad_input"]}.items():
        found = x.grad if key == "input" else state[key].grad
        assert found is not None
        assert_near(found, expected, 1e-12, key)


def whole_model(
    place: str, name: str, dtype: torch.dtype
) -> tuple[dict, Tensor, dict[str, Tensor]]:
    """State, input and golden taps (with logits, where kept) of a whole model."""
    golden = load_file(folder(place) / f"{name}.safetensors")
    state = cast(reference.within(golden, "sd."), dtype)
    taps = reference.within(golden, "out_f64.")
    if "logits_f64" in golden:
        taps["logits"] = golden["logits_f64"]
    else:  # the image weights kept here end after level 1: norm and head are stand-ins, unchecked
        ones = torch.ones(32, dtype=dtype)
        state |= {"norm.weight": ones, "norm.bias": 0 * ones}
        state |= {"head.weight": ones[None], "head.bias": 0 * ones[:1]}
    return state, golden["input"].to(dtype), taps


def assert_taps(ours: dict, golden: dict, place: str, tolerance: float) -> None:
    for name, expected in golden.items():
        thinned = place == "repository" and name != "logits"
        found = ours[name].flatten()[::STRIDE] if thinned else ours[name]
        assert_near(found, expected, tolerance, name)


def video_taps(model: PosMLPVideo, clips: Tensor) -> dict[str, Tensor]:
    stem, *stages = model.forward_features(clips)
    taps = {"stem": stem.permute(0, 4, 1, 2, 3), "logits": model(clips)}
    for i, x in enumerate(stages, start=1):
        taps[f"stage{i}"] = x
        if i < len(stages):
            taps[f"down{i + 1}"] = model.downsamples[i - 1](x)
    taps["final_norm"] = model.norm(stages[-1]).flatten(1, 3)
    return taps


def image_taps(model: PosMLP, images: Tensor) -> dict[str, Tensor]:
    stem, *stages = model.forward_features(images)
    taps = {f"level{i}": x.permute(0, 3, 1, 2) for i, x in enumerate(stages)}
    taps |= {"stem": stem.permute(0, 3, 1, 2), "final_norm_NHWC": model.norm(stages[-1])}
    return taps | {"logits": model(images)}


@pytest.mark.parametrize("place", ["repository", "shared"])
@pytest.mark.parametrize(("dtype", "tolerance"), [WIDE, NARROW])
@torch.no_grad()
def test_video_model_equals_released(place: str, dtype: torch.dtype, tolerance: float) -> None:
    state, clips, golden = whole_model(place, "a_video_tiny", dtype)
    model = load_released(state)
    assert type(model) is PosMLPVideo
    assert_taps(video_taps(model, clips), golden, place, tolerance)


@pytest.mark.parametrize("place", ["repository", "shared"])
@pytest.mark.parametrize(("dtype", "tolerance"), [WIDE, NARROW])
@torch.no_grad()
def test_image_model_equals_released(place: str, dtype: torch.dtype, tolerance: float) -> None:
    state, images, golden = whole_model(place, "d_image_lrpe", dtype)
    model = load_released(state)
    assert isinstance(model, PosMLP)
    assert_taps(image_taps(model, images), golden, place, tolerance)


@pytest.mark.parametrize("place", ["repository", "shared"])
@pytest.mark.parametrize(
    ("name", "run"),
    [("a_video_tiny", reference.video_model), ("d_image_lrpe", reference.image_model)],
)
@torch.no_grad()
def test_reference_model_equals_released(place: str, name: str, run: Callable) -> None:
    state, x, golden = whole_model(place, name, torch.float64)
    assert_taps(run(state, x), golden, place, 1e-12)


def test_reference_index_equals_released_buffers() -> None:
    checked = 0
    for path in sorted(folder("shared").glob("*.safetensors")):
        for key, index in load_file(path).items():
            if not key.endswith("position_index"):
                continue
            num_tokens = index.shape[0]
            temporal = index.dim() == 3
            side = round(num_tokens**0.5)
            ours = reference.index_1d(num_tokens) if temporal else reference.index_2d(side)
            assert torch.equal(ours, index.squeeze(-1) if temporal else index)
            checked += 1
    assert checked >= 15


@pytest.mark.parametrize("name", [path.stem for path in sorted(REPOSITORY.glob("*.safetensors"))])
def test_kept_golden_files_are_cut_from_the_whole_set_as_stated(name: str) -> None:
    kept, whole = (load_file(f / f"{name}.safetensors") for f in (REPOSITORY, folder("shared")))
    for key, value in kept.items():
        source = whole[key]
        if not name.startswith("g_") and not key.startswith("sd."):
            source = source[:1]
            source = source.flatten()[::STRIDE] if key.startswith("out_f64.") else source
        assert torch.equal(value, source), key
