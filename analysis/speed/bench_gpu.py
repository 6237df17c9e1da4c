"""`python -m analysis bench_gpu`: what there is to time on a GPU, in parts of a few minutes each.

- `model`: the einsum formulation and the model, eager float32, bfloat16 and compiled.
- `seeds`: training steps of a population against one seed after the other.
- `gates`: every gate of `GATES`, in float32.

A part writes OUT/{device}-{part}.csv; every row names preset, device, versions, commit.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch

from analysis.speed.contenders import Reference, population, population_step
from analysis.speed.speed import (
    MODES,
    PHASES,
    Limits,
    in_turns,
    machine,
    measure_speed,
    quartiles,
    write_table,
)
from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of
from posmlp.gates.registry import GATES
from posmlp.presets import resolve
from posmlp.train.environment import commit
from posmlp.train.fitting import usable_device
from posmlp.train.population import seeded_model

LIMITS: dict[str, Any] = {"phases": PHASES, "warm_up": 2, "min_seconds": 0.0}


def bench_model(config: PosMLPConfig, device: str, num_runs: int) -> pd.DataFrame:
    """Forward pass and training step at batch 1 and 8 in every mode; on the CPU in eager mode."""
    model = seeded_model(replace(config, drop_path=0.0), 0)
    models = {"reference": Reference(model), "posmlp": model}
    sizes, modes = (1, 8), (MODES[:1] if device == "cpu" else MODES)
    return measure_speed(
        models, batch_sizes=sizes, modes=modes, device=device, min_runs=num_runs, **LIMITS
    )


def bench_gates(config: PosMLPConfig, device: str, num_runs: int) -> pd.DataFrame:
    """Forward pass and training step of every gate, beside LRPE."""
    models = {gate: seeded_model(replace(config, gate=gate), 0) for gate in GATES}
    return measure_speed(models, device=device, min_runs=num_runs, **LIMITS)


def bench_seeds(config: PosMLPConfig, device: str, num_runs: int) -> pd.DataFrame:
    """Training steps of a population, vectorised and not, and of a seed alone, 32 clips a seed.

    Columns: num_seeds, way, seed_steps_per_s, ratio (to a seed alone, one after the other), the
    quartiles of a step of all seeds, device, num_threads, load, torch.
    """
    rows = []
    for count in (1, 2, 4, 8) if device == "cpu" else (1, 2, 4, 8, 16, 32, 64):
        ways = {
            "one after the other": population(config, 1, device),
            "population, vectorised": population(config, count, device, vectorised=True),
            "population, seeds by themselves": population(config, count, device, vectorised=False),
        }
        about = {"num_seeds": count, **machine(device)}
        steps = {way: population_step(each, 32) for way, each in ways.items()}
        times = in_turns(steps, Limits(1, num_runs, 0.0), device)
        rates = {way: len(ways[way].seeds) / median(each) for way, each in times.items()}
        for way, rate in rates.items():
            ratio = rate / rates["one after the other"]
            row = {"way": way, "seed_steps_per_s": rate, "ratio": ratio, **quartiles(times[way])}
            rows.append(about | row)
    return pd.DataFrame(rows)


PARTS: dict[str, tuple[Callable[..., pd.DataFrame], str]] = {
    "model": (bench_model, "s16"),
    "seeds": (bench_seeds, "toy"),
    "gates": (bench_gates, "s16"),
}


def write_bench_gpu(
    part: str,
    out: str | Path = "ablations/results/speed",
    *,
    preset: str | None = None,
    device: str = "cuda",
    num_runs: int = 20,
) -> pd.DataFrame:
    """Measure one of PARTS at its preset, or another, and write its table.

    Raises ValueError for an unknown part, or where there is no such device.
    """
    one_of(part, PARTS, "part")
    usable_device(device)
    measure, usual = PARTS[part]
    name = platform.machine() if device == "cpu" else torch.cuda.get_device_name(device)
    preset = preset or usual
    about = {"preset": preset, "device": name, "cuda": torch.version.cuda, **commit()}
    table = measure(resolve(preset), device, num_runs).assign(**about)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())
    write_table(table, Path(out) / f"{slug}-{part}.csv")
    return table
