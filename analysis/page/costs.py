"""The section of a run's page on what its model costs: counts, memory, speed."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from torch import nn

from analysis.cost.costs import cost
from analysis.figures.style import plain
from analysis.page.sections import Section, Table
from analysis.speed.speed import measure_speed
from posmlp.predict import open_run

BATCHES = (1, 16)


def costs(run: Path, variant: str | None = None) -> Section:
    """Parameters and multiply-adds by stage, and by module for who asks; memory and speed."""
    model = open_run(run, variant=variant).model
    counted = cost(model)
    modules = counted["by_module"]
    parts = modules.assign(part=modules["module"].str.extract(r"^(stages\.\d+|[^.]+)")[0])
    by_part = parts.groupby("part", sort=False)[["params", "macs"]].sum()
    by_part.index = [  # `stages.0` is stage 1, as the rest of the page counts
        f"stage {int(part[7:]) + 1}" if part.startswith("stages.") else part
        for part in map(str, by_part.index)
    ]
    whole = pd.DataFrame({"params": counted["params"], "macs": counted["macs"]}, index=["all"])
    head = ["part", "parameters", "multiply-adds of a clip (M)", "share of them"]
    cells = [
        [str(part), f"{row['params']:,.0f}", f"{row['macs'] / 1e6:,.3f}",
         f"{row['macs'] / counted['macs']:.1%}"]
        for part, row in pd.concat([by_part, whole]).iterrows()
    ]  # fmt: skip
    fine = [
        [row["module"], row["type"], f"{row['params']:,}", f"{row['macs'] / 1e6:,.3f}"]
        for row in modules.to_dict("records")
    ]
    words = (
        f"{counted['params']:,} parameters, {counted.get('relation_params', 0):,} of them in the "
        f"relations; {plain(counted['gmacs'], 4)} GMACs for one clip, counted by shapes. Of a "
        f"clip's activations, training keeps {plain(counted['saved_bytes'] / 1e6)} MB for the "
        f"backward pass, and inference holds at most {plain(counted['peak_bytes'] / 1e6)} MB at "
        "once, by shapes."
    )
    speed, doubt = _speed(model)
    tables = [
        Table("", head, cells),
        speed,
        Table("by module", ["module", "type", "parameters", "M multiply-adds"], fine, folded=True),
    ]
    return Section(words, tables, distrust=[f"the timing ({doubt})"] if doubt else [])


def _speed(model: nn.Module) -> tuple[Table, str]:
    """Forward passes of one clip and of many, timed briefly; and why they are unreliable, or ""."""
    timed = measure_speed(
        model, batch_sizes=BATCHES, warm_up=2, min_runs=10, min_seconds=0.3, max_seconds=5.0
    )
    first = timed.iloc[0]
    doubt = unreliable(timed)
    caption = (
        f"forward pass, {first['mode']}, {first['device']}, threads: {first['num_threads']}, "
        f"load {first['load']:.1f} at the start" + (f"; unreliable: {doubt}" if doubt else "")
    )
    cells = [
        [str(row["batch_size"]), plain(row["median_ms"]),
         f"{plain(row['q1_ms'])} to {plain(row['q3_ms'])}", plain(row["clips_per_s"]),
         "unreliable" if doubt else "unstable" if row["unstable"] else "steady"]
        for row in timed.to_dict("records")
    ]  # fmt: skip
    head = ["batch", "median (ms)", "quartiles (ms)", "clips a second", "timing"]
    return Table(caption, head, cells), doubt


def unreliable(timed: pd.DataFrame, cores: int | None = None) -> str:
    """Why a brief timing is not to be read, or "": a busy machine, or a batch faster than a clip.

    `timed`: rows of `measure_speed`, smallest batch first. `cores`: the machine's by default.
    """
    load, cores = float(timed["load"].max()), cores or os.cpu_count() or 1
    if load >= cores:
        return f"load {load:.1f} on {cores} core{'s' * (cores > 1)}, so others were computing too"
    if not timed["median_ms"].is_monotonic_increasing:
        return "a larger batch came out faster than a smaller one"
    return ""
