"""Which activation carries the order of frames: one is exchanged, and the answer watched.

Shapes: P pairs of clips, B of them at once, K classes; activations are (B, T, H, W, C).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from analysis.borrow import borrowed, unwrapped
from analysis.inside.activations import (
    MOST_MIB,
    HookPoint,
    Store,
    chosen_points,
    hook_points,
    run_from,
    run_hooked,
)
from posmlp.model import PosMLPVideo

COLUMNS = ("name", "stage", "block", "step", "branch", "part")
REVERSED = "reversed"
ROUNDING = 100  # roundings of the largest logit by which the answers of two equal runs may differ
ENTRY, NORM = "input", "norm"


def patch(
    model: PosMLPVideo,
    clips: Tensor,
    others: str | Tensor = REVERSED,
    where: str = "*",
    *,
    frames: bool = False,
    confidence: float = 0.95,
    batch_size: int = 32,
    max_memory_mib: int = MOST_MIB,
) -> pd.DataFrame:
    """How much of the difference between two clips' answers each activation carries.

    A clip x and another x' are run; then x is run again with one activation replaced by that of
    x', and x' with that of x. With f the logits and d = f(x') - f(x), the share of a pair is the
    projection of the change on the difference, <f(x, replaced) - f(x), d> / <d, d>, averaged over
    both ways. Over pairs it is the ratio of sums, so that a pair counts by how far its answers lie
    apart. 0: nothing of the difference goes through here; 1: all of it. Shares of activations on
    parallel ways need not sum to 1, since what follows is not linear; a share may be negative.

    Parameters
    ----------
    model : PosMLPVideo
        On any device; handed back as it was.
    clips : Tensor
        (P, 3, T, H, W), as the model takes them, on its device. Where they are exactly reversed
        pairs of neighbours, as paired test clips are, each pair is taken once.
    others : "reversed" or Tensor
        `"reversed"`: each clip's own reversal, whose activations are turned back in time before
        they are put in, so that only what a reversal changes is exchanged, and not the frames'
        order, which a part that is blind to time does not read. A tensor (P, 3, T, H, W) is taken
        as it is, for example `clips.roll(1, 0)`, unrelated clips, as a control.
    where : str
        A shell pattern over the names of `analysis.activations`.
    frames : bool
        Whether rows follow in which one frame of an activation is replaced; frames count from 0.
    confidence : float
        Of the intervals.
    batch_size : int
        Pairs at a time.
    max_memory_mib : int
        Bound on the activations that are held besides the stages' outputs; more names are then
        done in several turns.

    Returns
    -------
    DataFrame
        A row an activation, or one for each of its frames: name, stage, block, step, branch, part,
        frame (missing: the whole activation), share, low, high (Student's t-interval over pairs of
        that ratio, linearised), n (pairs whose answers differ). share is NaN where there are none:
        the two runs agree, as they do if nothing in the model hears the direction of time. A
        warning says so.

    Raises
    ------
    ValueError
        If `where` fits nothing, or others are of another shape than clips.

    Source: activation patching, Vig et al., Investigating gender bias in language models using
    causal mediation analysis, 2020; turning activations back in time is this project's.
    """
    model = unwrapped(model)
    points = chosen_points(model, where)
    if isinstance(others, str) and others == REVERSED:
        clips = _once_a_pair(clips)
    changes: dict[tuple[str, int | None], list[NDArray[np.float64]]] = {}
    apart = []
    with borrowed(model), torch.no_grad():
        for one, other, is_reversed in _batches(clips, others, batch_size):
            runs = _Pair(model, one, other, is_reversed)
            apart.append(runs.apart())
            for some in runs.portions(points, max_memory_mib * 2**20):
                for point, frame, moved in runs.exchanged(some, frames):
                    changes.setdefault((point.name, frame), []).append(moved)
    differences = np.concatenate(apart)
    _say_if_equal(differences)
    rows = []
    for point in points:
        for name, frame in [key for key in changes if key[0] == point.name]:
            share = _share(np.concatenate(changes[name, frame]), differences, confidence)
            rows.append({**_where(point), "frame": frame, **share})
    return _typed(pd.DataFrame(rows))


def contributions(
    model: PosMLPVideo,
    clips: Tensor,
    *,
    confidence: float = 0.95,
    batch_size: int = 32,
    max_memory_mib: int = MOST_MIB,
) -> pd.DataFrame:
    """What each branch adds to the difference between a clip's answer and its reversal's.

    In the last stage answers are sums: the last tokens are what the stage began with and what each
    branch added, and at a given scale of the last norm the logits are linear in them. Each
    summand's share of d = f(reversal) - f(clip) is <its difference, d> / <d, d>, its tokens turned
    back in time and at the mean of the two runs' scales; what the change of scale does is a summand
    of its own. These shares sum to 1, which is checked. For earlier branches, of which no such sum
    exists, the share is that of `patch`.

    Parameters are those of `patch`.

    Returns
    -------
    DataFrame
        A row a branch in the order of computation; `stageS.input` is what the last stage S began
        with, and `norm` what the last norm's scale does. Columns name, stage, block, step, branch,
        how (`patch`, or `sum` in the last stage), share, low, high, n, as in `patch`.

    Raises
    ------
    ValueError
        As `patch`.
    """
    model = unwrapped(model)
    clips = _once_a_pair(clips)
    last = len(model.stages)
    every = hook_points(model)
    outs = [point for point in every if point.part == "out"]
    early = [p for p in outs if p.stage != last]
    parts = [HookPoint(f"stage{last}.{ENTRY}", model, "places", last)]
    parts += [p for p in outs if p.stage == last]
    parts.append(HookPoint(NORM, model.norm, "places"))
    ends = (_first(last), f"stage{last}")
    kept = [p for p in every if p.name in ends or (p.part == "out" and p.stage == last)]
    moved: dict[str, list[NDArray[np.float64]]] = {point.name: [] for point in parts}
    apart = []
    with borrowed(model), torch.no_grad():
        for one, other, _ in _batches(clips, REVERSED, batch_size):
            runs = _Pair(model, one, other, True)
            apart.append(runs.apart())
            kept_of = []
            for batch in (one, other):
                store = Store(max_memory_mib * 2**20)
                run_hooked(model, batch, kept, {}, store.keep)
                kept_of.append(store.kept)
            sums = _summands(model, kept_of[0], kept_of[1], parts)
            _check_sums(sums, runs)
            for name, there in sums.items():
                moved[name].append(runs.along(there))
    differences = np.concatenate(apart)
    rows = []
    if early:
        earlier = patch(
            model, clips, where="*.out", confidence=confidence, batch_size=batch_size,
            max_memory_mib=max_memory_mib,
        )  # fmt: skip
        earlier = earlier[earlier["stage"] != last].drop(columns=["part", "frame"])
        rows = earlier.assign(how="patch").to_dict("records")
    else:
        _say_if_equal(differences)
    for point in parts:
        share = _share(np.concatenate(moved[point.name]), differences, confidence)
        rows.append({**_where(point), "how": "sum", **share})
    columns = [*COLUMNS[:-1], "how", "share", "low", "high", "n"]
    return _typed(pd.DataFrame(rows)[columns])


class _Pair:
    """Clips and their others (B each): both runs, and runs in which something is exchanged."""

    def __init__(self, model: PosMLPVideo, one: Tensor, other: Tensor, is_reversed: bool) -> None:
        self.model, self.clips, self.is_reversed = model, (one, other), is_reversed
        self.features = [PosMLPVideo.forward_features(model, clips) for clips in self.clips]
        end = len(model.stages) + 1
        self.logits = tuple(run_from(model, each, end).double() for each in self.features)
        self.difference = self.logits[1] - self.logits[0]

    def apart(self) -> NDArray[np.float64]:
        """<d, d> of each pair; 0 where the two answers are equal but for rounding."""
        largest = torch.stack(self.logits).abs().amax(dim=(0, 2))
        rounding = ROUNDING * torch.finfo(self.clips[0].dtype).eps * largest
        size = self.difference.square().sum(1)
        return torch.where(size > rounding**2, size, 0.0).cpu().numpy()

    def along(self, change: Tensor) -> NDArray[np.float64]:
        """<change, d> of each pair."""
        return (change.double() * self.difference).sum(1).cpu().numpy()

    def portions(self, points: Sequence[HookPoint], max_bytes: int) -> Iterator[list[HookPoint]]:
        """Points of which both runs' activations take no more than that; at least one at a time."""
        sizes: dict[str, int] = {}

        def measure(name: str, x: Tensor) -> None:
            sizes[name] = 2 * x.numel() * x.element_size()

        run_hooked(self.model, self.clips[0], points, {}, measure)
        some: list[HookPoint] = []
        for point in points:
            if some and sum(sizes[each.name] for each in [*some, point]) > max_bytes:
                yield some
                some = []
            some.append(point)
        yield some

    def exchanged(
        self, points: Sequence[HookPoint], frames: bool
    ) -> Iterator[tuple[HookPoint, int | None, NDArray[np.float64]]]:
        """<change, d> of each point, meant over both ways, and of each of its frames if asked."""
        kept = []
        for clips in self.clips:
            store = Store(2**62)
            run_hooked(self.model, clips, points, {}, store.keep)
            kept.append(store.kept)
        for point in points:
            given = [kept[way][point.name] for way in (1, 0)]
            has_time = given[0].dim() > 2
            if has_time and self.is_reversed:
                given = [x.flip(1) for x in given]
            parts = range(given[0].shape[1]) if has_time and frames else ()
            for frame in (None, *parts):
                yield point, frame, (self._way(0, point, given[0], frame)
                                     + self._way(1, point, given[1], frame)) / 2  # fmt: skip

    def _way(
        self, way: int, point: HookPoint, given: Tensor, frame: int | None
    ) -> NDArray[np.float64]:
        """<change, d> when this clip (way 0) or its other (way 1) is given what is not its own."""

        def put(x: Tensor) -> Tensor:
            if frame is None:
                return given
            changed = x.clone()
            changed[:, frame] = given[:, frame]
            return changed

        start = point.stage or (1 if point.name == "stem" else len(self.model.stages) + 1)

        def run(clips: Tensor) -> Tensor:  # what comes before that stage is as it was
            return run_from(self.model, self.features[way], start)

        clips = self.clips[way]
        if point.name == "stem":
            after = run_from(self.model, [put(self.features[way][0])], 1)
        else:
            after = run_hooked(self.model, clips, [], {point.name: put}, _nothing, run)
        return self.along((after - self.logits[way]) * (1 - 2 * way))


def _nothing(name: str, x: Tensor) -> None:
    """Keep nothing."""


def _batches(
    clips: Tensor, others: str | Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Clips with their others, and whether these are reversals. Raises ValueError for a misfit."""
    is_reversed = isinstance(others, str)
    if is_reversed and others != REVERSED:
        raise ValueError(f"others={others!r} must be 'reversed' or a tensor of clips")
    if clips.dim() != 5 or not len(clips):
        raise ValueError(f"clips of shape {tuple(clips.shape)} must be (P, 3, T, H, W) with P > 0")
    if isinstance(others, Tensor) and others.shape != clips.shape:
        raise ValueError(
            f"others of shape {tuple(others.shape)} must be of the clips' shape, "
            f"{tuple(clips.shape)}: one other a clip"
        )
    for i in range(0, len(clips), batch_size):
        one = clips[i : i + batch_size]
        other = others[i : i + batch_size] if isinstance(others, Tensor) else one.flip(2)
        yield one, other, is_reversed


def _once_a_pair(clips: Tensor) -> Tensor:
    """Every second clip where each is followed by its exact reversal; else all."""
    if clips.dim() == 5 and len(clips) % 2 == 0 and torch.equal(clips[1::2], clips[::2].flip(2)):
        return clips[::2]
    return clips


def _say_if_equal(apart: NDArray[np.float64]) -> None:
    if not apart.any():
        warnings.warn(
            f"the model answers all {len(apart)} clips as it answers the others: there is nothing "
            "to move, and shares are NaN",
            stacklevel=3,
        )


def _share(moved: NDArray[np.float64], apart: NDArray[np.float64], confidence: float) -> Any:
    """sum(moved) / sum(apart) over pairs that differ, with a linearised t-interval."""
    differ = apart > 0
    moved, apart, n = moved[differ], apart[differ], int(differ.sum())
    if not n:
        return {"share": np.nan, "low": np.nan, "high": np.nan, "n": 0}
    share = float(moved.sum() / apart.sum())
    if n == 1:
        return {"share": share, "low": np.nan, "high": np.nan, "n": 1}
    error = np.std(moved - share * apart, ddof=1) * np.sqrt(n) / apart.sum()
    margin = float(stats.t.ppf((1 + confidence) / 2, n - 1) * error)
    return {"share": share, "low": share - margin, "high": share + margin, "n": n}


def _where(point: HookPoint) -> dict[str, Any]:
    return {name: getattr(point, name) for name in COLUMNS}


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    whole = dict.fromkeys(("stage", "block", "step", "frame", "n"), "Int64")
    return rows.astype({name: kind for name, kind in whole.items() if name in rows})


def _first(stage: int) -> str:
    return f"stage{stage}.block1.step1"


def _summands(
    model: PosMLPVideo,
    one: dict[str, Tensor],
    other: dict[str, Tensor],
    parts: Sequence[HookPoint],
) -> dict[str, Tensor]:
    """What each part adds to the difference of the two runs' logits, (B, K).

    With tokens x = sum c and the norm's scale s in the one run, x' and s' in the other, turned back
    in time: s' c' - s c = (s + s')/2 (c' - c) + (s' - s) (c + c')/2. The first is the part's; the
    second, summed over parts, is NORM's.
    """
    here, there = _parts(one, parts), _parts({n: x.flip(1) for n, x in other.items()}, parts)
    last, eps = f"stage{len(model.stages)}", model.norm.eps
    scales = [
        (kept.var(-1, unbiased=False, keepdim=True) + eps).rsqrt()
        for kept in (one[last], other[last].flip(1))
    ]
    scale, change = (scales[0] + scales[1]) / 2, scales[1] - scales[0]
    tokens = {name: scale * _centred(there[name] - x) for name, x in here.items()}
    tokens[NORM] = change * sum(_centred(there[name] + x) / 2 for name, x in here.items())
    pooled = {name: (x * model.norm.weight).flatten(1, -2).mean(1) for name, x in tokens.items()}
    if not isinstance(model.head, torch.nn.Linear):
        return pooled
    return {name: x @ model.head.weight.T for name, x in pooled.items()}


def _parts(kept: dict[str, Tensor], parts: Sequence[HookPoint]) -> dict[str, Tensor]:
    """What the last stage began with, and what each of its branches added."""
    entry, first = parts[0], _first(parts[0].stage or 1)
    outs = {point.name: kept[point.name] for point in parts if point.part}
    begun = kept[first] - sum(x for name, x in outs.items() if name.startswith(f"{first}."))
    return {entry.name: begun, **outs}


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _check_sums(sums: dict[str, Tensor], runs: _Pair) -> None:
    """Raise AssertionError unless the parts' differences sum to that of the logits."""
    total = torch.stack([each.double() for each in sums.values()]).sum(0)
    largest = max(float(each.abs().max()) for each in (*sums.values(), *runs.logits))
    bound = ROUNDING * torch.finfo(runs.clips[0].dtype).eps * max(largest, 1.0)
    gap = float((total - runs.difference).abs().max())
    assert gap <= bound, f"the parts of the last stage miss the logits' difference by {gap:.2g}"
