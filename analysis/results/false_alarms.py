"""How often a design of `sequential.py` errs, by simulation, beside a fixed one and beside peeking.

The unit of every difference is the standard deviation of one training over seeds. A grid is a
baseline and variants that are all held against it, so one bad run of the baseline moves all of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.results.paired import SIGNIFICANCE
from analysis.results.sequential import VERDICTS, Array, Design, judged, looks
from posmlp.checkpoint import write_atomically

FIRST, LAST, VARIANTS, MARGIN = 3, 20, 7, 1.5
SEQUENTIAL, FIXED = "looks fixed beforehand", "one look at the end"
PEEKING, PEEKING_HOLM = "peeking, each test at 5%", "peeking, Holm at each look"
Noise = Callable[[np.random.Generator, tuple[int, int, int]], Array]


def _bad_seeds(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape) - 5.0 * (rng.random(shape) < 0.2)


def _bad_variants(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    runs = _bad_seeds(rng, shape)
    runs[:, 0] = rng.standard_normal((shape[0], shape[2])) - 1  # the same mean, and no bad seed
    return runs


NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape) / np.sqrt(3),
    "bad seeds": _bad_seeds,
    "bad seeds in variants alone": _bad_variants,
}
"""(grids, 1 + variants, seeds) of the chance in a training, the baseline first. Heavy tails: t of 3
degrees of freedom. Bad seeds: one training in five is 5 below the others."""


def differences_of(
    noise: str, difference: float, grids: int, variants: int, seeds: int, seed: int = 0
) -> Array:
    """Seed-paired differences of simulated grids, (grids, variants, seeds), of that true mean."""
    rng = np.random.default_rng(seed)
    runs = NOISES[noise](rng, (grids, 1 + variants, seeds))
    return runs[:, 1:] - runs[:, :1] + difference


def false_verdicts(verdicts: NDArray[np.int64], difference: float, margin: float) -> NDArray[Any]:
    """Which verdicts (places in `VERDICTS`) are false where the true difference is this one."""
    better, worse, equal = (verdicts == VERDICTS.index(v) for v in ("better", "worse", "equal"))
    false = (better & (difference <= 0)) | (worse & (difference >= 0))
    return np.asarray(false | (equal & (abs(difference) >= margin)))


def simulate(
    design: Design, noise: str, difference: float, grids: int, seed: int = 0
) -> dict[str, float]:
    """What a design does with grids whose variants all differ by `difference` from the baseline.

    any_false: share of grids with any false verdict; better, worse, equal, undecided: shares of
    comparisons; mean_seeds: of a comparison until its verdict.
    """
    margin = np.inf if design.equal_within is None else design.equal_within
    variants, seeds = design.num_comparisons, design.looks[-1]
    paths = differences_of(noise, difference, grids, variants, seeds, seed)
    found = judged(paths.reshape(-1, seeds), design)
    verdicts = found.verdict.reshape(grids, variants)
    return {
        "any_false": float(false_verdicts(verdicts, difference, margin).any(axis=1).mean()),
        **{name: float((verdicts == place).mean()) for place, name in enumerate(VERDICTS)},
        "mean_seeds": float(found.look.mean()),
    }


def p_values(paths: Array, counts: tuple[int, ...]) -> Array:
    """Two-sided p of a t-test at each number of seeds, (looks, ...), of paths (..., seeds)."""
    found = []
    for count in counts:
        seen = paths[..., :count]
        t = seen.mean(axis=-1) / seen.std(axis=-1, ddof=1) * np.sqrt(count)
        found.append(2 * stats.t.sf(abs(t), count - 1))
    return np.array(found)


def peeking(studies: int = 4_000) -> pd.DataFrame:
    """Studies of two equal variants in which a difference was claimed by each number of seeds.

    A row a number of seeds from 3 on: seeds; every_seed, the share when a t-test at 5% is made
    after every seed until it finds something; designed, the share at the looks of a `Design`.
    """
    paths = differences_of("normal", 0, studies, 1, LAST)[:, 0]
    seeds = np.arange(FIRST, LAST + 1)
    claimed = (p_values(paths, tuple(seeds)) < SIGNIFICANCE).cumsum(axis=0) > 0
    found = judged(paths, Design(looks(FIRST, LAST), 1, None))
    stopped = np.where(found.verdict > 0, found.look, np.inf)
    return pd.DataFrame(
        {
            "seeds": seeds,
            "every_seed": claimed.mean(axis=1),
            "designed": [(stopped <= count).mean() for count in seeds],
        }
    )


def _rows(grids: int) -> Iterator[dict[str, Any]]:
    """Every row of the table: no difference, one of exactly the margin, and others for power."""
    at = looks(FIRST, LAST)
    cases = [(noise, 0.0, MARGIN) for noise in NOISES]
    cases += [(noise, margin, margin) for margin in (1.0, 2.0) for noise in NOISES]
    cases += [("normal", difference, MARGIN) for difference in (0.5, 1.0, 2.0, 3.0, 5.0, 20.0)]
    for noise, difference, margin in cases:
        case = {"noise": noise, "difference": difference, "margin": margin}
        for name, counts in ((SEQUENTIAL, at), (FIXED, (LAST,))):
            found = simulate(Design(counts, VARIANTS, margin), noise, difference, grids)
            yield {**case, "design": name, **found}
        if not difference:
            p = p_values(differences_of(noise, 0, grids, VARIANTS, LAST), at).min(axis=(0, 2))
            for name, level in ((PEEKING, SIGNIFICANCE), (PEEKING_HOLM, SIGNIFICANCE / VARIANTS)):
                yield {**case, "design": name, "any_false": float((p < level).mean())}


def write_false_alarms(out: str | Path, grids: int = 4_000) -> str:
    """Write sequential.csv, a row a case and design; returns what it says, in Markdown."""
    table = pd.DataFrame(_rows(grids))
    write_atomically(Path(out) / "sequential.csv", table.to_csv(index=False).encode())
    return _page(table, grids)


def _page(table: pd.DataFrame, grids: int) -> str:
    error = 100 * np.sqrt(SIGNIFICANCE * (1 - SIGNIFICANCE) / grids)
    null = table[table["difference"] == 0].pivot_table("any_false", "noise", "design", sort=False)
    edge = table[(table["difference"] == table["margin"])]
    edge = edge.assign(design=edge["design"] + ", margin " + edge["margin"].map("{:g}".format))
    at_margin = edge.pivot_table("any_false", "noise", "design", sort=False)
    power = table[
        (table["noise"] == "normal") & (table["margin"] == MARGIN) & table["mean_seeds"].notna()
    ]
    shown = power[["difference", "design"]].assign(
        **{name: power[name].map("{:.1%}".format) for name in ("better", "equal", "undecided")},
        mean_seeds=power["mean_seeds"].map("{:.1f}".format),
    )
    at = ", ".join(map(str, looks(FIRST, LAST)))
    return f"""# Seeds until the verdict: how often it errs

{grids:,} simulated grids a row, of {VARIANTS} variants and the baseline that they share; nothing is
trained. Looks at {at} seeds; 5% over all comparisons and looks. Differences are in
standard deviations of one training over seeds. The sampling error of a share of 5% is
{error:.1f} points.

## No true difference: grids with any variant called better or worse

{_markdown(null.map(lambda share: f"{share:.1%}").reset_index())}

Heavy tails: Student's t of 3 degrees of freedom. Bad seeds: one training in five is 5 standard
deviations below the others. The last row is the limit of any t-test: where only the variants have
bad seeds, means are equal but medians are not, and a claim about means errs more often than asked.
A fixed design errs there too. Make the recipe steady first.

## A true difference of exactly the margin: grids with any variant called equal

{_markdown(at_margin.map(lambda share: f"{share:.1%}").reset_index())}

## What it costs and saves: normal noise, margin {MARGIN:g}

{_markdown(shown)}

`better`, `equal`, `undecided`: shares of comparisons. `mean_seeds`: until the verdict.
"""


def _markdown(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] + ["---:"] * (table.shape[1] - 1)]
    lines += table.astype(str).to_numpy().tolist()
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
