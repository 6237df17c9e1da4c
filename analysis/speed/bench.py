"""`python -m analysis bench`: the model beside the plain formulation it is checked against."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import accumulate
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from analysis.cost.costs import clip_shape_of
from analysis.speed.count_step import count_flops
from analysis.speed.roofline import MAKERS, make_products, peak_gflops_per_s
from analysis.speed.speed import measure_speed
from posmlp.config import PosMLPConfig
from posmlp.presets import resolve
from posmlp.train.distributed import Team
from posmlp.train.execution import preparation
from posmlp.train.population import seeded_model

KINDS = ("plain", "posmlp", "checkpointed")
SHOWN = ["model", "phase", "mode", "batch_size", "median_ms", "q1_ms", "q3_ms", "num_runs"]
SHOWN += ["clips_per_s", "ratio", "ceiling", "unstable", "peak_memory_mb", "memory_share"]
SHOWN += ["resident_mb", "resident_share"]


class Plain(nn.Module):
    """The einsum formulation of `tests/reference.py` at a configuration's sizes, random weights."""

    def __init__(self, config: PosMLPConfig) -> None:
        super().__init__()
        self.config = config
        self._reference = _reference()
        shapes = self._reference.video_shapes(
            config.depths,
            config.dims,
            config.windows,
            config.num_frames,
            config.num_groups,
            config.num_classes,
        )
        state = self._reference.random_state(shapes, 0, torch.float32)
        self._names = list(state)
        for i, name in enumerate(self._names):
            tensor = state[name]
            if tensor.is_floating_point() and "running" not in name:
                self.register_parameter(f"p{i}", nn.Parameter(tensor))
            else:
                self.register_buffer(f"p{i}", tensor)

    def forward(self, clips: Tensor) -> Tensor:
        state = {name: getattr(self, f"p{i}") for i, name in enumerate(self._names)}
        return self._reference.video_model(state, clips, training=self.training)["logits"]


def _reference() -> Any:
    try:
        return importlib.import_module("tests.reference")
    except ModuleNotFoundError as error:
        raise ValueError(
            "tests/reference.py was not found; run this from the root of a checkout"
        ) from error


def bench(
    config: PosMLPConfig | str = "s16",
    *,
    batch_sizes: Sequence[int] = (1, 2),
    phases: Sequence[str] = ("forward", "training"),
    modes: Sequence[str] = ("eager",),
    device: str = "cpu",
    num_threads: int | None = None,
    num_runs: int = 10,
    memory: bool = True,
) -> pd.DataFrame:
    """Rows of `measure_speed` for the plain formulation (ratio 1) and the model, in turns.

    `checkpointed` is the model that keeps only the blocks' inputs for the gradient, as
    `posmlp train --checkpoint-activations` does.

    On the CPU memory is measured after the timing, if `memory`, in eager mode and processes of
    their own (`step_memory`): `peak_memory_mb` is what PyTorch has allocated at once, as on a GPU;
    `resident_mb` is what the process takes from the machine, with what its allocator keeps for
    later. `memory_share` and `resident_share` are the row's over the plain formulation's.
    `ceiling` is the highest `ratio` that the machine's arithmetic permits, whatever is done about
    memory: the plain formulation's median over the time that the model's matrix products and
    convolutions alone would take at the peak, gflops / peak_gflops_per_s. `gflops` are those of
    the row's phase and batch (`count_flops` in `count_step.py`: a training step has about three
    times the forward pass'); the peak is that of a large product in the row's precision on the
    same threads, timed in the same rounds, uncompiled (`roofline.py`).

    Raises ValueError outside a checkout and for a configuration that the plain formulation, which
    is the released layout `T+S` with LRPE, does not cover.
    """
    config = _covered(resolve(config))
    kind = torch.device(device).type
    table = pd.concat(
        measure_speed(
            {
                **{name: make_model(name, config) for name in KINDS[: 2 + (phase == "training")]},
                **make_products(kind),
            },
            clip_shape=(config.in_channels, config.num_frames, *config.size),
            batch_sizes=batch_sizes,
            phases=[phase],
            modes=modes,
            device=device,
            num_threads=num_threads,
            warm_up=2,
            min_runs=num_runs,
            max_seconds=600.0,
            beside=list(MAKERS),
        )
        for phase in phases
    )
    table = _with_ceiling(table, config, kind)
    if device == "cpu" and memory:
        settings = ["model", "phase", "batch_size"]
        rows = [
            (*key, *step_memory(key[0], config, key[1], int(key[2]), num_threads))
            for key in table[settings].drop_duplicates().itertuples(index=False, name=None)
        ]
        columns = {"peak_memory_mb": "memory_share", "resident_mb": "resident_share"}
        found = pd.DataFrame(rows, columns=[*settings, *columns]).assign(mode="eager")
        for column, share in columns.items():
            found[share] = found[column] / found.groupby(settings[1:])[column].transform("first")
        table = table.drop(columns="peak_memory_mb").merge(found, how="left")
    return table


def _with_ceiling(table: pd.DataFrame, config: PosMLPConfig, kind: str) -> pd.DataFrame:
    """The rows of KINDS with gflops, peak_gflops_per_s and ceiling; a setting has one of each."""
    model = make_model("posmlp", config)
    parts = []
    settings = ["phase", "batch_size", "mode"]
    for (phase, batch_size, _), rows in table.groupby(settings, sort=False):
        gflops = count_flops(model, clip_shape_of(model), batch_size, phase) / 1e9
        peak = peak_gflops_per_s(rows, kind)
        own = rows[rows["model"].isin(KINDS)]
        ceiling = own["median_ms"].iloc[0] / 1e3 / (gflops / peak)
        parts.append(own.assign(gflops=gflops, peak_gflops_per_s=peak, ceiling=ceiling))
    return pd.concat(parts, ignore_index=True)


def _covered(config: PosMLPConfig) -> PosMLPConfig:
    parts = (config.layout, config.gate, config.gate_form, config.kind)
    if parts != ("T+S", "lrpe", "multiply", "video"):
        raise ValueError(
            f"layout={config.layout!r}, gate={config.gate!r}: the plain formulation covers layout "
            "'T+S' with gate 'lrpe'; use a preset such as s16"
        )
    return config


def make_model(kind: str, config: PosMLPConfig) -> nn.Module:
    """One of KINDS at a configuration's sizes; without stochastic depth, which `plain` has not."""
    if kind == "plain":
        return Plain(config)
    model = seeded_model(replace(config, drop_path=0.0), 0)
    prepare = preparation(Team(), checkpoint_activations=kind == "checkpointed", compiled=False)
    if prepare is not None:
        prepare(model)
    return model


def step_memory(
    kind: str, config: PosMLPConfig, phase: str, batch_size: int, num_threads: int | None = None
) -> tuple[float, float]:
    """Memory that a model's step takes beyond the model and its clips, in MB, on a CPU.

    First the most that PyTorch has allocated at once in one step, as its profiler tells: it does
    not hang on the allocator, and is what `torch.cuda.max_memory_allocated` says on a GPU. Then the
    peak of resident memory over two steps, in a process of its own (Linux only, else NaN).
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_steps, kind, config, phase, batch_size, num_threads).result()


def _steps(
    kind: str, config: PosMLPConfig, phase: str, batch_size: int, num_threads: int | None
) -> tuple[float, float]:
    torch.set_num_threads(num_threads or torch.get_num_threads())
    model = make_model(kind, config).train(phase == "training")
    clips = torch.randn(batch_size, config.in_channels, config.num_frames, *config.size)

    def step() -> None:
        with torch.set_grad_enabled(phase == "training"):
            output = model(clips)
        if phase == "training":
            output.sum().backward()
            model.zero_grad(set_to_none=True)

    before = _peak_resident_mb()
    for _ in range(2):
        step()
    resident = _peak_resident_mb() - before
    return peak_allocated_mb(step), resident


def peak_allocated_mb(step: Callable[[], object]) -> float:
    """The most bytes of tensors that `step` adds at once to what there is, in MB; CPU only."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=itemgetter("ts"))
    return max(accumulate((e["args"]["Bytes"] for e in memory), initial=0)) / 1e6


def _peak_resident_mb() -> float:
    status = Path("/proc/self/status")  # getrusage would count what the parent held as well
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1e3 if found else float("nan")
