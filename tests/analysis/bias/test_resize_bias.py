"""Resized models: tables that stay the function of the offset that they were."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import accuracy_at, resize_bias, units
from posmlp import GATES, PosMLPVideo, create_model
from posmlp.config import TrainConfig
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import GeneratedClips
from posmlp.train.scoring import evaluate
from tests.analysis.bias.test_bias_maps import SMALL, model_with, randomised

SIDES = st.integers(1, 6)


def only_unit(model: PosMLPVideo) -> Any:
    [place] = units(model)
    return place.unit


def offsets(side: int) -> torch.Tensor:
    """Offsets of a window as shares of the furthest; 0 where there is no other."""
    return torch.arange(1 - side, side) / max(side - 1, 1)


@given(SIDES, SIDES)
@settings(max_examples=30)
def test_a_table_linear_in_the_offset_stays_so(old: int, new: int) -> None:
    model = model_with([(3 + 2 * offsets(old)).tolist()], num_frames=old)
    table = only_unit(resize_bias(model, num_frames=new, keep="values")).bias_table()
    expected = 3 + 2 * offsets(new) if old > 1 else torch.full((2 * new - 1,), 3.0)
    torch.testing.assert_close(table, expected[None], rtol=1e-5, atol=1e-5)


@given(SIDES, SIDES)
@settings(max_examples=30)
def test_offset_zero_keeps_its_weight(old: int, new: int) -> None:
    table = torch.randn(1, 2 * old - 1, generator=torch.Generator().manual_seed(old))
    resized = only_unit(resize_bias(model_with(table, num_frames=old), num_frames=new))
    torch.testing.assert_close(
        resized.bias_table()[0, new - 1], table[0, old - 1] * old / new, rtol=1e-5, atol=1e-6
    )


def test_a_spatial_table_linear_in_both_offsets_stays_so() -> None:
    def plane(side: int) -> torch.Tensor:
        return offsets(side)[:, None] - 4 * offsets(side)[None, :]

    model = model_with(plane(3)[None], layout="S", windows=3, image_size=12)
    resized = resize_bias(model, windows=5, image_size=20, keep="values")
    torch.testing.assert_close(only_unit(resized).bias_table()[0], plane(5), rtol=1e-5, atol=1e-5)
    assert resized.config.size == (20, 20)


@pytest.mark.parametrize(("gate", "keep"), list(zip(GATES, cycle(["values", "sums"]))))
def test_the_same_size_is_the_identity(gate: str, keep: str) -> None:
    model = randomised(create_model(SMALL, gate=gate, layout="T+S>ST"))
    resized = resize_bias(model, num_frames=3, image_size=16, windows=(4, 2), keep=keep)
    assert resized is not model
    state = resized.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_sums_of_mixing_weights_are_kept_or_their_values() -> None:
    model = model_with(torch.full((1, 5), 2.0))
    rows = {k: only_unit(resize_bias(model, num_frames=6, keep=k)) for k in ("sums", "values")}
    assert rows["sums"].relation().sum(-1).flatten().tolist() == pytest.approx([6.0] * 6)
    assert rows["values"].relation().sum(-1).flatten().tolist() == pytest.approx([12.0] * 6)
    attention = resize_bias(randomised(create_model(SMALL, gate="attention")), num_frames=6)
    table = next(units(attention)).unit.bias_table()
    kept = next(units(randomised(create_model(SMALL, gate="attention")))).unit.bias_table()
    torch.testing.assert_close(table[:, 5], kept[:, 2])


def test_token_biases_are_interpolated_over_positions() -> None:
    model = model_with(torch.zeros(1, 3, 5, 5), layout="ST", num_frames=2, windows=3, image_size=12)
    t, y, x = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(3), indexing="ij")
    with torch.no_grad():
        only_unit(model).token_bias.copy_((6 * t + y - x).reshape(-1, 1))
    resized = only_unit(resize_bias(model, num_frames=3, windows=1, image_size=12))
    assert resized.token_bias.flatten().tolist() == [0, 3, 6]  # the middle of the window: y = x
    wider = only_unit(resize_bias(model, windows=5, image_size=20))
    found = wider.token_bias.reshape(2, 5, 5)
    assert found[1, :, 0].tolist() == [6, 6.5, 7, 7.5, 8]
    assert found[0, 4].tolist() == [2, 1.5, 1, 0.5, 0]


def test_all_other_parameters_are_kept_and_the_new_model_runs() -> None:
    model = randomised(create_model(SMALL)).train()
    model.stem.norms[0].running_mean.fill_(7.0)
    before = torch.get_rng_state()
    resized = resize_bias(model, num_frames=5, image_size=32, windows=(8, 4))
    assert torch.equal(before, torch.get_rng_state()), "the global generator was moved"
    assert model.training
    assert not resized.training
    assert resized.config == replace(
        SMALL, num_frames=5, temporal_windows=None, image_size=32, windows=(8, 4)
    )
    own, new = model.state_dict(), resized.state_dict()
    changed = {name for name in own if not name.endswith(("positions.table", "token_bias"))}
    assert all(torch.equal(own[name], new[name]) for name in changed)
    assert resized(torch.zeros(2, 3, 5, 32, 32)).shape == (2, 14)


def test_temporal_windows_shorter_than_the_clip_stay() -> None:
    model = randomised(create_model(SMALL, num_frames=6, temporal_windows=3))
    resized = resize_bias(model, num_frames=9)
    assert resized.config.temporal_windows == (3, 3)
    table = next(units(model)).unit.bias_table()
    assert torch.equal(next(units(resized)).unit.bias_table(), table)
    assert resize_bias(model, temporal_windows=6).config.temporal_windows == (6, 6)


@pytest.mark.parametrize("gate", ["gqpe", "mean", "none", "conv"])
def test_gates_whose_parameters_do_not_depend_on_the_window_are_kept(gate: str) -> None:
    model = randomised(create_model(SMALL, gate=gate))
    resized = resize_bias(model, num_frames=6)
    kept = resized.state_dict()
    for name, tensor in model.state_dict().items():
        assert name.endswith("token_bias") or torch.equal(tensor, kept[name]), name


def test_gates_that_cannot_be_resized_are_refused_with_the_reason() -> None:
    for gate in ("dense", "lrpe+dense"):
        model = create_model(SMALL, gate=gate)
        with pytest.raises(ValueError, match=r"from window \(3,\) to \(6,\): it has a free number"):
            resize_bias(model, num_frames=6)
        # no window changes: more windows of the same size
        assert resize_bias(model, image_size=32).config.image_size == 32
    conv = create_model(SMALL, gate="conv", conv_size=5)
    with pytest.raises(ValueError, match="the window cuts the convolution's kernel"):
        resize_bias(conv, num_frames=2)
    joint = create_model(SMALL, gate="dense", layout="ST", num_frames=4, windows=1)
    with pytest.raises(ValueError, match="free number for each pair"):  # four tokens both times
        resize_bias(joint, num_frames=1, windows=2)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="use a window that divides 5"):
        resize_bias(create_model(SMALL), image_size=20)
    with pytest.raises(ValueError, match="unknown keep 'sum'"):
        resize_bias(create_model(SMALL), num_frames=4, keep="sum")


def test_accuracy_at_is_the_accuracy_of_the_resized_model() -> None:
    model = randomised(create_model("toy", num_frames=4, image_size=16, windows=(4, 2, 1, 1)))
    longer = GeneratedClips(
        MovingDigits("test", 28, difficulty="easy", num_frames=8, image_size=32, paired=True)
    )
    found = accuracy_at(model, longer, num_frames=8, image_size=32, windows=(8, 4, 2, 1))
    resized = resize_bias(model, num_frames=8, image_size=32, windows=(8, 4, 2, 1))
    assert found == {"num_frames": 8, "image_size": 32, **evaluate(resized, longer)}
    few = TrainConfig(num_test_clips=140)
    same = accuracy_at(model, "moving-digits:easy", batch_size=80, train=few)
    opened = evaluate(model, "moving-digits:easy", batch_size=80, train=few)
    assert same == {"num_frames": 4, "image_size": 16, **opened}
    with pytest.raises(ValueError, match=r"clips of \(8, 32, 32\) .*, not \(8, 16, 16\)"):
        accuracy_at(model, longer, num_frames=8)
