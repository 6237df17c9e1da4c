"""What is being trained in a run's folder at this moment, as the files of its trainings tell."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from ablations.store.files import read_json
from ablations.store.published import csv_rows
from ablations.store.store import Store


def duration(seconds: float) -> str:
    """Seconds in words: 12.3 s, 4 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Running(NamedTuple):
    """A training, or several that advance as one, before the end of epoch `epoch`."""

    name: str
    seed: str
    epoch: int
    epochs: int
    loss: float | None
    """Of the epoch before, the mean of several trainings; None in the first one."""
    left_s: float | None

    @property
    def outcome(self) -> str:
        """How far it is, in words."""
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        left = "" if self.left_s is None else f", about {duration(self.left_s)} left"
        return f"epoch {self.epoch} of {self.epochs}{loss}{left}"


def running(store: Store) -> list[Running]:
    """The trainings that a process holds now. Other machines' are shown where they share a folder.

    A process of this machine that was killed holds nothing.
    """
    owners = (*store.root.glob("cells/*/*/.owner.json"), *store.root.glob("together/*/.owner.json"))
    found = (_running(store, owner) for owner in sorted(owners))
    return [each for each in found if each is not None]


def _running(store: Store, owner: Path) -> Running | None:
    folder = owner.parent
    try:
        if not _is_alive(read_json(owner)):
            return None
        config = read_json(folder / "config.json")
        epochs, seeds = int(config["train"]["epochs"]), config["seeds"]
        ids = list(config.get("variants", [folder.parent.name]))
        metrics = folder / "metrics.csv"
        rows = csv_rows(metrics.read_text()) if metrics.is_file() else []
        last = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
        losses = [float(row["train_loss"]) for row in last]
        done = int(last[0]["epoch"]) if last else 0
        left_s = None
        if last:
            spent = sum(float(row["seconds"]) for row in rows) / len(last)
            since = time.time() - metrics.stat().st_mtime
            left_s = max(0.0, spent / done * (epochs - done) - since)
    except (OSError, ValueError, LookupError, TypeError):  # it begins or ends at this moment
        return None
    names = f"{len(ids)} cells together"
    if len(ids) == 1:
        names = str(store.sound_cell(ids[0]).get("name", ids[0]))
    repeated = " repeated" if folder.name.endswith("-repeat") else ""
    loss = sum(losses) / len(losses) if losses else None
    seed = ", ".join(map(str, seeds)) + repeated
    return Running(names, seed, min(done + 1, epochs), epochs, loss, left_s)


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process may still be there: surely not, if it is of this machine and gone."""
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True
