"""Mixing weights by offset: what each gating unit has learned about where to look.

Shapes: G channel groups; a table is (G, 2T-1, 2h-1, 2w-1) in offset order, with 1 for an axis that
the branch lacks. offset = query - key (`posmlp.positions`): a positive dt looks into the past, a
positive dy upwards, a positive dx to the left. The tables multiply values: they are mixing
weights, not attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analysis.borrow import unwrapped
from posmlp.config import PosMLPConfig
from posmlp.gates.attention import AttentionGate
from posmlp.gates.convolution import ConvGate
from posmlp.gates.gqpe import GQPE
from posmlp.gates.row_bank import RowBankUnit
from posmlp.gating import GatingUnit, PositionalGatingUnit
from posmlp.model import Branch, OwnModel, PosMLPVideo
from posmlp.positions import Relation, relative_position_index

Array = NDArray[np.float64]
UNIT = ["stage", "block", "step", "branch"]
"""The columns by which tidy rows name a gating unit."""


class Place(NamedTuple):
    """Where a gating unit stands; stage, block and step count from 1."""

    stage: int
    block: int
    step: int
    branch: str
    unit: Any  # a GatingUnit, or a gate of the user's own


def units(model: PosMLPVideo) -> Iterator[Place]:
    """Every gating unit as (stage, block, step, branch, unit), in the order of computation.

    `step` is the residual step within the block: layout `T>S` has two, `T+S` one. A branch of the
    user's own has no unit. Raises ValueError for a model that is none of ours.
    """
    check_ours(model)
    stages: Any = model.stages
    for s, stage in enumerate(stages, start=1):
        for b, block in enumerate(stage.blocks, start=1):
            for k, step in enumerate(block.steps, start=1):
                for axes, branch in step.items():
                    if isinstance(branch, Branch):
                        yield Place(s, b, k, axes, branch.gate)


def check_ours(model: object) -> None:
    """Raise ValueError for a model without our gating units."""
    if not isinstance(model, PosMLPVideo):
        raise ValueError(
            f"{type(model).__name__} is no PosMLPVideo or PosMLP and has no gating units; give "
            "a model of posmlp.create_model, posmlp.load_released or posmlp.checkpoint.load"
        )
    if isinstance(model, OwnModel):
        raise ValueError(
            f"{model.config.model} is a whole model of your own and has no gating units or stages; "
            "it can be scored, attributed, timed and exported"
        )


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
        pairs: what the map hides. For `attention`, centred or not, the bias is the part that is
        added to the content scores before the softmax.

    Raises
    ------
    ValueError
        If the model is none of ours, or a gate of the user's own has neither `relation()` nor
        `bias_table()`, or they are of another shape.

    Source: `posmlp.positions` names that of each relation.
    """
    return pd.concat([_rows(*found) for found in unit_tables(model)], ignore_index=True)


def columns_of(place: Place) -> dict[str, int | str]:
    """A unit's own values of the columns UNIT."""
    return {name: getattr(place, name) for name in UNIT}


def _rows(place: Place, table: Array, spread: Array) -> pd.DataFrame:
    """The tidy rows of one unit."""
    group, *offsets = np.indices(table.shape).reshape(4, -1)
    centred = [offset - side // 2 for offset, side in zip(offsets, table.shape[1:], strict=True)]
    columns = dict(zip(("dt", "dy", "dx"), centred, strict=True))
    values = {"bias": table.ravel(), "bias_std": spread.ravel()}
    return pd.DataFrame({**columns_of(place), "group": group, **columns, **values})


def unit_tables(model: PosMLPVideo) -> Iterator[tuple[Place, Array, Array]]:
    """Each unit with its weights by offset and their spread, both (G, 2T-1, 2h-1, 2w-1)."""
    model = unwrapped(model)
    check_ours(model)
    config: Any = model.config
    for place in units(model):
        frames, side, _ = window_of(config, place)
        with torch.no_grad():
            if _is_tied(place.unit) or not _has(place.unit, "relation"):
                table = _checked(place, "bias_table", config.window(place.stage - 1, place.branch))
                spread = np.zeros_like(table)
            else:
                table, spread = _mean_by_offset(place, (frames, side, side))
        shape = (-1, 2 * frames - 1, 2 * side - 1, 2 * side - 1)
        yield place, table.reshape(shape), spread.reshape(shape)


def _has(unit: Any, name: str) -> bool:
    """Whether a unit has `relation()` or `bias_table()` of its own."""
    own = getattr(type(unit), name, None)
    return own is not None and own is not getattr(GatingUnit, name)


def _checked(place: Place, name: str, window: tuple[int, ...]) -> Array:
    """What the unit's `relation()` or `bias_table()` gives. Raises ValueError without, or unfit."""
    unit, num_tokens = place.unit, math.prod(window)
    if not _has(unit, name):
        raise ValueError(
            f"gate {type(unit).__name__} (stage {place.stage}) has no relation() nor bias_table(), "
            "so nothing of it can be shown by offset or changed; give it a relation() that returns "
            "its (G, N, N) mixing weights, or a bias_table() of (G, 2w-1 for each axis)"
        )
    shapes = {"relation": (num_tokens,) * 2, "bias_table": tuple(2 * w - 1 for w in window)}
    found, wanted = getattr(unit, name)(), ", ".join(map(str, shapes[name]))
    if not isinstance(found, torch.Tensor) or tuple(found.shape[1:]) != shapes[name]:
        has = list(getattr(found, "shape", [type(found).__name__]))
        raise ValueError(
            f"{name}() of gate {type(unit).__name__} (stage {place.stage}, branch {place.branch}) "
            f"gives {has}; it must give (G, {wanted})"
        )
    return found.detach().double().cpu().numpy()


def window_of(config: PosMLPConfig, place: Place) -> tuple[int, int, int]:
    """(frames, rows, columns) that the unit mixes over; 1 for an axis that its branch lacks."""
    frames = config.temporal_windows[place.stage - 1] if "T" in place.branch else 1
    side = config.windows[place.stage - 1] if "S" in place.branch else 1
    return frames, side, side


def kind_of(unit: Any) -> str:
    """The name of what makes a unit's relation: its class of positions, or else its own."""
    return type(getattr(unit, "positions", unit)).__name__


def _is_tied(unit: Any) -> bool:
    """Whether `bias_table()` is the relation itself: then no (G, N, N) array need be made.

    The unit is asked, not the configuration: it may have been put in place of another.
    """
    if isinstance(unit, ConvGate):
        return type(unit).relation is ConvGate.relation
    positions = getattr(unit, "positions", None)
    if not isinstance(positions, Relation) or type(unit).relation not in _PLAIN:
        return False
    unnormalised = isinstance(positions, GQPE) and not positions.softmax
    if getattr(type(unit), "frames_of_rows", _BANK) is not _BANK:
        return False
    finish = type(positions).finish
    return type(positions).forward is Relation.forward and (
        finish is Relation.finish or (unnormalised and finish is GQPE.finish)
    )


_PLAIN = (PositionalGatingUnit.relation, RowBankUnit.relation, AttentionGate.relation)
_BANK = RowBankUnit.frames_of_rows


def _mean_by_offset(place: Place, window: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and standard deviation of a relation over pairs of equal offset: (G, offsets) each."""
    index = relative_position_index(window).flatten().numpy()
    count = np.bincount(index)
    means, spreads = [], []
    for weights in _checked(place, "relation", window).reshape(-1, len(index)):
        mean = np.bincount(index, weights) / count
        means.append(mean)
        spreads.append(np.sqrt(np.bincount(index, (weights - mean[index]) ** 2) / count))
    return np.stack(means), np.stack(spreads)
