"""Maps of tables whose values were put there by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from analysis import arrow_curve, bias_maps, bias_statistics, knock_outs, resize_bias, units
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
