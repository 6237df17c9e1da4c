"""Which activation carries the order of frames: one is exchanged, and the answer watched.

Shapes: P pairs of clips, B of them at once, K classes; activations are (B, T, H, W, C).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
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
    Edit,
    HookPoint,
    Store,
    chosen_points,
    run_from,
    run_hooked,
)
from analysis.results.paired import check_confidence
from posmlp.model import PosMLPVideo

COLUMNS = ("name", "stage", "block", "step", "branch", "part")
REVERSED, UNRELATED, MEAN = OTHERS = "reversed", "unrelated", "mean"
ROUNDING = 100  # roundings of the largest logit by which the answers of two equal runs may differ
Cut = tuple[int | None, int | None, int | None]  # a frame, or a place's y and x; else all
WHOLE: Cut = (None, None, None)


def patch(
    model: PosMLPVideo,
    clips: Tensor,
    others: str | Tensor = REVERSED,
    where: str = "*",
    *,
    frames: bool = False,
    places: bool = False,
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
    others : "reversed", "unrelated", "mean" or Tensor
        `"reversed"`: each clip's own reversal, whose activations are turned back in time before
        they are put in, so that only what a reversal changes is exchanged, and not the frames'
        order, which a part that is blind to time does not read.
        `"unrelated"`, a control: the clip before it, so that all that the clips show is exchanged;
        a share that is as large here says nothing of time.
        `"mean"`, mean ablation: in a clip and in its reversal the activation is replaced by its
        mean over all clips and their reversals, these turned back; the share is how much of the
        difference between both answers is then gone. It asks what is needed, the others what is
        passed on: whatever the answer needs has a share, blind to time or not.
        A tensor (P, 3, T, H, W) is taken as it is.
    where : str
        A shell pattern over the names of `analysis.activations`.
    frames : bool
        Whether rows follow in which one frame of an activation is replaced; frames count from 0.
    places : bool
        Whether rows follow in which one place is replaced, in all frames; y and x count from 0.
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
        A row an activation, or one for each of its frames or places: name, stage, block, step,
        branch, part, frame (missing: all of them), y and x (missing: all places; columns that are
        there if `places`), share, low, high (Student's t-interval over pairs of
        that ratio, linearised), n (pairs whose answers differ). share is NaN where there are none:
        the two runs agree, as they do if nothing in the model hears the direction of time. A
        warning says so.

    Raises
    ------
    ValueError
        If `where` fits nothing, others are of another shape than clips, or a single clip has no
        unrelated one.

    Source: activation patching, Vig et al., Investigating gender bias in language models using
    causal mediation analysis, 2020; turning activations back in time is this project's.
    """
    model = unwrapped(model)
    points = chosen_points(model, where)
    if isinstance(others, str):
        clips = once_a_pair(clips)
    changes: dict[tuple[HookPoint, Cut], list[NDArray[np.float64]]] = {}
    apart, max_bytes = [], max_memory_mib * 2**20
    with borrowed(model), torch.no_grad():
        batches = partial(batches_of, clips, others, batch_size)
        means = _means(model, points, batches()) if others == MEAN else None
        for one, other, is_reversed in batches():
            runs = Pair(model, one, other, is_reversed)
            apart.append(runs.apart())
            for some in runs.portions(points, max_bytes):
                for point, cut, moved in runs.exchanged(some, frames, places, means):
                    changes.setdefault((point, cut), []).append(moved)
    differences = np.concatenate(apart)
    say_if_equal(differences)
    rows = []
    for (point, cut), parts in changes.items():
        at = dict(zip(("frame", "y", "x") if places else ("frame",), cut, strict=False))
        share = share_of(np.concatenate(parts), differences, confidence)
        rows.append({**where_of(point), **at, **share})
    return typed(pd.DataFrame(rows))


def _means(
    model: PosMLPVideo, points: Sequence[HookPoint], batches: Iterator[tuple[Tensor, Tensor, bool]]
) -> dict[str, Tensor]:
    """Each activation's mean over clips and their reversals, these turned back: (1, ...)."""
    sums: dict[str, Tensor] = {}
    count = 0

    def add(name: str, x: Tensor) -> None:
        sums[name] = sums.get(name, 0) + x.sum(0, keepdim=True)

    def add_turned(name: str, x: Tensor) -> None:
        add(name, turned(x))

    for one, other, _ in batches:
        run_hooked(model, one, points, {}, add)
        run_hooked(model, other, points, {}, add_turned)
        count += 2 * len(one)
    return {name: total / count for name, total in sums.items()}


class Pair:
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
        self,
        points: Sequence[HookPoint],
        frames: bool = False,
        places: bool = False,
        means: Mapping[str, Tensor] | None = None,
    ) -> Iterator[tuple[HookPoint, Cut, NDArray[np.float64]]]:
        """<change, d> of each point, and of each of its frames and places if asked.

        Meant over both ways; summed where both runs get `means`, what is left of d being sought.
        """
        kept = self.kept(points) if means is None else ({}, {})
        for point in points:
            if means is None:
                given = [kept[way][point.name] for way in (1, 0)]
                given = [turned(x) for x in given] if self.is_reversed else given
            else:
                mean = means[point.name].expand(len(self.clips[0]), *means[point.name].shape[1:])
                given = [mean, turned(mean)]
            cuts = [WHOLE]
            if given[0].dim() == 5:
                _, num_frames, rows, columns, _ = given[0].shape
                cuts += [(t, None, None) for t in range(num_frames if frames else 0)]
                cuts += [(None, y, x) for y in range(rows if places else 0) for x in range(columns)]
            for cut in cuts:
                moved = sum(self.moved(way, point, given[way], cut) for way in (0, 1))
                yield point, cut, moved if means is not None else moved / 2  # type: ignore[misc]

    def kept(self, points: Sequence[HookPoint]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Both runs' activations, as they are."""
        found = []
        for clips in self.clips:
            store = Store(2**62)
            run_hooked(self.model, clips, points, {}, store.keep)
            found.append(store.kept)
        return found[0], found[1]

    def moved(
        self, way: int, point: HookPoint, given: Tensor, cut: Cut = WHOLE
    ) -> NDArray[np.float64]:
        """<change, d> when this clip (way 0) or its other (way 1) is given what is not its own."""
        at = tuple(slice(None) if i is None else i for i in (None, *cut))

        def put(own: Tensor) -> Tensor:
            if cut == WHOLE:
                return given
            changed = own.clone()
            changed[at] = given[at]
            return changed

        if point.name == "stem":
            after = run_from(self.model, [put(self.features[way][0])], 1)
        else:
            after = self.run(way, {point.name: put}, point.stage)
        return self.along((after - self.logits[way]) * (1 - 2 * way))

    def run(self, way: int, changes: Mapping[str, Edit], stage: int | None) -> Tensor:
        """The logits with changes, none of them before that stage (None: after the last)."""
        start = stage or len(self.model.stages) + 1

        def run(clips: Tensor) -> Tensor:  # what comes before that stage is as it was
            return run_from(self.model, self.features[way], start)

        return run_hooked(self.model, self.clips[way], [], changes, nothing, run)


def turned(x: Tensor) -> Tensor:
    """(B, T, H, W, C) with its frames in reversed order; a vector as it is."""
    return x.flip(1) if x.dim() == 5 else x


def nothing(name: str, x: Tensor) -> None:
    """Keep nothing."""


def batches_of(
    clips: Tensor, others: str | Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Clips with their others, and whether these are reversals. Raises ValueError for a misfit."""
    is_reversed = isinstance(others, str) and others != UNRELATED
    if isinstance(others, str) and others not in OTHERS:
        raise ValueError(f"others={others!r} must be {', '.join(OTHERS)} or a tensor of clips")
    if clips.dim() != 5 or not len(clips):
        raise ValueError(f"clips of shape {tuple(clips.shape)} must be (P, 3, T, H, W) with P > 0")
    if isinstance(others, Tensor) and others.shape != clips.shape:
        raise ValueError(
            f"others of shape {tuple(others.shape)} must be of the clips' shape, "
            f"{tuple(clips.shape)}: one other a clip"
        )
    if not is_reversed and isinstance(others, str):
        if len(clips) < 2:
            raise ValueError("others='unrelated' takes the clip before it; give two clips or more")
        others = clips.roll(1, 0)
    for name, given in (("clips", clips), ("others", others)):
        if isinstance(given, Tensor) and (~given.isfinite()).any():  # else shares would be NaN
            raise ValueError(f"{name} hold NaN or infinite pixels; leave those clips out")
    for i in range(0, len(clips), batch_size):
        one = clips[i : i + batch_size]
        other = others[i : i + batch_size] if isinstance(others, Tensor) else one.flip(2)
        yield one, other, is_reversed


def once_a_pair(clips: Tensor) -> Tensor:
    """Every second clip where each is followed by its exact reversal; else all."""
    if clips.dim() == 5 and len(clips) % 2 == 0 and torch.equal(clips[1::2], clips[::2].flip(2)):
        return clips[::2]
    return clips


def say_if_equal(apart: NDArray[np.float64]) -> None:
    if not apart.any():
        warnings.warn(
            f"the model answers all {len(apart)} clips as it answers the others: there is nothing "
            "to move, and shares are NaN",
            stacklevel=3,
        )


def share_of(moved: NDArray[np.float64], apart: NDArray[np.float64], confidence: float) -> Any:
    """sum(moved) / sum(apart) over pairs that differ, with a linearised t-interval."""
    check_confidence(confidence)
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


def where_of(point: HookPoint) -> dict[str, Any]:
    return {name: getattr(point, name) for name in COLUMNS}


def typed(rows: pd.DataFrame) -> pd.DataFrame:
    whole = dict.fromkeys(("stage", "block", "step", "frame", "y", "x", "n"), "Int64")
    return rows.astype({name: kind for name, kind in whole.items() if name in rows})
