"""Attribution on models whose answer is known, and the model handed back as it was."""

from __future__ import annotations

import warnings

import captum.attr
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.attribution.attribution import attribute
from analysis.attribution.baselines import BASELINES, baseline_clips
from analysis.attribution.methods import METHODS
from posmlp import PosMLPConfig, PosMLPVideo, create_model

SHAPE = (3, 4, 8, 8)


class Linear(nn.Module):
    """Logits are weights times pixels, so gradients and differences are known exactly."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, clips: Tensor) -> Tensor:
        return torch.einsum("bcthw,kcthw->bk", clips, self.weight)


@pytest.fixture(scope="module")
def linear() -> Linear:
    return Linear(torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def toy() -> PosMLPVideo:
    """A toy whose weights are large enough for its logits to differ."""
    torch.manual_seed(0)
    model = create_model("toy", num_classes=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.eval()


@pytest.fixture(scope="module")
def toy_clips() -> Tensor:
    return torch.randn(3, 3, 8, 32, 32, generator=torch.Generator().manual_seed(2))


def of_target(linear: Linear, target: list[int]) -> Tensor:
    return linear.weight.detach()[target]


@pytest.mark.parametrize("pixel", [float("nan"), float("inf")])
def test_clips_that_are_not_finite_are_refused(linear: Linear, clips: Tensor, pixel: float) -> None:
    broken = clips.clone()
    broken[1, 2, 0, 3, 3] = pixel
    with pytest.raises(ValueError, match=r"clips \[1\] hold NaN or infinite pixels"):
        attribute(linear, broken, 0, "random")


def test_clips_that_equal_their_baseline_are_warned_of_with_what_helps(
    linear: Linear, clips: Tensor
) -> None:
    mixed = torch.cat([clips, clips[:1, :, :1].expand(-1, -1, SHAPE[1], -1, -1)])
    for method in ("integrated_gradients", "occlusion", "frame_ablation"):
        message = (
            r"1 of 4 clips \(the first is number 3\) equal the baseline 'mean_frame'.*zero, blur"
        )
        with pytest.warns(UserWarning, match=message):
            maps = attribute(linear, mixed, 0, method)
        assert [bool(each.abs().max() > 1e-5) for each in maps.values] == [True, True, True, False]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert attribute(linear, mixed, 0, method, baseline="zero").values[3].any()
    with pytest.warns(UserWarning, match="4 of 4 clips .* baseline given"):
        attribute(linear, mixed, 0, baseline=mixed)


@pytest.mark.parametrize("baseline", BASELINES)
def test_integrated_gradients_of_a_linear_model_are_exact(
    linear: Linear, clips: Tensor, baseline: str
) -> None:
    found = attribute(linear, clips, [0, 1, 1], baseline=baseline, num_steps=3)
    way = clips - baseline_clips(baseline, clips)
    expected = (of_target(linear, [0, 1, 1]) * way).sum(1)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.change, expected.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
    assert found.gap is not None
    assert found.gap.abs().max() < 1e-4
    assert found.baseline == baseline
    assert f"baseline {baseline.replace('_', ' ')}" in found.caption(0)
    assert "num steps 3, completeness gap" in found.caption(0)


def test_gradient_methods_of_a_linear_model_are_its_weights(linear: Linear, clips: Tensor) -> None:
    weight = of_target(linear, [0, 1, 1])
    product = attribute(linear, clips, [0, 1, 1], "gradient_x_input")
    torch.testing.assert_close(product.values, (weight * clips).sum(1))
    for method in ("saliency", "smooth_grad"):
        found = attribute(linear, clips, [0, 1, 1], method)
        torch.testing.assert_close(found.values, weight.abs().amax(1), rtol=1e-4, atol=1e-5)
        assert not found.signed
    assert found.gap is None


def test_frame_ablation_of_a_linear_model_is_each_frames_part(
    linear: Linear, clips: Tensor
) -> None:
    found = attribute(linear, clips, 1, "frame_ablation", baseline="zero", internal_batch_size=2)
    part = (of_target(linear, [1, 1, 1]) * clips).sum((1, 3, 4))
    expected = part[..., None, None].expand_as(found.values)
    torch.testing.assert_close(found.values, expected, rtol=1e-3, atol=1e-4)


def test_occlusion_of_separate_tubes_is_each_tubes_part(linear: Linear, clips: Tensor) -> None:
    tube = (2, 4, 4)
    found = attribute(linear, clips, 0, "occlusion", baseline="mean_frame", tube=tube, stride=tube)
    moved = of_target(linear, [0] * 3) * (clips - clips.mean(2, keepdim=True))
    parts = moved.sum(1).unfold(1, 2, 2).unfold(2, 4, 4).unfold(3, 4, 4).sum((4, 5, 6))
    expected = F.interpolate(parts[:, None], scale_factor=tube, mode="nearest")[:, 0]
    torch.testing.assert_close(found.values, expected, rtol=1e-3, atol=1e-4)


def test_grad_cam_equals_a_hand_computation(toy: PosMLPVideo, toy_clips: Tensor) -> None:
    tokens = toy.forward_features(toy_clips)[2].detach().requires_grad_()  # stage 2
    deeper = tokens
    for i in (2, 3):
        deeper = toy.stages[i](toy.downsamples[i - 1](deeper))
    logits = toy.head(toy.norm(deeper).mean((1, 2, 3)))
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), tokens)
    cam = torch.einsum("bthwc,bc->bthw", tokens, gradient.mean((1, 2, 3))).relu()
    expected = F.interpolate(cam[:, None], (8, 32, 32), mode="trilinear")[:, 0]
    found = attribute(toy, toy_clips, 3, "grad_cam")
    assert found.options == {"layer": 2}  # the last of 4 x 4 tokens
    torch.testing.assert_close(found.values, expected.detach(), rtol=1e-4, atol=1e-7)
    by_module = attribute(toy, toy_clips, 3, "grad_cam", layer=toy.stages[1])
    with pytest.raises(ValueError, match="layer is no part of the model"):
        attribute(toy, toy_clips, 3, "grad_cam", layer=torch.nn.Identity())
    assert torch.equal(by_module.values, found.values)
    captums = captum.attr.LayerGradCam(toy, toy.stages[1]).attribute(toy_clips, target=3)
    assert captums.shape[1:] == (1, 4, 4, 32)  # no time left: why ours exists


def test_completeness_gap_closes_with_steps(toy: PosMLPVideo, toy_clips: Tensor) -> None:
    few, many = (attribute(toy, toy_clips, 2, num_steps=n) for n in (1, 32))
    with torch.no_grad():
        change = (toy(toy_clips) - toy(baseline_clips("mean_frame", toy_clips)))[:, 2]
    torch.testing.assert_close(many.change, change, rtol=1e-4, atol=1e-6)
    assert many.gap is not None
    assert few.gap is not None
    torch.testing.assert_close(many.values.sum((1, 2, 3)) - change, many.gap, rtol=0.1, atol=2e-6)
    assert many.relative_gap.max() < 0.01 < few.relative_gap.max()


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("random", "occlusion")])
def test_a_map_depends_on_its_own_clip_alone(
    toy: PosMLPVideo, toy_clips: Tensor, method: str
) -> None:
    options = {"num_samples": 4} if method == "smooth_grad" else {}
    together = attribute(toy, toy_clips, [0, 1, 2], method, **options)
    alone = attribute(toy, toy_clips[2:], 2, method, internal_batch_size=1, **options)
    scale = float(together.values[2].abs().max())
    torch.testing.assert_close(together.values[2], alone.values[0], rtol=0, atol=1e-4 * scale)
    assert scale > 0
    assert together.values.shape == (3, 8, 32, 32)


def test_no_more_clips_than_allowed_pass_at_once(toy: PosMLPVideo, toy_clips: Tensor) -> None:
    sizes: list[int] = []
    handle = toy.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    for method, options in {
        "integrated_gradients": {"num_steps": 5},
        "smooth_grad": {"num_samples": 5},
        "occlusion": {"tube": (4, 16, 16), "stride": (4, 16, 16)},
        "frame_ablation": {},
    }.items():
        attribute(toy, toy_clips, 0, method, internal_batch_size=2, **options)
    handle.remove()
    assert max(sizes) == 2


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_handed_back_as_it_was(method: str) -> None:
    config = PosMLPConfig(
        depths=(1, 1), dims=(8, 16), num_groups=2, windows=4, num_frames=2, drop_path=0.3
    )
    model = create_model(config)
    model.train()
    model.stages[0].eval()
    model.head.weight.requires_grad_(False)
    clips = torch.randn(2, 3, 2, 32, 32)
    model(clips).sum().backward()
    flags = [(name, module.training) for name, module in model.named_modules()]
    learns = [(name, p.requires_grad) for name, p in model.named_parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    before, random_state = clips.clone(), torch.get_rng_state()

    with torch.inference_mode():
        attribute(model, clips, 1, method)
    with pytest.raises(ValueError, match="out of range"):
        attribute(model, clips, 99, method)

    assert [(name, module.training) for name, module in model.named_modules()] == flags
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == learns
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(grads)
    assert all(torch.equal(model.get_parameter(n).grad, g) for n, g in grads.items())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert torch.equal(clips, before)
    assert not clips.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)


def test_training_mode_does_not_change_the_map(toy: PosMLPVideo, toy_clips: Tensor) -> None:
    expected = attribute(toy, toy_clips, 0, "saliency").values
    toy.train()
    found = attribute(toy, toy_clips, 0, "saliency").values
    toy.eval()
    assert torch.equal(found, expected)  # batch norm used its running statistics


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning")  # captum's
def test_deep_lift_is_refused_and_why_is_true(toy: PosMLPVideo, toy_clips: Tensor) -> None:
    for name in ("deep_lift", "DeepLift", "deep_lift_shap", "GuidedBackprop", "lrp"):
        with pytest.raises(ValueError, match="is refused: "):
            attribute(toy, toy_clips, 0, name)
    with pytest.raises(ValueError, match="equals \\(input - baseline\\) x gradient"):
        attribute(toy, toy_clips, 0, "deep_lift")
    clips = toy_clips.clone().requires_grad_()
    captums = captum.attr.DeepLift(toy).attribute(clips, torch.zeros_like(clips), target=0)
    ours = attribute(toy, toy_clips, 0, "gradient_x_input").values
    torch.testing.assert_close(captums.sum(1).detach(), ours)


def test_smooth_grad_is_drawn_from_its_seed(toy: PosMLPVideo, toy_clips: Tensor) -> None:
    maps = [
        attribute(toy, toy_clips[:1], 0, "smooth_grad", num_samples=2, seed=seed).values
        for seed in (0, 0, 1)
    ]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_smooth_grad_averages_gradients_before_their_size_is_taken() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().sum(dim=(2, 3, 4))

    clip = torch.zeros(1, *SHAPE)
    clip[..., 0, 0] = 1.0
    found = attribute(Square(), clip, 0, "smooth_grad", num_samples=64, noise=0.1)
    around_zero = found.values[0, :, 1:].mean()  # gradients of either sign cancel there
    assert around_zero < 0.5 * 2 * 0.1 * (2 / torch.pi) ** 0.5  # half of the mean |gradient|


def test_blurred_and_frozen_baselines_are_what_they_say() -> None:
    clips = torch.zeros(1, 3, 4, 16, 16)
    clips[:, :, 2, 8, 8] = 1.0
    blurred = baseline_clips("blur", clips)
    assert blurred[:, :, [0, 1, 3]].abs().max() == 0  # not over time
    torch.testing.assert_close(blurred.sum(), clips.sum(), rtol=1e-3, atol=0)  # only spread
    assert blurred.max() < 0.1
    rising = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 3, 4, 16, 16) + 5
    assert torch.equal(baseline_clips("first_frame", rising), torch.full_like(rising, 5))
    assert torch.equal(baseline_clips("mean_frame", clips)[0, 0, :, 8, 8], torch.full((4,), 0.25))
    assert baseline_clips(clips, clips) is clips


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gradcam"}, "Did you mean 'grad_cam'"),
        ({"method": "saliency", "baseline": "zero"}, "no option 'baseline'; it takes no options"),
        ({"num_step": 3}, "no option 'num_step'; it takes baseline, num_steps"),
        ({"num_steps": 0}, "num_steps=0 must be a whole number of at least 1"),
        ({"baseline": "black"}, "unknown baseline 'black'"),
        ({"baseline": torch.zeros(1, 3, 4, 8, 8)}, "one of the clips' shape"),
        ({"target": 2}, r"target \[2, 2, 2\] is out of range for 2 classes; use 0 to 1"),
        ({"target": -1}, "out of range"),
        ({"target": [0, 1]}, "one for each of the 3 clips"),
        ({"clips": torch.zeros(1, 4, 8, 8, 3, dtype=torch.uint8)}, "normalise first"),
        ({"clips": torch.zeros(0, 3, 4, 8, 8)}, "clips is empty"),
        ({"clips": torch.zeros(3, 3, 0, 8, 8)}, r"clips is empty, of shape \(3, 3, 0, 8, 8\)"),
        *(({"target": each}, "must be one class number") for each in ("up", None, 1.5)),
        ({"internal_batch_size": 0}, "internal_batch_size=0 must be a whole number of at least 1"),
        ({"method": "occlusion", "stride": (3, 2, 2)}, "so that every pixel is in a tube"),
        ({"method": "occlusion", "tube": (2, 2)}, "three whole numbers each"),
        *(
            ({"method": "smooth_grad", "noise": each}, f"noise={each!r} must be a positive share")
            for each in (0, 0.0, float("nan"), float("inf"), "much")
        ),
        ({"method": "grad_cam"}, "Linear has no stages"),
    ],
)
def test_what_does_not_fit_is_refused(
    linear: Linear, clips: Tensor, change: dict[str, object], message: str
) -> None:
    given = {"model": linear, "clips": clips, "target": 0} | change
    with pytest.raises(ValueError, match=message):
        attribute(**given)


def test_grad_cam_refuses_stages_and_layers_that_are_not_tokens(
    toy: PosMLPVideo, toy_clips: Tensor
) -> None:
    with pytest.raises(ValueError, match="layer=5 is not a stage of this model; use 1 to 4"):
        attribute(toy, toy_clips, 0, "grad_cam", layer=5)
    for layer in (toy.stages[0].blocks[0], toy.stem):
        with pytest.raises(ValueError, match=r"not \(B, T, H, W, C\); name a stage"):
            attribute(toy, toy_clips, 0, "grad_cam", layer=layer)
