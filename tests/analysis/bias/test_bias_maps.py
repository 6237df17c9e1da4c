"""Bias maps: offset signs, agreement with `relation`, hooks; statistics of planted tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from analysis import (
    arrow_curve,
    bias_maps,
    bias_statistics,
    draw_maps_over_seeds,
    knock_outs,
    recurrence,
    resize_bias,
    units,
)
from posmlp import GATES, PosMLPConfig, PosMLPVideo, create_model

SMALL = PosMLPConfig(
    num_frames=3, image_size=16, depths=(1, 2), dims=(4, 8), num_groups=2, windows=(4, 2)
)
KEYS = ["stage", "block", "step", "branch", "group"]


def model_with(table: Any, layout: str = "T", **changes: Any) -> PosMLPVideo:
    """A model of one unit that has this (G, offsets) table."""
    table = torch.as_tensor(table, dtype=torch.float32)
    values = {"num_frames": 3, "image_size": 8, "depths": (1,), "dims": (12,), "windows": 2}
    config = PosMLPConfig(**values | {"num_groups": len(table), "layout": layout} | changes)
    model = create_model(config)
    unit = next(units(model)).unit
    with torch.no_grad():
        unit.positions.table.copy_(table.reshape(unit.positions.table.shape))
    return model


def randomised(model: PosMLPVideo, seed: int = 0) -> PosMLPVideo:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_units_come_in_order_of_computation() -> None:
    model = create_model(SMALL, layout="T>S>T")
    found = [(p.stage, p.block, p.step, p.branch) for p in units(model)]
    steps = [(1, "T"), (2, "S"), (3, "T")]
    assert found == [(s, b, *step) for s, b in ((1, 1), (2, 1), (2, 2)) for step in steps]
    gates = [id(m) for m in model.modules() if type(m).__name__ == "PositionalGatingUnit"]
    assert [id(p.unit) for p in units(model)] == gates


def test_bias_maps_offset_is_query_minus_key() -> None:
    table = torch.zeros(2, 5, 3, 3)
    table[1, 4, 0, 2] = 7.0  # dt = 2, dy = -1, dx = 1
    maps = bias_maps(model_with(table, layout="ST"))
    peak = maps[maps["bias"] != 0]
    assert peak[["stage", "block", "branch", "group"]].values.tolist() == [[1, 1, "ST", 1]]
    assert peak[["dt", "dy", "dx", "bias", "bias_std"]].values.tolist() == [[2, -1, 1, 7, 0]]
    # the same entry of the relation: query (t, y, x) = (2, 0, 1), key (0, 1, 0)
    relation = next(units(model_with(table, layout="ST"))).unit.relation()
    assert relation[1, 2 * 4 + 0 * 2 + 1, 0 * 4 + 1 * 2 + 0] == 7.0


@pytest.mark.parametrize("gate", GATES)
def test_bias_maps_expand_to_the_mean_of_the_relation(gate: str) -> None:
    model = randomised(create_model(SMALL, gate=gate, layout="T+S>ST"))
    maps = bias_maps(model)
    assert list(maps.columns) == [*KEYS, "dt", "dy", "dx", "bias", "bias_std"]
    assert not maps.duplicated([*KEYS, "dt", "dy", "dx"]).any()
    tied = gate not in ("dense", "lrpe+dense", "gqpe", "centred-gqpe")
    assert (maps["bias_std"] == 0).all() == tied
    for place in units(model):
        rows = maps[(maps[KEYS[:4]] == list(place[:4])).all(axis=1) & (maps["group"] == 1)]
        side = {1: 4, 2: 2}[place.stage]
        sides = {"T": (3, 1, 1), "S": (1, side, side), "ST": (3, side, side)}[place.branch]
        places = np.indices(sides).reshape(3, -1).T
        relation = place.unit.relation()[1].detach().double().numpy()
        for _, row in rows.iloc[:: max(1, len(rows) // 7)].iterrows():
            offset = row[["dt", "dy", "dx"]].to_numpy(int)
            same = (places[:, None] - places[None, :] == offset).all(-1)
            assert row["bias"] == pytest.approx(relation[same].mean(), abs=1e-6)
            assert row["bias_std"] == pytest.approx(relation[same].std(), abs=1e-6)


def test_bias_maps_of_unnormalised_gqpe_are_its_scores() -> None:
    model = randomised(create_model(SMALL, gate="gqpe", gqpe_softmax=False, layout="S"))
    maps = bias_maps(model)
    first = next(units(model)).unit.bias_table().detach().double().numpy()
    assert maps["bias"].to_numpy()[: first.size] == pytest.approx(first.ravel())
    assert (maps["bias_std"] == 0).all()


class Gate(nn.Module):
    """A notebook's gate without the means to be looked into."""

    def __init__(self, dim: int, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h.chunk(2, dim=-1)[0]


class OpenGate(Gate):
    def __init__(self, dim: int, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__(dim, window, num_groups)
        self.num_tokens = int(np.prod(window))

    def relation(self) -> torch.Tensor:
        return torch.arange(self.num_tokens**2).reshape(1, self.num_tokens, self.num_tokens)


def test_bias_maps_reads_a_notebooks_gate_by_its_relation() -> None:
    maps = bias_maps(create_model(PosMLPConfig(**{**vars(SMALL), "gate": OpenGate, "layout": "T"})))
    first = maps[(maps["stage"] == 1)]
    assert first["dt"].tolist() == [-2, -1, 0, 1, 2]
    assert first["bias"].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]  # of 0 1 2 / 3 4 5 / 6 7 8
    assert first["bias_std"].tolist() == pytest.approx([0, 2, np.sqrt(32 / 3), 2, 0])
    with pytest.raises(ValueError, match=r"Gate \(stage 1\) has no relation"):
        bias_maps(create_model(PosMLPConfig(**{**vars(SMALL), "gate": Gate})))


def test_models_of_others_are_refused() -> None:
    every = (bias_maps, bias_statistics, resize_bias, knock_outs)
    for read in (*every, lambda model: next(units(model)), lambda model: arrow_curve(model, None)):
        for model, said in ((torch.nn.Linear(3, 4), "Linear"), (None, "NoneType")):
            with pytest.raises(ValueError, match=f"{said} is no PosMLPVideo or PosMLP"):
                read(model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "other"), [("lrpe", "dense"), ("lrpe", "gqpe"), ("gqpe", "conv"), ("dense", "lrpe")]
)
def test_maps_are_those_of_the_unit_whatever_the_configuration_says(own: str, other: str) -> None:
    swapped, donor = (randomised(create_model(SMALL, gate=gate)) for gate in (own, other))
    swapped.stages[0].blocks[0].steps[0]["T"].gate = next(units(donor)).unit
    first = "stage == 1 and block == 1 and step == 1 and branch == 'T'"
    found, expected = (bias_maps(model).query(first) for model in (swapped, donor))
    np.testing.assert_array_equal(found[["bias", "bias_std"]], expected[["bias", "bias_std"]])
    rest = f"not ({first})"
    intact = randomised(create_model(SMALL, gate=own))
    np.testing.assert_array_equal(
        bias_maps(swapped).query(rest)["bias"], bias_maps(intact).query(rest)["bias"]
    )


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


# Over seeds


def test_groups_that_changed_places_and_signs_are_found_again() -> None:
    tables = np.random.default_rng(0).normal(size=(4, 5))
    moved = tables[[2, 0, 3, 1]] * [[-1.0], [1.0], [-1.0], [2.0]]
    models = [model_with(table) for table in (tables, moved, tables, tables, moved)]
    starts = [model_with(np.eye(4, 5))] * 2 + [model_with(np.zeros((4, 5)))] * 3
    found = recurrence(models, starts).set_index(["of", "paired", "pair"])["alike"].sort_index()
    assert found["learned", "best match"].tolist() == pytest.approx([1, 1])  # the fifth is alone
    assert found["learned", "by number", 1] == pytest.approx(1)
    sizes = np.linalg.norm(tables, axis=1)
    cosines = np.abs(tables @ tables[[2, 0, 3, 1]].T) / np.outer(sizes, sizes[[2, 0, 3, 1]])
    assert found["learned", "by number", 0] == pytest.approx(np.diag(cosines).mean())
    assert found["initial", "by number"].tolist() == pytest.approx([1, 0])
    assert (found["shuffled", "by number"] < 0.9).all()
    assert (found["shuffled", "best match"] >= found["shuffled", "by number"]).all()


def test_a_unit_of_the_other_sign_computes_the_same() -> None:
    model = randomised(create_model(SMALL)).double().eval()
    clips = torch.randn(2, 3, 3, 16, 16, dtype=torch.float64)
    before = model(clips)
    for branch in (step["T"] for block in model.stages[0].blocks for step in block.steps):
        with torch.no_grad():
            for weight in (branch.gate.positions.table, branch.gate.token_bias, branch.fc2.weight):
                weight.neg_()
    torch.testing.assert_close(model(clips), before)


def test_figure_over_seeds_says_how_much_reach_and_a_group_vary() -> None:
    """Groups keep their sizes and draw their signs by lot: reach is sure, and a map is not."""
    table = np.array([[1.0, 2, 3, 2, 1], [2, 1, 0, 1, 2]])
    signs = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
    maps = pd.concat(
        bias_maps(model_with(table * np.array(sign)[:, None])).assign(seed=seed, of="learned")
        for seed, sign in enumerate(signs)
    )
    axes = draw_maps_over_seeds(maps)
    title = axes[0, 0].figure.get_suptitle().replace("\n", " ")
    assert title == "Over 4 seeds the reach of a unit varies by 0%, its group 0 by 100%"
    mean = axes[0, 0].lines[-1].get_ydata()
    np.testing.assert_allclose(mean, np.sqrt((table**2).mean(0)), rtol=1e-6)
    with pytest.raises(ValueError, match="group=2 must be from 0 to 1"):
        draw_maps_over_seeds(maps, group=2)
    with pytest.raises(ValueError, match="no unit is over time alone"):
        draw_maps_over_seeds(maps.assign(branch="ST"))
