"""Timing of models side by side: interleaved, warmed up, with the spread and the load beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from analysis.borrow import borrowed
from analysis.cost.costs import clip_shape_of
from analysis.speed.speed_limits import Limits, check
from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of
from posmlp.model import create_model
from posmlp.train.fitting import usable_device

MODES = ("eager", "bfloat16", "compiled", "compiled bfloat16")
PHASES = ("forward", "training")
UNSTABLE = 0.10  # inter-quartile range over median from which a row is marked

Model = nn.Module | PosMLPConfig | str


def measure_speed(
    models: Model | Mapping[str, Model] | Sequence[str],
    *,
    clip_shape: tuple[int, ...] | None = None,
    batch_sizes: Sequence[int] = (1,),
    phases: Sequence[str] = ("forward",),
    modes: Sequence[str] = ("eager",),
    device: torch.device | str = "cpu",
    num_threads: int | None = None,
    warm_up: int = 10,
    min_runs: int = 50,
    min_seconds: float = 2.0,
    max_seconds: float = 60.0,
    beside: Collection[str] = (),
) -> pd.DataFrame:
    """Latency of each model, measured in turns within this process, one row a setting.

    Every round runs each model once, in order, so that a machine that slows down slows all of
    them; ratios between rows of one call are worth more than the rows.

    Parameters
    ----------
    models : model, configuration or preset; mapping of name to these; or preset names
        The first is what `ratio` compares with. A model is used as it is, in eval mode for
        `forward` and train mode for `training`, and handed back in the mode it had.
    clip_shape : (C, T, H, W), optional
        Of the random clips; by default what the first model's config says.
    batch_sizes, phases, modes
        Rows for each combination. Phases: `forward` (inference mode), `training` (forward and
        backward of a sum, gradients dropped). Modes: see MODES; eager float32 is the headline.
    num_threads : int, optional
        CPU threads during the measurement; as they are by default.
    warm_up, min_runs, min_seconds, max_seconds
        Rounds before counting; then rounds until both minima are met, or `max_seconds` a model.
    beside
        Names of models that are timed on the way, never compiled: no round is waited for, and
        those are left out in which one would have taken more seconds than each of the others.

    Returns
    -------
    DataFrame
        model, phase, mode, batch_size, median_ms, q1_ms, q3_ms, num_runs, clips_per_s, ratio
        (the first model's median over this one's: above 1 is faster than the first), unstable
        (IQR over 10% of the median), peak_memory_mb (CUDA only), device, num_threads, load (the
        machine's 1-minute load average at the start), torch.

    Raises
    ------
    ValueError
        For an unknown phase or mode, no models, and numbers that would measure nothing.
    """
    for phase in phases:
        one_of(phase, PHASES, "phase")
    for mode in modes:
        one_of(mode, MODES, "mode")
    named = _named(models)
    if not named:
        raise ValueError("models is empty; give at least one")
    limits = Limits(warm_up, min_runs, min_seconds, max_seconds, beside)
    check(limits, named, batch_sizes, phases, modes, num_threads)
    device = usable_device(device)
    built = {name: _built(model).to(device) for name, model in named.items()}
    shape = clip_shape or clip_shape_of(next(iter(built.values())))
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        parts = [
            _measure(built, shape, batch_size, phase, mode, device, limits)
            for batch_size in batch_sizes
            for phase in phases
            for mode in modes
        ]
    finally:
        torch.set_num_threads(before)
    return pd.concat(parts, ignore_index=True)


def _named(models: Model | Mapping[str, Model] | Sequence[str]) -> Mapping[str, Model]:
    if isinstance(models, Mapping):
        return models
    if isinstance(models, nn.Module | PosMLPConfig):
        return {type(models).__name__: models}
    return {name: name for name in ([models] if isinstance(models, str) else models)}


def _built(model: Model) -> nn.Module:
    return model if isinstance(model, nn.Module) else create_model(model)


def _measure(
    models: Mapping[str, nn.Module],
    shape: tuple[int, ...],
    batch_size: int,
    phase: str,
    mode: str,
    device: torch.device,
    limits: Limits,
) -> pd.DataFrame:
    clips = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else np.nan
    with ExitStack() as lent:
        for model in models.values():
            lent.enter_context(borrowed(model, steps=True))
        runs = {
            name: make_step(
                model, clips, phase, uncompiled(mode) if name in limits.beside else mode
            )
            for name, model in models.items()
        }
        times = _in_turns(runs, device, limits)
        peaks = {name: _peak_memory_mb(run, device) for name, run in runs.items()}
    first = float(np.median(times[next(iter(times))]))
    rows = []
    for name, seconds in times.items():
        q1, median, q3 = np.percentile(seconds, [25, 50, 75])
        rows.append(
            {
                "model": name,
                "phase": phase,
                "mode": mode,
                "batch_size": batch_size,
                "median_ms": 1e3 * median,
                "q1_ms": 1e3 * q1,
                "q3_ms": 1e3 * q3,
                "num_runs": len(seconds),
                "clips_per_s": batch_size / median,
                "ratio": first / median,
                "unstable": bool(q3 - q1 > UNSTABLE * median),
                "peak_memory_mb": peaks[name],
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "num_threads": torch.get_num_threads(),
                "load": load,
                "torch": torch.__version__,
            }
        )
    return pd.DataFrame(rows)


def uncompiled(mode: str) -> str:
    """The mode of the same precision that does not compile."""
    return "bfloat16" if "bfloat16" in mode else "eager"


def make_step(model: nn.Module, clips: Tensor, phase: str, mode: str) -> Callable[[], None]:
    """A call that runs the model once in the given phase and mode; sets train or eval mode."""
    model.train(phase == "training")
    forward: Any = torch.compile(model) if "compiled" in mode else model
    autocast = torch.autocast(clips.device.type, torch.bfloat16, enabled="bfloat16" in mode)
    inference: AbstractContextManager[Any] = (
        torch.inference_mode() if phase == "forward" else nullcontext()
    )

    def run() -> None:
        with inference, autocast:
            output = forward(clips)
        if phase == "training":
            output.float().sum().backward()
            model.zero_grad(set_to_none=True)

    return run


def _in_turns(
    runs: Mapping[str, Callable[[], None]],
    device: torch.device,
    limits: Limits,
) -> dict[str, list[float]]:
    """Seconds of each counted run; a round runs each model once."""
    for _ in range(limits.warm_up):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}

    def least(measure: Callable[[list[float]], float]) -> float:
        return min(measure(times[name]) for name in times if name not in limits.beside)

    def enough() -> bool:
        met = least(len) >= limits.min_runs and least(sum) >= limits.min_seconds
        return met or least(sum) >= limits.max_seconds

    while not enough():
        for name, run in runs.items():
            if name not in limits.beside or sum(times[name]) <= least(sum):
                times[name].append(_timed(run, device))
    return times


def _timed(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _peak_memory_mb(run: Callable[[], None], device: torch.device) -> float:
    """The most memory that one run holds on a GPU, in MB; NaN on the CPU, where none is counted."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) / 1e6
