"""Training batches: own augmentation a seed, parts of a batch, going on from a step, averages.

Balanced ones, too: laws over class counts and sizes, and what training makes of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posmlp import PosMLPConfig
from posmlp.cli import main
from posmlp.config import TrainConfig
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.files.video import VideoError
from posmlp.data.sources import GeneratedClips, open_clips
from posmlp.train import loop
from posmlp.train.batches import TrainingBatches, balanced_order
from posmlp.train.distributed import Team
from posmlp.train.fitting import fit
from posmlp.train.optimisation import WeightAverage, lent
from posmlp.train.population import Population
from tests.train.test_population import TINY

CONFIG = replace(TINY, image_size=16, windows=(4, 2), num_classes=14)
TRAIN = TrainConfig(epochs=2, batch_size=8, lr=1e-2, erase=0.5)


@pytest.fixture(scope="module")
def clips() -> GeneratedClips:
    digits = MovingDigits("train", 32, difficulty="easy", num_frames=4, image_size=16)
    return GeneratedClips(digits)


def batches_of(source, train: TrainConfig, seeds: tuple[int, ...] = (0,), **where) -> list:
    team, first = where.get("team", Team()), where.get("first_step", 0)
    made = TrainingBatches(source, train, Population(CONFIG, seeds), team)
    return list(made.epoch(1, first))


def test_each_seed_has_its_own_augmentation_and_what_it_would_have_alone(clips):
    train = replace(TRAIN, erase=1.0, mixup=0.8)
    both = batches_of(clips, train, (3, 5))
    alone = batches_of(clips, train, (5,))
    for pair, own in zip(both, alone, strict=True):
        assert torch.equal(pair.clips[1], own.clips[0])
        assert torch.equal(pair.targets[1], own.targets[0])
        assert torch.equal(pair.scales[1], own.scales[0])
    assert both[0].targets.shape == (2, 8, 14)


def test_an_epoch_goes_on_from_any_step_as_it_would_have(clips):
    whole = batches_of(clips, TRAIN)
    assert len(whole) == 4
    rest = batches_of(clips, TRAIN, first_step=2)
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_processes_share_a_batch_of_real_files_with_random_crops(tmp_path, write_clip):
    """Frames, crops, erasing, flips and stochastic depth are those of one process."""
    for split in ("train", "test"):
        for name in "ab":
            for i in range(4):
                path = tmp_path / split / name / f"{i}.mp4"
                write_clip(path, range(10 * i, 200, 9), height=24, width=32)
    train = replace(TRAIN, min_crop_area=0.3, flip="mirror", batch_size=4)
    config = replace(CONFIG, num_classes=2)
    source = open_clips(str(tmp_path), "train", config, train=train, num_workers=0)
    whole = batches_of(source, train)
    parts = [batches_of(source, train, team=Team(rank, 2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        for i, along in enumerate((1, 1, 2)):
            joined = torch.cat([part[step][i] for part in parts], along)
            assert torch.equal(batch[i], joined)


def test_repeated_clips_come_side_by_side_with_other_augmentation(clips):
    first, *_ = batches = batches_of(clips, replace(TRAIN, repeats=2, erase=1.0))
    assert len(batches) == 8
    assert torch.equal(first.targets[0, ::2], first.targets[0, 1::2])
    assert not torch.equal(first.clips[0, ::2], first.clips[0, 1::2])


def test_labels_are_the_largest_shares(clips):
    batch = batches_of(clips, replace(TRAIN, cutmix=1.0))[0]
    assert torch.equal(batch.labels, batch.targets.argmax(-1))


@pytest.mark.parametrize("change", [{"mixup": 0.8, "cutmix": 1.0}, {"flip": "labels"}])
def test_fit_trains_under_augmentation_and_repeats(clips, change):
    train = replace(TRAIN, **change)
    rows = fit(CONFIG, train, (clips, clips), [0], progress=False)
    again = fit(CONFIG, train, (clips, clips), [0], progress=False)
    assert rows[-1]["train_loss"] == again[-1]["train_loss"]
    assert np.isfinite(rows[-1]["train_loss"])
    plain = fit(CONFIG, TRAIN, (clips, clips), [0], progress=False)
    assert rows[-1]["train_loss"] != plain[-1]["train_loss"]


def test_weight_average_follows_its_rule():
    population = Population(CONFIG, [0])
    average = WeightAverage(population, 0.5)
    name = "head.weight"
    first = population.state()[name].clone()
    with torch.no_grad():
        population.parameters[name].add_(1.0)
    average.update(1)  # (1 + 1) / (10 + 1) is less than 0.5
    torch.testing.assert_close(average.tensors[name], first + 9 / 11)
    average.update(1000)
    torch.testing.assert_close(average.tensors[name], first + 1 - (1 - 9 / 11) / 2)
    with lent(population, average):
        torch.testing.assert_close(population.state()[name], average.tensors[name])
    torch.testing.assert_close(population.state()[name], first + 1)


def test_averaged_weights_are_scored_saved_and_resumed(clips, tmp_path, monkeypatch):
    train = replace(TRAIN, ema_decay=0.9, epochs=3)
    plain = fit(CONFIG, replace(train, ema_decay=0.0), (clips, clips), [0], progress=False)
    whole = fit(CONFIG, train, (clips, clips), [0], tmp_path / "whole", progress=False)
    assert [row["train_loss"] for row in whole] == [row["train_loss"] for row in plain]
    assert whole[-1]["test_loss"] != plain[-1]["test_loss"]

    store = loop.Training._store

    def killed(self, folder, epoch):
        store(self, folder, epoch)
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "_store", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, train, (clips, clips), [0], tmp_path / "cut", progress=False)
    monkeypatch.undo()
    resumed = fit(CONFIG, train, (clips, clips), [0], tmp_path / "cut", progress=False)
    assert resumed[-1]["test_loss"] == whole[-1]["test_loss"]


# A batch computed in parts


IN_PARTS = PosMLPConfig(
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
    (whole, losses, logits), _ = step(IN_PARTS, 1, vectorised=vectorised)
    (summed, lost, scores), _ = step(IN_PARTS, micro_batches, vectorised=vectorised)
    torch.testing.assert_close(lost, losses, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(scores, logits, atol=1e-5, rtol=1e-5)
    for name, gradient in whole.items():
        scale = float(gradient.abs().max()) + 1e-8
        assert float((summed[name] - gradient).abs().max()) < 1e-5 * scale + 1e-8, name


def test_batch_norm_sees_each_part_by_itself() -> None:
    config = PosMLPConfig(**{**IN_PARTS.to_dict(), "stem_norm": "batch"})
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
        open_clips("moving-digits:easy", s, IN_PARTS, train=train) for s in ("train",) * 2
    )
    whole = fit(IN_PARTS, train, sources, progress=False)
    parts = fit(IN_PARTS, train, sources, out=tmp_path / "run", progress=False, micro_batches=4)
    for one, other in zip(whole, parts, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4, nan_ok=True)
    # A way of computing, no part of the configuration: the folder holds the same, finished run.
    again = fit(IN_PARTS, train, sources, out=tmp_path / "run", progress=False)
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in parts]


@pytest.mark.parametrize("micro_batches", [0, 7])
def test_more_parts_than_clips_are_refused(micro_batches: int) -> None:
    with pytest.raises(ValueError, match="must be from 1 to batch_size=6"):
        fit(IN_PARTS, TrainConfig(batch_size=6, num_clips=12), micro_batches=micro_batches)


# Balanced batches

BALANCED = TrainConfig(epochs=2, batch_size=6, balanced=True, erase=0.5, lr=1e-2)
counts_a_class = st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any)
sizes = st.integers(1, 20)
seeds = st.integers(0, 2**32)


def ordered(counts: list[int], num_batches: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels of that many clips a class, in no order, and a balanced order of them."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    generator = torch.Generator().manual_seed(seed)
    return labels, balanced_order(labels, num_batches, size, generator)


@given(counts_a_class, st.integers(0, 12), sizes, seeds)
@settings(max_examples=60)
def test_classes_differ_by_one_at_most_in_every_batch_and_up_to_it(counts, num_batches, size, seed):
    labels, order = ordered(counts, num_batches, size, seed)
    assert len(order) == num_batches * size
    present = torch.tensor(counts) > 0
    batches = labels[order].view(num_batches, size)
    for last in range(num_batches):
        for some in (batches[last], batches[: last + 1].flatten()):
            found = some.bincount(minlength=len(counts))[present]
            assert found.max() - found.min() <= 1


@given(counts_a_class, st.integers(0, 12), sizes, seeds)
@settings(max_examples=60)
def test_no_clip_comes_twice_before_all_of_its_class_came(counts, num_batches, size, seed):
    labels, order = ordered(counts, num_batches, size, seed)
    for label in labels.unique():
        times = torch.zeros(len(labels), dtype=torch.int64)
        own = labels == label
        for clip in order[labels[order] == label]:
            times[clip] += 1
            assert times[own].max() - times[own].min() <= 1


@given(st.integers(1, 9), st.integers(1, 7), sizes, seeds)
def test_with_classes_of_one_size_every_clip_comes_once_but_for_the_last_batch(
    clips_a_class, num_classes, size, seed
):
    total = clips_a_class * num_classes
    _, order = ordered([clips_a_class] * num_classes, total // size, size, seed)
    assert len(order.unique()) == len(order) > total - size


def test_turns_of_small_batches_and_clips_that_are_left_out_change_from_epoch_to_epoch():
    orders = [ordered([3] * 6, 5, 3, seed) for seed in range(20)]
    firsts = {tuple(sorted(labels[order][:3].tolist())) for labels, order in orders}
    assert len(firsts) > 10
    left_out = {tuple(sorted({*range(18)} - {*order.tolist()})) for _, order in orders}
    assert len(left_out) > 10
    labels, order = ordered([3] * 6, 6, 3, 0)
    sets = [frozenset(batch.tolist()) for batch in labels[order].view(6, 3)]
    assert len(set(sets)) > 2  # not the same halves of the classes again and again


# In training


class Uneven(GeneratedClips):
    """Clips of three classes of unequal counts: 20, 8 and 4."""

    def __init__(self) -> None:
        super().__init__(MovingDigits("train", 32, difficulty="easy", num_frames=4, image_size=16))
        self.labels = torch.tensor([0] * 20 + [1] * 8 + [2] * 4)


@pytest.fixture(scope="module")
def uneven() -> Uneven:
    return Uneven()


def balanced_batches(
    uneven: Uneven, train: TrainConfig = BALANCED, members=(0,), epoch=1, first=0, team=None
):
    made = TrainingBatches(uneven, train, Population(CONFIG, members), team or Team())
    return list(made.epoch(epoch, first))


def test_an_epoch_of_unequal_classes_is_as_long_and_its_batches_are_even(uneven):
    batches = balanced_batches(uneven)
    assert len(batches) == len(balanced_batches(uneven, replace(BALANCED, balanced=False))) == 5
    for batch in batches:
        assert batch.labels[0].bincount().tolist() == [2, 2, 2]


def test_copies_of_a_clip_are_in_one_batch_and_classes_are_even_among_clips(uneven):
    batches = balanced_batches(uneven, replace(BALANCED, repeats=2, batch_size=8))  # four clips
    assert len(batches) == 8
    for batch in batches:
        assert torch.equal(batch.labels[0, ::2], batch.labels[0, 1::2])
        assert sorted(batch.labels[0, ::2].bincount(minlength=3).tolist()) == [1, 1, 2]


@pytest.mark.parametrize("first", [1, 4])
def test_an_epoch_goes_on_from_any_step_and_alone_as_in_a_population(uneven, first):
    both = balanced_batches(uneven, members=(3, 5))[first:]
    rest = balanced_batches(uneven, members=(5,), first=first)
    for one, other in zip(both, rest, strict=True):
        for ours, alone in zip(one, other, strict=True):
            assert torch.equal(ours[1], alone[0])


def test_seeds_and_epochs_have_orders_of_their_own(uneven):
    one, other = balanced_batches(uneven, members=(3, 5))[0].clips
    later = balanced_batches(uneven, members=(3,), epoch=2)[0].clips[0]
    assert not torch.equal(one, other)
    assert not torch.equal(one, later)


def test_processes_share_the_batch_of_one(uneven):
    whole = balanced_batches(uneven)
    parts = [balanced_batches(uneven, team=Team(rank, 2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        for i, along in enumerate((1, 1, 2)):
            assert torch.equal(batch[i], torch.cat([part[step][i] for part in parts], along))


def test_a_balanced_run_resumes_in_the_middle_of_an_epoch(uneven, tmp_path, monkeypatch):
    config = replace(CONFIG, num_classes=14)
    whole = fit(config, BALANCED, (uneven, uneven), [0], progress=False)
    step = loop.Training._step

    def stopped(self, batch, epoch):
        if self.steps_done == 3:
            raise VideoError(Path("a.mp4"), "gone")
        return step(self, batch, epoch)

    monkeypatch.setattr(loop.Training, "_step", stopped)
    with pytest.raises(VideoError, match="What is trained is kept"):
        fit(config, BALANCED, (uneven, uneven), [0], tmp_path / "run", progress=False)
    monkeypatch.undo()
    again = fit(config, BALANCED, (uneven, uneven), [0], tmp_path / "run", progress=False)
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in whole]


def test_the_command_line_takes_balanced_and_refuses_what_it_cannot_mean(tmp_path: Path, capsys):
    arguments = ["train", "--config", "toy", "--out", str(tmp_path / "run"), "balanced=maybe"]
    assert main(arguments) == 2
    assert "balanced='maybe' must be true or false" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"batch_size=5 must be a multiple of repeats=2"):
        TrainConfig(balanced=True, batch_size=5, repeats=2)
