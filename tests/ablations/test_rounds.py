"""Trials choose by validation scores alone, and seeds stop at the verdict, however often stopped.

Trainings are stood in for by `Trained`, which gives them the scores that a test asks for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ablation_tasks import TINY, changed, facts, wait_until
from pandas.testing import assert_frame_equal

from ablations import load, plan, read_grid, run
from ablations.cli import main
from ablations.engines import local
from ablations.engines.job import Training
from ablations.grid.grid import Cell, Job
from ablations.plan.prediction import Prediction, fitted
from ablations.repeat import repeat
from ablations.report.publish import publish
from ablations.store.status import status, why
from ablations.store.store import Store
from analysis.results.curves import gather_curves
from analysis.results.draw_comparison import verdict_kind
from analysis.results.statistics import compare

pytestmark = pytest.mark.usefixtures("forks")

Scores = Callable[[Cell, int], dict[str, float]]
RATES = [1e-3, 2e-3, 4e-3]
TUNED: dict[str, Any] = TINY | {"tune": {"train.lr": RATES}}
BEST = {"lrpe": 4e-3, "mean": 1e-3}
"""The rates that the stand-in's validation scores are for; its test scores are for 2e-3."""
GATES = ["lrpe", "dense", "mean", "none"]
UNTIL: dict[str, Any] = TINY | {
    "axes": {"gate": GATES},
    "seeds": {"from": 3, "to": 12, "until": "verdict"},
    "equal_within": 2,
}


class Trained:
    """Stands in for training: counts what is trained, and stops like a kill when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scores: Scores) -> None:
        self.done: list[tuple[str, int]] = []
        self.stop_after: int | None = None
        self.scores = scores
        monkeypatch.setattr(local, "TOGETHER_S", 0.0)  # each is stored before the next begins
        monkeypatch.setattr(Training, "_fit", lambda task, job, place, folder: self.fit(job))

    def fit(self, job: Job) -> list[dict[str, Any]]:
        if self.stop_after is not None and len(self.done) >= self.stop_after:
            raise KeyboardInterrupt
        self.done += [(cell.name, seed) for cell, seed in job.trainings]
        return [{"metrics": self.scores(cell, seed), "params": 1} for cell, seed in job.trainings]


def by_rate(cell: Cell, seed: int) -> dict[str, float]:
    """Higher on validation clips near the best rate, on test clips near another."""
    val = 0.9 - 100 * abs(cell.train.lr - BEST[cell.config.gate])
    test = 0.9 - 100 * abs(cell.train.lr - 2e-3)
    noise = 0.01 * np.random.default_rng(seed).standard_normal()
    return {"val_top1": val + noise, "test_top1": test + noise}


def by_gate(cell: Cell, seed: int) -> dict[str, float]:
    """dense is far ahead, none far behind, mean too near to tell, and not equal either."""
    shift = {"lrpe": 0.0, "dense": 0.2, "mean": 0.015, "none": -0.2}[cell.config.gate]
    rng = np.random.default_rng([seed, GATES.index(cell.config.gate)])
    return {"test_top1": 0.5 + shift + 0.02 * float(rng.standard_normal())}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    return Trained(monkeypatch, by_rate)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Trained:
    return Trained(monkeypatch, by_gate)


def ran(grid: dict[str, Any], out: Path, **options: Any) -> pd.DataFrame:
    return run(grid, out, device="cpu", progress=False, **options)


def test_every_variant_has_the_same_trials_and_is_compared_at_fresh_seeds(
    trained: Trained, tmp_path: Path
) -> None:
    table = ran(TUNED, tmp_path / "run")
    assert len(trained.done) == len(set(trained.done)) == 2 * 3 * 2 + 2 * 2
    both = load(tmp_path / "run", trials=True)
    trials = both[both.role == "trial"]
    tried = trials.groupby("gate").apply(lambda t: sorted(zip(t["train.lr"], t.seed, strict=True)))
    assert tried["lrpe"] == tried["mean"] == [(lr, s) for lr in RATES for s in (1000, 1001)]
    assert (trials.baseline == (trials.gate == "lrpe")).all()
    assert list(zip(table.gate, table.seed, table.role, strict=True)) == [
        *[("lrpe", 0, "final"), ("lrpe", 1, "final"), ("mean", 0, "final"), ("mean", 1, "final")]
    ]
    assert set(table.name) == {"gate=lrpe", "gate=mean"}


def test_choice_is_by_validation_clips_and_never_by_test(trained: Trained, tmp_path: Path) -> None:
    table = ran(TUNED, tmp_path / "run")
    assert dict(zip(table.gate, table["train.lr"], strict=True)) == BEST
    untuned = {cell.axes["gate"]: cell for cell in read_grid(TUNED).cells}
    assert set(table.id).isdisjoint(cell.id for cell in untuned.values())
    (plain,) = read_grid(TINY | {"axes": {}, "base": {**TINY["base"], "train": {
        **TINY["base"]["train"], "lr": 4e-3}}}).cells  # fmt: skip
    assert table.id[0] == plain.id


def test_progress_shows_of_trials_what_chooses(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(TUNED, tmp_path / "run", device="cpu")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "trials: 12 trainings, 0 finished before"
    assert lines[14] == "4 trainings, 0 finished before"
    trials, runs = "top-1 on validation clips", "top-1 on test clips"
    told = {"1000": trials, "1001": trials, "0": runs, "1": runs}
    for line in (*lines[1:13], *lines[15:19]):
        seed = line.partition("seed ")[2].partition(":")[0]
        assert re.search(rf"done, {told[seed]} \d+\.\d%,", line)
        assert line.count("top-1") == 1


def test_loss_is_chosen_the_lower(trained: Trained, tmp_path: Path) -> None:
    trained.scores = lambda cell, seed: {"val_loss": 1 - by_rate(cell, seed)["val_top1"]}
    table = ran(TUNED | {"metric": "test_loss"}, tmp_path / "run")
    assert dict(zip(table.gate, table["train.lr"], strict=True)) == BEST


def test_a_trial_that_fails_at_one_seed_is_worst_and_the_base_wins_a_draw(
    trained: Trained, tmp_path: Path
) -> None:
    def scores(cell: Cell, seed: int) -> dict[str, float]:
        if cell.train.lr == 4e-3 and seed == 1001:
            return {"val_top1": float("nan")}
        return {"val_top1": 1.0 if cell.train.lr == 4e-3 else 0.5}

    trained.scores = scores
    table = ran(TUNED, tmp_path / "run")
    assert set(table["train.lr"]) == {2e-3}  # TrainConfig's
    assert (table.status == "done").all()
    trained.scores = lambda cell, seed: {"val_top1": 0.5 + 0.1 * (cell.train.lr == 4e-3)}
    again = ran(TUNED, tmp_path / "run", retry_failed=True)
    assert set(again["train.lr"]) == {4e-3}
    assert "is tuned to train.lr=0.004" in status(tmp_path / "run")


def test_a_variant_whose_trials_all_fail_keeps_the_base_and_is_not_called_tuned(
    trained: Trained, tmp_path: Path
) -> None:
    def scores(cell: Cell, seed: int) -> dict[str, float]:
        if seed >= 1000 and cell.config.gate == "mean":
            raise ValueError("a gate that cannot be trained")
        return {"val_top1": 0.5, "test_top1": 0.5}

    trained.scores = scores
    ran(TUNED, tmp_path / "run")
    said = status(tmp_path / "run")
    assert "gate=mean has no trial that ended well, and keeps train.lr=0.002" in said
    assert "gate=lrpe is tuned to train.lr=0.002" in said


def test_scores_that_cannot_choose_are_named(trained: Trained, tmp_path: Path) -> None:
    trained.scores = lambda cell, seed: {"test_top1": 0.5}
    with pytest.raises(ValueError, match=r"gate=lrpe train.lr=0.001 seed 1000 has no val_top1, by"):
        ran(TUNED, tmp_path / "run")


def test_decided_variants_stop_and_the_others_go_on_with_the_baseline(
    judged: Trained, tmp_path: Path
) -> None:
    table = ran(UNTIL, tmp_path / "run")
    seeds = table.groupby("gate").seed.apply(list)
    assert seeds["lrpe"] == seeds["mean"] == list(range(12))
    assert max(seeds["dense"][-1], seeds["none"][-1]) < 11
    cells = {cell["axes"]["gate"]: cell for cell in Store(tmp_path / "run").plan()["cells"]}
    verdicts = {gate: cell["verdict"] for gate, cell in cells.items()}
    assert verdicts == {"lrpe": None, "dense": "better", "mean": "undecided", "none": "worse"}
    assert cells["dense"]["num_seeds"] == len(seeds["dense"])
    compared = compare(load(tmp_path / "run")).set_index("name")["verdict"].map(verdict_kind)
    words = {"undecided": "cannot tell"}
    assert compared.to_dict() == {
        f"gate={gate}": words.get(found, found) for gate, found in verdicts.items() if found
    }
    said = status(tmp_path / "run")
    assert f"gate=dense is better at {len(seeds['dense'])} seeds" in said
    assert "gate=mean is undecided at 12 of at most 12 seeds" in said
    assert "go on with" not in said


def test_all_decided_is_the_end(judged: Trained, tmp_path: Path) -> None:
    grid = UNTIL | {"axes": {"gate": ["lrpe", "dense", "none"]}}
    table = ran(grid, tmp_path / "run")
    counts = table.groupby("gate").seed.count()
    assert counts["lrpe"] == max(counts["dense"], counts["none"]) < 12
    verdicts = [cell["verdict"] for cell in Store(tmp_path / "run").plan()["cells"]]
    assert verdicts == [None, "better", "worse"]


def test_lower_is_better_where_the_metric_says_so(judged: Trained, tmp_path: Path) -> None:
    judged.scores = lambda cell, seed: {"test_loss": by_gate(cell, seed)["test_top1"]}
    ran(UNTIL | {"metric": "test_loss", "equal_within": 0.02}, tmp_path / "run")
    cells = {cell["axes"]["gate"]: cell for cell in Store(tmp_path / "run").plan()["cells"]}
    assert (cells["dense"]["verdict"], cells["none"]["verdict"]) == ("worse", "better")


BOTH = UNTIL | {"axes": {"gate": ["lrpe", "mean"]}, "tune": TUNED["tune"]}
STOPS = [2, 12, 13, 18, 20, 22]


@pytest.mark.parametrize("stop_after", STOPS)
def test_stopping_anywhere_and_running_again_gives_the_same_table(
    trained: Trained, tmp_path: Path, stop_after: int
) -> None:
    whole, out = ran(BOTH, tmp_path / "whole"), tmp_path / "run"
    num_all, trained.done = len(trained.done), []
    assert num_all > max(STOPS)
    trained.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        ran(BOTH, out)
    assert "go on with: " in status(out)
    with pytest.raises(ValueError, match=r"not finished|without a verdict"):
        publish(out, tmp_path / "kept")
    trained.stop_after = None
    again = ran(BOTH, out)
    assert len(trained.done) == num_all
    assert_frame_equal(facts(again), facts(whole), check_exact=True)
    plans = [Store(o).plan() | {"command": ""} for o in (out, tmp_path / "whole")]
    assert plans[0] == plans[1]
    assert status(out).partition(":")[2] == status(tmp_path / "whole").partition(":")[2]


def test_reuse_takes_trials_and_seeds_over(trained: Trained, tmp_path: Path) -> None:
    whole = ran(BOTH, tmp_path / "whole")
    trained.done = []
    taken = ran(BOTH, tmp_path / "run", reuse=tmp_path / "whole")
    assert trained.done == []
    assert set(taken.reused_from) == {str(tmp_path / "whole")}
    drop = [facts(table).drop(columns="reused_from") for table in (taken, whole)]
    assert_frame_equal(*drop, check_exact=True)


def test_populations_hold_trials_that_differ_in_values(trained: Trained, tmp_path: Path) -> None:
    ran(TUNED, tmp_path / "run", together=6)
    both = load(tmp_path / "run", trials=True)
    assert set(both[both.role == "trial"].together) == {6}


def test_published_grid_keeps_its_trials(trained: Trained, tmp_path: Path) -> None:
    ran(TUNED, tmp_path / "run")
    kept = publish(tmp_path / "run", tmp_path / "kept")
    for trials in (False, True):
        assert_frame_equal(load(kept, trials=trials), load(tmp_path / "run", trials=trials))
    assert len(pd.read_csv(kept / "rows.csv")) == 4
    trained.done = []
    ran(TUNED, tmp_path / "again", reuse=kept)
    assert trained.done == []


def test_why_and_names_of_trials(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "run"
    table = ran(TUNED, out)
    assert why(out, "gate=lrpe train.lr=0.001").count("done") == 2
    assert why(out, table.id[0]) == why(out, "gate=lrpe")
    assert why(out, "gate=lrpe").count("done") == 4  # as it was tried, and compared
    assert "seed 1001: done" in why(out, "gate=lrpe train.lr=0.001", 1001)
    said, _ = repeat(out, "gate=mean train.lr=0.002", 1000)
    assert "gate=mean train.lr=0.002 seed 1000: the same to the last bit" in said
    with pytest.raises(ValueError, match=r"seed 7 is not of this run; .* \[0, 1, 1000, 1001\]"):
        why(out, "gate=lrpe", 7)


@pytest.mark.parametrize(("grid", "key"), [(TUNED, "tune"), (UNTIL, "seeds")])
def test_parts_are_refused_in_a_sentence(
    grid: dict[str, Any], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(f'{{"{key}": {json.dumps(grid[key])},\n{json.dumps(grid)[1:]}'.replace(
        f', "{key}": {json.dumps(grid[key])}', ""))  # fmt: skip
    assert main(["run", str(path), "--out", str(tmp_path / "run"), "--shard", "1/2"]) == 2
    said = capsys.readouterr().err
    assert f"{path}:1:2: shard='1/2' cannot be kept" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_plan_counts_and_times_trials_and_seeds_to_expect(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = plan(BOTH, out, device="cpu", probe_s=0)
    assert "tune train.lr: 2 cells x 3 trials x 2 seeds from 1000 = 12 trainings: 0 done" in str(
        found
    )
    assert "at most 24 trainings" in str(found)
    assert "no spread over seeds is stored yet" in str(found)
    assert found.num_todo == 12 + 24 + 1
    trained.stop_after = 18
    with pytest.raises(KeyboardInterrupt):
        ran(BOTH, out)
    found = plan(BOTH, out, device="cpu", probe_s=0)
    assert found.num_todo == 12 + 24 + 1 - 18
    assert found.seconds is not None
    assert "gate=mean: chosen by val_top1: train.lr=0.001" in str(found)
    assert found.stale == []


@pytest.mark.parametrize(("budget", "num_seeds"), [("160s", 2), ("159s", 1), ("1h", 2)])
def test_budget_counts_trials_and_leaves_out_seeds_alone(budget: str, num_seeds: int) -> None:
    grid = read_grid(TUNED | {"budget": budget, "repeat": False})
    ten = Prediction(10.0, None, "test")
    predictions = {cell.id: ten for cell in (*grid.cells, *chain(*grid.trials))}
    fits = fitted(grid, predictions, None, 1)  # 12 trials and 2 cells a seed, of 10 s each
    assert len(fits.seeds) == num_seeds
    assert fits.trials == grid.trials
    too_little = read_grid(TUNED | {"budget": "139s", "repeat": False})
    with pytest.raises(ValueError, match="tuning and the first seed of every cell takes about"):
        fitted(too_little, predictions, None, 1)


QUICK = changed(train={"num_val_clips": 28, "num_test_clips": 28})


def test_real_trainings_go_on_after_a_kill_to_the_same_table(
    tmp_path: Path,
) -> None:
    tune = {"train.lr": [1e-3, 1e-2], "seeds": 1}
    grid = QUICK | {"tune": tune, "seeds": {"from": 2, "to": 4, "until": "verdict"}}
    whole = ran(grid, tmp_path / "whole")
    assert set(whole.seed) in ({0, 1}, {0, 1, 2, 3})
    path, out = tmp_path / "grid.yaml", tmp_path / "run"
    path.write_text(json.dumps(grid))
    command = [sys.executable, "-m", "ablations.cli", "run", str(path), "--device", "cpu"]
    command += ["--out", str(out), "--together", "2", "--quiet"]
    runner = subprocess.Popen(command)
    wait_until(lambda: len(list(out.glob("cells/*/*/result.json"))) >= 2, runner)
    runner.kill()
    runner.wait()
    table = ran(grid, out, together=2)
    drop = [facts(each).drop(columns="together") for each in (table, whole)]
    assert_frame_equal(*drop, check_exact=True)
    both = load(out, trials=True)
    best = both[both.role == "trial"].sort_values("val_top1", kind="stable").groupby("gate").last()
    assert dict(zip(table.gate, table["train.lr"], strict=True)) == best["train.lr"].to_dict()
    curves = gather_curves(out)
    assert set(curves.variant) == {"gate=lrpe", "gate=mean"}
    assert set(curves.seed) == set(whole.seed)
