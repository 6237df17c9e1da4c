"""The command line: exit codes, pipes, folders that moved, and numbers that make no sense."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from ablation_tasks import ONE, TINY, stored

from ablations import plan, read_grid, run
from ablations.bench import overhead, scale
from ablations.bench.grid import bench_grid
from ablations.bench.overhead import bench, measure
from ablations.bench.peers import CONTENDERS
from ablations.cli import main
from ablations.commands import command, for_folder
from ablations.engines.dispatch import CORES, MOST_A_CORE
from ablations.progress import reporter
from ablations.repeat import repeat
from ablations.store.store import Store


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(json.dumps(ONE))  # JSON is YAML
    return path


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("fault", ["a folder", "not UTF-8", "unreadable"])
def test_grid_file_that_cannot_be_read_is_wrong_input(
    command: str, fault: str, grid: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    reason = {"a folder": "there is no grid file", "not UTF-8": "is no text in UTF-8 (byte 9)"}
    if fault == "a folder":
        grid.unlink()
        grid.mkdir()
    elif fault == "not UTF-8":
        grid.write_bytes(b"question:\xff")
    else:

        def denied(*_: object, **__: object) -> str:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_text", denied)
    assert main([command, str(grid)]) == 2
    said = capsys.readouterr().err
    assert str(grid) in said
    assert reason.get(fault, "cannot be read (Permission denied)") in said
    assert said.count("\n") == 1


def test_out_that_cannot_be_written_is_wrong_input(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    out = tmp_path / "run"
    Store(out).declare(read_grid(TINY), "none")
    for words in (
        ["run", str(grid), "--device", "cpu", "--out", f"{file}/below"],
        ["run", str(grid), "--device", "cpu", "--out", f"{file}/below", "--shard", "1/2"],
        ["repeat", str(out), "gate=lrpe", "--seed", "0", "--to", f"{file}/below"],
        ["repeat", str(out), "gate=lrpe", "--seed", "0", "--to", str(file)],
    ):
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert str(file) in said
        assert said.count("\n") == 1
    assert file.read_text() == "mine"


def test_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.declare(read_grid(TINY), "none")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ablations", "status", str(store.root)]
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"")


@pytest.mark.usefixtures("forks")
def test_run_that_nobody_listens_to_has_done_its_work(grid: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = ["run", str(grid), "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet"]
    command = [sys.executable, "-u", "-m", "ablations", *words]
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"")


def test_commands_of_a_moved_folder_name_it_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, grid = tmp_path / "old", tmp_path / "new place", tmp_path / "grid.yaml"
    command = shlex.join(["ablations", "run", str(grid), "--out", str(old), "--workers", "2"])
    checked = read_grid(TINY)
    Store(old).declare(checked, command)
    again = f"ablations repeat {old} {checked.baseline.id} --seed 0 --device cpu"
    stored(Store(old), checked, 0, command=again)
    assert for_folder(command, old) == command.replace(str(grid), f"{old}/grid.yaml")
    assert for_folder("ablations run 'grid", old) == "ablations run 'grid"
    shutil.move(old, new)
    assert main(["status", str(new)]) == 0
    said = capsys.readouterr().out
    copy = shlex.quote(str(new / "grid.yaml"))
    assert f"go on with: ablations run {copy} --out '{new}' --workers 2" in said
    assert str(old) not in said
    own = shlex.join(["ablations", "run", f"{old}/grid.yaml", "--out", str(old)])
    shutil.copytree(new, old)  # the copy is its own
    assert for_folder(own, new) == f"ablations run {copy} --out '{new}'"
    grid.write_text("seeds: 1")
    assert for_folder(command, new) == command.replace(str(old), f"'{new}'")
    assert main(["why", str(new), "gate=lrpe", "--seed", "0"]) == 0
    said = capsys.readouterr().out
    assert f"repeat it with: ablations repeat '{new}' {checked.baseline.id} --seed 0" in said


@pytest.mark.parametrize("name", ["workers", "num_threads"])
def test_far_more_than_the_machine_has_cores_is_refused(name: str, tmp_path: Path) -> None:
    out, more = tmp_path / "run", MOST_A_CORE * CORES + 1
    with pytest.raises(ValueError, match=f"{name}={more} is more than .* {CORES} CPU cores"):
        run(TINY, out, device="cpu", progress=False, **{name: more})  # type: ignore[arg-type]
    assert not out.exists()
    with pytest.raises(ValueError, match=f"num_threads={more} is more than"):
        plan(TINY, out, num_threads=more, probe_s=0)
    assert plan(TINY, out, workers=more, probe_s=0).workers == more  # a cluster's
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"probe_s={seconds} must be seconds from 0"):
            plan(TINY, out, probe_s=seconds)


@pytest.mark.usefixtures("forks")
def test_plan_for_a_gpu_that_is_elsewhere_tells_all_but_the_time(grid: Path) -> None:
    found = plan(grid, device="cuda:99")
    assert found.seconds is None
    assert [c.params for c in found.cells] == [c.params for c in plan(grid, probe_s=0).cells]


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:99"])
def test_device_that_is_not_here_is_refused_before_anything_is_written(
    device: str, grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for word in ("plan", "run") if device != "cuda:99" else ("run",):
        assert main([word, str(grid), "--out", str(out), "--device", device]) == 2
        assert f"device='{device}' is not here" in capsys.readouterr().err
    assert not out.exists()


def test_repeat_refuses_what_cannot_be(tmp_path: Path) -> None:
    store, checked = Store(tmp_path / "run"), read_grid(TINY)
    store.declare(checked, "none")
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=rf"seed={seed} must be .* the seeds .* are 0, 1"):
            repeat(store.root, "gate=lrpe", seed)
    with pytest.raises(ValueError, match="num_threads=100000 is more than"):
        repeat(store.root, "gate=lrpe", 0, num_threads=100_000)
    with pytest.raises(ValueError, match="device='cuda:99' is not here"):
        repeat(store.root, "gate=lrpe", 0, device="cuda:99")


def test_brackets_of_a_reason_are_shown_on_a_terminal_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes a terminal of the captured stream
    failed = {"name": "gate=[red]own", "seed": 0, "repeat": 0, "status": "failed", "metrics": {}}
    failed |= {"failure": "error", "reason": "no file [/x] here", "timings": {"seconds": 1.0}}
    with reporter(1, 0, "again", metrics=(), running=lambda: []) as report:
        report(failed)
    shown = capsys.readouterr().err
    assert "gate=[red]own" in shown
    assert "no file [/x] here" in shown


def test_a_folder_that_begins_with_a_dash_is_no_option() -> None:
    assert command("report", Path("-o")) == "ablations report ./-o"
    moved = for_folder("ablations run g.yaml --out old", Path("-o"))
    assert moved == "ablations run ./-o/grid.yaml --out ./-o"


@pytest.mark.parametrize("name", ["my results", "it's", "a;b", "plain"])
def test_the_next_command_can_be_pasted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys.modules["ablations.run"], "run", lambda *args, **options: pd.DataFrame()
    )
    out = tmp_path / name
    assert main(["run", "grid.yaml", "--out", str(out)]) == 0
    said = capsys.readouterr().out.strip()
    assert shlex.split(said) == ["next:", "ablations", "report", str(out)]


# ---- bench ----


def test_bench_sees_the_time_that_jobs_take_and_the_workers_share_them() -> None:
    in_process, pooled = (measure(contender, 4, 0.4) for contender in CONTENDERS[:2])
    assert in_process.jobs_s >= 1.6
    assert 0.8 <= pooled.jobs_s < in_process.jobs_s  # two on each worker
    assert in_process.start_s > 0


def test_bench_names_what_is_not_installed_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(CONTENDERS[0], name="absent", needs=("no_such_module",))
    monkeypatch.setattr(overhead, "CONTENDERS", [absent, CONTENDERS[0]])
    *_, first, second = bench(2, 0.01)
    assert first.split() == ["absent", "not", "run:", "no", "no_such_module", "(extra:", "bench)"]
    assert second.startswith("ours, in-process")
    assert second.endswith("%")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "slurm"}, "only='slurm' is part of no name; there are: ours"),
        ({"num_jobs": 1}, "num_jobs=1 must be at least 2"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(bench(**options))  # type: ignore[arg-type]


def test_bench_of_scale_measures_each_step_of_grids_that_have_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale, "measured", scale.measure)  # in this process, which has imported
    steps = {name: step for name, step in scale.STEPS.items() if name != "report"}
    monkeypatch.setattr(scale, "STEPS", steps)
    head, *lines = (line.split() for line in scale.bench([10]))
    assert head == list(scale.COLUMNS)
    assert [line[2] for line in lines] == [*steps, *steps]
    assert all(float(line[4]) < 5 for line in lines)  # CPU-seconds
    with pytest.raises(ValueError, match="cells=50 must be 10, 100, 1000 or 10000"):
        next(scale.bench([50]))


def test_bench_of_a_grid_runs_it_both_ways_to_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(words: list[str], **_: object) -> SimpleNamespace:
        """The command in this process, which has imported all that it needs."""
        assert words[:3] == [sys.executable, "-m", "ablations"]
        return SimpleNamespace(returncode=main(words[3:]), stderr="")

    monkeypatch.setattr("ablations.bench.grid.subprocess", SimpleNamespace(run=here))
    path = tmp_path / "grid.yaml"
    path.write_text(json.dumps(TINY | {"axes": {"train.lr": [1e-3, 1e-2]}}))
    said = list(bench_grid(path, "cpu", workers=1))
    assert said[0] == "2 cells x 2 seeds = 4 trainings on cpu"
    assert ["up to 1 together" in said[1], "up to 4 together" in said[2]] == [True, True]
    assert said[3] == "largest difference in test loss: 0"
    assert "times as fast" in said[4]
