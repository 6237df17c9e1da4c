"""Augmentation: same for all frames, a function of its generators, and Pillow's operations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional as F

from posmlp.config import TrainConfig
from posmlp.data.augment import MEAN, STD, Augmentation, cut_box, mix, normalise
from posmlp.data.show import _label, show_data
from posmlp.presets import resolve

torchvision = pytest.importorskip("torchvision")
from posmlp.data.randaugment import (  # noqa: E402
    OPERATIONS,
    Operation,
    apply_operation,
    draw_operations,
)

CLASSES = ("a", "b", "c", "d")
ALL = TrainConfig(flip="mirror", rand_ops=4, erase=1.0, mixup=0.8, cutmix=1.0)


def rngs(seed: int, count: int = 4) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(count)]


def clips(count: int = 4, frames: int = 3, still: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 1 if still else frames, 24, 24, 3)
    made = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return made.expand(count, frames, 24, 24, 3).contiguous()


def augmented(train: TrainConfig, seed: int = 0, **made: bool) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(4)
    return Augmentation(train, CLASSES)(
        clips(**made), labels, rngs(seed), np.random.default_rng(seed)
    )


def test_plain_augmentation_only_normalises():
    x, labels = augmented(TrainConfig())
    assert torch.equal(x, normalise(clips()))
    assert labels.tolist() == [0, 1, 2, 3]


def test_clips_are_moved_whole_and_brightened_by_a_factor_each():
    x, _ = augmented(TrainConfig(shift=0.1, brightness=0.2))
    plain = normalise(clips())
    factors = set()
    for clip, own in zip(x * STD + MEAN, plain * STD + MEAN, strict=True):
        inner = clip[..., 4:-4, 4:-4]
        found = []
        for down, right in np.ndindex(5, 5):
            there = own[..., 2 + down : 18 + down, 2 + right : 18 + right]
            factor = (inner / there).nanmedian()
            if torch.allclose(inner, there * factor, atol=1e-4):
                found.append(float(factor))
        assert len(found) == 1, "one place, and one factor for all frames"
        factors.add(found[0])
    assert len(factors) == 4
    assert all(0.8 <= factor <= 1.2 for factor in factors)


def test_augmentation_is_a_function_of_its_generators():
    first, again, other = augmented(ALL), augmented(ALL), augmented(ALL, seed=1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_clip_is_augmented_the_same_in_another_batch():
    train = replace(ALL, mixup=0.0, cutmix=0.0)
    whole, _ = augmented(train)
    augmentation = Augmentation(train, CLASSES)
    part, _ = augmentation(clips()[2:], torch.tensor([2, 3]), rngs(0)[2:], np.random.default_rng(0))
    assert torch.equal(whole[2:], part)


@pytest.mark.parametrize("change", [{"rand_ops": 4}, {"flip": "mirror"}, {"cutmix": 1.0}])
def test_all_frames_of_a_clip_are_treated_alike(change):
    x, _ = augmented(TrainConfig(**change), still=True)
    assert not torch.equal(x, normalise(clips(still=True)))
    assert torch.equal(x, x[:, :, :1].expand_as(x))


def test_erased_box_is_the_same_in_all_frames_with_fresh_noise():
    x, _ = augmented(TrainConfig(erase=1.0), still=True)
    changed = (x != normalise(clips(still=True))).all(1)  # (b, T, H, W)
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    for each in changed[:, 0]:
        rows, columns = each.any(1).sum(), each.any(0).sum()
        assert each.sum() == rows * columns, "the erased pixels are no box"
        assert 0.01 < each.float().mean() < 0.4
    assert not torch.equal(x[:, :, 0], x[:, :, 1])


def test_flip_mirrors_columns_and_swaps_labels_of_directions():
    train = TrainConfig(flip="labels")
    augmentation = Augmentation(train, ("left", "right", "up", "down"))
    x, labels = augmentation(clips(), torch.arange(4), rngs(1), np.random.default_rng(0))
    plain = normalise(clips())
    flipped = [torch.equal(x[i], plain[i].flip(-1)) for i in range(4)]
    assert all(f or torch.equal(x[i], plain[i]) for i, f in enumerate(flipped))
    assert any(flipped)
    assert not all(flipped)
    swapped = torch.tensor([1, 0, 2, 3])
    assert labels.tolist() == [int(swapped[i]) if f else i for i, f in enumerate(flipped)]


def test_flip_is_refused_where_labels_have_directions():
    with pytest.raises(ValueError, match="use flip=labels"):
        Augmentation(TrainConfig(flip="mirror"), ("left", "right"))
    with pytest.raises(ValueError, match="use flip=none"):
        Augmentation(TrainConfig(flip="labels"), ("left", "up"))


def test_mixup_shares_add_up_and_blend_the_reversed_batch():
    x, labels = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 8, 8).clone(), torch.arange(4)
    mixed, shares = mix(x, labels, TrainConfig(mixup=0.8), 4, np.random.default_rng(1))
    own = shares[0, 0].item()
    assert torch.allclose(shares.sum(1), torch.ones(4))
    assert shares[0, 3].item() == pytest.approx(1 - own)
    blend = own * torch.arange(4.0) + (1 - own) * torch.arange(4.0).flip(0)
    assert torch.allclose(mixed[:, 0, 0, 0, 0], blend)


def test_cutmix_share_is_the_area_that_is_left():
    for seed in range(5):
        x = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 16, 16).clone()
        mixed, shares = mix(
            x, torch.arange(4), TrainConfig(cutmix=1.0), 4, np.random.default_rng(seed)
        )
        kept = (mixed[0, 0, 0] == 0).float().mean().item()
        assert shares[0, 0].item() == pytest.approx(kept)
        assert torch.equal(mixed[:, :, 0], mixed[:, :, 1])


def test_cut_box_has_the_asked_area_unless_clipped():
    top, bottom, left, right = cut_box(1000, 1000, 0.84, np.random.default_rng(4))
    assert 0 < (bottom - top) * (right - left) <= 160_000


class Legacy:
    """NumPy's generator of old under the new one's names: the released code draws from it."""

    def __init__(self, seed: int, own: float | None = None) -> None:
        self.state, self.own = np.random.RandomState(seed), own
        self.random = self.state.rand
        self.integers = self.state.randint

    def beta(self, a: float, b: float) -> float:
        return self.state.beta(a, b) if self.own is None else self.own


def test_mixing_equals_golden_values(shared: Path):
    """Which of the two is drawn, the share, the boxes, and what the loss makes of the targets."""
    protocol = json.loads((shared / "golden/protocol.json").read_text())
    both = TrainConfig(mixup=0.8, cutmix=1.0)
    for case in protocol["mixup_params"]:
        own, cuts = case["lam_and_use_cutmix"]
        x = torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 3, 2, 56, 56).clone()
        rng = Legacy(case["np_seed"])
        rng.random()  # the released code first draws whether to mix at all, which it always does
        mixed, shares = mix(x, torch.arange(2), both, 2, rng)
        assert set(mixed.unique().tolist()) <= {0.0, 1.0} or not cuts, case
        if not cuts:
            assert shares[0, 0].item() == pytest.approx(own, rel=1e-5, abs=1e-7), case
            assert mixed[0, 0, 0, 0, 0].item() == pytest.approx(1 - own, rel=1e-5), case
    for case in protocol["cutmix_bbox_56x56"]:
        box = cut_box(56, 56, case["lam"], Legacy(case["np_seed"]))
        assert box == (case["yl"], case["yh"], case["xl"], case["xh"]), case
        top, bottom, left, right = box
        kept = 1 - (bottom - top) * (right - left) / 56**2
        assert kept == pytest.approx(case["lam_corrected"]), case
    case = protocol["mixup_target"]
    x, labels = torch.zeros(3, 3, 1, 4, 4), torch.tensor(case["labels"])
    mixup = TrainConfig(mixup=0.8)
    _, shares = mix(x, labels, mixup, case["num_classes"], Legacy(0, own=case["lam"]))
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    ours = F.cross_entropy(logits, shares, label_smoothing=case["smoothing"])
    theirs = -(torch.tensor(case["target"]) * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(ours, theirs)


# The released operations are Pillow's, on one frame.
PILLOW = {
    "autocontrast": lambda im: ImageOps.autocontrast(im),
    "equalize": lambda im: ImageOps.equalize(im),
    "invert": lambda im: ImageOps.invert(im),
    "posterize": lambda im: ImageOps.posterize(im, 2),
    "solarize": lambda im: ImageOps.solarize(im, 256 - 153),
    "colour": lambda im: ImageEnhance.Color(im).enhance(1.54),
    "contrast": lambda im: ImageEnhance.Contrast(im).enhance(1.54),
    "brightness": lambda im: ImageEnhance.Brightness(im).enhance(1.54),
    "sharpness": lambda im: ImageEnhance.Sharpness(im).enhance(1.54),
}


@pytest.mark.parametrize("name", sorted(PILLOW))
def test_operation_is_pillows(name):
    frames = clips()[0].movedim(-1, 1)
    done = apply_operation(frames, Operation(name, 0.6, 1))
    for before, after in zip(frames, done, strict=True):
        expected = np.asarray(PILLOW[name](Image.fromarray(before.movedim(0, -1).numpy())))
        difference = after.movedim(0, -1).int() - torch.from_numpy(expected.copy()).int()
        assert difference.abs().max() <= 2, name


def test_operation_moves_as_far_as_its_strength_says():
    frames = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    frames[..., 18:22, 18:22] = 255
    moved = apply_operation(frames, Operation("translate-x", 0.5, 1))
    columns = (moved[0, 0].float() - frames[0, 0, 0, 0]).eq(255).any(0).nonzero().flatten()
    assert columns.tolist() == [27, 28, 29, 30]  # 0.45 * 0.5 * 40 = 9 columns
    assert moved[0, :, 0, 0].tolist() == [128, 128, 128]
    turned = apply_operation(frames, Operation("rotate", 1.0, 1))
    assert turned[0, 0, 19:21, 19:21].float().mean() > 200, "it turns about the centre"


def test_every_operation_keeps_shape_and_type():
    frames = clips()[0].movedim(-1, 1)
    for name in OPERATIONS:
        for strength in (0.0, 1.0):
            done = apply_operation(frames, Operation(name, strength, -1))
            assert done.shape == frames.shape
            assert done.dtype == torch.uint8


def test_drawn_operations_follow_their_law():
    drawn = [draw_operations(4, 7, 0.5, np.random.default_rng(i)) for i in range(400)]
    strengths = np.array([op.strength for ops in drawn for op in ops])
    assert np.mean([len(ops) for ops in drawn]) == pytest.approx(2, abs=0.15)
    assert strengths.mean() == pytest.approx(0.7, abs=0.01)
    assert strengths.std() == pytest.approx(0.05, abs=0.01)
    assert {op.name for ops in drawn for op in ops} == set(OPERATIONS)


def test_sheet_shows_clips_as_training_sees_them(write_clip, tmp_path):
    for split in ("train", "test"):
        for i in range(6):
            write_clip(tmp_path / split / "ab"[i % 2] / f"{i}.mp4", [40 + 160 * (i % 2)] * 8)
    config = resolve("toy", num_classes=2)

    def sheet(**how: object) -> np.ndarray:
        train = TrainConfig(**how)
        return np.asarray(show_data(str(tmp_path), config, train, num_clips=4, num_workers=0))

    plain, again = sheet(), sheet()
    np.testing.assert_array_equal(plain, again)
    rows = [plain[8 + (18 + 96 + 8) * i + 60, 8:100].mean() for i in range(4)]
    assert sorted(round(level, -1) for level in rows) == [40, 40, 200, 200]  # two of each class
    assert np.abs(sheet(mixup=5.0)[:, 8:100].astype(int) - plain[:, 8:100]).max() > 20
    with pytest.raises(ValueError, match="--clips 0"):
        show_data(str(tmp_path), config, TrainConfig(), num_clips=0)


@pytest.mark.parametrize(
    ("target", "said"),
    [([1.0, 0.0, 1.0], "a + c"), ([0.0, 1.0, 0.0], "b"), ([0.25, 0.75, 0.0], "75% b + 25% a")],
)
def test_sheet_tells_labels_apart_from_shares(target: list[float], said: str) -> None:
    assert _label(torch.tensor(target), "abc") == said
