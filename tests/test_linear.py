"""Products by oneDNN and by MKL give the same numbers, in either order of the channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import posmlp.linear as linear
from posmlp.linear import Linear, group_by_group, product, project


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(4, 4, 3, 5), (16, 5), (2, 3, 5)])
def test_project_equals_linear_with_its_gradients(shape, monkeypatch):
    monkeypatch.setattr(linear, "SMALLEST", 1)
    tensors = [randn(*shape), randn(7, 5, seed=1), randn(7, seed=2)]
    outputs, gradients = [], []
    for layer in (project, F.linear):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = layer(*leaves)
        outputs.append(out)
        gradients.append(torch.autograd.grad((out * randn(*out.shape, seed=3)).sum(), leaves))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def operations(function: Callable[..., Tensor], *tensors: Tensor) -> set[str]:
    with torch.profiler.profile() as profile:
        function(*tensors)
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("num_rows", [32, 33])
def test_products_equal_matrix_products(num_rows, monkeypatch):
    monkeypatch.setattr(linear, "SMALLEST", 1)
    monkeypatch.setattr(linear, "NARROWEST", 5)
    a, b = randn(num_rows, 5), randn(7, 5, seed=1).mT
    torch.testing.assert_close(product(a, b), a @ b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(a, b.contiguous()), a @ b, rtol=1e-5, atol=1e-5)
    assert ("aten::conv2d" in operations(product, a, b)) == (num_rows == 32)
    monkeypatch.setattr(linear, "NARROWEST", 6)
    assert "aten::conv2d" not in operations(product, a, b)


def test_project_is_a_convolution_only_in_float32_on_a_cpu(monkeypatch):
    monkeypatch.setattr(linear, "SMALLEST", 1)
    weight, bias = randn(7, 5), randn(7)
    double = (randn(16, 5).double(), weight.double(), bias.double())
    assert "aten::conv2d" in operations(project, randn(16, 5), weight, bias)
    assert "aten::conv2d" not in operations(project, *double)
    assert "aten::conv2d" not in operations(project, randn(15, 5), weight, bias)


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
