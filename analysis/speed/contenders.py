"""What the bench compares: a step as people run it, of the plain model, by einsum, of a commit."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from io import BytesIO
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.cost.costs import clip_shape_of
from analysis.speed.speed import Around, Step
from posmlp.checkpoint import released_name
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.model import PosMLPVideo
from posmlp.train.distributed import Team
from posmlp.train.execution import kept_memory, preparation, quick_inference
from posmlp.train.optimisation import Optimiser
from posmlp.train.population import Population, seeded_model

Steps = dict[str, Step]
Code = SimpleNamespace

_NEEDED = (PosMLPConfig, TrainConfig, Team, preparation, seeded_model, Population, Optimiser)
OURS = Code(**{each.__name__: each for each in _NEEDED})
"""What a contender is built from; another commit has the same names, wherever they stand there."""


@contextmanager
def installed(*models: PosMLPVideo) -> Iterator[None]:
    """Within this the process computes as `fit` does, and these models as `eval` does."""
    with kept_memory(), quick_inference(*models):
        yield


def eval_steps(config: PosMLPConfig, batch_size: int, other: Code | None) -> tuple[Steps, Around]:
    """Evaluation of one batch by each contender, and what holds while `as run` does."""
    plain, as_run = seeded_model(config, 0), seeded_model(config, 0)
    models: dict[str, Any] = {"as run": as_run, "plain": plain, "reference": Reference(plain)}
    if other is not None:
        models["against"] = other.seeded_model(_config_of(other, config), 0)
    clips = torch.randn(batch_size, *clip_shape_of(plain))
    steps: Steps = {n: torch.no_grad()(partial(each.eval(), clips)) for n, each in models.items()}
    return steps, partial(installed, as_run)


def train_steps(
    config: PosMLPConfig, batch_size: int, other: Code | None, checkpointed: bool = False
) -> tuple[Steps, Around]:
    """A training step of one batch by each contender: forward, loss, backward and AdamW.

    Through a population of one seed where it is `fit`'s. Without stochastic depth, which the
    reference has not; `checkpointed`, as `fit` may be asked for, is not for the reference either.
    """
    config = replace(config, drop_path=0.0)
    as_run, plain = population(config, 1, checkpointed=checkpointed), seeded_model(config, 0)
    steps = {"as run": population_step(as_run, batch_size)}
    if not checkpointed:
        steps["reference"] = _plain_step(Reference(plain), batch_size)
    elif prepare := preparation(Team(), checkpoint_activations=True, compiled=False):
        prepare(plain)
    steps["plain"] = _plain_step(plain, batch_size)
    if other is not None:
        theirs = population(_config_of(other, config), 1, checkpointed=checkpointed, code=other)
        steps["against"] = population_step(theirs, batch_size, code=other)
    return steps, installed


def population(
    config: PosMLPConfig,
    num_seeds: int,
    device: str = "cpu",
    vectorised: bool | None = None,
    *,
    checkpointed: bool = False,
    code: Code = OURS,
    **how: Any,
) -> Population:
    """A population as `fit` makes it, of seeds from 0; `how`: more that `Population` takes."""
    prepare = code.preparation(code.Team(), checkpoint_activations=checkpointed, compiled=False)
    seeds = range(num_seeds)
    made: Population = code.Population(config, seeds, device, vectorised, prepare=prepare, **how)
    return made


def population_step(
    population: Population, batch_size: int, *, update: bool = True, code: Code = OURS
) -> Step:
    """A training step as `fit` takes it, on random clips; without AdamW unless `update`."""
    num_seeds, device = len(population.seeds), population.device
    train = code.TrainConfig()
    optimiser = code.Optimiser(population.parameters, [train] * num_seeds)
    clips, labels = _batch(population.model, (num_seeds, batch_size), device)
    draws = [torch.Generator().manual_seed(seed) for seed in population.seeds]
    scales = population.draw_residual_scales(batch_size, draws)
    scales = scales if scales is None else scales.to(device)
    how = {"label_smoothing": train.label_smoothing, "autocast": device.type == "cuda"}

    def step() -> None:
        gradients, _, _ = population.gradients(clips, labels, scales, **how)
        if update:
            optimiser.step(gradients, epoch=1.0)

    return step


def _plain_step(model: nn.Module, batch_size: int) -> Step:
    """The same step of any module, as one writes it by hand."""
    train = TrainConfig()
    parameters = dict(model.train().named_parameters())
    optimiser = Optimiser({name: each[None] for name, each in parameters.items()}, [train])
    clips, labels = _batch(model, (batch_size,), torch.device("cpu"))

    def step() -> None:
        loss = F.cross_entropy(model(clips), labels, label_smoothing=train.label_smoothing)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        named = zip(parameters, gradients, strict=True)
        optimiser.step({name: gradient[None] for name, gradient in named}, epoch=1.0)

    return step


def _batch(model: Any, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    clips = torch.randn(*shape, *clip_shape_of(model), device=device)
    return clips, torch.randint(model.config.num_classes, shape, device=device)


class Reference(nn.Module):
    """The einsum formulation of `tests/reference.py`, with a model's weights.

    Raises ValueError outside a checkout, and for a model that is not the released kind: layout
    `T+S` with gate `lrpe`.
    """

    def __init__(self, model: PosMLPVideo) -> None:
        super().__init__()
        self.config = config = model.config
        parts = (config.layout, config.gate, config.gate_form, config.kind)
        if parts != ("T+S", "lrpe", "multiply", "video"):
            raise ValueError(
                f"layout={config.layout!r}, gate={config.gate!r}: the reference covers layout "
                "'T+S' with gate 'lrpe'; use a preset such as s16"
            )
        try:
            self._reference: Any = importlib.import_module("tests.reference")
        except ModuleNotFoundError as error:
            raise ValueError(
                "tests/reference.py was not found; run this from the root of a checkout"
            ) from error
        names = ("depths", "dims", "windows", "num_frames", "num_groups", "num_classes")
        shapes = self._reference.video_shapes(*(getattr(config, name) for name in names))
        trained = dict(model.named_parameters())
        self._names = []
        for name, tensor in model.state_dict().items():
            self._names.append(released := released_name(name, config.kind))
            if released.endswith("bias_table"):  # theirs has the offsets first
                tensor = tensor.flatten(1).T
            copied = tensor.clone().reshape(shapes[released])
            held = nn.Parameter(copied) if name in trained else nn.Buffer(copied)
            setattr(self, f"tensor{len(self._names)}", held)

    def forward(self, clips: Tensor) -> Tensor:
        state = {name: getattr(self, f"tensor{i}") for i, name in enumerate(self._names, start=1)}
        logits: Tensor = self._reference.video_model(state, clips, self.training)["logits"]
        return logits


@contextmanager
def code_of(commit: str) -> Iterator[Code]:
    """OURS of another commit: its posmlp, imported beside ours from a temporary folder.

    Raises ValueError for what is no commit of the checkout that this is run in.
    """
    packed = subprocess.run(["git", "archive", commit, "posmlp"], capture_output=True, check=False)
    if packed.returncode:
        reason = packed.stderr.decode().strip()
        raise ValueError(f"against={commit!r}: {reason}; give a commit of this checkout")
    with TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        ours = _take_away()
        sys.path.insert(0, folder)
        try:
            importlib.import_module("posmlp.train").fit  # noqa: B018  loads all that is needed
        finally:
            sys.path.remove(folder)
            theirs = _take_away()
            sys.modules.update(ours)
        found = {k: v for module in theirs.values() for k, v in vars(module).items()}
        if missing := vars(OURS).keys() - found.keys():
            raise ValueError(f"against={commit!r}: it has no {min(missing)}; give a later commit")
        yield Code(**{name: found[name] for name in vars(OURS)})


def _take_away() -> dict[str, ModuleType]:
    """The modules of posmlp, which are no longer imported."""
    names = [name for name in sys.modules if name.partition(".")[0] == "posmlp"]
    return {name: sys.modules.pop(name) for name in names}


def _config_of(code: Code, config: PosMLPConfig) -> Any:
    """A configuration as another commit has it; fields that came later are left out."""
    known = {field.name for field in fields(code.PosMLPConfig)}
    values = config.to_dict()
    return code.PosMLPConfig.from_dict({k: v for k, v in values.items() if k in known})
