"""Interventions: change a model's tables and see what its accuracy loses.

A map shows what a unit could use; an intervention shows what the model does use.

Shapes: I interventions, N clips, K classes, G channel groups. A table is (G, 2w-1 for each axis)
in offset order, with offset = query - key (`posmlp.positions`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from analysis.bias.maps import Place, check_ours, kind_of, units
from analysis.borrow import unwrapped
from posmlp.config_checks import BRANCHES, one_of
from posmlp.gates.convolution import ConvGate
from posmlp.model import PosMLPVideo

KINDS = ("knock_out", "symmetrise", "shuffle", "truncate", "transplant")
State = dict[str, Tensor]


@dataclass(frozen=True)
class Intervention:
    """What to do to which tables, in plain values; checked when it is made.

    stage, block, step (from 1), branch and group (from 0) choose: None takes all. So
    `Intervention("shuffle", stage=3, branch="T")` shuffles every temporal table of stage 3.

    kind, with b the table of one group:

    - `knock_out`: b = 0.
    - `symmetrise`: b(dt) becomes (b(dt) + b(-dt)) / 2 at the same dy and dx: the past weighs as the
      future does. Units without a time axis stay as they are.
    - `shuffle`: the offsets are permuted, each group's by a permutation that is a function of
      `seed` and the group's place alone.
    - `truncate`: b = 0 where |dt| > `radius` or sqrt(dy^2 + dx^2) > `radius`.
    - `transplant`: b is that of the same place in the model `donor`, a name given to `intervene`.

    All else stays: token biases, by which a T or ST unit tells early frames from late ones even
    with its tables symmetrised or knocked out, a dense part, and attention's content scores.
    """

    kind: str
    stage: int | None = None
    block: int | None = None
    step: int | None = None
    branch: str | None = None
    group: int | None = None
    seed: int | None = None
    radius: float | None = None
    donor: str | None = None

    def __post_init__(self) -> None:
        one_of(self.kind, KINDS, "kind of intervention")
        if self.branch is not None:
            one_of(self.branch, BRANCHES, "branch")
        needs = {"shuffle": "seed", "truncate": "radius", "transplant": "donor"}
        for name in needs.values():
            given, needed = getattr(self, name) is not None, needs.get(self.kind) == name
            if given != needed:
                what = "needs a" if needed else "takes no"
                raise ValueError(f"kind={self.kind!r} {what} {name}, got {getattr(self, name)!r}")
        if self.radius is not None and self.radius < 0:
            raise ValueError(f"radius={self.radius} must be at least 0 (frames and tokens)")

    def __str__(self) -> str:
        """For example `shuffle stage 3 T (seed 0)`."""
        where = [
            value if name == "branch" else f"{name} {value}"
            for name in ("stage", "block", "step", "branch", "group")
            if (value := getattr(self, name)) is not None
        ]
        options = [
            f"({name} {value})"
            for name in ("seed", "radius", "donor")
            if (value := getattr(self, name)) is not None
        ]
        return " ".join([self.kind.replace("_", " "), *(where or ["all"]), *options])


class Table(NamedTuple):
    """A table that can be changed: where it stands, its state_dict key and its parameter."""

    place: Place
    name: str
    values: Tensor


def free_tables(model: PosMLPVideo) -> list[Table]:
    """The tables that a model has as parameters, in the order of computation.

    Of `lrpe`, `lrpe+dense` (the table beside its dense part), `attention` (the relative part) and
    `conv` (the kernel). Raises ValueError for a gate that has none.
    """
    model = unwrapped(model)
    check_ours(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = []
    for place in units(model):
        values = _values(place.unit)
        if values is None or id(values) not in names:
            raise ValueError(
                f"gate {kind_of(place.unit)} (stage {place.stage}) has no table of free numbers by "
                "offset, which is what an intervention changes; use a model with gate lrpe, "
                "lrpe+dense, attention or conv, or give your own a bias_table() that is a parameter"
            )
        found.append(Table(place, names[id(values)], values))
    return found


def _values(unit: Any) -> Tensor | None:
    if isinstance(unit, ConvGate):
        return unit.kernel  # bias_table() is the kernel in a margin of zeros
    return unit.bias_table() if hasattr(unit, "bias_table") else None


def knock_outs(model: PosMLPVideo) -> list[Intervention]:
    """The knock-out of every single group of every table, in the order of computation."""
    return [
        Intervention("knock_out", *table.place[:4], group=group)
        for table in free_tables(model)
        for group in range(len(table.values))
    ]


def targets(intervention: Intervention, tables: Iterable[Table]) -> list[Table]:
    """The tables that an intervention changes. Raises ValueError if there are none."""
    tables = list(tables)
    chosen = [table for table in tables if _is_chosen(intervention, table)]
    if not chosen:
        places = ", ".join(
            f"{s}.{b}.{k} {branch} ({len(table.values)} groups)"
            for table in tables
            for s, b, k, branch, _ in [table.place]
        )
        raise ValueError(
            f"{str(intervention)!r} chooses no table"
            f"{' with a time axis' if intervention.kind == 'symmetrise' else ''}; the model has "
            f"(stage.block.step branch): {places}"
        )
    return chosen


def _is_chosen(intervention: Intervention, table: Table) -> bool:
    for name in ("stage", "block", "step", "branch"):
        if getattr(intervention, name) not in (None, getattr(table.place, name)):
            return False
    if intervention.kind == "symmetrise" and "T" not in table.place.branch:
        return False
    return intervention.group is None or 0 <= intervention.group < len(table.values)


def changed_tables(
    intervention: Intervention,
    model: PosMLPVideo,
    donors: Mapping[str, PosMLPVideo] | None = None,
) -> State:
    """The tables that an intervention changes, by state_dict key, as new tensors.

    Raises ValueError if it chooses no table, or the donor is missing or of other shapes.
    """
    given = {} if intervention.donor is None else _donated(intervention.donor, donors)
    changed = {}
    for table in targets(intervention, free_tables(model)):
        values = table.values.detach().clone()
        chosen = slice(None) if intervention.group is None else [intervention.group]
        new = _changed(intervention, table, values, given)
        values[chosen] = new[chosen].to(values)
        changed[table.name] = values
    return changed


def _changed(intervention: Intervention, table: Table, values: Tensor, donated: State) -> Tensor:
    """All groups' tables after the intervention."""
    if intervention.kind == "knock_out":
        return torch.zeros_like(values)
    if intervention.kind == "symmetrise":
        return (values + values.flip(1)) / 2  # offsets run from -(w-1) to w-1
    if intervention.kind == "shuffle":
        return _shuffled(values, table.place, intervention.seed)
    if intervention.kind == "truncate":
        return values * _within(intervention.radius or 0.0, table)
    new = donated.get(table.name)
    if new is None or new.shape != values.shape:
        raise ValueError(
            f"donor {intervention.donor!r} has no table of shape {list(values.shape)} at "
            f"{table.name}; give a model of the same config, or resize it with resize_bias"
        )
    return new


def _donated(name: str, donors: Mapping[str, PosMLPVideo] | None) -> State:
    donors = donors or {}
    if name not in donors:
        raise ValueError(f"no donor {name!r} among {list(donors)}; pass donors={{{name!r}: model}}")
    return {table.name: table.values.detach() for table in free_tables(donors[name])}


def _shuffled(values: Tensor, place: Place, seed: int | None) -> Tensor:
    """Each group's offsets permuted, by generators of (seed, place, group)."""
    where = [place.stage, place.block, place.step, BRANCHES.index(place.branch)]
    num_offsets = math.prod(values.shape[1:])
    orders = [
        np.random.default_rng([seed or 0, *where, group]).permutation(num_offsets)
        for group in range(len(values))
    ]
    index = torch.from_numpy(np.stack(orders)).to(values.device)
    return values.flatten(1).gather(1, index).unflatten(1, values.shape[1:])


def _within(radius: float, table: Table) -> Tensor:
    """1 at the offsets that a truncation keeps, 0 elsewhere; the table's shape less its groups."""
    sides = table.values.shape[1:]
    grid = torch.meshgrid(*(torch.arange(n) - n // 2 for n in sides), indexing="ij")
    num_time_axes = int("T" in table.place.branch)
    parts = [axes for axes in (grid[:num_time_axes], grid[num_time_axes:]) if axes]
    distances = [torch.stack(axes).double().square().sum(0).sqrt() for axes in parts]
    return (torch.stack(distances) <= radius).all(0).to(table.values)


def columns_of(intervention: Intervention) -> dict[str, Any]:
    """The fields as columns of a row, numbers that are not given as missing."""
    return {field.name: getattr(intervention, field.name) for field in fields(intervention)}
