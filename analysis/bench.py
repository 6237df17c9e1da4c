"""`python -m analysis bench`: the model beside the plain formulation it is checked against."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.speed import measure_speed
from posmlp import PosMLPConfig, PosMLPVideo
from posmlp.config import resolve
from posmlp.population import seeded_model

SHOWN = ["model", "phase", "mode", "batch_size", "median_ms", "q1_ms", "q3_ms", "num_runs"]
SHOWN += ["clips_per_s", "ratio", "unstable", "peak_memory_mb"]


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
) -> pd.DataFrame:
    """Rows of `measure_speed` for the plain formulation (ratio 1) and the model, in turns.

    Raises ValueError outside a checkout and for a configuration that the plain formulation, which
    is the released layout `T+S` with LRPE, does not cover.
    """
    config = resolve(config)
    if (config.layout, config.gate, config.gate_form, config.kind) != (
        "T+S",
        "lrpe",
        "multiply",
        "video",
    ):
        raise ValueError(
            f"layout={config.layout!r}, gate={config.gate!r}: the plain formulation covers layout "
            "'T+S' with gate 'lrpe'; use a preset such as s16"
        )
    model: PosMLPVideo = seeded_model(config, 0)
    return measure_speed(
        {"plain": Plain(config), "posmlp": model},
        clip_shape=(config.in_channels, config.num_frames, *config.size),
        batch_sizes=batch_sizes,
        phases=phases,
        modes=modes,
        device=device,
        num_threads=num_threads,
        warm_up=2,
        min_runs=num_runs,
        max_seconds=600.0,
    )
