"""The folder of a run: what is refused, what survives, and what the commands read from it."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from ablation_tasks import ONE, TINY, facts, how_made, stored
from pandas.testing import assert_frame_equal

from ablations import load, plan, progress, read_grid, run
from ablations.cli import main
from ablations.grid.grid import Grid
from ablations.store.files import read_json, write_durably, write_json
from ablations.store.running import Running
from ablations.store.status import status
from ablations.store.store import Store, StoreError
from analysis import compare, draw_accuracy, draw_differences, effects


@pytest.fixture
def declared(tmp_path: Path) -> tuple[Store, Grid]:
    store, grid = Store(tmp_path / "run"), read_grid(TINY)
    store.declare(grid, "ablations run grid.yaml")
    return store, grid


def test_results_stored_together_are_each_whole_and_one_that_cannot_be_raises(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    done = {"cell": "c", "status": "done", "metrics": {}, **how_made("none")}
    results = [done | {"seed": seed} for seed in range(40)]
    store.write_results(results)
    assert [store.result("c", seed) for seed in range(40)] == results
    store.run_folder("c", 50).parent.joinpath("seed50").write_text("in the way")
    others = [result | {"seed": seed} for seed, result in enumerate(results, start=49)]
    with pytest.raises(OSError, match="seed50"):
        store.write_results(others)
    assert store.result("c", 49) == others[0]
    assert store.result("c", 88) == others[-1]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"status": "done"}', "\x00" * 99])
def test_damaged_result_is_not_done(content: str, declared: tuple[Store, Grid]) -> None:
    store, grid = declared
    stored(store, grid, 0)
    stored(store, grid, 1)
    path = store.result_path(grid.baseline.id, 1)
    path.write_text(content)
    with pytest.raises(ValueError, match=r"result\.json"):
        store.result(grid.baseline.id, 1)
    with pytest.warns(UserWarning, match="seed 1 is damaged"):
        assert list(load(store.root).seed) == [0]


def test_how_a_training_ended_is_known_anew_when_its_file_is_replaced(
    declared: tuple[Store, Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, grid = declared
    which = grid.baseline.id, 0
    assert store.ended(*which) is None
    first = stored(store, grid, 0)
    ended = store.ended(*which)
    assert ended is not None
    assert (ended["metrics"], "command" in ended) == (first["metrics"], False)
    again = first | {"metrics": {"test_top1": 0.75}}
    store.write_results([again])
    assert (store.ended(*which) or {})["metrics"] == {"test_top1": 0.75}
    with monkeypatch.context() as patch:
        patch.setattr(Store, "result", lambda *_: pytest.fail("read again"))
        store.ended(*which)
    store.result_path(*which).write_text("{")
    assert store.ended(*which) is None


def test_a_plan_that_is_as_it_was_is_not_written_again(declared: tuple[Store, Grid]) -> None:
    store, grid = declared
    before = store.plan_path.stat().st_ino
    store.declare(grid, "ablations run grid.yaml")
    assert store.plan_path.stat().st_ino == before
    store.declare(grid, "ablations run grid.yaml --workers 2")
    assert store.plan()["command"] == "ablations run grid.yaml --workers 2"


def test_result_of_another_seed_is_not_taken(declared: tuple[Store, Grid]) -> None:
    store, grid = declared
    result = stored(store, grid, 0)
    write_json(store.result_path(grid.baseline.id, 1), result)
    with pytest.raises(ValueError, match="another cell or seed"):
        store.result(grid.baseline.id, 1)


def test_changed_default_does_not_pass_off_old_results(declared: tuple[Store, Grid]) -> None:
    store, grid = declared
    path = store.cell_path(grid.baseline.id)
    cell = read_json(path)
    cell["train"]["weight_decay"] = 0.5
    write_json(path, cell)
    with pytest.raises(StoreError, match=r"train.weight_decay=0.5, which is now 0.05"):
        store.check(grid)


def test_new_default_field_is_no_conflict(declared: tuple[Store, Grid]) -> None:
    store, grid = declared
    path = store.cell_path(grid.baseline.id)
    cell = read_json(path)
    del cell["model"]["init"]
    write_json(path, cell)
    store.check(grid)


def running_in(folder: Path, pid: int, **config: Any) -> None:
    write_json(folder / ".owner.json", {"pid": pid, "host": socket.gethostname()})
    write_json(folder / "config.json", {"train": {"epochs": 5}, "seeds": [0], **config})


def test_status_tells_how_far_running_trainings_are_and_watches_to_the_end(
    declared: tuple[Store, Grid],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, grid = declared
    lrpe, mean = (cell.id for cell in grid.cells)
    running_in(store.run_folder(lrpe, 0), os.getpid())
    rows = "epoch,seed,train_loss,seconds\n1,0,2.5,100\n2,0,1.25,100\n"
    write_durably(store.metrics_path(lrpe, 0), rows.encode())
    running_in(store.run_folder(mean, 0, repeat=1), os.getpid())
    both = {"variants": {lrpe: {}, mean: {}}, "seeds": [0, 1]}
    running_in(store.together_path / "hash", os.getpid(), **both)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    running_in(store.run_folder(mean, 1), gone.pid)
    told = status(store.root).splitlines()
    assert told[0] == f"{store.root}: 4 trainings: 4 to do"
    assert told[1:4] == [
        "  gate=lrpe seed 0 is at epoch 3 of 5, loss 1.250, about 5 min 0 s left",
        "  gate=mean seed 0 repeated is at epoch 1 of 5",
        "  2 cells together seed 0, 1 is at epoch 1 of 5",
    ]
    assert told[4].startswith("go on with")

    def later(seconds: float) -> None:
        for cell, seed in ((c, s) for c in grid.cells for s in grid.seeds) if seconds else ():
            stored(store, grid, seed, cell=cell.id)

    monkeypatch.setattr(progress.time, "sleep", later)
    assert main(["status", str(store.root), "--watch"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith(str(store.root))] == [
        f"{store.root}: 4 trainings: 4 to do",
        f"{store.root}: 4 trainings: 4 done",
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_table_shows_results_and_what_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_S", 0.01)
    monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    now = Running("gate=mean", "0, 1", 2, 3, 0.75, 12.4)
    done = {"name": "gate=lrpe", "seed": 4, "repeat": 0, "status": "done", **how_made("none")}
    with progress.reporter(3, 1, "again", metrics=[], running=lambda: [now]) as report:
        report(done | {"metrics": {}})
        before = time.monotonic()
        while "done, 1.0 s" not in terminal.getvalue() and time.monotonic() < before + 30:
            time.sleep(0.01)
    said = terminal.getvalue()
    assert "epoch 2 of 3, loss 0.750, about 12.4 s left" in said
    assert "epoch 2" not in said[said.rindex("result") :], "nothing runs at the end"


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="holds no ablation"):
        run(TINY, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_that_is_no_path_is_refused() -> None:
    with pytest.raises(ValueError, match=r"out=5 must be the folder of a run, as text or a path"):
        load(5)  # type: ignore[arg-type]


def test_folder_that_another_shard_just_begins_is_no_conflict(tmp_path: Path) -> None:
    store, grid = Store(tmp_path / "run"), read_grid(TINY)
    store.declare(grid, "none")
    store.plan_path.unlink()  # it is written last
    store.check(grid)
    (store.root / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="holds no ablation"):
        store.check(grid)


@pytest.mark.parametrize(
    ("axis", "values", "told"),
    [
        ("temporal_windows", [None, 4], ["null", 4]),
        ("temporal_windows", [[4], None], ["4", "null"]),
        ("temporal_windows", [2, None, 4], [2, "null", 4]),
    ],
)
def test_from_python_the_table_is_compared_and_drawn_as_on_the_page(
    axis: str, values: list[object], told: list[object], tmp_path: Path
) -> None:
    store = Store(tmp_path / "run")
    base = TINY["base"] | {"num_frames": 8}
    axes = {axis: values, "gate": ["lrpe", "mean"]}
    grid = read_grid(TINY | {"base": base, "axes": axes, "seeds": 3})
    store.declare(grid, "")
    for place, cell in enumerate(grid.cells):
        for seed in grid.seeds:
            status = "failed" if (place, seed) == (1, 2) else "done"
            metrics = {"test_top1": 0.5 + 0.1 * place + 0.01 * seed * (1 + place)}
            result = {"cell": cell.id, "seed": seed, "status": status, "metrics": metrics}
            failed = {"failure": "diverged", "reason": None} if status == "failed" else {}
            store.write_results([result | failed | how_made("none")])
    table = load(store.root)
    assert list(dict.fromkeys(table[axis])) == told
    assert table.groupby(axis).size().sum() == len(table)
    rows = compare(table)
    assert rows["n"].tolist() == [2, *[3] * (len(grid.cells) - 2)]
    labels = draw_differences(rows).get_yticklabels()
    assert [label.get_text() for label in labels] == rows["name"].tolist()
    assert set(effects(table, [axis, "gate"], "test_top1")["n"]) == {2}
    assert (
        draw_accuracy(table, metric="test_top1")
        .get_yticklabels()[1]
        .get_text()
        .endswith("(2/3 runs)")
    )


def test_status_and_why_tell_what_happened(
    declared: tuple[Store, Grid], capsys: pytest.CaptureFixture[str]
) -> None:
    store, grid = declared
    failed = {"status": "failed", "failure": "exception", "reason": "ValueError: bad luck"}
    stored(store, grid, 0, **failed, traceback="Traceback: line 1", metrics={})
    store.log_path(grid.jobs[0]).write_text("last words\n")
    assert main(["status", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert "4 trainings: 1 failed, 3 to do" in said
    assert "gate=lrpe seed 0 failed (exception: ValueError: bad luck)" in said
    assert "go on with: ablations run grid.yaml" in said
    for name in (grid.baseline.id[:4], "gate=lrpe"):
        assert main(["why", str(store.root), name, "--seed", "0"]) == 0
        said = capsys.readouterr().out
        assert all(part in said for part in ("bad luck", "Traceback: line 1", "last words"))
        assert "repeat it with: ablations repeat" in said


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["status", "{tmp}"], "holds no ablation"),
        (["why", "{run}", "nothing"], "its cells are"),
        (["why", "{run}", "gate=lrpe", "--seed", "9"], "its seeds are [0, 1]"),
        (["run", "{tmp}/none.yaml"], "there is no grid file"),
        (["run", "{run}/grid.yaml", "--out", "{run}", "--engine", "rya"], "Use one of: local"),
        (["run", "{run}/grid.yaml", "--out", "{run}", "--workers", "0"], "must be at least 1"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    words: list[str],
    problem: str,
    declared: tuple[Store, Grid],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"tmp": str(tmp_path), "run": str(declared[0].root)}
    assert main([word.format(**places) for word in words]) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert said.startswith("ablations: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["status", "{}"], ["why", "{}", "gate=lrpe"]])
def test_quick_commands_import_nothing_heavy(
    words: list[str], declared: tuple[Store, Grid]
) -> None:
    code = (
        "import sys\nfrom ablations.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'yaml', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    arguments = [word.format(declared[0].root) for word in words]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_repeat_finds_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    table = run(TINY | {"axes": {}, "seeds": [4]}, out, device="cpu", progress=False)
    command = Store(out).result(table.id[0], 4)
    assert command is not None
    assert command["command"].split()[:2] == ["ablations", "repeat"]
    words = command["command"].split()[1:]
    assert main(words) == 0
    assert "the same to the last bit" in capsys.readouterr().out
    path = Store(out).result_path(table.id[0], 4)
    stored_result = read_json(path)
    stored_result["metrics"]["test_loss"] += 1e-9
    write_json(path, stored_result)
    assert main(words) == 1
    assert "not the same" in capsys.readouterr().out
    Store(out).cell_path(table.id[0]).unlink()
    assert main(words) == 2
    assert "cell.json is missing or damaged; give the `ablations run`" in capsys.readouterr().err


DAMAGE = {
    "list": "[]",
    "number": "3",
    "truncated": '{"question": "wh',
    "no keys": "{}",
    "another shape": '{"name": "lrpe", "model": [], "identity": 3, "seeds": 3, "cells": [3]}',
    "binary": "\xff\x00",
}


@pytest.mark.parametrize(
    ("content", "command"),
    list(zip(DAMAGE.values(), cycle(["status", "why", "report", "repeat", "publish"]))),
    ids=DAMAGE,
)
def test_damaged_plan_is_one_line_with_the_mend(
    command: str,
    content: str,
    declared: tuple[Store, Grid],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, _ = declared
    store.plan_path.write_text(content)
    more = {"why": ["x"], "repeat": ["x", "--seed", "0"], "publish": [str(tmp_path / "to")]}
    assert main([command, str(store.root), *more.get(command, [])]) == 2
    said = capsys.readouterr().err
    assert str(store.plan_path) in said
    assert "give the `ablations run` command of this folder again" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["seeds"], 3),
        (["cells", 0], ["id"]),
        (["cells", 0, "axes"], 3),
        (["repeats"], [3]),
        (["repeats"], [["id"]]),
        (["baseline"], "none"),
        (["command"], None),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, list) else "",
)
def test_damage_inside_a_plan_is_named(
    path: list[Any], value: Any, declared: tuple[Store, Grid]
) -> None:
    store, _ = declared
    content = place = read_json(store.plan_path)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    write_json(store.plan_path, content)
    with pytest.raises(StoreError, match=rf"plan\.json is damaged \({path[0]}.* is "):
        store.plan()


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_damaged_cell_file_is_named_and_a_run_writes_it_anew(
    content: str,
    declared: tuple[Store, Grid],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, grid = declared
    whole = {seed: stored(store, grid, seed) for seed in grid.seeds}
    path = store.cell_path(grid.baseline.id)
    before = path.read_bytes()
    path.write_text(content)
    assert main(["repeat", str(store.root), grid.baseline.id, "--seed", "0"]) == 2
    assert f"{path} is " in capsys.readouterr().err
    assert main(["status", str(store.root)]) == 0
    assert len(load(store.root)) == 2
    store.check(grid)
    assert plan(grid, store.root, probe_s=0).stale == []
    store.declare(grid, "again")
    assert path.read_bytes() == before
    assert {seed: store.result(grid.baseline.id, seed) for seed in grid.seeds} == whole


def test_cell_file_that_makes_no_model_is_damage(declared: tuple[Store, Grid]) -> None:
    store, grid = declared
    cell = read_json(store.cell_path(grid.baseline.id))
    for damage in ({"depths": 3}, {"unheard_of": 1}, {"dims": ["a"]}):
        write_json(store.cell_path(grid.baseline.id), cell | {"model": cell["model"] | damage})
        with pytest.raises(StoreError, match=r"cell\.json makes no model"):
            store.configs(grid.baseline.id)


@pytest.mark.parametrize(
    "damage",
    [{"timings": []}, {"worker": {}}, {"metrics": {"test_top1": "high"}}, {"log": 3}],
    ids=str,
)
def test_result_of_another_shape_is_damaged_and_the_others_are_read(
    damage: dict[str, Any], declared: tuple[Store, Grid], capsys: pytest.CaptureFixture[str]
) -> None:
    store, grid = declared
    result = stored(store, grid, 0)
    stored(store, grid, 1)
    write_json(store.result_path(grid.baseline.id, 0), result | damage)
    assert main(["status", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert "4 trainings: 1 done, 1 damaged, 2 to do" in said
    assert f"is no whole result ({next(iter(damage))}" in said
    assert main(["why", str(store.root), grid.baseline.id]) == 0
    with pytest.warns(UserWarning, match="seed 0 is damaged"):
        assert list(load(store.root).seed) == [1]


# Results of another folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("source") / "run"
    run(TINY | {"seeds": 1}, out, device="cpu", progress=False)
    return out


def test_reused_rows_are_the_same_and_name_their_source(source: Path, tmp_path: Path) -> None:
    renamed = TINY | {"axes": {"gate": ["mean", "lrpe", "none"]}, "baseline": {"gate": "lrpe"}}
    expected = run(renamed, tmp_path / "anew", device="cpu", progress=False)
    empty = tmp_path / "empty"
    run(TINY | {"axes": {"gate": ["dense"]}, "seeds": 1}, empty, device="cpu", progress=False)
    table = run(renamed, tmp_path / "run", device="cpu", reuse=[empty, source], progress=False)
    taken = (table.gate != "none") & (table.seed == 0)
    assert list(table.reused_from) == [str(source) if one else "" for one in taken]
    same = facts(table).drop(columns="reused_from")
    assert_frame_equal(same, facts(expected).drop(columns="reused_from"), check_exact=True)
    cell, store = read_grid(TINY).baseline, Store(tmp_path / "run")
    files = {path.name for path in store.run_folder(cell.id, 0).iterdir()}
    assert files == {p.name for p in Store(source).run_folder(cell.id, 0).iterdir()}
    result = store.result(cell.id, 0)
    assert result is not None
    assert str(store.root) in result["command"]
    assert result["timings"] == (Store(source).result(cell.id, 0) or {})["timings"]
    again = run(TINY | {"seeds": 1}, tmp_path / "chain", reuse=[store.root], progress=False)
    assert set(again.reused_from) == {str(source)}  # where it was trained


def test_failed_and_damaged_results_are_not_taken(source: Path, tmp_path: Path) -> None:
    other, cell = tmp_path / "other", read_grid(TINY).baseline
    grid = TINY | {"axes": {}, "seeds": 2}
    run(grid, other, device="cpu", progress=False)
    failed = Store(other).result(cell.id, 0)
    assert failed is not None
    Store(other).write_results([failed | {"status": "failed", "failure": "exception"}])
    Store(other).result_path(cell.id, 1).write_text("{")
    table = run(grid, tmp_path / "run", device="cpu", reuse=[other], progress=False)
    assert list(table.reused_from) == ["", ""]
    assert (table.status == "done").all()


def test_results_of_another_default_are_refused(source: Path, tmp_path: Path) -> None:
    other, cell = tmp_path / "other", read_grid(TINY).baseline
    run(TINY | {"axes": {}, "seeds": 1}, other, device="cpu", progress=False)
    stored = read_json(Store(other).cell_path(cell.id))
    stored["train"]["weight_decay"] = 0.5
    write_json(Store(other).cell_path(cell.id), stored)
    with pytest.raises(StoreError, match=r"weight_decay=0\.5, which is now 0\.05"):
        run(TINY, tmp_path / "run", device="cpu", reuse=[other], progress=False)


def test_a_folder_that_is_no_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("seeds: 1\n")
    words = ["run", str(grid), "--out", str(tmp_path / "run"), "--reuse", str(tmp_path / "none")]
    assert main(words) == 2
    assert f"{tmp_path / 'none'} holds no ablation" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(StoreError):
        load(tmp_path / "run")


@pytest.mark.parametrize("kind", [str, Path])
def test_one_folder_to_reuse_needs_no_list(kind: type, source: Path, tmp_path: Path) -> None:
    grid = TINY | {"seeds": 1}
    table = run(grid, tmp_path / "run", device="cpu", reuse=kind(source), progress=False)
    assert list(table.reused_from) == [str(source)] * 2


# ---- Real small disks: one that fills up, and one that cannot be written to ----

MANY = ONE | {"seeds": 6, "repeat": False}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 130 KB, about three trainings."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=130k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_full_disk_keeps_what_is_finished_and_goes_on_when_there_is_room(
    disk: Path, tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, out = tmp_path / "grid.yaml", disk / "run"
    grid.write_text(json.dumps(MANY))
    words = ["run", str(grid), "--out", str(out), "--device", "cpu", "--workers", workers]
    assert main([*words, "--quiet"]) == 1
    said = capsys.readouterr().err
    tellers = (f"ablations: {out}", *["ablations: base seed "] * (workers == "2"))  # who is first
    assert said.startswith(tellers)
    assert f"cannot be written: the disk of {out}" in said
    assert " free, " in said
    assert "what is finished is kept" in said
    assert said.count("\n") == 1
    before = load(out)
    assert 0 < len(before) < 6
    assert (before.status == "done").all()
    results = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*/result.json")}
    remount(disk, "size=4m")
    table = run(grid, out, device="cpu", progress=False)
    expected = run(grid, tmp_path / "roomy", device="cpu", progress=False)
    assert_frame_equal(facts(table), facts(expected), check_exact=True)
    assert all(path.stat().st_mtime_ns == time for path, time in results.items())


@pytest.mark.usefixtures("forks")
def test_read_only_folder_is_one_line_and_can_still_be_read(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, out = tmp_path / "grid.yaml", disk / "run"
    grid.write_text(json.dumps(ONE))
    run(grid, out, device="cpu", progress=False)
    remount(disk, "ro")
    try:
        assert main(["run", str(grid), "--out", str(out), "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert re.search(
            rf"{out}/\S+ cannot be written: {out} is read-only; give a folder that", said
        )
        assert said.count("\n") == 1
        assert main(["status", str(out)]) == 0
        assert "1 done" in capsys.readouterr().out
        assert len(load(out)) == 1
    finally:
        remount(disk, "rw")
