"""Statistics of mixing weights by offset, each beside its controls.

Shapes: G channel groups; a table is (G, 2T-1, 2h-1, 2w-1) in offset order, as in
`analysis.bias_maps`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.bias.maps import Array, Place, columns_of, unit_tables
from posmlp.model import PosMLPVideo

STATISTICS = (
    "locality_temporal",
    "locality_spatial",
    "centre_dt",
    "centre_dy",
    "centre_dx",
    "anisotropy",
    "entropy",
    "temporal_asymmetry",
    "temporal_even",
    "temporal_odd",
    "effective_rank",
    "group_diversity",
)
DISTANCE = "distance_from_initial"
TOKEN_BIAS = ("token_bias_even", "token_bias_odd")


def bias_statistics(
    model: PosMLPVideo, initial: PosMLPVideo | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """Statistics of each group's mixing weights b over offsets, beside their controls.

    With p = b^2 / sum(b^2), the share of each offset in a group's energy:

    - `locality_temporal`, frames: sqrt(sum p dt^2); `locality_spatial`, tokens:
      sqrt(sum p (dy^2 + dx^2)). Root mean squared distance; NaN on an axis the branch lacks.
    - `centre_dt`, frames, `centre_dy` and `centre_dx`, tokens: sum p dt, sum p dy, sum p dx. The
      centre of mass, signed: a positive `centre_dt` lies in the past. NaN on an axis the branch
      lacks.
    - `anisotropy`: (l1 - l2) / (l1 + l2), with l1 >= l2 the eigenvalues of the covariance of
      (dy, dx) under p, about the centre of mass. 0 spreads alike in all directions, 1 along one
      line. NaN without a spatial axis, and for a map at one place, which has no spread.
    - `entropy`, nats: -sum p ln p. 0 for one offset, ln(number of offsets) for equal magnitudes.
      Shuffling offsets cannot change it.
    - `temporal_asymmetry`: sum(odd^2) / sum(b^2), with odd(dt) = (b(dt) - b(-dt)) / 2 at the same
      dy and dx. 0 treats past and future alike, 1 is their difference; independent random weights
      are near 0.5. NaN without a time axis.
    - `temporal_even` and `temporal_odd`, in units of the weight: root mean square over offsets of
      the even part (b(dt) + b(-dt)) / 2 and of the odd part. A model hears the direction of time
      through odd parts alone (`analysis.arrow_of_time`). NaN without a time axis.
    - `token_bias_even` and `token_bias_odd`, in units of the mixed values: the same of the unit's
      token bias over the frames of its window, at the same place. One value a unit, without a
      shuffled control; NaN without a time axis or a token bias.
    - `effective_rank`: exp(-sum q ln q), with q the singular values of the (G, offsets) matrix of
      a unit over their sum. 1 if all groups are multiples of one map, at most G. One value a unit.
      Source: Roy and Vetterli, The effective rank, 2007.
    - `group_diversity`: mean of 1 - cosine similarity over pairs of a unit's groups. 0 if all
      point the same way, near 1 if unrelated, up to 2 if opposed. One value a unit; groups that
      are all zero have no direction and are left out; NaN with fewer than two others.
    - `distance_from_initial`, only with `initial`, in units of the weight: sqrt(mean((b - b0)^2))
      over offsets, with b0 the initial table. Its control is the shuffled b against b0: training
      has kept something of the start where the distance is well below it.

    Definitions without a source are this project's own. A group that is all zero (the released
    initialisation) has none of these but the distance and the even and odd parts: NaN.

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
        `<name>_initial` (but for the distance, where that is 0).

    Raises
    ------
    ValueError
        If `initial` has other units or tables of other shapes.
    """
    rng = np.random.default_rng(seed)
    starts = None if initial is None else list(unit_tables(initial))
    frames = []
    for i, (place, table, _) in enumerate(unit_tables(model)):
        shuffled = rng.permuted(table.reshape(len(table), -1), axis=1).reshape(table.shape)
        versions = {"": table, "_shuffled": shuffled}
        columns: dict[str, Any] = {**columns_of(place), "group": np.arange(len(table))}
        distances: dict[str, Any] = {}
        if starts is not None:
            start = _matching(starts[i : i + 1], place, table)
            distances = {DISTANCE + suffix: _distance(b, start) for suffix, b in versions.items()}
            versions["_initial"] = start
        found = {suffix: _statistics(array, place.branch) for suffix, array in versions.items()}
        columns |= {
            name + suffix: found[suffix][name] for name in STATISTICS for suffix in versions
        }
        columns |= _token_bias_parts(place, "")
        if starts is not None:
            columns |= _token_bias_parts(starts[i][0], "_initial")
        frames.append(pd.DataFrame(columns | distances))
    if starts is not None and len(starts) != len(frames):
        raise ValueError(
            f"initial has {len(starts)} gating units and model {len(frames)}; make it with "
            "create_model(model.config)"
        )
    return pd.concat(frames, ignore_index=True)


def _matching(start: list[tuple[Place, Array, Array]], place: Place, table: Array) -> Array:
    """The initial table of the unit at `place`, or ValueError."""
    if not start or start[0][0][:4] != place[:4] or start[0][1].shape != table.shape:
        raise ValueError(
            f"initial has no unit like model's at {place[:4]} (stage, block, step, branch) with "
            f"table {table.shape}; make it with create_model(model.config)"
        )
    return start[0][1]


def _token_bias_parts(place: Place, suffix: str) -> dict[str, float]:
    """TOKEN_BIAS of a unit."""
    bias = getattr(place.unit, "token_bias", None)
    even = odd = np.full(1, np.nan)
    if bias is not None and "T" in place.branch:
        by_frame = bias.detach().double().cpu().numpy().reshape(place.unit.window[0], -1)
        even, odd = _rms_parts(by_frame[None, :, :, None])
    return {name + suffix: float(np.squeeze(each)) for name, each in
            zip(TOKEN_BIAS, (even, odd), strict=True)}  # fmt: skip


def _rms_parts(values: Array) -> tuple[Array, Array]:
    """Root mean squares of the even and the odd part along axis 1 of (G, time, ., .): (G,) each."""
    turned = values[:, ::-1]
    even, odd = (values + turned) / 2, (values - turned) / 2
    return np.sqrt((even**2).mean((1, 2, 3))), np.sqrt((odd**2).mean((1, 2, 3)))


def _distance(table: Array, start: Array) -> Array:
    return np.sqrt(((table - start) ** 2).mean(axis=(1, 2, 3)))


@np.errstate(divide="ignore", invalid="ignore")  # all-zero groups give NaN, as documented
def _statistics(table: Array, branch: str) -> dict[str, Array | float]:
    """STATISTICS of a (G, 2T-1, 2h-1, 2w-1) table: a value a group, or one for the unit."""
    over = (1, 2, 3)
    energy = table**2
    share = energy / energy.sum(axis=over, keepdims=True)
    dt, dy, dx = (
        np.expand_dims(np.arange(side) - side // 2, tuple({0, 1, 2} - {axis}))
        for axis, side in enumerate(table.shape[1:])
    )
    odd = (table - table[:, ::-1]) / 2
    rms_even, rms_odd = _rms_parts(table)
    no_time, no_space = "T" not in branch, "S" not in branch
    return {
        "locality_temporal": np.nan if no_time else np.sqrt((share * dt**2).sum(over)),
        "locality_spatial": np.nan if no_space else np.sqrt((share * (dy**2 + dx**2)).sum(over)),
        "centre_dt": np.nan if no_time else (share * dt).sum(over),
        "centre_dy": np.nan if no_space else (share * dy).sum(over),
        "centre_dx": np.nan if no_space else (share * dx).sum(over),
        "anisotropy": np.nan if no_space else _anisotropy(share.sum(axis=1)),
        "entropy": _entropy(share.reshape(len(table), -1)),
        "temporal_asymmetry": np.nan if no_time else (odd**2).sum(over) / energy.sum(over),
        "temporal_even": np.nan if no_time else rms_even,
        "temporal_odd": np.nan if no_time else rms_odd,
        "effective_rank": _effective_rank(table.reshape(len(table), -1)),
        "group_diversity": _group_diversity(table.reshape(len(table), -1)),
    }


def _anisotropy(share: Array) -> Array:
    """Of the shares (G, 2h-1, 2w-1) of each (dy, dx): a value a group."""
    dy, dx = np.indices(share.shape[1:], dtype=float)

    def covariance(a: Array, b: Array) -> Array:
        mean_a, mean_b, mean_ab = ((share * x).sum(axis=(1, 2)) for x in (a, b, a * b))
        return mean_ab - mean_a * mean_b

    yy, xx, yx = covariance(dy, dy), covariance(dx, dx), covariance(dy, dx)
    spread = yy + xx  # up to rounding: 0 for a map at one place
    return np.hypot(yy - xx, 2 * yx) / np.where(spread > 1e-9, spread, np.nan)


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
