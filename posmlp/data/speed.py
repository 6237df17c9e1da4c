"""How fast clips arrive, beside decord alone and beside the model's training step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.clips import ClipRule, Draw, load_clip
from posmlp.data.datasets import VideoClips
from posmlp.data.files.packets import list_packets
from posmlp.data.layouts.listing import as_text
from posmlp.data.user_cache import NUM_WORKERS
from posmlp.model import PosMLPVideo

WARM_UP_CLIPS = 16


def measure_loading(
    spec: str | Path,
    config: PosMLPConfig,
    train: TrainConfig | None = None,
    *,
    num_workers: int = NUM_WORKERS,
    num_clips: int = 256,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Clips a second of each way to get training clips, and of the model's training step.

    decord alone: one process that opens each file and decodes the clip's frames at their full size,
    without checks, resizing or cropping. One process: what a worker does, in this process. The
    loader: `VideoClips` with `num_workers` processes, with and without its cache. The
    step: forward, backward and AdamW on clips that are there already. Raises ValueError as
    `open_clips` does.
    """
    train = train or TrainConfig()
    if num_clips < 1:
        raise ValueError(f"num_clips={num_clips} must be at least 1: that many are timed")
    how: dict[str, Any] = {"num_workers": num_workers, "max_bad_share": train.max_bad_share}
    how |= vars(ClipRule.of(config, train))
    clips = VideoClips.open(spec, "train", **how)
    uncached = VideoClips.open(spec, "train", cache_gib=0.0, **how)
    try:
        decord_paths = _read_exactly_by_decord(clips.paths, num_clips)
        paths = list(islice(cycle(clips.paths), num_clips))
        speeds = {
            "decord alone": _rate(partial(_decord_clip, clips.rule), decord_paths),
            "one process, with checks, resizing and cropping": _rate(
                lambda path: load_clip(path, clips.rule, Draw(0)), paths
            ),
            f"loader, {num_workers} processes, no cache": _loader_rate(
                uncached, train.batch_size, num_clips
            ),
        }
        if clips.cached:
            speeds["loader, from its cache"] = _loader_rate(clips, train.batch_size, num_clips)
    finally:
        clips.close()
        uncached.close()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config = replace(config, num_classes=len(clips.classes))
    name = f"training step, batch {train.batch_size}, {device.type}"
    speeds[name] = _step_rate(config, train, device, num_clips)
    return speeds


def _read_exactly_by_decord(paths: list[str], num_clips: int) -> list[str]:
    """Return `num_clips` of the files that decord is trusted with, repeated if there are fewer."""
    named = (p for p in islice(paths, num_clips) if as_text(p) == p and Path(p).is_file())
    fit = [path for path in named if list_packets(path).decord_is_exact]
    if not fit:
        raise ValueError("decord reads none of the files exactly, so there is nothing to compare")
    return list(islice(cycle(fit), num_clips))


def _decord_clip(rule: ClipRule, path: str) -> object:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    indices = rule.indices(len(reader), reader.get_avg_fps(), Draw(0))
    return reader.get_batch(sorted(set(indices.tolist()))).asnumpy()


def _rate(read: Callable[[str], object], paths: list[str]) -> float:
    for path in paths[:WARM_UP_CLIPS]:
        read(path)
    started = time.perf_counter()
    for path in paths:
        read(path)
    return len(paths) / (time.perf_counter() - started)


def _loader_rate(clips: VideoClips, batch_size: int, num_clips: int) -> float:
    """Clips a second once the workers have started: the first batches are not timed."""
    generator = torch.Generator().manual_seed(0)
    rounds = math.ceil((num_clips + 2 * batch_size) / len(clips))
    order = torch.cat([torch.randperm(len(clips), generator=generator) for _ in range(rounds)])
    rngs = (np.random.default_rng(step) for step in count())
    batches = clips.batches(iter(order.split(batch_size)), rngs=rngs)
    next(batches)
    started, loaded = time.perf_counter(), 0
    while loaded < num_clips:
        loaded += len(next(batches))
    return loaded / (time.perf_counter() - started)


def _step_rate(
    config: PosMLPConfig, train: TrainConfig, device: torch.device, num_clips: int
) -> float:
    torch.manual_seed(0)
    model = PosMLPVideo(config).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=train.lr)
    shape = (train.batch_size, config.in_channels, config.num_frames, *config.size)
    clips = torch.randn(shape).to(device)
    labels = torch.randint(config.num_classes, (train.batch_size,)).to(device)
    num_steps = max(2, num_clips // train.batch_size)
    started = 0.0
    for step in range(num_steps + 1):
        if step == 1:
            started = _now(device)
        F.cross_entropy(model(clips), labels).backward()
        optimiser.step()
        optimiser.zero_grad()
    return num_steps * train.batch_size / (_now(device) - started)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
