"""The section of a run's page on what its model costs: counts, memory, speed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from torch import nn

from analysis.cost.costs import cost
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
    whole = pd.DataFrame({"params": counted["params"], "macs": counted["macs"]}, index=["all"])
    head = ["part", "parameters", "multiply-adds of a clip (M)", "share of them"]
    cells = [
        [_stage_name(str(part)), f"{row['params']:,.0f}", f"{row['macs'] / 1e6:,.3f}",
         f"{row['macs'] / counted['macs']:.1%}"]
        for part, row in pd.concat([by_part, whole]).iterrows()
    ]  # fmt: skip
    fine = [
        [row["module"], row["type"], f"{row['params']:,}", f"{row['macs'] / 1e6:,.3f}"]
        for row in modules.to_dict("records")
    ]
    words = (
        f"{counted['params']:,} parameters, {counted['relation_params']:,} of them in the "
        f"relations; {counted['gmacs']:.4g} GMACs for one clip, counted by shapes. Of a clip's "
        f"activations, training keeps {counted['saved_bytes'] / 1e6:.3g} MB for the backward pass, "
        f"and inference holds at most {counted['peak_bytes'] / 1e6:.3g} MB at once, by shapes."
    )
    tables = [
        Table("", head, cells),
        _speed(model),
        Table("by module", ["module", "type", "parameters", "M multiply-adds"], fine, folded=True),
    ]
    return Section(words, tables)


def _speed(model: nn.Module) -> Table:
    """Forward passes of one clip and of many, timed briefly while the page is made."""
    timed = measure_speed(
        model, batch_sizes=BATCHES, warm_up=2, min_runs=10, min_seconds=0.3, max_seconds=5.0
    )
    first = timed.iloc[0]
    caption = (
        f"forward pass, {first['mode']}, {first['device']}, threads: {first['num_threads']}, "
        f"load {first['load']:.1f} at the start"
    )
    cells = [
        [str(row["batch_size"]), f"{row['median_ms']:.3g}",
         f"{row['q1_ms']:.3g} to {row['q3_ms']:.3g}", f"{row['clips_per_s']:,.0f}",
         "unstable" if row["unstable"] else "steady"]
        for row in timed.to_dict("records")
    ]  # fmt: skip
    head = ["batch", "median (ms)", "quartiles (ms)", "clips a second", "spread"]
    return Table(caption, head, cells)


def _stage_name(part: str) -> str:
    """`stages.0` as `stage 1`, which is how the rest of the page counts."""
    return f"stage {int(part[7:]) + 1}" if part.startswith("stages.") else part
