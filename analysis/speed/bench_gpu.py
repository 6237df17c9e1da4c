"""`python -m analysis bench_gpu`: what there is to time on a GPU, in parts of a few minutes each.

- `model`: the plain formulation and the model, eager float32, bfloat16 and compiled.
- `seeds`: training steps of a population against one process a seed.
- `gates`: every gate of `GATES`, in float32.
- `roofline`: how close the model comes to the device's arithmetic and memory bandwidth.

A part writes OUT/{device}-{part}.csv; every row names preset, device, versions, commit.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from analysis.speed.bench import bench
from analysis.speed.bench_seeds import bench_seeds
from analysis.speed.roofline import bench_roofline
from analysis.speed.speed import MODES, measure_speed
from posmlp.checkpoint import write_atomically
from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of
from posmlp.gating import GATES
from posmlp.presets import resolve
from posmlp.train.fitting import usable_device
from posmlp.train.population import seeded_model
from posmlp.train.run_folder import commit


def bench_model(
    config: PosMLPConfig, device: str, num_runs: int, *, modes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Rows of `bench` at batch 1 and 8, by default in every mode; on the CPU in eager mode."""
    modes = modes or (MODES[:1] if device == "cpu" else MODES)
    return bench(config, batch_sizes=(1, 8), modes=modes, device=device, num_runs=num_runs)


def bench_gates(config: PosMLPConfig, device: str, num_runs: int) -> pd.DataFrame:
    """Forward pass and training step of every gate, beside LRPE."""
    models = {gate: seeded_model(replace(config, gate=gate), 0) for gate in GATES}
    return measure_speed(
        models,
        phases=("forward", "training"),
        device=device,
        warm_up=2,
        min_runs=num_runs,
        min_seconds=0.0,
    )


PARTS: dict[str, tuple[Callable[..., pd.DataFrame], str]] = {
    "model": (bench_model, "s16"),
    "seeds": (bench_seeds, "toy"),
    "gates": (bench_gates, "s16"),
    "roofline": (bench_roofline, "s16"),
}
WITH_MODES = ("model", "roofline")


def write_bench_gpu(
    part: str,
    out: str | Path = "ablations/results/speed",
    *,
    preset: str | None = None,
    device: str = "cuda",
    num_runs: int = 20,
    modes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Measure one of PARTS at its preset, or another, and write its table.

    `modes`: of `analysis.speed.MODES`, for the parts WITH_MODES; by default the part's own. Raises
    ValueError for an unknown part or mode, modes of a part without, or where there is no such
    device.
    """
    one_of(part, PARTS, "part")
    if modes and part not in WITH_MODES:
        raise ValueError(f"{part} has no modes; only {' and '.join(WITH_MODES)} have")
    for mode in modes or ():
        one_of(mode, MODES, "mode")
    usable_device(device)
    measure, usual = PARTS[part]
    name = platform.machine() if device == "cpu" else torch.cuda.get_device_name(device)
    chosen = {"modes": modes} if modes else {}
    preset = preset or usual
    table = measure(resolve(preset), device, num_runs, **chosen).assign(
        preset=preset,
        device=name,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        **commit(),
    )
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{slug}-{part}.csv", table.to_csv(index=False).encode())
    return table
