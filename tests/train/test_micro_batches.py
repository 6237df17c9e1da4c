"""A batch computed in parts: the same gradient where no batch norm looks across clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posmlp import PosMLPConfig
from posmlp.config import TrainConfig
from posmlp.data.sources import open_clips
from posmlp.train.fitting import fit
from posmlp.train.population import Population

CONFIG = PosMLPConfig(
    depths=(1,),
    dims=(8,),
    num_groups=2,
    windows=4,
    image_size=16,
    num_frames=4,
    stem_norm="layer",
    drop_path=0.2,
)
NUM_SEEDS, NUM_CLIPS = 2, 6


def step(config: PosMLPConfig, micro_batches: int, *, vectorised: bool = False) -> tuple:
    population = Population(config, range(NUM_SEEDS), vectorised=vectorised)
    draws = torch.Generator().manual_seed(0)
    clips = torch.randn(NUM_SEEDS, NUM_CLIPS, 3, 4, 16, 16, generator=draws)
    labels = torch.randint(config.num_classes, (NUM_SEEDS, NUM_CLIPS), generator=draws)
    scales = population.draw_residual_scales(NUM_CLIPS, [draws] * NUM_SEEDS)
    found = population.gradients(
        clips, labels, scales, label_smoothing=0.1, micro_batches=micro_batches
    )
    return found, population.statistics


@pytest.mark.parametrize(
    ("micro_batches", "vectorised"), [(2, False), (4, False), (5, True), (6, False)]
)
def test_gradients_of_parts_sum_to_the_whole(micro_batches: int, vectorised: bool) -> None:
    (whole, losses, logits), _ = step(CONFIG, 1, vectorised=vectorised)
    (summed, lost, scores), _ = step(CONFIG, micro_batches, vectorised=vectorised)
    torch.testing.assert_close(lost, losses, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(scores, logits, atol=1e-5, rtol=1e-5)
    for name, gradient in whole.items():
        scale = float(gradient.abs().max()) + 1e-8
        assert float((summed[name] - gradient).abs().max()) < 1e-5 * scale + 1e-8, name


def test_batch_norm_sees_each_part_by_itself() -> None:
    config = PosMLPConfig(**{**CONFIG.to_dict(), "stem_norm": "batch"})
    (whole, *_), once = step(config, 1)
    (parts, *_), thrice = step(config, 3)
    assert any(not torch.allclose(parts[k], whole[k], rtol=1e-3) for k in whole)
    counts = [k for k in once if k.endswith("num_batches_tracked")]
    assert counts
    for name in counts:
        assert (once[name] == 1).all()
        assert (thrice[name] == 3).all()


def test_fit_in_parts_gives_the_numbers_of_whole_batches(tmp_path: Path) -> None:
    train = TrainConfig(epochs=2, batch_size=6, num_clips=24)
    sources = tuple(
        open_clips("moving-digits:easy", s, CONFIG, train=train) for s in ("train",) * 2
    )
    whole = fit(CONFIG, train, sources, progress=False)
    parts = fit(CONFIG, train, sources, out=tmp_path / "run", progress=False, micro_batches=4)
    for one, other in zip(whole, parts, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4, nan_ok=True)
    # A way of computing, no part of the configuration: the folder holds the same, finished run.
    again = fit(CONFIG, train, sources, out=tmp_path / "run", progress=False)
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in parts]


@pytest.mark.parametrize("micro_batches", [0, 7])
def test_more_parts_than_clips_are_refused(micro_batches: int) -> None:
    with pytest.raises(ValueError, match="must be from 1 to batch_size=6"):
        fit(CONFIG, TrainConfig(batch_size=6, num_clips=12), micro_batches=micro_batches)
