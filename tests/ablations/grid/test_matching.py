"""Variants at equal cost: counted exactly, resized in proportion, or refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ablations import GridError, plan, read_grid
from ablations.grid.costs import costs
from ablations.grid.matching import matched
from analysis.cost.costs import cost
from posmlp import PRESETS, PosMLPConfig
from posmlp.config_checks import GATE_NAMES

TOY = PRESETS["toy"]
SMALL = PosMLPConfig(depths=(1, 1), dims=(16, 32), num_groups=2, windows=4)


ONE_TOKEN = {"windows": 1, "temporal_windows": 1}
OTHER_PARTS: list[dict[str, Any]] = [
    *({"gate": gate} for gate in GATE_NAMES),
    *(ONE_TOKEN | {"gate": gate} for gate in ("lrpe", "attention")),
    {"layout": ("T>ST", "S"), "gate_form": "mix", "token_bias": False, "stem_convs": 3},
    {"gate": "gqpe", "gqpe_spread": "scalar", "downsample_depthwise": True, "num_classes": 0},
    {"gate": "conv", "conv_size": 5, "layout": "ST", "image_size": (32, 64), "mlp_ratio": 3.5},
    {"kind": "image", "num_frames": 1, "temporal_windows": None, "layout": "S", "depths": (2, 1)},
    {"dims": (16, 16), "downsample": False, "stem_norm": "layer", "temporal_windows": 2},
]


@pytest.mark.parametrize("parts", OTHER_PARTS, ids=str)
def test_costs_by_formula_are_those_that_the_analysis_counts(parts: dict[str, Any]) -> None:
    config = replace(SMALL, **parts)
    counted = cost(config, memory=False)
    assert costs(config) == {name: counted[name] for name in ("params", "gmacs", "relation_params")}


@pytest.mark.parametrize("by", ["params", "gmacs"])
@pytest.mark.parametrize("gate", ["attention", "dense"])
def test_a_variant_costs_what_the_baseline_does_and_nothing_else_changes(
    by: str, gate: str
) -> None:
    config = replace(SMALL, gate=gate)
    resized, match = matched(config, SMALL, by, 0.02)
    assert match.reached == costs(resized)[by]
    assert match.asked == costs(SMALL)[by]
    assert abs(match.difference) <= 0.02
    assert match.dims == resized.dims
    assert (resized.dims != config.dims) == (costs(config)[by] > 1.02 * match.asked)
    assert replace(resized, dims=config.dims) == config


def test_a_variant_of_equal_cost_is_left_alone() -> None:
    config = replace(SMALL, gate="gqpe")
    assert matched(config, SMALL, "gmacs", 0.01)[0] is config


def test_matched_grid_resizes_all_but_the_baseline_and_plans_what_is_left() -> None:
    grid: dict[str, Any] = {"axes": {"gate": ["lrpe", "attention"]}, "match": "params"}
    found = plan(grid, probe_s=0)
    lrpe, attention = found.grid.cells
    assert (lrpe.match, lrpe.config.dims) == (None, TOY.dims)
    unmatched = read_grid({"axes": grid["axes"]}).cells
    assert (lrpe.id == unmatched[0].id, attention.id == unmatched[1].id) == (True, False)
    assert attention.match is not None
    factors = [
        after / before for after, before in zip(attention.config.dims, TOY.dims, strict=True)
    ]
    assert max(factors) / min(factors) < 1.4  # narrower, and much the same shape
    said = str(found)
    assert "match: params of the baseline, within 1.0%" in said
    assert f"gate=attention: {attention.match}" in said
    assert "dims 16,32,64,128 -> " in said


def test_a_variant_that_cannot_be_brought_near_fails_with_its_reason() -> None:
    grid = {
        "base": {
            "depths": [1],
            "dims": [64],
            "num_groups": 64,
            "windows": 4,
            "temporal_windows": 8,
            "mlp_ratio": 2,
            "downsample": [],
        },
        "axes": {"gate": ["lrpe", "attention"]},
        "match": "params",
    }
    with pytest.raises(GridError, match="gate=attention is impossible: match: params asks for"):
        read_grid(grid)
