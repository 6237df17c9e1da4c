"""A population's numbers are those of each seed alone, whichever way it is advanced."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from posmlp.model import Step
from posmlp.presets import PRESETS
from posmlp.train.execution import Recorded
from posmlp.train.optimisation import clip_gradients
from posmlp.train.population import Population, seeded_model

TINY = replace(
    PRESETS["toy"],
    depths=(1, 1),
    dims=(8, 16),
    num_groups=(2, 4),
    windows=(2, 1),
    temporal_windows=None,
    downsample=True,
    mlp_ratio=2.0,
    image_size=8,
    num_frames=4,
    num_classes=3,
    drop_path=0.5,
)


DIGITS = {"image_size": 16, "num_classes": 14, "drop_path": 0.0}
"""Of the moving digits, for other tests."""
ROUGH = ("lrpe", "gqpe", "qkv-attention", "centred-mean")


def batch(num_seeds: int, size: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(num_seeds, size, 3, 4, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (num_seeds, size), generator=generator)
    scales = torch.randint(0, 2, (num_seeds, 2, size), generator=generator) * 2.0
    return clips, labels, scales


@pytest.mark.parametrize("vectorised", [False, True])
@pytest.mark.parametrize("gate", ["lrpe", "attention"])
def test_gradients_equal_each_seed_alone(gate, vectorised):
    config = replace(TINY, gate=gate)
    clips, labels, scales = batch(3)
    population = Population(config, [3, 5, 8], vectorised=vectorised)
    gradients, losses, logits = population.gradients(clips, labels, scales, label_smoothing=0.1)
    for i, seed in enumerate(population.seeds):
        model = seeded_model(config, seed).train()
        steps = [module for module in model.modules() if isinstance(module, Step)]
        for step, scale in zip(steps, scales[i], strict=True):
            step.scale = scale
        own = model(clips[i])
        loss = F.cross_entropy(own, labels[i], label_smoothing=0.1)
        loss.backward()
        torch.testing.assert_close(logits[i], own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses[i], loss, rtol=1e-5, atol=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                gradients[name][i], parameter.grad, rtol=1e-3, atol=2e-5, msg=name
            )
        for name, tensor in model.state_dict().items():
            if "running" in name:
                torch.testing.assert_close(population.statistics[name][i], tensor)


@pytest.mark.parametrize(
    ("gate", "vectorised"), [*((gate, True) for gate in ROUGH), ("lrpe", False)]
)
def test_bfloat16_trains_float32_weights_on_about_the_same_gradients(gate, vectorised):
    config = replace(TINY, gate=gate, layout="T+S")
    clips, labels, scales = batch(2)
    found = []
    for autocast in (False, True):
        population = Population(config, [3, 4], vectorised=vectorised)
        gradients = population.gradients(clips, labels, scales, autocast=autocast)[0]
        assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
        found.append(torch.cat([gradient.flatten() for gradient in gradients.values()]))
    exact, rough = found
    assert 0 < (rough - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("vectorised", [False, True])
def test_logits_equal_the_members(vectorised):
    population = Population(TINY, [1, 2], vectorised=vectorised)
    clips = batch(1)[0][0]
    with torch.no_grad():
        alone = torch.stack([population.member(i)(clips) for i in range(2)])
    torch.testing.assert_close(population.logits(clips), alone, rtol=1e-4, atol=1e-5)


def check_seeds_on_several_threads():
    clips, labels, scales = batch(5)
    found = []
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        population = Population(TINY, range(5))
        assert len(population._crew.models) == num_threads
        steps = [population.gradients(clips, labels, scales) for _ in range(3)]
        assert torch.get_num_threads() == num_threads
        logits = population.logits(clips[0])
        assert not logits.requires_grad
        found.append((steps, population.statistics, logits))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_seeds_on_several_threads_have_the_bits_of_one_thread():
    # In a process of its own: this one keeps to one thread, from its first operation on.
    code = "from tests.train.test_population import check_seeds_on_several_threads as c; c()"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=300)


def test_clipped_gradients_have_the_bits_of_a_member_alone():
    generator = torch.Generator().manual_seed(0)
    gradients = {
        str(i): torch.randn(5, 3, 4, generator=generator) * 10 ** (i % 7) for i in range(150)
    }
    largest = torch.full((5,), 1.0)
    together = clip_gradients(gradients, largest)
    for member in range(5):
        own = {name: each[member : member + 1] for name, each in gradients.items()}
        alone = clip_gradients(own, largest[:1])
        assert all(torch.equal(alone[name][0], together[name][member]) for name in own)
        norm = torch.cat([each.flatten() for each in alone.values()]).norm()
        torch.testing.assert_close(norm, torch.tensor(1.0))


class Replayed:
    """As `execution.Recorded` does on a GPU: runs first, then answers in the tensors it has."""

    def __init__(self, function, inputs):
        self.function = function
        for _ in range(3):
            self.outputs = function(*inputs)

    def __call__(self, *inputs):
        fresh, _ = tree_flatten(self.function(*inputs))
        for mine, new in zip(tree_flatten(self.outputs)[0], fresh, strict=True):
            mine.copy_(new)
        return self.outputs


def test_recorded_steps_leave_what_launched_ones_do(monkeypatch):
    monkeypatch.setattr("posmlp.train.population.Recorded", Replayed)
    clips, labels, scales = batch(2)
    made = []
    for recorded in (False, True):
        population = Population(TINY, [1, 2], vectorised=True, recorded=recorded)
        where = {name: tensor.data_ptr() for name, tensor in population.statistics.items()}
        start = {name: tensor.clone() for name, tensor in population.state().items()}
        for _ in range(2):  # a graph goes on from the weights and statistics that are put back
            population.gradients(clips, labels, scales)
            population.gradients(clips.flip(1), labels.flip(1), scales)
            after = {name: tensor.clone() for name, tensor in population.statistics.items()}
            population.load_state(start)
        gradients, loss, _ = population.gradients(clips, labels, scales)
        made.append(after | gradients | {"loss": loss})
    assert {name: t.data_ptr() for name, t in population.statistics.items()} == where
    assert made[0].keys() == made[1].keys()
    for name, tensor in made[0].items():
        assert torch.equal(tensor, made[1][name]), name


def test_memory_that_runs_out_in_a_recording_is_told_as_that(monkeypatch):
    """Else the memory ladder would not be gone down, as the graph's own error names no memory."""

    @contextmanager
    def recording(*_, **__):
        try:
            yield
        except torch.OutOfMemoryError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    calls = iter([1, 1, 1, torch.OutOfMemoryError("CUDA out of memory")])
    monkeypatch.setattr(torch, "cuda", MagicMock(graph=recording))
    with pytest.raises(torch.OutOfMemoryError):
        Recorded(MagicMock(side_effect=calls), [torch.zeros(1)])


def test_an_error_of_one_seed_reaches_the_caller():
    clips, labels, scales = batch(3)
    labels[1] = 99  # no such class
    with pytest.raises(IndexError, match="99"):
        Population(TINY, range(3)).gradients(clips, labels, scales)


class Tied(nn.Module):
    """A notebook's own gate, one of whose parameters has two names."""

    def __init__(self, dim: int, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * dim, dim)
        self.second = nn.Linear(2 * dim, dim)
        self.second.weight = self.first.weight

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.first(h) + self.second(h)


def test_a_parameter_of_two_names_is_refused():
    with pytest.raises(ValueError, match=r"first\.weight and .*second\.weight are one parameter"):
        Population(replace(TINY, gate=Tied), [0])


class Half(nn.Module):
    """A notebook's own gate, with a part that is not to learn and one that is not used."""

    def __init__(self, dim: int, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()
        self.fixed, self.unused = nn.Linear(2 * dim, dim), nn.Linear(1, 1)
        self.fixed.requires_grad_(False)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.fixed(h)


@pytest.mark.parametrize("vectorised", [False, True])
def test_fixed_parameters_stay_and_unused_ones_have_no_gradient(vectorised):
    population = Population(replace(TINY, gate=Half), [3, 5], vectorised=vectorised)
    gradients = population.gradients(*batch(2))[0]
    assert not [name for name in gradients if ".fixed." in name]
    assert not any(gradients[name].any() for name in gradients if ".unused." in name)
    fixed = {k: v for k, v in population.member(1).state_dict().items() if ".fixed." in k}
    expected = seeded_model(population.configs[1], 5).state_dict()
    assert fixed
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fixed.items())


def test_seeded_model_depends_on_the_seed_alone():
    torch.manual_seed(99)
    first = seeded_model(TINY, 7).state_dict()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    second = seeded_model(TINY, 7).state_dict()
    assert torch.equal(before, torch.get_rng_state()), "the global generator was moved"
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = seeded_model(TINY, 8).state_dict()
    assert not torch.equal(first["head.weight"], other["head.weight"])


class Dropping(nn.Module):
    """A notebook's gate that draws."""

    def __init__(self, dim, window, num_groups):
        super().__init__()
        self.share = nn.Parameter(torch.ones(dim))

    def forward(self, h):
        u, v = h.chunk(2, -1)
        return F.dropout(u * self.share, 0.5, self.training) * v


@pytest.mark.parametrize("vectorised", [False, True])
def test_own_module_draws_from_its_seed_alone_beside_others_and_in_threads(vectorised):
    config = replace(TINY, gate=Dropping)
    clips, labels, scales = batch(3)
    draws = torch.tensor([11, 12, 13])
    before = torch.random.get_rng_state()
    torch.set_num_threads(3)  # a thread for each seed, of which all have one generator
    try:
        together = Population(config, [3, 5, 8], vectorised=vectorised)
        found = [together.gradients(clips, labels, scales, draws=draws)[1] for _ in range(3)]
        alone = [
            Population(config, [seed]).gradients(
                clips[i : i + 1], labels[i : i + 1], scales[i : i + 1], draws=draws[i : i + 1]
            )[1]
            for i, seed in enumerate((3, 5, 8))
        ]
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for losses in found:
        torch.testing.assert_close(losses, torch.cat(alone), rtol=1e-5, atol=1e-6)
    other = Population(config, [3]).gradients(clips[:1], labels[:1], scales[:1], draws=draws[1:2])
    assert other[1] != alone[0]
