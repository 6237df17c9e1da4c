"""What interventions on a model's tables do to its answers.

Shapes: I interventions, k of them at once, N clips, B a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from analysis.bias.maps import Place, units
from analysis.borrow import borrowed, unwrapped
from analysis.interventions.interventions import (
    Intervention,
    State,
    changed_tables,
    columns_of,
    free_tables,
    targets,
)
from analysis.results.statistics import t_interval
from posmlp.config import TrainConfig
from posmlp.data.augment import normalise
from posmlp.data.sources import ClipSource, open_clips
from posmlp.data.user_cache import NUM_WORKERS
from posmlp.model import PosMLPVideo

BYTES_A_NUMBER = 4


def intervene(
    model: PosMLPVideo,
    data: str | ClipSource,
    interventions: Sequence[Intervention],
    *,
    donors: Mapping[str, PosMLPVideo] | None = None,
    split: str = "test",
    confidence: float = 0.95,
    batch_size: int = 64,
    max_memory_mib: int = 256,
    train: TrainConfig | None = None,
    num_workers: int = NUM_WORKERS,
) -> pd.DataFrame:
    """Accuracy after each intervention, and its paired change against the intact model.

    Each clip is its own control: the change is the mean over clips of the difference between its
    score after and before (top-1: 1 if right; within pair: 1 if the true class outscores its time
    reversal, 1/2 if equal), with Student's t-interval of that mean. Where clips 2k and 2k + 1 are
    of reversed classes throughout, as paired test clips are, the two share all but the order of
    their frames, so the pair is the unit: its two differences are averaged first. Intervals are
    each by itself, not widened for the number of interventions; where no clip's score changed the
    interval has no width and tells nothing of other clips. Clips are the only randomness: for
    other trainings of the same config, repeat over seeds.

    Interventions that share their first changed table run in one vectorised call (torch.func.vmap
    over stacked tables), in which all that comes before that table is computed once.

    Parameters
    ----------
    model : PosMLPVideo
        On any device; handed back in the mode and with the parameters that it had.
    data : str or ClipSource
        What `posmlp.train.evaluate` takes; `split`, `train` and `num_workers` as there.
    interventions : sequence of Intervention
    donors : mapping of str to PosMLPVideo, optional
        The models that transplants name, on the same device.
    confidence : float
        Of the intervals.
    batch_size : int
        Clips at a time.
    max_memory_mib : int
        Rough bound on the activations of the interventions that run at once; one always does.

    Returns
    -------
    DataFrame
        One row an intervention, in order: its fields; intervention (in words); num_clips;
        num_units (pairs, or clips) behind the intervals; top1, top1_change, top1_low, top1_high;
        the same for within_pair, where classes have reversals; changed (the share of clips whose
        predicted class changed).

    Raises
    ------
    ValueError
        If a gate has no tables, an intervention chooses none, or a donor does not fit.

    Source: knocking out single parts, Morcos et al., On the importance of single directions for
    generalization, 2018; the other kinds are this project's.
    """
    if not interventions:
        raise ValueError("no interventions; give some, for example knock_outs(model)")
    model, max_bytes = unwrapped(model), max_memory_mib * 2**20
    with ExitStack() as stack:
        if isinstance(data, str):
            data = open_clips(
                data, split, model.config, train=train or TrainConfig(), num_workers=num_workers
            )
            stack.callback(data.close)
        stack.enter_context(borrowed(model))
        logits = logits_after(model, data, interventions, donors, batch_size, max_bytes)
    return _table(interventions, logits, data.labels, data.reverse_of, confidence)


def exemplars(
    model: PosMLPVideo, clips: Tensor, unit: str | Place, group: int, *, batch_size: int = 64
) -> pd.DataFrame:
    """The clips and frames in which one channel group of a unit says most, those first.

    What a group says is the difference that its knock-out makes: its table is set to 0, all else
    stays, and its branch is given what it was given before.

    Parameters
    ----------
    model : PosMLPVideo
        On any device; handed back as it was.
    clips : Tensor
        (B, 3, T, H, W), as the model takes them, on its device.
    unit : str or Place
        A name such as `stage4.block1.step1.T`, or one of `analysis.units`.
    group : int
        From 0.

    Returns
    -------
    DataFrame
        A row a clip and frame, the largest change first: clip, frame (from 0), change (root mean
        square, over the frame's places and channels, of the change in what the branch adds),
        answer (the root mean square of the change in the clip's logits).

    Raises
    ------
    ValueError
        If the model has no such unit or group, or its gate no table.
    """
    model = unwrapped(model)
    place = _place(model, unit)
    knock_out = Intervention("knock_out", *place[:4], group=group)
    branch: Any = model.stages[place.stage - 1].blocks[place.block - 1]  # type: ignore[index]
    branch = branch.steps[place.step - 1][place.branch]
    parts = []
    with borrowed(model), torch.no_grad():
        changed = changed_tables(knock_out, model)
        for batch in clips.split(batch_size):
            heard: list[Tensor] = []
            handle = branch.register_forward_hook(
                lambda _m, _i, out, heard=heard: heard.append(out)
            )
            try:
                logits = [model(batch), functional_call(model, changed, (batch,))]
            finally:
                handle.remove()
            change = (heard[1] - heard[0]).float().square().mean((1, 3, 4)).sqrt()  # (B, T)
            answer = (logits[1] - logits[0]).float().square().mean(1, keepdim=True).sqrt()
            parts.append(torch.stack([change, answer.expand_as(change)], dim=-1).cpu())
    found = torch.cat(parts).numpy()
    clip, frame = np.indices(found.shape[:2]).reshape(2, -1)
    rows = pd.DataFrame(found.reshape(-1, 2), columns=["change", "answer"])
    rows.insert(0, "clip", clip)
    rows.insert(1, "frame", frame)
    return rows.sort_values("change", ascending=False, kind="stable", ignore_index=True)


def _place(model: PosMLPVideo, unit: str | Place) -> Place:
    places = list(units(model))
    names = {f"stage{s}.block{b}.step{k}.{branch}": p
             for p in places for s, b, k, branch, _ in [p]}  # fmt: skip
    found = names.get(unit) if isinstance(unit, str) else next(
        (p for p in places if p[:4] == unit[:4]), None
    )  # fmt: skip
    if found is None:
        raise ValueError(f"the model has no unit {unit!r}; units are {', '.join(names)}")
    return found


@torch.no_grad()
def logits_after(
    model: PosMLPVideo,
    data: ClipSource,
    interventions: Sequence[Intervention],
    donors: Mapping[str, PosMLPVideo] | None,
    batch_size: int,
    max_bytes: int,
) -> Tensor:
    """Logits (1 + I, N, K): of the intact model, then after each intervention."""
    tables = free_tables(model)
    order = {table.name: i for i, table in enumerate(tables)}
    first = [min(order[t.name] for t in targets(each, tables)) for each in interventions]
    sizes = [
        max(1, max_bytes // bytes_at_once(model, table.place.stage, batch_size)) for table in tables
    ]
    chunks = list(_chunks(first, sizes))
    like = next(model.parameters())
    nothing: State = {tables[0].name: model.get_parameter(tables[0].name)}
    parts = []
    for batch in data.batches(torch.arange(len(data)).split(batch_size)):
        clips = normalise(batch.to(like.device)).to(like.dtype)
        # computed as the changed ones are, so that a change that does nothing gives the same bits
        intact = _at_once(model, clips, [nothing])[0]
        after = intact.new_empty(len(interventions), *intact.shape)
        for chunk in chunks:
            changes = [changed_tables(interventions[i], model, donors) for i in chunk]
            after[chunk] = _at_once(model, clips, changes)
        parts.append(torch.cat([intact[None], after]).float().cpu())
    return torch.cat(parts, dim=1)


def _chunks(first: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Interventions that have the same first table, by their numbers, at most sizes[table]."""
    by_table = sorted(range(len(first)), key=first.__getitem__)
    for table, same in groupby(by_table, key=first.__getitem__):
        numbers = list(same)
        for start in range(0, len(numbers), sizes[table]):
            yield numbers[start : start + sizes[table]]


def _at_once(model: PosMLPVideo, clips: Tensor, changes: Sequence[State]) -> Tensor:
    """Logits (k, B, K) after each of k changes of tables, all other parameters shared."""
    state = dict(model.named_parameters())
    names = sorted({name for change in changes for name in change})
    stacked = {name: torch.stack([c.get(name, state[name]) for c in changes]) for name in names}
    return vmap(lambda tables: functional_call(model, tables, (clips,)))(stacked)


def bytes_at_once(model: PosMLPVideo, first_stage: int, batch_size: int) -> int:
    """Roughly what one intervention on `first_stage` (from 1) holds: activations and relation.

    Of the largest stage from there on: tokens and their update (2 C), u, v, the copies of u that
    mixing makes, and the gated product (5 gated widths), and each unit's (G, N, N).
    """
    config: Any = model.config
    needed = []
    for stage, (rows, columns) in enumerate(config.stage_sizes(*config.size)):
        numbers = 2 * config.dims[stage] + 5 * config.gate_dim(stage)
        activations = batch_size * config.num_frames * rows * columns * numbers
        relations = [0] + [
            place.unit.num_groups * place.unit.num_tokens**2
            for place in units(model)
            if place.stage == stage + 1
        ]
        needed.append(activations + max(relations))
    return BYTES_A_NUMBER * max(needed[first_stage - 1 :])


def _table(
    interventions: Sequence[Intervention],
    logits: Tensor,
    labels: Tensor,
    reverse_of: Tensor | None,
    confidence: float,
) -> pd.DataFrame:
    """Rows from logits (1 + I, N, K), the intact model's first."""
    scores = _scores(logits.double(), labels, reverse_of)
    paired = _is_paired(labels, reverse_of)
    predicted = logits.argmax(-1)
    changed = (predicted[1:] != predicted[0]).double().mean(-1).tolist()
    rows = []
    for i, intervention in enumerate(interventions, start=1):
        row = columns_of(intervention) | {"intervention": str(intervention)}
        row |= {"num_clips": len(labels), "num_units": len(labels) // (2 if paired else 1)}
        for name, each in scores.items():
            difference = each[i] - each[0]
            each_unit = difference.reshape(-1, 2).mean(-1) if paired else difference
            change, low, high = t_interval(each_unit, confidence)
            row[name] = float(each[i].mean())
            row |= {f"{name}_change": change, f"{name}_low": low, f"{name}_high": high}
        rows.append(row | {"changed": changed[i - 1]})
    whole = dict.fromkeys(("stage", "block", "step", "group", "seed"), "Int64")
    return pd.DataFrame(rows).astype(whole | {"radius": float})


def _scores(
    logits: Tensor, labels: Tensor, reverse_of: Tensor | None
) -> dict[str, NDArray[np.float64]]:
    """Each clip's scores, (1 + I, N), whose means `posmlp.train.metrics` gives."""
    scores = {"top1": (logits.argmax(-1) == labels).double().numpy()}
    if reverse_of is not None:
        clips = torch.arange(len(labels))
        lead = logits[:, clips, labels] - logits[:, clips, reverse_of[labels]]
        scores["within_pair"] = ((lead.sign() + 1) / 2).numpy()
    return scores


def _is_paired(labels: Tensor, reverse_of: Tensor | None) -> bool:
    """Whether every clip 2k + 1 is of the class that reverses clip 2k's."""
    if reverse_of is None or len(labels) % 2:
        return False
    return bool((labels[1::2] == reverse_of[labels[::2]]).all())
