"""Main effects and interactions of tables whose effects are known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

from analysis.results.effects import crossed, effects

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
