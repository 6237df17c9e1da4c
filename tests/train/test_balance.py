"""Balanced batches: laws over class counts and sizes, and what training makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posmlp.cli import main
from posmlp.config import TrainConfig
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.files.video import VideoError
from posmlp.data.sources import GeneratedClips
from posmlp.train import loop
from posmlp.train.batches import TrainingBatches, balanced_order
from posmlp.train.distributed import Team
from posmlp.train.fitting import fit
from posmlp.train.population import Population
from tests.train.test_batches import CONFIG

TRAIN = TrainConfig(epochs=2, batch_size=6, balanced=True, erase=0.5, lr=1e-2)
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
def clips() -> Uneven:
    return Uneven()


def batches_of(
    clips: Uneven, train: TrainConfig = TRAIN, members=(0,), epoch=1, first=0, team=None
):
    made = TrainingBatches(clips, train, Population(CONFIG, members), team or Team())
    return list(made.epoch(epoch, first))


def test_an_epoch_of_unequal_classes_is_as_long_and_its_batches_are_even(clips):
    batches = batches_of(clips)
    assert len(batches) == len(batches_of(clips, replace(TRAIN, balanced=False))) == 5
    for batch in batches:
        assert batch.labels[0].bincount().tolist() == [2, 2, 2]


def test_copies_of_a_clip_are_in_one_batch_and_classes_are_even_among_clips(clips):
    batches = batches_of(clips, replace(TRAIN, repeats=2, batch_size=8))  # four clips
    assert len(batches) == 8
    for batch in batches:
        assert torch.equal(batch.labels[0, ::2], batch.labels[0, 1::2])
        assert sorted(batch.labels[0, ::2].bincount(minlength=3).tolist()) == [1, 1, 2]


@pytest.mark.parametrize("first", [1, 4])
def test_an_epoch_goes_on_from_any_step_and_alone_as_in_a_population(clips, first):
    both = batches_of(clips, members=(3, 5))[first:]
    rest = batches_of(clips, members=(5,), first=first)
    for one, other in zip(both, rest, strict=True):
        for ours, alone in zip(one, other, strict=True):
            assert torch.equal(ours[1], alone[0])


def test_seeds_and_epochs_have_orders_of_their_own(clips):
    one, other = batches_of(clips, members=(3, 5))[0].clips
    later = batches_of(clips, members=(3,), epoch=2)[0].clips[0]
    assert not torch.equal(one, other)
    assert not torch.equal(one, later)


def test_processes_share_the_batch_of_one(clips):
    whole = batches_of(clips)
    parts = [batches_of(clips, team=Team(rank, 2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        for i, along in enumerate((1, 1, 2)):
            assert torch.equal(batch[i], torch.cat([part[step][i] for part in parts], along))


def test_a_balanced_run_resumes_in_the_middle_of_an_epoch(clips, tmp_path, monkeypatch):
    config = replace(CONFIG, num_classes=14)
    whole = fit(config, TRAIN, (clips, clips), [0], progress=False)
    step = loop.Training._step

    def stopped(self, batch, epoch):
        if self.steps_done == 3:
            raise VideoError(Path("a.mp4"), "gone")
        return step(self, batch, epoch)

    monkeypatch.setattr(loop.Training, "_step", stopped)
    with pytest.raises(VideoError, match="What is trained is kept"):
        fit(config, TRAIN, (clips, clips), [0], tmp_path / "run", progress=False)
    monkeypatch.undo()
    again = fit(config, TRAIN, (clips, clips), [0], tmp_path / "run", progress=False)
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in whole]


def test_the_command_line_takes_balanced_and_refuses_what_it_cannot_mean(tmp_path: Path, capsys):
    arguments = ["train", "--config", "toy", "--out", str(tmp_path / "run"), "balanced=maybe"]
    assert main(arguments) == 2
    assert "balanced='maybe' must be true or false" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"batch_size=5 must be a multiple of repeats=2"):
        TrainConfig(balanced=True, batch_size=5, repeats=2)
