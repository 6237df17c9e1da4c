"""Training on few clips: frozen parts, a start from another model, and weights of classes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from posmlp import load, save
from posmlp.cli import main
from posmlp.config import TrainConfig
from posmlp.train.fitting import fit
from posmlp.train.optimisation import Optimiser, class_weights
from posmlp.train.population import Population, seeded_model
from tests.train.test_population import TINY, batch

TRAIN = TrainConfig(
    epochs=1, batch_size=14, num_clips=28, num_val_clips=28, num_test_clips=28, lr=1e-2
)
CONFIG = replace(
    TINY, image_size=16, num_frames=4, num_classes=14, windows=(4, 2), temporal_windows=4
)


@pytest.mark.parametrize("vectorised", [False, True])
def test_frozen_parts_stay_and_normalise_as_in_evaluation(vectorised):
    population = Population(TINY, [3, 5], vectorised=vectorised, freeze="stem,stage2")
    before = {name: tensor.clone() for name, tensor in population.state().items()}
    optimiser = Optimiser(population.parameters, [TRAIN] * 2)
    gradients, *_ = population.gradients(*batch(2))
    optimiser.step(gradients, 0.5)
    moved = {k for k, tensor in population.state().items() if not torch.equal(tensor, before[k])}
    held = ("stem.", "stages.1.", "downsamples.0.")
    assert not [name for name in moved if name.startswith(held)]
    assert {name.split(".")[0] for name in moved} == {"stages", "norm", "head"}


def test_head_has_a_rate_of_its_own():
    def moved(scale: float) -> dict[str, torch.Tensor]:
        population = Population(TINY, [3])
        before = {name: tensor.detach().clone() for name, tensor in population.parameters.items()}
        train = replace(TRAIN, head_lr_scale=scale, weight_decay=0.0, grad_clip=0.0)
        Optimiser(population.parameters, [train]).step(population.gradients(*batch(1))[0], 0.5)
        return {name: tensor - before[name] for name, tensor in population.parameters.items()}

    plain, scaled = moved(1.0), moved(10.0)
    for name, by in plain.items():
        factor = 10.0 if name.startswith("head.") else 1.0
        torch.testing.assert_close(scaled[name], factor * by, rtol=1e-3, atol=1e-6, msg=name)


def test_class_weights_are_inverse_counts_of_mean_one_and_weigh_each_clip():
    labels = torch.tensor([0, 0, 0, 2])
    weights = class_weights(labels, 3)
    assert weights.tolist() == pytest.approx([2 / 3, 1.0, 2.0])
    assert weights[labels].mean() == pytest.approx(1.0)
    clips, _, scales = batch(1)
    config = replace(TINY, stem_norm="layer")
    for parts in (1, 2):
        population = Population(config, [3], class_weights=weights)
        _, loss, logits = population.gradients(clips, labels[None], scales, micro_batches=parts)
        own = F.cross_entropy(logits[0], labels, reduction="none") * weights[labels]
        torch.testing.assert_close(loss[0], own.mean())


def test_training_starts_from_a_run_of_other_classes_and_says_so(tmp_path, capsys):
    start = tmp_path / "start"
    start.mkdir()
    source = seeded_model(replace(CONFIG, num_classes=3), 7)
    save(source, start / "model-seed7.safetensors")
    train = replace(
        TRAIN,
        init_from=str(start),
        freeze="stem,stage1,stage2,norm",
        class_weights="balanced",
        head_lr_scale=3.0,
        shift=0.1,
        brightness=0.2,
    )
    fit(CONFIG, train, seeds=[0], out=tmp_path / "run", progress=False)
    said = capsys.readouterr().err
    assert "its weights are copied; anew start: the head (3 classes there, 14 here)" in said
    trained, first = load(tmp_path / "run").state_dict(), source.state_dict()
    body = [name for name in first if not name.startswith("head.")]
    assert all(torch.equal(trained[name], first[name]) for name in body)
    assert trained["head.weight"].shape == (14, 16)


def test_shipped_model_is_a_start(tmp_path, capsys):
    words = ["epochs=1", "num_clips=28", "batch_size=28", "num_val_clips=28", "num_test_clips=28"]
    words += ["init_from=toy-ts", "lr=0", "min_lr=0"]
    assert main(["train", "--out", str(tmp_path / "run"), *words]) == 0
    assert "init_from toy-ts: its weights are copied; anew start: none" in capsys.readouterr().err
    start, own = load("toy-ts").state_dict(), load(tmp_path / "run").state_dict()
    assert torch.equal(own["head.weight"], start["head.weight"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"freeze": "stem,stage9"}, "unknown part in freeze 'stage9'"),
        ({"freeze": "stem,stage1,stage2,norm,head"}, "leaves nothing to train; leave a part out"),
    ],
)
def test_parts_that_cannot_be_frozen_are_refused(values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Population(TINY, [0], **values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"class_weights": "even"}, "unknown class_weights 'even'"),
        ({"min_time_share": 0.0}, "min_time_share=0.0 must be a share above 0, at most 1"),
        ({"min_time_share": 0.5, "sampling": "dense"}, "is for sampling='segment'"),
        ({"shift": 1.0}, "shift=1.0 must be a number of at least 0 and less than 1"),
        ({"brightness": -0.1}, "brightness=-0.1 must be"),
        ({"head_lr_scale": -1.0}, "head_lr_scale=-1.0 must be a number of at least 0"),
    ],
)
def test_values_that_training_cannot_take_are_refused(values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        TrainConfig(**values)
