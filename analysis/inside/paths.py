"""What branches add to an answer, and along which paths.

Shapes: P pairs of clips, B of them at once, K classes; activations are (B, T, H, W, C).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.borrow import borrowed, unwrapped
from analysis.inside.activations import (
    MOST_MIB,
    Edit,
    HookPoint,
    chosen_points,
    hook_points,
)
from analysis.inside.patching import (
    COLUMNS,
    MEAN,
    REVERSED,
    ROUNDING,
    UNRELATED,
    Pair,
    batches_of,
    once_a_pair,
    patch,
    say_if_equal,
    share_of,
    turned,
    typed,
    where_of,
)
from posmlp.model import PosMLPVideo

ENTRY, NORM, OUT, LOGITS = "input", "norm", "out", "logits"


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
    clips = once_a_pair(clips)
    outs = [point for point in hook_points(model) if point.part == OUT]
    last = len(model.stages)
    of_last = [point for point in outs if point.stage == last]
    moved: dict[str, list[NDArray[np.float64]]] = {}
    apart = []
    with borrowed(model), torch.no_grad():
        for one, other, _ in batches_of(clips, REVERSED, batch_size):
            runs = Pair(model, one, other, True)
            apart.append(runs.apart())
            sums = _summands(runs, of_last)
            _check_sums(sums, runs)
            for name, there in sums.items():
                moved.setdefault(name, []).append(runs.along(there))
    differences = np.concatenate(apart)
    rows = []
    if of_last != outs:
        earlier = patch(
            model, clips, where="*.out", confidence=confidence, batch_size=batch_size,
            max_memory_mib=max_memory_mib,
        )  # fmt: skip
        earlier = earlier[earlier["stage"] != last].drop(columns=["part", "frame"])
        rows = earlier.assign(how="patch").to_dict("records")
    else:
        say_if_equal(differences)
    points = {point.name: point for point in of_last}
    for name, changes in moved.items():
        point = points.get(name, HookPoint(name, model, "places", last if name != NORM else None))
        share = share_of(np.concatenate(changes), differences, confidence)
        rows.append({**where_of(point), "how": "sum", **share})
    columns = [*COLUMNS[:-1], "how", "share", "low", "high", "n"]
    return typed(pd.DataFrame(rows)[columns])


def patch_paths(
    model: PosMLPVideo,
    clips: Tensor,
    senders: str,
    receivers: str = "*",
    others: str | Tensor = REVERSED,
    *,
    confidence: float = 0.95,
    batch_size: int = 32,
) -> pd.DataFrame:
    """How much of the difference goes from a branch straight to a later one, and on from there.

    As in `patch` a clip and another are run. The sender's output is exchanged, while what all later
    branches add stays as it was, so that only the residual sums carry the change; what the receiver
    would then add is kept. In another run it takes the place of what the receiver added, and all
    that follows is free. The share is that of `patch`, for the change that this makes. The receiver
    `logits` is what goes past all later branches to the classifier.

    Parameters
    ----------
    senders, receivers : str
        Shell patterns over the names of branches' outputs, such as `stage4.block1.step1.T.out`, and
        of `logits`. A sender is paired with the receivers of later steps; the cost is a run for
        each, and two more.
    others : "reversed", "unrelated" or Tensor
        As in `patch`, as are the other parameters.

    Returns
    -------
    DataFrame
        A row a sender and receiver: sender; name, stage, block, step, branch, part of the receiver;
        share, low, high, n as in `patch`.

    Raises
    ------
    ValueError
        If a pattern fits no branch, no receiver is later than a sender, and as `patch`.

    Source: path patching, Goldowsky-Dill et al., Localizing model behavior with path patching,
    2023.
    """
    model = unwrapped(model)
    if isinstance(others, str):
        if others == MEAN:
            raise ValueError(f"others={others!r} has no paths; use {REVERSED!r} or {UNRELATED!r}")
        clips = once_a_pair(clips)
    every = [point for point in hook_points(model) if point.part == OUT]
    pairs, ends = [], _ends(model, receivers, (LOGITS,))
    for sender in _ends(model, senders):
        later = [p for p in every if _step(p) > _step(sender)]
        pairs.append((sender, later, [p for p in ends if p in later or p.name == LOGITS]))
    if not any(chosen for _, _, chosen in pairs):
        raise ValueError(f"no branch that fits {receivers!r} comes after one that fits {senders!r}")
    moved: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    apart = []
    with borrowed(model), torch.no_grad():
        for one, other, is_reversed in batches_of(clips, others, batch_size):
            runs = Pair(model, one, other, is_reversed)
            apart.append(runs.apart())
            kept = runs.kept(every)
            for sender, later, chosen in pairs:
                both = [_along_paths(runs, way, kept, sender, later, chosen) for way in (0, 1)]
                for name in both[0]:
                    found = (both[0][name] + both[1][name]) / 2
                    moved.setdefault((sender.name, name), []).append(found)
    differences = np.concatenate(apart)
    say_if_equal(differences)
    rows = [
        {"sender": sender.name, **where_of(point),
         **share_of(np.concatenate(moved[sender.name, point.name]), differences, confidence)}
        for sender, _, chosen in pairs for point in chosen
    ]  # fmt: skip
    return typed(pd.DataFrame(rows))


def _ends(model: PosMLPVideo, where: str, others: Sequence[str] = ()) -> list[HookPoint]:
    found = [p for p in chosen_points(model, where) if p.part == OUT or p.name in others]
    if not found:
        raise ValueError(f"no branch's output fits {where!r}; such names end in .out")
    return found


def _step(point: HookPoint) -> tuple[int, int, int]:
    return point.stage or 0, point.block or 0, point.step or 0


def _along_paths(
    runs: Pair,
    way: int,
    kept: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    sender: HookPoint,
    later: Sequence[HookPoint],
    receivers: Sequence[HookPoint],
) -> dict[str, NDArray[np.float64]]:
    """<change, d> of one run by receiver."""
    own, given = kept[way], kept[1 - way][sender.name]
    given = turned(given) if runs.is_reversed else given
    added: dict[str, Tensor] = {}

    def held(name: str) -> Edit:
        def put(x: Tensor) -> Tensor:
            added[name] = x
            return own[name]

        return put

    changes = {sender.name: lambda _: given} | {point.name: held(point.name) for point in later}
    past_all = runs.run(way, changes, sender.stage)
    found = {}
    for point in receivers:
        if point.name == LOGITS:
            found[LOGITS] = runs.along((past_all - runs.logits[way]) * (1 - 2 * way))
        else:
            found[point.name] = runs.moved(way, point, added[point.name])
    return found


def _summands(runs: Pair, outs: Sequence[HookPoint]) -> dict[str, Tensor]:
    """What each part adds to the difference of the two runs' logits, (B, K).

    Parts of the last tokens are what the last stage began with and what each of its branches, whose
    `outs` these are, added. With tokens x = sum c and the norm's scale s in the one run, x' and s'
    in the other, turned back in time: s' c' - s c = (s + s')/2 (c' - c) + (s' - s) (c + c')/2. The
    first is the part's; the second, summed over parts, is NORM's.
    """
    model, last = runs.model, len(runs.model.stages)
    begun = [f[-2] if last == 1 else model.downsamples[-1](f[-2]) for f in runs.features]
    here, there = (
        {f"stage{last}.{ENTRY}": x, **kept} for x, kept in zip(begun, runs.kept(outs), strict=True)
    )
    there = {name: turned(x) for name, x in there.items()}
    scales = [
        (x.var(-1, unbiased=False, keepdim=True) + model.norm.eps).rsqrt()
        for x in (runs.features[0][-1], turned(runs.features[1][-1]))
    ]
    scale, change = (scales[0] + scales[1]) / 2, scales[1] - scales[0]
    tokens = {name: scale * _centred(there[name] - x) for name, x in here.items()}
    tokens[NORM] = change * sum(_centred(there[name] + x) / 2 for name, x in here.items())
    pooled = {name: (x * model.norm.weight).flatten(1, -2).mean(1) for name, x in tokens.items()}
    if not isinstance(model.head, torch.nn.Linear):
        return pooled
    return {name: x @ model.head.weight.T for name, x in pooled.items()}


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _check_sums(sums: dict[str, Tensor], runs: Pair) -> None:
    """Raise AssertionError unless the parts' differences sum to that of the logits."""
    total = torch.stack([each.double() for each in sums.values()]).sum(0)
    largest = max(float(each.abs().max()) for each in (*sums.values(), *runs.logits))
    bound = ROUNDING * torch.finfo(runs.clips[0].dtype).eps * max(largest, 1.0)
    gap = float((total - runs.difference).abs().max())
    assert gap <= bound, f"the parts of the last stage miss the logits' difference by {gap:.2g}"
