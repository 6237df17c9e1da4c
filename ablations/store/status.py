"""What a run's files say: how far it is, and why a cell ended so. Imports nothing heavy."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ablations.commands import for_folder
from ablations.grid.settings import shown_value
from ablations.store.alike import told_once
from ablations.store.running import running
from ablations.store.store import Result, Store

LOG_LINES = 20


def status(out: str | Path) -> str:
    """How many trainings are done, failed, damaged and to do; what runs; each cause of failure.

    Raises ValueError if there is no run in `out`.
    """
    return seen(out)[0]


def seen(out: str | Path) -> tuple[str, bool]:
    """What `status` says, and whether a runner has, or may have, something to do there."""
    store = Store(out)
    plan = store.plan()
    counts: Counter[str] = Counter()
    failed, troubles = [], []
    tried: set[int | None] = set()  # of which variants a trial has a score
    rows = chain(
        ((cell, f"seed {seed}", result) for cell, seed, result in store.results(plan)),
        ((cell, f"seed {seed} repeated", result) for cell, seed, result in store.repeats(plan)),
        ((cell, f"seed {seed}", result) for cell, seed, result in store.trials(plan)),
    )
    for cell, seed, result in rows:
        state = result["status"] if isinstance(result, dict) else result.partition(":")[0]
        counts[state] += 1
        if state == "done":
            tried.add(cell.get("of"))
        if isinstance(result, dict) and state == "failed":
            failed.append((f"{cell['name']} {seed}", result | {"name": cell["name"]}))
        elif state == "damaged":
            troubles.append(f"  {cell['name']} {seed} is {result}; it will be trained again")
    states = ("done", "failed", "damaged", "to do")
    shown = ", ".join(f"{counts[state]} {state}" for state in states if counts[state])
    now = running(store) if counts["to do"] else []
    lines = [
        f"{out}: {counts.total()} trainings: {shown}",
        *(f"  {each.name} seed {each.seed} is at {each.outcome}" for each in now),
        *told_once(failed),
        *troubles,
        *_decisions(plan, tried),
    ]
    folder = shlex.quote(str(out))
    command = for_folder(plan["command"], store.root)
    again = f"{command} --retry-failed"
    if store.published:  # to which no run writes
        command = again = f"{plan['command']} --reuse {folder}"
    if counts["failed"]:
        lines.append(f"see why: ablations why {folder} CELL; again: {again}")
    is_open = bool(counts["to do"] or counts["damaged"] or are_open(plan))
    lines += [f"go on with: {command}"] if is_open else []
    return "\n".join(lines), is_open and not store.published


def _decisions(plan: dict[str, Any], tried: Collection[int | None]) -> Iterator[str]:
    """What was chosen and judged so far; `tried`: the variants of which a trial has a score."""
    for i, cell in enumerate(plan["cells"]):
        if cell.get("tuned"):
            values = ", ".join(f"{n}={shown_value(v)}" for n, v in cell["tuned"].items())
            how = "is tuned to" if i in tried else "has no trial that ended well, and keeps"
            yield f"  {cell['name']} {how} {values}"
    for cell in plan["cells"]:
        if cell.get("verdict"):
            at_most = f" of at most {len(plan['seeds'])}" * (cell["verdict"] == "undecided")
            yield f"  {cell['name']} is {cell['verdict']} at {cell['num_seeds']}{at_most} seeds"


def are_open(plan: dict[str, Any]) -> bool:
    """Whether a variant without a verdict may have more seeds."""
    return any(
        cell.get("verdict") == "undecided" and cell["num_seeds"] < len(plan["seeds"])
        for cell in plan["cells"]
    )


def why(out: str | Path, cell: str, seed: int | None = None) -> str:
    """How a cell ended: reason, traceback, end of its log, and the command that repeats it.

    `cell`: id, start of an id, or name. Raises ValueError if there is no such cell or seed.
    """
    store = Store(out)
    plan = store.plan()
    found = find_cell(plan, cell)
    seeds = [*plan["seeds"], *plan.get("trials", {"seeds": []})["seeds"]]
    if seed is not None and seed not in seeds:
        raise ValueError(f"seed {seed} is not of this run; its seeds are {seeds}")
    parts = []
    for each, its_seed, result in (*store.trials(plan), *store.results(plan)):
        if each["id"] == found["id"] and seed in (None, its_seed):
            parts.append(_account(store, f"{each['name']} ({each['id']}) seed {its_seed}", result))
    return "\n\n".join(parts)


def find_cell(plan: dict[str, Any], wanted: str) -> dict[str, Any]:
    """The one cell, or trial, of that name, or whose id starts so.

    Raises ValueError naming the cells.
    """
    cells = [*plan["cells"], *plan.get("trials", {"cells": []})["cells"]]
    named = [cell for cell in cells if cell["name"] == wanted]
    started = {cell["id"]: cell for cell in cells[::-1] if cell["id"].startswith(wanted)}
    found = named or list(started.values())
    if len(found) != 1:
        known = "; ".join(f"{cell['id']} {cell['name']}" for cell in cells)
        which = "several cells" if found else "no cell"
        raise ValueError(f"{wanted!r} is {which} of this run; its cells are: {known}")
    return found[0]


def _account(store: Store, label: str, result: Result | str) -> str:
    if isinstance(result, str):
        return f"{label}: {result}"
    if result["status"] == "done":
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in result["metrics"].items())
        shown = [f"{label}: done, {metrics}"]
    else:
        shown = [f"{label}: failed ({result['failure']}): {result['reason']}"]
    if result.get("traceback"):
        shown.append(result["traceback"].rstrip())
    log = store.root / result.get("log", "")  # a published folder has none
    if log.is_file():
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        shown += [f"end of {log}:", *(f"  {line}" for line in lines)]
    worker = result["worker"]
    where = f"{worker['device']} of {worker['host']}, {worker['num_threads']} thread(s)"
    shown += [f"on {where}, finished {result['timings']['finished']}"]
    return "\n".join([*shown, f"repeat it with: {for_folder(result['command'], store.root)}"])
