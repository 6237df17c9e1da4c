"""The report's tables: the same numbers in every format."""

from __future__ import annotations

import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_folders import BASE, FIVE_GATES, GATES, OFFSETS, fill, planted
from scipy.stats import ttest_1samp, ttest_ind
from statsmodels.stats.multitest import multipletests

import ablations
from ablations import load
from ablations.cli import main
from ablations.grid.grid import Cell
from ablations.report.compare import Comparison
from ablations.report.data import Study
from ablations.report.page import write_report
from ablations.report.publish import publish
from ablations.report.tables import latex, two_lines
from ablations.report.tuning import tuning
from analysis import compare, draw_differences, effects
from analysis.results.curves import gather_curves


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = fill(tmp_path_factory.mktemp("tables") / "run", FIVE_GATES, planted)
    write_report(root)
    return root


def test_parquet_and_csv_hold_the_same_table(folder):
    parquet = pd.read_parquet(folder / "table.parquet")
    csv = pd.read_csv(folder / "table.csv")
    pd.testing.assert_frame_equal(parquet, csv, check_dtype=False)
    assert parquet["variant"].tolist() == [f"gate={gate}" for gate in GATES]
    assert parquet["num_done"].tolist() == [5] * 5
    means = 100 * load(folder).groupby("gate")["test_top1"].mean()
    assert parquet.set_index("gate")["test_top1"].to_dict() == pytest.approx(means.to_dict())


def test_table_p_values_are_corrected_as_statsmodels_does(folder):
    table = pd.read_parquet(folder / "table.parquet").iloc[1:]
    expected = multipletests(table["test_top1_difference_p"], method="holm")[1]
    assert table["test_top1_difference_p_holm"].to_numpy() == pytest.approx(expected)


def test_rows_are_those_of_load(folder):
    rows = pd.read_csv(folder / "rows.csv")
    assert rows["test_top1"].tolist() == pytest.approx(load(folder)["test_top1"].tolist())
    assert rows.groupby("gate")["seed"].nunique().eq(5).all()


def test_markdown_is_one_table_and_a_note(folder):
    lines = (folder / "table.md").read_text().splitlines()
    head, rule, *rows = lines[:7]
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert rows[0].startswith("| lrpe | 56.0 [")
    assert "| +10.0 [" in rows[1]
    assert "| better |" in rows[1]
    assert lines[-1].startswith("Mean and 95% t-interval over seeds")
    assert "| equal (within 2 points) |" in rows[3]
    assert re.search(r"\| cannot tell \(\d+ seeds\?\) \|", rows[4])


def parse_tex(text: str) -> list[list[str]]:
    """The cells of a tabular, with what must balance checked on the way."""
    depth = 0
    for char in re.sub(r"\\[{}\\%&$#_]", "", text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    inside = re.search(r"\\toprule\n(.*)\\bottomrule", text, re.DOTALL)
    assert inside
    rows = inside[1].replace("\\midrule\n", "").split("\\\\\n")[:-1]
    return [re.split(r"(?<!\\) & ", row) for row in rows]


def test_latex_is_a_booktabs_table_of_the_same_shape(folder):
    text = (folder / "table.tex").read_text()
    rows = parse_tex(text)
    assert len(rows) == 6
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns
    assert {len(row) for row in rows} == {len(columns[1])}
    assert rows[2][0] == "dense"
    assert rows[2][2].startswith("+10.0 [")
    assert rows[3][2].startswith("$-$20.0 [")
    assert text.isascii()
    assert "%" not in re.sub(r"\\%", "", text.partition("\n")[2])


def test_latex_writes_out_what_tex_would_take_for_commands():
    assert latex("T>S · a_b & 50%") == r"T\textgreater{}S $\cdot$ a\_b \& 50\%"
    assert latex(r"{\x}") == r"\{\textbackslash{}x\}"


@given(st.text(alphabet="ab&%$#_{}\\~^<>|·×−–Δ ", max_size=20))
def test_latex_leaves_nothing_special(text):
    plain = re.sub(r"\\text\w+\{\}|\\[&%$#_{}]|\$(\\\w+|-)\$", "", latex(text))
    assert not set(plain) & set("&%$#_{}\\~^<>|")
    assert plain.isascii()


def test_two_lines_splits_what_stands_in_brackets():
    assert two_lines("60.4 [58.3, 62.6]") == ("60.4", "[58.3, 62.6]")
    assert two_lines("cannot tell (19 seeds?)") == ("cannot tell", "(19 seeds?)")
    assert two_lines("lrpe · T+S") == ("lrpe · T+S", "")


def half_diverged(cell, seed):
    """A window of null is the baseline's; rate 0.002 is better, and diverges at seed 1 with 4."""
    window, rate = cell.axes["temporal_windows"], cell.axes["train.lr"]
    better = (0.1 + 0.002 * (seed % 3)) * (rate == 2e-3)
    top1 = 0.5 + 0.01 * seed * (1 + seed) + better + 0.001 * seed * (window is None)
    if window == 4 and rate == 2e-3 and seed == 1:
        return {"test_top1": 0.07, "reason": "the loss is not finite"}
    return {"test_top1": top1}


def test_from_python_a_table_says_what_the_page_says(tmp_path):
    """As in a notebook: load, compare, effects, groups and a figure, with no words of one's own."""
    grid = {
        "axes": {"temporal_windows": [None, 4], "train.lr": [1e-3, 2e-3]},
        "seeds": 4,
        "baseline": {"temporal_windows": None, "train.lr": 1e-3},
    }
    root = fill(tmp_path / "run", grid, half_diverged)
    table = load(root)
    page = Study.open(root)
    of_page = page.comparison(page.metrics[0])
    found = compare(table)
    assert found["n"].tolist() == of_page["n"].tolist() == [4, 4, 3]
    for column in ("mean", "difference", "low", "high", "from_seeds", "from_clips"):
        assert 100 * found[column].to_numpy() == pytest.approx(of_page[column].to_numpy())
    assert found["p_equal_holm"].to_numpy() == pytest.approx(of_page["p_equal_holm"].to_numpy())
    words = found["verdict"].str.replace(" 0.02", " 2 points")
    assert words.tolist() == of_page["verdict"].tolist()
    done = table[table["status"] == "done"]
    assert done.groupby("temporal_windows")["test_top1"].count().to_dict() == {"null": 8, 4: 7}
    main = effects(table, ["temporal_windows", "train.lr"], "test_top1").set_index("axes")
    assert main.loc["train.lr", ["n", "references"]].tolist() == [3, "0.001"]
    assert main.loc["temporal_windows", "references"] == "null"
    by_text = compare(done[done["train.lr"] == 1e-3], "null", by="temporal_windows")
    by_rate = compare(done[done["temporal_windows"] == "null"], "0.001", by="train.lr")
    assert (by_text["temporal_windows"].tolist(), by_rate["train.lr"].tolist()) == ([4], [2e-3])
    with pytest.raises(ValueError, match=r"no baseline '0.003' in 'train.lr'; it has \[0.001"):
        compare(done[done["temporal_windows"] == "null"], "0.003", by="train.lr")
    axes = draw_differences(found)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == found["name"].tolist()
    plt.close(axes.figure)


RATES = [5e-4, 1e-3, 2e-3, 4e-3]
BEST = {"lrpe": 2e-3, "dense": 4e-3, "conv": 1e-3, "gqpe": 5e-4, "mean": 2e-3}


def by_rate(cell: Cell, seed: int) -> dict[str, float] | str:
    """Validation scores fall off with the distance from the best rate; conv fails at the last."""
    gate, away = cell.axes["gate"], abs(math.log2(cell.train.lr / BEST[cell.axes["gate"]]))
    if gate == "conv" and cell.train.lr == 4e-3:
        return "diverged"
    score = 0.6 - 0.1 * away + 0.001 * (seed % 2)
    return {"val_top1": score, "test_top1": score + OFFSETS[gate]}


@pytest.fixture(scope="module")
def tuned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    grid = FIVE_GATES | {"tune": {"train.lr": RATES, "train.weight_decay": [0.0, 0.05, 0.2]}}
    return fill(tmp_path_factory.mktemp("tuned") / "run", grid, by_rate)


@pytest.fixture
def tuned(tuned_folder: Path) -> Study:
    return Study.open(tuned_folder, margin=2.0)


def test_best_values_at_an_edge_are_marked_with_the_way_to_extend(tuned: Study) -> None:
    found = tuning(tuned)
    assert found is not None
    assert [edge.partition(":")[0] for edge in found.edges] == [
        "dense is best at train.lr=0.004, the highest that was tried",
        "gqpe is best at train.lr=0.0005, the lowest that was tried",
    ]  # a decay of 0, where others have no edge, can be no lower
    assert ["Add higher values" in edge for edge in found.edges] == [True, False]
    shown = dict(zip(found.chosen["variant"], found.chosen["train.lr"], strict=True))
    assert shown["dense"] == "0.004 ↑ edge"
    assert shown["lrpe"] == "0.002"


def test_scores_against_tuned_values_are_those_of_validation_clips(tuned: Study) -> None:
    found = tuning(tuned)
    assert found is not None
    chosen = found.chosen.set_index("variant")
    assert chosen.loc["dense"].tolist()[2:] == ["60.05", "50.05", "+10.0"]
    trials = found.trials.set_index(["variant", "train.lr", "train.weight_decay"])
    assert trials.loc[("conv", "0.004", "0"), "by seed"] == "failed at a seed"
    assert trials.loc[("gqpe", "0.001", "0")].tolist() == ["50.05", "50, 50.1", ""]
    assert len(trials) == 5 * 12
    assert [figure.name for figure in found.figures] == [
        "tuning-train-lr",
        "tuning-train-weight_decay",
    ]
    assert "2 of 5 best at an edge" in found.figures[0].title


def test_verdicts_untuned_come_from_the_trials_at_the_base_values(tuned: Study) -> None:
    found = tuning(tuned)
    assert found is not None
    assert "Untuned, all variants would have had train.lr=0.002, train.weight_decay=0.05." in (
        found.untuned
    )
    table = found.verdicts.set_index("variant")
    assert table.loc["dense", "Δ top-1 untuned"] == "0.0"  # 10 points ahead, 10 lost by the rate
    assert table.loc["dense", "Δ top-1 tuned"] == "+10.0"
    assert table.loc["dense", "verdict tuned"] == "better"


def test_grid_without_the_bases_values_says_so_and_one_untuned_has_no_section(
    tmp_path: Path,
) -> None:
    grid = FIVE_GATES | {"tune": {"train.lr": [1e-3, 4e-3]}}
    found = tuning(Study.open(fill(tmp_path / "run", grid, by_rate), margin=2.0))
    assert found is not None
    assert "not among the trials" in found.untuned
    assert found.verdicts.empty
    assert tuning(Study.open(fill(tmp_path / "plain", FIVE_GATES, planted), margin=2.0)) is None


def test_published_tuned_grid_has_the_section_and_curves_of_what_is_compared(
    tuned: Study, tmp_path: Path
) -> None:
    kept = publish(tuned.store.root, tmp_path / "kept")
    page = (kept / "report.html").read_text()
    assert '<h2 id="tuning">Tuning</h2>' in page
    assert "the highest that was tried" in page
    curves = gather_curves(kept)
    assert curves.groupby("variant", sort=False).seed.unique().map(list).to_dict() == {
        f"gate={gate}": [0, 1, 2, 3, 4] for gate in GATES
    }


def trained_again(cell: Cell, seed: int) -> dict[str, float]:
    """As planted, but for dense, which lost 10 points at every seed, and conv, of other seeds."""
    gate = cell.axes["gate"]
    lost = 0.1 + 0.002 * seed if gate == "dense" else 0.0
    noise = (seed % 7 - 3) / 100 * (gate in ("mean", "conv"))
    return {"test_top1": planted(cell, seed % 5)["test_top1"] - lost + noise}


def test_grids_compared_tell_change_from_noise_and_what_is_in_one_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = {"axes": {"gate": GATES[:3] + GATES[4:], "train.epochs": [2]}, "seeds": [0, 2, 4, 9]}
    other = fill(tmp_path / "again", again, trained_again)
    table = ablations.compare([folder, other]).set_index("cell")
    verdicts = table["verdict"].to_dict()
    assert verdicts == {
        "lrpe": "the same to the last bit",
        "dense": "worse",
        "conv": verdicts["conv"],
        "mean": verdicts["mean"],
        "gqpe": f"finished in {folder} alone",
    }
    assert verdicts["mean"].startswith("cannot tell: needs about")
    assert table.loc["dense", ["n", "unpaired", "paired"]].tolist() == [3, 3, True]
    old, new = (load(each).query("gate == 'dense'").set_index("seed") for each in (folder, other))
    expected = 100 * (new["test_top1"] - old["test_top1"]).dropna()
    found = ttest_1samp(expected, 0)
    assert table.loc["dense", "difference"] == pytest.approx(expected.mean())
    assert table.loc["dense", "p"] == pytest.approx(found.pvalue)
    assert table.loc["dense", ["low", "high"]].tolist() == pytest.approx(
        list(found.confidence_interval())
    )
    corrected = multipletests(table["p"].dropna(), method="holm")[1]
    assert table["p_holm"].dropna().to_numpy() == pytest.approx(corrected)
    assert table["same_content"].dropna().all()
    capsys.readouterr()
    assert main(["compare", str(folder), str(other), "--out", str(tmp_path / "c.csv")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{folder} -> {other}: 4 cells in both, 4 with the same id\n")
    assert "top-1 (%): " in said
    assert "1 cell changed beyond noise" in said
    assert pd.read_csv(tmp_path / "c.csv")["verdict"].tolist() == list(verdicts.values())
    assert main(["compare", str(folder)]) == 2
    assert "give two or more" in capsys.readouterr().err


def test_grids_of_other_seeds_and_recipes_are_compared_by_welchs_test(
    folder: Path, tmp_path: Path
) -> None:
    recipe = {"base": BASE | {"train": {"epochs": 3}}, "seeds": [20, 21, 23, 24]}
    other = fill(tmp_path / "other", FIVE_GATES | recipe, trained_again)
    table = ablations.compare([folder, other]).set_index("cell")
    of_both = [
        100 * load(each).query("gate == 'conv'")["test_top1"].to_numpy() for each in (other, folder)
    ]
    found = ttest_ind(*of_both, equal_var=False)
    row = table.loc["conv"]
    assert (row["n"], row["unpaired"], row["paired"]) == (4, 9, False)
    assert row["p"] == pytest.approx(found.pvalue)
    assert [row["low"], row["high"]] == pytest.approx(list(found.confidence_interval()))
    assert not table["same_content"].any()
    assert set(table["recipe"]) == {"train.epochs was 2, is 3"}
    said = str(Comparison.of([folder, other]))
    assert "recipe: train.epochs was 2, is 3 (all cells)" in said
    assert "4 unpaired" in said
