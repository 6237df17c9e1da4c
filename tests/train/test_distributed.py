"""Two processes of torchrun compute what one would, and a killed run goes on."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.utils import counters

from posmlp.checkpoint import load
from posmlp.presets import resolve
from posmlp.settings import configs
from posmlp.train.distributed import Team, join
from posmlp.train.execution import preparation
from posmlp.train.fitting import fit
from posmlp.train.population import Population
from posmlp.train.run_folder import read_metrics
from tests.train.test_population import TINY, batch

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300
pytestmark = pytest.mark.usefixtures("forks")


def torchrun(*command: str) -> subprocess.Popen[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.Popen(
        [sys.executable, *launcher, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def in_float64(population: Population) -> Population:
    """The same population with its parameters and statistics in float64, in place."""
    parameters, statistics = population.parameters, population.statistics
    population.parameters = {k: v.detach().double().requires_grad_() for k, v in parameters.items()}
    population.statistics = {
        k: v.double() if v.is_floating_point() else v for k, v in statistics.items()
    }
    return population


def gradients_of_a_process(rank: int, port: int, target: Path) -> None:
    """What torchrun's process of that number computes of a batch of two; the first one writes."""
    names = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({k: str(v) for k, v in names.items()}, MASTER_ADDR="127.0.0.1")
    team, device = join(torch.device("cpu"))
    prepare = preparation(team, checkpoint_activations=True, compiled=False)
    population = in_float64(Population(TINY, [3, 5], device, prepare=prepare))
    clips, labels, scales = batch(2, size=6)
    part = team.part(6)
    gradients, losses, _ = population.gradients(
        *(clips[:, part].double(), labels[:, part], scales[:, :, part].double()),
        label_smoothing=0.1,
    )
    found = team.mean(gradients) | team.mean({"losses": losses})
    if team.is_first:
        save_file(found | population.statistics, target)


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    """Batch norm, label smoothing and checkpointed activations included; in float64."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")  # which need import nothing
    words = [(rank, port, tmp_path / "found") for rank in (0, 1)]
    team = [fork.Process(target=gradients_of_a_process, args=each) for each in words]
    for process in team:
        process.start()
    for process in team:
        process.join(TIMEOUT_S)
    assert [process.exitcode for process in team] == [0, 0]
    found = load_file(tmp_path / "found")
    clips, labels, scales = batch(2, size=6)
    population = in_float64(Population(TINY, [3, 5]))
    gradients, losses, _ = population.gradients(
        clips.double(), labels, scales.double(), label_smoothing=0.1
    )
    torch.testing.assert_close(found["losses"], losses)
    for name, gradient in (gradients | population.statistics).items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-7, msg=name)


SETTINGS = [
    "depths=[1,1]", "dims=[8,16]", "num_groups=2", "windows=[4,2]", "downsample=true",
    "mlp_ratio=2.0", "image_size=16", "num_frames=4", "num_classes=14", "drop_path=0.2",
    "epochs=6", "batch_size=16", "num_clips=96", "erase=0.5",
    "num_val_clips=28", "num_test_clips=28",
]  # fmt: skip
TRAIN = ("-m", "posmlp.cli", "train", "--data", "moving-digits:easy", *SETTINGS, "--out")


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_run_of_two_processes_killed_and_resumed_is_that_of_one(tmp_path):
    reference = fit(*configs("toy", SETTINGS), "moving-digits:easy", out=tmp_path / "one")
    process = torchrun(*TRAIN, str(tmp_path / "two"))
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "two" / "state.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert not (tmp_path / "two" / "model-seed0.safetensors").exists()

    output = finished(torchrun(*TRAIN, str(tmp_path / "two")))
    assert output.count("run folder:") == 1, "both processes spoke"
    rows = read_metrics(tmp_path / "two" / "metrics.csv")
    assert len(rows) == 6
    for row, expected in zip(rows, reference, strict=True):
        for key in ("train_loss", "val_loss", "test_loss"):
            assert row[key] == pytest.approx(expected[key], rel=1e-3, nan_ok=True)
    models = [load(tmp_path / name / "model-seed0.safetensors") for name in ("one", "two")]
    first, second = (model.state_dict() for model in models)
    torch.testing.assert_close(first["head.weight"], second["head.weight"], rtol=1e-2, atol=1e-3)


def test_file_that_breaks_costs_two_processes_nothing_that_was_trained(tmp_path, write_clip):
    for split, count in (("train", 24), ("val", 3), ("test", 3)):
        for name, level in (("dark", 40), ("light", 200)):
            for i in range(count):
                write_clip(tmp_path / f"data/{split}/{name}/{i:02d}.mp4", [level + i] * 6)
    settings = [*SETTINGS, "num_classes=2", "epochs=5", "min_crop_area=0.5"]
    data = str(tmp_path / "data")
    reference = fit(*configs("toy", settings), data, out=tmp_path / "one", num_workers=0)
    # Without a cache all files are read in every epoch.
    words = ("-m", "posmlp.cli", "train", "--data", data, "--workers", "0", "--cache-gib", "0")
    words += tuple(settings)
    process = torchrun(*words, "--out", str(tmp_path / "two"))
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "two" / "state.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    light = tmp_path / "data/val/light/00.mp4"  # read by the second process, at an epoch's end
    content = light.read_bytes()
    light.write_bytes(b"broken")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert "is kept in" in output
    assert output.count("layout 'split-folders'") == 3, "each split is to be told of once"
    stored = load_file(tmp_path / "two" / "state.safetensors")
    assert stored["epoch.steps"] == 3, "a whole epoch was lost"
    light.write_bytes(content)
    # Another number of processes may go on.
    rows = fit(*configs("toy", settings), data, out=tmp_path / "two", num_workers=0)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    for row, expected in zip(rows, reference, strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)


@pytest.mark.parametrize("total", [2, 7, 12])
def test_parts_of_a_team_cover_everything_once(total):
    covered = [i for rank in range(3) for i in range(total)[Team(rank, 3).part(total)]]
    assert covered == list(range(total))


def test_checkpointed_activations_give_the_same_gradients():
    clips, labels, scales = batch(1)
    plain = Population(TINY, [3]).gradients(clips, labels, scales)[0]
    prepare = preparation(Team(), checkpoint_activations=True, compiled=False)
    kept = Population(TINY, [3], prepare=prepare).gradients(clips, labels, scales)[0]
    for name, gradient in plain.items():
        torch.testing.assert_close(kept[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_checkpointed_activations_are_computed_again():
    """The saved memory itself: a block's forward begins twice for one gradient.

    The second time it ends as soon as all that the gradient needs is there again.
    """
    clips, labels, scales = batch(1)
    prepare = preparation(Team(), checkpoint_activations=True, compiled=False)
    population = Population(TINY, [3], prepare=prepare)
    calls = []
    step = population.model.stages[0].blocks[0].steps[0]
    step.register_forward_pre_hook(lambda *_: calls.append(1))
    population.gradients(clips, labels, scales)
    assert len(calls) == 2


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="needs a C++ compiler")
def test_compiled_and_checkpointed_block_gives_the_same_gradients():
    config = resolve(TINY, depths=(1,), layout="T")
    clips, labels, scales = batch(1)
    plain = Population(config, [3]).gradients(clips, labels, scales[:, :1])[0]
    prepare = preparation(Team(), checkpoint_activations=True, compiled=True)
    counters.clear()
    compiled = Population(config, [3], prepare=prepare).gradients(clips, labels, scales[:, :1])[0]
    assert counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
