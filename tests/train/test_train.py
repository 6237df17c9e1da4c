"""Training: schedule, determinism, resuming, metrics, and clear refusals."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import posmlp
from posmlp.checkpoint import load, save
from posmlp.config import TrainConfig
from posmlp.data.augment import normalise
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import GeneratedClips, HeldClips
from posmlp.model import create_model
from posmlp.train import loop
from posmlp.train.fitting import fit, one_at_a_time, usable_device
from posmlp.train.logs import log_of
from posmlp.train.optimisation import Optimiser, learning_rate
from posmlp.train.run_folder import read_metrics
from posmlp.train.scoring import evaluate, metrics
from tests.train.test_population import TINY

CONFIG = replace(TINY, image_size=16, windows=(4, 2), num_classes=14)
TRAIN = TrainConfig(epochs=3, batch_size=8, lr=1e-2)


@pytest.fixture(scope="module")
def clips() -> tuple[GeneratedClips, ...]:
    return tuple(
        GeneratedClips(
            MovingDigits(split, count, 0, "easy", 4, image_size=16, paired=split != "train")
        )
        for split, count in (("train", 40), ("val", 56), ("test", 28))
    )


def values(rows: list[dict]) -> list[dict]:
    """Rows without what the clock decides."""
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "data_wait_share")} for row in rows
    ]


def test_learning_rate_matches_the_released_schedule():
    """Values of the released rule for lr 4e-4, 60 epochs, 5 of warm-up."""
    config = TrainConfig(epochs=60, warmup_epochs=5, lr=4e-4)
    rates = {0: 1e-6, 0.5: 4.09e-5, 2.5: 2.005e-4, 5: 4e-4, 10: 3.9191885e-4, 59.999: 1.0000003e-6}
    for epoch, rate in rates.items():
        assert learning_rate(config, epoch) == pytest.approx(rate, rel=1e-6)


def test_learning_rate_matches_every_stored_value(shared):
    stored = json.loads((shared / "golden" / "protocol.json").read_text())["lr"]
    plans = {"SSV1/SSV1_MLP_S16": (4e-4, 5), "K400/K400_MLP_S16x4": (2e-4, 10)}
    for name, (rate, warmup) in plans.items():
        config = TrainConfig(epochs=60, warmup_epochs=warmup, lr=rate)
        for epoch, expected in stored[name]:
            assert learning_rate(config, epoch) == pytest.approx(expected, rel=1e-9)


def test_optimiser_decays_what_the_released_rule_decays():
    parameters = {
        "weight": torch.ones(2, 4, 3, requires_grad=True),
        "table": torch.ones(2, 4, 7, requires_grad=True),
        "token_bias": torch.ones(2, 9, 1, requires_grad=True),
        "bias": torch.ones(2, 4, requires_grad=True),
    }
    gradients = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    train = TrainConfig(lr=0.5, warmup_epochs=0)
    Optimiser(parameters, [train, train]).step(gradients, epoch=0.0)
    left = {name: tensor.unique().item() for name, tensor in parameters.items()}
    kept = pytest.approx(1 - 0.5 * 0.05)
    assert left == {"weight": kept, "table": kept, "token_bias": kept, "bias": 1.0}


def test_normalise_moves_channels_and_scales():
    clips = torch.zeros(2, 4, 6, 5, 3, dtype=torch.uint8)
    clips[..., 1] = 255
    x = normalise(clips)
    assert x.shape == (2, 3, 4, 6, 5)
    assert x[:, 0].unique().item() == pytest.approx(-2.0)
    assert x[:, 1].unique().item() == pytest.approx(0.55 / 0.225)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory) -> Path:
    """A run of two seeds that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole") / "run"
    state = torch.get_rng_state()
    fit(CONFIG, TRAIN, clips, [0, 1], root, progress=False)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator was moved"
    return root


def test_fit_repeats_and_equals_each_seed_alone_and_says_how_each_epoch_went(whole, clips, capsys):
    both = read_metrics(whole / "metrics.csv")
    again = fit(CONFIG, TRAIN, clips, [0, 1])
    *lines, waited = capsys.readouterr().err.splitlines()
    alone = fit(CONFIG, TRAIN, clips, [1], progress=False)
    assert values(both) == values(again)
    for row, own in zip(values([r for r in both if r["seed"] == 1]), values(alone), strict=True):
        assert row == pytest.approx(own, rel=1e-5, nan_ok=True)
    assert both[-1]["train_loss"] != both[-2]["train_loss"], "two seeds saw the same"
    assert [line.split(":")[0] for line in lines] == [f"epoch {k} of 3" for k in (1, 2, 3)]
    loss = (both[2]["train_loss"] + both[3]["train_loss"]) / 2
    assert f"loss {loss:.3f}, top-1 on val clips" in lines[1]
    assert [", about 00:" in line for line in lines] == [True, True, False]
    assert waited.startswith("waited for clips")


class Counted:
    """A source that counts how often it is gone through."""

    def __init__(self, clips: GeneratedClips) -> None:
        self._clips, self.times = clips, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._clips, name)

    def __len__(self) -> int:
        return len(self._clips)

    def batches(self, *args, **options):
        self.times += 1
        return self._clips.batches(*args, **options)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_test_clips_are_scored_once_and_val_clips_every_epoch(clips, tmp_path, keep):
    val, test = Counted(clips[1]), Counted(clips[2])
    rows = fit(
        CONFIG, replace(TRAIN, keep=keep), (clips[0], val, test), [0, 1], tmp_path, progress=False
    )
    assert (val.times, test.times) == (TRAIN.epochs, 1)
    for row in rows:
        assert 0 < row["val_loss"] < math.inf
        assert math.isnan(row["test_loss"]) == math.isnan(row["test_within_pair"])
        assert math.isnan(row["test_loss"]) == (row["epoch"] < TRAIN.epochs)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[1].count(",,,,,") == 1
    assert ",," not in lines[-1]
    assert read_metrics(tmp_path / "metrics.csv") == rows


def test_pair_has_no_val_and_trains_the_same(clips):
    whole = fit(CONFIG, TRAIN, clips, [0], progress=False)
    pair = fit(CONFIG, TRAIN, (clips[0], clips[2]), [0], progress=False)
    assert not [name for name in pair[0] if name.startswith("val_")]
    assert [
        {k: v for k, v in row.items() if not k.startswith("val_")} for row in values(whole)
    ] == values(pair)
    with pytest.raises(ValueError, match=r"keep='best' is chosen by val clips, but data is a pair"):
        fit(CONFIG, replace(TRAIN, keep="best"), (clips[0], clips[2]), [0], progress=False)


class Blackened(Counted):
    """The same clips and labels, all black: whoever looks at them is told nothing."""

    def batches(self, *args, **options):
        return (torch.zeros_like(batch) for batch in super().batches(*args, **options))


BEST = replace(TRAIN, epochs=5, lr=0.1, keep="best")


def test_best_epoch_is_chosen_by_val_alone_for_each_seed(clips, tmp_path):
    """At a high rate the best epoch is seldom the last; black test clips change no choice."""
    kept = replace(BEST, checkpoint_every=1)
    rows = fit(CONFIG, kept, clips, [0, 1, 2], tmp_path / "run", progress=False)
    blind = (*clips[:2], Blackened(clips[2]))
    fit(CONFIG, kept, blind, [0, 1, 2], tmp_path / "blind", progress=False)
    chosen = []
    for seed in (0, 1, 2):
        own = [row for row in rows if row["seed"] == seed]
        best = max(own, key=lambda row: (row["val_top1"], -row["val_loss"]))["epoch"]
        chosen.append(best)
        model = load(tmp_path / "run" / f"model-seed{seed}.safetensors")
        other = load(tmp_path / "blind" / f"model-seed{seed}.safetensors")
        scores = evaluate(model, clips[1])
        assert scores["top1"] == pytest.approx(own[best - 1]["val_top1"])
        assert evaluate(model, clips[2])["loss"] == pytest.approx(own[-1]["test_loss"], rel=1e-5)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert set(chosen) != {BEST.epochs}


def test_best_epoch_survives_an_interruption(clips, tmp_path, monkeypatch):
    whole = fit(CONFIG, BEST, clips, [0, 1], tmp_path / "whole", progress=False)
    store = loop.Training._store

    def killed(self, folder, epoch):
        store(self, folder, epoch)
        if epoch == BEST.epochs - 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "_store", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, BEST, clips, [0, 1], tmp_path / "cut", progress=False)
    monkeypatch.undo()
    assert values(fit(CONFIG, BEST, clips, [0, 1], tmp_path / "cut", progress=False)) == values(
        whole
    )
    for seed in (0, 1):
        paths = [tmp_path / run / f"model-seed{seed}.safetensors" for run in ("whole", "cut")]
        first, second = (load(path).state_dict() for path in paths)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_old_folder_whose_test_was_scored_every_epoch_is_read_as_it_is(tmp_path):
    old = "epoch,seed,train_loss,test_top1,test_loss\n1,0,2.5,0.1,2.4\n2,0,2.1,0.3,nan\n"
    (tmp_path / "metrics.csv").write_text(old)
    first, last = read_metrics(tmp_path / "metrics.csv")
    assert (first["test_top1"], last["test_top1"]) == (0.1, 0.3)
    assert math.isnan(last["test_loss"])
    assert "val_top1" not in first


def test_fit_lowers_the_loss(clips):
    told: list[tuple[int, list[float]]] = []
    longer, data = replace(TRAIN, epochs=12), (clips[0], clips[0])
    rows = fit(
        CONFIG,
        longer,
        data,
        [0],
        progress=False,
        watch=lambda step, losses: told.append((step, losses)),
    )
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    per_epoch = len(told) // 12
    assert [step for step, _ in told] == list(range(1, 12 * per_epoch + 1))
    last = [loss for _, (loss,) in told[-per_epoch:]]
    assert np.mean(last) == pytest.approx(rows[-1]["train_loss"], rel=1e-5)


def test_fit_resumes_after_an_interruption_and_logs_each_epoch_once(
    whole, clips, tmp_path, monkeypatch
):
    logged = []

    def log(run, row):
        if len(logged) == 3 and not (tmp_path / "mended").exists():
            (tmp_path / "mended").touch()
            raise ConnectionError("the wire is cut")
        logged.append((run.name, row))

    rows = read_metrics(whole / "metrics.csv")
    store = loop.Training._store

    def killed(self, folder, epoch):
        store(self, folder, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "_store", killed)
    cut = {"seeds": [0, 1], "out": tmp_path / "cut", "progress": False, "log": log}
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, TRAIN, clips, **cut)
    monkeypatch.undo()
    assert not list((tmp_path / "cut").glob("model-*"))
    with pytest.raises(ValueError, match=r"cut/seed1 failed at epoch 2 \(Conn.* up to all of ep"):
        fit(CONFIG, TRAIN, clips, **cut)
    resumed = fit(CONFIG, TRAIN, clips, **cut)
    assert values(resumed) == values(rows)
    (tmp_path / "cut" / "logged.json").write_text("[5]")
    with pytest.raises(ValueError, match=r"logged\.json is damaged \(it is no map.*remove it"):
        fit(CONFIG, TRAIN, clips, **cut)
    (tmp_path / "cut" / "logged.json").write_text('{"rows": 0}')
    with pytest.raises(ValueError, match=r"epoch 1 \(ZeroDiv.*keeps .* up to all of epoch 3; the"):
        fit(CONFIG, TRAIN, clips, **cut | {"log": lambda run, row: 1 / 0})
    (tmp_path / "cut" / "logged.json").write_text('{"rows": 5}')  # killed before the last was told
    last = logged.pop()
    fit(CONFIG, TRAIN, clips, **cut)
    fit(CONFIG, TRAIN, clips, **cut)
    assert values([logged[-1][1]]) == values([last[1]])
    assert [name for name, _ in logged] == ["seed0", "seed1"] * 3
    told = [{k: v for k, v in row.items() if v == v} for row in values(rows)]
    assert values([row for _, row in logged]) == told
    for seed in (0, 1):
        first, second = (
            load(run / f"model-seed{seed}.safetensors") for run in (whole, tmp_path / "cut")
        )
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory) -> Path:
    """A run of one epoch, which no test may change."""
    root = tmp_path_factory.mktemp("finished") / "run"
    fit(CONFIG, replace(TRAIN, epochs=1), clips, [0], root, progress=False)
    return root


def test_fit_returns_a_complete_run_without_training(clips, finished, monkeypatch):
    monkeypatch.setattr(loop.Training, "_train_epoch", None)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.iterdir()}
    one, how = replace(TRAIN, epochs=1), {"progress": False, "micro_batches": 2}
    assert fit(CONFIG, one, clips, [0], finished, **how) == read_metrics(finished / "metrics.csv")
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in finished.iterdir()}
    assert not (finished / "state.safetensors").exists()
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]


def test_complete_run_that_lost_a_model_says_so_and_keeps_its_metrics(clips, tmp_path, capsys):
    one, root = replace(TRAIN, epochs=1), tmp_path / "run"
    rows = fit(CONFIG, one, clips, [0, 1], root, progress=False)
    before = (root / "metrics.csv").read_bytes()
    (root / "model-seed1.safetensors").unlink()
    capsys.readouterr()
    assert values(fit(CONFIG, one, clips, [0, 1], root, progress=False)) == values(rows)
    said = capsys.readouterr().err
    assert "model-seed1.safetensors is gone; put it back, or move metrics.csv away" in said
    assert (root / "metrics.csv").read_bytes() == before
    (root / "metrics.csv").rename(tmp_path / "before.csv")  # as the message says
    assert values(fit(CONFIG, one, clips, [0, 1], root, progress=False)) == values(rows)
    assert (root / "model-seed1.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"model": {}', r"config\.json is damaged"),
        ("config.json", b"[1, 2]", r"config\.json is damaged \(it is no mapping\)"),
        ("config.json", b'{"model": 3}', r"config\.json is damaged \(train is missing\)"),
        ("config.json", b"\xff\xfe", r"config\.json is damaged"),
        ("metrics.csv", b"epoch,seed,lr\n1,0,0.1\n2,0\n", r"metrics\.csv is damaged \(line 3 "),
        ("metrics.csv", b"epoch,seed\n1,0,7\n", r"metrics\.csv is damaged \(line 2 has not"),
        ("metrics.csv", b"epoch,seed\none,0\n", r"line 2 has no epoch or no seed"),
        ("metrics.csv", b"epoch,seed\n1,\xff\n", r"metrics\.csv is damaged"),
        ("state.safetensors", b"not tensors", r"state\.safetensors is damaged .*remove it"),
    ],
    ids=lambda each: None if isinstance(each, bytes) else each.split("\\")[0],
)
def test_damaged_run_is_named_and_left_as_it_is(clips, finished, tmp_path, name, content, message):
    one, root = replace(TRAIN, epochs=1), shutil.copytree(finished, tmp_path / "run")
    (root / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fit(CONFIG, one, clips, [0], root, progress=False)
    assert (root / name).read_bytes() == content


def test_run_folder_that_is_a_file_is_named(clips, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match=r"run is a file; name a folder"):
        fit(CONFIG, TRAIN, clips, [0], tmp_path / "run", progress=False)
    assert (tmp_path / "run").read_text() == "mine"


def test_classes_may_be_numbers(tmp_path):
    made = MovingDigits("train", 16, difficulty="easy", num_frames=4, image_size=16)
    numbered = GeneratedClips(made)
    numbered.classes = tuple(range(14))
    one = replace(TRAIN, epochs=1)
    rows = fit(CONFIG, one, (numbered, numbered), [0], tmp_path / "run", progress=False)
    again = fit(CONFIG, one, (numbered, numbered), [0], tmp_path / "run", progress=False)
    assert values(again) == values(rows)


def test_model_file_to_start_from_may_move_while_a_run_is_interrupted(clips, tmp_path, monkeypatch):
    starts = [tmp_path / "start.safetensors", tmp_path / "moved.safetensors"]
    save(create_model(CONFIG), starts[0])
    trains = [replace(TRAIN, epochs=2, init_from=str(path)) for path in starts]
    whole = fit(CONFIG, trains[0], clips, [0], progress=False)
    store = loop.Training._store

    def killed(self, folder, epoch):
        store(self, folder, epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "_store", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, trains[0], clips, [0], tmp_path / "run", progress=False)
    monkeypatch.undo()
    starts[0].rename(starts[1])
    assert values(fit(CONFIG, trains[1], clips, [0], tmp_path / "run", progress=False)) == values(
        whole
    )
    save(create_model(CONFIG), starts[1])  # another
    with pytest.raises(ValueError, match="init_sha256"):
        fit(CONFIG, trains[1], clips, [0], tmp_path / "run", progress=False)


def test_gpu_is_found_without_touching_it(monkeypatch):
    # No test has a GPU, so that whatever computes on one fails.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [usable_device(name).type for name in (None, "cuda", "cuda:1")] == ["cuda"] * 3
    with pytest.raises(ValueError, match=r"device='cuda:2' is not here \(torch sees 2 GPUs\)"):
        usable_device("cuda:2")
    for name in ("mps", "meta"):
        with pytest.raises(ValueError, match=rf"^device='{name}' .*cpu and cuda alone\); use cpu$"):
            usable_device(name)


def test_seeds_may_be_any_whole_numbers(clips, tmp_path):
    one = replace(TRAIN, epochs=1)
    rows = fit(CONFIG, one, clips, np.arange(2), tmp_path / "run", progress=False)
    assert [type(row["seed"]) for row in rows] == [int, int]
    assert values(rows) == values(fit(CONFIG, one, clips, (0, 1), progress=False))


def test_run_is_stored_where_git_is_not_installed(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    fit(CONFIG, replace(TRAIN, epochs=1), clips, [0], tmp_path / "run", progress=False)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (environment["commit"], environment["dirty"]) == (None, None)


def test_environment_tells_the_commit_of_the_checkout(tmp_path):
    package = Path(posmlp.__file__).parent
    shutil.copytree(package, tmp_path / "posmlp", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    code = "from posmlp.train.environment import commit; print(*commit().values())"
    told = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.split() == [head.stdout.strip(), "False"]


def test_fit_refuses_a_folder_of_another_configuration(clips, finished):
    with pytest.raises(ValueError, match=r"train\.lr: 0\.01 there, 0\.02 asked"):
        fit(CONFIG, replace(TRAIN, epochs=1, lr=0.02), clips, [0], finished, progress=False)


@pytest.mark.parametrize(
    ("config", "train", "seeds", "message"),
    [
        (replace(CONFIG, num_classes=5), TRAIN, [0], "set num_classes=14"),
        (CONFIG, replace(TRAIN, batch_size=41), [0], "use at most 40"),
        (CONFIG, TRAIN, [1, 1], "different whole numbers"),
        (CONFIG, TRAIN, [], "different whole numbers"),
        (CONFIG, TRAIN, [0, 1.5], r"seeds=\[0, 1\.5\] must be different whole numbers"),
    ],
)
def test_fit_refuses_what_does_not_fit_together(clips, config, train, seeds, message):
    with pytest.raises(ValueError, match=message):
        fit(config, train, clips, seeds, progress=False)


def test_metrics_of_known_logits():
    labels = torch.tensor([0, 1, 2, 3])
    reverse_of = torch.tensor([1, 0, 3, 2])
    logits = torch.tensor(
        [[3.0, 1, 0, 0], [2, 1, 0, 0], [9, 0, 2, 1], [0, 0, 0, 0]], dtype=torch.float64
    )
    found = metrics(logits, labels, reverse_of)
    assert found["top1"] == 0.25  # the first; the third's class is outscored by class 0
    assert found["within_pair"] == (1 + 0 + 1 + 0.5) / 4
    assert "within_pair" not in metrics(logits, labels)


def test_model_blind_to_order_is_at_chance_within_pairs(clips):
    rows = fit(replace(CONFIG, layout="S"), TRAIN, clips, [0], progress=False)
    assert {row["val_within_pair"] for row in rows} == {0.5}
    assert rows[-1]["test_within_pair"] == 0.5


def test_fit_keeps_the_model_of_every_nth_epoch_and_trains_the_same(whole, clips, tmp_path):
    plain = read_metrics(whole / "metrics.csv")
    kept = replace(TRAIN, checkpoint_every=1)
    assert values(fit(CONFIG, kept, clips, [0, 1], tmp_path / "run", progress=False)) == values(
        plain
    )
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {f"epoch{n}-seed{k}.safetensors" for n in (1, 2) for k in (0, 1)}
    scores = evaluate(load(tmp_path / "run" / "checkpoints" / "epoch2-seed1.safetensors"), clips[1])
    assert scores["top1"] == pytest.approx(plain[3]["val_top1"])
    assert scores["loss"] == pytest.approx(plain[3]["val_loss"], rel=1e-5)
    fit(CONFIG, replace(TRAIN, checkpoint_every=2), clips, [0], tmp_path / "second", progress=False)
    assert [path.name for path in (tmp_path / "second" / "checkpoints").iterdir()] == [
        "epoch2-seed0.safetensors"
    ]
    assert not (whole / "checkpoints").exists()


def test_fit_killed_before_its_models_are_stored_trains_again(clips, tmp_path, monkeypatch):
    one = replace(TRAIN, epochs=1)

    def killed(*_arguments, **_metadata):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, one, clips, [0], tmp_path / "run", progress=False)
    monkeypatch.undo()
    fit(CONFIG, one, clips, [0], tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "model-seed0.safetensors").exists()


class Foreign(torch.utils.data.Dataset):
    """A data set as torch has it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(3, 8, 32, 32), index


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2], torch.tensor([0, 1, 3]), torch.tensor([0, -1, 2]), torch.tensor([0.0, 1.0, 2.0])],
)
def test_labels_that_no_class_has_are_refused(labels: Any) -> None:
    clips = torch.zeros(3, 8, 32, 32, 3, dtype=torch.uint8)
    source = HeldClips("mine", ("a", "b", "c"), labels, None, clips, {})
    model = posmlp.create_model("toy", num_classes=3)
    with pytest.raises(
        ValueError, match=r"data=mine has 3 clips of 3 classes with labels .*0 to 2"
    ):
        posmlp.evaluate(model, source)
    with pytest.raises(ValueError, match="data=mine has 3 clips of 3 classes with labels"):
        posmlp.fit("toy", data=(source, source), progress=False)


def test_clips_that_are_no_bytes_are_refused() -> None:
    clips, labels = torch.rand(3, 8, 32, 32, 3), torch.arange(3)
    source = HeldClips("mine", ("a", "b", "c"), labels, None, clips, {})
    with pytest.raises(ValueError, match=r"data=mine gives clips of torch\.float32; .*uint8"):
        posmlp.evaluate(posmlp.create_model("toy", num_classes=3), source)


@pytest.mark.parametrize("reverse_of", [[1, 0, 2], torch.tensor([1, 0]), torch.tensor([0, 0, 1])])
def test_reversals_that_are_no_classes_are_refused(reverse_of: Any) -> None:
    clips = torch.zeros(3, 8, 32, 32, 3, dtype=torch.uint8)
    source = HeldClips("mine", ("a", "b", "c"), torch.arange(3), reverse_of, clips, {})
    with pytest.raises(ValueError, match=r"data=mine has reverse_of=.*; give a LongTensor \(3,\)"):
        posmlp.evaluate(posmlp.create_model("toy", num_classes=3), source)


def test_what_is_no_source_of_clips_or_no_model_is_refused() -> None:
    model = posmlp.create_model("toy")
    for data in (Foreign(), [1, 2], None):
        with pytest.raises(ValueError, match="is no source of clips, as it has no 'name'; give a"):
            posmlp.evaluate(model, data)
    with pytest.raises(ValueError, match="is no source of clips"):
        posmlp.fit("toy", data=(Foreign(), Foreign()), progress=False)
    with pytest.raises(ValueError, match=r"must be a folder, moving-digits or \(train, test\)"):
        posmlp.fit("toy", data=Foreign(), progress=False)
    with pytest.raises(ValueError, match="Linear is no model of this package; give one"):
        posmlp.evaluate(torch.nn.Linear(2, 2), "moving-digits")


def test_fit_in_one_thread_waits_for_that_in_another() -> None:
    inside, most = [], []

    @one_at_a_time
    def training(seed: int) -> int:
        inside.append(seed)
        most.append(len(inside))
        time.sleep(0.02)
        inside.remove(seed)
        return seed

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(training, range(6))) == list(range(6))
    assert max(most) == 1
    assert posmlp.fit.__wrapped__  # which is called in the same way


@pytest.mark.parametrize("surroundings", ["no_grad", "inference", "float64", "meta"])
def test_numbers_do_not_depend_on_what_the_caller_made_default(clips, finished, surroundings):
    train, plain = replace(TRAIN, epochs=1), read_metrics(finished / "metrics.csv")
    around = {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(
        surroundings, nullcontext
    )
    if surroundings == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        with around(), torch.device("meta" if surroundings == "meta" else "cpu"):
            found = fit(CONFIG, train, clips, progress=False)
    finally:
        changed = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
    assert changed == (torch.float64 if surroundings == "float64" else torch.float32)
    assert values(found) == values(plain)


def test_preset_takes_the_number_of_classes_of_the_data(tmp_path):
    labels = torch.arange(8) % 3
    frames = torch.zeros(8, 8, 32, 32, 3, dtype=torch.uint8)
    three = HeldClips("three", ("a", "b", "c"), labels, None, frames, {"name": "three"})
    train = TrainConfig(epochs=1, batch_size=8)
    fit("toy", train, (three, three), out=tmp_path, progress=False)
    assert load(tmp_path / "model-seed0.safetensors").config.num_classes == 3
    with pytest.raises(ValueError, match="num_classes=14 but three has 3 classes"):
        fit(replace(posmlp.PRESETS["toy"], drop_path=0.1), train, (three, three), progress=False)


LOGS = {
    "my_log": r"must be tensorboard, file\.py:function or module:function",
    "none_such.py:log": r"there is none at none_such\.py",
    "none_such:log": r"there is none at none_such\.py",
    "my_log.py:nothing": r"function of my_log\.py, 'nothing'\. Use one of: log",
    "broken.py:log": r"broken\.py cannot be imported: SyntaxError.*\(line 1\)",
}


@pytest.mark.parametrize("name", LOGS)
def test_log_that_is_no_function_is_named_with_the_mend(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_log.py").write_text("told = []\ndef log(run, row):\n    told.append((run, row))\n")
    Path("broken.py").write_text("def log(:")
    with pytest.raises(ValueError, match=LOGS[name]):
        log_of(name)
    for kind in ("my_log.py:log", "my_log:log"):
        log = log_of(kind)
        log(Path("run"), {"epoch": 1})
        assert log.__globals__["told"] == [(Path("run"), {"epoch": 1})]
        log.__globals__["told"].clear()


def test_tensorboard_has_a_value_an_epoch_or_is_asked_for(tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ValueError, match=r'pip install -e "\.\[tensorboard\]"$'):
            log_of("tensorboard")
        return
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for epoch in (1, 2):
        log_of("tensorboard")(tmp_path / "seed0", {"epoch": epoch, "seed": 0, "lr": epoch / 8})
    (path,) = (tmp_path / "tensorboard" / "seed0").iterdir()
    first, *events = LegacyEventFileLoader(str(path)).Load()
    assert first.file_version == "brain.Event:2"
    found = [(e.step, [(v.tag, v.simple_value) for v in e.summary.value]) for e in events]
    assert found == [(1, [("lr", 0.125)]), (2, [("lr", 0.25)])]
