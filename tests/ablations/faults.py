"""Kill a runner and its workers at random moments, resume once, and compare with a quiet run.

    python tests/ablations/faults.py --times 50

Linux only: processes are found through /proc. Exit code 1 if anything was lost or done twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablation_tasks import changed, children, facts, is_alive
from safetensors.numpy import load_file

from ablations import run
from ablations.store.store import Store

GATE = """import torch


class Half(torch.nn.Module):
    def __init__(self, dim, window, num_groups):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(dim))

    def forward(self, h):
        u, v = h.chunk(2, dim=-1)
        return u.mean(1, keepdim=True) * self.scale * v
"""
ORPHANS_MAY_LIVE_S = 30.0


@dataclass
class Faults:
    """What the kills did, and what was found after the resume."""

    num_jobs: int
    kills: Counter[str] = field(default_factory=Counter)
    finished_at_kill: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What should not have been; empty if the runner keeps its promises."""

    def __str__(self) -> str:
        killed = ", ".join(f"{count} x {what}" for what, count in sorted(self.kills.items()))
        least, most = min(self.finished_at_kill), max(self.finished_at_kill)
        verdict = "; ".join(self.wrong) or "bits equal, nothing lost, nothing finished ran twice"
        return (
            f"{sum(self.kills.values())} kills ({killed}), of {self.num_jobs} trainings {least} "
            f"were finished at the first and {most} at the last\n{verdict}"
        )


def inject(folder: Path, times: int, seed: int, *, num_seeds: int, epochs: int) -> Faults:
    """Disturb a run `times` times, resume it once, and compare it with an undisturbed one."""
    (folder / "my_gates.py").write_text(GATE)
    gates = {"gate": ["lrpe", "my_gates.py:Half"]}
    grid = changed(train={"epochs": epochs}) | {"axes": gates, "seeds": num_seeds}
    path = folder / "grid.yaml"
    path.write_text(json.dumps(grid))  # JSON is YAML
    quiet, out = folder / "quiet", folder / "disturbed"
    expected = run(path, quiet, device="cpu", progress=False)
    faults = Faults(num_jobs=len(expected))
    span_s = float(expected.seconds.mean())
    finished = _disturb(path, out, times, span_s, random.Random(seed), faults)
    resumed = run(path, out, device="cpu", retry_failed=True, progress=False)
    faults.wrong += [
        f"{name} was finished and ran again"
        for name, content in finished.items()
        if (out / name).read_bytes() != content
    ]
    if not facts(resumed).equals(facts(expected)):
        faults.wrong.append("the tables differ")
    faults.wrong += [
        f"the weights {weights.relative_to(quiet)} differ"
        for weights in quiet.glob("cells/*/*/model-*.safetensors")
        if not _same_tensors(weights, out / weights.relative_to(quiet))
    ]
    return faults


def _same_tensors(one: Path, other: Path) -> bool:
    """Whether two files hold the same bits; safetensors writes its header in any order."""
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(
        left[name].tobytes() == right[name].tobytes() for name in left
    )


def _disturb(
    grid: Path, out: Path, times: int, span_s: float, rng: random.Random, faults: Faults
) -> dict[str, bytes]:
    """Kill `times` times, if that much is to do; the results that were finished at any kill."""
    finished: dict[str, bytes] = {}
    began, runner = time.time(), _start(grid, out)
    try:
        _wait_for_training(runner, out, began)
        while sum(faults.kills.values()) < times:
            if runner.poll() is not None:
                if runner.returncode == 0:
                    faults.wrong.append("all was finished too early; use more --seeds")
                    break
                began = time.time()
                runner = _start(grid, out)
                if rng.random() < 0.8:  # else in the start: imports, lock, declaring the grid
                    _wait_for_training(runner, out, began)
            time.sleep(rng.uniform(0, span_s))
            _kill_one(runner, rng, faults)
            now = _finished(out)
            faults.finished_at_kill.append(len(now))
            faults.wrong += [f"{name} is gone" for name in finished.keys() - now.keys()]
            finished = now | finished
    finally:
        runner.kill()
        runner.communicate()
    return finished


def _start(grid: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ablations.cli", "run", str(grid), "--out", str(out)]
    command += ["--workers", "2", "--device", "cpu", "--retry-failed", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_for_training(runner: subprocess.Popen[bytes], out: Path, since: float) -> None:
    """Wait until a training has written something, or there is nothing left to do."""
    while runner.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # an empty log, which the runner removes
            if any(path.stat().st_mtime > since for path in out.glob("cells/*/seed*")):
                return
        time.sleep(0.05)


def _kill_one(runner: subprocess.Popen[bytes], rng: random.Random, faults: Faults) -> None:
    if runner.poll() is not None:
        return
    workers = children(runner.pid)
    if workers and rng.random() < 0.5:
        os.kill(rng.choice(workers), signal.SIGKILL)
        faults.kills["worker"] += 1
        return
    faults.kills["runner"] += 1
    runner.kill()
    runner.wait()
    end = time.monotonic() + ORPHANS_MAY_LIVE_S
    while any(is_alive(pid) for pid in workers):
        if time.monotonic() > end:
            faults.wrong.append("a worker outlived its runner")
            return
        time.sleep(0.02)


def _finished(out: Path) -> dict[str, bytes]:
    """The results that are stored as done, whole, by their paths; a torn one would raise."""
    store, found = Store(out), {}
    for path in out.glob("cells/*/*/result.json"):
        content = path.read_bytes()
        result: dict[str, Any] = json.loads(content)
        assert path == store.result_path(result["cell"], result["seed"], result["repeat"])
        if result["status"] == "done":
            found[str(path.relative_to(out))] = content
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=50, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--seeds", type=int, help="of each of the grid's two cells")
    parser.add_argument("--epochs", type=int, default=40, help="of each training")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        num_seeds = options.seeds or max(4, options.times)
        faults = inject(
            Path(folder), options.times, options.seed, num_seeds=num_seeds, epochs=options.epochs
        )
    print(f"{faults}\n{time.monotonic() - started:.0f} s")
    return 1 if faults.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
