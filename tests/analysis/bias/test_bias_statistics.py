"""Statistics of tables whose values were put there by hand, so that the answers are on paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import bias_statistics, units
from posmlp import create_model
from tests.analysis.bias.test_bias_maps import KEYS, SMALL, model_with, randomised


def test_locality_and_entropy_of_known_tables() -> None:
    found = bias_statistics(model_with([[0, 0, 5, 0, 0], [1, 0, 0, 0, -1], [1, 1, 1, 1, 1]]))
    assert found["locality_temporal"].tolist() == pytest.approx([0, 2, np.sqrt(2)])
    assert found["entropy"].tolist() == pytest.approx([0, np.log(2), np.log(5)])
    assert found["locality_spatial"].isna().all()
    spatial = np.zeros((1, 3, 3))
    spatial[0, 0, 2] = -3  # dy = -1, dx = 1
    found = bias_statistics(model_with(spatial, layout="S"))
    assert found["locality_spatial"].tolist() == pytest.approx([np.sqrt(2)])
    assert found[["locality_temporal", "temporal_asymmetry"]].isna().all(axis=None)


def test_temporal_asymmetry_of_odd_even_and_causal_tables() -> None:
    found = bias_statistics(model_with([[-2, -1, 0, 1, 2], [3, 1, 9, 1, 3], [0, 0, 0, 1, 0]]))
    assert found["temporal_asymmetry"].tolist() == pytest.approx([1, 0, 0.5])
    # of (3, 1, 9, 1, 3) nothing is odd; of (-2, -1, 0, 1, 2) all is
    assert found["temporal_odd"].tolist() == pytest.approx([2**0.5, 0, 0.1**0.5])
    assert found["temporal_even"].tolist() == pytest.approx([0, (101 / 5) ** 0.5, 0.1**0.5])
    model = model_with([[1, 1, 1, 1, 1]])
    with torch.no_grad():
        next(units(model)).unit.token_bias.copy_(torch.tensor([[5.0], [2.0], [1.0]]))
    found = bias_statistics(model, model_with([[1, 1, 1, 1, 1]]))
    assert found["token_bias_odd"].tolist() == pytest.approx([(8 / 3) ** 0.5])
    assert found["token_bias_even"].tolist() == pytest.approx([(22 / 3) ** 0.5])
    assert found["token_bias_odd_initial"].tolist() == [0]
    mirrored = np.zeros((1, 5, 3, 3))
    mirrored[0, 4, 0, 1], mirrored[0, 0, 2, 1] = 1, 1  # reversed in space too: not even in dt
    found = bias_statistics(model_with(mirrored, layout="ST"))
    assert found["temporal_asymmetry"].tolist() == pytest.approx([0.5])


def test_rank_and_diversity_of_equal_opposite_and_orthogonal_groups() -> None:
    equal = bias_statistics(model_with([[1, 2, 3, 4, 5], [2, 4, 6, 8, 10]]))
    assert equal["effective_rank"].tolist() == pytest.approx([1, 1])
    assert equal["group_diversity"].tolist() == pytest.approx([0, 0], abs=1e-12)
    orthogonal = bias_statistics(model_with(np.eye(5)[:3] * 2))
    assert orthogonal["effective_rank"].tolist() == pytest.approx([3, 3, 3])
    assert orthogonal["group_diversity"].tolist() == pytest.approx([1, 1, 1])
    opposite = bias_statistics(model_with([[1, 0, 0, 0, 0], [-1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]))
    assert opposite["group_diversity"].tolist() == pytest.approx([2, 2, 2])


@pytest.mark.filterwarnings("error")
def test_statistics_of_zero_tables_are_nan_without_a_warning() -> None:
    found = bias_statistics(create_model(SMALL, init="released"))
    assert len(found) == 2 * 2 * 3
    odd_and_even = [
        name for name in found if name.startswith(("temporal_e", "temporal_o", "token"))
    ]
    assert found.drop(columns=[*KEYS, *odd_and_even]).isna().all(axis=None)
    assert (found[found["branch"] == "T"][odd_and_even] == 0).all(axis=None)


def test_shuffled_control_permutes_each_group_and_is_seeded() -> None:
    model = randomised(create_model(SMALL, layout="S"))
    found = bias_statistics(model)
    pd.testing.assert_frame_equal(found, bias_statistics(model))
    again = bias_statistics(model, seed=1)
    assert (found["locality_spatial"] == again["locality_spatial"]).all()
    assert (found["locality_spatial_shuffled"] != again["locality_spatial_shuffled"]).all()
    assert found["entropy_shuffled"].to_numpy() == pytest.approx(found["entropy"].to_numpy())
    # groups that agree stop agreeing: each has a permutation of its own
    same = bias_statistics(model_with([[1, 2, 3, 4, 9]] * 4))
    assert same["group_diversity"].max() == pytest.approx(0, abs=1e-12)
    assert same["group_diversity_shuffled"].min() > 0.05


def test_initial_control_is_the_statistics_of_the_initial_model() -> None:
    model = randomised(create_model(SMALL, layout="T>S"), seed=0)
    initial = randomised(create_model(SMALL, layout="T>S"), seed=1)
    found, start = bias_statistics(model, initial), bias_statistics(initial)
    for name in ("locality_temporal", "effective_rank", "entropy"):
        expected = start[name].to_numpy()
        assert found[f"{name}_initial"].to_numpy() == pytest.approx(expected, nan_ok=True)
    assert len(found) == len(bias_statistics(model)) == 3 * 2 * 2


@pytest.mark.parametrize("changes", [{"layout": "S>T"}, {"windows": 2}, {"depths": (1, 1)}])
def test_initial_control_refuses_another_model(changes: dict[str, Any]) -> None:
    model, other = create_model(SMALL), create_model(SMALL, **changes)
    for pair in ((model, other), (other, model)):
        with pytest.raises(ValueError, match=r"create_model\(model.config\)"):
            bias_statistics(*pair)


def test_centre_of_mass_weighs_offsets_by_energy() -> None:
    # energies 9 and 1 at dt = 2 and dt = -2; the sign of a weight does not matter
    found = bias_statistics(model_with([[-1, 0, 0, 0, 3], [0, 0, 7, 0, 0], [2, 0, 0, 0, -2]]))
    assert found["centre_dt"].tolist() == pytest.approx([(9 * 2 - 1 * 2) / 10, 0, 0])
    assert found[["centre_dy", "centre_dx", "anisotropy"]].isna().all(axis=None)
    spatial = np.zeros((1, 5, 5))
    spatial[0, 0, 2], spatial[0, 2, 4] = 1, 2  # (dy, dx) = (-2, 0) and (0, 2)
    found = bias_statistics(model_with(spatial, layout="S", windows=3, image_size=12))
    assert found[["centre_dy", "centre_dx"]].values.tolist() == [pytest.approx([-2 / 5, 2 * 4 / 5])]
    assert found["centre_dt"].isna().all()


def test_anisotropy_of_a_line_a_cross_and_an_ellipse() -> None:
    maps = np.zeros((4, 5, 5))
    maps[0, range(5), range(5)] = [1, 2, 3, 4, 5]  # a diagonal line, its centre not at offset 0
    maps[1, [0, 4, 2, 2], [2, 2, 0, 4]] = 1  # as far up and down as left and right
    maps[2, [0, 4, 2, 2], [2, 2, 1, 3]] = 1  # variances 4 / 2 in dy and 1 / 2 in dx
    maps[3, 1, 4] = 3  # one place: no spread, hence no direction
    model = model_with(maps, layout="S", windows=3, image_size=12)
    assert bias_statistics(model)["anisotropy"].tolist() == pytest.approx(
        [1, 0, (2 - 0.5) / (2 + 0.5), np.nan], nan_ok=True
    )
    joint = np.zeros((1, 5, 3, 3))
    joint[0, 0, 0, 1], joint[0, 4, 2, 1] = 1, 1  # a line in dy, whatever the dt
    assert bias_statistics(model_with(joint, layout="ST"))["anisotropy"].tolist() == [1]


def test_distance_from_initial_is_a_root_mean_square_and_zero_at_the_start() -> None:
    start, end = model_with([[1, 2, 3, 4, 5]] * 2), model_with([[1, 2, 3, 4, 5], [4, 2, 3, 4, 1]])
    found = bias_statistics(end, start)
    assert found["distance_from_initial"].tolist() == pytest.approx([0, np.sqrt((9 + 16) / 5)])
    assert "distance_from_initial" not in bias_statistics(end)


def test_distance_from_initial_has_the_shuffled_table_as_its_control() -> None:
    start = randomised(create_model(SMALL, layout="S"), seed=0)
    near = randomised(create_model(SMALL, layout="S"), seed=0)
    for parameter in near.parameters():
        parameter.data += 0.1
    found = bias_statistics(near, start)
    assert found["distance_from_initial"].tolist() == pytest.approx([0.1] * len(found), rel=1e-4)
    assert found["distance_from_initial_shuffled"].min() > 0.3
    # what is far from the start is as far when shuffled
    far = bias_statistics(randomised(create_model(SMALL, layout="S"), seed=1), start)
    ratio = far["distance_from_initial"] / far["distance_from_initial_shuffled"]
    assert ratio.mean() == pytest.approx(1, abs=0.15)
