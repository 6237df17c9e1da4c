"""Relations: the index's laws, each relation against its formula, and the block path."""

from __future__ import annotations

import itertools
import math
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from posmlp import PositionalGatingUnit, relative_position_index
from posmlp.gates.dense import Dense, LRPEPlusDense
from posmlp.gates.gqpe import GQPE
from posmlp.gates.registry import GATES
from posmlp.gates.row_bank import RowBankUnit
from posmlp.positions import LRPE, Relation
from tests import reference

F64 = torch.float64
windows = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def tokens(window: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A window's places in row-major order, without torch."""
    return list(itertools.product(*(range(side) for side in window)))


def offset(query: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(q - k for q, k in zip(query, key, strict=True))


AnyRelation = TypeVar("AnyRelation", bound=torch.nn.Module)


def randomise(relation: AnyRelation, seed: int = 0) -> AnyRelation:
    generator = torch.Generator().manual_seed(seed)
    relation.double()
    with torch.no_grad():
        for parameter in relation.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=F64))
    return relation


# The index


@given(windows)
def test_index_numbers_offsets_row_major_without_gaps(window: tuple[int, ...]) -> None:
    index = relative_position_index(window)
    places = tokens(window)
    assert index.shape == (len(places), len(places))
    assert index.dtype == torch.int64
    offsets = list(itertools.product(*(range(1 - side, side) for side in window)))
    number = {one: i for i, one in enumerate(offsets)}
    expected = [[number[offset(m, n)] for n in places] for m in places]
    assert index.tolist() == expected
    assert index.unique().numel() == len(offsets)


def test_index_equals_released_examples() -> None:
    assert relative_position_index((4,))[0].tolist() == [3, 2, 1, 0]
    square = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_position_index((2, 2)).tolist() == square


# LRPE


@given(windows, st.integers(1, 3))
@settings(max_examples=30)
def test_lrpe_entry_is_the_table_at_query_minus_key(
    window: tuple[int, ...], num_groups: int
) -> None:
    lrpe = randomise(LRPE(window, num_groups))
    table, matrix = lrpe.bias_table(), lrpe()
    assert table.shape == (num_groups, *(2 * side - 1 for side in window))
    places = tokens(window)
    expected = torch.stack(
        [
            table[(slice(None), *(o + side - 1 for o, side in zip(pair, window, strict=True)))]
            for pair in (offset(m, n) for m in places for n in places)
        ],
        dim=1,
    )
    assert torch.equal(matrix.flatten(1), expected)


def test_lrpe_positive_time_offset_reads_the_past() -> None:
    lrpe = LRPE((4,), 1).double()
    with torch.no_grad():
        lrpe.table[0, 3 + 1] = 1.0  # dt = +1
    clip = torch.tensor([10.0, 20.0, 30.0, 40.0], dtype=F64)
    assert (lrpe()[0] @ clip).tolist() == [0.0, 10.0, 20.0, 30.0]


# GQPE


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(
    ("spread", "symmetric"), [("full", True), ("full", False), ("scalar", True)]
)
def test_gqpe_equals_released_formula_in_two_axes(
    spread: str, symmetric: bool, softmax: bool
) -> None:
    gqpe = GQPE((3, 3), 4, spread=spread, symmetric=symmetric, softmax=softmax)
    randomise(gqpe)
    expected = reference.gqpe(gqpe.centers, gqpe.spreads, 9, symmetric, softmax)
    torch.testing.assert_close(gqpe(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("window", [(4,), (3, 2), (2, 3, 2)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gqpe_diagonal_is_full_with_a_diagonal_matrix(
    window: tuple[int, ...], symmetric: bool
) -> None:
    diagonal = randomise(GQPE(window, 2, spread="diagonal", symmetric=symmetric))
    full = GQPE(window, 2, spread="full", symmetric=symmetric).double()
    with torch.no_grad():
        full.centers.copy_(diagonal.centers)
        full.spreads.copy_(torch.diag_embed(diagonal.spreads))
    torch.testing.assert_close(diagonal(), full(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("spread", "square"), [("full", True), ("full", False), ("scalar", True)])
def test_gqpe_one_axis_equals_its_formula(spread: str, square: bool) -> None:
    gqpe = GQPE((5,), 3, spread=spread, symmetric=square, softmax=False)
    randomise(gqpe)
    future = torch.arange(5.0, dtype=F64)[None, :] - torch.arange(5.0, dtype=F64)[:, None]
    centre, a = gqpe.centers[:, 0], gqpe.spreads.flatten()
    precision = (a**2 if square else a)[:, None, None]
    curvature = 1.0 if spread == "scalar" else precision
    expected = precision * centre[:, None, None] * future - 0.5 * curvature * future**2
    torch.testing.assert_close(gqpe(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("softmax", [True, False])
def test_gqpe_three_axes_factorise_when_time_and_space_do_not_couple(softmax: bool) -> None:
    joint = randomise(GQPE((3, 2, 4), 2, softmax=softmax))
    time, space = (GQPE(w, 2, softmax=softmax).double() for w in ((3,), (2, 4)))
    with torch.no_grad():
        joint.spreads[:, 2, :2] = 0
        joint.spreads[:, :2, 2] = 0
        space.spreads.copy_(joint.spreads[:, :2, :2])  # axes of a centre: x, y, then t
        space.centers.copy_(joint.centers[:, :2])
        time.spreads.copy_(joint.spreads[:, 2:, 2:])
        time.centers.copy_(joint.centers[:, 2:])
    outer = torch.stack([torch.kron(t, s) for t, s in zip(time(), space(), strict=True)])
    if not softmax:
        ones = [torch.ones(2, n, n, dtype=F64) for n in (3, 8)]
        pairs = zip(time(), ones[1], ones[0], space(), strict=True)
        outer = torch.stack([torch.kron(t, i) + torch.kron(j, s) for t, i, j, s in pairs])
    torch.testing.assert_close(joint(), outer, rtol=0, atol=1e-13)


@given(windows, st.sampled_from(["full", "diagonal", "scalar"]), st.booleans())
@settings(max_examples=30)
def test_gqpe_softmax_weights_are_a_distribution_over_keys(
    window: tuple[int, ...], spread: str, symmetric: bool
) -> None:
    matrix = randomise(GQPE(window, 2, spread=spread, symmetric=symmetric))()
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(-1), torch.ones(matrix.shape[:2], dtype=F64))


@pytest.mark.parametrize(
    ("window", "centre", "key_of_first"),
    [((4,), (2.0,), 2), ((3, 3), (2.0, -1.0), 3 + 2), ((2, 3, 3), (2.0, -1.0, 1.0), 9 + 3 + 2)],
)
def test_gqpe_looks_at_its_centre_right_up_and_later(
    window: tuple[int, ...], centre: tuple[float, ...], key_of_first: int
) -> None:
    """x to the right, y up (so -1 is one row down), t later: the first token's strongest key."""
    gqpe = GQPE(window, 1)
    with torch.no_grad():
        gqpe.centers.copy_(torch.tensor([centre]))
        gqpe.spreads.copy_(torch.eye(len(window))[None])
    assert gqpe()[0, 0].argmax() == key_of_first


def test_gqpe_bias_table_holds_the_scores_in_offset_order() -> None:
    window = (2, 3)
    gqpe = randomise(GQPE(window, 2, softmax=False))
    table = gqpe.bias_table()
    assert table is not None
    assert table.shape == (2, 3, 5)
    lookup = table.flatten(1)[:, relative_position_index(window)]
    torch.testing.assert_close(gqpe(), lookup, rtol=0, atol=0)


# Dense


def test_dense_is_its_weight_and_has_no_table() -> None:
    dense = randomise(Dense((2, 3), 2))
    assert torch.equal(dense(), dense.weight)
    assert dense.weight.shape == (2, 6, 6)
    assert dense.bias_table() is None


def test_lrpe_plus_dense_adds_one_matrix_to_every_group() -> None:
    both = randomise(LRPEPlusDense((2, 3), 4))
    alone = LRPE((2, 3), 4).double()
    with torch.no_grad():
        alone.table.copy_(both.table)
    assert both.weight.shape == (1, 6, 6)
    assert torch.equal(both(), alone() + both.weight)
    assert torch.equal(both.bias_table(), both.table)


# Large windows

TIED: list[tuple[type[Relation], dict[str, Any]]] = [
    (LRPE, {}),
    (GQPE, {}),
    (GQPE, {"softmax": False}),
    (GQPE, {"spread": "scalar"}),
    (LRPEPlusDense, {}),
]


@pytest.mark.parametrize(("kind", "options"), TIED)
@pytest.mark.parametrize("window", [(4, 3, 2), (3, 5), (1, 2, 3), (5, 1), (2, 1, 1)])
def test_row_bank_equals_the_whole_matrix_and_its_gradient(
    kind: type[Relation], options: dict, window: tuple[int, ...]
) -> None:
    plain, blocked = (
        made(6, window, 3, relation=kind, **options) for made in (PositionalGatingUnit, RowBankUnit)
    )
    for unit in (plain, blocked):
        randomise(unit.positions, seed=1)
        unit.double()
    assert len(list(blocked.frames_of_rows())) == window[0]
    torch.testing.assert_close(blocked.relation(), plain.relation(), rtol=0, atol=1e-14)

    h = torch.randn(
        2, 3, math.prod(window), 12, dtype=F64, generator=torch.Generator().manual_seed(0)
    )
    outs = [one(h) for one in (plain, blocked)]
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-12)
    weights = torch.randn(outs[0].shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    for out in outs:
        (out * weights).sum().backward()
    for a, b in zip(plain.parameters(), blocked.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=0, atol=1e-11)


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation's result holds (views of broadcasts aside)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements, self.operation = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor):
                held = one.untyped_storage().nbytes() // one.element_size()
                if held > self.num_elements:
                    self.num_elements, self.operation = held, str(func)
        return out


@pytest.mark.parametrize("gate", ["lrpe", "gqpe"])
def test_joint_unit_over_many_tokens_never_holds_the_whole_matrix(gate: str) -> None:
    window, num_groups = (8, 14, 14), 8
    whole = num_groups * math.prod(window) ** 2
    unit = GATES[gate](8, window, num_groups)
    h = torch.randn(1, math.prod(window), 16, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest, torch.no_grad():
        unit(h)
    assert largest.num_elements < whole / 4, largest.operation


def saved_elements(unit: torch.nn.Module, h: Tensor) -> int:
    """Elements that a forward pass keeps for its backward pass, each storage counted once."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = unit(h)
    assert out.requires_grad
    return sum(held.values())


def test_joint_lrpe_unit_saves_less_than_the_matrix_for_its_gradient() -> None:
    window, num_groups = (16, 5, 5), 4
    unit = RowBankUnit(4, window, num_groups)
    h = torch.randn(1, math.prod(window), 8, generator=torch.Generator().manual_seed(0))
    h.requires_grad_()
    assert saved_elements(unit, h) < 0.4 * num_groups * math.prod(window) ** 2
