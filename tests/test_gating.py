"""Gating units: what each mixes, channel by channel, how it gates, and its gradients."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from posmlp import GATES, PositionalGatingUnit, create_model, relative_position_index
from posmlp.config_checks import GATE_FORMS, GATE_NAMES, INITS
from posmlp.gates.centred import CentredGQPE
from posmlp.gates.row_bank import RowBankUnit
from posmlp.gating import GatingUnit
from posmlp.parts.initialise import initialise

F64 = torch.float64
TIED = [name for name in GATE_NAMES if not name.endswith("attention")]
CENTRED = [name for name in GATE_NAMES if name.startswith("centred-")]
windows = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
widths = st.tuples(st.integers(1, 3), st.integers(1, 4))  # groups, channels a group


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def make(
    gate: str, dim: int, window: tuple[int, ...], groups: int, form: str = "mix", **options: Any
) -> GatingUnit:
    """A float64 unit with every parameter random, so that nothing is trivially zero."""
    unit = GATES[gate](dim, window, groups, form=form, **options).double()
    with torch.no_grad():
        for seed, parameter in enumerate(unit.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=seed))
    return unit


def test_gates_are_the_named_ones() -> None:
    assert set(GATES) == set(GATE_NAMES)


@pytest.mark.parametrize("gate", TIED)
@given(windows, widths, st.booleans())
@settings(max_examples=12)
def test_mix_is_the_relation_times_u_channel_by_channel(
    gate: str, window: tuple[int, ...], width: tuple[int, int], token_bias: bool
) -> None:
    groups, dim = width[0], width[0] * width[1]
    num_tokens = math.prod(window)
    unit = make(gate, dim, window, groups, token_bias=token_bias)
    relation = unit.relation().double()
    assert relation.shape == (groups, num_tokens, num_tokens)
    u = randn(2, num_tokens, dim, seed=9)
    shift = unit.token_bias.view(-1) if token_bias and unit.token_bias is not None else 0.0
    expected = [relation[c % groups] @ u[b, :, c] + shift for b in range(2) for c in range(dim)]
    out = unit(u).transpose(1, 2).reshape(-1, num_tokens)
    atol = 1e-6 if gate == "mean" else 1e-11  # test_relation_has_the_units_dtype holds mean's
    torch.testing.assert_close(out, torch.stack(expected), rtol=0, atol=atol)


@pytest.mark.parametrize("gate", ["mean", "none", "centred-mean"])
def test_relation_has_the_units_dtype_and_device(gate: str) -> None:
    unit = make(gate, 4, (3,), 2)
    assert unit.relation().dtype == F64
    with torch.device("meta"):
        built_on_meta = GATES[gate](4, (3,), 2)
    assert built_on_meta.relation().device.type == "meta"


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_form_gates_the_mixed_first_half_by_the_second(gate: str) -> None:
    window, dim = (2, 3), 6
    mixer = make(gate, dim, window, 3)
    u, v = randn(4, 6, dim, seed=1), randn(4, 6, dim, seed=2)
    for form, expected in (("multiply", mixer(u) * v), ("add", mixer(u) + v)):
        unit = make(gate, dim, window, 3, form=form)
        unit.load_state_dict(mixer.state_dict())
        out = unit(torch.cat([u, v], dim=-1))
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert mixer.in_features == dim
    assert unit.in_features == 2 * dim


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_unit_keeps_leading_dimensions_or_takes_one_window_alone(gate: str) -> None:
    for form, token_bias in itertools.product(GATE_FORMS, [True, False]):
        unit = make(gate, 4, (3, 2), 2, form=form, token_bias=token_bias)
        h = randn(2, 5, 6, unit.in_features)
        out = unit(h)
        assert out.shape == (2, 5, 6, 4)
        torch.testing.assert_close(out.flatten(0, 1), unit(h.flatten(0, 1)), rtol=0, atol=1e-13)
        torch.testing.assert_close(unit(h[1, 3]), out[1, 3], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("gate", "form"), list(zip(GATE_NAMES, itertools.cycle(GATE_FORMS))))
def test_gradients_are_the_numerical_ones(gate: str, form: str) -> None:
    unit = make(gate, 4, (2, 2), 2, form=form)
    names = [name for name, _ in unit.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in unit.parameters()]
    h = randn(2, 4, unit.in_features, seed=7).requires_grad_()

    def run(h: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(unit, named, (h,))

    assert torch.autograd.gradcheck(run, (h, *values))


@pytest.mark.parametrize("gate", ["attention", "qkv-attention", "centred-attention"])
def test_attention_equals_its_formula(gate: str) -> None:
    """A head a group: softmax(q k / sqrt(V) + relative position bias) over keys, values are u.

    `qkv-attention` has q, k and values of a normalised u.
    """
    groups, per_group, window = 2, 3, (2, 2)
    dim, num_tokens = groups * per_group, 4
    unit = make(gate, dim, window, groups)
    u = randn(num_tokens, dim, seed=5)
    assert unit.token_bias is not None
    out = unit(u[None])[0]
    value = u
    if gate == "qkv-attention":
        u = F.layer_norm(u, (dim,), unit.norm.weight, unit.norm.bias)
        value = u @ unit.value.weight.T + unit.value.bias
    query, key = unit.query_key(u).chunk(2, dim=-1)
    for g in range(groups):
        c = torch.arange(g, dim, groups)
        scores = query[:, c] @ key[:, c].T / math.sqrt(per_group) + unit.relation()[g]
        expected = scores.softmax(-1) @ value[:, c] + unit.token_bias
        if gate == "centred-attention":
            expected = expected - u[:, c].mean(0)
        torch.testing.assert_close(out[:, c], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "gate", ["lrpe", "lrpe+dense", "attention", "conv", "gqpe", "centred-attention", "centred-gqpe"]
)
def test_bias_table_has_an_entry_for_each_offset(gate: str) -> None:
    table = make(gate, 4, (2, 3, 4), 2).bias_table()
    assert table is not None
    assert table.shape == (2, 3, 5, 7)


@pytest.mark.parametrize("gate", ["dense", "mean", "none", "centred-mean"])
def test_bias_table_is_none_where_there_are_no_offsets(gate: str) -> None:
    assert make(gate, 4, (2, 3), 2).bias_table() is None


@pytest.mark.parametrize("gate", ["lrpe", "attention", "qkv-attention", "conv"])
@given(windows)
@settings(max_examples=10)
def test_relation_reads_the_bias_table_at_query_minus_key(
    gate: str, window: tuple[int, ...]
) -> None:
    unit = make(gate, 4, window, 2)
    table = unit.bias_table()
    assert table is not None
    expected = table.flatten(1)[:, relative_position_index(window)]
    torch.testing.assert_close(unit.relation(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("size", "radius"), [(1, 0), (3, 1), (5, 2)])
def test_conv_reaches_its_radius_and_no_further(size: int, radius: int) -> None:
    relation = make("conv", 2, (6, 4), 2, size=size).relation()
    for m in range(24):
        for n in range(24):
            distance = max(abs(m // 4 - n // 4), abs(m % 4 - n % 4))
            assert bool((relation[:, m, n] != 0).all()) == (distance <= radius)
            assert bool((relation[:, m, n] != 0).any()) == (distance <= radius)


def test_mean_and_none_are_the_uniform_and_the_unit_matrix() -> None:
    u = randn(2, 6, 4)
    flat = make("mean", 4, (2, 3), 2, token_bias=False)
    same = make("none", 4, (2, 3), 2, token_bias=False)
    torch.testing.assert_close(flat(u), u.mean(1, keepdim=True).expand(2, 6, 4))
    assert torch.equal(same(u), u)


@pytest.mark.parametrize("gate", CENTRED)
@given(windows, widths, st.floats(-3, 3))
@settings(max_examples=15)
def test_a_centred_gate_is_the_other_minus_the_windows_mean_and_mixes_a_static_background_to_0(
    gate: str, window: tuple[int, ...], width: tuple[int, int], level: float
) -> None:
    groups, dim = width[0], width[0] * width[1]
    num_tokens = math.prod(window)
    unit, other = make(gate, dim, window, groups), make(gate[8:], dim, window, groups)
    other.load_state_dict(unit.state_dict())  # of the same names
    u, background = randn(2, num_tokens, dim, seed=4), level * randn(2, 1, dim, seed=5)
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(unit.mix(u), other.mix(u) - u.mean(1, keepdim=True), **close)
    static = background.expand(-1, num_tokens, -1)
    torch.testing.assert_close(unit.mix(static), torch.zeros_like(static), **close)
    torch.testing.assert_close(other.mix(static), static, **close)  # its rows sum to 1
    if gate != "centred-attention":
        torch.testing.assert_close(unit.relation(), other.relation() - 1 / num_tokens, **close)
    table, plain = unit.bias_table(), other.bias_table()
    assert (table is None) == (plain is None)
    if table is not None and plain is not None:
        assert torch.equal(table, plain)


def test_centred_gqpe_by_frames_is_the_whole_one() -> None:
    whole = PositionalGatingUnit(4, (3, 2, 2), 2, relation=CentredGQPE, form="mix").double()
    by_frames = RowBankUnit(4, (3, 2, 2), 2, relation=CentredGQPE, form="mix").double()
    initialise(whole, "normal")
    by_frames.load_state_dict(whole.state_dict())
    u = randn(2, 12, 4)
    torch.testing.assert_close(by_frames.mix(u), whole.mix(u))
    torch.testing.assert_close(by_frames.relation(), whole.relation())


# Bad input


@pytest.mark.parametrize("gate", GATE_NAMES)
def test_groups_that_do_not_divide_and_tokens_of_another_window_are_refused(gate: str) -> None:
    """Source: the released unit sums silently over a window of size one."""
    with pytest.raises(ValueError, match=r"4.*6|6.*4"):
        GATES[gate](6, (3,), 4)
    unit = GATES[gate](4, (3,), 2)
    for shape in ((1, 1, 8), (1, 4, 8), (1, 3, 4), (1, 6, 8)):
        with pytest.raises(ValueError, match=r"3, 8"):
            unit(torch.zeros(shape))


def test_values_that_make_no_unit_are_refused() -> None:
    for num_groups in (0, -1):
        with pytest.raises(ValueError, match=str(num_groups)):
            PositionalGatingUnit(6, (3,), num_groups)
    with pytest.raises(ValueError, match=r"multiply.*add.*mix"):
        PositionalGatingUnit(6, (3,), 3, form="times")
    with pytest.raises(ValueError, match="4"):
        GATES["conv"](4, (6,), 2, size=4)
    with pytest.raises(ValueError, match=r"normal.*released"):
        initialise(PositionalGatingUnit(4, (3,), 2), "xavier")


# Initialisation


STDS = {"released": 0.0, "normal": 0.02, "fan_in": 1 / 6, "unit_bias": 1e-3} | {
    init: 0.1 for init in ("steady", "contrast")
}


@pytest.mark.parametrize("init", INITS)
def test_initialise_sets_tables_and_token_biases_as_named(init: str) -> None:
    for gate, window in itertools.product(GATE_NAMES, [(6, 6), (36,)]):
        torch.manual_seed(0)
        unit = GATES[gate](4, window, 2)
        initialise(unit, init)
        level = 1.0 if init == "unit_bias" else 0.0
        assert torch.equal(unit.token_bias, torch.full((36, 1), level)), gate
        for name, value in unit.named_parameters():
            if name in ("positions.table", "positions.weight", "kernel"):
                few = value.numel() < 100
                expected = pytest.approx(STDS[init], rel=0.5 if few else 0.15)
                assert value.std().item() == expected, (gate, window)


def test_steady_spreads_gqpes_centres_over_time_alone() -> None:
    models = []
    for init in ("normal", "steady"):
        torch.manual_seed(0)
        models.append(create_model("toy", layout="T+S>ST", gate="gqpe", init=init))
    steady = dict(models[1].named_parameters())
    for name, value in models[0].named_parameters():
        if name.endswith("positions.centers"):
            factor = 100.0 if ".T." in name else 1.0
            torch.testing.assert_close(steady[name], factor * value, msg=name)


@pytest.mark.parametrize("kind", ["video", "image"])
def test_contrast_makes_a_model_that_even_light_leaves_as_it_is(kind: str) -> None:
    torch.manual_seed(0)
    few = {"num_frames": 1, "layout": "S", "stem_convs": 3} if kind == "image" else {}
    stems = []
    for init in ("steady", "contrast"):
        torch.manual_seed(0)
        stems.append(create_model("toy", init=init, kind=kind, **few).stem.eval())
    random, contrast = stems
    x = torch.rand(2, 3, 32, 32)
    inside = (..., slice(1, None), slice(1, None))  # without the border, which is padded with 0
    for stem, alike in ((random, False), (contrast, True)):
        first, brighter = (stem.convs[0](image)[inside] for image in (x, x + 5))
        assert torch.allclose(first, brighter, atol=1e-4) == alike
    for name, weight in contrast.named_parameters():
        if name != "convs.0.weight":
            assert torch.equal(weight, random.get_parameter(name)), name


@pytest.mark.parametrize("gate", ["lrpe", "attention", "qkv-attention"])
@pytest.mark.parametrize("init", INITS)
def test_linear_layers_start_alike_within_units_and_around_them(gate: str, init: str) -> None:
    torch.manual_seed(0)
    model = create_model("toy", gate=gate, init=init)
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(layers) > 20
    for layer in layers:
        std = 0.05 if init in ("steady", "contrast") else 0.02
        assert layer.weight.std().item() == pytest.approx(std, rel=0.15)
        assert not layer.bias.any()


@pytest.mark.parametrize("spread", ["full", "diagonal", "scalar"])
def test_gqpe_starts_at_small_centres_and_unit_spreads(spread: str) -> None:
    torch.manual_seed(0)
    unit = GATES["gqpe"](64, (3, 3), 64, spread=spread)
    initialise(unit, "released")
    centres, spreads = unit.positions.centers, unit.positions.spreads
    assert centres.std().item() == pytest.approx(0.01, rel=0.25)
    identity = torch.eye(2) if spread == "full" else torch.ones(())
    assert (spreads - identity).std().item() == pytest.approx(0.01, rel=0.25)
    assert (spreads - identity).mean().abs() < 0.005
