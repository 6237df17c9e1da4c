"""How a grid decides: metrics, what is tuned, seeds until the verdict, and what is refused."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from ablation_tasks import TINY

from ablations import Grid, GridError, read_grid
from ablations.grid.deciding import METRICS, Metric

RATES = [1e-3, 2e-3, 4e-3]
TUNED: dict[str, Any] = TINY | {"tune": {"train.lr": RATES, "drop_path": [0.0, 0.1]}}


def points(grid: Grid) -> list[list[dict[str, Any] | None]]:
    return [[trial.tuned for trial in trials] for trials in grid.trials]


def test_every_variant_tries_the_same_combinations_at_seeds_of_their_own() -> None:
    grid = read_grid(TUNED)
    every = [{"train.lr": lr, "drop_path": d} for lr, d in product(RATES, [0.0, 0.1])]
    assert points(grid) == [every, every]
    assert [[t.config.gate for t in trials] for trials in grid.trials] == [
        ["lrpe"] * 6,
        ["mean"] * 6,
    ]
    trained = [(job.cells[0], job.seeds[0]) for job in grid.trial_jobs]
    trials = [trial for each in grid.trials for trial in each]
    assert trained == [(trial, seed) for seed in (1000, 1001) for trial in trials]
    assert not {seed for _, seed in trained} & set(grid.seeds)
    assert trials[1].name == "gate=lrpe train.lr=0.001 drop_path=0.1"
    assert all(trial.axes.keys() == {"gate"} for trial in trials)


def test_sampled_trials_hold_the_base_and_more_of_them_keep_the_fewer() -> None:
    def tried(**more: Any) -> list[dict[str, Any] | None]:
        grid = read_grid(TINY | {"tune": TUNED["tune"] | more})
        assert points(grid)[0] == points(grid)[1]
        return points(grid)[0]

    samples = [tried(trials=n) for n in range(1, 7)]
    assert [len(sample) for sample in samples] == [1, 2, 3, 4, 5, 6]
    assert samples[0] == [{"train.lr": 2e-3, "drop_path": 0.0}]  # TrainConfig's rate
    assert all(p in more for few, more in pairwise(samples) for p in few)
    assert samples[-1] == tried()


def test_a_chosen_cell_is_the_cell_that_has_these_values() -> None:
    grid = read_grid(TUNED)
    chosen = grid.with_chosen([grid.trials[0][-1], None])
    (plain,) = read_grid(
        TINY | {"axes": {"train.lr": [4e-3]}, "include": [{"drop_path": 0.1}], "baseline": {}}
    ).cells[1:]
    assert chosen.cells[0].id == plain.id == chosen.baseline.id
    assert (chosen.cells[0].name, chosen.cells[0].axes) == ("gate=lrpe", {"gate": "lrpe"})
    assert chosen.cells[0].tuned == {"train.lr": 4e-3, "drop_path": 0.1}
    assert (chosen.cells[1], chosen.cells[1].tuned) == (grid.cells[1], None)
    assert chosen.with_chosen([grid.trials[0][0], None]).baseline.id == grid.trials[0][0].id


def test_tuning_leaves_the_ids_of_an_untuned_grid_alone() -> None:
    assert [c.id for c in read_grid(TUNED).cells] == [c.id for c in read_grid(TINY).cells]


def test_trials_of_a_matched_grid_have_the_matched_widths() -> None:
    sizes = {"match": "params", "match_within": "15%", "tune": {"train.lr": RATES}}
    grid = read_grid(TINY | {"axes": {"mlp_ratio": [2, 4]}} | sizes)
    assert grid.cells[1].config.dims != (8,)
    for cell, trials in zip(grid.cells, grid.trials, strict=True):
        assert {(t.config, t.match) for t in trials} == {(cell.config, cell.match)}


def test_metrics_have_a_direction_and_the_validation_score_that_chooses() -> None:
    assert read_grid(TINY).options.metrics == METRICS
    said = ["test_loss", {"name": "test_top1"}, {"name": "params", "direction": "higher"}]
    loss, top1, params = read_grid(TINY | {"metric": said}).options.metrics
    assert (loss, top1) == (Metric("test_loss", "lower"), Metric("test_top1", "higher"))
    assert (loss.sign, top1.sign, params.sign) == (-1, 1, 1)
    assert (loss.points, top1.points) == (1.0, 0.01)
    assert (loss.of_val, top1.of_val) == ("val_loss", "val_top1")


def test_expectations_speak_of_the_grids_metrics() -> None:
    expect = {"expect": [{"gate": "mean", "verdict": "worse", "metric": "test_within_pair"}]}
    read_grid(TINY | expect)
    read_grid(TINY | expect | {"metric": ["test_loss", "test_within_pair"]})
    with pytest.raises(
        GridError, match=r"unknown metric 'test_within_pair'.* Use one of: test_loss"
    ):
        read_grid(TINY | expect | {"metric": "test_loss"})


def test_seeds_until_the_verdict_are_all_that_may_be_used() -> None:
    grid = read_grid(TINY | {"seeds": {"from": 3, "to": 9, "until": "verdict"}, "equal_within": 2})
    assert (grid.seeds, grid.options.until) == (tuple(range(9)), (3, 9))
    assert grid.options.equal_within == 2.0
    fresh = read_grid(TINY | {"seeds": {"first": 9, "from": 3, "to": 5, "until": "verdict"}})
    assert (fresh.seeds, fresh.options.until) == ((9, 10, 11, 12, 13), (3, 5))


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("tune: {train.lr: [1e-3]}", "1:18", "train.lr needs a list of at least two values"),
        ("tune: {lr: [1e-3, 2e-3]}", "1:8", "unknown setting 'lr'. Did you mean 'train.lr'"),
        ("tune: {train.lr: [1e-3, 0.001]}", "1:25", "train.lr has 0.001 twice"),
        ("tune: {train.lr: [a, 2e-3]}", "1:19", "train.lr='a' must be a number"),
        ("tune: {data: [a, b]}", "1:8", "data cannot be tuned"),
        ("tune: {seeds: 2}", "1:7", "tune needs a setting with values"),
        ("tune: [train.lr]", "1:7", "tune needs a mapping"),
        ("tune: {train.lr: [1, 2], trials: 3}", "1:34", "more than the 2 combinations"),
        ("tune: {train.lr: [1, 2], seeds: 0}", "1:33", "seeds=0 must be a whole number"),
        ("tune: {train.lr: [1, -2]}", "1:22", "lr=-2.0 must be a number of at least 0"),
        ("axes: {drop_path: [0, 0.1]}\ntune: {drop_path: [0, 0.2]}", "2:8", "also set at axes"),
        ("match: params\ntune: {dims: [8, 9]}", "2:8", "which tuning dims could change"),
        ("metric: params\ntune: {train.lr: [1, 2]}", "1:9", "on validation clips"),
        (
            "seeds: [1000]\ntune: {train.lr: [1, 2]}",
            "1:8",
            "seeds from 1000 on are those of trials",
        ),
        ("seeds: {from: 3, to: 9}", "1:8", "must say until: verdict"),
        ("seeds: {from: 1, to: 9, until: verdict}", "1:15", "from=1 must be at least 2"),
        ("seeds: {from: 3, to: 3, until: verdict}", "1:15", "less than to=3"),
        ("seeds: {from: 3, to: 900000000, until: verdict}", "1:22", "to=900000000 must be a"),
        ("seeds: {from: 3, until: verdict}", "1:8", "seeds need 'to', a number of seeds"),
        ("seeds: {form: 3, until: verdict}", "1:9", "Did you mean 'from'?"),
        (
            "seeds: {first: -1, from: 3, to: 9, until: verdict}",
            "1:16",
            "first=-1 must be the first",
        ),
        ("seeds: {first: [9], from: 3, to: 9, until: verdict}", "1:16", "first=[9] must be the"),
        ("seeds: {from: 3, to: 9, until: verdict}", "1:8", "needs a variant beside the baseline"),
        ("budget: 3min\nseeds: {from: 3, to: 9, until: verdict}", "1:9", "leave the budget out"),
        ("metric: test_topl", "1:9", "Did you mean 'test_top5'? Use one of"),
        ("metric: []", "1:9", "metric needs a column"),
        ("metric: {name: test_loss, direction: down}", "1:38", "unknown direction 'down'"),
        ("equal_within: 2%", "1:15", "equal_within='2%' must be a number above 0"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(
    text: str, place: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(GridError) as error:
        read_grid(path)
    said = str(error.value)
    assert said.startswith(f"{path}:{place}: ")
    assert words in said
    assert "\n" not in said
