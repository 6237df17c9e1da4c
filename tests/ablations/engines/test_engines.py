"""Worker processes: they die, are killed, print, and end with their driver; no job is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from itertools import chain, cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ablation_tasks import CannotStart, KilledWhenIdle, Task, is_alive, jobs, wait_until
from faults import inject

from ablations.engines.local import EngineError, WorkerDied, in_process, pool
from ablations.engines.processes import WorkerProcess
from ablations.engines.ray_engine import Request, on_ray
from ablations.engines.ray_node import Parcel
from ablations.engines.worker import Place
from posmlp.train.stopping import EXIT_CODE

pytestmark = pytest.mark.usefixtures("forks")

TWO = [Place(0, "cpu", 1), Place(1, "cpu", 1)]
flat = chain.from_iterable


def has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def test_pool_runs_every_job_once_on_every_worker(tmp_path: Path) -> None:
    results = dict(flat(pool(jobs(12), Task(tmp_path, "meet"), TWO)))
    assert sorted(job.seeds[0] for job in results) == list(range(12))
    assert all(job.seeds[0] == result["seed"] for job, (result,) in results.items())
    assert {result["worker"] for (result,) in results.values()} == {0, 1}
    assert sorted((tmp_path / "finished").read_text().split(), key=int) == [
        str(i) for i in range(12)
    ]


def test_quick_jobs_in_process_come_together_but_a_failure_or_a_long_job_is_told_at_once(
    tmp_path: Path,
) -> None:
    def batches(task: Task) -> list[list[int]]:
        stream = in_process(jobs(6), task, TWO[0])
        return [[job.seeds[0] for job, _ in batch] for batch in stream]

    assert max(map(len, batches(Task(tmp_path, "", bad=(9,))))) > 1
    assert 2 in [batch[-1] for batch in batches(Task(tmp_path, "gives_up", bad=(2,)))]
    long = batches(Task(tmp_path, "nap", bad=(1, 3)))
    assert {1, 3} <= {batch[-1] for batch in long}
    assert sorted(chain(*long)) == list(range(6))


def test_what_finishes_while_results_are_stored_comes_as_one_batch(tmp_path: Path) -> None:
    stream = pool(jobs(8), Task(tmp_path, "wait_for_go", bad=tuple(range(1, 8))), TWO)
    first = next(stream)
    assert len(first) == 1
    (tmp_path / "go").touch()
    wait_until(lambda: len((tmp_path / "finished").read_text().split()) == 8)
    time.sleep(1)  # until the pool's own thread has taken in what the workers say
    rest = list(stream)
    assert len(rest[0]) > 1
    assert sum(len(batch) for batch in [first, *rest]) == 8


@pytest.mark.parametrize(("deed", "cause"), [("die", "SIGKILL"), ("crash", "SIGABRT")])
def test_a_workers_death_fails_its_job_alone(tmp_path: Path, deed: str, cause: str) -> None:
    results = dict(flat(pool(jobs(6), Task(tmp_path, deed, bad=(1, 4)), TWO)))
    dead = {job.seeds[0]: r for job, r in results.items() if isinstance(r, WorkerDied)}
    assert sorted(dead) == [1, 4]
    assert all(cause in death.cause for death in dead.values())
    assert len(results) == 6
    assert int((tmp_path / "1.started").read_text()) == dead[1].pid
    assert (tmp_path / "1.log").exists() == (deed == "crash")
    if deed == "crash":
        assert "Fatal Python error: Aborted" in (tmp_path / "1.log").read_text()
    assert not (tmp_path / "0.log").exists()


def test_a_worker_that_fails_three_times_in_a_row_is_set_aside_and_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"worker 0 \(cpu\) is set aside: 3 jobs in a row failed"):
        results = dict(flat(pool(jobs(10), Task(tmp_path, "die_on_worker_0"), TWO)))
    dead = [r.place.worker for r in results.values() if isinstance(r, WorkerDied)]
    assert dead == [0, 0, 0]
    assert len(results) == 10


def test_deaths_that_are_not_in_a_row_set_nothing_aside(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):
        results = dict(flat(pool(jobs(8), Task(tmp_path, "die", bad=(0, 1, 3, 4, 6)), TWO[:1])))
    assert sum(isinstance(outcome, WorkerDied) for outcome in results.values()) == 5


def test_the_run_stops_when_every_device_is_set_aside(tmp_path: Path) -> None:
    stream = pool(jobs(9), Task(tmp_path, "die"), TWO[:1])
    outcomes = []
    with (
        pytest.warns(UserWarning, match="set aside"),
        pytest.raises(EngineError, match=r"no device is left: .* worker 0 \(cpu\)"),
    ):
        outcomes += [outcome for _, outcome in flat(stream)]
    assert not (tmp_path / "3.started").exists()


@pytest.mark.parametrize("run_them", [in_process, pool])
def test_device_errors_count_and_the_worker_is_replaced(tmp_path: Path, run_them: Any) -> None:
    places = TWO[0] if run_them is in_process else TWO[:1]
    outcomes = list(flat(run_them(jobs(5), Task(tmp_path, "gives_up", bad=(0, 1, 3)), places)))
    assert [result.get("failure") for _, (result,) in outcomes] == [
        *["device error", "device error", None, "device error", None]
    ]
    assert (len({result["pid"] for _, (result,) in outcomes}) == 4) == (run_them is pool)


@pytest.mark.filterwarnings("ignore:worker 0")
@pytest.mark.parametrize("run_them", [in_process, pool])
def test_device_errors_in_a_row_stop_a_run_on_one_device(tmp_path: Path, run_them: Any) -> None:
    places = TWO[0] if run_them is in_process else TWO[:1]
    with pytest.raises(EngineError, match="no device is left"):
        list(run_them(jobs(5), Task(tmp_path, "gives_up", bad=(1, 2, 3)), places))


def test_a_gpu_that_gave_up_is_not_used_again_by_this_process(tmp_path: Path) -> None:
    """The first failure is stored, and nothing else is tried on the dead context."""
    stream = in_process(jobs(3), Task(tmp_path, "gives_up", bad=(0,)), Place(0, "cuda:0", 1))
    assert [job.seeds[0] for job, _ in next(stream)] == [0]
    with pytest.raises(EngineError, match=r"cannot use after such an error; .* --workers 2"):
        next(stream)


def test_a_training_that_takes_too_long_is_ended_and_no_fault_of_the_device(
    tmp_path: Path,
) -> None:
    task = Task(tmp_path, "sleep", bad=(0, 1, 2, 3), timeout_s=0.3)
    with warnings.catch_warnings(action="error"):
        results = dict(flat(pool(jobs(5), task, TWO[:1])))
    late = [job.seeds[0] for job, r in results.items() if isinstance(r, WorkerDied) and r.late]
    assert late == [0, 1, 2, 3]
    assert "took longer than 0.3 s" in {getattr(r, "cause", "") for r in results.values()}


def test_a_worker_killed_while_idle_is_replaced(tmp_path: Path) -> None:
    task = KilledWhenIdle(tmp_path, driver=os.getpid())
    results = dict(flat(pool(jobs(3), task, TWO[:1])))
    assert not any(isinstance(outcome, WorkerDied) for outcome in results.values())
    killed, *others = (results[job][0]["pid"] for job in sorted(results, key=lambda j: j.seeds))
    assert len(others) == 2
    assert killed not in others


def test_printing_goes_to_the_jobs_log_in_both_engines_and_a_worker_stops_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # no fork: a worker of its own Python writes as a user's does
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    list(in_process(jobs(1), Task(tmp_path / "a", "shout"), TWO[0]))
    worker = WorkerProcess(Task(tmp_path / "b", "shout"), TWO[0])
    assert worker.wait_ready()
    worker.run(jobs(1)[0])
    worker.process.terminate()
    assert worker.process.wait() == EXIT_CODE, "its job would be a failure"
    assert (tmp_path / "a/0.log").read_text() == "to the output\nto the error of \\udce9\n"
    in_worker = (tmp_path / "b/0.log").read_text()
    assert all(words in in_worker for words in ("to the output", "to the error", "by the system"))


def test_a_worker_that_cannot_start_is_an_error_not_a_wait(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"ended 3 times before .*exited with code 7"):
        list(pool(jobs(4), CannotStart(tmp_path), TWO))


def test_a_result_that_cannot_be_stored_stops_the_pool(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no room to store this"):
        list(pool(jobs(4), Task(tmp_path, "fail"), TWO))


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    stream = pool(jobs(9), Task(tmp_path, "sleep", bad=(1, 2)), TWO)
    next(stream)
    wait_until(lambda: all(map(has_text, (tmp_path / "1.started", tmp_path / "2.started"))))
    pids = [int((tmp_path / f"{i}.started").read_text()) for i in (1, 2)]
    stream.close()
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")
def test_no_worker_outlives_a_killed_driver(tmp_path: Path) -> None:
    # No `__name__` guard, on purpose: workers must not import the script that starts them.
    script = tmp_path / "driver.py"
    script.write_text(
        "from pathlib import Path\nfrom ablation_tasks import Task, jobs\n"
        "from ablations.engines.local import pool\nfrom ablations.engines.worker import Place\n"
        f"list(pool(jobs(4), Task(Path({str(tmp_path)!r}), 'sleep'), "
        "[Place(0, 'cpu', 1), Place(1, 'cpu', 1)]))\n"
    )
    driver = subprocess.Popen([sys.executable, str(script)])
    try:
        wait_until(lambda: sum(map(has_text, tmp_path.glob("*.started"))) == 2)
    finally:
        driver.kill()
        driver.wait()
    pids = [int(path.read_text()) for path in tmp_path.glob("*.started")]
    wait_until(lambda: not any(is_alive(pid) for pid in pids), timeout_s=10)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes through /proc")
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """A few; `faults.py` does many."""
    faults = inject(tmp_path, times=2, seed=9, num_seeds=4, epochs=4)
    assert faults.kills == {"worker": 1, "runner": 1}
    assert faults.wrong == []


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A cluster of two machines; every second look finds that a job has ended."""
    ray, slow = MagicMock(), cycle([True, False])
    about = {"Alive": True, "NodeManagerHostname": "host", "Resources": {"CPU": 1, "GPU": 8}}
    ray.nodes.return_value = [{"NodeID": name, **about} for name in "ab"]
    ray.remote.return_value.return_value.remote.side_effect = lambda *_: MagicMock()
    ray.wait.side_effect = lambda running, **_: ([] if next(slow) else running[:1], running[1:])
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", SimpleNamespace(RayError=OSError))
    monkeypatch.setattr("ablations.engines.ray_engine._opened", lambda *_, **__: ray.get())
    return ray


def test_ray_asks_for_its_machines_once_a_round_at_most(tmp_path: Path, ray: MagicMock) -> None:
    ray.get.return_value = Parcel([{"failure": None}], "a", {})
    assert len(list(on_ray(jobs(3), Task(tmp_path), TWO[0], Request(1, 0)))) == 3
    assert ray.nodes.call_count <= ray.wait.call_count == 6


def test_a_bad_gpu_beside_seven_sound_ones_sets_its_machine_aside(
    tmp_path: Path, ray: MagicMock
) -> None:
    failures = ({"failure": "device error" if i % 8 == 3 else None} for i in range(24))
    parcels = [Parcel([each], "a", {}, f"GPU {i % 8}") for i, each in enumerate(failures)]
    ray.get.side_effect = parcels
    with pytest.warns(UserWarning, match=r"node a\) is set aside: 3 jobs in a row failed on GPU 3"):
        found = list(on_ray(jobs(24), Task(tmp_path), TWO[0], Request(1, 1)))
    assert [parcel for _, parcel in found] == parcels
    asked = [call.kwargs.get("label_selector") for call in ray.remote.call_args_list[1:]]
    assert asked[0] is None
    assert asked[-1] == {"ray.io/node-id": "!in(a)"}
