"""What a training takes in time and memory, from a few steps of it in a process of its own.

`python -m ablations.plan.probe` reads pickled (cells, device, num_threads, cache_gib) and
writes a line of JSON a cell.
"""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.engines import memory
from ablations.engines.processes import same_imports
from ablations.grid.grid import Cell
from ablations.grid.settings import content_hash
from ablations.store.files import read_json, write_json
from ablations.store.shapes import PROBE
from posmlp.data.user_cache import CACHE_GIB, cache_folder
from posmlp.own.code import trust
from posmlp.shapes import fault

if TYPE_CHECKING:
    import torch

    from posmlp.data.sources import ClipSource, HeldClips, VideoClips

NUM_STEPS = 3
NUM_EVALUATED = 64
NUM_READINGS = 3
READINGS_S = 1.0
"""What is over sooner is read again: a pause of the machine in one short reading would be counted
once for every step of the training."""
REMEMBERED_S = 24 * 3600
SHARE_OF_MEMORY = 0.5
"""A whole batch is tried only where it should fit into this share of what is free."""


@dataclass(frozen=True)
class Probe:
    """The predicted cost of one training alone on its device."""

    seconds: float
    memory_mb: float | None


def probe(
    cells: Sequence[Cell],
    device: str,
    num_threads: int,
    limit_s: float,
    cache_gib: float = CACHE_GIB,
) -> dict[str, Probe]:
    """Probes by cell id, of as many cells as the time limit allows, in their order.

    What was probed here within a day is remembered in the user's cache folder.
    """
    known = {cell.id: found for cell in cells if (found := _remembered(cell, device, num_threads))}
    missing = [cell for cell in cells if cell.id not in known]
    for cell, found in _measured(missing, device, num_threads, limit_s, cache_gib):
        known[cell.id] = found
        write_json(_cache_path(cell, device, num_threads), asdict(found))
    return known


def _cache_path(cell: Cell, device: str, num_threads: int) -> Path:
    machine = [cell.id, device, num_threads, os.uname().nodename if os.name == "posix" else ""]
    return cache_folder("probes") / f"{content_hash(machine)}.json"


def _remembered(cell: Cell, device: str, num_threads: int) -> Probe | None:
    path = _cache_path(cell, device, num_threads)
    try:
        if time.time() - path.stat().st_mtime > REMEMBERED_S:  # the machine may have other load now
            return None
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return None if fault(found, PROBE) else Probe(found["seconds"], found["memory_mb"])


def _measured(
    cells: Sequence[Cell], device: str, num_threads: int, limit_s: float, cache_gib: float
) -> Iterator[tuple[Cell, Probe]]:
    """Probes as a process of its own makes them, which may run out of time or memory."""
    if not cells or not limit_s:
        return
    question = pickle.dumps((list(cells), device, num_threads, cache_gib))
    command = [sys.executable, "-m", __name__]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=same_imports(),
    )
    try:
        answer, _ = process.communicate(question, timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        answer, _ = process.communicate()
    for cell, line in zip(cells, answer.decode().splitlines(), strict=False):
        if found := json.loads(line):
            yield cell, Probe(**found)


def main() -> None:
    cells, device, num_threads, cache_gib = pickle.load(sys.stdin.buffer)
    import torch

    torch.set_num_threads(num_threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    data = _OpenedData(cache_gib)
    for cell in cells:
        trust(cell.code.values())  # by who named it, in the process that asks
        try:
            found: dict[str, Any] | None = asdict(_probed(cell, torch.device(device), data))
        except Exception:  # what cannot be probed has no prediction, and says why when it is run
            found = None
        answers.write(json.dumps(found) + "\n")
        answers.flush()


class _OpenedData:
    """The clips that were opened last, as neighbouring cells mostly train on the same."""

    def __init__(self, cache_gib: float) -> None:
        self._cache_gib = cache_gib
        self._of: Any = None
        self._sources: list[VideoClips | HeldClips] = []
        self._seconds = 0.0

    def of(self, cell: Cell) -> tuple[list[ClipSource], float]:
        """Clips of train, val (none of a data set without) and test; seconds to open them."""
        from posmlp.train.fitting import open_splits

        wanted = (cell.data.spec, cell.config.num_frames, cell.config.image_size, cell.train)
        if wanted != self._of:
            for source in self._sources:
                source.close()
            began = time.perf_counter()
            self._sources = open_splits(
                cell.data.spec, cell.config, cell.train, cache_gib=self._cache_gib
            )
            self._of, self._seconds = wanted, time.perf_counter() - began
        return list(self._sources), self._seconds


def _probed(cell: Cell, device: torch.device, data: _OpenedData) -> Probe:
    """The cost of a training, from a few steps at its batch size, or at small ones."""
    (train_clips, *val_clips, test_clips), opening_s = data.of(cell)
    batch = cell.train.batch_size
    _epoch_s(cell, 1, train_clips, device)  # what only first steps pay for
    one, two = (_step(cell, size, train_clips, device) for size in (1, 2))
    step_s, memory_mb = two.seconds / 2 * batch, None
    if one.memory_mb is not None and two.memory_mb is not None:
        memory_mb = two.memory_mb + max(two.memory_mb - one.memory_mb, 0) * max(batch - 2, 0)
    if memory_mb is not None and memory_mb < SHARE_OF_MEMORY * memory.free_mb(str(device)):
        whole = _step(cell, batch, train_clips, device)
        step_s, memory_mb = whole.seconds, whole.memory_mb
    clip_s = _evaluation_s(cell, test_clips, device)
    epoch_s = len(train_clips) // batch * step_s + clip_s * sum(map(len, val_clips))
    whole_s = opening_s + cell.train.epochs * epoch_s + clip_s * len(test_clips)
    return Probe(whole_s, memory_mb)


def _step(cell: Cell, batch: int, clips: ClipSource, device: torch.device) -> Probe:
    """Time of one step and peak memory at a batch size."""
    memory.reset(str(device))
    seconds = _typical(lambda: _epoch_s(cell, batch, clips, device)) / NUM_STEPS
    return Probe(seconds, memory.peak_mb(str(device)))


def _epoch_s(cell: Cell, batch: int, clips: ClipSource, device: torch.device) -> float:
    """Time of `NUM_STEPS` steps at a batch size, and an evaluation of as many clips."""
    from posmlp.train.fitting import fit

    data = (_First(clips, NUM_STEPS * batch), _First(clips, batch))
    train = replace(cell.train, batch_size=batch, epochs=1)
    (row,) = fit(cell.config, train, data, device=device, progress=False)
    return row["seconds"]


def _evaluation_s(cell: Cell, clips: ClipSource, device: torch.device) -> float:
    """Time of evaluating on a clip."""
    from posmlp.model import create_model
    from posmlp.train.scoring import predict

    some = _First(clips, min(NUM_EVALUATED, len(clips)))
    model = create_model(cell.config).to(device)

    def part_s() -> float:
        began = time.perf_counter()
        predict(model, some, batch_size=len(some))
        return time.perf_counter() - began

    return _typical(part_s) / len(some)


def _typical(measure: Callable[[], float]) -> float:
    """The lower median of `NUM_READINGS`, or of as many as begin within `READINGS_S`."""
    began = time.perf_counter()
    readings = [measure()]
    while len(readings) < NUM_READINGS and time.perf_counter() - began < READINGS_S:
        readings.append(measure())
    return statistics.median_low(readings)


class _First:
    """The first clips of a source."""

    def __init__(self, source: ClipSource, count: int) -> None:
        self._source, self._count = source, min(count, len(source))
        self.name, self.classes = source.name, source.classes
        self.labels, self.reverse_of = source.labels[: self._count], source.reverse_of

    def __len__(self) -> int:
        return self._count

    def batches(self, index_batches: Any, **options: Any) -> Iterator[torch.Tensor]:
        return self._source.batches(index_batches, **options)

    def describe(self) -> dict[str, Any]:
        return self._source.describe()


if __name__ == "__main__":
    main()
