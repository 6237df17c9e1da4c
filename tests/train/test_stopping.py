"""Signals that stop a training: nothing of a whole step is lost, and no bit differs afterwards."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from posmlp.cli import main
from posmlp.train import loop
from posmlp.train.execution import beside_others
from posmlp.train.fitting import fit
from posmlp.train.run_folder import read_metrics
from posmlp.train.stopping import EXIT_CODE, Stopped, obeyed, whole
from tests.train.test_train import CONFIG, TRAIN, clips, values

__all__ = ["clips"]
pytestmark = pytest.mark.usefixtures("forks")

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
SETTINGS = ["num_frames=2", "image_size=16", "windows=4", "temporal_windows=2", "depths=[1]"]
SETTINGS += ["num_val_clips=28", "num_test_clips=28"]
SETTINGS += ["dims=[8]", "num_groups=1", "downsample=[]", "batch_size=16", "drop_path=0.2"]


def training(out: Path, *settings: str, seeds: str = "0") -> list[str]:
    """The command of a tiny training."""
    words = ["-m", "posmlp", "train", "--data", "moving-digits:easy", "--out", str(out)]
    return [sys.executable, *words, "--device", "cpu", "--seeds", seeds, *SETTINGS, *settings]


@pytest.fixture(autouse=True)
def heed_interrupts() -> Iterator[None]:
    """As in a terminal; what a shell starts in the background, these tests too, may ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


def raising(*numbers: int, patient: bool | None = None) -> list[str]:
    """What was done before an error came: signals, obeyed, in a `whole` block unless it is None."""
    done: list[str] = []

    def act() -> None:
        try:
            for number in numbers:
                signal.raise_signal(number)
                done.append("next")
        finally:
            signal.raise_signal(signal.SIGTERM)  # a scheduler's reminder
            done.append("end")

    def act_whole() -> None:
        with whole(patient=bool(patient)):
            act()
        done.append("after")

    try:
        with obeyed():
            act() if patient is None else act_whole()
    except BaseException as error:
        done.append(type(error).__name__)
    return done


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_raise_at_once_but_wait_for_the_end_of_what_is_whole(number: int) -> None:
    error = "KeyboardInterrupt" if number == signal.SIGINT else "Stopped"
    assert raising(number) == ["end", error], "a reminder disturbed the end"
    assert raising(number, patient=False) == ["next", "end", error]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert EXIT_CODE == os.EX_TEMPFAIL


def test_a_second_ctrl_c_waits_for_nothing_but_what_is_patient() -> None:
    twice = (signal.SIGINT, signal.SIGINT)
    assert raising(*twice, patient=False) == ["next", "end", "StoppedAtOnce"]
    assert raising(*twice, patient=True) == ["next", "next", "end", "KeyboardInterrupt"]


def test_a_signal_that_somebody_else_handles_is_left_to_them(
    clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        at_step(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGTERM))
        fit(CONFIG, replace(TRAIN, epochs=1), clips, out=tmp_path / "run", progress=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something in the middle of a step, counted from 1 over all epochs."""
    step, count = loop.Training._step, iter(range(1, 10**6))

    def wrapped(self: loop.Training, *arguments: Any) -> Any:
        if next(count) == number:
            act()
        return step(self, *arguments)

    monkeypatch.setattr(loop.Training, "_step", wrapped)


def same_models(one: Path, other: Path) -> bool:
    found = sorted(path.name for path in one.glob("model-*"))
    assert found
    return all(
        torch.equal(tensor, load_file(other / name)[key])
        for name in found
        for key, tensor in load_file(one / name).items()
    )


EVERY_PART = replace(TRAIN, epochs=2, ema_decay=0.9, erase=0.5)
DROPPING = replace(CONFIG, drop_path=0.3)


@pytest.fixture(scope="module")
def undisturbed(clips: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, fit(DROPPING, EVERY_PART, clips, [0, 3], out, progress=False)


@pytest.mark.parametrize("where", ["step 1", "step 5", "step 7", "score", "death at step 4"])
def test_training_stopped_anywhere_goes_on_with_the_same_bits(
    clips: Any,
    undisturbed: tuple[Path, list[dict]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """A death without notice loses the steps since the last store alone."""

    def die() -> None:
        raise MemoryError

    signals = {"step 1": signal.SIGTERM, "step 5": signal.SIGUSR1, "step 7": signal.SIGINT}
    steps = {"score": len(clips[0]) // TRAIN.batch_size, "death at step 4": 3}
    if where in signals:
        at_step(monkeypatch, int(where[-1]), lambda: signal.raise_signal(signals[where]))
    elif where == "score":
        monkeypatch.setattr(loop, "score", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    else:
        monkeypatch.setattr(loop, "STORE_EVERY_S", 0.0)
        at_step(monkeypatch, 4, die)
    with pytest.raises((Stopped, KeyboardInterrupt, MemoryError)):
        fit(DROPPING, EVERY_PART, clips, [0, 3], tmp_path / "cut", progress=False)
    monkeypatch.undo()
    assert not list((tmp_path / "cut").glob("model-*"))
    if where in steps:
        state = load_file(tmp_path / "cut" / "state.safetensors")
        assert state["epoch.steps"] == steps[where]
    resumed = fit(DROPPING, EVERY_PART, clips, [0, 3], tmp_path / "cut", progress=False)
    assert values(resumed) == values(undisturbed[1])
    assert same_models(undisturbed[0], tmp_path / "cut")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_says_what_is_kept_and_how_it_goes_on(
    tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """And refuses the folder to a second one until then, by process and host."""
    out = tmp_path / "run"
    words = training(out, "epochs=9999", "num_clips=64")
    process = start(words)
    wait_for(out / "metrics.csv", process)
    assert main(words[3:]) == 2
    used = f"in use by another training (process {process.pid} on {os.uname().nodename})"
    assert used in capsys.readouterr().err
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if number == signal.SIGINT else EXIT_CODE)
    assert re.search(
        r"^stopped by \S+; .*run keeps the training up to (\d+ steps|all) of epoch \d+; the same "
        r"command goes on from there$",
        said,
        re.MULTILINE,
    ), said
    assert "Traceback" not in said
    assert (out / "state.safetensors").exists()
    FileLock(out / ".lock").acquire(timeout=0)  # the lock fell with its process


def test_a_second_training_is_refused_before_it_makes_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first is still making its own; bad data leave no folder behind."""
    out = tmp_path / "run"

    def making(*_: Any, **__: Any) -> None:
        with pytest.raises(ValueError, match="run is in use by another training"):
            fit(CONFIG, TRAIN, "moving-digits", [0], out, progress=False)
        raise ValueError("no clips")

    monkeypatch.setattr("posmlp.train.fitting.open_splits", making)
    with pytest.raises(ValueError, match="no clips"):
        fit(CONFIG, TRAIN, "moving-digits", [0], out, progress=False)
    assert not out.exists()


def test_command_obeys_before_the_loop_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As while it caches frames; what it has begun is cleared, which a default SIGTERM does not."""

    def cached(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("posmlp.train.fitting.fit", cached)
    assert main(training(tmp_path / "run")[3:]) == EXIT_CODE
    assert capsys.readouterr().err == "posmlp train: stopped by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_processes_of_torchrun_stop_together(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = training(out, "epochs=9999", "num_clips=64")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([words[0], *launch, *words[1:]])
    wait_for(out / "metrics.csv", process)
    process.send_signal(signal.SIGUSR1)  # ends torchrun alone, which passes no such signal on
    said = process.communicate(timeout=100)[1]
    assert "stopped by the end of torchrun" in said, said
    assert (out / "state.safetensors").exists()


def test_threads_that_wait_do_not_spin() -> None:
    code = "import posmlp, torch; torch.zeros(1)"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "TRUE"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if "OMP_WAIT_POLICY" not in told:
        pytest.skip("this build of torch does not tell of its threads")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told


@pytest.mark.parametrize(
    ("load", "policy", "threads"), [(9.0, None, 1), (0.5, None, 3), (9.0, "x", 3)]
)
def test_threads_that_spin_are_not_used_beside_other_load(
    load: float, policy: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr("posmlp.train.execution.usable_cores", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load), raising=False)
    set_to = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: set_to[-1])
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    with beside_others():
        assert set_to[-1] == threads
    assert set_to[-1] == 3


def test_command_lengthens_a_complete_run_as_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a run"
    asked = training(out, "num_clips=32", seeds="0,2")[3:]
    assert main([*asked, "epochs=1"]) == 0
    assert main([*asked, "epochs=3"]) == 2
    said = capsys.readouterr().err
    first, second = (line for line in said.splitlines() if line.startswith("next: "))
    assert "--seeds 0 " in first
    assert main(shlex.split(second.removeprefix("next: posmlp "))) == 0
    more = tmp_path / "a run-more-seed2"
    assert [(row["epoch"], row["seed"]) for row in read_metrics(more / "metrics.csv")] == [
        *[(1, 2), (2, 2)]
    ]
    train = json.loads((more / "config.json").read_text())["train"]
    assert train["init_from"] == str(out / "model-seed2.safetensors")
