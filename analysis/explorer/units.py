"""What the bias explorer shows: the gating units of one model, or of two that are wired alike.

Shapes: G channel groups; T, h, w the window, 1 on an axis that the branch lacks; N = T h w tokens.
Offsets are query - key, as everywhere (`posmlp.positions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from torch import Tensor

from analysis.bias.maps import Place, columns_of, unit_tables, window_of
from analysis.figures.style import symmetric_limit
from analysis.interventions.intervene import exemplars
from posmlp.data.augment import normalise
from posmlp.gates.attention import AttentionGate
from posmlp.model import PosMLPVideo

Array = NDArray[np.float64]
MOST_PAIRS = 2**22
"""Weights of a (G, N, N) relation above which only its mean over equal offsets is held."""
LARGEST = np.iinfo(np.int16).max
NUM_EXEMPLARS = 3


@dataclass(frozen=True)
class ExplorerUnit:
    """One gating unit; tables, spreads, relations and notes have an entry a model.

    tables, spreads: (G, 2T-1, 2h-1, 2w-1), as bias and bias_std of `bias_maps`. relations:
    (G, N, N), or None where the table says it all or the relation is too large to hold. notes:
    what the reader must know about these numbers, or "".
    """

    place: Place
    label: str
    window: tuple[int, int, int]
    tables: tuple[Array, ...]
    spreads: tuple[Array, ...]
    relations: tuple[Array | None, ...]
    notes: tuple[str, ...]

    @property
    def num_groups(self) -> int:
        return len(self.tables[0])

    @property
    def quantity(self) -> str:
        """What its numbers are: attention's are added before the softmax."""
        return "attention logit" if isinstance(self.place.unit, AttentionGate) else "mixing weight"

    @property
    def limit(self) -> float:
        """Where the colours end: 99th percentile of |weight| that is not 0, over all models."""
        arrays = [a.ravel() for a in (*self.tables, *self.relations) if a is not None]
        values = np.concatenate(arrays)
        return symmetric_limit(values[values != 0]) if values.any() else 1.0

    def row(self, model: int, group: int, query: Sequence[int]) -> Array:
        """Weights of all keys (T, h, w) for the query token (t, y, x)."""
        relation = self.relations[model]
        if relation is not None:
            token = np.ravel_multi_index(tuple(query), self.window)
            return relation[group, token].reshape(self.window)
        # key k reads entry q - k + side - 1: the entries q to q + side - 1, last key first
        read = tuple(slice(q, q + side) for q, side in zip(query, self.window, strict=True))
        return self.tables[model][group][read][::-1, ::-1, ::-1]

    def rows(self, model: int, group: int) -> pd.DataFrame:
        """The rows of `bias_maps` of one group."""
        sides = self.tables[model].shape[1:]
        offsets = (
            place - side // 2
            for place, side in zip(np.indices(sides).reshape(3, -1), sides, strict=True)
        )
        columns = dict(zip(("dt", "dy", "dx"), offsets, strict=True))
        values = {"bias": self.tables[model], "bias_std": self.spreads[model]}
        flat = {name: array[group].ravel() for name, array in values.items()}
        return pd.DataFrame({**columns_of(self.place), "group": group, **columns, **flat})


def explorer_units(models: Sequence[PosMLPVideo]) -> list[ExplorerUnit]:
    """The units of models, in the order of computation.

    Raises ValueError for two models that are not wired alike and for weights that are not finite.
    """
    found = [list(unit_tables(model)) for model in models]
    shapes = [[(*place[:4], table.shape) for place, table, _ in column] for column in found]
    for other in shapes[1:]:
        _check_alike(shapes[0], other)
    places = [place for place, *_ in found[0]]
    return [
        _joined(models, [column[i] for column in found], _label(place, places))
        for i, place in enumerate(places)
    ]


def _joined(
    models: Sequence[PosMLPVideo], entries: list[tuple[Place, Array, Array]], label: str
) -> ExplorerUnit:
    """One unit from its entry in each model."""
    places, tables, spreads = zip(*entries, strict=True)
    more = [_more_than_the_table(*pair) for pair in zip(models, entries, strict=True)]
    relations, notes = zip(*more, strict=True)
    window = window_of(models[0].config, places[0])
    return ExplorerUnit(places[0], label, window, tables, spreads, relations, notes)


def _more_than_the_table(
    model: PosMLPVideo, entry: tuple[Place, Array, Array]
) -> tuple[Array | None, str]:
    """The relation, where its table is only a mean, and what the reader must know."""
    place, table, spread = entry
    if not np.isfinite(table).all():
        raise ValueError(
            f"stage {place.stage}, block {place.block}, branch {place.branch} holds weights that "
            "are not finite; load a checkpoint from before the training diverged"
        )
    if isinstance(place.unit, AttentionGate):
        return None, "position part, added to the content scores before the softmax"
    if spread.max() <= 1e-6 * np.abs(table).max():  # tied by offset, up to rounding
        return None, ""
    num_tokens = int(np.prod(window_of(model.config, place)))
    if len(table) * num_tokens**2 > MOST_PAIRS:
        return None, "row and table are means over pairs of equal offset (too many pairs to hold)"
    with torch.no_grad():
        relation = place.unit.relation().double().cpu().numpy()
    return relation, "the row is exact, the table its mean over pairs of equal offset"


def _label(place: Place, places: list[Place]) -> str:
    """The branch, with its step where the block has that branch twice (as layout T>S>T has)."""
    same = [p for p in places if (p.stage, p.block, p.branch) == (*place[:2], place.branch)]
    return place.branch if len(same) == 1 else f"{place.branch}, step {place.step}"


def _check_alike(ours: list[Any], others: list[Any]) -> None:
    if not ours or ours != others:
        ours, others = [*ours, "no unit"], [*others, "no unit"]
        first = next(pair for pair in zip(ours, others, strict=False) if pair[0] != pair[1])
        raise ValueError(
            f"the models differ at {first[0]} and {first[1]} (stage, block, step, branch, shape of "
            "the table); two models side by side need the same stages, layout, windows and groups"
        )


def packed(units: Sequence[ExplorerUnit], names: Sequence[str]) -> dict[str, Any]:
    """What explorer.js reads: all weights as one run of int16, and where each array starts."""
    runs: list[bytes] = []
    described = []
    for unit in units:
        arrays = [
            {
                "table": _append(runs, table),
                "relation": None if relation is None else _append(runs, relation),
                "note": note,
            }
            for table, relation, note in zip(unit.tables, unit.relations, unit.notes, strict=True)
        ]
        described.append(
            {
                "stage": unit.place.stage,
                "block": unit.place.block,
                "branch": unit.label,
                "window": unit.window,
                "num_groups": unit.num_groups,
                "quantity": unit.quantity,
                "limit": unit.limit,
                "models": arrays,
            }
        )
    colours = np.round(255 * colormaps["RdBu_r"](np.linspace(0, 1, 255))[:, :3]).astype(int)
    weights = b"".join(runs)
    return {
        "names": list(names),
        "units": described,
        "colours": colours.tolist(),
        "weights": weights,
    }


def add_clips(
    data: dict[str, Any], model: PosMLPVideo, units: Sequence[ExplorerUnit], clips: Tensor
) -> None:
    """Add clips (B, T, H, W, 3), and to each unit [clip, frame] by group, the largest first."""
    data["clips"] = {"shape": list(clips.shape), "pixels": clips.numpy().tobytes()}
    inputs = normalise(clips).to(next(model.parameters()))
    for unit, described in zip(units, data["units"], strict=True):
        described["exemplars"] = [
            exemplars(model, inputs, unit.place, group)
            .drop_duplicates("clip")[["clip", "frame"]][:NUM_EXEMPLARS]
            .to_numpy()
            .tolist()
            for group in range(unit.num_groups)
        ]


def _append(runs: list[bytes], values: Array) -> dict[str, Any]:
    """Add (G, ...) weights as little-endian int16; their start and a scale a group."""
    start = sum(map(len, runs)) // 2
    flat = values.reshape(len(values), -1)
    scales = np.abs(flat).max(axis=1) / LARGEST
    steps = np.divide(flat, scales[:, None], out=np.zeros_like(flat), where=scales[:, None] > 0)
    runs.append(np.round(steps).astype("<i2").tobytes())
    return {"start": start, "scales": scales.tolist()}
