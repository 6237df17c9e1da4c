"""How a run's mixing weights came to be: its maps from the start to the last epoch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.bias_maps import bias_maps
from posmlp import PosMLPVideo
from posmlp.checkpoint import load
from posmlp.config import PosMLPConfig
from posmlp.population import seeded_model

_CHECKPOINT = re.compile(r"epoch(\d+)-seed(\d+)\.safetensors")


def bias_history(run: str | Path, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Mixing weights by offset of a run's models over its epochs.

    Epoch 0 is the model as it was before training, made again from its seed; then come the models
    under RUN/checkpoints, which `TrainConfig(checkpoint_every=n)` leaves, and, where the run is
    complete, its last.

    Parameters
    ----------
    run : path
        A run folder of `posmlp train` or `fit`.
    seeds : sequence of int, optional
        Which of the run's seeds; all by default.

    Returns
    -------
    DataFrame
        Columns epoch, seed, then those of `analysis.bias_maps`; sorted by seed and epoch.

    Raises
    ------
    ValueError
        If the folder holds no run, no trained model, or none of a seed asked for.
    """
    run = Path(run)
    if not (run / "config.json").is_file():
        raise ValueError(f"{run} holds no config.json; give a run folder of `posmlp train`")
    stored = json.loads((run / "config.json").read_text())
    chosen = stored["seeds"] if seeds is None else list(seeds)
    if not chosen or not set(chosen) <= set(stored["seeds"]):
        raise ValueError(f"seeds={chosen} must be some of the run's, {stored['seeds']}")
    found = _checkpoints(run, stored["train"]["epochs"])
    config = PosMLPConfig.from_dict(stored["model"])
    frames = []
    for seed in sorted(chosen):
        paths = {epoch: path for (epoch, of), path in sorted(found.items()) if of == seed}
        if not paths:
            raise ValueError(
                f"{run} holds no trained model of seed {seed}; train with checkpoint_every=1, or "
                "let the run complete"
            )
        frames.append(_rows(seeded_model(config, seed), 0, seed))
        frames += [_rows(load(path), epoch, seed) for epoch, path in paths.items()]
    return pd.concat(frames, ignore_index=True)


def _checkpoints(run: Path, epochs: int) -> dict[tuple[int, int], Path]:
    """The files of trained models by (epoch, seed)."""
    found = {}
    for path in (run / "checkpoints").glob("*.safetensors"):
        if match := _CHECKPOINT.fullmatch(path.name):
            found[int(match[1]), int(match[2])] = path
    for path in run.glob("model-seed*.safetensors"):
        found[epochs, int(path.stem.removeprefix("model-seed"))] = path
    return found


def _rows(model: PosMLPVideo, epoch: int, seed: int) -> pd.DataFrame:
    maps = bias_maps(model)
    maps.insert(0, "epoch", epoch)
    maps.insert(1, "seed", seed)
    return maps
