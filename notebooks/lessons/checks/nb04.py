"""Checks of lesson 04: the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from lessons.checks.verdict import NOT_ANSWERED, OK, Case, Verdict, draw_under_target, judge, wrong
from posmlp import GATES, create_model

KINDS = ("norm", "fc1", "table", "token_bias", "fc2.weight", "fc2.bias")
STARTS = (
    ("released", "multiply"),
    ("normal", "multiply"),
    ("released", "add"),
    ("released", "mix"),
)


def gate_forward(yours: Callable[[Any, Any, Any], Any]) -> Verdict:
    """Your gate on 3 tokens of 2 gated channels: without a token bias, and with one."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randint(-3, 4, (3, 4), generator=generator).float()
    unit: Any = GATES["lrpe"](dim=2, window=(3,))
    unit.positions.table.data = torch.tensor([[2.0, -1.0, 1.0, 3.0, -2.0]])
    relation = unit.relation()[0].detach()
    cases = []
    for name, shift in (("no token bias", torch.zeros(3)), ("a token bias", torch.arange(3.0))):
        with torch.no_grad():
            unit.token_bias.copy_(shift[:, None])
            cases.append(Case(name, (h, relation, shift), unit(h)))
    return judge(yours, cases)


def branch_params(yours: Callable[[int, str, int, int], int]) -> Verdict:
    """Your parameters of one branch over T = 8 frames, for the three forms."""
    cases = []
    for form in ("multiply", "add", "mix"):
        model: Any = create_model("toy", gate_form=form)
        for stage in (0, 2):
            dim, groups = model.config.dims[stage], model.config.num_groups[stage]
            branch = model.stages[stage].blocks[0].steps[0]["T"]
            count = sum(parameter.numel() for parameter in branch.parameters())
            cases.append(Case(f"{form}\nC = {dim}, G = {groups}", (dim, form, 8, groups), count))
    return judge(yours, cases)


def first_gradients(yours: Callable[[str, str], Iterable[str]]) -> Verdict:
    """Which of KINDS you say have a gradient in the first step, for four starts of a branch."""
    answers: list[set[str]] = []
    verdict = OK
    for init, form in STARTS:
        try:
            answers.append(set(yours(init, form) or ()))
        except NotImplementedError:
            verdict = NOT_ANSWERED
            break
        if where := _wrong_kinds(answers[-1], init, form):
            verdict = wrong(where)
            break
    starts = STARTS if answers else STARTS[:1]  # before a first attempt one is worked out
    expected = [kinds_with_gradient(*start) for start in starts]
    names = [" ".join(start) for start in starts]
    yours_drawn = _as_map(answers, len(starts)) if answers else None
    target = _as_map(expected, len(starts))
    draw_under_target(target, yours_drawn, column_names=KINDS, row_names=names)
    return verdict


def _wrong_kinds(found: set[str], init: str, form: str) -> str:
    """What is wrong with the kinds that are said to have a gradient; empty if nothing is."""
    expected = kinds_with_gradient(init, form)
    start = f"init {init!r}, form {form!r}"
    if unknown := found - set(KINDS):
        return f"{sorted(unknown)} are none of {', '.join(KINDS)}"
    if found - expected:
        return f"for {start} {sorted(found - expected)} get exactly no gradient"
    if expected - found:
        return f"for {start} {sorted(expected - found)} do get a gradient"
    return ""


def _as_map(found: Sequence[set[str]], num_rows: int) -> NDArray[np.float64]:
    """A row a start, a column a kind: 1 with a gradient, 0 without, nan where not answered."""
    rows = [[float(kind in kinds) for kind in KINDS] for kinds in found]
    return np.array(rows + [[np.nan] * len(KINDS)] * (num_rows - len(rows)))


@cache
def kinds_with_gradient(init: str, form: str) -> set[str]:
    """The kinds of parameters of a new T branch whose first gradient is not exactly 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = create_model("toy", init=init, gate_form=form)
        clips, labels = torch.randn(4, 3, 8, 32, 32), torch.arange(4)
    F.cross_entropy(model(clips), labels).backward()
    branch = model.stages[0].blocks[0].steps[0]["T"]
    return {
        kind_of(name)
        for name, parameter in branch.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


def kind_of(name: str) -> str:
    """The one of KINDS to which a branch's parameter of this name belongs."""
    part, _, last = name.partition(".")
    if part == "gate":
        return "token_bias" if last == "token_bias" else "table"
    return name if part == "fc2" else part
