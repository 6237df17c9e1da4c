"""`python -m analysis bench`: the time and memory of what people run, beside three yardsticks.

- `as run`: the model as `posmlp train` and `posmlp eval` compute it;
- `plain`: the model as `create_model` returns it;
- `reference`: the einsum formulation of `tests/reference.py`, with the same weights;
- `against`: posmlp of another commit, as its `train` and `eval` computed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from analysis.cost.memory import peak_bytes
from analysis.speed.contenders import Code, code_of, eval_steps, train_steps
from analysis.speed.speed import Limits, in_turns, machine, quartiles, threads
from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of
from posmlp.presets import resolve
from posmlp.train.environment import commit

SECONDS = 5.0
"""How long each contender is timed at least, so that a short step is timed often."""

YARDSTICKS = ("plain", "reference", "against")
SHOWN = ["work", "contender", "median_ms", "q1_ms", "q3_ms", "peak_mb", "num_runs", "unstable"]
SHOWN += [f"vs_{name}" for name in YARDSTICKS]


class Work(NamedTuple):
    """A step to be measured: whose, of how many clips, and what of it."""

    preset: str
    batch_size: int
    what: str


WORKS = {
    "toy-train": Work("toy", 32, "train"),
    "toy-eval": Work("toy", 32, "eval"),
    "s16-eval": Work("s16", 1, "eval"),
    "s16-train": Work("s16", 1, "train"),
    "memory": Work("s16", 1, "memory"),
}


def bench(
    works: Sequence[str] = tuple(WORKS),
    *,
    against: str | None = None,
    num_threads: int | None = None,
    num_runs: int = 5,
) -> pd.DataFrame:
    """Every contender at each of WORKS, in turns within this process, on a CPU.

    `against`: a commit of this checkout, to be measured too. Each contender runs at least
    `num_runs` times, and for SECONDS.

    Returns
    -------
    DataFrame
        One row a work and contender: median_ms, q1_ms and q3_ms (quartiles), num_runs, unstable
        (IQR over 10% of the median); of the work `memory` peak_mb, the most that tensors made in
        a training step hold at once, as it is and with `--checkpoint-activations`. vs_plain,
        vs_reference, vs_against: of a time the median over rounds of that contender's over this
        one's, above 1 if this is faster; of memory this one's over that contender's, below 1 if
        this holds less. Also batch_size, device, cpu (its vector instructions), num_threads, load
        (of the machine, as the work began), torch, commit, dirty, against.

    Raises
    ------
    ValueError
        For an unknown work or commit, and outside a checkout.
    """
    for name in works:
        one_of(name, WORKS, "work")
    limits = Limits(1, num_runs, SECONDS, max_seconds=float("inf"))
    rows = []
    with threads(num_threads), code_of(against) if against else nullcontext() as other:
        for name in works:
            work = WORKS[name]
            config = resolve(work.preset)
            about = {"work": name, "batch_size": work.batch_size, **machine()}
            measured = _memory if work.what == "memory" else _times
            rows += [about | row for row in measured(work, config, other, limits)]
    table = pd.DataFrame(rows).assign(
        cpu=torch.backends.cpu.get_cpu_capability(), **commit(), against=against
    )
    first = [column for column in SHOWN if column in table]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def _times(
    work: Work, config: PosMLPConfig, other: Code | None, limits: Limits
) -> Iterator[dict[str, Any]]:
    make = train_steps if work.what == "train" else eval_steps
    steps, installed = make(config, work.batch_size, other)
    around = dict.fromkeys(steps, nullcontext) | {"as run": installed}
    seconds = {n: np.array(s) for n, s in in_turns(steps, limits, around=around).items()}
    for name, own in seconds.items():
        ratios = {
            f"vs_{each}": float(np.median(seconds[each] / own))
            for each in YARDSTICKS
            if each in seconds
        }
        yield {"contender": name, **quartiles(own.tolist()), **ratios}


def _memory(
    work: Work, config: PosMLPConfig, other: Code | None, limits: Limits
) -> Iterator[dict[str, Any]]:
    """Of a step after the first, which makes AdamW's moments."""
    peaks = {}
    for checkpointed in (False, True):
        for name, step in train_steps(config, work.batch_size, other, checkpointed)[0].items():
            step()
            peaks[f"{name}, checkpointed" if checkpointed else name] = peak_bytes(step) / 1e6
    for name, own in peaks.items():
        shares = {f"vs_{each}": own / peaks[each] for each in YARDSTICKS if each in peaks}
        yield {"contender": name, "peak_mb": own, **shares}
