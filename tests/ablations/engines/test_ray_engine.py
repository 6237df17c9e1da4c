"""A real Ray cluster of two nodes on this machine: same bits, and a lost node loses nothing."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ablation_tasks import TINY, Task, changed, facts, jobs
from pandas.testing import assert_frame_equal

from ablations import read_grid, run
from ablations.engines.dispatch import Engine
from ablations.engines.processes import WorkerDied
from ablations.engines.ray_engine import Request, connected, on_ray
from ablations.engines.worker import Place
from ablations.store.store import Store
from posmlp.train.stopping import Stopped

ray = pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")

LIMIT_S = 600
"""Of each test: Ray waits without end where a machine is too busy to answer it."""

SMALL = {"num_cpus": 1, "object_store_memory": 80_000_000}
HERE = Place(0, "cpu", 1)
ONE_CPU = Request(1, 0)


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Fail a test that hangs."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"no end after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with one CPU, beside which nodes can be started and killed."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
        patch.setenv("RAY_worker_niceness", "0")  # else its processes starve on a busy machine
        patch.setenv("RAY_worker_register_timeout_seconds", "600")  # and Ray waits for ever for one
        patch.setenv("RAY_health_check_initial_delay_ms", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        head = SMALL | {"include_dashboard": False}
        started = Cluster(initialize_head=True, head_node_args=head)
        yield started
        started.shutdown()


@pytest.fixture
def second_node(cluster: Any) -> Iterator[Any]:
    """Beside the head, which the driver joins before: it may not lose the node that it is at."""
    with connected(cluster.address):
        node = cluster.add_node(**SMALL, env_vars={"TEST_NODE": "second"})
        yield node
        if node in cluster.worker_nodes:
            cluster.remove_node(node)


def test_a_killed_node_loses_nothing_and_bits_are_those_of_the_local_engine(
    cluster: Any, second_node: Any, tmp_path: Path
) -> None:
    from ray._private.state import available_resources_per_node

    grid = changed(train={"epochs": 500}) | {"seeds": 3}  # longer than a node takes to start
    local = run(grid, tmp_path / "local", device="cpu", progress=False)
    grid_jobs, store = read_grid(grid).jobs, Store(tmp_path / "ray")
    store.declare(read_grid(grid), "none")
    stream = Engine("ray", device="cpu", address=cluster.address).run(grid_jobs, store.root)
    before = 0
    for _ in stream:
        before += 1
        time.sleep(1)  # until Ray knows
        if not available_resources_per_node()[second_node.node_id].get("CPU"):
            break  # the node is in the middle of a training
    cluster.remove_node(second_node, allow_graceful=False)
    with pytest.warns(UserWarning, match="runs again, as its machine was lost"):
        rest = list(stream)
    assert before + len(rest) == 6
    table = run(grid, store.root, engine="ray", address=cluster.address, progress=False)
    assert_frame_equal(facts(table), facts(local), check_exact=True)


def test_run_stores_what_came_from_a_node(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    table = run(
        TINY | {"seeds": 1},
        out,
        engine="ray",
        device="cpu",
        address=cluster.address,
        progress=False,
    )
    assert list(table.status) == ["done", "done"]
    result = Store(out).result(table.id[0], 0)
    assert result is not None
    assert result["command"].startswith(f"ablations repeat {out} ")
    assert len(pd.read_csv(out / result["history"])) == 1
    assert (Store(out).run_folder(table.id[0], 0) / "model-seed0.safetensors").is_file()


def test_a_death_on_a_node_fails_its_job_alone(cluster: Any, tmp_path: Path) -> None:
    with connected(cluster.address):
        task = Task(tmp_path, "die", bad=(1,))
        results = dict(on_ray(jobs(4), task, HERE, ONE_CPU))
    dead = {
        job.seeds[0]: r.outcome for job, r in results.items() if isinstance(r.outcome, WorkerDied)
    }
    assert list(dead) == [1]
    assert "SIGKILL" in dead[1].cause
    assert sorted(job.seeds[0] for job in results) == [0, 1, 2, 3]


def test_a_node_that_fails_three_times_in_a_row_is_set_aside(
    cluster: Any, second_node: Any, tmp_path: Path
) -> None:
    task = Task(tmp_path, "die_on_the_second_node")
    stream = on_ray(jobs(12), task, HERE, ONE_CPU)
    with pytest.warns(UserWarning, match="is set aside: 3 jobs"):
        results = dict(stream)
    by_node = {parcel.node for parcel in results.values()}
    dead = [p.node for p in results.values() if isinstance(p.outcome, WorkerDied)]
    assert dead == [second_node.node_id] * 3
    assert len(by_node) == 2
    assert len(results) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_threads": 64}, r"a job asks for 64 CPU\(s\), and no machine .* has that .*1 CPUs"),
        ({"device": "cuda", "per_gpu": 4}, r"asks for 1 CPU\(s\) and 0.25 GPU, and no machine"),
        ({"device": "cuda:1"}, "must be cpu or cuda: Ray chooses the GPUs"),
        ({"workers": 2}, "workers=2 is of the local engine"),
    ],
)
def test_what_can_never_be_met_is_an_error_before_anything_runs(
    cluster: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(TINY, tmp_path / "run", engine="ray", address=cluster.address, **options)
    assert not list(tmp_path.glob("run/cells/*/seed*"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at address=.*ray start --head"),
        ("somewhere", "address='somewhere' must be auto or HOST:PORT"),
    ],
)
def test_no_cluster_at_the_address_is_an_error(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(TINY, tmp_path / "run", engine="ray", address=address, progress=False)


def test_a_stopped_driver_keeps_the_middle_of_what_machines_train(
    cluster: Any, tmp_path: Path
) -> None:
    grid = changed(train={"epochs": 200, "num_clips": 64}) | {"axes": {}, "seeds": 1}
    out, cell = tmp_path / "ray", read_grid(grid).baseline.id
    began_at, ended = time.time(), threading.Event()

    def stop_when_it_trains() -> None:
        """The machine is this one, which trains in a folder of its own for temporary files."""
        while not ended.wait(0.1):
            tables = Path(tempfile.gettempdir()).glob(f"ablations-*/cells/{cell}/seed0/metrics.csv")
            if any(table.stat().st_mtime > began_at for table in tables):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=stop_when_it_trains, daemon=True).start()
    with pytest.raises(Stopped):
        run(grid, out, engine="ray", device="cpu", address=cluster.address, progress=False)
    ended.set()
    (state,) = out.glob("cells/*/seed0/state.safetensors")
    reached = len(pd.read_csv(state.with_name("metrics.csv")))
    assert 0 < reached < 200
    began = (state.with_name("metrics.csv")).read_text().splitlines()[1]
    run(grid, out, engine="ray", device="cpu", address=cluster.address, progress=False)
    rows = state.with_name("metrics.csv").read_text().splitlines()
    assert len(rows) == 201
    assert rows[1] == began, "it began anew: the time of its first epoch is another"
