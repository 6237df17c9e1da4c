"""Recipes: each loads, builds its model, and says of its work what its model costs."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from posmlp.checkpoint import inflate
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.model import PosMLPVideo, create_model
from posmlp.presets import PRESETS
from posmlp.settings import RECIPES, configs

NAMES = sorted(path.name for path in RECIPES.glob("*.yaml"))
VIDEO = [name for name in NAMES if re.match(r"(ssv1|ssv2|k400)-", name)]


@cache
def on_meta(config: PosMLPConfig) -> PosMLPVideo:
    with torch.device("meta"):
        return create_model(config)


def of_one_size(config: PosMLPConfig) -> PosMLPConfig:
    """Recipes of one size differ by what costs next to nothing: see `multiply_adds`."""
    return replace(config, num_classes=174, drop_path=0.0)


def test_there_is_a_recipe_for_every_released_configuration():
    data_sets, sizes = ("ssv1", "ssv2", "k400"), ("s16", "b16", "s32", "b32")
    assert set(VIDEO) == {f"{data}-{size}.yaml" for data in data_sets for size in sizes}


# Epochs, warm-up epochs and drop path of the released files.
RELEASED = {
    "ssv1-s16": (60, 5, 0.1), "ssv1-b16": (60, 5, 0.5), "ssv1-s32": (60, 5, 0.3),
    "ssv1-b32": (60, 5, 0.5), "ssv2-s16": (60, 5, 0.3), "ssv2-b16": (60, 5, 0.6),
    "ssv2-s32": (60, 5, 0.3), "ssv2-b32": (64, 5, 0.6), "k400-s16": (60, 10, 0.1),
    "k400-b16": (60, 10, 0.3), "k400-s32": (60, 10, 0.1), "k400-b32": (60, 30, 0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", VIDEO)
def test_recipe_is_the_released_one(name):
    config, train = configs(f"recipes/{name}", [])
    found = (train.epochs, train.warmup_epochs, config.drop_path)
    assert found == RELEASED[name.removesuffix(".yaml")]
    data, size = name.removesuffix(".yaml").split("-")
    assert config.num_frames == int(size[1:])
    assert config.depths == ((3, 4, 9, 3) if size[0] == "s" else (4, 6, 15, 4))
    assert config.num_classes == (400 if data == "k400" else 174)
    assert train.lr == (2e-4 if data == "k400" else 4e-4)
    assert train.flip == ("mirror" if data == "k400" else "none")
    assert (train.rand_ops, train.rand_magnitude, train.erase) == (4, 7.0, 0.25)
    assert (train.mixup, train.cutmix, train.label_smoothing) == (0.8, 1.0, 0.1)
    assert train.batch_size == 2 * (32 if name == "ssv1-s16.yaml" else 64)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_builds_and_says_where_it_comes_from(name):
    config, _ = configs(f"recipes/{name}", [])
    assert on_meta(config).head.out_features == config.num_classes
    head = [line for line in (RECIPES / name).read_text().splitlines() if line.startswith("#")]
    wanted = ["# Source: ", "# Hardware: "]
    if name not in (
        "moving-boxes.yaml",
        "steady.yaml",
        "tiny-deformations.yaml",
    ):  # ours: the paper has none
        wanted += ["# Paper: ", "# Data: "]
    if name in VIDEO:
        wanted += ["# Work: ", "# Expected: ", "# Test: posmlp eval "]
        assert any(line.startswith(("# [contradicted]", "# [filled in]")) for line in head)
    assert [word for word in wanted if not any(line.startswith(word) for line in head)] == []


# Ways in which eleven of the twelve released files do not build or run PosMLP.
REPAIRED = re.compile(r"does not run|another model")


@pytest.mark.parametrize("name", VIDEO)
def test_recipe_says_where_the_released_file_does_not_run_this_model(name):
    says = REPAIRED.search((RECIPES / name).read_text()) is not None
    assert says == (name != "ssv1-s16.yaml")


@cache
def multiply_adds(config: PosMLPConfig) -> float:
    """Of one clip, as PyTorch counts them, on tensors without content."""
    clip = torch.zeros(1, 3, config.num_frames, *config.size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(config).eval()(clip)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", VIDEO)
def test_recipe_states_the_work_of_its_model(name):
    text = (RECIPES / name).read_text()
    config, train = configs(f"recipes/{name}", [])

    def found(pattern: str) -> float:
        (number,) = re.findall(pattern, text)
        return float(number.replace(",", ""))

    clips = found(r"Data: (?:about )?([\d,]+) training") * train.epochs * train.repeats
    work = 6 * multiply_adds(of_one_size(config)) * clips
    assert found(r"Work: (\S+) operations") == pytest.approx(work, rel=0.05)
    hours = work / found(r"Hardware: (\d+) GPUs") / 50e12 / 3600
    assert found(r"Expected: (\d+) h .* 50 TFLOP") == pytest.approx(hours, abs=1)


def test_steady_recipe_is_the_toy_preset_but_for_what_its_head_names():
    config, train = configs("recipes/steady.yaml", [])
    assert config == replace(PRESETS["toy"], init="contrast")
    assert (train.balanced, train.batch_size) == (True, 2 * config.num_classes)
    changed = {"epochs": 6, "balanced": True, "batch_size": 28, "relation_lr_scale": 5}
    assert train == TrainConfig(**changed)


def test_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, _ = configs("recipes/ssv1-s16.yaml", ["depths=[1,1,1,1]"])
    assert config.dims == (72, 144, 288, 576)
    assert config.depths == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"Did you mean 'ssv1-s16'"):
        configs("recipes/ssv1-s61.yaml", [])


@pytest.mark.parametrize("name", VIDEO)
def test_recipe_names_an_image_model_that_it_can_start_from(name):
    (named,) = re.findall(r"train (imagenet-\S+\.yaml) or", (RECIPES / name).read_text())
    image, _ = configs(f"recipes/{named}", [])
    video, _ = configs(f"recipes/{name}", [])
    assert image.kind == "image"
    inflated(image, of_one_size(video))


@cache
def inflated(image: PosMLPConfig, video: PosMLPConfig) -> PosMLPVideo:
    with torch.device("meta"):
        return inflate(on_meta(image), video)
