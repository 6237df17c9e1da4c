from __future__ import annotations

import pytest

from posmlp.cli import main
from posmlp.config import TrainConfig
from posmlp.data.speed import measure_loading
from posmlp.presets import resolve

SMALL = {
    "depths": (1, 1), "dims": (8, 16), "num_groups": 2, "windows": (4, 2), "temporal_windows": 4,
    "image_size": 16, "num_frames": 4, "downsample": True, "mlp_ratio": 2.0,
}  # fmt: skip


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
