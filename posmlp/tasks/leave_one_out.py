"""Leave-one-subject-out: each subject is tested by a model that was trained on all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from posmlp.checkpoint import load
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.tasks.micro_expressions import MicroExpressions, unweighted_scores
from posmlp.train.fitting import fit
from posmlp.train.scoring import predict


def leave_one_subject_out(
    config: PosMLPConfig,
    train: TrainConfig,
    data: MicroExpressions,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    progress: bool = True,
    **execution: Any,
) -> list[dict[str, float]]:
    """UF1 and UAR of each seed, over the clips of all subjects, each tested by the others' model.

    `out` gets a run folder for each subject; one that is there is not trained again. `execution`
    goes to `fit` (device, micro_batches, ...).
    """
    guesses: dict[int, list[torch.Tensor]] = {seed: [] for seed in seeds}
    labels = []
    for subject, others, own in data.folds():
        run = Path(out) / f"without-{subject}"
        fit(config, train, (others, own), seeds, run, progress=progress, **execution)
        labels.append(own.labels)
        for seed in seeds:
            model = load(run / f"model-seed{seed}.safetensors")
            guesses[seed].append(predict(model, own).argmax(-1))
    true, num_classes = torch.cat(labels), len(data.classes)
    return [
        {"seed": seed, **unweighted_scores(torch.cat(guesses[seed]), true, num_classes)}
        for seed in seeds
    ]
