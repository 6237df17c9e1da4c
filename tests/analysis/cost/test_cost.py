"""Counts against hand counts, closed formulas, and torch's own counter."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from analysis import activation_memory, cost, relation_macs, relation_params, units
from analysis.cost.memory import peak_bytes
from posmlp import GATES, PosMLPConfig, create_model

SMALL = PosMLPConfig(
    num_classes=3,
    num_frames=4,
    image_size=16,
    depths=(1, 2),
    dims=(8, 12),
    num_groups=(2, 3),
    windows=(4, 2),
)
LAYOUTS = ["T+S", "T>S", "ST", "S", "T", "ST+S"]


def torch_flops(model: nn.Module) -> int:
    """One clip's FLOPs by torch's counter, less those of making relations from parameters.

    On `meta`, where a model needs no memory.
    """
    config = model.config
    model = copy.deepcopy(model).to("meta")
    clip = torch.zeros(1, config.in_channels, config.num_frames, *config.size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model.eval()(clip)
    with torch.no_grad(), FlopCounterMode(display=False) as making:
        for place in units(model):
            place.unit.bias_table()
    return forward.get_total_flops() - making.get_total_flops()


@pytest.mark.parametrize(
    ("gate", "layout"), [*((g, "T>S+ST") for g in GATES), *(("lrpe", each) for each in LAYOUTS)]
)
def test_cost_equals_torch_counter_and_formulas(gate: str, layout: str) -> None:
    model = create_model(SMALL, gate=gate, layout=layout)
    found = cost(model)
    by_module = found["by_module"].set_index("module")
    assert 2 * found["macs"] == torch_flops(model)
    assert found["params"] == sum(p.numel() for p in model.parameters())
    assert by_module["macs"].sum() == found["macs"] == round(found["gmacs"] * 1e9)
    assert by_module["params"].sum() == found["params"]

    params = macs = 0
    for place in units(model):
        i, unit = place.stage - 1, place.unit
        params += relation_params(gate, unit.window, SMALL.num_groups[i], unit.dim)
        windows = found["num_tokens"][i] // math.prod(unit.window)
        macs += windows * relation_macs(gate, unit.window, unit.dim)
    in_gates = by_module.index.str.contains(r"\.gate(?:\.|$)")
    assert found["relation_params"] == params
    assert by_module[in_gates]["macs"].sum() == macs


@pytest.mark.parametrize("spread", ["full", "diagonal", "scalar"])
def test_relation_params_counts_gqpe_spreads(spread: str) -> None:
    model = create_model(SMALL, gate="gqpe", layout="ST", gqpe_spread=spread)
    expected = sum(
        relation_params("gqpe", p.unit.window, p.unit.num_groups, p.unit.dim, gqpe_spread=spread)
        for p in units(model)
    )
    assert cost(model)["relation_params"] == expected


def test_relation_of_a_wide_convolution_ends_at_the_table() -> None:
    model = create_model(SMALL, gate="conv", conv_size=5, layout="S")
    found = cost(model)
    first = found["by_module"].set_index("module").loc["stages.0.blocks.0.steps.0.S.gate"]
    assert first["macs"] == 4 * relation_macs("conv", (4, 4), 8, conv_size=5)
    assert relation_params("conv", (2, 2), 3, 12, conv_size=5) == 3 * 3 * 3


@pytest.mark.parametrize("form", ["add", "mix"])
def test_cost_is_half_of_torch_flops_for_gate_forms(form: str) -> None:
    model = create_model(SMALL, gate="attention", gate_form=form)
    assert 2 * cost(model)["macs"] == torch_flops(model)


def test_cost_of_one_linear_gate_by_hand() -> None:
    config = PosMLPConfig(
        num_classes=5, num_frames=2, image_size=8, depths=(1,), dims=(4,), num_groups=2, windows=2
    )
    tokens, dim = 2 * 2 * 2, 4
    expected = {
        "stem.convs.0": 2 * 4 * 4 * 2 * 3 * 9,
        "stem.convs.1": 2 * 2 * 2 * 4 * 2 * 9,
        "head": dim * 5,
    }
    for branch, window in (("T", 2), ("S", 4)):
        at = f"stages.0.blocks.0.steps.0.{branch}"
        expected |= {f"{at}.fc1": tokens * dim * 2 * dim, f"{at}.fc2": tokens * dim * dim}
        expected[f"{at}.gate"] = tokens * dim * window
    found = cost(config)
    counted = found["by_module"].set_index("module")["macs"]
    assert counted[counted > 0].to_dict() == expected
    assert found["num_tokens"] == (tokens,)


def test_cost_of_s16_is_the_known_one() -> None:
    found = cost("s16")
    assert found["params"] == 13_509_537
    assert found["relation_params"] == 324_160
    assert found["num_tokens"] == (50176, 12544, 3136, 784)
    module = found["by_module"]["module"]
    parts = {
        "": 40.17,
        "^stem": 1.37,
        "^downsamples": 3.51,
        "fc1$": 19.77,
        "fc2$": 9.88,
        r"\.S\.gate$": 5.20,
        r"\.T\.gate$": 0.44,
    }
    for pattern, giga in parts.items():
        part = found["by_module"][module.str.contains(pattern)]["macs"].sum() / 1e9
        assert part == pytest.approx(giga, abs=0.005), pattern


def test_cost_of_an_image_model_counts_one_frame() -> None:
    small = {"image_size": 64, "windows": (8, 8, 4, 2), "depths": (1, 1, 1, 1)}
    quadratic, learned = (create_model("image-t", gate=g, **small) for g in ("gqpe", "lrpe"))
    assert cost(quadratic)["num_tokens"][0] == 16 * 16
    assert cost(quadratic)["macs"] == cost(learned)["macs"]


def test_cost_on_meta_equals_cost_in_memory() -> None:
    with torch.device("meta"):
        model = create_model(SMALL)
    assert cost(model)["macs"] == cost(SMALL)["macs"]
    assert cost(model)["params"] == cost(SMALL)["params"]


def test_cost_leaves_model_seed_and_warnings_alone() -> None:
    model = create_model(SMALL, drop_path=0.5).train()
    model.head.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost(model)
        cost(SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.head.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class EinsumGate(nn.Module):
    """What a notebook may write: u mixed by a free matrix a group, given as an einsum."""

    def __init__(self, dim: int, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()
        num_tokens = math.prod(window)
        self.weight = nn.Parameter(torch.zeros(num_groups, num_tokens, num_tokens))
        self.scale = nn.Parameter(torch.zeros(dim, 3, 3))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        u, v = h.chunk(2, dim=-1)
        u = u.unflatten(-1, (-1, len(self.weight)))
        mixed = torch.einsum("gmn,...nvg->...mvg", self.weight, u).flatten(-2)
        return mixed * v + torch.einsum("cij,cjk->c", self.scale, self.scale)


class AddingGate(EinsumGate):
    """The same product as a matrix product that adds in the same call."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        u, v = h.chunk(2, dim=-1)
        weight = self.weight[:1].expand(len(u), -1, -1)
        return torch.baddbmm(v, weight, u)


@pytest.mark.parametrize("gate", [EinsumGate, AddingGate])
def test_cost_counts_a_notebooks_gate_but_not_what_no_clip_enters(gate: type[nn.Module]) -> None:
    config = PosMLPConfig(**{**vars(SMALL), "gate": gate})
    found = cost(config)
    assert found["macs"] == cost(SMALL)["macs"]
    # its parameters: each group's matrix over 4 frames, and over 4x4 or 2x2 places; the scales
    matrices = 2 * (4**2 + 16**2) + 2 * 3 * (4**2 + 4**2)
    assert found["relation_params"] == matrices + 9 * (2 * 8 + 4 * 12)


def test_cost_refuses_products_that_it_cannot_count() -> None:
    class Tensordot(EinsumGate):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return torch.tensordot(h.chunk(2, dim=-1)[0], torch.eye(h.shape[-1] // 2), dims=1)

    class Triple(EinsumGate):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            u = h.chunk(2, dim=-1)[0]
            return torch.einsum("gij,gjk,bkc->bic", self.weight, self.weight, u)

    with pytest.raises(ValueError, match=r"cannot count aten::tensordot.*matmul"):
        cost(PosMLPConfig(**{**vars(SMALL), "gate": Tensordot}))
    with pytest.raises(ValueError, match="several einsums"):
        cost(PosMLPConfig(**{**vars(SMALL), "gate": Triple}))
    with pytest.raises(ValueError, match="unknown preset"):
        cost("s17")
    with pytest.raises(ValueError, match="unknown gate"):
        relation_macs("lrp", (4,), 8)


class Tokens(nn.Module):
    """A module of tokens, called on a clip of 6 tokens of 8 numbers."""

    def __init__(self, inner: nn.Module, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.call(self.inner, clips.reshape(len(clips), 6, 8))


def _first(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module(x)[0]


def _padded(x: torch.Tensor) -> torch.Tensor:
    padded = torch.zeros(9, 8, device=x.device)
    padded[:6] += x[0]
    return padded


COUNTED = {
    "attention": Tokens(nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x)[0]),
    "scores kept back": Tokens(
        nn.MultiheadAttention(8, 2, batch_first=True),
        lambda m, x: m(x, x, x, need_weights=False)[0],
    ),
    "encoder layer": Tokens(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), lambda m, x: m(x)
    ),
    "lstm": Tokens(nn.LSTM(8, 5, 2, bidirectional=True, proj_size=3, batch_first=True), _first),
    "gru": Tokens(nn.GRU(8, 5, bias=False), _first),
    "rnn": Tokens(nn.RNN(8, 5), _first),
    "rnn of relu": Tokens(nn.RNN(8, 5, nonlinearity="relu"), _first),
    "lstm cell": Tokens(nn.LSTMCell(8, 5), lambda m, x: m(x[:, 0])[0]),
    "inner": Tokens(nn.Linear(8, 4), lambda m, x: torch.inner(x, m.weight)),
    "attention that broadcasts": Tokens(
        nn.Linear(8, 8),
        lambda m, x: nn.functional.scaled_dot_product_attention(m.weight[None], x, x[..., :3]),
    ),
    "summed ellipsis": Tokens(nn.Linear(8, 8), lambda m, x: torch.einsum("...i,...i->i", x, x)),
    "no arrow": Tokens(nn.Linear(8, 8), lambda m, x: torch.einsum("...j,jk", x, m.weight)),
    "data": Tokens(nn.Linear(8, 4), lambda m, x: m(x.data)),
    "written into a view": Tokens(nn.Linear(8, 4), lambda m, x: m(_padded(x))),
    "transposed": Tokens(nn.ConvTranspose1d(6, 4, 3, 2, groups=2, dilation=2), lambda m, x: m(x)),
    "same padding": Tokens(nn.Conv1d(6, 4, 3, padding="same", groups=2), lambda m, x: m(x)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_cost_of_fused_products_is_half_of_torch_flops(name: str) -> None:
    model = COUNTED[name].eval()
    on_meta = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:  # with gradients: no fused attention
        on_meta(torch.zeros(1, 3, 1, 4, 4, device="meta"))
    fused = torch.backends.mha.get_fastpath_enabled()
    assert 2 * cost(model, clip_shape=(3, 1, 4, 4))["macs"] == counter.get_total_flops() > 0
    assert torch.backends.mha.get_fastpath_enabled() == fused


REFUSED = {
    "outer": lambda m, x: torch.outer(x[0, 0], m.weight[0]),
    "addr": lambda m, x: torch.addr(m.weight, m.weight[:, 0], x[0, 0]),
    "cdist": lambda m, x: torch.cdist(x, m.weight[None]),
    "fft_rfft": lambda m, x: torch.fft.rfft(x).real,
    "linalg_multi_dot": lambda m, x: torch.linalg.multi_dot([x[0], m.weight, m.weight]),
    "linalg_vecdot": lambda m, x: torch.linalg.vecdot(x, m.weight[0]),
    "linalg_matrix_power": lambda m, x: torch.linalg.matrix_power(x[0] @ x[0].mT, 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_cost_refuses_an_operation_that_it_does_not_know(name: str) -> None:
    model = Tokens(nn.Linear(8, 8), REFUSED[name])
    with pytest.raises(ValueError, match=rf"cost cannot count aten::{name}; write its products"):
        cost(model, clip_shape=(3, 1, 4, 4))


def test_cost_counts_a_product_in_place() -> None:
    model = Tokens(nn.Linear(8, 8), lambda m, x: x[0].clone().addmm_(x[0], m.weight))
    assert cost(model, clip_shape=(3, 1, 4, 4), memory=False)["macs"] == 6 * 8 * 8


def test_cost_of_an_index_of_size_1_is_that_of_its_outer_product() -> None:
    for equation in ("bnc,nd->bcd", "nd,bnc->bcd"):
        model = Tokens(
            nn.Linear(8, 5),
            lambda m, x, equation=equation: torch.einsum(
                equation, *([x, m.bias[None]] if equation[0] == "b" else [m.bias[None], x])
            ),
        )
        assert cost(model, clip_shape=(3, 1, 4, 4), memory=False)["macs"] == 8 * 5


def test_cost_refuses_parts_that_are_not_traced() -> None:
    for inner in (torch.compile(nn.Linear(8, 8)), torch.jit.script(nn.Linear(8, 8))):
        with pytest.raises(ValueError, match=r"cost cannot trace Tokens \(.*compiled, scripted"):
            cost(Tokens(inner, lambda m, x: m(x)), clip_shape=(3, 1, 4, 4), memory=False)


@pytest.mark.parametrize("leave", [np.asarray, torch.Tensor.numpy])
def test_cost_refuses_what_is_computed_in_numpy(leave) -> None:
    model = Tokens(nn.Linear(8, 8), lambda m, x: torch.from_numpy(leave(m(x).detach()) @ np.eye(8)))
    with pytest.raises(ValueError, match="what a model computes in NumPy; write it in torch"):
        cost(model, clip_shape=(3, 1, 4, 4), memory=False)


def test_cost_counts_a_parameter_that_two_share_once() -> None:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    model = Tokens(nn.Sequential(first, second), lambda m, x: m(x))
    found = cost(model, clip_shape=(3, 1, 4, 4))
    assert (found["params"], found["macs"]) == (8 * 8 + 2 * 8, 2 * 6 * 8 * 8)


def test_cost_says_what_does_not_run_on_meta() -> None:
    model = Tokens(nn.Linear(8, 8), lambda m, x: m(x * float(x.sum() > 1)))
    for shape in ((3, 1, 4, 4), (3, 1, 4, 5)):
        with pytest.raises(ValueError, match=r"Tokens does not run on .*\(3, 1, 4, .*memory=False"):
            cost(model, clip_shape=shape)


def test_cost_counts_what_no_clip_enters_as_nothing() -> None:
    mixing = nn.utils.parametrizations.orthogonal(nn.Linear(8, 8))  # made by a matrix exponential
    model = Tokens(mixing, lambda m, x: m(x))
    assert cost(model, clip_shape=(3, 1, 4, 4))["macs"] == 6 * 8 * 8


def test_cost_refuses_what_is_no_model() -> None:
    for given in (None, {}, SMALL.to_dict()):
        with pytest.raises(ValueError, match=r"cost of .*PosMLPConfig\.from_dict.*preset's name"):
            cost(given)
    with pytest.raises(ValueError, match=r"clips of shape \(1, 3, 8\) are not"):
        cost(SMALL, clip_shape=(3, 8))
    with pytest.raises(ValueError, match=r"clip_shape=\(\) must be \(C, T, H, W\)"):
        cost(SMALL, clip_shape=())


def test_cost_of_a_model_without_parameters_is_its_activations() -> None:
    found = cost(nn.ReLU(), clip_shape=(3, 4))
    assert (found["params"], found["macs"], found["peak_bytes"]) == (0, 0, 4 * 3 * 4)
    assert list(found["by_module"]) == ["module", "type", "params", "macs"]


FLOAT = 4
N = 10


class Perceptron(nn.Module):
    """(B, 4) -> (B, 2) through 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.gelu(self.first(x.flatten(0, 1))))


class Square(nn.Module):
    """Its product saves y twice, as itself and as a view of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        return y * y.view_as(y)


def test_memory_of_a_perceptron_on_paper() -> None:
    found = activation_memory(Perceptron(), (N, 4))
    hidden = N * 8 * FLOAT
    # backward needs GELU's input and the second layer's; the first layer's is the clip itself
    assert found["saved_bytes"] == 2 * hidden
    # GELU's input and output live together; the 2 outputs come when the input has been dropped
    assert found["peak_bytes"] == 2 * hidden


def test_memory_counts_a_block_once_however_many_tensors_view_it() -> None:
    found = activation_memory(Square(), (6,))
    assert found["saved_bytes"] == 6 * FLOAT
    assert found["peak_bytes"] == 2 * 6 * FLOAT


def test_memory_in_half_precision_is_half() -> None:
    whole = activation_memory(Perceptron(), (N, 4))
    half = activation_memory(Perceptron().bfloat16(), (N, 4))
    assert half == {name: size // 2 for name, size in whole.items()}


def test_cost_tells_memory_which_grows_with_the_clip() -> None:
    small = PosMLPConfig(
        num_classes=3, num_frames=4, image_size=16, depths=(1,), dims=(8,), num_groups=2, windows=4
    )
    sizes = ((3, 4, 32, 32), (3, 4, 64, 64))  # of several windows: a single one takes no copies
    one, four = (cost(create_model(small), clip_shape=size) for size in sizes)
    for name in ("saved_bytes", "peak_bytes"):
        assert 3.5 * one[name] < four[name] < 4.1 * one[name], name
    assert four["macs"] > 3.9 * one["macs"]
    assert one["saved_bytes"] > one["peak_bytes"]


@pytest.mark.parametrize(
    "clip_shape", [None, 3, (), (0, 4), (-1, 4), (1.5, 4)], ids=lambda shape: str(shape)
)
def test_a_clip_without_numbers_is_refused(clip_shape: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"clip_shape={clip_shape} must be (C, T, H")):
        activation_memory(Perceptron(), clip_shape)


def test_memory_of_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="'toy' is no model; build it with posmlp"):
        activation_memory("toy", (3, 8, 32, 32))


def test_peak_is_of_what_a_step_makes_and_holds_at_once() -> None:
    given = torch.zeros(1000)

    def step() -> None:
        for _ in range(3):
            torch.empty(1000)  # dropped before the next
        given.add_(1)
        held = [torch.empty(1000), given[:500], given.clone()]
        del held

    assert peak_bytes(step) == 2 * 4000


def test_peak_of_a_training_step_holds_what_is_saved_for_its_gradients() -> None:
    model, x = Perceptron(), torch.randn(1, N, 4)
    saved = activation_memory(model, (N, 4))["saved_bytes"]
    peak = peak_bytes(lambda: model(x).sum().backward())
    gradients = sum(4 * parameter.numel() for parameter in model.parameters())
    assert saved < peak < 2 * saved + gradients + 4 * x.numel()
