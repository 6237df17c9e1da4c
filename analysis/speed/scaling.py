"""How time grows: gates beside their multiply-adds, joint windows, and the training step's laws.

Every figure is measured on the machine at hand, in turns (`analysis.speed`); the tables name the
threads and the version of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from analysis.cost.costs import clip_shape_of, cost
from analysis.cost.memory import activation_memory
from analysis.speed.count_step import count_bytes, count_flops
from analysis.speed.draw_scaling import draw_joint, draw_scaling
from analysis.speed.roofline import against_ceilings, measure_ceilings
from analysis.speed.speed import measure_speed
from posmlp.checkpoint import write_atomically
from posmlp.config import PosMLPConfig
from posmlp.gating import GATES, PositionalGatingUnit
from posmlp.presets import resolve
from posmlp.train.population import Population, seeded_model

LAYOUTS = ("T+S", "T>S", "ST", "S", "T")
LARGEST_MATRIX = 2**28
"""Elements of a relation above which the plain matrix is not made."""


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
        gmacs = [cost(model)["gmacs"] for model in models.values()]
        tables.append(speeds.assign(layout=layout, gate=list(models), gmacs=gmacs))
    table = pd.concat(tables, ignore_index=True)
    by_layout = table.groupby("layout")
    table["time_share"] = table["median_ms"] / by_layout["median_ms"].transform("sum")
    table["mac_share"] = table["gmacs"] / by_layout["gmacs"].transform("sum")
    table["ratio"] = table["time_share"] / table["mac_share"]
    shown = ["layout", "gate", "gmacs", "median_ms", "time_share", "mac_share", "ratio"]
    return table[[*shown, "num_threads", "torch"]]


def time_joint(
    frames: Sequence[int] = (4, 8, 16, 32, 64),
    sides: Sequence[int] = (4, 7),
    *,
    dim: int = 32,
    num_groups: int = 8,
    num_threads: int | None = 1,
    num_runs: int = 15,
) -> pd.DataFrame:
    """A unit over frames x side x side tokens: the whole matrix, and one block of rows at a time.

    Columns: path (`plain` or `structured`), frames, side, num_tokens, gmacs, median_ms of a forward
    pass, peak_mb (activations alive at once, from shapes). A plain matrix of more than
    LARGEST_MATRIX elements is left out.
    """
    rows = []
    for side in sides:
        for num_frames in frames:
            window = (num_frames, side, side)
            num_tokens = num_frames * side**2
            units = {
                name: PositionalGatingUnit(dim, window, num_groups, in_blocks=in_blocks)
                for name, in_blocks in (("plain", False), ("structured", True))
                if in_blocks or num_groups * num_tokens**2 <= LARGEST_MATRIX
            }
            shape = (num_tokens, 2 * dim)
            speeds = measure_speed(
                units,
                clip_shape=shape,
                num_threads=num_threads,
                warm_up=1,
                min_runs=num_runs,
                min_seconds=0.0,
            )
            for (name, unit), row in zip(units.items(), speeds.itertuples(), strict=True):
                peak = activation_memory(unit, shape)["peak_bytes"]
                rows.append(
                    {
                        "path": name,
                        "frames": num_frames,
                        "side": side,
                        "num_tokens": num_tokens,
                        "gmacs": num_tokens**2 * dim / 1e9,
                        "median_ms": row.median_ms,
                        "peak_mb": peak / 1e6,
                        "num_threads": row.num_threads,
                        "torch": row.torch,
                    }
                )
    return pd.DataFrame(rows)


AXES: Mapping[str, Sequence[dict[str, Any]]] = {
    "tokens a frame": [{"image_size": side} for side in (32, 64, 128)],
    "frames": [{"num_frames": frames} for frames in (4, 8, 16, 32)],
    "channels": [{"dims": tuple(k * dim for dim in (32, 64, 128, 256))} for k in (1, 2, 4)],
    "groups": [{"num_groups": groups} for groups in (1, 2, 4, 8)],
    "seeds": [{"num_seeds": seeds} for seeds in (1, 2, 4, 8)],
}


def time_scaling(
    config: PosMLPConfig | str = "toy",
    *,
    batch_size: int = 4,
    num_threads: int | None = 1,
    num_runs: int = 5,
) -> pd.DataFrame:
    """Training step (forward and backward of a batch) against one size at a time.

    Seeds are those of a `Population`, with a batch each. Columns: axis, size (relative to the
    axis' first), gmacs (a clip's forward pass), median_ms; the step's place under the roofline, as
    `against_ceilings` in `roofline.py` tells; exponent (of the power law fitted to the axis).
    FLOPs are those of products, forward and both gradients; bytes every operator's inputs and
    outputs once each (`count_step.py`). The ceilings are measured once, before the steps, on
    the same threads.
    """
    config = resolve(config)
    ceilings = measure_ceilings(num_threads=num_threads)
    rows = []
    for axis, overrides in AXES.items():
        for values in overrides:
            changed = {name: value for name, value in values.items() if name != "num_seeds"}
            model = seeded_model(resolve(config, **changed), 0)
            num_seeds = values.get("num_seeds", 1)
            speed = measure_speed(
                PopulationStep(config, num_seeds) if axis == "seeds" else model,
                clip_shape=clip_shape_of(model),
                batch_sizes=[batch_size],
                phases=["training"],
                num_threads=num_threads,
                warm_up=1,
                min_runs=num_runs,
                min_seconds=0.0,
            ).iloc[0]
            shape = clip_shape_of(model)
            flops = num_seeds * count_flops(model, shape, batch_size)
            num_bytes = num_seeds * count_bytes(model, torch.zeros(batch_size, *shape)).all_bytes
            size = np.prod(next(iter(values.values())), dtype=float) ** (
                2 if "image_size" in values else 0.25 if "dims" in values else 1
            )
            rows.append(
                {
                    "axis": axis,
                    "size": size,
                    "gmacs": cost(model)["gmacs"],
                    "median_ms": speed["median_ms"],
                    **against_ceilings(flops, num_bytes, speed["median_ms"], ceilings),
                    "num_threads": speed["num_threads"],
                    "torch": speed["torch"],
                }
            )
    table = pd.DataFrame(rows)
    table["size"] /= table.groupby("axis")["size"].transform("first")
    for axis, part in table.groupby("axis"):
        slope = np.polyfit(np.log(part["size"]), np.log(part["median_ms"]), 1)[0]
        table.loc[table["axis"] == axis, "exponent"] = slope
    return table


class PopulationStep(nn.Module):
    """Clips (B, C, T, H, W), the same for each seed: all gradients of a population, as a module.

    The output is a number that has a gradient, so that it is timed like a model's training step.
    """

    def __init__(self, config: PosMLPConfig, num_seeds: int) -> None:
        super().__init__()
        self._config, self._seeds = config, range(num_seeds)
        self._population: Population | None = None
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clips: Tensor) -> Tensor:
        if self._population is None:  # now, as its threads are as many as PyTorch has
            self._population = Population(self._config, self._seeds, clips.device)
        shape = len(self._seeds), len(clips)
        labels = torch.zeros(shape, dtype=torch.int64, device=clips.device)
        steps = self._population.model.num_residual_steps
        scales = torch.ones(shape[0], steps, shape[1], device=clips.device)
        each = clips.expand(shape[0], *clips.shape)
        _, losses, _ = self._population.gradients(each, labels, scales)
        return self.scale * losses.sum()


WHATS: dict[str, tuple[Callable[..., pd.DataFrame], Callable[..., Any] | None]] = {
    "gates": (time_gates, None),
    "joint": (time_joint, draw_joint),
    "law": (time_scaling, draw_scaling),
}


def write_scaling(what: str, out: str | Path, num_threads: int | None = 1) -> pd.DataFrame:
    """Measure one of WHATS; write OUT/{what}.csv and, where there is one, its figure."""
    if what not in WHATS:
        raise ValueError(f"unknown {what!r}; one of {', '.join(WHATS)}")
    measure, draw = WHATS[what]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    table = measure(num_threads=num_threads)
    text = table.to_csv(index=False, float_format="%.5g")
    write_atomically(folder / f"{what}.csv", text.encode())
    if draw is not None:
        axes = draw(table)
        picture = BytesIO()
        axes[0].figure.savefig(picture, dpi=150)
        write_atomically(folder / f"{what}.png", picture.getvalue())
        plt.close(axes[0].figure)
    return table
