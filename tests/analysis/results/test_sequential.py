"""Seeds until the verdict: the error that a design makes, against what it may make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.cli import main
from analysis.results.false_alarms import (
    LAST,
    MARGIN,
    VARIANTS,
    differences_of,
    false_verdicts,
    p_values,
    peeking,
    simulate,
)
from analysis.results.sequential import Design, expected_seeds, judge, judged, levels, looks, spent

AT = looks(3, LAST)
GRIDS = 4_000
MOST_FALSE = 0.057
"""5% and two standard errors over the grids."""


def test_levels_of_two_equal_looks_are_those_of_the_tables() -> None:
    """O'Brien-Fleming spending of one-sided 0.025 at half and all: z = 2.963 and 1.969."""
    bounds = stats.norm.isf(levels((10, 20), 0.025))
    assert bounds == pytest.approx([2.963, 1.969], abs=2e-3)
    five = stats.norm.isf(levels((1, 2, 3, 4, 5), 0.025))
    assert five == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=2e-3)


@given(st.integers(2, 40), st.integers(0, 60))
def test_looks_rise_from_the_first_to_the_last(first: int, more: int) -> None:
    found = looks(first, first + more)
    assert (found[0], found[-1]) == (first, first + more)
    steps = np.diff(found)
    assert (steps >= min(2, more)).all() or len(found) == 2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=6, unique=True), st.floats(1e-4, 0.1))
def test_levels_spend_no_more_than_there_is(counts: list[int], level: float) -> None:
    at = tuple(sorted(counts))
    found = np.array(levels(at, level))
    shares = spent(np.array(at) / at[-1], level)
    assert (found <= level * (1 + 1e-6)).all()
    assert found[0] == pytest.approx(shares[0], rel=1e-6)
    assert found.sum() >= level * (1 - 1e-6)  # a union of the looks' errors


@pytest.mark.parametrize("at", [AT, (3, 5, 6), (2, 4, 6, 8), (5, 10)])
def test_a_single_comparison_errs_no_more_often_than_asked(at: tuple[int, ...]) -> None:
    paths = np.random.default_rng(0).normal(size=(40_000, at[-1]))
    share = (judged(paths, Design(at, 1, None)).verdict > 0).mean()
    assert 0.035 < share < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 40_000)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", ["normal", "heavy tails", "bad seeds"])
def test_null_grids_have_a_false_verdict_in_at_most_one_of_twenty(noise: str) -> None:
    found = simulate(Design(AT, VARIANTS, MARGIN), noise, 0, GRIDS)
    assert 0 < found["any_false"] < MOST_FALSE
    found = simulate(Design(AT, VARIANTS, 0.8), noise, 0.8, GRIDS)
    assert found["any_false"] < MOST_FALSE  # false: equal, or worse


def test_peeking_errs_many_times_as_often_as_it_says() -> None:
    paths = differences_of("normal", 0, GRIDS, VARIANTS, LAST)
    p = p_values(paths, AT)
    assert (p < 0.05).any(axis=(0, 2)).mean() > 0.5
    assert (p < 0.05 / VARIANTS).any(axis=(0, 2)).mean() > 0.12
    shares = peeking(studies=1_000)
    assert shares["every_seed"].iloc[0] == pytest.approx(0.05, abs=0.02)
    assert shares["every_seed"].iloc[-1] > 0.18
    assert shares["designed"].max() < 0.065


def test_a_design_costs_little_power_and_saves_seeds() -> None:
    """Beside one look at the same most seeds."""
    several = simulate(Design(AT, VARIANTS, MARGIN), "normal", 2, 300)
    once = simulate(Design((LAST,), VARIANTS, MARGIN), "normal", 2, 300)
    assert several["better"] > once["better"] - 0.02
    assert several["mean_seeds"] < 16 < once["mean_seeds"] == LAST


def test_intervals_of_all_looks_cover_the_truth_together() -> None:
    """The repeated confidence interval at every look: they miss in 5% of studies at the most."""
    paths = np.random.default_rng(1).normal(1, 1, size=(4_000, LAST))
    design = Design(AT, 1, None)
    missed = np.zeros(len(paths), dtype=bool)
    for count in AT:
        alone = judged(paths[:, :count] - 1, Design(AT, 1, None), np.full(len(paths), count))
        missed |= (alone.low > 0) | (alone.high < 0)
    assert missed.mean() < 0.057
    assert judged(paths, design).low[0] < 1


def test_judge_keeps_the_verdict_of_the_first_look_that_decides() -> None:
    rng = np.random.default_rng(0)
    clear = rng.normal(40, 1, 20)
    turned = np.concatenate([clear[:9], rng.normal(-200, 1, 11)])
    design = Design(AT, 4, 2)
    rows = judge(
        {
            "clear": clear,
            "turned": turned,
            "few": clear[:4],
            "worse": -clear,
        },
        design,
    ).set_index("comparison")
    assert rows.loc["clear", "verdict"] == rows.loc["turned", "verdict"] == "better"
    assert rows.loc["clear", "look"] == rows.loc["clear", "n"] == rows.loc["turned", "look"] <= 9
    assert rows.loc["turned", "difference"] == rows.loc["clear", "difference"]
    assert rows.loc["few", ["verdict", "look", "n"]].tolist() == ["undecided", 3, 3]
    assert rows.loc["worse", "verdict"] == "worse"


def test_judge_says_equal_only_within_the_margin() -> None:
    near = np.random.default_rng(0).normal(0.1, 1, 20)
    equal, without = (judge({"near": near}, Design(AT, 1, margin)) for margin in (2, None))
    assert equal["verdict"].tolist() == ["equal"]
    assert equal["look"][0] < LAST
    assert without["verdict"].tolist() == ["undecided"]


@pytest.mark.filterwarnings("error")
def test_judge_counts_a_failed_seed_as_looked_at() -> None:
    values = np.random.default_rng(0).normal(0, 1, 5)
    values[1] = np.nan
    row = judge({"a": values}, Design(AT, 1, None)).loc[0]
    assert (row["look"], row["n"]) == (5, 4)
    assert row["difference"] == pytest.approx(np.nanmean(values))
    empty = judge({"a": [], "b": [np.nan] * 5, "c": [1.0]}, Design(AT, 3, 2))
    assert empty["verdict"].tolist() == ["undecided"] * 3
    assert empty["n"].tolist() == [0, 0, 0]
    assert judge({}, Design(AT, 3, 2)).empty


def test_equal_differences_are_judged_by_their_signs() -> None:
    """Three equal differences of a score in whole clips are no rarity; ten are."""
    row = judge({"same": [0.3] * 20, "shaken": [0.1 + 0.2] * 10 + [0.3] * 10}, Design(AT, 2, None))
    assert row["verdict"].tolist() == ["better"] * 2
    assert (row["look"] > 8).all()
    assert judge({"none": [0.0] * 20}, Design(AT, 1, None))["verdict"].tolist() == ["undecided"]
    assert judge({"none": [0.0] * 20}, Design(AT, 1, 2))["verdict"].tolist() == ["equal"]


def test_expected_seeds_fall_as_the_difference_grows() -> None:
    found = expected_seeds(Design(AT, VARIANTS, 2), 2, [2, 4, 8, 40])
    assert (np.diff(found) < 0).all()
    assert 3 <= found[-1] < 8
    assert found[0] <= LAST


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda: Design((), 1, 2), "rising"),
        (lambda: Design((1, 3), 1, 2), "from 2 on"),
        (lambda: Design((3, 3), 1, 2), "rising"),
        (lambda: Design(AT, 0, 2), "num_comparisons=0"),
        (lambda: Design(AT, 1, 0), "margin=0"),
        (lambda: Design(AT, 1, 2, alpha=1), "alpha=1"),
        (lambda: looks(1, 5), "2 at the least"),
        (lambda: expected_seeds(Design(AT, 1, 2), 0, [1]), "sd=0"),
        (lambda: judge({"a": [], "b": []}, Design(AT, 1, 2)), "num_comparisons=1"),
    ],
)
def test_what_is_no_design_is_refused(broken: object, said: str) -> None:
    assert callable(broken)
    with pytest.raises(ValueError, match=said):
        broken()


def test_the_command_writes_a_row_a_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sequential", "--out", str(tmp_path), "--grids", "40"]) == 0
    assert "| normal |" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "sequential.csv")
    shares = table[["better", "worse", "equal", "undecided"]].sum(axis=1)
    judged_rows = table["mean_seeds"].notna()
    assert shares[judged_rows].to_numpy() == pytest.approx(1)
    assert table.loc[~judged_rows, "design"].str.startswith("peeking").all()


def test_false_verdicts_are_those_that_the_truth_contradicts() -> None:
    places = np.arange(4)  # undecided, better, worse, equal
    assert false_verdicts(places, 0, 1).tolist() == [False, True, True, False]
    assert false_verdicts(places, 1, 1).tolist() == [False, False, True, True]
    assert false_verdicts(places, 0.5, 1).tolist() == [False, False, True, False]
    assert false_verdicts(places, -2, 1).tolist() == [False, True, False, True]
