"""The model behaves as any PyTorch module does, in every mode alike.

Modes: with gradients and without, in eval and in training (batch norm's statistics held fixed, so
that all modes are one function).
"""

from __future__ import annotations

import copy
import json
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune

from posmlp import PosMLPConfig, PosMLPVideo, create_model
from posmlp.config_checks import GATE_NAMES
from posmlp.gates.row_bank import RowBankUnit
from posmlp.gating import PositionalGatingUnit
from posmlp.model import Branch
from posmlp.train.distributed import ALONE
from posmlp.train.execution import preparation, quick_inference

TINY: dict[str, Any] = dict(
    num_classes=5, num_frames=4, image_size=16, depths=(1, 1), dims=(8, 12), num_groups=(2, 3),
    windows=(2, 2), temporal_windows=2, init="fan_in",
)  # fmt: skip
LAYOUTS = ("T+S", "T>S", "ST", "T+S>ST")
MODES = ("eval", "eval without gradients", "training", "training without gradients")


def make(seed: int = 0, **values: Any) -> PosMLPVideo:
    """A small model in which no parameter is as it starts."""
    torch.manual_seed(seed)
    model = create_model(PosMLPConfig(**{**TINY, **values})).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def clips(batch: int = 2, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 4, 16, 16, generator=generator, dtype=torch.float64)


@contextmanager
def mode_of(model: nn.Module, mode: str) -> Iterator[None]:
    model.train(mode.startswith("training"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.set_grad_enabled("without" not in mode):
        yield


def in_every_mode(model: nn.Module, x: Tensor | None = None) -> Tensor:
    """The logits, which are the same in every mode."""
    found = []
    for mode in MODES:
        with mode_of(model, mode):
            found.append(model(clips() if x is None else x).detach())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12)
    return found[0]


def branches(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Branch)]


# Hooks


def calls(model: nn.Module, run: Callable[[], Any]) -> Counter[str]:
    """How often a global hook sees each module of a model while something runs."""
    names = {id(module): name for name, module in model.named_modules()}
    seen: Counter[str] = Counter()
    handle = register_module_forward_hook(lambda module, *_: seen.update([names[id(module)]]))
    try:
        run()
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize(
    ("gate", "form", "layout"),
    [
        *((gate, "multiply", layout) for gate, layout in zip(GATE_NAMES, cycle(LAYOUTS))),
        *(("lrpe", "mix", layout) for layout in LAYOUTS),
    ],
)
def test_every_part_is_called_once_in_every_mode(gate: str, form: str, layout: str) -> None:
    model = make(gate=gate, gate_form=form, layout=layout, drop_path=0.1)
    unused = {"v"} if form == "mix" else set()
    parts = {
        name
        for name, module in model.named_modules()
        if not isinstance(module, nn.ModuleList) and name.rsplit(".", 1)[-1] not in unused
    }
    said = ("norm", "fc1", "gelu", "gate.u", "gate.mixed", "gate.biased", "gate.gated", "fc2")
    for i, branch in enumerate(branches(model)):
        assert all(isinstance(branch.get_submodule(part), nn.Module) for part in said), i
    # a stem's GELU serves between its convolutions; attention alone makes no use of a table's hook
    for mode in MODES:
        with mode_of(model, mode):
            seen = calls(model, partial(model, clips()))
        assert seen == Counter(dict.fromkeys(parts, 1)), mode


def test_hooks_see_what_their_names_say_and_what_they_return_is_used() -> None:
    model = make(layout="T")
    branch = branches(model)[0]
    seen: dict[str, Tensor] = {}
    for name, module in branch.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    before = in_every_mode(model)
    u, v = F.gelu(seen["fc1"]).flatten(0, -3).chunk(2, -1)
    torch.testing.assert_close(seen["gate.u"], u)
    torch.testing.assert_close(seen["gate.v"], v)
    grouped = u.unflatten(-1, (4, 2))
    mixed = torch.einsum("gmn,bnvg->bmvg", branch.gate.relation(), grouped).flatten(-2)
    torch.testing.assert_close(seen["gate.mixed"], mixed)
    torch.testing.assert_close(seen["gate.biased"], mixed + branch.gate.token_bias)
    torch.testing.assert_close(seen["gate.gated"], seen["gate.biased"] * v)
    branch.gate.v.register_forward_hook(lambda _m, _i, out: torch.zeros_like(out))
    assert (in_every_mode(model) - before).abs().max() > 1e-6


def test_hooks_see_checkpointed_parts_twice_and_compiled_parts_once() -> None:
    model = make(layout="T+S").train()
    prepare = preparation(ALONE, checkpoint_activations=True, compiled=False)
    assert prepare is not None
    prepare(model)
    seen = calls(model, lambda: model(clips()).sum().backward())
    assert seen["stages.0.blocks.0.steps.0.T.gate.mixed"] == 2
    assert seen["stem.convs.0"] == 1
    watched = make(layout="T", depths=(1,), dims=(8,), num_groups=2, windows=2)
    count = Counter[str]()
    for name, module in watched.named_modules():
        module.register_forward_hook(lambda *_, name=name: count.update([name]))
    torch.compile(watched, backend="eager")(clips())
    assert count["stages.0.blocks.0.steps.0.T.gate.mixed"] == 1


# Replaced parts


class Doubled(PositionalGatingUnit):
    def relation(self) -> Tensor:
        return 2 * super().relation()


class Adapter(nn.Module):
    """A low-rank adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def a_mix(branch: Any) -> None:
    branch.gate.mix = torch.zeros_like


def a_relation(branch: Any) -> None:
    relation = branch.gate.relation()
    branch.gate.relation = lambda: relation.flip(-1)


def a_subclass(branch: Any) -> None:
    gate = Doubled(branch.gate.dim, branch.gate.window, branch.gate.num_groups).double()
    gate.load_state_dict(branch.gate.state_dict())
    branch.set_submodule("gate", gate)


def an_adapter(branch: Any) -> None:
    torch.manual_seed(0)
    branch.set_submodule("fc1", Adapter(branch.fc1).double())


def a_norm(branch: Any) -> None:
    branch.norm = nn.Identity()


class Cubed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**3


def a_parametrised_table(branch: Any) -> None:
    parametrize.register_parametrization(branch.gate.positions, "table", Cubed())


def a_pruned_layer(branch: Any) -> None:
    prune.l1_unstructured(branch.fc2, "weight", amount=0.5)


def a_masked_table(branch: Any) -> None:
    prune.l1_unstructured(branch.gate.positions, "table", amount=0.5)


CHANGES = [a_mix, a_relation, a_subclass, an_adapter, a_norm, a_parametrised_table, a_pruned_layer,
           a_masked_table]  # fmt: skip


@pytest.mark.parametrize(("change", "layout"), list(zip(CHANGES, cycle(LAYOUTS))))
def test_a_replaced_part_acts_in_every_mode_alike(change: Callable, layout: str) -> None:
    model = make(layout=layout)
    before = in_every_mode(model)
    for branch in branches(model):
        change(branch)
    after = in_every_mode(model)
    assert (after - before).abs().max() > 1e-4
    with torch.no_grad(), quick_inference(model):
        torch.testing.assert_close(model.eval()(clips()), after)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_quick_inference_gives_the_same_logits_and_leaves_no_trace(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = make(layout=layout).float(), clips(3).float()
    monkeypatch.setattr("posmlp.train.execution.WORKING_SET", 200)
    with torch.no_grad():
        whole = model(x)
        with quick_inference(model):
            seen = calls(model, lambda: torch.testing.assert_close(model(x), whole))
            assert model(x[:0]).shape == (0, 5)
            assert all("mix" in vars(branch.gate) for branch in branches(model))
        assert seen["stages.0.blocks.0"] == 1
        assert seen["stages.0.blocks.0.steps.0"] == 4 * 3  # clips of 4 windows, each by itself
        assert set(calls(model, lambda: model(x)).values()) == {1}
    assert not any(vars(module).keys() & {"forward", "mix"} for module in model.modules())


def test_layers_are_plain_and_change_nothing_when_replaced_by_others_of_the_same_weights() -> None:
    model = make()
    before = in_every_mode(model)
    for branch in branches(model):
        x = torch.randn(3, branch.fc1.in_features, dtype=torch.float64)
        assert type(branch.fc1) is type(branch.fc2) is nn.Linear
        assert torch.equal(branch.fc1(x), F.linear(x, branch.fc1.weight, branch.fc1.bias))
        for name in ("fc1", "fc2"):
            parametrizations.weight_norm(getattr(branch, name))
    torch.testing.assert_close(in_every_mode(model), before, rtol=0, atol=1e-12)


def test_a_unit_in_frames_of_rows_is_changed_by_its_rows() -> None:
    """`relation` puts the rows together, so a change of the rows is one of the relation."""
    unit = RowBankUnit(4, (3, 2, 2), 2).double()
    nn.init.normal_(unit.positions.table)
    u = torch.randn(2, 12, 4, dtype=torch.float64)
    rows = [2 * each for each in unit.frames_of_rows()]
    before, relation = unit.mix(u), unit.relation()
    unit.frames_of_rows = lambda: iter(rows)  # type: ignore[method-assign]
    torch.testing.assert_close(unit.mix(u), 2 * before)
    torch.testing.assert_close(unit.relation(), 2 * relation)


def test_a_shared_block_is_computed_twice_and_gets_both_gradients() -> None:
    model = make(depths=(2, 1))
    apart = copy.deepcopy(model)
    model.stages[0].blocks[1] = model.stages[0].blocks[0]
    apart.stages[0].blocks[1].load_state_dict(apart.stages[0].blocks[0].state_dict())
    torch.testing.assert_close(in_every_mode(model), in_every_mode(apart))
    for each in (model, apart):
        each(clips()).sum().backward()
    shared = model.stages[0].blocks[0].parameters()
    pairs = zip(*(block.parameters() for block in apart.stages[0].blocks), strict=True)
    for one, (a, b) in zip(shared, pairs, strict=True):
        torch.testing.assert_close(one.grad, a.grad + b.grad)


# Moved, copied, converted


@pytest.mark.parametrize(("gate", "how"), list(zip(GATE_NAMES, cycle(["assign", "to_empty"]))))
def test_a_model_of_meta_that_loads_a_state_is_the_model(gate: str, how: str) -> None:
    """What no file holds, as the relative position index, is made again and never garbage."""
    model = make(gate=gate, layout="T+S>ST")
    with torch.device("meta"):
        empty = create_model(model.config).eval()
        empty(torch.zeros(1, 3, 4, 16, 16))  # now its indices are on meta, too
    if how == "to_empty":
        empty = empty.double().to_empty(device="cpu")
    empty.load_state_dict(model.state_dict(), assign=how == "assign")
    torch.testing.assert_close(in_every_mode(empty), in_every_mode(model))
    for ours, theirs in zip(branches(empty), branches(model), strict=True):
        torch.testing.assert_close(ours.gate.relation(), theirs.gate.relation())


def test_an_index_stays_of_use_after_a_first_call_under_a_transform_or_in_inference() -> None:
    """What is made there and kept would be of that transform, or of inference, for good."""
    model, x = make(layout="T+S>ST"), clips()
    moved = create_model(model.config).to("meta").to_empty(device="cpu").double()
    moved.load_state_dict(model.state_dict())
    parameters = dict(moved.named_parameters())
    torch.func.grad(lambda p: functional_call(moved.eval(), p, (x,)).sum())(parameters)
    with torch.inference_mode():
        moved(x)
    torch.testing.assert_close(in_every_mode(moved), in_every_mode(model))
    moved(x).sum().backward()


@pytest.mark.parametrize("layout", ["T>S", "T+S>ST"])
def test_a_traced_model_takes_other_batch_sizes(layout: str) -> None:
    model = make(layout=layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks of the clip's shape, which are fixed
        traced = torch.jit.trace(model, clips())
    torch.testing.assert_close(traced(clips(5)), model(clips(5)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamic_quantisation_converts_every_linear_layer() -> None:
    model = make().float()
    converted = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not any(type(module) is nn.Linear for module in converted.modules())
    found, expected = converted(clips().float()), model(clips().float())
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


def test_an_empty_batch_gives_no_logits_and_no_gradients() -> None:
    model = make(layout="T+S>ST", drop_path=0.1)
    assert in_every_mode(model, clips()[:0]).shape == (0, 5)
    model(clips()[:0]).sum().backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_frozen_part_gets_no_gradient_and_passes_it_on() -> None:
    model = make()
    for branch in branches(model):
        branch.gate.requires_grad_(False)
    model.train()(clips()).sum().backward()
    frozen = {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {name for name, _ in model.named_parameters() if ".gate." in name}


def test_threads_on_one_model_do_not_disturb_each_other() -> None:
    model, inputs = make(), [clips(seed=seed) for seed in range(8)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    found: dict[int, Tensor] = {}

    def work(i: int) -> None:
        with torch.set_grad_enabled(i % 2 == 0):
            found[i] = model(inputs[i]).detach()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, logits in enumerate(expected):
        torch.testing.assert_close(found[i], logits, rtol=0, atol=1e-12)


# Derivatives


@pytest.mark.parametrize(("gate", "layout"), list(zip(GATE_NAMES, cycle(["T+S", "ST"]))))
def test_second_derivatives_are_those_of_eval_mode(gate: str, layout: str) -> None:
    """A gradient penalty's gradient, by every part of a branch."""
    model, x = make(gate=gate, layout=layout), clips(1)

    def of_penalty() -> list[Tensor | None]:
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(leaf).square().sum(), leaf, create_graph=True)
        parameters = list(model.stages.parameters())
        return list(torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True))

    with mode_of(model, "eval"):
        expected = of_penalty()
    with mode_of(model, "training"):
        found = of_penalty()
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)
    assert sum(float(each.abs().sum()) for each in expected if each is not None) > 0


def test_second_derivatives_are_the_numerical_ones() -> None:
    model = make(layout="T+S", depths=(1,), dims=(4,), num_groups=(2,), windows=(2,))
    name = "stages.0.blocks.0.steps.0.T.gate.positions.table"
    values = model.get_parameter(name).detach().clone().requires_grad_()

    def logits(table: Tensor) -> Tensor:
        return functional_call(model, {name: table}, (clips(1),))[:, :2]

    with mode_of(model, "training"):
        assert torch.autograd.gradgradcheck(logits, (values,))


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_forward_mode_gives_the_tangent_of_backward_mode(gate: str) -> None:
    model, x, direction = make(gate=gate, layout="T+S>ST"), clips(1), clips(1, seed=2)
    for mode in ("eval", "training"):
        with mode_of(model, mode), forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(model(forward_ad.make_dual(x, direction))).tangent
        with mode_of(model, "eval"):
            leaf = x.clone().requires_grad_()
            for k, logit in enumerate(model(leaf)[0]):
                (slope,) = torch.autograd.grad(logit, leaf, retain_graph=True)
                torch.testing.assert_close(tangent[0, k].detach(), (slope * direction).sum())


# The same seed gives the same model

STARTS = Path(__file__).parent / "golden" / "seeded_models.json"
VARIANTS: dict[str, dict[str, Any]] = {
    "T+S": {}, "ST": {"layout": "ST"}, "T>S add": {"layout": "T>S", "gate_form": "add"},
    "mix": {"gate_form": "mix", "token_bias": False}, "released": {"init": "released"},
    "fan_in": {"init": "fan_in"}, "unit_bias": {"init": "unit_bias"}, "steady": {"init": "steady"},
    "contrast": {"init": "contrast"},
    "image": {"layout": "S", "kind": "image", "num_frames": 1, "stem_convs": 3,
              "mlp_ratio": (4.0, 4.0, 4.0, 2.0), "downsample_depthwise": True},
}  # fmt: skip


def check_sum(model: nn.Module) -> float:
    """A number that moves with every value of a state and its place, to what floats are worth."""
    values = torch.cat([v.double().flatten() for v in model.state_dict().values()])
    return float(values @ torch.arange(len(values), dtype=torch.float64).cos())


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_a_seed_gives_the_model_that_it_always_gave(gate: str) -> None:
    """Draws depend on the order of construction, and on which parameter a start goes by."""
    found, expected = {}, json.loads(STARTS.read_text())
    for variant, values in VARIANTS.items():
        torch.manual_seed(0)
        found[f"{gate} {variant}"] = check_sum(create_model("toy", gate=gate, **values))
    expected = {name: expected[name] for name in found}
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)
