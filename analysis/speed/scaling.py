"""How time grows: gates beside their multiply-adds, and the training step with each of its sizes.

All is measured on the CPU at hand, in turns and in float32, the ceilings of arithmetic and memory
bandwidth too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from analysis.cost.costs import cost
from analysis.figures.pictures import png
from analysis.speed.contenders import population, population_step
from analysis.speed.count_step import Counts, count_step
from analysis.speed.draw_scaling import draw_scaling
from analysis.speed.speed import (
    Limits,
    Step,
    in_turns,
    machine,
    measure_speed,
    threads,
    write_table,
)
from posmlp.checkpoint import write_atomically
from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of
from posmlp.gates.registry import GATES
from posmlp.presets import resolve
from posmlp.train.population import seeded_model

LARGE = 2**26
"""Floats of each array that is copied: 256 MB, well over the caches."""

PRODUCT = (4096, 512, 512)
"""Rows, channels in and channels out of the product that sets the ceiling of arithmetic."""

LAYOUTS = ("T+S", "T>S", "ST", "S", "T")

AXES: Mapping[str, Mapping[int, dict[str, Any]]] = {
    "tokens a frame": {k * k: {"image_size": 32 * k} for k in (1, 2, 4)},
    "frames": {k: {"num_frames": 4 * k} for k in (1, 2, 4, 8)},
    "channels": {k: {"dims": tuple(k * dim for dim in (32, 64, 128, 256))} for k in (1, 2, 4)},
    "groups": {k: {"num_groups": k} for k in (1, 2, 4, 8)},
    "seeds": {k: {"num_seeds": k} for k in (1, 2, 4, 8)},
}
"""What is made larger, one at a time: changes of the configuration by their relative size."""


def time_gates(
    config: PosMLPConfig | str = "toy",
    layouts: Sequence[str] = LAYOUTS,
    *,
    batch_size: int = 8,
    num_threads: int | None = 1,
    num_runs: int = 7,
) -> pd.DataFrame:
    """Training step of every gate in every layout beside its share of multiply-adds.

    Columns: layout, gate, gmacs (a clip), median_ms, time_share and mac_share (over all gates of
    the layout), ratio (time_share / mac_share: far above 1 is slow for what it computes).
    """
    config = resolve(config)
    tables = []
    for layout in layouts:
        models = {
            gate: seeded_model(replace(config, gate=gate, layout=layout), 0) for gate in GATES
        }
        speeds = measure_speed(
            models,
            batch_sizes=[batch_size],
            phases=["training"],
            num_threads=num_threads,
            warm_up=2,
            min_runs=num_runs,
            min_seconds=0.0,
        )
        gmacs = [cost(model, memory=False)["gmacs"] for model in models.values()]
        written = replace(config, layout=layout).layout
        table = speeds.assign(layout=written, gate=list(models), gmacs=gmacs)
        table["time_share"] = table["median_ms"] / table["median_ms"].sum()
        table["mac_share"] = table["gmacs"] / table["gmacs"].sum()
        tables.append(table.assign(ratio=table["time_share"] / table["mac_share"]))
    shown = ["layout", "gate", "gmacs", "median_ms", "time_share", "mac_share", "ratio"]
    return pd.concat(tables, ignore_index=True)[[*shown, "num_threads", "torch"]]


def time_scaling(
    config: PosMLPConfig | str = "toy",
    *,
    batch_size: int = 4,
    num_threads: int | None = 1,
    num_runs: int = 5,
) -> pd.DataFrame:
    """Training step (forward and backward of a batch a seed) against one size at a time.

    Columns: axis, size (relative to the axis' first), gmacs (a clip's forward pass), median_ms; the
    step's place under the roofline, as `against_ceilings` tells, of counts by
    `count_step`; exponent (of the power law fitted to the axis). The ceilings are measured once,
    before the steps, on the same threads.
    """
    config = resolve(config)
    rows = []
    with threads(num_threads):
        about = {name: machine()[name] for name in ("num_threads", "torch")}
        ceilings = measure_ceilings()
        for axis, changes in AXES.items():
            each = [_sized(config, batch_size, **change) for change in changes.values()]
            steps = {str(i): step for i, (step, _, _) in enumerate(each)}
            times = in_turns(steps, Limits(1, num_runs, 0.0)).values()
            medians = [1e3 * float(np.median(seconds)) for seconds in times]
            exponent = np.polyfit(np.log(list(changes)), np.log(medians), 1)[0]
            for size, (_, counts, gmacs), ms in zip(changes, each, medians, strict=True):
                row = {"axis": axis, "size": size, "gmacs": gmacs, "median_ms": ms}
                place = against_ceilings(counts, ms, ceilings)
                rows.append(row | place | about | {"exponent": exponent})
    return pd.DataFrame(rows)


def _sized(
    config: PosMLPConfig, batch_size: int, num_seeds: int = 1, **change: Any
) -> tuple[Step, Counts, float]:
    """A step of a changed configuration, what it computes and moves, and a clip's GMACs."""
    config = resolve(config, **change)
    step, alone = (
        population_step(population(config, seeds), batch_size, update=False)
        for seeds in (num_seeds, 1)
    )
    counts = Counts(*(num_seeds * count for count in count_step(alone)))
    return step, counts, cost(config, memory=False)["gmacs"]


class Ceilings(NamedTuple):
    """GFLOP/s of a large product and GB/s (1e9 bytes) of the faster pass over memory."""

    gflops_per_s: float
    gb_per_s: float


def measure_ceilings() -> Ceilings:
    """Both ceilings, by medians, measured now.

    Arithmetic: a product of PRODUCT. Memory: a copy (one array read, one written) and a triad (two
    read, one written) of LARGE floats.
    """
    rows, c_in, c_out = PRODUCT
    x, weight = torch.randn(rows, c_in), torch.randn(c_out, c_in)
    a, b, c = (torch.ones(LARGE) for _ in range(3))
    steps = {
        "product": lambda: F.linear(x, weight),
        "copy": lambda: c.copy_(a),
        "triad": lambda: torch.add(a, b, alpha=3, out=c),
    }
    times = in_turns(steps, Limits(warm_up=2, min_runs=9, min_seconds=0.0))
    seconds = {name: float(np.median(each)) for name, each in times.items()}
    gb_per_s = 4e-9 * LARGE * max(2 / seconds["copy"], 3 / seconds["triad"])
    return Ceilings(2e-9 * rows * c_in * c_out / seconds["product"], gb_per_s)


def against_ceilings(counts: Counts, median_ms: float, ceilings: Ceilings) -> dict[str, Any]:
    """Columns that place a step of known counts under the roofline.

    gflops, gb : of the step, in units of 1e9; gflops_per_s, gb_per_s : over its median time;
    peak_gflops_per_s, peak_gb_per_s : the ceilings; flops_per_byte : arithmetic intensity; bound :
    `compute` or `memory`, whichever ceiling is the lower at that intensity; roofline_share :
    gflops_per_s over that lower one, min(peak, intensity x bandwidth). A share above 1 under the
    `memory` bound says that caches served what was counted as moved.
    """
    gflops, gb = counts.flops / 1e9, counts.num_bytes / 1e9
    roof = gflops / gb * ceilings.gb_per_s
    rate = 1e3 * gflops / median_ms
    return {
        "gflops": gflops,
        "gb": gb,
        "gflops_per_s": rate,
        "gb_per_s": 1e3 * gb / median_ms,
        "peak_gflops_per_s": ceilings.gflops_per_s,
        "peak_gb_per_s": ceilings.gb_per_s,
        "flops_per_byte": gflops / gb,
        "bound": "memory" if roof < ceilings.gflops_per_s else "compute",
        "roofline_share": rate / min(roof, ceilings.gflops_per_s),
    }


WHATS: dict[str, Callable[..., pd.DataFrame]] = {"gates": time_gates, "law": time_scaling}


def write_scaling(what: str, out: str | Path, num_threads: int | None = 1) -> pd.DataFrame:
    """Measure one of WHATS; write OUT/{what}.csv and, of the law, its figure."""
    one_of(what, WHATS, "what")
    table = WHATS[what](num_threads=num_threads)
    write_table(table, Path(out) / f"{what}.csv")
    if what == "law":
        write_atomically(Path(out) / "law.png", png(draw_scaling(table)[0].figure))
    return table
