"""Variants in one population: each has the numbers of training alone, whatever they differ in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from posmlp.cli import main
from posmlp.config import TrainConfig
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import GeneratedClips
from posmlp.train import loop
from posmlp.train.fitting import fit
from posmlp.train.optimisation import Optimiser, relation_parameters
from posmlp.train.population import Population
from posmlp.train.run_folder import read_metrics
from posmlp.train.variants import members, without_values
from tests.train.test_population import TINY, batch

CONFIG = replace(TINY, image_size=16, windows=(4, 2), num_classes=14, drop_path=0.2)
TRAIN = TrainConfig(epochs=2, batch_size=8, lr=1e-2)
VARIANTS = {
    "base": {},
    "slow": {"lr": 1e-3, "min_lr": 1e-4, "warmup_epochs": 0.5},
    "free": {"weight_decay": 0.0, "grad_clip": 0.0},
    "fast-tables": {"relation_lr_scale": 5.0},
    "deep-drop": {"drop_path": 0.6, "init": "unit_bias"},
}


@pytest.fixture(scope="module")
def pair() -> tuple[GeneratedClips, GeneratedClips]:
    train, test = (
        GeneratedClips(MovingDigits(split, num, difficulty="easy", num_frames=4, image_size=16))
        for split, num in (("train", 32), ("test", 28))
    )
    return train, test


def own(values: dict) -> tuple:
    """The configs of one variant, for training it alone."""
    (member,) = members(CONFIG, TRAIN, [0], {"it": values})
    return member.config, member.train


def test_each_variant_and_seed_has_the_bits_of_training_alone(pair, tmp_path):
    rows = fit(CONFIG, TRAIN, pair, [3, 4], tmp_path / "all", variants=VARIANTS, progress=False)
    assert len(rows) == 2 * 2 * len(VARIANTS)
    for name, values in VARIANTS.items():
        config, train = own(values)
        alone = fit(config, train, pair, [3, 4], tmp_path / name, progress=False)
        mine = [row for row in rows if row["variant"] == name]
        for row, expected in zip(mine, alone, strict=True):
            assert {k: row[k] for k in expected if k not in ("seconds", "data_wait_share")} == {
                k: v for k, v in expected.items() if k not in ("seconds", "data_wait_share")
            }
        for seed in (3, 4):
            weights = load_file(tmp_path / "all" / f"model-{name}-seed{seed}.safetensors")
            expected = load_file(tmp_path / name / f"model-seed{seed}.safetensors")
            assert all(torch.equal(weights[key], expected[key]) for key in expected)
    assert [row["variant"] for row in read_metrics(tmp_path / "all" / "metrics.csv")] == [
        row["variant"] for row in rows
    ]


def test_vectorised_steps_of_variants_equal_each_alone():
    """What a GPU does, in float64: one vmapped step over members with their own settings."""
    clips, labels, _ = (tensor[:1] for tensor in batch(1))
    clips = clips.double().expand(len(VARIANTS), -1, -1, -1, -1, -1)
    labels = labels.expand(len(VARIANTS), -1)
    found = [member for v in VARIANTS.values() for member in members(TINY, TRAIN, [5], {"it": v})]
    configs, settings = [m.config for m in found], [m.train for m in found]

    def stepped(chosen: slice, vectorised: bool) -> dict[str, torch.Tensor]:
        population = Population(configs[chosen], [5] * len(configs[chosen]), vectorised=vectorised)
        population.model.double()
        population.parameters = {
            k: v.detach().double().requires_grad_() for k, v in population.parameters.items()
        }
        population.statistics = {
            k: v.double() if v.is_floating_point() else v for k, v in population.statistics.items()
        }
        relations = relation_parameters(population.model)
        optimiser = Optimiser(population.parameters, settings[chosen], relations)
        for step in range(2):
            generators = [torch.Generator().manual_seed(step) for _ in configs[chosen]]
            scales = population.draw_residual_scales(4, generators).double()
            gradients, _, _ = population.gradients(clips[chosen], labels[chosen], scales)
            optimiser.step(gradients, epoch=0.5 * step)
        return population.parameters

    together = stepped(slice(None), vectorised=True)
    for i, name in enumerate(VARIANTS):
        alone = stepped(slice(i, i + 1), vectorised=False)
        for key, tensor in alone.items():
            if key.endswith(("convs.0.bias", "convs.1.bias")):  # no gradient but rounding's
                continue
            torch.testing.assert_close(
                together[key][i], tensor[0], rtol=1e-7, atol=1e-9, msg=f"{name} {key}"
            )


def test_a_run_of_variants_resumes_after_a_kill_to_the_same_bits(pair, tmp_path, monkeypatch):
    whole = fit(CONFIG, TRAIN, pair, [0], tmp_path / "whole", variants=VARIANTS, progress=False)

    class Killed(Exception):
        pass

    def killed(self, folder, epoch):
        store(self, folder, epoch)
        raise Killed

    store = loop.Training._store
    monkeypatch.setattr(loop.Training, "_store", killed)
    with pytest.raises(Killed):
        fit(CONFIG, TRAIN, pair, [0], tmp_path / "run", variants=VARIANTS, progress=False)
    monkeypatch.setattr(loop.Training, "_store", store)
    rows = fit(CONFIG, TRAIN, pair, [0], tmp_path / "run", variants=VARIANTS, progress=False)
    assert [(r["variant"], r["epoch"], r["test_loss"]) for r in rows] == [
        (r["variant"], r["epoch"], r["test_loss"]) for r in whole
    ]
    for name in VARIANTS:
        file = f"model-{name}-seed0.safetensors"
        weights, expected = (load_file(tmp_path / where / file) for where in ("run", "whole"))
        assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_clips_are_read_once_for_all_variants_of_a_seed(pair):
    test = pair[1]
    asked = []

    class Counted(GeneratedClips):
        def batches(self, index_batches, **options):
            for clips in super().batches(index_batches, **options):
                asked.append(len(clips))
                yield clips

    counted = Counted(MovingDigits("train", 32, difficulty="easy", num_frames=4, image_size=16))
    fit(CONFIG, replace(TRAIN, epochs=1), (counted, test), [0], variants=VARIANTS, progress=False)
    assert sum(asked) == 32


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({}, "names none"),
        ({"a": {"gate": "dense"}}, "unknown value that members of a population differ in 'gate'"),
        ({"a": {"weight_decai": 0.1}}, "Did you mean 'weight_decay'"),
        ({"a": {"lr": -1.0}}, "lr=-1.0 must be a number of at least 0"),
        ({"a": {"drop_path": 2.0}}, "drop_path=2.0"),
        ({"a/b": {}}, "becomes part of file names"),
    ],
)
def test_variants_that_no_population_holds_are_refused_before_training(variants, message):
    with pytest.raises(ValueError, match=message):
        fit(CONFIG, TRAIN, "no-such-data", variants=variants, progress=False)


@given(st.sampled_from(list(VARIANTS.values())), st.sampled_from(["lrpe", "dense"]))
def test_trainings_share_a_population_where_they_differ_in_values_alone(values, gate):
    config, train = own(values)
    base = without_values(CONFIG, TRAIN)
    assert without_values(config, train) == base
    assert (without_values(replace(config, gate=gate), train) == base) is (gate == CONFIG.gate)
    assert without_values(config, replace(train, label_smoothing=0.0)) != base


def test_settings_that_differ_in_the_middle_keep_their_own_rates():
    """Neighbours with equal settings share operations; one between them does not."""
    parameters = {"weight": torch.ones(3, 2, 2, requires_grad=True)}
    gradients = {"weight": torch.ones(3, 2, 2)}
    slow, fast = replace(TRAIN, lr=1e-3, warmup_epochs=0), replace(TRAIN, lr=1e-1, warmup_epochs=0)
    Optimiser(parameters, [slow, fast, slow]).step(gradients, epoch=0.0)
    moved = (1 - parameters["weight"]).amax((1, 2)).tolist()
    assert moved[0] == pytest.approx(1e-3, rel=0.1)
    assert moved[1] == pytest.approx(1e-1, rel=0.1)
    assert moved[0] == moved[2]


def test_eval_scores_every_variant_of_a_run(tmp_path, capsys):
    train = replace(TRAIN, epochs=1, num_clips=16, num_val_clips=28, num_test_clips=28)
    variants = {"base": {}, "slow": {"lr": 1e-3}}
    fit(CONFIG, train, "moving-digits:easy", [0], tmp_path, variants=variants, progress=False)
    capsys.readouterr()
    assert main(["eval", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line.split()[0] for line in lines if "model-" in line]
    assert named == ["model-base-seed0.safetensors", "model-slow-seed0.safetensors"]
