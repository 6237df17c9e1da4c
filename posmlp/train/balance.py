"""Orders of clips in which every batch holds its classes in equal numbers.

No state: an order is a function of labels, size and generator alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
