"""Mixing weights by offset: what each gating unit has learned about where to look.

Shapes: G channel groups; a table is (G, 2T-1, 2h-1, 2w-1) in offset order, with 1 for an axis that
the branch lacks. offset = query - key (`posmlp.positions`): a positive dt looks into the past, a
positive dy upwards, a positive dx to the left. The tables multiply values: they are mixing
weights, not attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from posmlp import PosMLPConfig, PosMLPVideo, relative_position_index
from posmlp.model import Batched

Array = NDArray[np.float64]
STATISTICS = (
    "locality_temporal",
    "locality_spatial",
    "entropy",
    "temporal_asymmetry",
    "effective_rank",
    "group_diversity",
)


class Place(NamedTuple):
    """Where a gating unit stands; stage, block and step count from 1."""

    stage: int
    block: int
    step: int
    branch: str
    unit: Any  # a GatingUnit, or a notebook's own gate


def units(model: PosMLPVideo) -> Iterator[Place]:
    """Every gating unit as (stage, block, step, branch, unit), in the order of computation.

    `step` is the residual step within the block: layout `T>S` has two, `T+S` one.
    """
    stages: Any = model.stages
    for s, stage in enumerate(stages, start=1):
        for b, block in enumerate(stage.blocks, start=1):
            for k, step in enumerate(block.steps, start=1):
                for axes, branch in step.items():
                    gate = branch.gate.gate if isinstance(branch.gate, Batched) else branch.gate
                    yield Place(s, b, k, axes, gate)


def bias_maps(model: PosMLPVideo) -> pd.DataFrame:
    """Mixing weight of each offset in every gating unit, one row a unit, group and offset.

    Parameters
    ----------
    model : PosMLPVideo
        On any device; it is read, not run.

    Returns
    -------
    DataFrame
        Columns stage, block, step (from 1), branch, group (from 0: channel c is in group
        c % G), dt, dy, dx (query - key, in frames and tokens of the stage; 0 on an axis that the
        branch lacks), bias, bias_std. A relation that is tied by offset gives its table, and
        bias_std is 0. One that is not (`dense`, `lrpe+dense`, and `gqpe` with softmax, whose rows
        are normalised over the keys that the window holds, hence differ near its borders) gives
        the mean over the pairs of equal offset, and bias_std is the standard deviation over those
        pairs: what the map hides. For `attention` the bias is the part that is added to the
        content scores before the softmax.

    Raises
    ------
    ValueError
        If a notebook's own gate has no `relation()`.
    """
    return pd.concat([_rows(*found) for found in _tables(model)], ignore_index=True)


def bias_statistics(
    model: PosMLPVideo, initial: PosMLPVideo | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """Statistics of each group's mixing weights b over offsets, beside their controls.

    With p = b^2 / sum(b^2), the share of each offset in a group's energy:

    - `locality_temporal`, frames: sqrt(sum p dt^2); `locality_spatial`, tokens:
      sqrt(sum p (dy^2 + dx^2)). Root mean squared distance; NaN on an axis the branch lacks.
    - `entropy`, nats: -sum p ln p. 0 for one offset, ln(number of offsets) for equal magnitudes.
      Shuffling offsets cannot change it.
    - `temporal_asymmetry`: sum(odd^2) / sum(b^2), with odd(dt) = (b(dt) - b(-dt)) / 2 at the same
      dy and dx. 0 treats past and future alike, 1 is their difference; independent random weights
      are near 0.5. NaN without a time axis.
    - `effective_rank`: exp(-sum q ln q), with q the singular values of the (G, offsets) matrix of
      a unit over their sum. 1 if all groups are multiples of one map, at most G. One value a unit.
      Source: Roy and Vetterli, The effective rank, 2007.
    - `group_diversity`: mean of 1 - cosine similarity over pairs of a unit's groups. 0 if all
      point the same way, near 1 if unrelated, up to 2 if opposed. One value a unit; groups that
      are all zero have no direction and are left out; NaN with fewer than two others.

    A group that is all zero (the released initialisation) has no statistics: NaN.

    Parameters
    ----------
    model : PosMLPVideo
    initial : PosMLPVideo, optional
        The same model at initialisation.
    seed : int
        Of the permutations of offsets, one for each group.

    Returns
    -------
    DataFrame
        One row a (stage, block, step, branch, group). For each statistic a column `<name>`, one
        `<name>_shuffled` (the same table with its offsets permuted) and, if `initial` is given,
        `<name>_initial`.

    Raises
    ------
    ValueError
        If `initial` has other units or tables of other shapes.
    """
    rng = np.random.default_rng(seed)
    starts = None if initial is None else list(_tables(initial))
    frames = []
    for i, (place, table, _) in enumerate(_tables(model)):
        shuffled = rng.permuted(table.reshape(len(table), -1), axis=1).reshape(table.shape)
        versions = {"": table, "_shuffled": shuffled}
        if starts is not None:
            versions["_initial"] = _matching(starts[i : i + 1], place, table)
        columns: dict[str, Any] = {**_where(place), "group": np.arange(len(table))}
        found = {suffix: _statistics(array, place.branch) for suffix, array in versions.items()}
        columns |= {
            name + suffix: found[suffix][name] for name in STATISTICS for suffix in versions
        }
        frames.append(pd.DataFrame(columns))
    if starts is not None and len(starts) != len(frames):
        raise ValueError(
            f"initial has {len(starts)} gating units and model {len(frames)}; make it with "
            "create_model(model.config)"
        )
    return pd.concat(frames, ignore_index=True)


def _where(place: Place) -> dict[str, int | str]:
    return {name: getattr(place, name) for name in ("stage", "block", "step", "branch")}


def _rows(place: Place, table: Array, spread: Array) -> pd.DataFrame:
    """The tidy rows of one unit."""
    group, *offsets = np.indices(table.shape).reshape(4, -1)
    centred = [offset - side // 2 for offset, side in zip(offsets, table.shape[1:], strict=True)]
    columns = dict(zip(("dt", "dy", "dx"), centred, strict=True))
    values = {"bias": table.ravel(), "bias_std": spread.ravel()}
    return pd.DataFrame({**_where(place), "group": group, **columns, **values})


def _tables(model: PosMLPVideo) -> Iterator[tuple[Place, Array, Array]]:
    """Each unit with its weights by offset and their spread, both (G, 2T-1, 2h-1, 2w-1)."""
    config: Any = model.config
    for place in units(model):
        frames = config.temporal_windows[place.stage - 1] if "T" in place.branch else 1
        side = config.windows[place.stage - 1] if "S" in place.branch else 1
        with torch.no_grad():
            if _is_tied(config):
                table = place.unit.bias_table().double().cpu().numpy()
                spread = np.zeros_like(table)
            else:
                table, spread = _mean_by_offset(place, (frames, side, side))
        shape = (-1, 2 * frames - 1, 2 * side - 1, 2 * side - 1)
        yield place, table.reshape(shape), spread.reshape(shape)


def _is_tied(config: PosMLPConfig) -> bool:
    """Whether `bias_table()` is the relation itself: then no (G, N, N) array need be made."""
    softmaxed = config.gate == "gqpe" and config.gqpe_softmax
    return config.gate in ("lrpe", "attention", "conv", "gqpe") and not softmaxed


def _mean_by_offset(place: Place, window: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and standard deviation of a relation over pairs of equal offset: (G, offsets) each."""
    if not hasattr(place.unit, "relation"):
        raise ValueError(
            f"gate {type(place.unit).__name__} (stage {place.stage}) has no relation(); give it "
            "one that returns its (G, N, N) mixing weights"
        )
    index = relative_position_index(window).flatten().numpy()
    count = np.bincount(index)
    means, spreads = [], []
    for weights in place.unit.relation().flatten(1):
        weights = weights.double().cpu().numpy()
        mean = np.bincount(index, weights) / count
        means.append(mean)
        spreads.append(np.sqrt(np.bincount(index, (weights - mean[index]) ** 2) / count))
    return np.stack(means), np.stack(spreads)


def _matching(start: list[tuple[Place, Array, Array]], place: Place, table: Array) -> Array:
    """The initial table of the unit at `place`, or ValueError."""
    if not start or start[0][0][:4] != place[:4] or start[0][1].shape != table.shape:
        raise ValueError(
            f"initial has no unit like model's at {place[:4]} (stage, block, step, branch) with "
            f"table {table.shape}; make it with create_model(model.config)"
        )
    return start[0][1]


@np.errstate(divide="ignore", invalid="ignore")  # all-zero groups give NaN, as documented
def _statistics(table: Array, branch: str) -> dict[str, Array | float]:
    """STATISTICS of a (G, 2T-1, 2h-1, 2w-1) table: a value a group, or one for the unit."""
    energy = table**2
    share = energy / energy.sum(axis=(1, 2, 3), keepdims=True)
    dt, dy, dx = (
        np.expand_dims(np.arange(side) - side // 2, tuple({0, 1, 2} - {axis}))
        for axis, side in enumerate(table.shape[1:])
    )
    over = (1, 2, 3)
    odd = (table - table[:, ::-1]) / 2
    no_time, no_space = "T" not in branch, "S" not in branch
    return {
        "locality_temporal": np.nan if no_time else np.sqrt((share * dt**2).sum(over)),
        "locality_spatial": np.nan if no_space else np.sqrt((share * (dy**2 + dx**2)).sum(over)),
        "entropy": _entropy(share.reshape(len(table), -1)),
        "temporal_asymmetry": np.nan if no_time else (odd**2).sum(over) / energy.sum(over),
        "effective_rank": _effective_rank(table.reshape(len(table), -1)),
        "group_diversity": _group_diversity(table.reshape(len(table), -1)),
    }


def _entropy(shares: Array) -> Array:
    """-sum p ln p over the last axis, with 0 ln 0 = 0 and NaN kept."""
    return -np.where(shares == 0, 0, shares * np.log(shares)).sum(-1) + 0.0


def _effective_rank(rows: Array) -> float:
    singular = np.linalg.svd(rows, compute_uv=False)
    return float(np.exp(_entropy(singular / singular.sum())))


def _group_diversity(rows: Array) -> float:
    rows = rows[rows.any(axis=1)]
    if len(rows) < 2:
        return np.nan
    unit_rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = np.triu_indices(len(rows), k=1)
    return float(1 - (unit_rows @ unit_rows.T)[pairs].mean())
