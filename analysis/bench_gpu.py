"""`python -m analysis bench_gpu`: what there is to time on a GPU, in parts of a few minutes each.

- `model`: the plain formulation and the model, eager float32, bfloat16 and compiled.
- `seeds`: training steps of a population, all seeds at once and one after the other.
- `gates`: every gate of `GATES`, in float32.

A part writes OUT/{device}-{part}.csv; every row names device, versions and commit.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.bench import bench
from analysis.speed import measure_speed
from posmlp import GATES
from posmlp.checkpoint import write_atomically
from posmlp.config import PosMLPConfig, one_of, resolve
from posmlp.population import Population, seeded_model


def bench_model(config: PosMLPConfig, device: str, num_runs: int) -> pd.DataFrame:
    """Rows of `bench` at batch 1 and 8 in every mode; on the CPU, in eager mode alone."""
    modes = ["eager"] if device == "cpu" else ["eager", "bfloat16", "compiled", "compiled bfloat16"]
    return bench(config, batch_sizes=(1, 8), modes=modes, device=device, num_runs=num_runs)


def bench_seeds(
    config: PosMLPConfig,
    device: str,
    num_runs: int,
    num_seeds: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64),
    batch_size: int = 32,
) -> pd.DataFrame:
    """Training steps of populations: seeds x steps a second at once and in turn.

    `ratio`: of a vectorised population's rate over that of the seeds in turn.
    """
    rows = []
    for count in num_seeds:
        rates = {}
        for name, vectorised in {"in turn": False, "at once": True}.items():
            population = Population(config, range(count), device, vectorised)
            rates[name] = count / _step_seconds(population, batch_size, num_runs)
            del population
        for name, rate in rates.items():
            rows.append(
                {
                    "num_seeds": count,
                    "batch_size": batch_size,
                    "way": name,
                    "seed_steps_per_s": rate,
                    "ratio": rate / rates["in turn"],
                }
            )
    return pd.DataFrame(rows)


def _step_seconds(population: Population, batch_size: int, num_runs: int) -> float:
    config, device = population.model.config, population.device
    shape = (len(population.seeds), batch_size)
    clips = torch.randn(*shape, config.in_channels, config.num_frames, *config.size, device=device)
    labels = torch.randint(config.num_classes, shape, device=device)
    scales = torch.ones(shape[0], population.model.num_residual_steps, batch_size, device=device)
    table = measure_speed(
        _Step(lambda _: population.gradients(clips, labels, scales)[1].sum()),
        clip_shape=(1,),
        device=device,
        warm_up=2,
        min_runs=num_runs,
        min_seconds=0.0,
    )
    return table["median_ms"].item() / 1e3


class _Step(torch.nn.Module):
    """A function as a module, to be timed like one; inference mode would forbid its gradients."""

    def __init__(self, step: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: torch.Tensor) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            return self.step(x)


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


PARTS = {
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
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device='cuda' but PyTorch finds no GPU; --device cpu tries the commands")
    measure, usual = PARTS[part]
    name = platform.machine() if device == "cpu" else torch.cuda.get_device_name(device)
    table = measure(resolve(preset or usual), device, num_runs)
    table = table.assign(
        device=name, torch=torch.__version__, cuda=torch.version.cuda, commit=_commit()
    )
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{slug}-{part}.csv", table.to_csv(index=False).encode())
    return table


def _commit() -> str:
    """The checkout's commit, with `+` where files differ from it; empty outside one."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip()
