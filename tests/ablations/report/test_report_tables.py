"""The report's tables: the same numbers in every format."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_folders import FIVE_GATES, GATES, fill, planted
from statsmodels.stats.multitest import multipletests

from ablations import load
from ablations.report.page import write_report
from ablations.report.tables import latex, two_lines


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
