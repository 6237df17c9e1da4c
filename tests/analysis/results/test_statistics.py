"""Intervals, tests and powers against numbers known by hand or by simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from analysis import compare, detectable_effect, effects, seeds_needed, t_interval
from analysis.results.effects import crossed
from analysis.results.paired import (
    corrected_interval,
    equivalence_p,
    far_value,
    holm,
    seeds_to_decide,
)


def runs(**variants: list[float]) -> pd.DataFrame:
    """A tidy table of one row a variant and seed."""
    rows = [
        {"variant": name, "seed": seed, "accuracy": value}
        for name, values in variants.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_t_interval_by_hand() -> None:
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    margin = 4.302652729696142 / np.sqrt(3)  # t(0.975, 2) times the standard error
    assert (mean, low, high) == pytest.approx((2.0, 2 - margin, 2 + margin))
    assert t_interval([1, 2, 3], 0.5)[2] == pytest.approx(2 + 0.816496580927726 / np.sqrt(3))


@pytest.mark.filterwarnings("error")
def test_t_interval_of_one_value_has_no_bounds() -> None:
    mean, low, high = t_interval([0.7])
    assert mean == 0.7
    assert np.isnan(low)
    assert np.isnan(high)


@pytest.mark.parametrize("values", [[], [1.0, np.nan]])
def test_t_interval_refuses_missing_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="dropna"):
        t_interval(values)


def test_t_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 3))
    bounds = np.array([t_interval(draw, 0.8)[1:] for draw in draws])
    assert ((bounds[:, 0] < 0) & (bounds[:, 1] > 0)).mean() == pytest.approx(0.8, abs=0.03)


def test_corrected_interval_leaves_out_zero_just_where_holm_finds_a_difference() -> None:
    rng = np.random.default_rng(0)
    shifts = {"a": 0.0, "b": 0.05, "c": 0.1, "d": 0.15, "e": 0.2}
    for _ in range(8):
        table = runs(**{name: list(rng.normal(shift, 0.1, 5)) for name, shift in shifts.items()})
        for row in compare(table, "a", "accuracy").to_dict("records"):
            low, high = corrected_interval(row)
            assert (low > 0 or high < 0) == (row["p_holm"] < 0.05)
            assert low <= row["low"] <= row["high"] <= high


def test_far_value_is_grubbs_test() -> None:
    assert far_value([50.1, 50.2, 49.9, 10.0, 50.0]) == 3
    assert far_value([87.0, 87.1, 60.0]) == 2
    assert far_value([87.3, 87.0, 85.1]) is None
    assert far_value([1.0, 5.0]) is None
    draws = np.random.default_rng(0).normal(size=(1000, 6))
    assert np.mean([far_value(draw) is not None for draw in draws]) == pytest.approx(0.01, abs=0.01)


def test_compare_takes_an_ablations_table_as_it_is() -> None:
    table = runs(base=[0.5, 0.6, 0.4], other=[0.7, 0.9, 0.6]).rename(
        columns={"variant": "name", "accuracy": "test_top1"}
    )
    expected = compare(table, "base", "test_top1", by="name")
    marked = table.assign(baseline=table["name"] == "base")
    pd.testing.assert_frame_equal(compare(marked), expected)
    with pytest.raises(ValueError, match="0 variants are marked in a column 'baseline'; name one"):
        compare(table)
    with pytest.raises(ValueError, match="2 variants are marked"):
        compare(marked.assign(baseline=True))


@pytest.mark.parametrize(
    ("values", "asked"),
    [((1e-3, 2e-3), "0.001"), ((True, False), "true"), ((8, 16), "8"), (("a", "b"), "a")],
)
def test_compare_finds_a_baseline_by_value_by_text_and_by_mark(
    values: tuple[object, object], asked: str
) -> None:
    rows = [
        {"level": level, "baseline": level == values[0], "seed": seed, "test_top1": top1}
        for level, scores in zip(values, ((0.5, 0.7), (0.6, 0.9)), strict=True)
        for seed, top1 in enumerate(scores)
    ]
    table = pd.DataFrame(rows)
    for baseline in (values[0], asked, None):
        found = compare(table, baseline, by="level")
        assert found["level"].tolist() == [values[1]]
        assert found["difference"].tolist() == pytest.approx([0.15])
    with pytest.raises(ValueError, match=r"no baseline 'elsewhere' in 'level'; it has \["):
        compare(table, "elsewhere", by="level")


@pytest.mark.parametrize("marks", [[True, np.nan], ["True", "False"], [1, 0], [True, None]])
def test_marks_of_a_baseline_are_read_however_they_are_stored(marks: list[object]) -> None:
    table = runs(base=[0.5, 0.6], other=[0.7, 0.9])
    table["baseline"] = table["variant"].map(dict(zip(("base", "other"), marks, strict=True)))
    assert compare(table, metric="accuracy")["variant"].tolist() == ["other"]


def test_a_variant_with_a_layout_is_found_as_the_shell_writes_it() -> None:
    table = runs(**{"layout=T>S": [0.5, 0.6], "layout=T+S": [0.7, 0.9]})
    assert compare(table, "layout=T-S", "accuracy")["difference"].tolist() == [pytest.approx(0.25)]


def test_rows_that_cannot_be_told_apart_are_refused() -> None:
    table = runs(base=[0.5, 0.6], other=[0.7, 0.9])
    lists = table.assign(variant=[[each] for each in table["variant"]])
    seedless = table.assign(seed=[0, np.nan, 0, np.nan])  # which would be paired as one seed
    for call in (lambda df: compare(df, "base", "accuracy"),
                 lambda df: effects(df, ["variant"], "accuracy")):  # fmt: skip
        with pytest.raises(ValueError, match=r"'variant' holds \['base'\], a list.*map\(str\)"):
            call(lists)
        with pytest.raises(ValueError, match="2 of 4 rows have no value in 'seed'"):
            call(seedless)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_effects_of_an_infinite_score_tell_nothing() -> None:
    table = effects(runs(base=[0.5, np.inf], other=[0.7, 0.9]), ["variant"], "accuracy")
    assert table["verdict"].tolist() == ["cannot tell: a score is infinite"]


def test_a_diverged_run_is_no_result() -> None:
    table = runs(base=[0.5, 0.6, 0.4], other=[0.7, 0.9, 0.1]).assign(
        status=["done"] * 5 + ["failed"]
    )
    missing = runs(base=[0.5, 0.6, 0.4], other=[0.7, 0.9, np.nan])
    pd.testing.assert_frame_equal(
        compare(table, "base", "accuracy"), compare(missing, "base", "accuracy")
    )
    pd.testing.assert_frame_equal(
        effects(table, ["variant"], "accuracy"), effects(missing, ["variant"], "accuracy")
    )


@pytest.mark.parametrize("none", [None, np.nan, pd.NA])
def test_rows_without_a_name_are_refused(none: object) -> None:
    table = runs(base=[0.5, 0.6], other=[0.7, 0.9])
    table["variant"] = table["variant"].astype(object).replace("base", none)
    with pytest.raises(ValueError, match=r"2 of 4 rows have no value in 'variant'.*fillna"):
        compare(table, "other", "accuracy")
    with pytest.raises(ValueError, match="2 of 4 rows have no value in 'variant'"):
        effects(table, ["variant"], "accuracy")


def test_bootstrap_stands_beside_t_from_ten_seeds_on() -> None:
    rng = np.random.default_rng(0)
    few, even, skewed = rng.normal(size=9), rng.normal(size=40), rng.exponential(size=40)
    short = compare(runs(base=[0.0] * 9, other=list(few)), "base", "accuracy")
    assert not [column for column in short.columns if column.startswith("bootstrap")]
    variants = {"even": list(even), "skewed": list(skewed), "some": list(few), "same": [0.25] * 40}
    table = runs(base=[0.0] * 40, **variants)
    rows = compare(table, "base", "accuracy").set_index("variant")
    for name, values in (("even", even), ("skewed", skewed)):
        means = rng.choice(values, size=(20_000, 40)).mean(1)
        off = rows.loc[name, ["bootstrap_low", "bootstrap_high"]] - np.quantile(
            means, [0.025, 0.975]
        )
        if name == "even":
            assert off.abs().max() < 0.03
        else:  # BCa moves both ends to where the long tail is
            assert off.min() > 0.01
    assert rows.loc["some", ["bootstrap_low", "bootstrap_high"]].isna().all()
    assert rows.loc["same", ["bootstrap_low", "bootstrap_high"]].to_list() == [0.25, 0.25]
    again = compare(table, "base", "accuracy").set_index("variant")
    pd.testing.assert_frame_equal(rows, again)


def test_detectable_effect_is_found_at_its_power() -> None:
    effect = detectable_effect(4, power=0.6)
    draws = np.random.default_rng(0).normal(effect, 1, size=(20000, 4))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(
        0.6, abs=0.02
    )


@settings(max_examples=20)
@given(num_seeds=st.integers(2, 200))
def test_seeds_needed_inverts_detectable_effect(num_seeds: int) -> None:
    assert seeds_needed(detectable_effect(num_seeds) + 1e-6) == num_seeds
    assert seeds_needed(-(detectable_effect(num_seeds) - 1e-6)) == num_seeds + 1


def test_powers_equal_statsmodels() -> None:
    for num_seeds in (3, 5, 12):
        expected = TTestPower().solve_power(nobs=num_seeds, alpha=0.05, power=0.8)
        assert detectable_effect(num_seeds) == pytest.approx(expected, rel=1e-6)


def test_powers_refuse_what_has_no_answer() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        detectable_effect(1)
    with pytest.raises(ValueError, match=r"power=1 .*0\.8"):
        detectable_effect(5, power=1)
    with pytest.raises(ValueError, match="more than 1000 seeds"):
        seeds_needed(0.0)
    for effect in (np.nan, np.inf):
        with pytest.raises(ValueError, match=f"effect={effect} must be a finite number"):
            seeds_needed(effect)
    for power in (np.nan, 0.0, 0.05, 1.0):
        with pytest.raises(ValueError, match=f"power={power} must lie between 0.05 and 1"):
            seeds_needed(1.0, power)
    for significance in (np.nan, 0.0, 2.0):
        with pytest.raises(ValueError, match=f"significance={significance} must lie between 0 "):
            seeds_needed(1.0, significance=significance)
    for num_seeds in (np.nan, np.inf, 2.5):
        with pytest.raises(ValueError, match=f"num_seeds={num_seeds} must be a whole number"):
            detectable_effect(num_seeds)


def test_compare_pairs_runs_by_seed() -> None:
    baseline = [0.1, 0.5, 0.9, 0.3]
    gains = [0.02, 0.03, 0.02, 0.03]
    df = runs(base=baseline, shifted=[b + g for b, g in zip(baseline, gains, strict=True)])
    row = compare(df.sample(frac=1, random_state=0), "base", "accuracy").iloc[0]
    expected = t_interval(gains)
    assert tuple(row[["difference", "low", "high"]]) == pytest.approx(expected)
    assert row["p"] == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert row["mean"] == pytest.approx(0.475)
    assert row["verdict"] == "better"  # unpaired, p would be 0.9
    assert row["probability_of_improvement"] == pytest.approx((4 + 6) / 16)


def test_compare_says_worse_and_turns_round_for_a_loss() -> None:
    df = runs(base=[0.50, 0.52, 0.51], low=[0.30, 0.33, 0.31], high=[0.70, 0.71, 0.70])
    scores = compare(df, "base", "accuracy").set_index("variant")
    losses = compare(df, "base", "accuracy", higher_is_better=False).set_index("variant")
    assert scores["verdict"].to_dict() == {"low": "worse", "high": "better"}
    assert losses["verdict"].to_dict() == {"low": "better", "high": "worse"}
    assert scores["probability_of_improvement"].tolist() == [0.0, 1.0]
    assert losses["probability_of_improvement"].tolist() == [1.0, 0.0]
    assert losses["difference"].tolist() == scores["difference"].tolist()
    for name, first in (("test_loss", "better"), ("seconds", "better"), ("closeness", "worse")):
        found = compare(df.rename(columns={"accuracy": name}), "base", name)
        assert found["verdict"][0] == first


def test_holm_by_hand_and_by_statsmodels() -> None:
    p = np.array([0.04, 0.01, np.nan, 0.03, 0.5])  # four tests
    assert holm(p) == pytest.approx([0.09, 0.04, np.nan, 0.09, 0.5], nan_ok=True)
    assert np.isnan(holm(np.array([np.nan]))).all()
    many = np.random.default_rng(0).random(9).repeat(2) ** 4
    assert holm(many) == pytest.approx(multipletests(many, method="holm")[1])


@pytest.fixture
def _no_powers(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many seeds an undecided row would need takes most of the time of a table."""
    monkeypatch.setattr("analysis.results.paired._fewest_seeds", lambda *_: 2)


@pytest.mark.usefixtures("_no_powers")
def test_compare_of_identical_variants_claims_nothing() -> None:
    """Twelve copies of the baseline: the whole table may err in 5% of cases, not each row."""
    rng = np.random.default_rng(0)
    false_claims = 0
    for _ in range(60):
        variants = {f"v{i}": list(rng.normal(size=5)) for i in range(12)}
        found = compare(runs(base=list(rng.normal(size=5)), **variants), "base", "accuracy")
        false_claims += found["verdict"].isin(["better", "worse"]).any()
    assert false_claims <= 8  # without the correction, about 20


def test_compare_says_how_many_seeds_are_needed() -> None:
    # differences 1, 2, 3 less 1.5: mean 0.5, sd 1
    found = compare(runs(base=[0, 0, 0], other=[-0.5, 0.5, 1.5]), "base", "accuracy")
    assert found["verdict"].tolist() == [f"cannot tell: needs about {seeds_needed(0.5)} seeds"]
    two = compare(
        runs(base=[0, 0, 0], other=[-0.5, 0.5, 1.5], third=[-0.5, 0.5, 1.5]), "base", "accuracy"
    )
    stricter = seeds_needed(0.5, significance=0.025)
    assert stricter > seeds_needed(0.5)
    assert set(two["verdict"]) == {f"cannot tell: needs about {stricter} seeds"}
    tiny = compare(runs(base=[0, 0, 0], other=[-1, 1, 0.001]), "base", "accuracy")
    assert tiny["verdict"].tolist() == ["cannot tell: needs more than 1000 seeds"]


@pytest.mark.filterwarnings("error")
def test_compare_reports_missing_runs_and_single_seeds() -> None:
    df = runs(
        base=[0.5, 0.6, 0.7],
        failed=[np.nan] * 3,
        one=[0.9],
        two=[0.9, np.nan, 0.8],
        endless=[0.5, np.inf, 0.5],
    )
    found = compare(df, "base", "accuracy").set_index("variant")
    assert found["n"].to_dict() == {"failed": 0, "one": 1, "two": 2, "endless": 3}
    assert found["unpaired"].to_dict() == {"failed": 3, "one": 2, "two": 1, "endless": 0}
    assert found.loc["endless", "verdict"] == "cannot tell: a score is infinite"
    assert found.loc[["failed", "one"], ["p", "p_holm", "low"]].isna().all(axis=None)
    assert found.loc["two", "p_holm"] == found.loc["two", "p"]  # the only test made
    assert found.loc["two", "difference"] == pytest.approx(0.25)
    assert "no seed in common" in found.loc["failed", "verdict"]
    assert found.loc["one", "verdict"].startswith("cannot tell")


@pytest.mark.filterwarnings("error")
def test_compare_of_differences_without_spread() -> None:
    found = compare(runs(base=[1, 2, 3], same=[1, 2, 3], up=[2, 3, 4]), "base", "accuracy")
    assert found["p"].tolist() == [1.0, 0.0]
    assert found["verdict"].tolist() == ["cannot tell: the means are equal", "better"]
    assert found["probability_of_improvement"].tolist() == pytest.approx([0.5, (6 + 2 * 0.5) / 9])
    assert compare(runs(base=[1, 2]), "base", "accuracy").empty


def test_equivalence_p_equals_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for margin in (0.01, 0.1, 1.0):
        x, y = rng.normal(0, 0.1, 6), rng.normal(0.02, 0.1, 6)
        expected = ttost_paired(x, y, -margin, margin)[0]
        assert equivalence_p(x - y, margin) == pytest.approx(expected)


@given(
    differences=st.lists(st.floats(-1, 1), min_size=2, max_size=8).map(np.array),
    margin=st.floats(0.01, 2),
)
def test_equivalence_is_where_the_90_percent_interval_lies_within(differences, margin) -> None:
    _, low, high = t_interval(differences, 0.9)
    room = min(margin - high, low + margin)
    if abs(room) > 1e-9:
        assert (equivalence_p(differences, margin) < 0.05) == (room > 0)


def test_seeds_needed_to_equal_give_that_power() -> None:
    num_seeds = int(seeds_to_decide([0.3], [1.0], 1.5, 0.05).item())
    draws = np.random.default_rng(0).normal(0.3, 1, size=(4000, num_seeds))
    found = np.mean([equivalence_p(draw, 1.5) < 0.05 for draw in draws])
    assert 0.78 < found < 0.95
    assert seeds_to_decide([-0.3], [1.0], 1.5, 0.05).item() == num_seeds


def test_compare_tells_equal_from_not_shown() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.05, 6)
    near, vague = rng.normal(0, 0.004, 6), np.array([0.04, -0.04, 0.02, -0.02, 0.01, -0.009])
    small = 0.01 + rng.normal(0, 0.001, 6)
    df = runs(
        base=list(base),
        near=list(base + near),
        vague=list(base + vague),
        small=list(base + small),
        far=list(base - 0.3 + near),
        same=list(base),
    )
    found = compare(df, "base", "accuracy", margin=0.02, unit=" of 1").set_index("variant")
    assert found.loc["near", "verdict"] == "equal within 0.02 of 1"
    assert found.loc["small", "verdict"] == "better, but by less than 0.02 of 1"
    assert found.loc["far", "verdict"] == "worse"
    assert found.loc["same", "verdict"] == "equal within 0.02 of 1"
    needed = seeds_to_decide([vague.mean()], [vague.std(ddof=1)], 0.02, 0.05 / 5).item()
    assert found.loc["vague", "verdict"] == f"cannot tell: needs about {needed:.0f} seeds"
    assert (found["p_equal_holm"] >= found["p_equal"]).all()
    losses = compare(df, "base", "accuracy", higher_is_better=False, margin=0.02)
    assert losses["verdict"].tolist()[2:4] == ["worse, but by less than 0.02", "better"]
    with pytest.raises(ValueError, match="margin=0 must be above 0"):
        compare(df, "base", "accuracy", margin=0)


@pytest.mark.usefixtures("_no_powers")
def test_compare_rarely_calls_a_variant_at_the_margin_equal() -> None:
    """The whole table may err in 5% of cases: of 60 tables of 8 such variants, some 3."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(60):
        base = rng.normal(size=6)
        variants = {f"v{i}": list(base + 1 + rng.normal(0, 0.4, 6)) for i in range(8)}
        found = compare(runs(base=list(base), **variants), "base", "accuracy", margin=1)
        wrong += found["verdict"].str.contains("equal|less").any()
    assert wrong <= 8  # without the correction, about 20


def test_compare_refuses_tables_that_it_cannot_pair() -> None:
    df = runs(base=[0.1, 0.2], other=[0.3, 0.4])
    with pytest.raises(ValueError, match=r"no column 'loss'; the columns are"):
        compare(df, "base", "loss")
    with pytest.raises(ValueError, match="no baseline 'bass'"):
        compare(df, "bass", "accuracy")
    with pytest.raises(ValueError, match="repeat a variant and seed"):
        compare(pd.concat([df, df.tail(1)]), "base", "accuracy")
    for by in ("n", "p", "low"):
        with pytest.raises(ValueError, match=f"{by!r} is a column of the answer, too; rename it"):
            compare(df.rename(columns={"variant": by}), "base", "accuracy", by=by)


GATES, LAYOUTS = ("lrpe", "dense", "conv"), ("S", "T")
NOISE = np.random.default_rng(0).normal(0, 0.01, (5, 6))


def grid(num_seeds: int = 5) -> pd.DataFrame:
    """dense is 0.2 above lrpe under S and 0.5 above it under T; T is 0.1 above S for the rest."""
    rows = []
    for seed in range(num_seeds):
        for cell, (gate, layout) in enumerate(product(GATES, LAYOUTS)):
            score = 0.2 * (gate == "dense") + 0.1 * (layout == "T")
            score += 0.3 * (gate == "dense" and layout == "T")
            # seeds differ by far more than variants: only pairing finds the effects
            score += 3.0 * seed + NOISE[seed, cell]
            rows.append({"gate": gate, "layout": layout, "seed": seed, "top1": score})
    return pd.DataFrame(rows)


def row_of(table: pd.DataFrame, levels: str) -> pd.Series:
    (found,) = (row for _, row in table.iterrows() if row["levels"] == levels)
    return found


def test_effects_are_the_known_ones() -> None:
    table = effects(grid(), ["gate", "layout"], "top1")
    assert table["levels"].tolist() == ["dense", "conv", "T", "dense x T", "conv x T"]
    assert table["kind"].tolist() == ["main effect"] * 3 + ["interaction"] * 2
    expected = [0.35, 0.0, 0.2, 0.3, 0.0]  # T: (0.1 + 0.4 + 0.1) / 3
    np.testing.assert_allclose(table["effect"], expected, atol=0.02)
    certain = table["p_holm"] < 0.05
    assert certain.tolist() == [True, False, True, True, False]


def test_effects_are_tested_over_seeds_and_corrected() -> None:
    df = grid()
    table = effects(df, ["gate", "layout"], "top1")
    wide = df.pivot(index="seed", columns=["gate", "layout"], values="top1")
    contrast = (wide["dense"]["T"] - wide["lrpe"]["T"]) - (wide["dense"]["S"] - wide["lrpe"]["S"])
    row = row_of(table, "dense x T")
    expected = stats.ttest_1samp(contrast, 0)
    assert row["p"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    np.testing.assert_allclose(
        table["p_holm"], multipletests(table["p"], method="holm")[1], rtol=1e-12
    )


def test_effects_of_two_by_two_have_the_p_of_an_analysis_of_variance() -> None:
    df = grid().query("gate != 'conv'")
    found = effects(df, ["gate", "layout"], "top1")
    anova = AnovaRM(df, "top1", "seed", within=["gate", "layout"]).fit().anova_table
    assert found["p"].tolist() == pytest.approx(anova["Pr > F"].tolist())


def test_effects_say_it_in_a_sentence() -> None:
    table = effects(grid(), ["gate", "layout"], "top1", unit=" of 1")
    main, joint = row_of(table, "dense")["sentence"], row_of(table, "dense x T")["sentence"]
    assert main.startswith("gate dense (for lrpe) changes top1 by +0.3")
    assert " of 1 [+0.3" in main
    assert main.endswith("] over 5 seeds: higher.")
    assert joint.startswith(
        "gate dense (for lrpe) and layout T (for S) together change top1 by +0."
    )
    assert "beyond the sum of each alone [+0.2" in joint
    assert joint.endswith("] over 5 seeds: above the sum.")
    assert "cannot tell: needs" in row_of(table, "conv")["sentence"]
    alone = effects(grid(1), ["gate", "layout"], "top1")
    assert alone["p"].isna().all()
    assert alone["sentence"].str.contains("one shows no spread").all()


def test_effects_within_a_margin_are_equal() -> None:
    table = effects(grid(), ["gate", "layout"], "top1", margin=0.05)
    expected = ["higher", "equal within 0.05", "higher", "above the sum", "equal within 0.05"]
    assert table["verdict"].tolist() == expected
    np.testing.assert_allclose(
        table["p_equal_holm"], multipletests(table["p_equal"], method="holm")[1], rtol=1e-12
    )
    with pytest.raises(ValueError, match="margin=-1 must be above 0"):
        effects(grid(), ["gate", "layout"], "top1", margin=-1)


def test_crossed_keeps_the_full_grid_within() -> None:
    whole = grid()
    assert len(crossed(whole, ["gate", "layout"])) == len(whole)
    extra = whole[whole["gate"] == "conv"].assign(gate="none").query("layout == 'S'")
    found = crossed(pd.concat([whole, extra]), ["gate", "layout"])
    assert found["gate"].unique().tolist() == list(GATES)
    assert found["layout"].unique().tolist() == list(LAYOUTS)
    star = whole[(whole["gate"] == "lrpe") | (whole["layout"] == "S")]
    one_axis = crossed(star, ["gate", "layout"])
    assert one_axis[["gate", "layout"]].nunique().min() == 1


def test_effects_leave_out_and_count_seeds_that_lack_a_run() -> None:
    df = grid()
    df.loc[(df["seed"] == 4) & (df["gate"] == "conv"), "top1"] = np.nan
    table = effects(df, ["gate", "layout"], "top1")
    assert (table["n"] == 4).all()
    assert (table["incomplete"] == 1).all()
    whole = effects(df[df["seed"] < 4], ["gate", "layout"], "top1")
    np.testing.assert_array_equal(table["effect"], whole["effect"])


def test_effects_average_over_every_other_axis() -> None:
    df = pd.concat([grid().assign(width=width) for width in (8, 16)])
    df["top1"] += 0.7 * (df["width"] == 16)
    table = effects(df, ["width", "gate", "layout"], "top1")
    assert row_of(table, "16")["effect"] == pytest.approx(0.7)
    assert row_of(table, "16 x dense")["effect"] == pytest.approx(0, abs=1e-9)
    assert row_of(table, "dense")["effect"] == pytest.approx(0.35, abs=0.02)


@pytest.mark.parametrize(
    ("change", "axes", "message"),
    [
        (lambda df: df, ["gate", "depth"], "no column 'depth'"),
        (lambda df: df[df["layout"] == "S"], ["gate", "layout"], "'layout' has the single level"),
        (lambda df: df, ["gate"], "15 rows repeat a combination and seed"),
        (
            lambda df: df[(df["gate"] != "conv") | (df["layout"] != "T")],
            ["gate", "layout"],
            r"no seed has all 6 combinations of gate, layout \(no seed has \('conv', 'T'\)\)",
        ),
    ],
)
def test_effects_refuse_what_is_no_full_grid(change, axes, message) -> None:
    with pytest.raises(ValueError, match=message):
        effects(change(grid()), axes, "top1")
