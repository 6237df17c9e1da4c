"""A CPU's fast paths give the plain numbers: gradients by hand, and windows a few at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

import posmlp.model as model_file
from posmlp import PositionalGatingUnit, PosMLPVideo, create_model
from posmlp.by_hand import StepByHand
from posmlp.model import Branch, Step
from posmlp.train.population import seeded_model

LAYOUTS = ["T+S", "T>S", "ST", "ST+S"]
OPTIONS = [{"gate": "gqpe"}, {"gate": "dense"}, {"gate": "lrpe+dense"}, {"temporal_windows": 4}]


Found = tuple[Tensor, dict[str, Tensor]]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def toy(dtype: torch.dtype = torch.float64, **options: object) -> PosMLPVideo:
    """A toy model of which no parameter is 0 or 1, in train mode."""
    model = seeded_model(create_model("toy", stem_norm="layer", **options).config, 0)
    for i, parameter in enumerate(model.parameters()):
        parameter.data += 0.1 * randn(*parameter.shape, seed=i)
    return model.to(dtype).train()


def logits_and_gradients(model: PosMLPVideo, clips: Tensor, *, scaled: bool = True) -> Found:
    scales = torch.linspace(0.5, 2, model.num_residual_steps * 2, dtype=clips.dtype).view(-1, 2)
    scales[::2, 0] = 0  # stochastic depth drops one clip there
    leaves = {"clips": clips.clone().requires_grad_(), **dict(model.named_parameters())}
    logits = model(leaves["clips"], scales if scaled else None)
    loss = (logits * randn(*logits.shape, seed=5, dtype=clips.dtype)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return logits.detach(), dict(zip(leaves, gradients, strict=True))


def by_hand_and_plain(
    model: PosMLPVideo, clips: Tensor, monkeypatch: pytest.MonkeyPatch, *, scaled: bool = True
) -> tuple[Found, Found]:
    calls, apply = [], StepByHand.apply

    def counted(*arguments: object) -> Tensor:
        calls.append(1)
        return apply(*arguments)

    monkeypatch.setattr(model_file.StepByHand, "apply", counted)
    ours = logits_and_gradients(model, clips, scaled=scaled)
    assert len(calls) == sum(isinstance(module, Step) for module in model.modules())
    monkeypatch.setattr(Step, "_goes_by_hand", lambda *_: False)
    return ours, logits_and_gradients(model, clips, scaled=scaled)


def assert_same(ours: Found, plain: Found, tolerance: float) -> None:
    for name, expected in ({"logits": plain[0]} | plain[1]).items():
        found = ours[0] if name == "logits" else ours[1][name]
        assert (found - expected).norm() <= tolerance * expected.norm(), name


@pytest.mark.parametrize("options", [{"layout": layout} for layout in LAYOUTS] + OPTIONS, ids=str)
@pytest.mark.parametrize("working_set", [1, 3000, 2**19])
def test_gradients_by_hand_equal_those_of_the_plain_path(options, working_set, monkeypatch):
    monkeypatch.setattr("posmlp.by_hand.WORKING_SET", working_set)
    clips = randn(2, 3, 8, 32, 32, dtype=torch.float64)
    ours, plain = by_hand_and_plain(toy(**options), clips, monkeypatch)
    assert_same(ours, plain, 1e-10)


@pytest.mark.parametrize("working_set", [1, 2**19])
def test_gradients_by_hand_without_stochastic_depth(working_set, monkeypatch):
    monkeypatch.setattr("posmlp.by_hand.WORKING_SET", working_set)
    clips = randn(2, 3, 8, 32, 32, dtype=torch.float64)
    ours, plain = by_hand_and_plain(toy(), clips, monkeypatch, scaled=False)
    assert_same(ours, plain, 1e-10)


def test_a_step_that_drops_every_clip_has_no_gradients():
    step = next(module for module in toy().modules() if isinstance(module, Step))
    tokens = randn(8, 8, 16, step["T"].norm.normalized_shape[0], dtype=torch.float64)
    output = step(tokens.requires_grad_(), torch.zeros(8, 1, 1, 1, dtype=torch.float64))
    assert torch.equal(output, tokens)
    of_tokens, *of_weights = torch.autograd.grad(output.sum(), [tokens, *step.parameters()])
    assert torch.equal(of_tokens, torch.ones_like(tokens))
    assert not any(gradient.any() for gradient in of_weights)


def test_tokens_in_any_memory_order_give_the_same():
    step = next(module for module in toy().modules() if isinstance(module, Step))
    dim = step["T"].norm.normalized_shape[0]
    tokens = randn(8, 8, 16, dim, dtype=torch.float64)
    turned = tokens.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    leaves = [each.clone(memory_format=torch.preserve_format) for each in (tokens, turned)]
    outputs = [step(leaf.requires_grad_()) for leaf in leaves]
    ours = [
        torch.autograd.grad(y.square().sum(), x)[0] for y, x in zip(outputs, leaves, strict=True)
    ]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*ours)


def test_gradients_by_hand_in_float32_by_convolutions(monkeypatch):
    monkeypatch.setattr("posmlp.linear.SMALLEST", 1)
    monkeypatch.setattr("posmlp.linear.NARROWEST", 1)
    clips = randn(2, 3, 8, 32, 32)
    ours, plain = by_hand_and_plain(toy(torch.float32), clips, monkeypatch)
    assert_same(ours, plain, 1e-4)


def test_training_keeps_little_for_its_gradient(monkeypatch):
    step = next(module for module in toy().modules() if isinstance(module, Step))
    tokens = randn(64, 8, 16, step["T"].norm.normalized_shape[0], dtype=torch.float64)
    tokens.requires_grad_()
    weights = {parameter.data_ptr() for parameter in step.parameters()}

    def saved_bytes() -> int:
        held = {}

        def keep(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = step(tokens)
        assert output.requires_grad
        return sum(held[pointer] for pointer in held.keys() - weights)

    ours = saved_bytes()
    monkeypatch.setattr(Step, "_goes_by_hand", lambda *_: False)
    assert ours < 0.6 * saved_bytes()


@pytest.mark.parametrize("options", [{"gate": "conv"}, {"gate_form": "add"}, {"token_bias": False}])
def test_other_gates_take_the_plain_path(options, monkeypatch):
    monkeypatch.setattr(model_file.StepByHand, "apply", None)
    logits_and_gradients(toy(**options), randn(2, 3, 8, 32, 32, dtype=torch.float64))


@pytest.mark.parametrize(
    "watch",
    ["forward", "forward_pre", "full_backward", "full_backward_pre"],
)
def test_a_watched_part_takes_the_plain_path(watch):
    model, seen = toy(), []
    step = next(module for module in model.modules() if isinstance(module, Step))
    getattr(step["T"].gate, f"register_{watch}_hook")(lambda *_: seen.append(1))
    logits_and_gradients(model, randn(2, 3, 8, 32, 32, dtype=torch.float64))
    assert len(seen) == 1


class Doubled(Branch):
    """A notebook's own branch."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def with_another_class(step: Step) -> None:
    step["T"].__class__ = Doubled


def with_another_forward(step: Step) -> None:
    forward = step["T"].gate.forward
    step["T"].gate.forward = lambda h: 2 * forward(h)


def without_a_branch(step: Step) -> None:
    step["T"] = nn.Identity()


def with_a_plain_norm(step: Step) -> None:
    step["T"].norm = nn.LayerNorm(step["T"].norm.normalized_shape, elementwise_affine=False)


def with_norms_unlike(step: Step) -> None:
    step["S"].norm.eps = 1.0


@pytest.mark.parametrize(
    "change",
    [
        *(with_another_class, with_another_forward, without_a_branch),
        *(with_a_plain_norm, with_norms_unlike),
    ],
)
def test_changed_parts_are_computed_as_they_stand(change):
    model, clips = toy(), randn(2, 3, 8, 32, 32, dtype=torch.float64)
    change(next(module for module in model.modules() if isinstance(module, Step)))
    plain = model.eval()(clips)  # with a gradient, eval mode takes the plain path
    with torch.no_grad():
        torch.testing.assert_close(model(clips), plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.train()(clips), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", [1, 2])
def test_branches_of_other_groups_are_computed_as_they_stand(axes):
    def gate(dim: int, window: tuple[int, ...], groups: int) -> PositionalGatingUnit:
        return PositionalGatingUnit(dim, window, groups if len(window) == axes else 1)

    model, clips = toy(gate=gate), randn(2, 3, 8, 32, 32, dtype=torch.float64)
    plain = model.eval()(clips)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.train()(clips), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate", ["lrpe", "conv"])
def test_a_model_in_bfloat16_trains_with_stochastic_depth(gate):
    model = toy(torch.bfloat16, gate=gate, drop_path=0.3)
    logits = model(randn(2, 3, 8, 32, 32, dtype=torch.bfloat16))
    logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_scales_that_want_a_gradient_get_one():
    model, clips = toy(), randn(2, 3, 8, 32, 32, dtype=torch.float64)
    scales = torch.ones(model.num_residual_steps, 2, dtype=torch.float64, requires_grad=True)
    found = [torch.autograd.grad(m(clips, scales).square().sum(), scales)[0]
             for m in (model.train(), model.eval())]  # fmt: skip
    torch.testing.assert_close(*found)
    assert found[0].all()


def test_a_backward_pass_alone_under_autocast_has_about_the_same_gradients():
    model, clips = toy(torch.float32), randn(2, 3, 8, 32, 32)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(clips).sum(), parameters)
    loss = model(clips).sum()
    with torch.autocast("cpu", torch.bfloat16):  # PyTorch's own products are rounded then
        found = torch.autograd.grad(loss, parameters)
    ours, theirs = (torch.cat([g.flatten() for g in each]) for each in (found, expected))
    assert (ours - theirs).norm() / theirs.norm() < 0.05


def test_torch_func_gives_the_gradients_by_hand():
    model, clips = toy(), randn(2, 3, 8, 32, 32, dtype=torch.float64)
    loss = model(clips, torch.ones(model.num_residual_steps, 2)).square().sum()
    ours = torch.autograd.grad(loss, list(model.parameters()))

    def transformed(parameters: dict[str, Tensor]) -> Tensor:
        scales = torch.ones(model.num_residual_steps, 2)
        return functional_call(model, parameters, (clips, scales)).square().sum()

    theirs = grad(transformed)({name: p.detach() for name, p in model.named_parameters()})
    for gradient, expected in zip(ours, theirs.values(), strict=True):
        assert (gradient - expected).norm() <= 1e-10 * expected.norm()


def test_a_second_derivative_through_the_gradient_by_hand_is_refused():
    model, clips = toy(), randn(1, 3, 8, 32, 32, dtype=torch.float64)
    leaf = clips.requires_grad_()
    (first,) = torch.autograd.grad(model(leaf).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("working_set", [1, 3000])
def test_windows_in_parts_equal_all_at_once(layout, working_set, monkeypatch):
    model, clips = toy(layout=layout), randn(2, 3, 8, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        whole = model.eval()(clips)
        monkeypatch.setattr("posmlp.by_hand.WORKING_SET", working_set)
        torch.testing.assert_close(model(clips), whole, rtol=0, atol=1e-12)
