"""Whole models: against the reference, the laws of layouts and windows, presets, seeds at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from posmlp import PosMLP, PosMLPConfig, PosMLPVideo, create_model, load_released
from posmlp.config_checks import GATE_FORMS, GATE_NAMES
from posmlp.model import Stage, Step
from posmlp.parts.drop_path import drop_path, keep_rates
from tests import reference

F64 = torch.float64
SMALL: dict[str, Any] = dict(
    num_classes=5, num_frames=4, image_size=16, depths=(1, 1), dims=(8, 12), num_groups=(2, 3),
    windows=(2, 1),
)  # fmt: skip


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


AnyModule = TypeVar("AnyModule", bound=nn.Module)


def randomise(module: AnyModule, seed: int = 0) -> AnyModule:
    """Every parameter random, in float64, in eval mode."""
    module.double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            scale = 0.5 / math.sqrt(parameter[0].numel() or 1) if parameter.dim() > 1 else 0.3
            parameter.copy_(scale * randn(*parameter.shape, seed=1000 * seed + i))
    return module


def make(**values: Any) -> PosMLPVideo:
    return randomise(create_model(PosMLPConfig(**{**SMALL, **values})))


def stage(layout: str, seed: int = 0, **values: Any) -> Callable[[Tensor], Tensor]:
    """The first stage alone, on (B, T, H, W, C)."""
    config = PosMLPConfig(**{**SMALL, "layout": layout, **values})
    module = randomise(Stage(config, 0), seed)
    return module


# The released models, with other sizes than the golden ones


@pytest.mark.parametrize(
    ("groups", "size", "windows"),
    [
        ((1, 1, 1, 1), (32, 64), (4, 2, 2, 1)),
        ((8, 12, 16, 20), (32, 32), (2, 4, 1, 1)),
        ((4, 3, 8, 10), (30, 61), (4, 4, 2, 1)),
    ],
)
def test_video_model_equals_reference(
    groups: tuple[int, ...], size: tuple[int, int], windows: tuple[int, ...]
) -> None:
    shapes = reference.video_shapes((1, 2, 1, 1), (8, 12, 16, 20), windows, 3, groups, 7)
    state = reference.random_state(shapes, seed=1)
    clips = randn(2, 3, 3, *size, seed=2)
    model = load_released(state)
    taps = reference.video_model(state, clips)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), taps["logits"], rtol=0, atol=1e-11)
        features = model.forward_features(clips)
    assert len(features) == 5
    stem = taps["stem"].permute(0, 2, 3, 4, 1)
    expected_features = [stem, *(taps[f"stage{i}"] for i in range(1, 5))]
    for ours, expected in zip(features, expected_features, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


def test_video_model_trains_as_reference() -> None:
    """Batch statistics, every gradient, and the moved running statistics."""
    shapes = reference.video_shapes((1, 1, 1, 1), (8, 12, 16, 20), (2, 2, 1, 1), 3, (2, 3, 4, 5), 7)
    state = reference.random_state(shapes, seed=3)
    clips, weights = randn(2, 3, 3, 32, 32, seed=4), randn(2, 7, seed=5)
    model = load_released(state).train()
    (model(clips) * weights).sum().backward()
    theirs = {k: v.clone() for k, v in state.items()}
    learned = [k for k in theirs if theirs[k].is_floating_point() and "running" not in k]
    for key in learned:
        theirs[key].requires_grad_()
    (reference.video_model(theirs, clips, training=True)["logits"] * weights).sum().backward()

    ours = {p: p.grad for p in model.parameters()}
    assert len(ours) == len(learned)
    norms = sorted(float(gradient.norm()) for gradient in ours.values() if gradient is not None)
    expected = sorted(float(theirs[key].grad.norm()) for key in learned)  # type: ignore[union-attr]
    assert norms == pytest.approx(expected, rel=1e-8, abs=1e-11)
    assert isinstance(model.stem.norms[0], nn.BatchNorm2d)
    moved = model.stem.norms[0].running_var
    torch.testing.assert_close(moved, theirs["patch_embed1.norm1.running_var"])
    assert not torch.equal(moved, state["patch_embed1.norm1.running_var"])


KEY_LISTS = [
    "image tiny LRPE + token_proj_n_weight",
    "image tiny GQPE generalised",
    "image tiny GQPE plain",
    "image tiny LRPE (golden d)",
]


def listed_shapes(shared: Path, title: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes of one list in STATE_DICT_KEYS.md."""
    text = (shared / "STATE_DICT_KEYS.md").read_text(encoding="utf-8")
    section = next(part for part in text.split("\n## ") if part.startswith(title))
    rows = re.findall(r"^(\S+)\s+\[([\d, ]*)\]", section, re.MULTILINE)
    return {name: tuple(int(n) for n in sizes.split(",") if n.strip()) for name, sizes in rows}


@pytest.mark.parametrize("title", KEY_LISTS)
def test_image_model_of_every_listed_kind_equals_reference(shared: Path, title: str) -> None:
    state = reference.random_state(listed_shapes(shared, title), seed=6)
    images = randn(2, 3, 64, 64, seed=7)
    model = load_released(state)
    assert isinstance(model, PosMLP)
    taps = reference.image_model(state, images)
    with torch.no_grad():
        torch.testing.assert_close(model(images), taps["logits"], rtol=0, atol=1e-11)
        stem, *levels = model.forward_features(images)
    torch.testing.assert_close(stem, taps["stem"].permute(0, 2, 3, 1), rtol=0, atol=1e-11)
    for i, level in enumerate(levels):
        expected = taps[f"level{i}"].permute(0, 2, 3, 1)
        torch.testing.assert_close(level, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("symmetric", "softmax"), [(False, True), (True, False), (False, False)])
def test_image_gqpe_switches_equal_reference(shared: Path, symmetric: bool, softmax: bool) -> None:
    state = reference.random_state(listed_shapes(shared, "image tiny GQPE generalised"), seed=8)
    state = {
        k: (0.1 * v).float().double() if k.endswith("centers") else v for k, v in state.items()
    }
    images = randn(1, 3, 64, 64, seed=9)
    inferred = load_released(state).config
    config = PosMLPConfig.from_dict(
        {**inferred.to_dict(), "gqpe_symmetric": symmetric, "gqpe_softmax": softmax}
    )
    ours = load_released(state, config)(images)
    variant = reference.Variant(symmetric, softmax)
    expected = reference.image_model(state, images, variant)["logits"]
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(ours, load_released(state)(images), atol=1e-6)


# Presets


@pytest.mark.parametrize(
    ("preset", "overrides", "num_parameters"),
    [
        ("s16", {}, 13_509_537),
        ("s16", {"num_classes": 400}, 13_639_939),
        ("s16-96", {}, 23_692_209),
        ("b16", {}, 18_983_846),
        ("b16-96", {}, 33_263_846),
        ("s16-112", {}, 25_141_225),
        ("b16-112", {}, 35_246_654),
        ("image-t", {}, 20_925_538),
        ("image-t", {"gate": "lrpe"}, 21_397_554),
        ("image-s", {}, 36_816_450),
        ("image-s", {"gate": "lrpe"}, 37_288_466),
        ("image-b", {}, 81_976_834),
    ],
)
def test_preset_has_the_released_number_of_parameters(
    preset: str, overrides: dict, num_parameters: int
) -> None:
    with torch.device("meta"):
        model = create_model(preset, **overrides)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_meta_forward_gives_the_shapes(gate: str) -> None:
    with torch.device("meta"):
        model = create_model(PosMLPConfig(**SMALL, gate=gate, layout="T+S>ST"))
        assert model(torch.zeros(2, 3, 4, 16, 16)).shape == (2, 5)


# Shapes


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_every_gate_and_form_runs_in_every_branch(gate: str) -> None:
    for form, token_bias in zip(GATE_FORMS, [True, False, True], strict=True):
        model = make(gate=gate, gate_form=form, layout="T>S>ST", token_bias=token_bias,
                     temporal_windows=(2, 4))  # fmt: skip
        clips = randn(2, 3, 4, 16, 24)
        assert model(clips).shape == (2, 5)
        shapes = [tuple(x.shape) for x in model.forward_features(clips)]
        assert shapes == [(2, 4, 4, 6, 8), (2, 4, 4, 6, 8), (2, 4, 2, 3, 12)]


def test_head_of_zero_classes_gives_pooled_features() -> None:
    model, clips = make(num_classes=0), randn(2, 3, 4, 16, 16)
    pooled = model.norm(model.forward_features(clips)[-1]).mean((1, 2, 3))
    torch.testing.assert_close(model(clips), pooled)


def test_image_model_is_the_video_model_of_one_frame() -> None:
    values = {**SMALL, "num_frames": 1, "layout": "S"}
    image = randomise(create_model(PosMLPConfig(**values, kind="image")))
    video = randomise(create_model(PosMLPConfig(**values)))
    images = randn(2, 3, 16, 16)
    torch.testing.assert_close(image(images), video(images[:, :, None]))
    assert [x.dim() for x in image.forward_features(images)] == [4, 4, 4]


# Layouts and windows


@given(
    st.lists(
        st.lists(st.sampled_from(["T", "S", "ST"]), min_size=1, max_size=3, unique=True),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=25)
def test_layout_sums_parallel_branches_and_chains_steps(parsed: list[list[str]]) -> None:
    """Each branch taken out as its own stage, then put together by the layout's meaning."""
    config = PosMLPConfig(**{**SMALL, "layout": ">".join("+".join(step) for step in parsed)})
    whole = randomise(Stage(config, 0))
    x = expected = randn(2, 4, 4, 4, 8, seed=1)
    for i, step in enumerate(parsed):
        update = torch.zeros_like(x)
        for axes in step:
            single = Stage(PosMLPConfig(**{**SMALL, "layout": axes}), 0).double()
            own = reference.within(whole.state_dict(), f"blocks.0.steps.{i}.{axes}.")
            single.load_state_dict({f"blocks.0.steps.0.{axes}.{k}": v for k, v in own.items()})
            update = update + single(expected) - expected
        expected = expected + update
    out = whole(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def reached(run: Callable[[Tensor], Tensor], place: tuple[int, int, int]) -> set:
    """Places (t, h, w) whose output changes with the input at `place`."""
    x = randn(1, 4, 4, 6, 8, seed=2)
    other = x.clone()
    other[0, place[0], place[1], place[2], 0] += 1.0  # layer norm cancels a shift of all
    changed = ((run(x) - run(other)).abs() > 1e-12).any(-1)[0]
    return {tuple(where) for where in changed.nonzero().tolist()}


WINDOWS = {
    "T": {(t, 1, 3) for t in range(4)},
    "S": {(2, h, w) for h in (0, 1) for w in (2, 3)},
    "ST": {(t, h, w) for t in range(4) for h in (0, 1) for w in (2, 3)},
}


@pytest.mark.parametrize("layout", ["T", "S", "ST"])
@pytest.mark.parametrize(
    "gate", [gate for gate in GATE_NAMES if gate not in ("conv", "none", "centred-mean")]
)
def test_branch_mixes_its_own_window_and_nothing_else(layout: str, gate: str) -> None:
    assert reached(stage(layout, gate=gate), (2, 1, 3)) == WINDOWS[layout]


@pytest.mark.parametrize("layout", ["T", "S", "ST"])
@pytest.mark.parametrize("gate", ["none", "centred-mean"])
def test_branch_without_mixing_stays_in_place(layout: str, gate: str) -> None:
    assert reached(stage(layout, gate=gate), (2, 1, 3)) == {(2, 1, 3)}


@pytest.mark.parametrize(("layout", "frames"), [("T", 2), ("ST", 2), ("T", 1), ("ST", 1)])
def test_temporal_window_shorter_than_the_clip_cuts_it(layout: str, frames: int) -> None:
    """Source: the released unit sums all frames silently when its window is 1."""
    times = set(range(2, 2 + frames))
    expected = {place for place in WINDOWS[layout] if place[0] in times}
    assert reached(stage(layout, temporal_windows=frames), (2, 1, 3)) == expected


def reverse_time(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tables and token biases of T and ST branches for clips played backwards."""
    out = dict(state)
    for key, value in state.items():
        if ".T.gate" in key or ".ST.gate" in key:
            joint = ".ST." in key
            if key.endswith("positions.table"):
                out[key] = value.flip(1)
            elif key.endswith("token_bias"):
                parts = value.unflatten(0, (4, -1)) if joint else value
                out[key] = parts.flip(0).reshape(value.shape)
    return out


@pytest.mark.parametrize("layout", ["T+S", "T>S", "ST", "ST+S>T"])
def test_reversed_clip_is_the_model_with_swapped_time_offsets(layout: str) -> None:
    model, mirror = make(layout=layout), make(layout=layout)
    mirror.load_state_dict(reverse_time(model.state_dict()))
    clips = randn(2, 3, 4, 16, 16)
    backwards = mirror.forward_features(clips.flip(2))
    for ours, other in zip(model.forward_features(clips), backwards, strict=True):
        torch.testing.assert_close(other, ours.flip(1), rtol=0, atol=1e-11)
    torch.testing.assert_close(mirror(clips.flip(2)), model(clips), rtol=0, atol=1e-11)
    assert not torch.allclose(model(clips.flip(2)), model(clips), atol=1e-6)


@pytest.mark.parametrize("layout", ["S", "S>S"])
def test_spatial_model_does_not_see_the_order_of_frames(layout: str) -> None:
    model, clips = make(layout=layout), randn(2, 3, 4, 16, 16)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(clips[:, :, order]), model(clips), rtol=0, atol=1e-12)


def test_gate_none_sees_the_order_of_frames_by_its_token_biases_alone() -> None:
    clips = randn(2, 3, 4, 16, 16)
    marked, blind = make(gate="none"), make(gate="none", token_bias=False)
    assert not torch.allclose(marked(clips.flip(2)), marked(clips), atol=1e-6)
    torch.testing.assert_close(blind(clips.flip(2)), blind(clips), rtol=0, atol=1e-12)


def test_clips_do_not_see_each_other() -> None:
    model, clips = make(), randn(3, 3, 4, 16, 16)
    torch.testing.assert_close(model(clips)[1:2], model(clips[1:2]), rtol=0, atol=1e-12)


# The released start


def test_released_start_is_the_identity_and_moves_tables_first() -> None:
    torch.manual_seed(0)
    model = create_model(PosMLPConfig(**SMALL, init="released")).double()
    clips = randn(2, 3, 4, 16, 16)
    stem, first, _ = model.forward_features(clips)
    assert torch.equal(stem, first)
    (model(clips) * randn(2, 5)).sum().backward()
    for name, parameter in model.named_parameters():
        if ".blocks." in name:
            assert parameter.grad is not None
            moves = name.endswith(("positions.table", "token_bias", "fc2.bias"))
            assert bool(parameter.grad.any()) == moves, name


# Stochastic depth


def with_scales(model: PosMLPVideo, clips: Tensor, scales: Tensor) -> Tensor:
    """Logits under the factors (steps, B), lent to the residual steps one by one."""
    steps = [name for name, module in model.named_modules() if isinstance(module, Step)]
    lent = {f"{name}.scale": scale for name, scale in zip(steps, scales, strict=True)}
    return functional_call(model, lent, (clips,))


def test_scales_of_zero_make_every_block_the_identity() -> None:
    model, clips = make(depths=(2, 1), layout="T>S"), randn(2, 3, 4, 16, 16)
    scales = torch.zeros(6, 2, dtype=F64)
    empty = make(depths=(2, 1), layout="T>S")
    for name, parameter in empty.named_parameters():
        if ".fc2." in name:
            nn.init.zeros_(parameter)
    torch.testing.assert_close(with_scales(model, clips, scales), empty(clips), rtol=0, atol=1e-12)
    ones = torch.ones_like(scales)
    torch.testing.assert_close(with_scales(model, clips, ones), model(clips), rtol=0, atol=1e-12)
    assert model.state_dict().keys() == empty.state_dict().keys()


def test_scales_act_clip_by_clip() -> None:
    model, clips = make(layout="T+S>ST"), randn(3, 3, 4, 16, 16)
    scales = randn(4, 3).abs()
    together = with_scales(model, clips, scales)
    for b in range(3):
        alone = with_scales(model, clips[b : b + 1], scales[:, b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-12)


def test_drop_rates_rise_linearly_and_keep_the_mean() -> None:
    config = PosMLPConfig(**{**SMALL, "depths": (2, 3), "drop_path": 0.4, "layout": "T>S"})
    rates = torch.linspace(0, 0.4, 5).repeat_interleave(2)
    torch.testing.assert_close(1 - keep_rates(config), rates)
    model = create_model(config)
    steps = [module for module in model.modules() if isinstance(module, Step)]
    assert [step.drop_rate for step in steps] == pytest.approx(rates.tolist())
    torch.manual_seed(0)
    for step in steps:
        scales = drop_path(torch.ones(4000, 1), step.drop_rate)
        assert (scales == 0).float().mean().item() == pytest.approx(step.drop_rate, abs=0.04)
        assert scales.mean().item() == pytest.approx(1, abs=0.07)


def test_stochastic_depth_is_off_in_eval() -> None:
    model, clips = make(drop_path=0.5, stem_norm="layer"), randn(8, 3, 4, 16, 16)
    assert torch.equal(model(clips), model(clips))
    torch.manual_seed(0)
    model.train()
    assert not torch.equal(model(clips), model(clips))


# Many seeds at once


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_gradients_of_stacked_models_equal_one_by_one(gate: str) -> None:
    values = {**SMALL, "gate": gate, "layout": "T+S>ST"}
    models = [randomise(create_model(PosMLPConfig(**values)), seed).train() for seed in range(3)]
    clips, weights = randn(3, 2, 3, 4, 16, 16), randn(2, 5)
    parameters, buffers = stack_module_state(models)
    shared = {k: v[0] for k, v in buffers.items() if not v.is_floating_point() and "num" not in k}
    own = {k: v for k, v in buffers.items() if k not in shared}

    def loss(parameters: dict, own: dict, clip: Tensor) -> Tensor:
        out = functional_call(models[0], {**parameters, **own, **shared}, (clip,))
        return (out * weights).sum()

    stacked = vmap(grad(loss))(parameters, own, clips)
    for i, model in enumerate(models):
        (model(clips[i]) * weights).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            torch.testing.assert_close(stacked[name][i], parameter.grad, rtol=1e-9, atol=1e-11)


# A notebook's own gate


class OwnGate(nn.Module):
    """A linear map over the tokens whose start matters: ones, as gMLP's bias."""

    def __init__(self, dim: int, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()
        self.asked = (dim, window, num_groups)
        self.seen: tuple[int, ...] = ()
        self.tokens = nn.Linear(math.prod(window), math.prod(window))
        nn.init.constant_(self.tokens.bias, 1.0)

    def forward(self, h: Tensor) -> Tensor:
        self.seen = tuple(h.shape)
        u, v = h.chunk(2, dim=-1)
        return self.tokens(u.mT).mT * v


def test_own_gate_gets_its_window_and_keeps_its_start() -> None:
    model = create_model(PosMLPConfig(**SMALL, gate=OwnGate, layout="T>S>ST"))
    assert model(torch.zeros(2, 3, 4, 16, 16)).shape == (2, 5)
    gates = [module for module in model.modules() if isinstance(module, OwnGate)]
    assert [gate.asked for gate in gates[:3]] == [
        (8, (4,), 2), (8, (2, 2), 2), (8, (4, 2, 2), 2)
    ]  # fmt: skip
    assert [gate.seen[1:] for gate in gates[:3]] == [(4, 16), (4, 16), (16, 16)]
    assert all((gate.tokens.bias == 1).all() for gate in gates), "its own start was overwritten"


# Bad input


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((2, 1, 4, 16, 16), ["(2, 1, 4, 16, 16)", "3"]),
        ((3, 4, 16, 16), ["(3, 4, 16, 16)"]),
        ((2, 3, 6, 16, 16), ["6", "4"]),
        ((2, 3, 4, 20, 16), ["H=5", "2", "stage 1", "20x16"]),
        ((2, 3, 4, 16, 20), ["W=5", "2", "stage 1"]),
    ],
)
def test_clips_that_do_not_fit_are_refused(shape: tuple[int, ...], parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        make()(torch.zeros(shape, dtype=F64))
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_images_that_do_not_fit_are_refused() -> None:
    model = make(num_frames=1, layout="S", kind="image")
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 16, 16\)"):
        model(torch.zeros(1, 3, 2, 16, 16, dtype=F64))


def test_clips_of_one_frame_are_images() -> None:
    model = make(num_frames=1, layout="S", kind="image").eval()
    images = torch.rand(2, 3, 16, 16, dtype=F64)
    assert torch.equal(model(images), model(images[:, :, None]))
