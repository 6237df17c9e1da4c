"""Variants at equal cost: counted exactly, resized in proportion, or refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ablations import GridError, plan, read_grid
from ablations.grid.matching import costs, matched
from analysis.cost.costs import cost
from posmlp import PRESETS, PosMLPConfig
from posmlp.config_checks import GATE_NAMES

TOY = PRESETS["toy"]
SMALL = PosMLPConfig(depths=(1, 1), dims=(16, 32), num_groups=2, windows=4)


@pytest.mark.parametrize(
    ("gate", "windows"), [*((gate, 4) for gate in GATE_NAMES), ("lrpe", 1), ("attention", 1)]
)
def test_costs_are_those_that_the_analysis_counts(gate: str, windows: int) -> None:
    frames = None if windows > 1 else 1  # windows of one token
    config = replace(SMALL, gate=gate, windows=windows, temporal_windows=frames)
    counted = cost(config)
    assert costs(config) == {"params": counted["params"], "gmacs": counted["gmacs"]}


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
