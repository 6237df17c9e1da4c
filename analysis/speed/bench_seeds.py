"""Seeds x training steps a second: a population in one process against one process a seed.

Each way runs in processes of its own, which all wait while another way is timed: a machine that
slows down for a while slows all of them. `python -m analysis.speed.bench_seeds` is such a process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.train.optimisation import Optimiser
from posmlp.train.population import Population

NUM_STEPS = 5
"""Training steps of each seed in one measurement."""


@dataclass(frozen=True)
class Way:
    """How seeds are trained: so many processes, of so many seeds and threads each."""

    name: str
    num_processes: int
    num_seeds: int
    num_threads: int
    vectorised: bool | None = None


def ways(num_seeds: int, device: str) -> list[Way]:
    """What is compared at that many seeds."""
    cores = os.cpu_count() or 1
    some = min(num_seeds, cores if device == "cpu" else 4)
    listed = [
        Way("one process a seed, one after the other", 1, 1, cores),
        Way(f"{some} processes of a seed at once", some, 1, max(1, cores // some)),
        Way("population, vectorised", 1, num_seeds, cores, True),
        Way("population, seeds by themselves", 1, num_seeds, cores, False),
    ]
    if device == "cpu" and cores > 1:
        listed.insert(1, Way("one process a seed, one after the other, on one core", 1, 1, 1))
    return listed


def bench_seeds(
    config: PosMLPConfig,
    device: str,
    num_runs: int,
    num_seeds: Sequence[int] | None = None,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Seeds x steps a second of each way to train several seeds, start-up apart.

    Forward, backward and AdamW on random clips, batch_size a seed; `num_runs` measurements of
    each way in turn. num_seeds: by default 1 to 8 on a CPU and 1 to 64 on a GPU, in doublings.

    Columns: num_seeds, way, processes, threads (of each), batch_size, seed_steps_per_s (median),
    low and high (quartiles), ratio: the median over measurements of the rate over that of one
    process a seed, one after the other, in the same turn.
    """
    rows = []
    counts = num_seeds or ((1, 2, 4, 8) if device == "cpu" else (1, 2, 4, 8, 16, 32, 64))
    for count in counts:
        for way, rates, ratios in _measured(
            ways(count, device), config, device, num_runs, batch_size
        ):
            low, middle, high = _quartiles(rates)
            rows.append(
                {
                    "num_seeds": count,
                    "way": way.name,
                    "processes": way.num_processes,
                    "threads": way.num_threads,
                    "batch_size": batch_size,
                    "seed_steps_per_s": middle,
                    "low": low,
                    "high": high,
                    "ratio": statistics.median(ratios),
                }
            )
    return pd.DataFrame(rows)


def _quartiles(values: Sequence[float]) -> list[float]:
    return pd.Series(values).quantile([0.25, 0.5, 0.75]).tolist()


def _measured(
    chosen: Sequence[Way], config: PosMLPConfig, device: str, num_runs: int, batch_size: int
) -> Iterator[tuple[Way, list[float], list[float]]]:
    """Each way with its rates, and their ratios to the first way's."""
    with ExitStack() as stack:
        crews = [stack.enter_context(_ready(way, config, device, batch_size)) for way in chosen]
        rates: list[list[float]] = [[] for _ in chosen]
        for _ in range(num_runs):
            for crew, found, way in zip(crews, rates, chosen, strict=True):
                found.append(way.num_processes * way.num_seeds * NUM_STEPS / _seconds(crew))
    for way, found in zip(chosen, rates, strict=True):
        yield way, found, [rate / first for rate, first in zip(found, rates[0], strict=True)]


@contextmanager
def _ready(
    way: Way, config: PosMLPConfig, device: str, batch_size: int
) -> Iterator[list[subprocess.Popen[str]]]:
    """A way's processes, warmed up and waiting for a line."""
    order = {"config": config.to_dict(), "way": asdict(way), "device": device}
    command = [sys.executable, "-m", __name__, json.dumps(order | {"batch_size": batch_size})]
    crew = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(way.num_processes)
    ]
    try:
        for process in crew:
            _hear(process)
        yield crew
    finally:
        for process in crew:
            process.kill()
            process.communicate()


def _seconds(crew: Sequence[subprocess.Popen[str]]) -> float:
    """Of one measurement: until the last process has taken its steps."""
    began = time.perf_counter()
    for process in crew:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in crew:
        _hear(process)
    return time.perf_counter() - began


def _hear(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    if not process.stdout.readline():
        raise RuntimeError(f"a process that was timed ended with code {process.wait()}")


def _take_steps(order: dict[str, Any]) -> None:
    """Warm up, and take NUM_STEPS steps for each line that comes in."""
    way = Way(**order["way"])
    torch.set_num_threads(way.num_threads)
    config = PosMLPConfig.from_dict(order["config"])
    population = Population(config, range(way.num_seeds), order["device"], way.vectorised)
    settings = [TrainConfig(grad_clip=0)] * way.num_seeds
    optimiser = Optimiser(population.parameters, settings)
    shape, device = (way.num_seeds, order["batch_size"]), population.device
    clips = torch.randn(*shape, config.in_channels, config.num_frames, *config.size, device=device)
    labels = torch.randint(config.num_classes, shape, device=device)
    scales = torch.ones(shape[0], population.model.num_residual_steps, shape[1], device=device)

    def step() -> None:
        gradients, _, _ = population.gradients(clips, labels, scales)
        optimiser.step(gradients, epoch=1.0)

    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        for _ in range(NUM_STEPS):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        print("done", flush=True)


if __name__ == "__main__":
    _take_steps(json.loads(sys.argv[1]))
