"""What a run says while it runs: a live table on a terminal, else a line a finished job."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.grid.deciding import Metric
from ablations.store.running import Running, duration
from ablations.store.status import seen
from ablations.store.store import Result
from posmlp.train.stopping import Stopped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Report = Callable[[Result], None]
LOOK_S = 2.0
"""Seconds between two looks at what is being trained."""


@contextmanager
def reporter(
    num_jobs: int,
    num_finished: int,
    command: str,
    *,
    metrics: Sequence[str],
    running: Callable[[], Sequence[Running]],
    name: str = "",
    show: bool = True,
) -> Iterator[Report]:
    """A function to call with each result. What stops a run, on its way out, says how to go on.

    `metrics`: those that are shown of a result; `running`: what is being trained, for a terminal;
    `name`: what these trainings are, if not all.
    """
    if not show:
        yield lambda result: None
        return
    from rich.console import Console

    state = _State(num_jobs, num_finished, metrics)
    console = Console(file=sys.stderr)  # this one, as trainings in this process print elsewhere
    say(f"{name and f'{name}: '}{num_jobs} trainings, {num_finished} finished before")
    try:
        if console.is_jupyter:
            with _live_in_notebook(state) as report:
                yield report
        elif console.is_terminal:
            with _live(state, console, running) as report:
                yield report
        else:
            yield lambda result: say(state.line(result))
    except (KeyboardInterrupt, Stopped):
        say(f"stopped at {state.summary()}; go on with: {command}")
        raise
    say(state.summary())


def say(text: str) -> None:
    """Print to stderr; in a notebook, which shows that as an error, to stdout."""
    from rich.console import Console

    print(text, file=sys.stdout if Console().is_jupyter else sys.stderr, flush=True)


class _State:
    """Counts and times of a run."""

    def __init__(self, num_jobs: int, num_finished: int, metrics: Sequence[str]) -> None:
        self.num_jobs, self.num_finished = num_jobs, num_finished
        self.metrics = metrics
        self.num_here = 0
        self.counts: Counter[str] = Counter()
        self.started = time.monotonic()
        self.rows: list[Result] = []

    def add(self, result: Result) -> None:
        self.num_finished += 1
        self.num_here += 1
        self.counts[result["status"]] += 1
        self.rows.append(result)

    def line(self, result: Result) -> str:
        self.add(result)
        cell = f"{result['name']} seed {_seed(result)}"
        return f"[{self.num_finished}/{self.num_jobs}] {cell}: {self.outcome(result)}"

    def outcome(self, result: Result) -> str:
        """A result in a few words."""
        took, metrics = duration(result["timings"]["seconds"]), result["metrics"]
        if result["status"] == "failed":
            reason = result["reason"].partition("\n")[0]
            return f"failed ({result['failure']}) after {took}: {reason}"
        found = [Metric(name).said(metrics[name]) for name in self.metrics if name in metrics]
        return ", ".join(["done", *found, took])

    def summary(self) -> str:
        """How far the run is, and how long the rest takes at the pace so far."""
        text = f"{self.num_finished} of {self.num_jobs}"
        if self.counts["failed"]:
            text += f" ({self.counts['failed']} failed; see `ablations why`)"
        elapsed = time.monotonic() - self.started
        if self.num_here and self.num_finished < self.num_jobs:
            left = elapsed / self.num_here * (self.num_jobs - self.num_finished)
            text += f", about {duration(left)} left"
        return text


def _seed(result: Result) -> str:
    return f"{result['seed']} repeated" if result["repeat"] else str(result["seed"])


def of_workers(number: int) -> str:
    return f"{number} worker" if number == 1 else f"{number} workers"


@contextmanager
def _live(
    state: _State, console: Console, running: Callable[[], Sequence[Running]]
) -> Iterator[Report]:
    from rich.live import Live

    over = threading.Event()

    def table(now: Sequence[Running] = ()) -> Table:
        return _table(state, console.height, now)

    with Live(table(), console=console, auto_refresh=False) as live:

        def look() -> None:
            for _ in looks(over.wait):
                live.update(table(running()), refresh=True)

        looker = threading.Thread(target=look, daemon=True)
        looker.start()
        try:
            yield state.add
        finally:
            over.set()
            looker.join()
            live.update(table(), refresh=True)


def looks(wait: Callable[[float], object]) -> Iterator[None]:
    """Each time to look again, until `wait` says that it is over: looking takes 5% at most."""
    pause = 0.0
    while not wait(pause):
        began = time.monotonic()
        yield
        pause = max(LOOK_S, 20 * (time.monotonic() - began))


def watch(out: str | Path) -> None:
    """Show `status` of a folder again and again, until nothing is to do there.

    Off a terminal it is printed where it has changed.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, before = Console(), ""
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or nullcontext():
        for _ in looks(time.sleep):
            text, is_open = seen(out)
            if live is not None:
                live.update(Text(text), refresh=True)
            elif text != before:
                print(text, flush=True)
            before = text
            if not is_open:
                return


@contextmanager
def _live_in_notebook(state: _State) -> Iterator[Report]:
    """One table that is replaced with each result, and that the saved notebook keeps."""
    import pandas as pd
    from IPython.display import HTML, display

    def table() -> HTML:
        rows = [(result["name"], _seed(result), state.outcome(result)) for result in state.rows]
        shown = pd.DataFrame(rows, columns=["cell", "seed", "result"])
        return HTML(shown.to_html(index=False))

    handle = display(table(), display_id=True)

    def report(result: Result) -> None:
        state.add(result)
        handle.update(table())

    yield report


def _table(state: _State, height: int, now: Sequence[Running]) -> Table:
    """The latest results, and what is being trained, as many as fit the screen."""
    from rich.table import Table
    from rich.text import Text

    table = Table("cell", "seed", "result", caption=state.summary())
    now = now[: max(height // 2 - 6, 2)]
    for result in state.rows[-max(height - 6 - len(now), 3) :]:
        style = "red" if result["status"] == "failed" else None
        cells = result["name"], _seed(result), state.outcome(result)
        table.add_row(*map(Text, cells), style=style)  # as text: brackets are no markup
    for each in now:
        table.add_row(*map(Text, (each.name, each.seed, each.outcome)), style="dim")
    return table
