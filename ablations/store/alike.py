"""Failures that have one cause: said once, and a run in which nothing else comes out is stopped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from ablations.store.store import OUT_OF_MEMORY, Result, Store

FAILED_ALIKE = 3
"""Trainings that fail for one cause before a run stops, if none succeeded."""
_OF_ITS_OWN = ("not finite", OUT_OF_MEMORY)
"""Failures that a cell's values bring about, so that the next cell may do well."""
_NUMBER = re.compile(r"0x[0-9a-f]+|[0-9]+(?:[.][0-9]+)?(?:e[+-]?[0-9]+)?", re.IGNORECASE)
"""As in `object at 0x7f60988fa9e0`, `12`, `1.5` and `3.7e-05`."""


class FailedAlikeError(RuntimeError):
    """Nothing but failures of one cause came out of a run; the rest was not started."""


def cause(result: Result) -> str:
    """Why a training failed, without what differs between trainings: its cell, and all numbers."""
    reason = str(result["reason"]).replace(result["cell"], "CELL").replace(result["name"], "CELL")
    return f"{result['failure']}: {_NUMBER.sub('#', reason)}"


def unless_all_fail(
    results: Iterable[Result], store: Store, most: int, counts: Counter[str]
) -> Iterator[Result]:
    """The results as they come, until `most` have failed for one cause (0: without end).

    `counts` is of each cause, in the rounds of this run before too. A training of the store that
    has succeeded, now or before, tells that the cause is not common to all. Raises
    FailedAlikeError.
    """
    for result in results:
        yield result
        if not most or result["status"] != "failed" or result["failure"] in _OF_ITS_OWN:
            continue
        counts[cause(result)] += 1
        if counts[cause(result)] >= most and not _any_done(store):
            raise FailedAlikeError(
                f"{counts[cause(result)]} trainings failed alike and none succeeded, so the rest "
                f"is not started; the cause is {result['failure']}: {result['reason']}\n"
                "Mend that and go on with --retry-failed. To start the rest all the same, have "
                "`stop: {failed_alike: 0}` in the grid"
            )


def _any_done(store: Store) -> bool:
    plan = store.plan()
    found = chain(store.results(plan), store.trials(plan))
    return any(isinstance(each, dict) and each["status"] == "done" for _, _, each in found)


def told_once(failed: list[tuple[str, Result]]) -> list[str]:
    """A line for each cause, with the labels of the trainings that it ended."""
    by_cause: dict[str, list[tuple[str, Result]]] = {}
    for label, result in failed:
        by_cause.setdefault(cause(result), []).append((label, result))
    lines = []
    for alike in by_cause.values():
        (first, result), labels = alike[0], [label for label, _ in alike]
        why = f"({result['failure']}: {result['reason']})"
        if len(alike) == 1:
            lines.append(f"  {first} failed {why}")
            continue
        more = f"; and {len(labels) - 4} more" if len(labels) > 4 else ""
        lines.append(f"  {len(alike)} trainings failed alike {why}: {'; '.join(labels[:4])}{more}")
    return lines
