"""Run folders whose files are damaged or do not belong together: one line, and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from analysis import bias_history
from analysis.cli import main
from analysis.page import sections as page_sections
from posmlp import cli as posmlp_cli
from posmlp import create_model
from posmlp.checkpoint import load, save
from posmlp.config import TrainConfig
from tests.analysis.bias.test_bias_maps import SMALL

CLASSES = [f"class {number}" for number in range(SMALL.num_classes)]
MODEL = "model-seed0.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one epoch that was not trained."""
    folder = tmp_path / "run"
    model = create_model(SMALL)
    save(model, folder / MODEL)
    stored = {
        "model": SMALL.to_dict(), "train": TrainConfig(epochs=1).to_dict(), "source": None,
        "data": {"test": {}}, "classes": CLASSES, "seeds": [0],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "metrics.csv").write_text("epoch,seed,test_top1\n1,0,0.5\n")
    return folder


Damage = Callable[[Path], object]


def config(**changes: Any) -> Damage:
    def change(run: Path) -> None:
        stored = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(stored | changes))

    return change


def wrote(name: str, content: bytes) -> Damage:
    return lambda run: (run / name).write_bytes(content)


def cut(run: Path) -> None:
    whole = (run / MODEL).read_bytes()
    (run / MODEL).write_bytes(whole[: len(whole) // 2])


def of_config(text: str) -> Damage:
    """A model file whose config is that text."""

    def change(run: Path) -> None:
        save_file({"head.weight": torch.zeros(1)}, run / MODEL, {"config": text})

    return change


OF_A_MODEL: dict[str, tuple[Damage, str]] = {
    "config list": (wrote("config.json", b"[]"), "config.json is damaged (it is no mapping)"),
    "depths": (config(model={"depths": 3}), "config.json is damaged (depths=3 must be"),
    "epochs": (config(train={"epochs": "many"}), "config.json is damaged (epochs='many' must be"),
    "seeds": (config(seeds=["a"]), "config.json is damaged (seeds[0] is 'a')"),
    "classes": (config(classes=[1.5, 2]), "config.json is damaged (classes[0] is 1.5)"),
    "few classes": (config(classes=["a"]), "beside it names 1; put the files of one run together"),
    "data": (config(data={"test": 3}), "config.json is damaged (data.test is 3)"),
    "source": (config(source=3), "config.json is damaged (source is 3)"),
    "variants": (config(variants={"a": 3}), "config.json is damaged (variants.a is 3)"),
    "variant of": (config(variants={"a": {"x": 1}}), "config.json is damaged (unknown value"),
    "model cut": (cut, f"{MODEL} is not a readable safetensors file"),
    "model config": (of_config("3"), f"{MODEL} holds a damaged config"),
}


@pytest.mark.parametrize("damage", OF_A_MODEL)
def test_damage_is_named_by_commands_about_a_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    change, message = OF_A_MODEL[damage]
    change(run)
    out = tmp_path / "out"
    video = str(tmp_path / "v.mp4")
    commands = [
        (main, ["bias", str(run), "--out", str(out)]),
        (main, ["attribute", str(run), video, "--out", str(out)]),
        (main, ["learned", str(run), "--out", str(out)]),
        (main, ["all", str(run), "--out", str(out / "page.html")]),
        (posmlp_cli.main, ["predict", str(run), video]),
    ]
    first = list(OF_A_MODEL).index(damage)
    for command, words in (commands[first % 5], commands[(first + 2) % 5]):
        assert command(words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not out.exists()


def test_model_that_diverged_has_no_bias_files(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load(run / MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    save(model, run / MODEL)
    assert main(["bias", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "weights of the model are not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


OF_METRICS: dict[str, tuple[Damage, str]] = {
    "empty": (wrote("metrics.csv", b""), "none of its folders holds config.json and rows in"),
    "cut": (wrote("metrics.csv", b"epoch,seed,test_top1\n1,0\n"), "metrics.csv is damaged"),
    "words": (wrote("metrics.csv", b"epoch,seed,test_top1\n1,0,x\n"), "metrics.csv is damaged"),
    "no value": (
        wrote("metrics.csv", b"epoch,seed,test_top1\n1,0,nan\n"),
        "has a test_top1 at its",
    ),
    "config": (config(seeds=3), "config.json is damaged (seeds is no list)"),
    "cell": (wrote("../cell.json", b"[]"), "cell.json is damaged ("),
}


@pytest.mark.parametrize("damage", OF_METRICS)
def test_damage_is_named_by_the_curves(
    run: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    change, message = OF_METRICS[damage]
    change(run)
    assert main(["curves", str(run)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (run / "curves").exists()


def test_curves_of_what_is_no_number_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curves", str(run), "--metric", "variant"]) == 2
    error = capsys.readouterr().err
    assert "metric 'variant' is not a number; use one of the columns ['epoch', 'seed'" in error


def test_models_of_another_config_are_no_history(run: Path) -> None:
    config(model=SMALL.to_dict() | {"drop_path": 0.5})(run)
    with pytest.raises(ValueError, match=r"safetensors is of another model than .*config\.json"):
        bias_history(run)


@pytest.mark.parametrize("content", ["[1]", "3", "{"])
def test_damaged_environment_is_the_reason_of_its_section(run: Path, content: str) -> None:
    (run / "environment.json").write_text(content)
    with pytest.raises(ValueError, match=r"environment\.json is damaged"):
        page_sections.provenance(run)
