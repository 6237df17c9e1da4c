"""The report's sentences, on results whose truth is planted."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_folders import BASE, FIVE_GATES, GATES, fill, planted

from ablations import GridError, read_grid
from ablations.report import prediction as report_prediction
from ablations.report import words as report_words
from ablations.report.data import Study, factors_of
from ablations.report.figures import along_numbers, gates_in_settings, highlighted
from ablations.report.labels import short_labels, short_value
from ablations.report.page import write_report
from ablations.store.table import load
from analysis import compare
from posmlp.checkpoint import write_atomically
from posmlp.clip_scores import FILES


def text_of(path: Path) -> str:
    """The page's words as a reader sees them."""
    words = re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(words).split())


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    root = fill(tmp_path_factory.mktemp("words") / "run", FIVE_GATES, planted, repeat=0.004)
    return Study.open(root)


def test_verdicts_are_the_planted_ones(study):
    table = study.comparison(study.metrics[0]).set_index("label")
    assert table.loc["dense", "verdict"] == "better"
    assert table.loc["conv", "verdict"] == "worse"
    assert table.loc["gqpe", "verdict"] == "equal within 2 points"
    assert re.fullmatch(r"cannot tell: needs about \d+ seeds", table.loc["mean", "verdict"])
    assert table.loc["dense", "difference"] == pytest.approx(10.0)
    assert list(study.labels.values()) == GATES


def test_headline_counts_the_verdicts(study):
    metric = study.metrics[0]
    table = study.comparison(metric)
    assert report_words.headline(study, metric, table) == (
        "The baseline, lrpe, has 56.0% top-1 on test clips. dense (+10.0 points) is better. "
        "conv (−20.0 points) is worse. gqpe (+0.1 points) is equal within 2 points. "
        "No clear difference is shown for mean (+2.4 points)."
    )
    assert report_words.highest(study, metric, table) == (
        "The highest mean is that of dense (66.0%), and it is better than the baseline."
    )
    found = report_words.findings(study, metric, table)
    assert [finding.label for finding in found] == ["dense", "conv", "gqpe", "mean"]
    assert found[1].numbers.startswith("36.0%, −20.0 points by seed (95% interval −2")
    assert found[0].cost == "", "1.01 times the parameters is no other cost"


def test_highest_mean_that_is_not_shown_to_be_better_is_not_called_so(tmp_path):
    grid = FIVE_GATES | {"axes": {"gate": ["lrpe", "mean"]}}
    study = Study.open(fill(tmp_path / "run", grid, planted))
    metric = study.metrics[0]
    table = study.comparison(metric)
    said = report_words.highest(study, metric, table)
    assert said.endswith("but that it is really better than the baseline is not shown.")
    assert report_words.headline(study, metric, table).startswith(
        "These runs show no clear difference between it and"
    )


def test_prediction_is_set_beside_the_verdicts_of_what_it_names(study):
    found = report_words.findings(study, study.metrics[0], study.comparison(study.metrics[0]))
    assert report_prediction.named(study, found) == ["dense: better", "conv: worse"]


def test_noise_floor_is_the_difference_of_equal_runs(study, tmp_path):
    assert "differ by up to 0.4 points of top-1 on test clips" in report_words.noise_floor(study)
    assert study.interval("lrpe", study.metrics[0])[0] == 5, "the second run counts in no mean"
    without = Study.open(fill(tmp_path / "run", FIVE_GATES, planted))
    assert report_words.noise_floor(without).startswith("Not measured here")


def test_partial_run_is_reported_as_such(tmp_path):
    def score(cell, seed):
        if cell.axes["gate"] == "conv" and seed == 1:
            return "ValueError: <broken> & more"
        return planted(cell, seed) if seed < 3 and cell.axes["gate"] != "mean" else None

    said = text_of(write_report(fill(tmp_path / "run", FIVE_GATES, score)))
    assert "11 of 25 declared runs have finished" in said
    assert "1 failed, 13 are still to do" in said
    assert "ValueError: <broken> & more" in said
    assert "The baseline, lrpe, has 53.0%" in said
    assert "come nearest to making the same runs" in said, "the runs' code had changes"
    assert "git checkout 0123abc ablations run grid.yaml ablations report" in said


def test_one_seed_claims_nothing(tmp_path):
    grid = FIVE_GATES | {"seeds": 1}
    said = text_of(write_report(fill(tmp_path / "run", grid, planted)))
    assert (
        "These runs show no clear difference between any of the 4 variants and the baseline" in said
    )
    assert "1 seed, hence no interval" in said
    assert not re.search(r"\bnan\b", said.lower())


def test_failures_alone_are_a_report(tmp_path):
    root = fill(tmp_path / "run", FIVE_GATES, lambda cell, seed: "RuntimeError: no luck")
    said = text_of(write_report(root))
    assert "No run has finished, so there is no answer." in said
    assert said.count("RuntimeError: no luck") == 25
    assert (root / "table.tex").read_text().count(r"\\") == 6


def test_nothing_run_yet_is_refused(tmp_path):
    root = fill(tmp_path / "run", FIVE_GATES, lambda cell, seed: None)
    with pytest.raises(ValueError, match="has ended yet; see: ablations status"):
        write_report(root)


def test_missing_baseline_is_said(tmp_path):
    root = fill(
        tmp_path / "run",
        FIVE_GATES,
        lambda cell, seed: "dead" if cell.axes["gate"] == "lrpe" else planted(cell, seed),
    )
    said = text_of(write_report(root))
    assert "The baseline, lrpe, has no finished run, so nothing can be compared" in said


CROSSED = {
    "axes": {"gate": ["lrpe", "dense"], "layout": ["T+S", "S"]},
    "seeds": 3,
    "baseline": {"gate": "lrpe", "layout": "T+S"},
}


def crossed(cell, seed) -> dict[str, float]:
    """S costs 0.3; dense gives 0.1, and 0.2 more together with S."""
    gate, layout = cell.axes["gate"] == "dense", cell.axes["layout"] == "S"
    return {"test_top1": 0.4 + 0.02 * seed + 0.1 * gate - 0.3 * layout + 0.2 * gate * layout}


def test_effects_and_their_interaction_are_the_planted_ones(tmp_path):
    study = Study.open(fill(tmp_path / "run", CROSSED, crossed))
    table = study.effects(study.metrics[0])
    np.testing.assert_allclose(table["effect"], [20.0, -20.0, 20.0], atol=1e-9)
    assert table["verdict"].tolist() == ["higher", "lower", "above the sum"]
    assert table["sentence"][0].startswith(
        "gate dense (for lrpe) changes top-1 on test clips by +20"
    )
    assert report_words.together(study, table) == (
        "The pair of settings gives more or less than the sum of each alone (dense x S: +20.0 "
        "points)."
    )
    said = text_of(write_report(study.store.root))
    answer = said.partition("Answer")[2].partition("Table")[0]
    assert "the sum of each alone (dense x S: +20.0 points)." in answer


def test_settings_that_add_up_or_cannot_be_told_are_counted(study):
    rows = [("main effect", "higher", 9.0), ("interaction", "equal within 2 points", 0.1)]
    rows += [("interaction", "cannot tell: needs about 9 seeds", 1.0)] * 2
    table = pd.DataFrame(rows, columns=["kind", "verdict", "effect"]).assign(levels="a x b")
    assert report_words.together(study, table) == (
        "Of 3 pairs of settings, 1 gives the sum of each alone within 2 points and for 2 these "
        "runs cannot tell."
    )
    assert report_words.together(study, table.head(1)) == ""


def test_effects_are_refused_where_the_design_has_none(tmp_path):
    star = CROSSED | {"design": "one-at-a-time"}
    study = Study.open(fill(tmp_path / "star", star, crossed))
    with pytest.raises(ValueError, match="varies one axis at a time"):
        study.effects(study.metrics[0])
    single = Study.open(fill(tmp_path / "single", FIVE_GATES, planted))
    with pytest.raises(ValueError, match="Only one thing varies"):
        single.effects(single.metrics[0])
    holed = CROSSED | {"exclude": [{"gate": "dense", "layout": "S"}]}
    holed_study = Study.open(fill(tmp_path / "holed", holed, crossed))
    with pytest.raises(ValueError, match="form no full grid of two axes"):
        holed_study.effects(holed_study.metrics[0])


WINDOWS = {
    "zip": [{"num_frames": [8, 8, 4], "temporal_windows": [8, 4, 4]}],
    "axes": {"gate": ["lrpe", "dense"]},
    "seeds": 2,
    "baseline": {"gate": "lrpe", "num_frames": 8, "temporal_windows": 8},
}


def windows(cell, seed):
    """4 frames cost 0.2; dense gives 0.1, and 0.04 more by a window of 4 in 8 frames."""
    short, dense = cell.axes["num_frames"] == 4, cell.axes["gate"] == "dense"
    part = dense and cell.axes["temporal_windows"] == 4 and not short
    return {"test_top1": 0.5 + 0.02 * seed + 0.1 * dense - 0.2 * short + 0.04 * part}


def test_axes_that_are_not_crossed_are_one_factor(tmp_path):
    study = Study.open(fill(tmp_path / "run", WINDOWS, windows))
    table = study.effects(study.metrics[0]).set_index(["axes", "levels"])["effect"]
    assert table["num_frames & temporal_windows", "4 & 4"] == pytest.approx(-20)
    assert table["gate", "dense"] == pytest.approx((10 + 14 + 10) / 3)


@pytest.mark.parametrize(
    ("cells", "factors"),
    [
        ([("a", 8, 8), ("b", 8, 8), ("a", 4, 4), ("b", 4, 4)], [["x"], ["y", "z"]]),
        ([("a", 8, 8), ("b", 8, 8), ("a", 4, 4)], [["x"], ["y", "z"]]),
        ([("a", 8, 8), ("b", 8, 8), ("a", 4, 8), ("b", 8, 4)], [["x"], ["y"], ["z"]]),
    ],
)
def test_factors_of_any_grid_are_crossed_or_else_move_together(cells, factors):
    assert factors_of(pd.DataFrame(cells, columns=["x", "y", "z"])) == factors


def test_gates_are_compared_in_each_setting(tmp_path):
    study = Study.open(fill(tmp_path / "run", WINDOWS, windows))
    table = study.gate_differences(study.metrics[0]).set_index("setting")
    names = ["8 & 8", "temporal_windows=4", "num_frames=4 · temporal_windows=4"]
    assert table.index.tolist() == names
    np.testing.assert_allclose(table["difference"], [10, 14, 10], atol=1e-9)
    (figure,) = gates_in_settings(study, study.metrics[0])
    assert f"dense in {table.index[1]}: +14.0 [+14.0, +14.0], better" in figure.caption
    lone = WINDOWS | {"include": [{"gate": "conv", "num_frames": 2, "temporal_windows": 2}]}
    holed = Study.open(fill(tmp_path / "lone", lone, windows))
    assert len(holed.gate_differences(holed.metrics[0])) == 3
    single = Study.open(fill(tmp_path / "single", FIVE_GATES, planted))
    assert not list(gates_in_settings(single, single.metrics[0]))


def test_scores_are_drawn_along_an_axis_of_numbers(tmp_path):
    for rates, drawn in (([1, 2, 3], ["along-lr"]), ([1, 2], [])):
        axes = {"gate": ["lrpe", "dense"], "train.lr": rates}
        grid = {"axes": axes, "seeds": 2, "baseline": {"gate": "lrpe", "train.lr": 1}}
        root = fill(tmp_path / str(len(rates)), grid, lambda cell, seed: {"test_top1": 0.5})
        study = Study.open(root)
        assert [each.name for each in along_numbers(study, study.metrics[0])] == drawn


def test_long_labels_name_what_differs_from_the_baseline():
    settings = [("a", 16, "T+S"), ("b", 8, "T+S"), ("c", 8, "ST")]
    cells = [
        {
            "id": id,
            "name": id,
            "axes": {"temporal_windows": frames, "num_groups": 4, "layout": layout},
        }
        for id, frames, layout in settings
    ]
    cells.append({**cells[0], "id": "d", "axes": {**cells[0]["axes"], "num_groups": [1, 2, 4, 8]}})
    plan = {"axes": ["temporal_windows", "num_groups", "layout"], "cells": cells, "baseline": "a"}
    assert short_labels(plan) == {
        "a": "temporal_windows=16 · num_groups=4 · T+S",
        "b": "temporal_windows=8",
        "c": "temporal_windows=8 · ST",
        "d": "num_groups=1,2,4,8",
    }


def test_labels_are_short_and_differ():
    cells = [
        {"id": "a", "name": "long a", "axes": {"num_groups": [1, 2], "layout": "T", "gate": "x"}},
        {"id": "b", "name": "long b", "axes": {"num_groups": [4, 4], "layout": "T", "gate": "y"}},
    ]
    plan = {"axes": ["num_groups", "layout", "gate"], "cells": cells}
    assert short_labels(plan) == {"a": "num_groups=1,2 · x", "b": "num_groups=4 · y"}
    alone = {"axes": ["num_groups", "layout"], "cells": cells}
    assert short_labels(alone) == {"a": "1,2", "b": "4"}
    cells[1]["axes"] = {"num_groups": 4, "layout": "T", "gate": "y"}
    cells[0]["axes"] = {"num_groups": [4, 4], "layout": "T", "gate": "y"}
    assert short_labels(plan) == {"a": "long a", "b": "long b"}, "equal labels would not do"
    cells[0]["axes"] = {"layout": "T", "data": "moving-digits:easy"}
    cells[1]["axes"] = {"layout": "S", "data": "moving-digits:hard"}
    assert short_labels({"axes": ["layout", "data"], "cells": cells}) == {
        "a": "T · easy",
        "b": "S · hard",
    }
    assert short_value([2.0, 1e-3]) == "2,0.001"


def test_many_variants_with_lists_are_all_listed_and_some_coloured(tmp_path):
    grid = {
        "axes": {"num_groups": [1, [1, 2, 4, 8], [2, 4, 8, 16]], "layout": ["T+S", "S", "T", "ST"]},
        "seeds": 2,
        "baseline": {"num_groups": [2, 4, 8, 16], "layout": "T+S"},
    }
    rng = np.random.default_rng(0)
    root = fill(tmp_path / "run", grid, lambda cell, seed: {"test_top1": rng.uniform(0.3, 0.6)})
    said = text_of(write_report(root))
    study = Study.open(root, 2.0)
    labels = list(study.labels.values())
    assert labels[:2] == ["num_groups=2,4,8,16 · T+S", "num_groups=1 · T+S"]
    assert all(label in said for label in labels)
    assert re.search(r"any of the 11 variants|\d more", said), "the headline is short"
    coloured = highlighted(study, study.metrics[0])
    assert coloured[0] == labels[0]
    assert 5 <= len(coloured) <= 7
    assert f"Grey: {12 - len(coloured)} other variants." in said


def test_more_than_forty_variants_are_summed_up_and_all_are_in_one_table(tmp_path):
    decays = [round(0.01 * i, 2) for i in range(25)]
    axes = {"axes": {"gate": ["lrpe", "mean"], "train.weight_decay": decays}, "seeds": 2}

    def rising(cell, seed):
        place = decays.index(cell.axes["train.weight_decay"])
        gain = 0.004 * place + 0.2 * (cell.axes["gate"] == "mean")
        return {"test_top1": 0.3 + gain + 0.001 * seed * (place % 7)}

    expected = [{"gate": "mean", "verdict": "better"}]
    root = fill(tmp_path / "run", axes | {"expect": expected}, rising)
    page = write_report(root)
    whole = Study.open(root)
    shown, metric = whole.shown(), whole.metrics[0]
    best = [f"mean · weight_decay={decay:g}" for decay in decays[:4:-1]]
    worst = [f"lrpe · weight_decay={decay:g}" for decay in decays[19::-1]]
    assert list(shown.labels.values()) == [whole.baseline, *best, *worst[:-1]]
    found, of_all = (each.comparison(metric).set_index("label") for each in (shown, whole))
    pd.testing.assert_frame_equal(found, of_all.loc[found.index])
    assert shown.costs.equals(whole.costs.loc[list(shown.labels.values())])
    said, text = text_of(page), page.read_text()
    assert "50 variants, 2 seeds each" in said
    assert " more" in report_words.headline(whole, metric, whole.comparison(metric))
    assert said.count("Of 50 variants, the best and the worst") == 5
    packed = re.search(r'id="all-rows">(.*?)</script>', text)[1]
    rows = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert [row[0] for row in rows["data"]] == list(whole.labels.values())
    assert text.count("<tr") < 110  # 41 variants, once more with their runs


def test_classes_are_shown_where_they_were_scored(tmp_path):
    root = fill(tmp_path / "run", CROSSED, crossed)
    rows = [
        {
            "variant": f"gate={gate} layout=T+S",
            "seed": seed,
            "class": name,
            "num_clips": 4,
            "top1": v,
            "num_predicted": 3 * (name != "left" or gate == "dense"),
            "answers": "3 1" if name == "left" else f"{seed} {4 - seed}",
        }
        for gate, offset in (("lrpe", 0.1), ("dense", 0.3))
        for seed in (0, 1)
        for name, v in (("left", offset), ("right", offset + 0.5 + 0.1 * seed))
    ]
    pd.DataFrame(rows).to_csv(root / "classes.csv", index=False)
    study = Study.open(root)
    table = study.classes(study.metrics[0])
    assert table.index.tolist() == ["lrpe · T+S", "dense · T+S"]
    np.testing.assert_allclose(table.loc["dense · T+S", ["left", "right"]], [30.0, 85.0])
    confusion = study.confusion("dense · T+S")
    np.testing.assert_allclose(confusion, [[75.0, 25.0], [12.5, 87.5]])
    assert study.never_predicted == {"lrpe · T+S": ["left"]}
    run = study.store.run_folder(study.plan["baseline"], 0)
    for name in FILES:
        write_atomically(run / "eval" / name, b"")
    page = write_report(root, tmp_path / "page" / "report.html").read_text()
    assert "<th>right</th>" in page
    assert 'title="right taken for left: 12.5%"' in page
    assert "Never predicted: lrpe · T+S: left.</p>" in page
    (clips,) = re.findall(r'href="([^"]+)">clips.csv', page)
    assert (tmp_path / "page" / clips).samefile(run / "eval" / "clips.csv")


def test_expectations_are_checked_against_the_verdicts(tmp_path):
    expect = [
        {"gate": "dense", "verdict": "better"},
        {"gate": "conv", "verdict": "equal"},
        {"gate": "mean", "verdict": "worse"},
        {"gate": "gqpe", "verdict": "equal"},
        {"gate": "gqpe", "verdict": "better", "metric": "test_within_pair"},
    ]
    root = fill(tmp_path / "run", FIVE_GATES | {"expect": expect}, planted)
    found = report_prediction.outcomes(Study.open(root))
    assert [(outcome.label, outcome.state) for outcome in found] == [
        ("dense", "held"),
        ("conv", "failed"),
        ("mean", "open"),
        ("gqpe", "held"),
        ("gqpe", "open"),
    ]
    assert found[0].expected == "gate=dense better (top-1 on test clips)"
    said = text_of(write_report(root))
    assert "failed Expected: gate=conv equal (top-1 on test clips). conv : worse." in said
    assert "A prediction in words" not in said


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ([{"gate": "dense"}], "each expectation needs a verdict"),
        ([{"gate": "dense", "verdict": "wors"}], "unknown verdict 'wors'. Did you mean 'worse'"),
        ([{"gates": "dense", "verdict": "worse"}], "unknown axis 'gates'. Did you mean 'gate'"),
        ([{"gate": "none", "verdict": "worse"}], "no cell beside the baseline has gate=none worse"),
        ("worse", "expect needs a list"),
    ],
)
def test_expectations_that_cannot_be_checked_are_refused(expect, message):
    with pytest.raises(GridError, match=re.escape(message)):
        read_grid({"base": BASE} | FIVE_GATES | {"expect": expect})


UNTIL = FIVE_GATES | {"seeds": {"from": 3, "to": 20, "until": "verdict"}, "equal_within": 2}


def drawn_by_chance(cell, seed):
    """dense is far better, conv far worse, gqpe and mean are as lrpe, mean noisily."""
    rng = np.random.default_rng([seed, *cell.axes["gate"].encode()])
    shift = {"lrpe": 0.0, "dense": 0.3, "conv": -0.3, "gqpe": 0.0, "mean": 0.005}
    spread = 0.05 if cell.axes["gate"] == "mean" else 0.002
    top1 = 0.5 + shift[cell.axes["gate"]] + spread * rng.standard_normal()
    return {"test_top1": top1, "test_loss": 2 - top1}


def first_look(cell, seed):
    """dense is a little better, as far as it was run: at the first three seeds."""
    shift = 0.02 * (cell.axes["gate"] == "dense")
    noise = 0.01 * np.random.default_rng([seed, *cell.axes["gate"].encode()]).standard_normal()
    return {"test_top1": 0.5 + shift + noise} if seed < 3 else None


def test_a_seed_far_from_the_rest_is_flagged(tmp_path):
    def score(cell, seed):
        found = planted(cell, seed)["test_top1"] - 0.03 * seed
        return {"test_top1": found - 0.4 * (cell.axes["gate"] == "gqpe" and seed == 3)}

    study = Study.open(fill(tmp_path / "run", FIVE_GATES, score))
    (said,) = report_words.far_seeds(study, study.metrics[0])
    assert said.startswith("Seed 3 of gqpe has 10.0%, far from its other 4 seeds (49.9 to 50.3).")


def test_until_the_verdict_the_report_shows_where_each_comparison_stopped(tmp_path):
    root = fill(tmp_path / "run", UNTIL, drawn_by_chance)
    study = Study.open(root)
    metric = study.metrics[0]
    table = study.comparison(metric).set_index("label")
    assert table.loc[["dense", "conv", "gqpe"], "verdict"].tolist() == [
        "better",
        "worse",
        "equal within 2 points",
    ]
    assert (table.loc[["dense", "conv", "gqpe"], "look"] < 20).all()
    assert table.loc["mean", "verdict"].startswith("cannot tell at 20 of at most 20 seeds: about ")
    assert "p" not in table
    first = Study.open(fill(tmp_path / "first", UNTIL, first_look)).comparison(metric)
    assert first["low"].isna().all(), "intervals of thousands of points are not told"
    found = {f.label: f for f in report_words.findings(study, metric, first)}
    assert "no interval yet; last at the look of 3 seeds" in found["mean"].numbers
    found = {f.label: f for f in report_words.findings(study, metric, study.comparison(metric))}
    assert f"stopped at the look of {table.loc['dense', 'look']} seeds" in found["dense"].numbers
    assert re.search(r"seeds give ±0.0 or more, .* clips ±\d\.\d or less", found["dense"].numbers)
    assert "the looks were fixed beforehand" in report_words.how_to_read(study, table).lower()
    with pytest.raises(ValueError, match="results chose how many there are"):
        study.effects(metric)
    wider = Study.open(root, margin=50).comparison(metric).set_index("label")
    assert wider.loc["mean", "verdict"] == "equal within 50 points"
    from_python = compare(load(root)).set_index("name")
    assert from_python["verdict"].str.partition(" ")[0].tolist() == (
        table["verdict"].str.partition(" ")[0].tolist()
    )
    assert from_python["look"].tolist() == table["look"].tolist()
    assert 100 * from_python["low"].to_numpy() == pytest.approx(table["low"].to_numpy())


def test_without_equal_within_seeds_until_the_verdict_call_nothing_equal(tmp_path):
    grid = {key: value for key, value in UNTIL.items() if key != "equal_within"}
    study = Study.open(fill(tmp_path / "run", grid, drawn_by_chance))
    table = study.comparison(study.metrics[0]).set_index("label")
    assert table.loc["gqpe", "verdict"].startswith("cannot tell")
    assert "Nothing is called equal" in report_words.how_to_read(study, table)


def test_a_metric_of_the_grid_is_compared_in_its_own_unit_and_direction(tmp_path):
    metrics = [{"name": "test_loss", "direction": "lower"}, "test_top1"]
    expect = [{"gate": "dense", "verdict": "better"}]
    grid = FIVE_GATES | {"metric": metrics, "equal_within": 0.02, "expect": expect}
    root = fill(tmp_path / "run", grid, drawn_by_chance)
    study = Study.open(root)
    loss, top1 = study.metrics
    assert (loss.column, top1.column) == ("test_loss", "test_top1")
    table = study.comparison(loss).set_index("label")
    assert table.loc["dense", "difference"] == pytest.approx(-0.3, abs=0.01)
    assert table.loc["dense", "verdict"] == "better"
    assert table.loc["gqpe", "verdict"] == "equal within 0.02"
    assert "p_equal" not in study.comparison(top1)  # 0.02 is no number of points
    assert report_words.highest(study, loss, study.comparison(loss)).startswith(
        "The lowest mean is that of dense (1.2"
    )
    (outcome,) = report_prediction.outcomes(study)
    assert (outcome.expected, outcome.state) == ("gate=dense better (loss on test clips)", "held")
    assert compare(load(root))["verdict"].tolist() == table["verdict"].tolist()
