"""A CPU's fast paths give the plain numbers: projections, windows in parts, recomputation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

import posmlp.linear as linear
import posmlp.model as model_file
from posmlp import create_model
from posmlp.linear import Linear, group_by_group, project
from posmlp.population import seeded_model

LAYOUTS = ["T+S", "T>S", "ST", "ST+S"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(4, 4, 3, 5), (16, 5), (2, 3, 5)])
def test_project_equals_linear_with_its_gradients(shape, monkeypatch):
    monkeypatch.setattr(linear, "SMALLEST", 1)
    tensors = [randn(*shape), randn(7, 5, seed=1), randn(7, seed=2)]
    outputs, gradients = [], []
    for product in (project, F.linear):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = product(*leaves)
        outputs.append(out)
        gradients.append(torch.autograd.grad((out * randn(*out.shape, seed=3)).sum(), leaves))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_project_is_a_convolution_only_in_float32_on_a_cpu(monkeypatch):
    monkeypatch.setattr(linear, "SMALLEST", 1)
    weight, bias = randn(7, 5), randn(7)

    def operations(x: Tensor, *parameters: Tensor) -> set[str]:
        with torch.profiler.profile() as profile:
            project(x, *parameters)
        return {event.key for event in profile.key_averages()}

    assert "aten::conv2d" in operations(randn(16, 5), weight, bias)
    assert "aten::conv2d" not in operations(randn(16, 5).double(), weight.double(), bias.double())
    assert "aten::conv2d" not in operations(randn(15, 5), weight, bias)


def test_grouped_channels_are_a_permutation_of_the_parameters_order():
    parts, groups, width = 2, 3, 4
    rows = torch.arange(parts * width * groups)
    ordered = group_by_group(rows, parts, groups).unflatten(0, (parts, groups, width))
    for part in range(parts):
        for group in range(groups):
            expected = [part * width * groups + v * groups + group for v in range(width)]
            assert ordered[part, group].tolist() == expected


def test_linear_takes_and_gives_channels_group_by_group():
    layer, x = Linear(12, 12, groups_out=(2, 3), groups_in=4), randn(5, 12)
    plain = F.linear(x, layer.weight, layer.bias)
    ours = layer(group_by_group(x.mT, 1, 4).mT)
    torch.testing.assert_close(ours, group_by_group(plain.mT, 2, 3).mT)


def logits_and_gradients(layout: str, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model = seeded_model(create_model("toy", layout=layout, stem_norm="layer").config, 0).double()
    scales = torch.linspace(0.5, 2, model.num_residual_steps * 2, dtype=torch.float64)
    logits = model.train()(clips, scales.view(-1, 2))
    (logits * randn(*logits.shape, seed=5, dtype=torch.float64)).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(model(clips, scales.view(-1, 2)), logits, rtol=0, atol=1e-12)
    return logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("working_set", [1, 3000])
def test_windows_in_parts_and_recomputed_equal_all_at_once(layout, working_set, monkeypatch):
    clips = randn(2, 3, 8, 32, 32, dtype=torch.float64)
    logits, gradients = logits_and_gradients(layout, clips)
    monkeypatch.setattr(model_file, "WORKING_SET", working_set)
    monkeypatch.setattr(model_file, "LARGE_STAGE", 1)
    in_parts, own = logits_and_gradients(layout, clips)
    torch.testing.assert_close(in_parts, logits, rtol=0, atol=1e-12)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-9, atol=1e-11, msg=name)


def test_a_large_stage_keeps_little_for_its_gradient(monkeypatch):
    clips = randn(1, 3, 8, 32, 32)

    def saved_elements() -> int:
        model, held = seeded_model(create_model("toy").config, 0), {}

        def keep(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(clips).sum()
        assert loss.requires_grad
        return sum(held.values())

    everything = saved_elements()
    monkeypatch.setattr(model_file, "LARGE_STAGE", 1)
    assert saved_elements() < 0.6 * everything


def test_a_large_stage_can_be_differentiated_by_torch_func(monkeypatch):
    clips = randn(1, 3, 8, 32, 32)
    model = seeded_model(create_model("toy").config, 0).eval()

    def gradient() -> Tensor:
        return grad(lambda x: model(x).square().sum())(clips)

    whole = gradient()
    monkeypatch.setattr(model_file, "LARGE_STAGE", 1)
    torch.testing.assert_close(gradient(), whole)
