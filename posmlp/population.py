"""A population: the same model at several seeds, advanced in one vectorised step.

Shapes: S seeds, B clips, K classes. Parameters and batch-norm statistics are stacked along a
leading seed axis; everything a seed sees (initialisation, clips, stochastic depth) is its own, so
that its numbers are those of training it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from posmlp.config import PosMLPConfig
from posmlp.model import PosMLPVideo, create_model

Tensors = dict[str, Tensor]


def seeded_model(config: PosMLPConfig, seed: int) -> PosMLPVideo:
    """A new model whose initial parameters are a function of (config, seed) alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_model(config)


def _autograd(function: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
    """What `torch.func.grad_and_value` does for one seed, without its second-order bookkeeping."""
    assert has_aux

    def differentiated(parameters: Tensors, *arguments: Any) -> Any:
        leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
        loss, (logits, statistics) = function(leaves, *arguments)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        auxiliary = (logits.detach(), statistics)
        return dict(zip(leaves, gradients, strict=True)), (loss.detach(), auxiliary)

    return differentiated


class Population:
    """Models of one config at several seeds, as stacked tensors on one device.

    `vectorised`: advance all seeds in one vmapped call, or one seed after the other; both give the
    same numbers up to rounding. By default vectorised on a GPU, where small models leave most of
    the device idle (not measured yet), and in turn on a CPU, where vmap's grouped convolutions and
    decomposed batch norm were seen to cost more than they save.
    """

    def __init__(
        self,
        config: PosMLPConfig,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        vectorised: bool | None = None,
    ) -> None:
        models = [seeded_model(config, seed) for seed in seeds]
        states = [model.state_dict() for model in models]
        trained = {name for name, _ in models[0].named_parameters()}
        self.seeds = tuple(seeds)
        self.device = torch.device(device)
        self.vectorised = self.device.type == "cuda" if vectorised is None else vectorised
        self.model = models[0].to(device)  # gives the computation; its own tensors are not used
        stacked = {name: torch.stack([s[name] for s in states]).to(device) for name in states[0]}
        self.parameters = {k: v.requires_grad_() for k, v in stacked.items() if k in trained}
        self.statistics = {k: v for k, v in stacked.items() if k not in trained}

    def gradients(
        self,
        clips: Tensor,
        labels: Tensor,
        residual_scales: Tensor,
        *,
        label_smoothing: float = 0.0,
        autocast: bool = False,
    ) -> tuple[Tensors, Tensor, Tensor]:
        """Gradients by name, losses (S,) and logits (S, B, K) of one training batch a seed.

        `clips` (S, B, 3, T, H, W), `labels` (S, B), `residual_scales` (S, steps, B). Batch-norm
        statistics move on. `autocast` computes in bfloat16 where that is safe.
        """
        self.model.train()

        def loss_of(
            parameters: Tensors, statistics: Tensors, x: Tensor, y: Tensor, scales: Tensor
        ) -> tuple[Tensor, tuple[Tensor, Tensors]]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                logits = functional_call(self.model, (parameters, statistics), (x, scales))
            loss = F.cross_entropy(logits.float(), y, label_smoothing=label_smoothing)
            return loss, (logits, statistics)

        differentiate = grad_and_value if self.vectorised else _autograd
        step = self._over_seeds(differentiate(loss_of, has_aux=True))
        parameters = {name: tensor.detach() for name, tensor in self.parameters.items()}
        statistics = {name: tensor.clone() for name, tensor in self.statistics.items()}
        gradients, (losses, (logits, self.statistics)) = step(
            parameters, statistics, clips, labels, residual_scales
        )
        return gradients, losses, logits

    @torch.no_grad()
    def logits(self, clips: Tensor) -> Tensor:
        """Evaluation logits (S, B, K) of the same clips (B, 3, T, H, W) for every seed."""
        self.model.eval()

        def logits_of(parameters: Tensors, statistics: Tensors) -> Tensor:
            return functional_call(self.model, (parameters, statistics), (clips,))

        return self._over_seeds(logits_of)(self.parameters, self.statistics)

    def _over_seeds(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of one seed's tensors as a function of stacked ones."""
        if self.vectorised:
            return vmap(function)

        def in_turn(*stacked: Any) -> Any:
            results = [
                function(*(tree_map(lambda t, i=i: t[i], argument) for argument in stacked))
                for i in range(len(self.seeds))
            ]
            return tree_map(lambda *parts: torch.stack(parts), *results)

        return in_turn

    def state(self) -> Tensors:
        """Every stacked tensor by name."""
        return {**{k: v.detach() for k, v in self.parameters.items()}, **self.statistics}

    @torch.no_grad()
    def load_state(self, state: Tensors) -> None:
        """Put back what `state` gave."""
        for name, tensor in self.parameters.items():
            tensor.copy_(state[name])
        self.statistics = {name: state[name].to(self.device) for name in self.statistics}

    def member(self, seed: int) -> PosMLPVideo:
        """The model of one seed, in eval mode on the CPU."""
        i = self.seeds.index(seed)
        model = create_model(self.model.config)
        model.load_state_dict({name: tensor[i].cpu() for name, tensor in self.state().items()})
        return model.eval()
