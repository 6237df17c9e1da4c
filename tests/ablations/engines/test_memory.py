"""When memory runs out: real allocations that fail, and the same mathematics in less memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from ablation_tasks import Task, changed, jobs
from hypothesis import given
from hypothesis import strategies as st

from ablations import read_grid
from ablations.engines.ladder import lighter
from ablations.engines.local import in_process, pool
from ablations.engines.worker import Place
from ablations.grid.grid import Job

pytestmark = pytest.mark.usefixtures("forks")
flat = chain.from_iterable
TWO = [Place(0, "cpu", 1), Place(1, "cpu", 1)]
# How two trainings go in what a first one leaves of the address space, and some more.
IN_LITTLE_MEMORY = """
import json, platform, resource, sys
from pathlib import Path
import ablations
platform.libc_ver = lambda: ("", "")  # no training keeps what it frees: it would count as in use
small, grid, folder = json.loads(sys.argv[1])
ablations.run(small, Path(folder) / "warm", device="cpu", progress=False)
lines = Path("/proc/self/status").read_text().splitlines()
(used_kib,) = [int(line.split()[1]) for line in lines if line.startswith("VmSize")]
for room_mb in (100, 10):
    limit = used_kib * 1024 + room_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    out = Path(folder) / f"{room_mb}"
    table = ablations.run(grid, out, device="cpu", together=2, progress=False)
    columns = ["status", "failure", "micro_batches", "together", "memory_steps", "id"]
    print(table[columns].to_json(orient="records"))
"""


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 70))
def test_lighter_jobs_are_the_same_work_and_end_with_one_clip_of_one_seed(
    num_cells: int, num_seeds: int, batch_size: int
) -> None:
    cell = read_grid(changed(train={"batch_size": batch_size, "num_clips": 70})).baseline
    waiting, ends = [Job((cell,) * num_cells, tuple(range(num_seeds)))], []
    while waiting:
        job = waiting.pop()
        again = lighter(job)
        if not again:
            ends.append(job)
        elif len(job.trainings) > 1:
            parts = [training for each in again for training in each.trainings]
            assert sorted(parts, key=repr) == sorted(job.trainings, key=repr)
            assert all(0 < len(each.trainings) < len(job.trainings) for each in again)
        else:
            assert again[0].micro_batches > job.micro_batches
        assert all(len(each.memory_steps) == len(job.memory_steps) + 1 for each in again)
        waiting += again
    alone = sorted(job.seeds for job in ends)
    assert alone == sorted([(seed,) for seed in range(num_seeds)] * num_cells)
    assert {job.micro_batches for job in ends} == {batch_size}


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, reads /proc")
def test_memory_that_runs_out_leads_down_the_ladder(tmp_path: Path) -> None:
    wide = {"image_size": 32, "windows": 8, "train": {"num_clips": 64, "batch_size": 64}}
    grid = changed(**wide, dims=[256]) | {"axes": {}}
    small = changed(**wide) | {"axes": {}, "seeds": 1}
    # Freed memory goes back at once, so that the limit is on what is in use.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, json.dumps([small, grid, str(tmp_path)])],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    enough, too_little = (json.loads(line) for line in done.stdout.splitlines())
    assert [row["status"] for row in enough] == ["done", "done"]
    assert [row["failure"] for row in too_little] == ["out of memory"] * 2
    for row in enough + too_little:
        assert row["memory_steps"].startswith("together 2 -> 1; micro-batches 1 -> 2")
        assert row["together"] == 1
        assert row["micro_batches"] > 1
        assert row["id"] == read_grid(grid).baseline.id


def test_pool_has_fewer_at_once_on_a_device_before_anything_else(tmp_path: Path) -> None:
    results = dict(flat(pool(jobs(6), Task(tmp_path, "needs_all_the_memory"), TWO)))
    assert sorted(job.seeds[0] for job in results) == list(range(6))
    steps = [job.memory_steps for job in results if job.memory_steps]
    assert steps == [("at once on cpu 2 -> 1",)]
    assert all(result.get("failure") is None for (result,) in results.values())


@pytest.mark.parametrize("run_them", [in_process, pool])
def test_a_job_that_never_fits_fails_with_every_step_noted_and_the_rest_goes_on(
    tmp_path: Path, run_them: Any
) -> None:
    places = TWO[0] if run_them is in_process else TWO[:1]
    task = Task(tmp_path, "runs_out_of_memory", bad=(1,))
    results = dict(flat(run_them(jobs(3, batch_size=2), task, places)))
    failed = {job: result for job, (result,) in results.items() if result.get("failure")}
    assert [job.seeds for job in failed] == [(1,)]
    (job,) = failed
    assert failed[job]["failure"] == "out of memory"
    assert job.micro_batches == 2
    assert job.memory_steps == ("micro-batches 1 -> 2",)
    assert sorted(job.seeds for job in results) == [(0,), (1,), (2,)]
