"""Laws of the moving-digits clips, on the fly and on disk."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import decord
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posmlp.data.digits.catalogue import CLASSES, DIFFICULTIES, REVERSE_OF
from posmlp.data.digits.draws import Draws
from posmlp.data.digits.moving_digits import SPLITS, MovingDigits
from posmlp.data.digits.sprites import digit_bank, texture_bank
from posmlp.data.digits.synthetic import load_truth, write_dataset

NUM_CLASSES = len(CLASSES)
CPU = torch.device("cpu")
difficulties = pytest.mark.parametrize("difficulty", DIFFICULTIES)


def render(indices: range | list[int], **fields: object):
    fields = {"split": "train", "num_clips": 1000, **fields}
    return MovingDigits(**fields).render(torch.tensor(list(indices)))


def of_class(name: str, count: int) -> list[int]:
    """The first `count` indices of clips of the class."""
    label = CLASSES.index(name)
    return [2 * (label // 2) + label % 2 + NUM_CLASSES * turn for turn in range(count)]


def centroids(masks: Tensor) -> tuple[Tensor, Tensor]:
    """The masks' mean x and y in each frame, (k, T) each; nan where a mask is empty."""
    area = masks.sum(dim=(2, 3))
    positions = torch.arange(masks.shape[-1])
    x = (masks.sum(dim=2) * positions).sum(dim=-1) / area
    y = (masks.sum(dim=3) * positions).sum(dim=-1) / area
    return x, y


def steps_while_moving(values: Tensor, moving: Tensor) -> Tensor:
    """Differences between neighbouring frames that both move."""
    return torch.diff(values, dim=1)[moving[:, 1:] & moving[:, :-1]]


# ---------------------------------------------------------------------------------------- classes


def test_reverse_of_pairs_neighbours_and_undoes_itself() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 14
    assert all(REVERSE_OF[REVERSE_OF[label]] == label for label in range(NUM_CLASSES))
    assert all(REVERSE_OF[label] // 2 == label // 2 for label in range(NUM_CLASSES))
    assert all(REVERSE_OF[label] != label for label in range(NUM_CLASSES))


def test_labels_are_balanced_and_equal_those_rendered() -> None:
    clips = MovingDigits("train", 20 * NUM_CLASSES)
    assert torch.bincount(clips.labels, minlength=NUM_CLASSES).eq(20).all()
    assert torch.equal(clips.render(torch.arange(30)).labels, clips.labels[:30])


# ----------------------------------------------------------------------------------------- chance


@difficulties
def test_paired_clips_are_exact_reversals(difficulty: str) -> None:
    batch = render(range(56), split="test", difficulty=difficulty, paired=True)
    for frames in (batch.clips, batch.masks, batch.moving):
        assert torch.equal(frames[1::2], frames[0::2].flip(1))
    assert torch.equal(torch.tensor(REVERSE_OF)[batch.labels[0::2]], batch.labels[1::2])
    assert not torch.equal(batch.clips[1::2], batch.clips[0::2])


def test_unpaired_clips_have_nuisances_of_their_own() -> None:
    clips = render(range(28)).clips.long()
    mean_frames = clips.sum(dim=1).flatten(1)
    assert (mean_frames[0::2] - mean_frames[1::2]).ne(0).float().mean(dim=1).min() > 0.5


@difficulties
def test_brightness_does_not_tell_direction(difficulty: str) -> None:
    """Unpaired clips of a pair's two classes are equally bright on average."""
    first = render(range(0, 140, 2), difficulty=difficulty).clips.double()
    second = render(range(1, 140, 2), difficulty=difficulty).clips.double()
    spread = first.mean(dim=(1, 2, 3, 4)).std() / 70**0.5
    assert (first.mean() - second.mean()).abs() < 6 * spread


# ---------------------------------------------------------------------------------- random numbers


@settings(max_examples=12)
@given(
    indices=st.lists(st.integers(0, 999), min_size=1, max_size=20),
    difficulty=st.sampled_from(list(DIFFICULTIES)),
    paired=st.booleans(),
)
def test_clip_does_not_depend_on_its_batch(
    indices: list[int], difficulty: str, paired: bool
) -> None:
    together = render(indices, difficulty=difficulty, paired=paired)
    alone = render(indices[-1:], difficulty=difficulty, paired=paired)
    for batch, single in zip(together, alone, strict=True):
        assert torch.equal(batch[-1:], single)


def test_clip_does_not_depend_on_num_clips() -> None:
    few, many = (render(range(14), num_clips=n) for n in (14, 10_000))
    assert torch.equal(few.clips, many.clips)


def test_clip_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = render([5]).clips
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(render([5]).clips, first)


@pytest.mark.parametrize("change", [{"seed": 1}, {"split": "test"}, {"difficulty": "hard"}])
def test_clips_differ_with_seed_split_and_difficulty(change: dict[str, object]) -> None:
    same = render(range(14)).clips == render(range(14), **change).clips
    assert same.flatten(1).float().mean(dim=1).max() < 0.5


def test_clips_of_one_class_differ_in_mover_place_and_background() -> None:
    batch = render(of_class("right", 20))
    start_x, start_y = centroids(batch.masks[:, :1])
    assert start_x.std() > 1
    assert start_y.std() > 2
    corner = batch.clips[:, 0, :4, :4].double().mean(dim=(1, 2, 3))
    assert corner.std() > 10


def test_splits_share_no_digit_and_no_texture() -> None:
    banks = [digit_bank(split, 16, CPU) for split in SPLITS]
    assert sum(len(bank.shapes) for bank in banks) == 1797
    assert min(int(bank.num_each.min()) for bank in banks) > 5
    tiles = [texture_bank(split, 32, CPU) for split in SPLITS]
    for one, other in combinations(range(len(SPLITS)), 2):
        shapes = (banks[k].shapes.flatten(1) for k in (one, other))
        assert (torch.cdist(*shapes) > 0).all()
        assert (torch.cdist(tiles[one].flatten(1), tiles[other].flatten(1)) > 0.1).all()


def test_splits_draw_different_scenes() -> None:
    """With one bank of digits and textures the clips would still be others: seeds differ."""
    keys = [Draws(0, split, torch.arange(500)).keys for split in SPLITS]
    assert len(torch.cat(keys).unique()) == 3 * 500


def test_digits_are_sorted_by_what_they_show() -> None:
    """The mean zero has a hole, the mean one does not."""
    bank = digit_bank("train", 16, CPU)
    zero, one = (
        bank.shapes[bank.first[d] : bank.first[d] + bank.num_each[d]].mean(dim=0) for d in (0, 1)
    )
    assert zero[7:9, 7:9].mean() < 0.2 < 0.8 < one[7:9, 7:9].mean()


# ------------------------------------------------------------------------------------ ground truth


@pytest.mark.parametrize("size", [(8, 32), (5, 20), (16, 64)])
def test_shapes_and_types(size: tuple[int, int]) -> None:
    num_frames, side = size
    batch = render([3, 1], num_frames=num_frames, image_size=side)
    assert batch.clips.shape == (2, num_frames, side, side, 3)
    assert batch.clips.dtype == torch.uint8
    assert batch.masks.shape == (2, num_frames, side, side)
    assert batch.moving.shape == (2, num_frames)
    assert batch.masks.dtype == batch.moving.dtype == torch.bool


@pytest.mark.parametrize("difficulty", ["easy", "medium"])  # in "hard" the mover may be hidden
def test_mask_is_not_empty_in_moving_frames(difficulty: str) -> None:
    batch = render(range(280), difficulty=difficulty)
    assert batch.masks.any(dim=(2, 3))[batch.moving].all()
    assert batch.moving.sum(dim=1).min() >= 2
    share = batch.masks[batch.moving].double().mean(dim=(1, 2))
    assert 0.02 < share.median() < 0.15


def test_occluded_pixels_are_not_in_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = render(range(140), difficulty="hard").masks
    hard = replace(DIFFICULTIES["hard"], occluders=False)
    monkeypatch.setitem(DIFFICULTIES, "hard", hard)
    whole = render(range(140), difficulty="hard").masks
    assert not (hidden & ~whole).any()
    assert 0.5 < hidden.sum() / whole.sum() < 0.95


def test_moving_frames_are_those_that_differ_from_a_neighbour() -> None:
    batch = render(of_class("right", 20), image_size=64, num_frames=16)
    step = torch.diff(batch.masks.flatten(2).int(), dim=1).ne(0).any(dim=-1)
    differs = torch.zeros_like(batch.moving)
    differs[:, 1:] |= step
    differs[:, :-1] |= step
    assert torch.equal(batch.moving, differs)
    assert not batch.moving.all()


@pytest.mark.parametrize(
    ("name", "axis", "sign"), [("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1)]
)
def test_mask_moves_as_its_class_says(name: str, axis: int, sign: int) -> None:
    batch = render(of_class(name, 20))
    steps = steps_while_moving(sign * centroids(batch.masks)[axis], batch.moving)
    assert steps.min() > -0.1
    assert steps.mean() > 1


@pytest.mark.parametrize(("name", "sign"), [("nearer", 1), ("farther", -1)])
def test_mask_grows_as_its_class_says(name: str, sign: int) -> None:
    batch = render(of_class(name, 20))
    area = batch.masks.sum(dim=(2, 3))
    change = sign * (area[:, -1] - area[:, 0]).double() / area.max(dim=1).values
    assert change.min() > 0.4


@pytest.mark.parametrize(("name", "sign"), [("clockwise", 1), ("counterclockwise", -1)])
def test_mover_turns_as_its_class_says(name: str, sign: int) -> None:
    """A frame turned clockwise by one step resembles the next frame, not the one before it."""
    batch = render(of_class(name, 20), difficulty="easy", image_size=64)
    x, y = centroids(batch.masks)
    step = sign * np.deg2rad(20)
    pixels = torch.arange(64).double()
    right_way = 0
    for clip, mask in enumerate(batch.masks):

        def turned(angle: float, mask: Tensor = mask, clip: int = clip) -> Tensor:
            dx, dy = pixels[None] - x[clip, 4], pixels[:, None] - y[clip, 4]
            from_x = x[clip, 4] + np.cos(angle) * dx + np.sin(angle) * dy
            from_y = y[clip, 4] - np.sin(angle) * dx + np.cos(angle) * dy
            inside = (from_x >= 0) & (from_x < 63.5) & (from_y >= 0) & (from_y < 63.5)
            return mask[4][from_y.round().long() * inside, from_x.round().long() * inside] & inside

        agreement = [(turned(way * step) & mask[5]).sum() for way in (1, -1)]
        right_way += int(agreement[0] > agreement[1])
    assert right_way >= 18


@pytest.mark.parametrize(("name", "seen_at"), [("appear", -1), ("vanish", 0)])
def test_mover_is_seen_at_one_end_only(name: str, seen_at: int) -> None:
    seen = render(of_class(name, 20)).masks.any(dim=(2, 3))
    assert seen[:, seen_at].all()
    assert not seen[:, -1 - seen_at].any()


@pytest.mark.parametrize(("name", "sign"), [("part", 1), ("meet", -1)])
def test_movers_go_apart_as_their_class_says(name: str, sign: int) -> None:
    masks = render(of_class(name, 20)).masks
    spread = []
    for frame in (masks[:, 0], masks[:, -1]):
        spread.append([torch.nonzero(mask).double().var(dim=0).sum() for mask in frame])
    start, end = torch.tensor(spread)
    assert (sign * (end - start)).min() > 0


def test_zero_becomes_one() -> None:
    """A zero has a hole in the middle of its mask, a one does not."""
    masks = render(of_class("zero-then-one", 20), difficulty="easy").masks

    def middle_is_ink(frame: int) -> Tensor:
        x, y = (c[:, frame].round().long() for c in centroids(masks))
        return masks[torch.arange(20), frame, y, x]

    assert middle_is_ink(0).sum() <= 2
    assert middle_is_ink(-1).sum() >= 18


def test_zero_and_one_share_their_colour() -> None:
    batch = render(of_class("zero-then-one", 20), difficulty="easy")
    first, last = (
        (batch.clips[:, t] * batch.masks[:, t, ..., None]).sum(dim=(1, 2))
        / batch.masks[:, t].sum(dim=(1, 2))[:, None]
        for t in (0, -1)
    )
    assert (first - last).abs().max() < 20


def test_mover_is_what_changes_in_the_picture() -> None:
    """Where the background stands still, frames differ under the masks and nowhere else."""
    batch = render(of_class("right", 20), difficulty="easy")
    change = torch.diff(batch.clips.double(), dim=1).abs().mean(dim=-1)
    near = batch.masks[:, 1:] | batch.masks[:, :-1]
    assert change[near].mean() > 5 * change[~near].mean()


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "valid"}, "unknown split 'valid'"),
        ({"difficulty": "brutal"}, "easy, medium, hard"),
        ({"num_clips": 0}, "num_clips=0"),
        ({"num_clips": 7, "paired": True}, "num_clips=7"),
        ({"seed": -1}, "seed=-1"),
        ({"num_frames": 1}, "num_frames=1"),
        ({"image_size": 33}, "image_size=33"),
        ({"image_size": 8}, "image_size=8"),
    ],
)
def test_bad_field_raises(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovingDigits(**{"split": "train", "num_clips": 14, **fields})


@pytest.mark.parametrize("indices", [[-1], [14], [], [[0, 1]]])
def test_bad_indices_raise(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 to 13"):
        MovingDigits("train", 14).render(torch.tensor(indices))


def test_device_without_float64_is_refused() -> None:
    with pytest.raises(ValueError, match="cpu, cuda"):
        MovingDigits("train", 14).render(torch.tensor([0]), device="mps")


# ------------------------------------------------------------------------------------------- files

LOOK = {"num_train": 14, "num_val": 14, "num_test": 28, "seed": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "md", **LOOK, progress=False)


def rows_of(root: Path, split: str) -> list[dict[str, str]]:
    with open(root / f"{split}.csv", newline="") as file:
        return list(csv.DictReader(file))


def decoded(root: Path, split: str) -> np.ndarray:
    videos = [decord.VideoReader(str(root / row["path"])) for row in rows_of(root, split)]
    return np.stack([video.get_batch(range(len(video))).asnumpy() for video in videos])


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_decode_to_the_rendered_frames(root: Path, split: str) -> None:
    clips = MovingDigits(split, 14 if split == "train" else 28, seed=3, paired=split == "test")
    rendered = clips.render(torch.arange(len(clips))).clips.numpy()
    read = decoded(root, split)
    assert read.shape == rendered.shape
    difference = read.astype(float) - rendered
    # Colour is stored at half the resolution, so brightness is the fair comparison.
    assert np.abs(difference @ [0.299, 0.587, 0.114]).mean() < 3
    assert np.abs(difference).mean() < 12


def test_pair_files_decode_to_exact_reversals(root: Path) -> None:
    read = decoded(root, "test")
    assert np.array_equal(read[1::2], read[0::2, ::-1])


def test_csv_lists_every_file_with_its_label(root: Path) -> None:
    for split, count in (("train", 14), ("test", 28)):
        rows = rows_of(root, split)
        assert [int(row["index"]) for row in rows] == list(range(count))
        for row in rows:
            assert CLASSES[int(row["label"])] == row["class"] == Path(row["path"]).parent.name
            assert int(row["pair"]) == int(row["index"]) // 2
        on_disk = {str(path.relative_to(root)) for path in (root / split).rglob("*.mp4")}
        assert on_disk == {row["path"] for row in rows}


def test_dataset_json_says_what_reverses_what(root: Path) -> None:
    about = json.loads((root / "dataset.json").read_text())
    assert about["classes"] == list(CLASSES)
    assert about["reverse_of"]["one-then-zero"] == "zero-then-one"
    assert (about["generator"]["seed"], about["num_val"], about["num_test"]) == (3, 14, 28)


def test_truth_round_trips(root: Path) -> None:
    batch = MovingDigits("test", 28, seed=3, paired=True).render(torch.arange(28))
    masks, moving = load_truth(root)
    assert np.array_equal(masks, batch.masks.numpy())
    assert np.array_equal(moving, batch.moving.numpy())
    with pytest.raises(ValueError, match=r"test-truth\.npz is missing"):
        load_truth(root / "train")


def test_files_are_the_same_bytes_when_written_again(root: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", **LOOK, progress=False)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((root / path).read_bytes() == (again / path).read_bytes() for path in files)


def test_same_dataset_is_left_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (root / "train.csv").stat().st_mtime_ns
    assert write_dataset(root, **LOOK, progress=False) == root
    assert (root / "train.csv").stat().st_mtime_ns == before
    assert "already there" in capsys.readouterr().err


def test_anything_else_is_not_overwritten(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="something else"):
        write_dataset(root, **{**LOOK, "seed": 4}, progress=False)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        write_dataset(tmp_path, **LOOK, progress=False)
    with pytest.raises(ValueError, match="is a file"):
        write_dataset(tmp_path / "thesis.txt", **LOOK, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "thesis.txt").unlink()  # an empty folder is taken
    assert write_dataset(tmp_path, num_train=2, num_test=2, progress=False) == tmp_path


def test_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are a Unix matter")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a video needs more bytes
    try:
        with pytest.raises(OSError):  # noqa: PT011, the message is the system's
            write_dataset(tmp_path / "md", **LOOK, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("image_size", [16, 24, 48, 72, 31])
def test_unreadable_width_is_refused(tmp_path: Path, image_size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size={image_size}"):
        write_dataset(tmp_path / "md", num_train=2, num_test=2, image_size=image_size)
    assert not list(tmp_path.iterdir())
