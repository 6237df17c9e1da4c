"""Modules of the user's own code in a model: a gate, a branch, a whole model (`posmlp.own`).

Each is held to its shape at every call, by a hook; `check` also holds it to its gradients, before
anything is trained.

Shapes: B windows or clips, N tokens of a window, C channels; T frames and n places of a window.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from functools import lru_cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from posmlp.config import PosMLPConfig
from posmlp.config_checks import BRANCHES, is_own
from posmlp.own import code as own
from posmlp.parts.inputs import check_clips


def own_gate(config: PosMLPConfig, dim: int, window: tuple[int, ...], num_groups: int) -> nn.Module:
    """`Gate(dim, window, num_groups, **gate_options)`: (B, N, 2 dim) -> (B, N, dim)."""
    name, given = str(config.gate), (dim, window, num_groups)
    return _held(name, own.called(name, config.code, config.gate_options, *given), dim)


class OwnBranch(nn.Module):
    """A layer norm, then `Branch(dim, window)` of the user's: (B, P, T, n, C) -> the same.

    Its own part takes and gives (B, T, n, C): of each temporal window T frames with n places.
    """

    def __init__(self, config: PosMLPConfig, stage: int, name: str) -> None:
        super().__init__()
        dim, window = config.dims[stage], config.window(stage, name)
        self.frames, file = config.temporal_windows[stage], config.branches[name]
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.own = _held(file, own.called(file, config.code, {}, dim, window), dim)

    def forward(self, x_BPTnC: Tensor) -> Tensor:
        x = self.norm(x_BPTnC).unflatten(2, (-1, self.frames))  # (B, P, T/t, t, n, C)
        return self.own(x.flatten(0, 2)).unflatten(0, x.shape[:3]).flatten(2, 3)


class WholeModel(nn.Module):
    """Makes a model of the user's class: clips (B, 3, T, H, W) -> logits (B, num_classes).

    Its `__init__` gets those fields of the configuration that it names, and `model_options`.
    """

    def __init__(self, config: PosMLPConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        made = own.thing(config.model, config.code)
        asked = inspect.signature(made).parameters
        known = {field.name: getattr(config, field.name) for field in fields(config)}
        known = {name: known[name] for name in asked if name in known} | config.model_options
        net = own.called(config.model, config.code, known)
        self.net = _held(config.model, net, config.num_classes, whole=True)

    def forward(self, clips: Tensor) -> Tensor:
        check_clips(clips, self.config)
        return self.net(clips)

    def forward_features(self, clips: Tensor) -> list[Tensor]:
        """Raise ValueError, as a model of another kind has no stages."""
        raise ValueError(f"{self.config.model} is a whole model of your own, which has no stages")


def _held(name: str, module: Any, width: int, whole: bool = False) -> nn.Module:
    """The user's module, whose outputs are held to their shape: `width` stands last.

    What stands before is as in the input, of which a `whole` model keeps the first alone.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name} makes a {type(module).__name__}; derive it from torch.nn.Module")
    module.register_forward_hook(partial(_check_shape, name, width, whole))
    return module


def _check_shape(
    name: str,
    width: int,
    whole: bool,
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Any,
) -> None:
    wanted = (*inputs[0].shape[: 1 if whole else -1], width)
    found = getattr(output, "shape", None)
    if found is None or tuple(found[1:]) != wanted[1:] or len(found) != len(wanted):
        said = f"a tensor of shape {tuple(found)}" if found is not None else repr(type(output))
        raise ValueError(
            f"{name} gives {said} for {tuple(inputs[0].shape)}, but must give {wanted}; mend its "
            "forward"
        )


@lru_cache(maxsize=256)
def check(config: PosMLPConfig) -> None:
    """Raise ValueError unless the own code of a configuration runs, with gradients everywhere.

    Each own gate and branch is tried on tokens of its stage, and a whole model on two clips. The
    caller's random numbers do not move.
    """
    if not config.code:
        return
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for name, module, x in _tried(config):
            _check_one(name, module, x)


def _tried(config: PosMLPConfig) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Each different own module, and what it is tried on."""
    if is_own(config.model):
        clips = torch.randn(2, config.in_channels, config.num_frames, *config.size)
        yield config.model, WholeModel(config).net, clips
        return
    seen = set()
    stages = range(config.num_stages)
    for stage, axes in ((i, each) for i in stages for step in config.steps(i) for each in step):
        window, dim = config.window(stage, axes), config.gate_dim(stage)
        if axes not in BRANCHES:
            frames, places = window[0], window[1] * window[2]
            module = OwnBranch(config, stage, axes).own
            yield config.branches[axes], module, torch.randn(2, frames, places, config.dims[stage])
        elif is_own(config.gate) and (key := (dim, window, config.num_groups[stage])) not in seen:
            seen.add(key)
            gate: Any = own_gate(config, *key)
            width = getattr(gate, "in_features", 2 * dim)
            yield str(config.gate), gate, torch.randn(2, prod(window), width)


def _check_one(name: str, module: nn.Module, x: Tensor) -> None:
    try:
        output = module(x.requires_grad_())
    except Exception as error:
        if isinstance(error, ValueError) and name in str(error):  # of the shape
            raise
        place = own.told(error, own.file_of(name))
        raise ValueError(f"{name} fails on {tuple(x.shape)}: {place}") from error
    for key, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name}: state {key!r} is a {type(value).__name__}, no tensor, and cannot be "
                "saved; keep it as a buffer, or make it in __init__"
            )
    learned = {key: p for key, p in module.named_parameters() if p.requires_grad}
    found: Any = [None] * (1 + len(learned))
    if output.requires_grad:
        found = torch.autograd.grad(output.sum(), [x, *learned.values()], allow_unused=True)
    if found[0] is None:
        raise ValueError(
            f"{name}: no gradient comes through its forward; leave out detach, no_grad and numpy"
        )
    for key, gradient in zip(learned, found[1:], strict=True):
        if gradient is None:
            raise ValueError(
                f"{name}: parameter {key!r} gets no gradient, so it would never be trained; use it "
                "in forward, or register it as a buffer"
            )
