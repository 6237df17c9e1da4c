"""How a run's mixing weights came to be: its maps from the start to the last epoch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.bias.maps import bias_maps
from analysis.bias.statistics import bias_statistics
from posmlp.checkpoint import load
from posmlp.model import PosMLPVideo
from posmlp.train.population import seeded_model
from posmlp.train.run_folder import model_path, one_variant
from posmlp.train.variants import Member


def bias_history(
    run: str | Path,
    seeds: Sequence[int] | None = None,
    variant: str | None = None,
    *,
    statistics: bool = False,
) -> pd.DataFrame:
    """Mixing weights by offset of a run's models over its epochs, or their statistics.

    Epoch 0 is the model as it was before training, made again from its seed; then come the models
    under RUN/checkpoints, which `TrainConfig(checkpoint_every=n)` leaves, and, where the run is
    complete, its last.

    Parameters
    ----------
    run : path
        A run folder of `posmlp train` or `fit`.
    seeds : sequence of int, optional
        Which of the run's seeds; all by default.
    variant : str, optional
        Which of the run's variants, where it has several.
    statistics : bool
        Rows of `analysis.bias_statistics` in place of the weights: with `temporal_odd` and
        `token_bias_odd`, when the arrow of time appears. `analysis.draw_arrow_history` draws them.

    Returns
    -------
    DataFrame
        Columns epoch, seed, then those of `analysis.bias_maps`, or of `analysis.bias_statistics`;
        sorted by seed and epoch.

    Raises
    ------
    ValueError
        If the folder holds no run, no trained model, or none of a seed or variant asked for.
    """
    run = Path(run)
    found = {member.seed: member for member in one_variant(run, variant)}
    chosen = list(found) if seeds is None else list(seeds)
    if not chosen or not set(chosen) <= set(found):
        raise ValueError(f"seeds={chosen} must be some of the run's, {list(found)}")
    frames = []
    for seed in sorted(chosen):
        paths = _checkpoints(run, found[seed])
        if not paths:
            raise ValueError(
                f"{run} holds no trained model of seed {seed}; train with checkpoint_every=1, or "
                "let the run complete"
            )
        frames.append(_rows(seeded_model(found[seed].config, seed), 0, seed, statistics))
        for epoch, path in sorted(paths.items()):
            model = load(path)
            if model.config != found[seed].config:
                raise ValueError(
                    f"{path} is of another model than {run / 'config.json'} tells; put the files "
                    "of one run together"
                )
            frames.append(_rows(model, epoch, seed, statistics))
    return pd.concat(frames, ignore_index=True)


def _checkpoints(run: Path, member: Member) -> dict[int, Path]:
    """The files of a member's trained models by epoch."""
    name = re.compile(rf"epoch(\d+)-{re.escape(member.label)}\.safetensors")
    files = (run / "checkpoints").glob("*.safetensors")
    found = {int(match[1]): path for path in files if (match := name.fullmatch(path.name))}
    if model_path(run, member).is_file():
        found[member.train.epochs] = model_path(run, member)
    return found


def _rows(model: PosMLPVideo, epoch: int, seed: int, statistics: bool) -> pd.DataFrame:
    maps = bias_statistics(model) if statistics else bias_maps(model)
    maps.insert(0, "epoch", epoch)
    maps.insert(1, "seed", seed)
    return maps
