"""Checks of lesson 05: channel groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lessons.checks.verdict import Case, Verdict, judge
from posmlp import GATES


def channels_of(yours: Callable[[int, int, int], Any]) -> Verdict:
    """Your channels that share a group's table."""
    cases = []
    for group, dim, groups in ((0, 8, 2), (1, 8, 4), (2, 12, 3), (0, 4, 1)):
        expected = [c for c in range(dim) if c % groups == group]
        name = f"group {group} of {groups}, {dim} channels"
        cases.append(Case(name, (group, dim, groups), expected))
    return judge(yours, cases)


def mix_groups(yours: Callable[[Any, Any], Any]) -> Verdict:
    """Your mixing against the package's unit: one group, then as many as channels, then between."""
    cases = []
    for dim, groups in ((4, 1), (4, 4), (6, 2), (6, 3)):
        generator = torch.Generator().manual_seed(groups)
        unit: Any = GATES["lrpe"](dim=dim, window=(4,), num_groups=groups, form="mix")
        table = torch.randint(-2, 3, tuple(unit.positions.table.shape), generator=generator)
        unit.positions.table.data = table.float()
        u = torch.randint(-3, 4, (4, dim), generator=generator).float()
        with torch.no_grad():
            name = f"{groups} group{'s' if groups > 1 else ''}, {dim} channels"
            cases.append(Case(name, (u, unit.relation()), unit(u)))
    return judge(yours, cases)


def effective_rank(yours: Callable[[Any], Any]) -> Verdict:
    """Your effective rank of a (G, L) matrix of tables."""
    one = np.outer([1.0, -2.0, 0.5, 3.0], np.arange(7.0) - 3)
    mostly = np.diag([1.0, 0.1, 0.1, 0.1])
    cases = []
    for name, tables in {
        "four multiples\nof one table": one,
        "four unrelated\ntables": np.eye(4, 7),
        "one large,\nthree small": mostly,
        "two tables,\ntwice each": np.repeat(np.eye(2, 7), 2, axis=0),
    }.items():
        singular = np.linalg.svd(tables, compute_uv=False)
        share = singular / singular.sum()
        expected = math.exp(-sum(q * math.log(q) for q in share if q > 0))
        cases.append(Case(name, (torch.from_numpy(tables),), expected))
    return judge(yours, cases)
