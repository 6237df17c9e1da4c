from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posmlp.cli import main
from posmlp.config import TrainConfig
from posmlp.data.sampling import (
    crop_offsets,
    dense_indices,
    random_box,
    resize_box,
    resize_short_side,
    segment_indices,
)
from posmlp.data.speed import measure_loading
from posmlp.presets import resolve

SMALL = {
    "depths": (1, 1), "dims": (8, 16), "num_groups": 2, "windows": (4, 2), "temporal_windows": 4,
    "image_size": 16, "num_frames": 4, "downsample": True, "mlp_ratio": 2.0,
}  # fmt: skip
# (frames in the video, view, views) -> the released test frames, T=8, counted from 0.
SEGMENT_8 = {
    (1, 0, 1): [0, 0, 0, 0, 0, 0, 0, 0],
    (7, 0, 1): [0, 1, 2, 2, 3, 4, 4, 5],
    (16, 0, 1): [0, 2, 4, 6, 8, 9, 11, 13],
    (17, 0, 2): [0, 2, 4, 6, 8, 10, 12, 14],
    (57, 0, 1): [3, 10, 17, 24, 31, 38, 45, 52],
    (117, 0, 3): [3, 17, 32, 47, 61, 75, 90, 105],
    (117, 2, 3): [10, 24, 39, 54, 68, 82, 97, 112],
}
# (frames in the video, view, views) -> first and last released frame, T=16, step 4 at 30 fps.
DENSE_ENDS_16 = {
    (10, 0, 1): (0, 9),
    (100, 0, 1): (18, 81),
    (100, 1, 4): (12, 75),
    (150, 3, 4): (84, 147),
    (150, 9, 10): (81, 144),
    (300, 0, 1): (118, 181),
}


@pytest.mark.parametrize(("case", "expected"), SEGMENT_8.items())
def test_segment_indices_equal_released_ones(case, expected):
    length, view, num_views = case
    assert segment_indices(length, 8, view=view, num_views=num_views).tolist() == expected


@pytest.mark.parametrize(("case", "ends"), DENSE_ENDS_16.items())
def test_dense_indices_equal_released_ones(case, ends):
    length, view, num_views = case
    found = dense_indices(length, 16, sampling_rate=4, fps=30.0, view=view, num_views=num_views)
    assert (found[0], found[-1]) == ends
    assert len(found) == 16


def test_sampling_equals_all_golden_values(shared: Path):
    protocol = json.loads((shared / "golden/protocol.json").read_text())
    for case in protocol["sth_test_frames"]:
        found = segment_indices(
            case["video_length"], case["num_frames"], view=case["view"], num_views=case["views"]
        )
        assert (found + 1).tolist() == case["frames_1based"], case
    offset_cases = [case for case in protocol["k400"] if case["use_offset"]]
    assert len(offset_cases) >= 40
    for case in offset_cases:
        found = dense_indices(
            case["video_frames"], 16, sampling_rate=4, fps=case["clip_size"] / 64 * 30,
            view=case["clip_idx"], num_views=case["num_clips"],
        )  # fmt: skip
        assert found.tolist() == case["frames_0based_T16"], case


def test_training_ranges_equal_golden_values(shared: Path):
    protocol = json.loads((shared / "golden/protocol.json").read_text())
    rng = np.random.default_rng(0)
    for case in protocol["sth_train_ranges"]:
        length, num_frames = case["video_length"], case["num_frames"]
        drawn = np.stack([segment_indices(length, num_frames, rng=rng) for _ in range(400)]) + 1
        ranges = np.stack([drawn.min(0), drawn.max(0)], axis=1)
        assert ranges.tolist() == case["inclusive_1based"], case


def test_crops_equal_all_golden_values(shared: Path):
    for case in json.loads((shared / "golden/protocol.json").read_text())["test_crop"]:
        short, size = min(case["h"], case["w"]), case["short_side"]
        resized = [case["h"] * size // short, case["w"] * size // short]
        assert resized == case["resized"]
        found = crop_offsets(*resized, case["crop"], case["spatial_idx"], 3)
        assert found == (case["y0"], case["x0"]), case


@given(
    length=st.integers(1, 400),
    num_frames=st.integers(1, 32),
    seed=st.none() | st.integers(0, 9),
    rate=st.integers(1, 8),
)
def test_indices_are_sorted_and_exist(length, num_frames, seed, rate):
    for sample in (segment_indices, lambda *a, **k: dense_indices(*a, sampling_rate=rate, **k)):
        rng = None if seed is None else np.random.default_rng(seed)
        found = sample(length, num_frames, rng=rng)
        assert found.shape == (num_frames,)
        assert (np.diff(found) >= 0).all()
        assert found.min() >= 0
        assert found.max() < length


def test_one_crop_is_the_centre_and_three_follow_the_long_side():
    assert crop_offsets(224, 398, 224, 0, 1) == (0, 87)
    assert [crop_offsets(224, 298, 224, c, 3) for c in range(3)] == [(0, 0), (0, 37), (0, 74)]
    assert [crop_offsets(298, 224, 224, c, 3) for c in range(3)] == [(0, 0), (37, 0), (74, 0)]
    assert crop_offsets(225, 224, 224, 0, 1) == (1, 0)  # a centre rounded up


@given(
    height=st.integers(8, 300),
    width=st.integers(8, 300),
    min_area=st.floats(0.05, 1.0),
    seed=st.integers(0, 99),
)
def test_random_boxes_lie_in_the_frame(height, width, min_area, seed):
    x, y, right, bottom = random_box(height, width, min_area, np.random.default_rng(seed))
    assert 0 <= x < right <= width
    assert 0 <= y < bottom <= height
    assert 0.6 < (right - x) / (bottom - y) < 1.7  # 3:4 to 4:3, and what rounding adds


def test_random_boxes_reach_every_size_and_shape():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(240, 320, 0.08, rng) for _ in range(2000)], dtype=float)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, shape = width * height / (240 * 320), np.log(width / height)
    assert 0.07 < area.min() < 0.1
    assert area.max() > 0.95
    assert np.abs(shape).max() == pytest.approx(np.log(4 / 3), abs=0.03)
    small = area[area < 0.4]  # of every shape they fit: uniform in area
    assert (small < 0.24).mean() == pytest.approx(0.5, abs=0.05)
    assert boxes[:, 0].min() == 0
    assert boxes[:, 2].max() == 320


def test_box_is_resized_from_its_own_pixels():
    frames = np.zeros((2, 40, 60, 3), np.uint8)
    frames[:, 10:30, 20:50] = 200
    found = resize_box(frames, (20, 10, 50, 30), 16)
    assert found.shape == (2, 16, 16, 3)
    assert (found == 200).all()


def test_resize_keeps_order_and_rounds_the_long_side_down():
    frames = np.repeat(np.arange(3, dtype=np.uint8) * 100, 240 * 427 * 3).reshape(3, 240, 427, 3)
    resized = resize_short_side(frames, 224)
    assert resized.shape == (3, 224, 398, 3)
    assert resized[:, 5, 5, 0].tolist() == [0, 100, 200]
    assert resize_short_side(frames, 240) is frames


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: segment_indices(0, 8), "0 frames"),
        (lambda: segment_indices(8, 0), "num_frames=0"),
        (lambda: segment_indices(8, 8, view=2, num_views=2), "view=2"),
        (lambda: dense_indices(8, 8, sampling_rate=0), "sampling_rate=0"),
        (lambda: crop_offsets(31, 64, 32, 0, 1), "31 x 64"),
        (lambda: crop_offsets(32, 64, 32, 0, 2), "num_crops=2"),
        (lambda: crop_offsets(32, 64, 32, 3, 3), "crop=3"),
    ],
)
def test_bad_sampling_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.fixture
def folder(write_clip, tmp_path):
    for i in range(6):
        write_clip(tmp_path / "train" / "ab"[i % 2] / f"{i}.mp4", [60 + i] * 6)
    return tmp_path


@pytest.mark.parametrize("batch_size", [4, 40])
def test_each_way_of_loading_is_timed(folder, batch_size):
    config, train = resolve("toy", **SMALL), TrainConfig(batch_size=batch_size)
    speeds = measure_loading(folder, config, train, num_workers=1, num_clips=16, device="cpu")
    names = ["decord alone", "one process", "loader, 1 processes", "loader, from", "training step"]
    assert [any(found.startswith(name) for found in speeds) for name in names] == [True] * 5
    assert all(clips_per_s > 0 for clips_per_s in speeds.values())


def test_speed_command_names_bad_input(folder, capsys):
    assert main(["data", "speed", str(folder / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["data", "speed", str(folder), "--clips", "0"]) == 2
    assert "num_clips=0 must be at least 1" in capsys.readouterr().err
    for path in folder.rglob("*.mp4"):
        path.write_bytes(b"no video")
    assert main(["data", "speed", str(folder), "--workers", "0", "--set", "batch_size=2"]) == 2
    assert "6 of 6 videos cannot be read" in capsys.readouterr().err
