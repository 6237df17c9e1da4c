"""Run folders of several variants, read by every command: the numbers of the variant asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import bias_history, bias_maps, gather_curves
from analysis.cli import main
from analysis.page import sections as page_sections
from analysis.page.learned import trained_models
from analysis.results.class_accuracy import gather_classes
from analysis.results.curves import runs_under, variant_of
from posmlp.checkpoint import load
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import GeneratedClips
from posmlp.predict import open_run
from posmlp.train.fitting import fit
from posmlp.train.run_folder import one_variant, run_members

VARIANTS = {"base": {}, "slow": {"lr": 1e-4, "init": "unit_bias"}}


ONE_STAGE = {"depths": (1,), "dims": (8,), "num_groups": 2, "windows": 4, "downsample": True}
SMALL = PosMLPConfig(**ONE_STAGE, num_frames=4, image_size=16, num_classes=14)


def clips(split: str) -> GeneratedClips:
    digits = MovingDigits(split, 28, num_frames=4, image_size=16, paired=split == "test")
    return GeneratedClips(digits)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train = TrainConfig(epochs=2, batch_size=14, checkpoint_every=1)
    pair = (clips("train"), clips("test"))
    fit(SMALL, train, pair, [4, 2], out, variants=VARIANTS, progress=False)
    return out


def test_members_are_read_as_they_were_trained(run: Path) -> None:
    assert [member.label for member in run_members(run)] == [
        "base-seed4", "base-seed2", "slow-seed4", "slow-seed2",
    ]  # fmt: skip
    slow = one_variant(run, "slow")
    assert [member.seed for member in slow] == [4, 2]
    assert (slow[0].train.lr, slow[0].config.init) == (1e-4, "unit_bias")


def test_a_model_is_opened_once_its_variant_is_chosen(run: Path, tmp_path: Path) -> None:
    opened = open_run(run, 2, "slow")
    assert (opened.seed, opened.variant, opened.model.config.init) == (2, "slow", "unit_bias")
    assert open_run(run, variant="base").seed == 4
    with pytest.raises(ValueError, match="holds the variants base, slow; choose one, for example"):
        open_run(run)
    with pytest.raises(ValueError, match=r"unknown variant 'slwo'\. Did you mean 'slow'"):
        open_run(run, variant="slwo")
    stored = json.loads((run / "config.json").read_text())
    del stored["variants"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"variant='slow', but .* holds no variants; leave it out"):
        open_run(tmp_path, variant="slow")


@pytest.mark.parametrize("command", ["all", "bias", "attribute", "learned"])
def test_commands_about_one_model_want_a_variant(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    more = [str(tmp_path / "v.mp4")] if command == "attribute" else []
    assert main([command, str(run), *more, "--out", str(tmp_path / "out")]) == 2
    assert "choose one, for example variant='base'" in capsys.readouterr().err
    assert main([command, str(run), *more, "--out", str(tmp_path / "out"), "--variant", "x"]) == 2
    assert "unknown variant 'x'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bias_command_keeps_variants_apart(run: Path) -> None:
    for name in VARIANTS:
        assert main(["bias", str(run), "--variant", name]) == 0
        expected = bias_maps(load(run / f"model-{name}-seed4.safetensors"))
        written = pd.read_csv(run / f"bias-{name}" / "maps.csv")
        np.testing.assert_allclose(written["bias"], expected["bias"])


def test_history_is_of_the_variants_own_checkpoints_and_start(run: Path) -> None:
    slow, base = (bias_history(run, [2], name) for name in ("slow", "base"))
    assert slow["epoch"].unique().tolist() == [0, 1, 2]
    middle = bias_maps(load(run / "checkpoints" / "epoch1-slow-seed2.safetensors"))
    np.testing.assert_array_equal(slow.query("epoch == 1")["bias"], middle["bias"])
    starts = [rows.query("epoch == 0")["bias"].to_numpy() for rows in (slow, base)]
    assert not np.array_equal(*starts), "init is a value of the variant"


def test_curves_and_models_are_of_each_variant(run: Path) -> None:
    curves = gather_curves(run.parent)
    assert curves.groupby("variant").size().to_dict() == {"run/base": 4, "run/slow": 4}
    own = curves.query("variant == 'run/slow' and epoch == 1 and seed == 2")
    assert own["lr"].item() < curves.query("variant == 'run/base'")["lr"].max()
    assert set(gather_curves(run)["variant"]) == set(VARIANTS)
    models = trained_models(run, "slow")
    assert [(opened.seed, opened.variant) for _, opened in models] == [(4, "slow"), (2, "slow")]


def test_classes_are_scored_for_each_variant(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"source": "moving-digits"}))
    monkeypatch.setattr("posmlp.train.scoring.open_clips", lambda *_, **__: clips("test"))
    table = gather_classes(tmp_path)
    seeds = table.groupby("variant")["seed"].unique().map(list)
    assert seeds.to_dict() == {"run/base": [2, 4], "run/slow": [2, 4]}


def test_page_scores_the_variant_and_says_which_it_is(run: Path) -> None:
    section = page_sections.accuracy(run, "slow")
    rows = pd.read_csv(run / "metrics.csv").query("variant == 'slow' and epoch == 2")
    found = {cells[0]: cells[2] for cells in section.tables[0].rows}
    assert found == {str(r.seed): f"{r.train_loss:.3f}" for r in rows.itertuples()}
    tables = {table.caption: table.rows for table in page_sections.provenance(run, "slow").tables}
    assert ["lr", "0.0001"] in tables["variant slow"]


def test_only_trainings_are_counted_and_a_population_not_beside_its_cells(tmp_path: Path) -> None:
    about = {"model": {}, "train": {}, "data": {}, "classes": []}
    seeds = {"cells/a/seed0": [0], "together/0123": [0, 1], "detect": None}
    for folder, of in seeds.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metrics.csv").touch()
        told = about | ({"seeds": of} if of else {"seed": 0})
        (tmp_path / folder / "config.json").write_text(json.dumps(told))
    assert runs_under(tmp_path) == [tmp_path / "cells/a/seed0"]


def test_axis_of_values_a_stage_is_one_value_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "cells/a/seed0"
    run.mkdir(parents=True)
    cell = {"name": "num_groups=1,2", "axes": {"num_groups": [1, 2], "gate": "lrpe"}}
    (run.parent / "cell.json").write_text(json.dumps(cell))
    name, axes = variant_of(run, tmp_path)
    assert (name, axes) == ("num_groups=1,2", {"num_groups": "[1, 2]", "gate": "lrpe"})
    pd.DataFrame({"epoch": [1, 2, 3]}).assign(**axes)
