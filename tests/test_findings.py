"""FINDINGS and README: every figure with an interval stands in a stored table, rounded as shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis import compare

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "ablations/results"
FINDINGS = (ROOT / "ablations/FINDINGS.md").read_text()
README = (ROOT / "README.md").read_text()
FIRST_SCREENS = README.split("\n## Learn\n")[0]
NUMBER = r"[+-]?\d*\.\d+"
QUOTED = re.compile(rf"({NUMBER})%?(?: points| frames| tokens)? \[({NUMBER}), ({NUMBER})\]")

Triple = tuple[float, float, float]


def stored() -> Iterator[Triple]:
    """(mean, low, high) of every metric and difference that a results folder holds."""
    for path in RESULTS.glob("*/table.csv"):
        table = pd.read_csv(path)
        for column in table.columns:
            if f"{column}_low" in table:
                ends = table[[column, f"{column}_low", f"{column}_high"]].dropna()
                yield from ends.itertuples(index=False, name=None)
    for path in (RESULTS / "learned").glob("*.csv"):
        table = pd.read_csv(path)
        yield from table[["mean", "low", "high"]].dropna().itertuples(index=False, name=None)
    yield from within_difficulties()


def within_difficulties() -> Iterator[Triple]:
    """Layouts against T+S on clips of the same difficulty, in points."""
    rows = pd.read_csv(RESULTS / "layouts_difficulty/rows.csv")
    for _, own in rows[rows["repeat"] == 0].groupby("data"):
        found = compare(own, "T+S", "test_top1", by="layout")[["difference", "low", "high"]]
        yield from (100 * found.dropna()).itertuples(index=False, name=None)


def shown(stored: Triple, quoted: tuple[str, str, str]) -> bool:
    """Whether the text shows these numbers: as they are, in percent, or as a loss."""
    digits = [len(text.partition(".")[2]) for text in quoted]
    for scale in (1, 100, -1, -100, 0.01):
        mean, low, high = (scale * value for value in stored)
        ends = (mean, *sorted((low, high)))
        exact = zip(ends, quoted, digits, strict=True)
        if all(abs(value - float(text)) <= 0.5001 * 10**-places for value, text, places in exact):
            return True
    return False


TRIPLES = list(stored())
QUOTES = sorted({(name, found) for name, text in (("FINDINGS", FINDINGS), ("README", FIRST_SCREENS))
                 for found in QUOTED.findall(" ".join(text.split()))})  # fmt: skip


@pytest.mark.parametrize(("where", "quoted"), QUOTES, ids=str)
def test_figure_stands_in_a_stored_table(where: str, quoted: tuple[str, str, str]) -> None:
    assert any(shown(triple, quoted) for triple in TRIPLES), f"{where}: {quoted}"


def test_many_figures_are_quoted() -> None:
    assert len(QUOTES) > 80
    assert not any(shown(triple, ("69.1", "60.7", "77.3")) for triple in TRIPLES)


@pytest.mark.parametrize("folder", sorted(p.name for p in RESULTS.iterdir() if p.is_dir()))
def test_results_folder_is_named_in_a_text(folder: str) -> None:
    texts = FINDINGS + README + "".join(p.read_text() for p in RESULTS.glob("*.md"))
    assert re.search(rf"results/{folder}\b|grid `{folder}`|`{folder}/?`", texts)
