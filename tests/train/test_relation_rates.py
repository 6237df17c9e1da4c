"""Which parameters step, and at which rate: relations, the head, frozen parts; few clips.

Training on few clips also starts from another model, and weighs clips by their classes.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from posmlp import create_model, load, save
from posmlp.cli import main
from posmlp.config import TrainConfig
from posmlp.train.fitting import fit
from posmlp.train.optimisation import (
    Optimiser,
    class_weights,
    learning_rate,
    relation_parameters,
)
from posmlp.train.population import Population, seeded_model
from tests.train.test_population import TINY, batch

TRAIN = TrainConfig(epochs=2, lr=1e-2, warmup_epochs=0.5, grad_clip=0.0)
LEARNED = {
    "lrpe": ["positions.table"], "gqpe": ["positions.centers", "positions.spreads"],
    "dense": ["positions.weight"], "lrpe+dense": ["positions.table", "positions.weight"],
    "attention": ["positions.table"], "qkv-attention": ["positions.table"],
    "centred-attention": ["positions.table"],
    "centred-gqpe": ["positions.centers", "positions.spreads"], "centred-mean": [],
    "conv": ["kernel"], "mean": [], "none": [],
}  # fmt: skip


@pytest.mark.parametrize("gate", LEARNED)
@pytest.mark.parametrize("layout", ["T+S", "T>ST"])
def test_relations_are_what_is_learned_about_pairs_of_positions(gate, layout):
    model = create_model(replace(TINY, gate=gate, layout=layout))
    units = [name for name, _ in model.named_modules() if name.endswith(".gate")]
    assert len(units) == 4
    assert relation_parameters(model) == {f"{u}.{name}" for u in units for name in LEARNED[gate]}


def test_a_unit_by_itself_names_its_relation():
    unit = create_model(TINY).stages[0].blocks[0].steps[0]["T"].gate
    assert relation_parameters(unit) == {"positions.table"}


def adamw(value, gradients, rates, decay, eps=1e-8):
    """Loshchilov and Hutter's algorithm 2, written out in float64."""
    value = value.detach().double().clone()
    mean, square = torch.zeros_like(value), torch.zeros_like(value)
    for n, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        direction = (mean / (1 - 0.9**n)) / ((square / (1 - 0.999**n)).sqrt() + eps)
        value = value - rate * (direction + decay * value)
    return value


@given(st.lists(st.sampled_from([0.0, 0.2, 1.0, 5.0]), min_size=1, max_size=3), st.booleans())
@settings(max_examples=15)
def test_relations_step_and_decay_at_the_scaled_rate_and_all_else_as_without(scales, decays):
    train = replace(TRAIN, weight_decay=0.05 if decays else 0.0)
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.table": (2, 7), "a.token_bias": (4, 1), "norm.bias": (3,), "positions.one": (3,)}
    start = {
        name: torch.randn(len(scales), *shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    epochs = [0.0, 0.3, 0.6, 1.5]
    gradients = [
        {name: torch.randn(t.shape, generator=generator).double() for name, t in start.items()}
        for _ in epochs
    ]
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    members = [replace(train, relation_lr_scale=scale) for scale in scales]
    optimiser = Optimiser(parameters, members, {"a.table", "positions.one"})
    for epoch, each in zip(epochs, gradients, strict=True):
        optimiser.step(each, epoch)
    for i, scale in enumerate(scales):
        for name, tensor in start.items():
            factor = scale if name in ("a.table", "positions.one") else 1.0
            rates = [factor * learning_rate(train, epoch) for epoch in epochs]
            decay = train.weight_decay if tensor.dim() > 2 else 0.0
            expected = adamw(tensor[i], [g[name][i] for g in gradients], rates, decay)
            torch.testing.assert_close(parameters[name][i], expected, rtol=1e-9, atol=1e-12)


def trained(scale: float | None, gate: str, *, by_torch: bool = False) -> dict[str, torch.Tensor]:
    """A tiny model after three steps: by `Optimiser`, or by torch's AdamW with rates by hand."""
    config = replace(TINY, gate=gate, drop_path=0.0)
    model = seeded_model(config, 3).train()
    clips, labels, _ = batch(1)
    parameters = dict(model.named_parameters())
    train = TRAIN if scale is None else replace(TRAIN, relation_lr_scale=scale)
    if by_torch:
        tied = {name for name in parameters if name.endswith(tuple(LEARNED[gate]))}
        plain = torch.optim.AdamW(
            {"params": [p], "weight_decay": 0.05 if p.dim() > 1 else 0.0,
             "factor": scale if name in tied else 1.0}
            for name, p in parameters.items()
        )  # fmt: skip
    else:
        stacked = {name: p[None].detach().requires_grad_() for name, p in parameters.items()}
        relations = relation_parameters(model) if scale is not None else ()
        ours = Optimiser(stacked, [train], relations)
    for epoch in (0.0, 0.4, 1.0):
        model.zero_grad()
        F.cross_entropy(model(clips[0]), labels[0]).backward()
        if by_torch:
            for group in plain.param_groups:
                group["lr"] = group["factor"] * learning_rate(TRAIN, epoch)
            plain.step()
        else:
            ours.step({name: p.grad[None] for name, p in parameters.items()}, epoch)
    return {name: p.detach() for name, p in parameters.items()}


@pytest.mark.parametrize("gate", ["lrpe", "gqpe", "conv", "attention"])
def test_scale_one_has_the_bits_of_before_and_scale_five_those_of_torchs_groups(gate):
    before, one = trained(None, gate), trained(1.0, gate)
    assert all(torch.equal(before[name], one[name]) for name in before)
    five, expected = trained(5.0, gate), trained(5.0, gate, by_torch=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(five[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
    relation = next(name for name in one if name.endswith(tuple(LEARNED[gate])))
    assert not torch.allclose(five[relation], one[relation], rtol=1e-2)


# Few clips


FEW = TrainConfig(
    epochs=1, batch_size=14, num_clips=28, num_val_clips=28, num_test_clips=28, lr=1e-2
)
DIGITS = replace(
    TINY, image_size=16, num_frames=4, num_classes=14, windows=(4, 2), temporal_windows=4
)


@pytest.mark.parametrize("vectorised", [False, True])
def test_frozen_parts_stay_and_normalise_as_in_evaluation(vectorised):
    population = Population(TINY, [3, 5], vectorised=vectorised, freeze="stem,stage2")
    before = {name: tensor.clone() for name, tensor in population.state().items()}
    optimiser = Optimiser(population.parameters, [FEW] * 2)
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
        train = replace(FEW, head_lr_scale=scale, weight_decay=0.0, grad_clip=0.0)
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
    source = seeded_model(replace(DIGITS, num_classes=3), 7)
    save(source, start / "model-seed7.safetensors")
    train = replace(
        FEW,
        init_from=str(start),
        freeze="stem,stage1,stage2,norm",
        class_weights="balanced",
        head_lr_scale=3.0,
        shift=0.1,
        brightness=0.2,
    )
    fit(DIGITS, train, seeds=[0], out=tmp_path / "run", progress=False)
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
        ({"relation_lr_scale": -1}, "relation_lr_scale=-1 must be a number of at least 0"),
        ({"head_lr_scale": -1.0}, "head_lr_scale=-1.0 must be a number of at least 0"),
    ],
)
def test_values_that_training_cannot_take_are_refused(values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        TrainConfig(**values)
