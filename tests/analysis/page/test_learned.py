"""What several trainings have in common, checked on runs whose answer is known."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analysis.page.learned import (
    learned_interventions,
    learned_statistics,
    map_against_use,
    over_seeds,
    trained_models,
    whole_interventions,
    write_recurrence,
)
from analysis.results.class_accuracy import class_accuracy, draw_classes, gather_classes
from posmlp import PosMLPConfig, PosMLPVideo
from posmlp.checkpoint import save
from posmlp.config import TrainConfig
from posmlp.predict import open_run
from posmlp.train.fitting import fit
from posmlp.train.scoring import evaluate

TINY = PosMLPConfig(
    num_classes=14,
    num_frames=4,
    image_size=16,
    depths=(1,),
    dims=(8,),
    num_groups=2,
    windows=4,
    temporal_windows=4,
    downsample=(),
)
TRAIN = TrainConfig(epochs=1, num_clips=32, batch_size=16, num_val_clips=28, num_test_clips=140)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        fit(TINY, TRAIN, data="moving-digits:easy", seeds=[seed], out=folder / f"seed{seed}")
    return folder


def set_tables(runs: Path, change: Callable[[torch.Tensor], torch.Tensor], branch: str) -> None:
    """Write over a branch's tables in every stored model."""
    for path in runs.glob("*/model-seed*.safetensors"):
        run = open_run(path.parent)
        unit = model_unit(run.model, branch)
        with torch.no_grad():
            unit.bias_table().copy_(change(unit.bias_table()))
        save(run.model, path)


def model_unit(model: PosMLPVideo, branch: str) -> torch.nn.Module:
    from analysis.bias.maps import units

    return next(place.unit for place in units(model) if place.branch == branch)


def test_over_seeds_gives_students_interval() -> None:
    rows = pd.DataFrame({"what": ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 2})
    rows["value"] = [1.0, 2.0, 6.0, 5.0, 5.0, 5.0]
    table = over_seeds(rows, ["what"], "value").set_index("what")
    low, high = stats.t.interval(0.95, 2, 3.0, stats.sem([1, 2, 6]))
    assert table.loc["a", ["n", "mean"]].tolist() == [3, 3.0]
    assert table.loc["a", ["low", "high"]].tolist() == pytest.approx([low, high])
    assert table.loc["b", ["low", "mean", "high"]].tolist() == [5.0, 5.0, 5.0]


def test_learned_statistics_of_planted_tables(runs: Path) -> None:
    """An odd map over time that lies at dt = -1 and 1 alone."""
    odd = torch.zeros(2, 7)
    odd[:, 2], odd[:, 4] = -1.0, 1.0
    set_tables(runs, lambda table: odd.reshape(table.shape), "T")
    table = learned_statistics(opened for _, opened in trained_models(runs))
    found = table.set_index(["branch", "statistic", "of"])["mean"]
    assert found["T", "temporal_asymmetry", "learned"] == pytest.approx(1.0)
    assert found["T", "locality_temporal", "learned"] == pytest.approx(1.0)
    assert found["T", "effective_rank", "learned"] == pytest.approx(1.0)
    expected = 1.0 - found["T", "temporal_asymmetry", "shuffled"]
    assert found["T", "temporal_asymmetry", "learned - shuffled"] == pytest.approx(expected)
    assert (table["n"] == 2).all()


def test_recurrence_is_written_with_its_figure(runs: Path, tmp_path: Path) -> None:
    write_recurrence([opened for _, opened in trained_models(runs)], tmp_path)
    table = pd.read_csv(tmp_path / "recurrence.csv")
    assert (table["n"] == 1).all()
    of_time = table[table["branch"] == "T"].set_index(["of", "paired"])["mean"]
    assert of_time["learned", "by number"] == pytest.approx(1)  # both have the planted map
    assert of_time["initial", "best match"] < 1
    assert (tmp_path / "maps-over-seeds.png").stat().st_size > 10_000


def test_truncation_changes_nothing_where_map_is_local(runs: Path) -> None:
    """The planted map ends at |dt| = 1, so nothing is cut off; knocking it out is another thing."""
    table = learned_interventions(trained_models(runs))
    changes = table.set_index(["intervention", "metric"])
    assert changes.loc[("truncate T (radius 1)", "top1"), "mean"] == 0
    kinds = {str(each) for each in whole_interventions(open_run(runs / "seed0"))}
    assert set(table["intervention"]) == kinds
    assert "symmetrise S" not in kinds


def test_map_against_use_is_a_rank_correlation(runs: Path) -> None:
    table = map_against_use(trained_models(runs))
    assert set(table["map"]) <= {"energy", "antisymmetric energy"}
    assert table["mean"].between(-1, 1).all()


def test_trained_models_refuses_other_configs(runs: Path, tmp_path: Path) -> None:
    other = PosMLPConfig.from_dict(TINY.to_dict() | {"layout": "S"})
    fit(other, TRAIN, data="moving-digits:easy", seeds=[0], out=tmp_path / "other")
    shutil.copytree(runs / "seed0", tmp_path / "first")
    with pytest.raises(ValueError, match="different configs"):
        trained_models(tmp_path)
    with pytest.raises(ValueError, match="no finished run"):
        trained_models(tmp_path / "nothing")


def test_class_accuracy_averages_to_accuracy(runs: Path) -> None:
    table = class_accuracy(runs / "seed0")
    whole = evaluate(open_run(runs / "seed0").model, "moving-digits:easy", train=TRAIN)
    for metric in ("top1", "within_pair"):
        mean = np.average(table[metric], weights=table["num_clips"])
        assert mean == pytest.approx(whole[metric], abs=1e-6)
    assert table["class"].tolist()[:2] == ["right", "left"]
    assert table["pair"].tolist()[:2] == ["right / left"] * 2


def test_class_accuracy_of_blind_model_is_half_within_each_pair(tmp_path: Path) -> None:
    blind = PosMLPConfig.from_dict(TINY.to_dict() | {"layout": "S"})
    fit(blind, TRAIN, data="moving-digits:easy", seeds=[0], out=tmp_path / "blind")
    table = class_accuracy(tmp_path / "blind")
    pairs = table.groupby("pair")["within_pair"].mean()
    assert len(pairs) == 7
    assert pairs.tolist() == pytest.approx([0.5] * 7)


def test_draw_classes_shows_a_row_a_variant(runs: Path) -> None:
    table = gather_classes(runs)
    axes = draw_classes(table)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["seed0", "seed1"]
    assert len(axes.get_xticklabels()) == 7
    with pytest.raises(ValueError, match="nothing"):
        draw_classes(table, metric="nothing")
