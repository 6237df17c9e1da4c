"""Files that break while a model is being trained on them cost nothing that was trained."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from posmlp.cli import main
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.files.video import VideoError
from posmlp.presets import resolve
from posmlp.train.fitting import fit
from posmlp.train.run_folder import read_metrics

CONFIG = resolve(
    "toy", depths=(1, 1), dims=(8, 16), num_groups=2, windows=(4, 2), temporal_windows=4,
    image_size=16, num_frames=4, num_classes=2, downsample=True, mlp_ratio=2.0,
)  # fmt: skip
# Training crops that are resized keep the files from being cached: each is read in every epoch.
TRAIN = TrainConfig(epochs=2, batch_size=8, min_crop_area=0.5)


@pytest.fixture
def data(write_clip, tmp_path) -> Path:
    for split, count in (("train", 24), ("val", 3), ("test", 3)):
        for name, level in (("dark", 40), ("light", 200)):
            for i in range(count):
                write_clip(tmp_path / f"data/{split}/{name}/{i:02d}.mp4", [level + i] * 6)
    return tmp_path / "data"


def train(data: Path, out: Path, config: PosMLPConfig = CONFIG) -> list[dict]:
    return fit(config, TRAIN, str(data), [0], out, num_workers=0, progress=False)


def train_and_break(data: Path, out: Path, broken: list[Path]) -> str:
    """Train, and break files as soon as the first of the two epochs is stored; the error's text."""

    def break_files() -> None:
        while not (out / "metrics.csv").exists():
            time.sleep(0.001)
        for path in broken:
            path.write_bytes(b"broken")

    thread = threading.Thread(target=break_files)
    thread.start()
    with pytest.raises(VideoError, match=r"cannot be opened.*is kept in") as caught:
        train(data, out)
    thread.join()
    return str(caught.value)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_run_goes_on_as_if_nothing_had_been_when_the_files_are_back(split, data, tmp_path):
    kept = shutil.copytree(data, tmp_path / "kept")
    reference = train(data, tmp_path / "reference")
    broken = sorted((data / split / "light").iterdir())
    train_and_break(data, tmp_path / "run", broken)
    assert (tmp_path / "run/state.safetensors").is_file()
    for path in broken:
        shutil.copyfile(kept / path.relative_to(data), path)
    rows = train(data, tmp_path / "run")
    for row, expected in zip(rows, reference, strict=True):
        for name in ("train_loss", "val_loss", "test_loss", "test_top1"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5, nan_ok=True)
    assert (tmp_path / "run/model-seed0.safetensors").is_file()


def test_run_goes_on_without_a_file_that_a_check_leaves_out(data, tmp_path):
    broken = sorted((data / "test" / "light").iterdir())[:1]
    message = train_and_break(data, tmp_path / "run", broken)
    assert "00.mp4" in message
    assert "posmlp data check" in message
    with pytest.raises(ValueError, match="cannot be read"):
        train(data, tmp_path / "run")
    assert main(["data", "check", str(data), "--frames", "4", "--workers", "0"]) == 1
    rows = train(data, tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert read_metrics(tmp_path / "run/metrics.csv")[1]["test_loss"] > 0
    assert "00.mp4" in (tmp_path / "run/config.json").read_text()


def test_run_of_another_data_set_is_still_refused(data, tmp_path):
    train(data, tmp_path / "run")
    (data / "train/light/00.mp4").unlink()
    with pytest.raises(ValueError, match="another configuration"):
        train(data, tmp_path / "run")
