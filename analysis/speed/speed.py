"""Timing of models side by side: interleaved, warmed up, with the spread and the load beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from analysis.borrow import borrowed
from analysis.cost.costs import clip_shape_of
from posmlp.checkpoint import write_atomically
from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of
from posmlp.presets import resolve
from posmlp.train.fitting import usable_device
from posmlp.train.population import seeded_model

MODES = ("eager", "bfloat16", "compiled", "compiled bfloat16")
PHASES = ("forward", "training")
UNSTABLE = 0.10  # inter-quartile range over median from which a row is marked

Model = nn.Module | PosMLPConfig | str
Step = Callable[[], object]
Around = Callable[[], AbstractContextManager[None]]


class Limits(NamedTuple):
    """How many rounds are run: see `measure_speed`."""

    warm_up: int = 10
    min_runs: int = 50
    min_seconds: float = 2.0
    max_seconds: float = 60.0


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

    Returns
    -------
    DataFrame
        model, phase, mode, batch_size, median_ms, q1_ms, q3_ms, num_runs, unstable (IQR over 10%
        of the median), clips_per_s, ratio (the first model's median over this one's: above 1 is
        faster than the first), device, num_threads, load (the machine's 1-minute load average at
        the start), torch.

    Raises
    ------
    ValueError
        For an unknown phase or mode, no models, and numbers that would measure nothing.
    """
    for phase in phases:
        one_of(phase, PHASES, "phase")
    for mode in modes:
        one_of(mode, MODES, "mode")
    limits = Limits(warm_up, min_runs, min_seconds, max_seconds)
    _check(limits, batch_sizes, phases, modes, num_threads)
    device = usable_device(device)
    built = {name: model.to(device) for name, model in _built(models).items()}
    if not built:
        raise ValueError("models is empty; give at least one")
    shape = clip_shape or clip_shape_of(next(iter(built.values())))
    with threads(num_threads):
        rows = [
            row
            for setting in product(batch_sizes, phases, modes)
            for row in _measure(built, shape, *setting, device, limits)
        ]
    return pd.DataFrame(rows)


def _built(models: Model | Mapping[str, Model] | Sequence[str]) -> dict[str, nn.Module]:
    if isinstance(models, nn.Module | PosMLPConfig):
        models = {type(models).__name__: models}
    elif not isinstance(models, Mapping):
        models = {name: name for name in ([models] if isinstance(models, str) else models)}
    return {
        name: model if isinstance(model, nn.Module) else seeded_model(resolve(model), 0)
        for name, model in models.items()
    }


def _check(
    limits: Limits,
    batch_sizes: Sequence[int],
    phases: Sequence[str],
    modes: Sequence[str],
    num_threads: int | None,
) -> None:
    """Raise ValueError for what would measure nothing, or without an end."""
    for name, rows in (("batch_sizes", batch_sizes), ("phases", phases), ("modes", modes)):
        if not len(rows):
            raise ValueError(f"{name} is empty; give at least one")
    counts = [("warm_up", limits.warm_up, 0), ("min_runs", limits.min_runs, 1)]
    counts += [("num_threads", 1 if num_threads is None else num_threads, 1)]
    for name, count, least in (*counts, *(("batch_sizes", size, 1) for size in batch_sizes)):
        if not hasattr(count, "__index__") or count < least:
            raise ValueError(f"{name}={count!r} must be a whole number of at least {least}")
    if not limits.min_seconds >= 0:
        raise ValueError(f"min_seconds={limits.min_seconds} must be at least 0")
    if not limits.max_seconds > 0:
        raise ValueError(f"max_seconds={limits.max_seconds} must be more than 0")


def _measure(
    models: Mapping[str, nn.Module],
    shape: tuple[int, ...],
    batch_size: int,
    phase: str,
    mode: str,
    device: torch.device,
    limits: Limits,
) -> Iterator[dict[str, Any]]:
    clips = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    about = machine(device)
    with ExitStack() as lent:
        for model in sorted(models.values(), key=id):  # threads wait for them in one order
            lent.enter_context(borrowed(model, steps=True))
        steps = {name: make_step(model, clips, phase, mode) for name, model in models.items()}
        times = in_turns(steps, limits, device)
    first = np.median(times[next(iter(times))])
    for name, seconds in times.items():
        yield {
            "model": name,
            "phase": phase,
            "mode": mode,
            "batch_size": batch_size,
            **quartiles(seconds),
            "clips_per_s": batch_size / np.median(seconds),
            "ratio": first / np.median(seconds),
            **about,
        }


def make_step(model: nn.Module, clips: Tensor, phase: str, mode: str = "eager") -> Step:
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


def in_turns(
    steps: Mapping[str, Step],
    limits: Limits,
    device: torch.device | str = "cpu",
    around: Mapping[str, Around] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each counted run; a round runs each step once, in order.

    `around`: of a step, what holds while it runs. Each step then runs once more before it counts,
    as the step before left memory and caches.
    """
    for _ in range(limits.warm_up):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}

    def enough() -> bool:
        runs, seconds = (min(map(each, times.values())) for each in (len, sum))
        met = runs >= limits.min_runs and seconds >= limits.min_seconds
        return met or seconds >= limits.max_seconds

    while not enough():
        for name, step in steps.items():
            with around[name]() if around else nullcontext():
                if around:
                    step()
                times[name].append(_timed(step, torch.device(device)))
    return times


def _timed(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        with torch.cuda.device(device):  # events go to the current one
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            step()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def quartiles(seconds: Sequence[float]) -> dict[str, Any]:
    """What a row tells of its runs: median_ms, q1_ms, q3_ms, num_runs, unstable."""
    q1, median, q3 = (1e3 * float(each) for each in np.percentile(seconds, [25, 50, 75]))
    spread = {"median_ms": median, "q1_ms": q1, "q3_ms": q3}
    return spread | {"num_runs": len(seconds), "unstable": q3 - q1 > UNSTABLE * median}


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a row tells of its machine, as it is now: device, num_threads, load, torch."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "num_threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan"),
        "torch": torch.__version__,
    }


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Within this PyTorch computes on that many CPU threads; None: on as many as it does now."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write rows as CSV, to six digits, in a folder that is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, table.to_csv(index=False, float_format="%.6g").encode())
