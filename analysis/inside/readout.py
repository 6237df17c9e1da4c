"""What can be read out of each stage: linear probes, trained on train clips alone.

Shapes: n clips, F features; activations are (B, T, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from analysis.borrow import borrowed, unwrapped
from analysis.figures.place import width_of
from analysis.figures.style import by_model, check_rows, colour, styled, wrapped
from analysis.inside.activations import HookPoint, chosen_points, run_hooked
from posmlp.config_checks import one_of
from posmlp.data.augment import normalise
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import ClipSource
from posmlp.model import PosMLPVideo

TARGETS = ("class", "pair", "direction", "position", "identity")
STRENGTHS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)  # of the ridge; features have variance 1
AXES = {"T": 1, "H": 2, "W": 3}
EVERYWHERE, TIME = "THW", "T"
Array = NDArray[Any]
Targets = str | Sequence[str] | Mapping[str, tuple[Array, Array, Array]]


class _Target(NamedTuple):
    """What to read, one array a split: labels (n,), or numbers (n, k) of which NaN is unknown."""

    values: tuple[Array, ...]
    is_number: bool
    parts: tuple[Array, ...] | None = None  # a probe for each value of these


def probe(
    model: PosMLPVideo,
    train: ClipSource,
    val: ClipSource,
    test: ClipSource,
    where: str = "stage?",
    target: Targets | None = None,
    *,
    over: str | None = None,
    batch_size: int = 64,
) -> pd.DataFrame:
    """What a linear probe reads out of each activation, a row an activation and target.

    A ridge (of labels: scikit-learn's RidgeClassifier) on standardised features is trained on train
    clips; val chooses its strength; test is scored once. A probe says that something is there in a
    form that a linear layer can read, not that the model reads it: `patch` asks that.

    Parameters
    ----------
    model : PosMLPVideo
        On any device; handed back as it was.
    train, val, test : ClipSource
        Three splits, as `posmlp.data.sources.open_clips` gives them.
    where : str
        A shell pattern over the names of `analysis.activations`; all stages by default.
    target : str, sequence or mapping, optional
        Some of `class`; `pair` (a class and its reversal count as one); `direction` (which of the
        two, by a probe for each pair that all splits have); `position` (x and y of the mover's
        centre, a mean over frames, in shares of the frame's side); `identity` (the digit that
        moves). By default all that the clips tell: the last two of generated clips alone. A mapping
        gives names of one's own with the values of the three splits: whole numbers are labels,
        others numbers to regress on, (n,) or (n, k).
    over : str, optional
        The axes of T, H and W over which features are means; the others stay, so that `"T"` keeps
        every place apart. By default `"THW"`, but `"T"` for `position`, which means over places
        have lost.
    batch_size : int
        Clips at a time.

    Returns
    -------
    DataFrame
        name, stage, target, metric (`accuracy`, or `r2`: the share of variance explained, meant
        over numbers), num_features, strength (of the ridge), train, val, test (the scores), chance
        (of the commonest train label; 0 for r2), n (test clips that are scored).

    Raises
    ------
    ValueError
        If `where` fits nothing, the clips do not tell a target, or a mapping does not fit them.

    Source: Alain and Bengio, Understanding intermediate layers using linear classifier probes,
    2016.
    """
    model = unwrapped(model)
    splits = (train, val, test)
    points = chosen_points(model, where)
    targets = _targets(target, splits)
    if over is not None and (not set(over) <= set(AXES) or len(set(over)) != len(over)):
        raise ValueError(f"over={over!r} must name axes of T, H and W, for example 'THW' or 'T'")
    axes = dict.fromkeys(targets, EVERYWHERE if over is None else over)
    if over is None and "position" in axes:
        axes["position"] = TIME
    means = set(axes.values())
    with borrowed(model), torch.no_grad():
        features = [_features(model, data, points, means, batch_size) for data in splits]
    rows = []
    for point in points:
        for name, wanted in targets.items():
            inputs = [each[point.name, axes[name]] for each in features]
            row = {"name": point.name, "stage": point.stage, "target": name}
            rows.append({**row, "num_features": inputs[0].shape[1], **_read(inputs, wanted)})
    return pd.DataFrame(rows).astype({"stage": "Int64"})


def _features(
    model: PosMLPVideo,
    data: ClipSource,
    points: Sequence[HookPoint],
    means: set[str],
    batch_size: int,
) -> dict[tuple[str, str], Array]:
    """Features (n, F) of a split by activation and axes of the mean."""
    kept: dict[tuple[str, str], list[Tensor]] = {}

    def keep(name: str, x: Tensor) -> None:
        for over in means:
            axes = [AXES[axis] for axis in over if x.dim() == 5]
            mean = x.float().mean(axes) if axes else x.float()
            kept.setdefault((name, over), []).append(mean.flatten(1).cpu())

    like = next(model.parameters())
    for batch in data.batches(torch.arange(len(data)).split(batch_size)):
        run_hooked(model, normalise(batch.to(like.device)).to(like), points, {}, keep)
    return {key: torch.cat(parts).double().numpy() for key, parts in kept.items()}


def _targets(target: Targets | None, splits: Sequence[ClipSource]) -> dict[str, _Target]:
    if isinstance(target, Mapping):
        return {name: _given(name, values, splits) for name, values in target.items()}
    told = list(TARGETS)
    if any(_digits(data) is None for data in splits):
        told = told[:3]
    if any(data.reverse_of is None for data in splits):
        told = [name for name in told if name not in ("pair", "direction")]
    names = told if target is None else [target] if isinstance(target, str) else list(target)
    for name in names:
        one_of(name, TARGETS, "target")
        if name not in told:
            raise ValueError(
                f"these clips do not tell {name!r}: pair and direction need classes that are each "
                f"other's reversals, position and identity generated clips; use {', '.join(told)}, "
                "or give the values as a mapping"
            )
    return {name: _told(name, splits) for name in names}


def _given(name: str, values: Sequence[Array], splits: Sequence[ClipSource]) -> _Target:
    arrays = tuple(np.asarray(each) for each in values)
    if [len(each) for each in arrays] != [len(data) for data in splits]:
        raise ValueError(
            f"target {name!r} has {[len(each) for each in arrays]} values for "
            f"{[len(data) for data in splits]} clips; give one a clip of train, val and test"
        )
    return _Target(arrays, is_number=arrays[0].dtype.kind == "f")


def _told(name: str, splits: Sequence[ClipSource]) -> _Target:
    if name in ("position", "identity"):
        found = tuple(_truth(data, name) for data in splits)
        return _Target(found, is_number=name == "position")
    labels = tuple(data.labels.numpy() for data in splits)
    if name == "class":
        return _Target(labels, is_number=False)
    pairs = tuple(
        np.minimum(own, data.reverse_of.numpy()[own])  # type: ignore[union-attr]
        for own, data in zip(labels, splits, strict=True)
    )
    return _Target(pairs, False) if name == "pair" else _Target(labels, False, pairs)


def _digits(data: ClipSource) -> tuple[MovingDigits, Tensor] | None:
    """The generator of a split's clips, and which of its clips they are; None for videos."""
    described = dict(data.describe())
    if described.pop("name", None) != MovingDigits.name:
        return None
    kept = described.pop("kept", range(len(data)))
    return MovingDigits(**described), torch.as_tensor(kept)


def _truth(data: ClipSource, name: str) -> Array:
    """position (n, 2), NaN where the mover is never seen; identity (n,)."""
    found = _digits(data)
    assert found is not None
    digits, kept = found
    if name == "identity":
        return digits.identities(kept).numpy()
    masks = digits.render(kept).masks.double()  # (n, T, H, W)
    weight = masks.sum((1, 2, 3))
    side = (torch.arange(masks.shape[-1]) + 0.5) / masks.shape[-1]
    across, down = (masks.sum((1, axis)) @ side.double() for axis in (2, 3))
    return torch.stack([across / weight, down / weight], dim=1).numpy()


def _read(inputs: Sequence[Array], wanted: _Target) -> dict[str, Any]:
    """Scores of the probe whose strength val chooses."""
    from sklearn.linear_model import RidgeClassifier

    if wanted.is_number:
        return {"metric": "r2", **_regress(inputs, wanted.values), "chance": 0.0}
    one = tuple(np.zeros(len(each)) for each in wanted.values)
    right, counts, chance, strengths = np.zeros(3), np.zeros(3), 0.0, []
    parts = wanted.parts or one
    for part in np.unique(parts[0]):
        own = [values == part for values in parts]
        xs = [x[chosen] for x, chosen in zip(inputs, own, strict=True)]
        ys = [y[chosen] for y, chosen in zip(wanted.values, own, strict=True)]
        if len(np.unique(ys[0])) < 2 or not all(map(len, ys)):
            continue
        hits, strength = _best(RidgeClassifier, xs, ys, lambda y, guess: (guess == y).sum())
        names, times = np.unique(ys[0], return_counts=True)
        right, counts = right + hits, counts + [len(y) for y in ys]
        chance += float((ys[2] == names[times.argmax()]).sum())
        strengths.append(strength)
    if not strengths:
        raise ValueError("there are no two labels to tell apart in all of train, val and test")
    scores = dict(zip(("train", "val", "test"), right / counts, strict=True))
    return {
        "metric": "accuracy", "strength": float(np.median(strengths)), **scores,
        "chance": chance / counts[2], "n": int(counts[2]),
    }  # fmt: skip


def _regress(inputs: Sequence[Array], values: Sequence[Array]) -> dict[str, Any]:
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    ys = [np.asarray(each, dtype=float).reshape(len(each), -1) for each in values]
    known = [np.isfinite(y).all(1) for y in ys]
    xs, ys = ([of[chosen] for of, chosen in zip(each, known, strict=True)] for each in (inputs, ys))
    scores, strength = _best(Ridge, xs, ys, lambda y, guess: r2_score(y, guess.reshape(y.shape)))
    named = dict(zip(("train", "val", "test"), map(float, scores), strict=True))
    return {"strength": strength, **named, "n": len(ys[2])}


def _best(
    ridge: Any, xs: Sequence[Array], ys: Sequence[Array], score: Callable[[Array, Array], float]
) -> tuple[Array, float]:
    """Of the strength that is best on val, the weakest of equals: scores of each split, and it."""
    xs = _standardised(xs)
    found = []
    for strength in STRENGTHS:
        fitted = ridge(alpha=strength).fit(xs[0], ys[0])
        scores = [score(y, fitted.predict(x)) for x, y in zip(xs, ys, strict=True)]
        found.append((np.array(scores), strength))
    return max(found, key=lambda each: each[0][1])


def _standardised(xs: Sequence[Array]) -> list[Array]:
    """By the mean and standard deviation of the first; constant features stay 0."""
    mean, std = xs[0].mean(0), xs[0].std(0)
    return [(x - mean) / np.where(std > 1e-12 * np.abs(mean).clip(1), std, np.inf) for x in xs]


@styled
def draw_probe(data: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """The test score of each target against the activations that it is read from.

    `data`: rows of `probe`; a column `model`, if there is one, tells models apart: the first is
    drawn in full lines, others dashed, and chance dotted. Raises ValueError for no rows and a
    missing column.
    """
    check_rows(data, ("name", "target", "metric", "test", "chance", "n"), "analysis.probe")
    ax = ax or plt.subplots(figsize=(5.4, 3.0))[1]
    names, (models, told) = list(dict.fromkeys(data["name"])), by_model(data)
    places = {name: i for i, name in enumerate(names)}
    for number, target in enumerate(dict.fromkeys(data["target"])):
        for i, rows in enumerate(models):
            own = rows[rows["target"] == target]
            at = [places[name] for name in own["name"]]
            label = f"{target}{' (R²)' if own['metric'].eq('r2').any() else ''}"
            ax.plot(at, 100 * own["test"], marker="o" if i == 0 else ".", color=colour(number),
                    linestyle="-" if i == 0 else "--", label=label if i == 0 else None)  # fmt: skip
            if i == 0:
                ax.plot(at, 100 * own["chance"], ":", color=colour(number), linewidth=0.8)
    ax.set_xticks(range(len(names)), [name.replace("stage", "stage ") for name in names])
    ax.set_ylabel("accuracy or R² on test clips (%)")
    n = int(data["n"].max())
    ax.set_xlabel("\n".join(filter(None, [told, f"dotted: chance; {n} test clips"])))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set_title(wrapped(title or _finding(models[0]), 0.9 * width_of(ax.figure)))
    return ax


def _finding(rows: pd.DataFrame) -> str:
    """What is read furthest above chance, for a title."""
    above = (rows["test"] - rows["chance"]) / (1 - rows["chance"])
    if not (above > 0).any():
        return "A linear probe reads nothing here above chance"
    best = rows.iloc[int(above.to_numpy().argmax())]
    measure = "R² " if best["metric"] == "r2" else ""
    return (
        f"Read best: {best['target']} at {best['name']}, {measure}{best['test']:.0%} on test clips"
    )
