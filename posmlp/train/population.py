"""A population: models that are computed alike, advanced together.

Members are one model at several seeds, or variants of it that differ in values alone (`variants`).

Shapes: S members, B clips, K classes. Parameters and batch-norm statistics are stacked along a
leading member axis; everything a member sees (initialisation, clips, stochastic depth) is its own,
so that its numbers are those of training it alone.

On a GPU one vmapped call advances all members. On a CPU, where that costs what it saves, each core
advances a member of its own.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from queue import SimpleQueue
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from posmlp.checkpoint import start_from
from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of
from posmlp.model import OwnModel, PosMLPVideo, Step, create_model
from posmlp.parts.drop_path import keep_rates
from posmlp.train.execution import Prepare, Recorded

Tensors = dict[str, Tensor]
RECORDS = True
"""Whether populations on a GPU are recorded by default."""
_ONE_DRAWS = threading.Lock()


def seeded_model(config: PosMLPConfig, seed: int, init_from: str = "") -> PosMLPVideo:
    """A new model whose initial parameters are a function of (config, seed) alone.

    `init_from`: a model file whose weights take the place of those that it has (`start_from`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would move a GPU's, too
        return start_from(init_from, config) if init_from else create_model(config)


def frozen_parts(model: PosMLPVideo, freeze: str) -> list[str]:
    """Modules of the parts that `freeze` names, as in `stem,stage1`.

    A stage is frozen with the downsampling before it. The parts of a whole model of the user's own
    are its submodules. Raises ValueError for another part, and where all are named.
    """
    if not freeze:
        return []
    if isinstance(model, OwnModel):
        parts = {name: [f"net.{name}"] for name, _ in model.net.named_children()}
    else:
        parts = {"stem": ["stem"]}
        for i in range(len(model.stages)):
            parts[f"stage{i + 1}"] = [f"stages.{i}", *([f"downsamples.{i - 1}"] if i else [])]
        parts |= {"norm": ["norm"], "head": ["head"]}
    named = [name.strip() for name in freeze.split(",")]
    for name in named:
        one_of(name, parts, "part in freeze")
    if set(named) == set(parts):
        raise ValueError(f"freeze={freeze!r} leaves nothing to train; leave a part out")
    return [module for name in named for module in parts[name]]


class _Holder(nn.Module):
    """A model in which `torch.func.functional_call` can hold a seed's tensors for a while."""

    def __init__(self, model: PosMLPVideo) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


def _differentiate(loss_of: Callable[..., Any]) -> Callable[..., Any]:
    """What `torch.func.grad_and_value` does for one seed, without its second-order bookkeeping.

    The seed's tensors stay in the model for the backward pass, as checkpointed activations are
    computed again then.
    """

    def differentiated(
        model: PosMLPVideo, parameters: Tensors, statistics: Tensors, *batch: Any
    ) -> Any:
        leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}

        def compute() -> Any:
            loss, (logits, _) = loss_of(model, {}, {}, *batch)  # it has its tensors already
            gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
            auxiliary = (logits.detach(), statistics)
            return dict(zip(leaves, gradients, strict=True)), (loss.detach(), auxiliary)

        lent = {f"model.{name}": tensor for name, tensor in (leaves | statistics).items()}
        return functional_call(_Holder(model), lent, (compute,), tie_weights=False)

    return differentiated


def _make_norms_vmappable(model: nn.Module) -> None:
    """Let norms compute as vmap can: in their parameters' dtype, on contiguous memory.

    Autocast gives another dtype, and on a GPU does the same for layer norm; convolutions give
    channels-last memory, about which a GPU's batch norm asks.
    """

    def as_vmap_can(norm: Any, inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0].to(norm.weight.dtype).contiguous()

    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d) and module.weight is not None:
            module.register_forward_pre_hook(as_vmap_can)


def _refuse_ties(model: nn.Module) -> None:
    """Raise ValueError if a parameter has two names: each name is stacked and lent by itself."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = names.setdefault(id(parameter), name)
        if other != name:
            raise ValueError(
                f"{other} and {name} are one parameter, which cannot be trained; register it once,"
                " and use it in both places"
            )


def _may_draw(model: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers: a user's module might, our own do not."""
    draw = (nn.modules.dropout._DropoutNd, nn.RReLU)
    return _has_users_code(model) or any(isinstance(module, draw) for module in model.modules())


def _has_users_code(model: nn.Module) -> bool:
    """Whether it has modules that are neither ours nor PyTorch's."""
    rooms = {type(module).__module__.split(".")[0] for module in model.modules()}
    return not rooms <= {"posmlp", "torch"}


@contextmanager
def _draws_from(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block random numbers come from a seed; the caller's generators do not move.

    One thread at a time, as all threads have one generator.
    """
    with _ONE_DRAWS, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _stacked(*parts: Tensor) -> Tensor:
    """The parts one after the other along a new first axis; of a single one no copy is made."""
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]


class _Crew:
    """Threads that each compute with a copy of a model of their own, on one core.

    A model holds one seed's tensors at a time, hence the copies.
    """

    def __init__(self, model: PosMLPVideo, num_threads: int) -> None:
        self.models = [model, *(copy.deepcopy(model) for _ in range(num_threads - 1))]
        self._idle: SimpleQueue[PosMLPVideo] = SimpleQueue()
        for each in self.models:
            self._idle.put(each)
        self._threads = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        if self._threads is not None:
            before, all_here = torch.get_num_threads(), Barrier(num_threads)
            list(self._threads.map(partial(_take_one_core, all_here), range(num_threads)))
            torch.set_num_threads(before)

    def each(self, function: Callable[[PosMLPVideo, int], Any], count: int) -> list[Any]:
        """`function` of a model and each number below `count`."""
        grads = torch.is_grad_enabled()  # a thread has its own

        def with_a_model(i: int) -> Any:
            model = self._idle.get()
            try:
                with torch.set_grad_enabled(grads):
                    return function(model, i)
            finally:
                self._idle.put(model)

        run_all = map if self._threads is None else self._threads.map
        return list(run_all(with_a_model, range(count)))


def _take_one_core(all_here: Barrier, _: int) -> None:
    torch.get_num_threads()  # else the first operation takes the number that all threads share
    torch.set_num_threads(1)
    all_here.wait()


class Population:
    """A model for each of `seeds`, as stacked tensors on one device.

    `config`: of all, or one each, differing only in `variants.MODEL_VALUES`; a seed may then come
    more than once. `vectorised`: advance all members in one vmapped call, or each by itself; both
    give the same numbers up to rounding. By default vectorised on a GPU. Members
    by themselves go as many at once as PyTorch has threads on a CPU, each on one thread, with the
    bits that it has alone on one; on a GPU one after the other, and also where `prepare` changes
    how the model is computed (`execution.preparation`). `recorded`: the gradients of a vectorised
    population are one CUDA graph; by default on a GPU, but where a user's module has code that is
    to run at every step. `class_weights` (K,) multiply the loss of each clip by that of its class.
    `multi_label`: targets (S, B, K) tell of each class whether it is there.
    """

    def __init__(
        self,
        config: PosMLPConfig | Sequence[PosMLPConfig],
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        vectorised: bool | None = None,
        *,
        init_from: str = "",
        freeze: str = "",
        class_weights: Tensor | None = None,
        multi_label: bool = False,
        prepare: Prepare | None = None,
        recorded: bool | None = None,
    ) -> None:
        each = [config] * len(seeds) if isinstance(config, PosMLPConfig) else list(config)
        models = [seeded_model(c, s, init_from) for c, s in zip(each, seeds, strict=True)]
        states = [model.state_dict() for model in models]
        self._class_weights = None if class_weights is None else class_weights.to(device)
        self._multi_label = multi_label
        self._frozen = frozen_parts(models[0], freeze)
        held = tuple(f"{module}." for module in self._frozen)
        trained = {
            name
            for name, each in models[0].named_parameters()
            if each.requires_grad and not name.startswith(held)
        }
        if not trained:
            raise ValueError(f"{each[0].model} has no parameter to train; give its layers some")
        self.seeds, self.configs = tuple(seeds), each
        self.device = torch.device(device)
        self._may_draw = _may_draw(models[0])
        if vectorised is None:
            vectorised = self.device.type == "cuda" and prepare is None
        self.vectorised = vectorised
        if recorded is None:
            recorded = RECORDS and self.device.type == "cuda" and not _has_users_code(models[0])
        self._recorded: dict[Any, Recorded] | None = {} if recorded and vectorised else None
        self.model = models[0].to(device)  # gives the computation; its own tensors are not used
        self._keep_rates = torch.stack([keep_rates(c) for c in each])
        modules = self.model.named_modules()
        self._steps = [name for name, module in modules if isinstance(module, Step)]
        self._prepared = prepare is not None
        if prepare is not None:
            prepare(self.model)
        if vectorised:
            _make_norms_vmappable(self.model)
        _refuse_ties(self.model)
        one_by_one = vectorised or prepare is not None or self.device.type != "cpu"
        self._crew = _Crew(
            self.model, 1 if one_by_one else min(len(self.seeds), torch.get_num_threads())
        )
        stacked = {name: torch.stack([s[name] for s in states]).to(device) for name in states[0]}
        self.parameters = {k: v.requires_grad_() for k, v in stacked.items() if k in trained}
        self.statistics = {k: v for k, v in stacked.items() if k not in trained}

    def gradients(
        self,
        clips: Tensor,
        labels: Tensor,
        residual_scales: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        autocast: bool = False,
        micro_batches: int = 1,
        draws: Tensor | None = None,
    ) -> tuple[Tensors, Tensor, Tensor]:
        """Gradients by name, losses (S,) and logits (S, B, K) of one training batch a seed.

        `clips` (S, B, 3, T, H, W), `labels` (S, B) or shares of classes (S, B, K),
        `residual_scales` (S, steps, B), None for ones. `draws` (S,)
        int64 seeds the random numbers of a user's own modules, such as dropout. Batch-norm
        statistics move on. `autocast` computes in bfloat16 where that is safe. `micro_batches`
        computes the batch in that many parts, in the memory of one of them, and sums gradients:
        the same mathematics but for batch norm, which normalises each part by itself.
        Parts that are frozen are computed as in evaluation.
        """
        total: Tensors = {}
        losses, logits = [], []
        draws = torch.zeros(len(self.seeds), dtype=torch.int64) if draws is None else draws
        split = [clips.tensor_split(micro_batches, 1), labels.tensor_split(micro_batches, 1)]
        if residual_scales is not None:
            split.append(residual_scales.tensor_split(micro_batches, 2))
        for i, batch in enumerate(zip(*split, strict=True)):
            found = self._gradients(batch, draws + i, label_smoothing, autocast)
            if micro_batches == 1:
                return found
            gradients, loss, scores = found
            share = batch[1].shape[1] / labels.shape[1]
            total = {k: g * share + total[k] if total else g * share for k, g in gradients.items()}
            losses.append(loss * share)
            logits.append(scores)
        return total, torch.stack(losses).sum(0), torch.cat(logits, dim=1)

    def _gradients(
        self, batch: Sequence[Tensor], draws: Tensor, *how: Any
    ) -> tuple[Tensors, Tensor, Tensor]:
        """`_gradients_of` as it is, or by the CUDA graph that the first batch of a shape makes.

        What a graph returns holds until the next call. It changes statistics in place.
        """
        if self._recorded is None:
            return self._gradients_of(batch, draws, *how)

        def in_place(*batch: Tensor) -> Any:
            own = self.statistics
            found = self._gradients_of(batch, draws, *how)
            for name, tensor in own.items():
                tensor.copy_(self.statistics[name])
            self.statistics = own
            return found

        key = (*((each.shape, each.dtype) for each in batch), *how)
        if key not in self._recorded:
            before = {name: tensor.clone() for name, tensor in self.statistics.items()}
            self._recorded[key] = Recorded(in_place, batch)
            for name, tensor in before.items():  # recording ran the batch three times
                self.statistics[name].copy_(tensor)
        found: tuple[Tensors, Tensor, Tensor] = self._recorded[key](*batch)
        return found

    def _gradients_of(
        self, batch: Sequence[Tensor], draws: Tensor, label_smoothing: float, autocast: bool
    ) -> tuple[Tensors, Tensor, Tensor]:
        """Of clips, labels and, where there are some, residual scales."""
        clips, labels, *scales = batch
        how: dict[str, Any] = {"label_smoothing": label_smoothing}
        if self._class_weights is not None:  # a mean over clips, not over weights: parts add up
            how |= {"weight": self._class_weights, "reduction": "none"}

        def loss_of(
            model: PosMLPVideo,
            parameters: Tensors,
            statistics: Tensors,
            x: Tensor,
            y: Tensor,
            draw: Tensor,
        ) -> tuple[Tensor, tuple[Tensor, Tensors]]:
            model.train()
            for name in self._frozen:
                model.get_submodule(name).eval()
            with self._autocasting(autocast), self._drawing(draw):
                logits = functional_call(model, parameters | statistics, (x,), tie_weights=False)
            if self._multi_label:
                y = y + label_smoothing * (0.5 - y)
                loss = F.binary_cross_entropy_with_logits(logits.float(), y)
            else:
                loss = F.cross_entropy(logits.float(), y, **how).mean()
            return loss, (logits, statistics)

        if self.vectorised:
            step = self._over_seeds(grad_and_value(loss_of, argnums=1, has_aux=True))
        else:
            step = self._over_seeds(_differentiate(loss_of))
        parameters = {name: tensor.detach() for name, tensor in self.parameters.items()}
        buffers = {name: tensor.clone() for name, tensor in self.statistics.items()}
        for each in scales:
            by_step = zip(self._steps, each.unbind(1), strict=True)
            buffers |= {f"{name}.scale": scale for name, scale in by_step}
        gradients, (losses, (logits, buffers)) = step(parameters, buffers, clips, labels, draws)
        self.statistics = {name: buffers[name] for name in self.statistics}
        return gradients, losses, logits

    @property
    def eager_models(self) -> list[PosMLPVideo]:
        """Models that compute as they are written, on a CPU; none under `prepare` or vmap."""
        plain = self.device.type == "cpu" and not (self.vectorised or self._prepared)
        return self._crew.models if plain else []

    @torch.no_grad()
    def logits(self, clips: Tensor, *, autocast: bool = False) -> Tensor:
        """Evaluation logits (S, B, K) of the same clips (B, 3, T, H, W) for every seed.

        `autocast` as in `gradients`.
        """

        def logits_of(
            model: PosMLPVideo, parameters: Tensors, statistics: Tensors, draw: Tensor
        ) -> Tensor:
            lent = (parameters, statistics)
            with self._autocasting(autocast), self._drawing(draw):
                return functional_call(model.eval(), lent, (clips,), tie_weights=False)

        draws = torch.zeros(len(self.seeds), dtype=torch.int64)
        return self._over_seeds(logits_of)(self.parameters, self.statistics, draws)

    def _autocasting(self, enabled: bool) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _drawing(self, draw: Tensor) -> AbstractContextManager[None]:
        """Within this a user's modules draw from a seed; ours draw nothing."""
        if not self._may_draw or self.vectorised:
            return nullcontext()
        return _draws_from(int(draw), self.device)

    def _over_seeds(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of a model and one seed's tensors as a function of stacked tensors."""

        def by_themselves(*stacked: Any) -> Any:
            def of_seed(model: PosMLPVideo, i: int) -> Any:
                return function(model, *(tree_map(lambda t: t[i], each) for each in stacked))

            results = self._crew.each(of_seed, len(self.seeds))
            return tree_map(_stacked, *results)

        def at_once(*stacked: Any) -> Any:
            try:
                return vmap(partial(function, self.model))(*stacked)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or not self._may_draw:
                    raise
                why = str(error).partition("\n")[0]
            self.vectorised = False  # a user's module does what vmap does not, such as drawing
            print(f"members are trained one after another, as vmap says: {why}", file=sys.stderr)
            return by_themselves(*stacked)

        return at_once if self.vectorised else by_themselves

    def state(self) -> Tensors:
        """Every stacked tensor by name."""
        return {**{k: v.detach() for k, v in self.parameters.items()}, **self.statistics}

    @torch.no_grad()
    def load_state(self, state: Tensors) -> None:
        """Put back what `state` gave."""
        for name, tensor in (self.parameters | self.statistics).items():
            tensor.copy_(state[name])

    def draw_residual_scales(
        self, num_clips: int, generators: Sequence[torch.Generator]
    ) -> Tensor | None:
        """Stochastic depth (S, steps, num_clips) of 0 or 1 / keep rate, drawn on the CPU.

        None where no member drops anything.
        """
        if bool((self._keep_rates == 1).all()):
            return None
        keep = self._keep_rates[:, :, None]
        shape = keep.shape[1], num_clips
        draws = torch.stack([torch.rand(shape, generator=each) for each in generators])
        return (draws < keep) / keep

    def member(self, i: int) -> PosMLPVideo:
        """The model of member `i` (from 0), in eval mode on the CPU."""
        model = seeded_model(self.configs[i], 0)  # leaves the caller's random numbers alone
        model.load_state_dict({name: tensor[i].cpu() for name, tensor in self.state().items()})
        return model.eval()
