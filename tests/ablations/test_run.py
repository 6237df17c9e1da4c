"""Real trainings of a tiny model: engines agree, failures are rows, and nothing is done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from ablation_tasks import ONE, TINY, changed, children, facts, wait_until
from pandas.testing import assert_frame_equal

import ablations
from ablations import load, plan, read_grid, run
from ablations.engines import job
from ablations.engines.job import Attempt
from ablations.engines.worker import Place
from ablations.grid.grid import Job
from ablations.grid.gridfile import GridError
from ablations.report.data import Study
from ablations.report.provenance import time_need
from ablations.report.words import progress
from ablations.run import part
from ablations.store.alike import FailedAlikeError, unless_all_fail
from ablations.store.claims import STALE_S, Claims
from ablations.store.files import read_json, write_json
from ablations.store.status import status
from ablations.store.store import Store
from analysis.results.curves import runs_under
from posmlp.config import TrainConfig
from posmlp.train.fitting import fit
from posmlp.train.stopping import EXIT_CODE

pytestmark = pytest.mark.usefixtures("forks")
Popen = subprocess.Popen


def written(grid: dict[str, Any], folder: Path) -> Path:
    path = folder / "grid.yaml"
    path.write_text(json.dumps(grid))  # JSON is YAML
    return path


def started(path: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ablations.cli", "run", str(path), "--out", str(out), *options]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """As in a terminal; what a shell starts in the background, these tests too, may ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, run(TINY, out, device="cpu", progress=False)


def copied(undisturbed: tuple[Path, pd.DataFrame], folder: Path) -> Path:
    """The undisturbed run, to be damaged."""
    return shutil.copytree(undisturbed[0], folder / "run")


def test_table_has_a_row_a_cell_and_seed(undisturbed: tuple[Path, pd.DataFrame]) -> None:
    _, table = undisturbed
    assert list(zip(table.gate, table.seed, table.baseline, strict=True)) == [
        *[("lrpe", 0, True), ("lrpe", 1, True), ("mean", 0, False), ("mean", 1, False)]
    ]
    assert (table.status == "done").all()
    assert table.test_top1.between(0, 1).all()
    assert table.test_within_pair.between(0, 1).all()
    assert (table.num_threads == 1).all()
    assert table.peak_memory_mb.gt(50).all()
    assert table.params[0] > table.params[2]  # lrpe has tables


def test_pool_gives_the_bits_of_in_process_and_a_repeated_seed_that_stays_out_of_the_table(
    undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    table = run(TINY | {"repeat": True}, out, workers=2, device="cpu", progress=False)
    assert_frame_equal(facts(table), facts(undisturbed[1]), check_exact=True)
    both = load(out, repeats=True)
    again = both[both.repeat == 1]
    assert list(zip(again.gate, again.seed, strict=True)) == [("lrpe", 0)]
    assert again.test_loss.item() == table.test_loss[0]
    store, cell = Store(out), read_grid(TINY).baseline
    first, second = (store.result(cell.id, 0, repeat) for repeat in (0, 1))
    assert first is not None
    assert second is not None
    assert first["timings"] != second["timings"]  # it was trained, not copied
    assert store.run_folder(cell.id, 0, 1).joinpath("metrics.csv").is_file()
    assert [path.name for path in runs_under(out)] == ["seed0", "seed1"] * 2


def test_shards_make_up_the_whole(undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    for shard in ("2/2", "1/2"):
        table = run(TINY, tmp_path / "run", shard=shard, device="cpu", progress=False)
    assert_frame_equal(facts(table), facts(undisturbed[1]), check_exact=True)
    grid_jobs = read_grid(TINY).jobs
    parts = [part(grid_jobs, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(map(str, grid_jobs)) == sorted(str(job) for jobs in parts for job in jobs)


def test_runners_that_join_run_every_training_once_in_one_folder(
    undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    path, out = written(TINY, tmp_path), tmp_path / "run"
    both = [started(path, out, "--join", "--device", "cpu", "--quiet") for _ in range(2)]
    assert [process.communicate(timeout=120)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert_frame_equal(facts(load(out)), facts(undisturbed[1]), check_exact=True)
    assert not (out / "claims").exists()


def test_joining_runner_leaves_what_others_train_and_takes_over_from_the_dead(
    undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["ablations.run"], "LOOK_AGAIN_S", 0.1)
    out = tmp_path / "run"
    dead, alive, stopped, last = read_grid(TINY).jobs
    seen: dict[str, bool] = {}

    def has_ended(job: Job) -> bool:
        return Store(out).ended(job.cells[0].id, job.seeds[0]) is not None

    def others_go_on() -> None:
        wait_until(lambda: has_ended(last))
        seen.update(dead=has_ended(dead), alive=has_ended(alive), stopped=has_ended(stopped))
        cell, seed = alive.cells[0].id, alive.seeds[0]
        home = Store(out).run_folder(cell, seed)
        shutil.copytree(Store(undisturbed[0]).run_folder(cell, seed), home)
        result = read_json(home / "result.json")
        write_json(home / "result.json", result | {"worker": result["worker"] | {"pid": 0}})
        others.release([result])
        others._drop(set(others._held))  # one ends in the middle of a training

    with Claims(Store(out)) as others:
        assert all(map(others.take, (dead, alive, stopped)))
        path = others._path((dead.cells[0].id, dead.seeds[0], 0))
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - STALE_S - 1))
        thread = threading.Thread(target=others_go_on)
        thread.start()
        table = run(TINY, out, device="cpu", progress=False, join=True)
        thread.join()
    assert seen == {"dead": True, "alive": False, "stopped": False}
    assert_frame_equal(facts(table), facts(undisturbed[1]), check_exact=True)
    result = Store(out).result(alive.cells[0].id, alive.seeds[0])
    assert result is not None
    assert result["worker"]["pid"] == 0  # it was not trained again
    assert not (out / "claims").exists()


def test_runner_that_waits_for_others_is_queued_again_when_it_is_stopped(tmp_path: Path) -> None:
    out, jobs = tmp_path / "run", read_grid(ONE).jobs
    with Claims(Store(out)) as others:
        assert all(map(others.take, jobs))
        process = started(written(ONE, tmp_path), out, "--join", "--device", "cpu", "--quiet")
        wait_until((out / "plan.json").is_file, process)
        time.sleep(1)  # it looks at what is left, and then waits for five seconds
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=60) == EXIT_CODE
        assert [path.name for path in (out / "claims").glob(".*")] == [others._clock_path.name]


def test_claim_is_of_one_runner_and_of_what_has_not_ended(
    undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    store, (first, second, *_) = Store(tmp_path), read_grid(TINY).jobs
    both = replace(first, seeds=(0, 1))
    with Claims(store) as mine, Claims(store) as others:
        assert mine.take(first)
        assert mine.take(first)  # as after a death, or in parts that need less memory
        assert not others.take(first)
        assert not others.take(both)  # all of a population, or nothing
        assert others.take(second)
        assert not mine.take(both)
        path = mine._path((first.cells[0].id, 0, 0))
        os.utime(path, (0, path.stat().st_mtime - STALE_S - 1))  # as if it had been asleep
        assert others.take(first)
        mine.release([{"cell": first.cells[0].id, "seed": 0}])
        assert path.read_text() == others._owner
    assert not (tmp_path / "claims").exists()
    with Claims(Store(copied(undisturbed, tmp_path))) as late:
        assert not late.take(first)


def test_joining_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    for changes, more, said in (
        ({}, {"shard": "1/2"}, "two ways to divide"),
        ({}, {"engine": "ray"}, "of engine='local'"),
        ({"budget": "1h"}, {}, "cannot be kept by several runners"),
    ):
        with pytest.raises(ValueError, match=said):
            run(TINY | changes, tmp_path / "run", join=True, progress=False, **more)  # type: ignore[arg-type]


def test_slurm_array_queues_a_stopped_task_again(tmp_path: Path) -> None:
    """With stand-ins for Slurm's command and for a runner that takes a second to stop."""
    script = Path(ablations.__file__).with_name("grids") / "slurm_array.sh"
    stand_ins = {
        "scontrol": 'echo "$@" > requeued',
        "ablations": "trap 'sleep 1; touch stored; exit 75' USR1; echo \"$@\" > words; "
        "touch begun; while true; do sleep 0.1; done",
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    of_slurm = {"ARRAY_TASK_ID": "2", "ARRAY_TASK_COUNT": "4", "ARRAY_JOB_ID": "77"}
    task = subprocess.Popen(
        ["bash", str(script), "grid.yaml", "out", "--quiet"],
        env=os.environ | {"PATH": path} | {f"SLURM_{k}": v for k, v in of_slurm.items()},
        cwd=tmp_path,
    )
    wait_until((tmp_path / "begun").exists)
    assert (tmp_path / "words").read_text() == "run grid.yaml --out out --join --quiet\n"
    task.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    task.send_signal(signal.SIGTERM)  # while the runner stops
    assert task.wait(timeout=60) == 75
    assert (tmp_path / "stored").exists()
    assert (tmp_path / "requeued").read_text() == "requeue 77_2\n"


def test_damaged_result_is_named_and_trained_again(
    undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    out = copied(undisturbed, tmp_path)
    cell = read_grid(TINY).baseline
    path = Store(out).result_path(cell.id, 1)
    path.write_text(path.read_text()[:200])
    others = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/result.json") if p != path}
    with pytest.warns(UserWarning, match=r"gate=lrpe seed 1 is damaged: .*result.json is not JSON"):
        assert len(load(out)) == 3
    table = run(TINY, out, device="cpu", progress=False)
    assert_frame_equal(facts(table), facts(undisturbed[1]), check_exact=True)
    assert others == {p: p.stat().st_mtime_ns for p in others}


def test_failures_are_rows_and_the_rest_goes_on(tmp_path: Path) -> None:
    grid = TINY | {"axes": {"train.lr": [1e-3, 1e30]}, "seeds": 1}
    table = run(grid, tmp_path / "run", device="cpu", progress=False)
    assert list(table.status) == ["done", "failed"]
    assert table.failure[1] == "not finite"
    assert "_loss is nan" in table.reason[1]
    result = Store(tmp_path / "run").result_path(table.id[1], 0)
    before = result.stat().st_mtime_ns
    run(grid, tmp_path / "run", device="cpu", progress=False)
    assert result.stat().st_mtime_ns == before
    run(grid, tmp_path / "run", device="cpu", progress=False, retry_failed=True)
    assert result.stat().st_mtime_ns > before


def test_retrying_goes_on_from_what_was_trained(tmp_path: Path) -> None:
    """As after a file that was lost in the middle: what went wrong was not in the numbers."""
    out = tmp_path / "run"
    table = run(ONE, out, device="cpu", progress=False)
    which = table.id[0], 0
    result = Store(out).result(*which)
    assert result is not None
    model = Store(out).run_folder(*which) / "model-seed0.safetensors"
    before = model.stat().st_mtime_ns
    for failure, is_kept in (("exception", True), ("not finite", False)):
        lost = result | {"status": "failed", "failure": failure}
        write_json(Store(out).result_path(*which), lost)
        again = run(ONE, out, device="cpu", progress=False, retry_failed=True)
        assert list(again.status) == ["done"]
        assert (model.stat().st_mtime_ns == before) == is_kept


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "1/2/3"])
def test_shard_that_is_none_is_refused(tmp_path: Path, shard: str) -> None:
    with pytest.raises(ValueError, match=f"shard='{shard}' must be i/n"):
        run(TINY, tmp_path / "run", device="cpu", progress=False, shard=shard)
    assert not (tmp_path / "run").exists()


def test_exception_is_a_row_with_its_traceback(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("left", "right"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / "data" / split / name / f"{i}.mp4").write_bytes(b"not a video")
    grid = changed(train={"batch_size": 2}) | {"axes": {}, "seeds": 1}
    out = tmp_path / "run"
    table = run(grid, out, data=str(tmp_path / "data"), device="cpu", progress=False)
    assert (table.status[0], table.failure[0]) == ("failed", "exception")
    assert ".mp4" in table.reason[0]
    stored = Store(out).result(table.id[0], 0)
    assert stored is not None
    assert "Traceback" in stored["traceback"]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "device error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device error"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
            "device error",
        ),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), "device error"),
        (RuntimeError("NCCL error in: x, unhandled cuda error"), "device error"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), "out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (
            RuntimeError("Unable to find a valid cuDNN algorithm"),
            "out of memory",
        ),
        (RuntimeError("shapes do not match"), "exception"),
        (ValueError("CUDA error is in the text alone"), "exception"),
    ],
)
def test_failure_says_whether_it_is_the_devices(
    tmp_path: Path, error: Exception, failure: str
) -> None:
    def train() -> list[dict[str, Any]]:
        raise error

    (result,) = Attempt(read_grid(TINY).jobs[0], Place(0, "cpu", 1), tmp_path).finish(train)
    assert (result["status"], result["failure"]) == ("failed", failure)


LONG = changed(train={"epochs": 40}) | {"axes": {}, "seeds": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run(LONG, tmp_path_factory.mktemp("whole") / "run", device="cpu", progress=False)


def test_run_resumes_after_a_kill_to_the_same_bits(whole: pd.DataFrame, tmp_path: Path) -> None:
    path, out = written(LONG, tmp_path), tmp_path / "run"
    runner = started(path, out, "--device", "cpu")
    wait_until(lambda: any(out.glob("cells/*/seed0/state.safetensors")))
    runner.kill()
    runner.communicate()
    assert not list(out.glob("cells/*/seed0/result.json"))
    resumed = run(path, out, device="cpu", progress=False)
    assert list(resumed.reason) == [None]
    assert_frame_equal(facts(resumed), facts(whole), check_exact=True)


def test_scraps_of_a_kill_do_not_stop_the_next_run(
    undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    cell = read_grid(TINY).baseline
    out = tmp_path / "run"
    Store(out).declare(read_grid(TINY), "none")
    scrap = Store(out).run_folder(cell.id, 0) / ".config.json.123.tmp"
    scrap.parent.mkdir(parents=True)
    scrap.write_text("{")
    table = run(TINY, out, device="cpu", progress=False)
    assert_frame_equal(facts(table), facts(undisturbed[1]), check_exact=True)


def test_run_begun_before_a_new_field_starts_anew(
    undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    out = copied(undisturbed, tmp_path)
    cell = read_grid(TINY).baseline
    folder = Store(out).run_folder(cell.id, 0)
    (folder / "result.json").unlink()
    config = read_json(folder / "config.json")
    del config["train"]["sampling"]
    write_json(folder / "config.json", config)
    table = run(TINY, out, device="cpu", progress=False)
    assert_frame_equal(facts(table), facts(undisturbed[1]), check_exact=True)
    assert "starts anew" in Store(out).log_path(read_grid(TINY).jobs[0]).read_text()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes through /proc")
def test_second_runner_is_refused_killed_worker_is_a_row_and_interrupt_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    grid = changed(train={"epochs": 500}) | {"seeds": 2}
    path, out = written(grid, tmp_path), tmp_path / "run"
    runner = started(path, out, "--device", "cpu", "--workers", "2")
    try:
        wait_until((out / ".runner.json").exists)
        with pytest.raises(ValueError, match=f"in use by another runner .process {runner.pid} on"):
            run(path, out, device="cpu", progress=False)
        states = "cells/*/seed{}/state.safetensors"
        wait_until(lambda: all(any(out.glob(states.format(seed))) for seed in (0, 1)))
        os.kill(children(runner.pid)[0], signal.SIGKILL)
        wait_until(lambda: any(out.glob("cells/*/*/result.json")))
        runner.send_signal(signal.SIGINT)
        _, said = runner.communicate(timeout=60)
    finally:
        runner.kill()
    assert runner.returncode == 130
    table = load(out)
    assert list(table.failure) == ["worker killed"]
    assert "was killed by SIGKILL" in table.reason[0]
    assert table.seconds[0] > 0
    assert f"go on with: ablations run {path} --out {out} --workers 2 --device cpu" in said
    assert "Traceback" not in said


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes through /proc")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_run_that_a_scheduler_stops_goes_on_in_the_middle_with_the_same_bits(
    whole: pd.DataFrame, tmp_path: Path, workers: str
) -> None:
    path, out = written(LONG, tmp_path), tmp_path / "run"
    runner = started(path, out, "--device", "cpu", "--workers", workers)
    try:
        wait_until(lambda: any(out.glob("cells/*/seed0/state.safetensors")), runner)
        if workers == "2":  # a worker that is asked to stop alone is replaced, and its job goes on
            first = children(runner.pid)
            os.kill(first[0], signal.SIGTERM)
            wait_until(lambda: children(runner.pid) not in ([], first), runner)
        runner.send_signal(signal.SIGUSR1)
        _, said = runner.communicate(timeout=100)
    finally:
        runner.kill()
    assert runner.returncode == 75, said
    assert "Traceback" not in said
    assert "failed" not in said
    assert f"go on with: ablations run {path} --out {out}" in said
    (log,) = (log.read_text() for log in out.glob("cells/*/seed0.log"))
    assert "stopped by SIG" in log
    assert "keeps the training up to" in log
    assert not len(load(out))
    first = next(out.glob("cells/*/seed0/metrics.csv"))
    began = first.read_text().splitlines()[1]
    table = run(path, out, device="cpu", progress=False)
    assert first.read_text().splitlines()[1] == began, "it began anew"
    assert_frame_equal(facts(table), facts(whole), check_exact=True)


@pytest.mark.parametrize(("stop", "num_failed"), [({}, 3), ({"failed_alike": 2}, 2), (None, 9)])
def test_run_stops_when_all_fail_alike_and_says_so_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: dict[str, int] | None,
    num_failed: int,
) -> None:
    def unreadable(_config: Any, train: Any, _data: Any, seeds: Any, out: Path, **_: Any) -> None:
        raise ValueError(f"{out}: 12 of {12 + seeds[0]} videos cannot be read")

    monkeypatch.setattr(job, "fit", unreadable)
    grid = TINY | {"axes": {"gate": ["lrpe", "mean", "none"]}, "seeds": 3}
    grid |= {"stop": {"failed_alike": 0} if stop is None else stop}
    out = tmp_path / "run"
    if stop is None:
        run(grid, out, device="cpu", progress=False)
    else:
        with pytest.raises(RuntimeError, match=r"failed alike and none succeeded.*videos cannot"):
            run(grid, out, device="cpu", progress=False)
    assert list(load(out).status) == ["failed"] * num_failed
    told = status(out)
    assert told.count("cannot be read") == 1
    assert f"{num_failed} trainings failed alike (exception: ValueError: " in told


def test_failures_of_a_cells_own_do_not_stop_a_run(
    undisturbed: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    store = Store(tmp_path / "new")
    store.declare(read_grid(TINY), "none")
    failed = {"status": "failed", "cell": "c", "name": "n", "seed": 0}

    def num_before_the_end(where: Store, failure: str, reasons: list[str]) -> int:
        seen = 0
        results = ({**failed, "failure": failure, "reason": reason} for reason in reasons)
        with suppress(FailedAlikeError):
            for _ in unless_all_fail(results, where, 3, Counter()):
                seen += 1
        return seen

    alike = ["in step 7", "in step 12", "in step 1.5e-05", "in step 0x7F60988fa9e0"]
    assert num_before_the_end(store, "exception", alike) == 3
    assert num_before_the_end(store, "exception", ["a", "b", "c", "d"]) == 4
    for failure in ("not finite", "out of memory"):
        assert num_before_the_end(store, failure, alike) == 4
    others_succeeded = Store(copied(undisturbed, tmp_path))
    assert num_before_the_end(others_succeeded, "exception", alike) == 4


def test_ray_that_is_not_installed_is_told_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # so importing it fails as if it were not there
    with pytest.raises(ValueError, match=r"not installed; get it with: pip install '.*\[ray\]'"):
        run(TINY, tmp_path / "run", engine="ray", progress=False)


def test_cache_size_reaches_the_workers_and_changes_no_cell(
    write_clip: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Popen)  # a fork cannot decode where its parent did
    for split in ("train", "test"):
        for i in range(4):
            write_clip(tmp_path / "data" / split / "ab"[i // 2] / f"{i}.mp4", [60 + 9 * i] * 8)
    grid = changed(data=str(tmp_path / "data"), train={"batch_size": 2})
    grid |= {"axes": {}, "seeds": 1}
    tables, num_kept = {}, {}
    for gib, workers in ((0.0, 2), (1.0, 1)):
        out = tmp_path / f"run{gib:g}"
        tables[gib] = run(grid, out, workers=workers, device="cpu", cache_gib=gib, progress=False)
        num_kept[gib] = len(list(cache.rglob("*.frames")))
    assert num_kept == {0.0: 0, 1.0: 2}
    assert (tables[0.0].status == "done").all()
    assert_frame_equal(facts(tables[0.0]), facts(tables[1.0]), check_exact=True)
    assert "--cache-gib 0.0" in read_json(tmp_path / "run0" / "plan.json")["command"]


def test_seeds_are_tested_on_the_folds_of_groups_in_turn(
    write_clip: Any, cache: Path, tmp_path: Path
) -> None:
    for i in range(6):
        write_clip(tmp_path / "data" / "ab"[i % 2] / f"p{i // 2}" / "0.mp4", [60 + 9 * i] * 4)
    data = str(tmp_path / "data")
    grid = changed(data=data, train={"batch_size": 2, "folds": 3}) | {"axes": {}, "seeds": 4}
    table = run(grid, tmp_path / "run", device="cpu", progress=False)
    assert (table.status == "done").all()
    store = Store(tmp_path / "run")
    sources = [
        read_json(store.run_folder(cell, seed) / "config.json")
        for cell, seed in zip(table.id, table.seed, strict=True)
    ]
    assert [each["source"] for each in sources] == [f"fold{k % 3}of3:{data}" for k in range(4)]
    assert {each["data"]["test"]["num_clips"] for each in sources} == set(table.test_clips) == {2}
    study = Study.open(tmp_path / "run")
    assert "4 seeds each, tested in turn on 3 folds of whole groups (folders)." in progress(study)
    assert time_need(study, tmp_path) == []
    (tmp_path / "data/need.png").touch()
    assert time_need(study, tmp_path / "run") == ["../data/need.png"]
    for base, said in (
        ({"data": data, "train": {"folds": 2}}, "folds=2 must be 0 for none, or at least 3"),
        ({"data": data, "train": {"folds": 4}}, "has 3 groups .folders., too few for 4 folds"),
        ({"train": {"folds": 3}}, "folds=3 are of a folder's videos; 'moving-digits"),
    ):
        with pytest.raises(GridError, match=said):
            read_grid(changed(**base)).check_data()
    with pytest.raises(ValueError, match="seeds 0, 1 are tested on folds 0, 1 of folds=3"):
        fit("toy", TrainConfig(folds=3), data, [0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "auto"}, "are of engine='ray'"),
        ({"per_gpu": 2}, "are of engine='ray'"),
        ({"engine": "rai"}, "unknown engine 'rai'. Did you mean 'ray'"),
        ({"workers": 0}, "workers=0 must be at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(TINY, tmp_path / "run", progress=False, **options)


def test_plan_counts_predicts_and_names_what_is_stale(
    undisturbed: tuple[Path, pd.DataFrame],
) -> None:
    out, table = undisturbed
    more = changed(train={"epochs": 1}) | {"seeds": 3}
    found = plan(more, out)
    assert [planned.counts for planned in found.cells] == [{"done": 2, "failed": 0, "to do": 1}] * 2
    assert [planned.params for planned in found.cells] == list(table.params[[0, 2]])
    assert found.seconds == pytest.approx(table.groupby("gate").seconds.median().sum())
    assert found.memory_mb == pytest.approx(table.peak_memory_mb.max())
    assert "3 seeds find" in str(found)
    assert "at least 3.3 times" in str(found)
    repeated = plan(more | {"repeat": True}, out)
    baseline = repeated.cells[0].prediction.seconds
    assert (repeated.num_todo, repeated.repeat) == (3, "to do")
    assert repeated.seconds == pytest.approx(found.seconds + baseline)
    longer = plan(changed(train={"epochs": 4}), out, probe_s=0)
    assert len(longer.stale) == 2
    assert all("train.epochs was 1, is 4" in reason for reason in longer.stale)
    assert plan(TINY, probe_s=0).seconds is None
