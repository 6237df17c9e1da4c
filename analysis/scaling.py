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
from numpy.typing import NDArray
from torch.nn import functional as F

from analysis.cost import cost
from analysis.memory import activation_memory
from analysis.speed import measure_speed
from analysis.style import styled
from posmlp import GATES, PositionalGatingUnit, PosMLPConfig
from posmlp.checkpoint import write_atomically
from posmlp.config import resolve
from posmlp.linear import project
from posmlp.population import seeded_model

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
}


def time_scaling(
    config: PosMLPConfig | str = "toy",
    *,
    batch_size: int = 4,
    num_threads: int | None = 1,
    num_runs: int = 5,
) -> pd.DataFrame:
    """Training step against one size at a time.

    Columns: axis, size (relative to the axis' first), gmacs, median_ms, gflops_per_s (three times
    the forward pass' operations over the time), roofline_share (of `gemm_ceiling`), exponent (of
    the power law fitted to the axis).
    """
    config = resolve(config)
    ceiling = gemm_ceiling(num_threads)
    rows = []
    for axis, overrides in AXES.items():
        for values in overrides:
            model = seeded_model(resolve(config, **values), 0)
            speed = measure_speed(
                model,
                batch_sizes=[batch_size],
                phases=["training"],
                num_threads=num_threads,
                warm_up=1,
                min_runs=num_runs,
                min_seconds=0.0,
            ).iloc[0]
            gmacs = cost(model)["gmacs"]
            rate = 3 * 2 * gmacs * batch_size / (speed["median_ms"] / 1e3)
            size = np.prod(next(iter(values.values())), dtype=float) ** (
                2 if "image_size" in values else 0.25 if "dims" in values else 1
            )
            rows.append(
                {
                    "axis": axis,
                    "size": size,
                    "gmacs": gmacs,
                    "median_ms": speed["median_ms"],
                    "gflops_per_s": rate,
                    "roofline_share": rate / ceiling,
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


def gemm_ceiling(num_threads: int | None = 1) -> float:
    """GFLOP/s of the fastest of the matrix products that a branch may use, measured now."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    x, weight, bias = torch.randn(4096, 512), torch.randn(512, 512), torch.randn(512)
    products = {"project": project, "linear": F.linear}
    runs = {name: _Product(product, weight, bias) for name, product in products.items()}
    try:
        speeds = measure_speed(
            runs, clip_shape=tuple(x.shape), warm_up=2, min_runs=9, min_seconds=0.0
        )
    finally:
        torch.set_num_threads(before)
    return 2 * x.numel() * 512 / 1e6 / speeds["median_ms"].min()


class _Product(torch.nn.Module):
    """A matrix product as a module, to be timed like one."""

    def __init__(self, product: Any, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.product, self.weight, self.bias = product, weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x, self.weight, self.bias)


@styled
def draw_joint(df: pd.DataFrame) -> NDArray[Any]:
    """Time and memory of `time_joint` against frames, a line a path and window; the Axes."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    columns = {"median_ms": "forward pass, ms", "peak_mb": "activations at once, MB"}
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        for i, (side, window) in enumerate(df.groupby("side")):
            for path, style in (("plain", "--o"), ("structured", "-s")):
                line = window[window["path"] == path]
                name = f"{path}, {side} x {side}"
                ax.plot(line["frames"], line[column], style, color=f"C{i}", label=name, ms=4)
        ax.set(xscale="log", yscale="log", xlabel="frames", ylabel=label)
        ax.set_xticks(sorted(df["frames"].unique()), sorted(df["frames"].unique()))
        ax.minorticks_off()
    axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle("A joint unit: the whole matrix, and a block of rows at a time", fontsize=10)
    return axes


@styled
def draw_scaling(df: pd.DataFrame) -> NDArray[Any]:
    """Time and roofline share of `time_scaling` against size, a line an axis; the Axes."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.8), layout="constrained")
    for axis, part in df.groupby("axis", sort=False):
        name = f"{axis}: exponent {part['exponent'].iloc[0]:.2f}"
        axes[0].plot(part["size"], part["median_ms"], "-o", ms=4, label=name)
        axes[1].plot(part["size"], 100 * part["roofline_share"], "-o", ms=4)
    axes[0].set(xscale="log", yscale="log", ylabel="training step, ms")
    axes[1].set(xscale="log", ylabel="share of the matrix product's speed, %", ylim=(0, None))
    for ax in axes:
        ax.set_xlabel("size, relative to the smallest")
        ax.set_xticks(sorted(df["size"].unique()), [f"{x:g}" for x in sorted(df["size"].unique())])
        ax.minorticks_off()
    low, high = df["median_ms"].min(), df["median_ms"].max()
    steps = [
        k * 10.0**e for e in range(-2, 6) for k in (1, 2, 5) if low / 2 < k * 10.0**e < 2 * high
    ]
    axes[0].set_yticks(steps, [f"{step:g}" for step in steps])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle("The training step against its sizes", fontsize=10)
    return axes


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
