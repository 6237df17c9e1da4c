"""Training batches: which clips, in which order, under which augmentation and stochastic depth.

Everything random is a function of (seed, epoch, step), so that a run can go on from any step, and
of a clip's place in the batch, so that several processes draw what one would.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posmlp.config import TrainConfig
from posmlp.data.augment import Augmentation, normalise, uploaded
from posmlp.data.sources import ClipSource
from posmlp.train.distributed import ALONE, Team
from posmlp.train.population import Population

CLIP, MIXING, MODULES = 1, 2, 3  # purposes of random numbers beside frames and crops


class Batch(NamedTuple):
    """One step's batch of every member, or this process's part of it; S members.

    clips: (S, B, 3, T, H, W) float, on the training device.
    targets: labels (S, B), or shares of classes (S, B, K) where clips are mixed.
    scales: stochastic depth (S, steps, B); None: no step drops a clip.
    draws: seeds (S,) int64 for what a user's own modules draw.
    """

    clips: Tensor
    targets: Tensor
    scales: Tensor | None
    draws: Tensor

    @property
    def labels(self) -> Tensor:
        """(S, B), the class with the largest share."""
        return self.targets if self.targets.dim() == 2 else self.targets.argmax(-1)


@dataclass
class TrainingBatches:
    """The batches of a run; `waited` adds up the seconds spent waiting for clips.

    Members of one seed see the same clips, which are read and augmented once.
    """

    source: ClipSource
    train: TrainConfig
    population: Population
    team: Team = ALONE
    waited: float = 0.0

    def __post_init__(self) -> None:
        self.augmentation = Augmentation(self.train, self.source.classes)
        self._seeds = tuple(dict.fromkeys(self.population.seeds))
        places = [self._seeds.index(seed) for seed in self.population.seeds]
        is_plain = len(places) == len(self._seeds)
        self._seed_of = None if is_plain else torch.tensor(places, device=self.population.device)

    @property
    def num_steps(self) -> int:
        """Steps an epoch; a last batch that is not full is left out."""
        return len(self.source) * self.train.repeats // self.train.batch_size

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """The batches of an epoch from `first_step` on."""
        size = self.train.batch_size
        drawn = [self._order(seed, epoch) for seed in self._seeds]
        orders = [order.repeat_interleave(self.train.repeats) for order, _ in drawn]
        after = dict(zip(self._seeds, (state for _, state in drawn), strict=True))
        generators = [after[seed].clone_state() for seed in self.population.seeds]
        part = self.team.part(size)
        indices = [
            [order[step * size : (step + 1) * size][part] for order in orders]
            for step in range(self.num_steps)
        ]
        stream = self._stream(epoch, first_step, indices)
        for step in range(self.num_steps):
            scales = self.population.draw_residual_scales(size, generators)
            if step < first_step:
                continue
            asked = time.perf_counter()
            clips = torch.stack([next(stream) for _ in self._seeds])
            self.waited += time.perf_counter() - asked
            labels = torch.stack([self.source.labels[chosen] for chosen in indices[step]])
            inputs, targets = self._augmented(clips, labels, epoch, step)
            if self._seed_of is not None:
                inputs, targets = inputs[self._seed_of], targets[self._seed_of]
            if scales is not None:
                scales = uploaded(scales[:, :, part], self.population.device)
            draws = [
                mixed(seed, epoch, step, MODULES, self.team.rank) for seed in self.population.seeds
            ]
            yield Batch(inputs, targets, scales, torch.tensor(draws))

    def _order(self, seed: int, epoch: int) -> tuple[Tensor, torch.Generator]:
        """A seed's order of clips in an epoch, and the generator after drawing it."""
        generator = torch.Generator().manual_seed(mixed(seed, epoch))
        if self.train.balanced:
            size = self.train.batch_size // self.train.repeats
            order = balanced_order(self.source.labels, self.num_steps, size, generator)
            return order, generator
        return torch.randperm(len(self.source), generator=generator), generator

    def _stream(
        self, epoch: int, first_step: int, indices: Sequence[Sequence[Tensor]]
    ) -> Iterator[Tensor]:
        """uint8 clips of every step and seed, each seed with its own frames and crops."""
        rngs = [
            np.random.default_rng([seed, epoch, step])
            for step in range(first_step, self.num_steps)
            for seed in self._seeds
        ]
        skipped = self.team.part(self.train.batch_size).start
        for rng in rngs:  # a source draws one number a clip; these are other processes' clips
            rng.integers(2**63, size=skipped)
        remaining = [chosen for step in indices[first_step:] for chosen in step]
        return self.source.batches(remaining, rngs=rngs)

    def _augmented(
        self, clips: Tensor, labels: Tensor, epoch: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """Model input and targets of uint8 clips (S, b, T, H, W, 3) and labels (S, b)."""
        device = self.population.device
        clips, labels = uploaded(clips, device), uploaded(labels, device)
        if self.augmentation.is_plain:
            return normalise(clips), labels
        part = self.team.part(self.train.batch_size)
        made = []
        for i, seed in enumerate(self._seeds):
            key = [seed, epoch, step]
            rngs = [np.random.default_rng([*key, CLIP, k]) for k in range(part.start, part.stop)]
            mixing = np.random.default_rng([*key, MIXING])
            made.append(self.augmentation(clips[i], labels[i], rngs, mixing))
        inputs, targets = zip(*made, strict=True)
        return torch.stack(inputs), torch.stack(targets)


def mixed(*keys: int) -> int:
    """One generator seed for (seed, epoch, ...), so that neighbouring keys share nothing."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


def balanced_order(
    labels: Tensor, num_batches: int, size: int, generator: torch.Generator
) -> Tensor:
    """Clips, as places in `labels`, of `num_batches` batches of `size`, one batch after the other.

    In a batch the numbers of clips of two classes differ by at most one; so they do in all batches
    together. A class deals its clips in a random order and again, in a new one, when it has run
    out: none comes twice before all of its class came once. A large class thus leaves out clips,
    others at each call, and a small one repeats some: an epoch stays as long as it is without
    balance, as in resampling by class. Classes without clips take no part.
    """
    decks = [(labels == each).nonzero().flatten() for each in labels.unique()]
    classes = _classes_by_place(len(decks), num_batches, size, generator)
    order = torch.empty_like(classes)
    for which, deck in enumerate(decks):
        places = (classes == which).nonzero().flatten()
        rounds = 1 + len(places) // len(deck)
        dealt = [deck[torch.randperm(len(deck), generator=generator)] for _ in range(rounds)]
        order[places] = torch.cat(dealt)[: len(places)]
    return order


def _classes_by_place(
    num_classes: int, num_batches: int, size: int, generator: torch.Generator
) -> Tensor:
    """The class at every place of every batch, (num_batches * size,).

    Places that do not divide among the classes go to them in turn. Each round of turns is shuffled,
    with those classes last that the batch at its start has had.
    """
    whole, extra = divmod(size, num_classes)
    batches, turns = [torch.empty(0, dtype=torch.int64)], list[int]()
    for _ in range(num_batches):
        if len(turns) < extra:
            fresh = torch.randperm(num_classes, generator=generator).tolist()
            turns += sorted(fresh, key=set(turns).__contains__)
        batch = torch.tensor([*range(num_classes)] * whole + turns[:extra], dtype=torch.int64)
        batches.append(batch[torch.randperm(size, generator=generator)])
        turns = turns[extra:]
    return torch.cat(batches)
