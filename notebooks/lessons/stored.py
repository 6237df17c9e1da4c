"""What came with the repository: results of earlier runs with their commands, and a toy model."""

from __future__ import annotations

import copy
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import ablations
from analysis import Intervention, compare
from analysis.interventions.interventions import changed_tables
from analysis.results.draw_comparison import KINDS, verdict_kind
from posmlp import PosMLPVideo, load
from posmlp.train.population import seeded_model

RESULTS = Path(ablations.__file__).parent / "results"
MODEL = "toy-ts"
WORDS = {"equal": "equal within 2 points", "cannot tell": "no clear difference"}


def rows(grid: str) -> pd.DataFrame:
    """A row a variant and seed, of those that finished: what `ablations.load` gives.

    `name` is the variant; the grid's axes, metrics, times, device, versions and commit have columns
    of their own. Raises FileNotFoundError, naming the command that measures them, where a grid's
    results are not stored.
    """
    found = ablations.load(_found(grid, "cells.json").parent)
    return found[found["status"] == "done"].reset_index(drop=True)


def command(grid: str) -> str:
    """The command by which the stored results of a grid were made."""
    return json.loads(_found(grid, "cells.json").read_text())["plan"]["command"]


def against_baseline(
    runs: pd.DataFrame,
    by: str,
    metric: str = "test_top1",
    *,
    shown: Sequence[str] | None = None,
    say: bool = True,
) -> pd.DataFrame:
    """What `analysis.compare` finds of a grid's variants, in points; a printed line for each.

    `runs`: of `rows`; `by`: the column that tells variants apart; `shown`: those to keep, after all
    were compared. Differences within 2 points count as equal, as the grids say. `say`: print.
    """
    points = runs.assign(**{metric: 100 * runs[metric]})
    table = compare(points, metric=metric, by=by, margin=2, unit=" points", whole=100)
    table = table if shown is None else table[table[by].isin(shown)]
    baseline = runs.loc[runs["baseline"], by].iloc[0]
    width = max(len(str(name)) for name in table[by])
    for row in table.to_dict("records") if say else ():
        interval = f"95% interval {row['low']:+.1f} to {row['high']:+.1f}"
        print(f"{row[by]:{width}} minus {baseline}: {row['difference']:+.1f} points", end=", ")
        print(f"{interval}: {row['verdict']}")
    return table


def in_words(table: pd.DataFrame) -> str:
    """A comparison's variants by verdict: `Worse: mean, none; no clear difference: dense`."""
    kinds = table["verdict"].map(verdict_kind)
    names = table.iloc[:, 0].astype(str)
    parts = {kind: ", ".join(names[kinds == kind]) for kind in KINDS}
    said = "; ".join(f"{WORDS.get(kind, kind)}: {who}" for kind, who in parts.items() if who)
    return said[:1].upper() + said[1:]


def in_lines(text: object) -> str:
    """A text with long lines broken between words; a notebook would break them anywhere."""
    options = {"width": 104, "subsequent_indent": "  ", "drop_whitespace": True}
    lines = str(text).splitlines()
    return "\n".join(x if len(x) <= 104 else textwrap.fill(x, **options) for x in lines)


def model(*, initial: bool = False) -> PosMLPVideo:
    """The trained toy model that ships with the package, or as it was before its first step."""
    trained = load(MODEL)
    return seeded_model(trained.config, seed=0).eval() if initial else trained


def changed(model: PosMLPVideo, *changes: Intervention) -> PosMLPVideo:
    """A copy of a model whose tables these interventions have changed, each as they were in it."""
    other = copy.deepcopy(model)
    for change in changes:
        other.load_state_dict(changed_tables(change, model), strict=False)
    return other


def _found(grid: str, name: str) -> Path:
    path = RESULTS / grid / name
    if not path.exists():
        raise FileNotFoundError(
            f"no {name} of grid {grid!r} in ablations/results; measure it by `ablations run "
            f"ablations/grids/{grid}.yaml --out runs/{grid}`, then `ablations publish runs/{grid} "
            f"ablations/results/{grid}`"
        )
    return path
