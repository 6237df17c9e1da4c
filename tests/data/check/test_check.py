from __future__ import annotations

import csv
import os
import shutil
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from posmlp.cli import main
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.check.check import check_data
from posmlp.data.clips import ClipRule
from posmlp.data.datasets import VideoClips
from posmlp.data.files.video import VideoError
from posmlp.data.layouts.layouts import list_videos
from posmlp.presets import resolve
from posmlp.train.fitting import fit
from posmlp.train.run_folder import read_metrics

RULE = ClipRule(4, 32)
SIZES = {"num_frames": 4, "image_size": 32, "num_workers": 0}
NUM_ORIGINALS = 10  # different videos; all others are links to them


def write_video(path: Path, seed: int, codec: str = "libx264") -> None:
    """Write 8 frames of 32x32 noise."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options={"preset": "ultrafast", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for pixels in rng.integers(0, 256, (8, 32, 32, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def make_spoilt_dataset(root: Path, num_files: int, bad_share: float) -> set[str]:
    """Write a data set in folder layout; returns the places of its broken files."""
    originals = [
        root.with_name(f"{root.name}-originals") / f"{i}.mp4" for i in range(NUM_ORIGINALS)
    ]
    for seed, path in enumerate(originals):
        write_video(path, seed)
    content = originals[0].read_bytes()
    spoilt = [b"", b"not a video\n" * 20, content[: len(content) // 2], bytes(len(content))]
    order = np.random.default_rng(0).permutation(num_files)
    bad_kind = {int(i): kind for kind, i in enumerate(order[: round(bad_share * num_files)])}
    bad = set()
    for i in range(num_files):
        place = f"{'test' if i % 10 == 0 else 'train'}/class{i // 10 % 7}/{i:05d}.mp4"
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in bad_kind:
            path.write_bytes(spoilt[bad_kind[i] % len(spoilt)])
            bad.add(place)
        else:
            os.link(originals[i % NUM_ORIGINALS], path)
    return bad


@pytest.fixture
def data(write_clip, tmp_path) -> Path:
    """Write Kinetics lists over good, odd and bad files, and lines that cannot be used."""
    root = tmp_path / "data"
    for name in ("a", "b", "c", "d"):
        write_clip(root / f"{name}.mp4", [60] * 6)
    write_clip(root / "short.mp4", [60])
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("not a video\n" * 9)
    names = ["a", "b", "short", "empty", "text", "gone"]
    lines = [f"{name}.mp4,{i % 2}" for i, name in enumerate(names)]
    lines += ["c.mp4;1", "d.mp4,one", "a.mp4,1"]
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    (root / "val.csv").write_text("c.mp4,0\nd.mp4,1\nb.mp4,1\n")
    return root


def found_in(root: Path) -> dict[str, tuple[str, str]]:
    with (root / "data-problems.csv").open(newline="") as file:
        return {row["place"]: (row["problem"], row["dropped"]) for row in csv.DictReader(file)}


def test_check_lists_each_kind_of_problem(data):
    found = check_data(data, RULE, num_workers=0)
    assert found_in(data) == {
        "train.csv:7": ("malformed", "yes"),
        "train.csv:8": ("mislabelled", "yes"),
        "train.csv:9": ("mislabelled", "yes"),
        "short.mp4": ("too short", "yes"),
        "empty.mp4": ("empty", "yes"),
        "text.mp4": ("unreadable", "yes"),
        "gone.mp4": ("missing", "yes"),
        "b.mp4": ("mislabelled", "no"),  # in two splits
    }
    assert found.num_dropped == 7
    read = [(file.place, file.num_frames, file.decoder) for file in found.files]
    assert read[:2] == [("a.mp4", 6, "decord"), ("b.mp4", 6, "decord")]


def test_training_honours_the_list(data, capsys):
    with pytest.raises(ValueError, match="3 of its annotations"):
        VideoClips.open(data, "train", **SIZES)
    check_data(data, RULE, num_workers=0)
    clips = VideoClips.open(data, "train", **SIZES)
    assert [Path(p).name for p in clips.paths] == ["a.mp4", "b.mp4"]
    assert set(clips.describe()["dropped"]) == set(found_in(data)) - {"b.mp4"}
    assert clips.batch(torch.arange(2)).shape == (2, 4, 32, 32, 3)
    assert "7 left out" in capsys.readouterr().err


def test_user_may_change_what_is_left_out(data):
    check_data(data, RULE, num_workers=0)
    path = data / "data-problems.csv"
    path.write_text(path.read_text().replace("b.mp4,mislabelled,no", "b.mp4,mislabelled,yes"))
    with pytest.raises(ValueError, match="of 1 class"):
        list_videos(data, "train")
    path.write_text(path.read_text().replace("b.mp4,mislabelled,yes", "b.mp4,mislabelled,maybe"))
    with pytest.raises(ValueError, match=r"data-problems.csv:\d+: dropped='maybe'"):
        list_videos(data, "train")
    path.write_text("b.mp4\n")
    with pytest.raises(ValueError, match=r"data-problems.csv needs the columns"):
        list_videos(data, "train")


def test_checked_files_are_not_read_again_until_they_change(data, write_clip):
    check_data(data, RULE, num_workers=0)
    good = (data / "a.mp4").read_bytes()
    status = (data / "a.mp4").stat()
    (data / "a.mp4").write_bytes(bytes(len(good)))
    os.utime(data / "a.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))
    clips = VideoClips.open(data, "train", cache_gib=0.0, **SIZES)
    assert clips.unreadable == []  # by its size and date it is the file that was checked
    os.utime(data / "a.mp4")
    with pytest.raises(ValueError, match=r"a.mp4"):
        VideoClips.open(data, "train", cache_gib=0.0, **SIZES)


def test_second_check_finds_what_was_mended(data, write_clip):
    check_data(data, RULE, num_workers=0)
    write_clip(data / "text.mp4", [60] * 6)
    check_data(data, RULE, num_workers=0)
    assert "text.mp4" not in found_in(data)
    assert len(list_videos(data, "train").paths) == 3


def test_list_is_exact_with_workers(tmp_path):
    bad = make_spoilt_dataset(tmp_path / "data", 100, 0.12)
    found = check_data(tmp_path / "data", RULE, num_workers=2)
    assert {problem.place for _, problem, _ in found.problems} == bad
    assert len(bad) == 12
    assert len(found.files) == 88


def test_frames_of_folders_are_all_read(data, tmp_path):
    root = tmp_path / "frames"
    for name in ("1", "2", "3"):
        (root / name).mkdir(parents=True)
        for k in range(1, 5):
            Image.new("RGB", (40, 32), (9, 9, 9)).save(root / name / f"{k:05d}.jpg")
    bytes_of = (root / "2/00003.jpg").read_bytes()
    (root / "2/00003.jpg").write_bytes(bytes_of[: len(bytes_of) // 2])
    (root / "train.txt").write_text("1 4 0\n2 4 1\n3 4 1\n4 4 1\n")
    (root / "val.txt").write_text("1 5 0\n3 2 1\n")
    (root / "4").mkdir()
    found = check_data(root, RULE, num_workers=0)
    reasons = {p.place: (p.kind, p.reason, dropped) for _, p, dropped in found.problems}
    assert "frame 00003.jpg cannot be read" in reasons["2"][1]
    assert reasons["4"][0] == "empty"
    kinds = [(s, p.place, p.kind, d) for s, p, d in found.problems if s == "test"]
    assert ("test", "1", "damaged", True) in kinds  # 1 of 5 is more than a tenth
    assert ("test", "3", "mislabelled", False) in kinds


def test_shared_broken_clips_give_their_reasons(shared, tmp_path):
    expected = {
        "audio_only.mp4": ("unreadable", "no video stream", True),
        "decord_corrupted.mp4": ("damaged", "1 of its 50 frames", False),
        "mid_corrupt.mp4": ("damaged", "3 of its 300 frames", False),
        "one_frame.mp4": ("too short", "1 frames", True),
        "trunc_faststart.mp4": ("damaged", "173 of its 300 frames", True),
    }
    odd = {
        "cut_copy.mp4": "cut by stream copy",
        "vfr.mp4": "variable frame rate",
        "tc_h265_video.mp4": "out of order",
    }
    for name in (*expected, *odd):
        for split in ("train", "test"):
            path = tmp_path / split / f"class{len(name) % 2}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if split == "train":
                shutil.copyfile(shared / "clips" / name, path)
    for label in (0, 1):
        shutil.copyfile(shared / "clips/one_frame.mp4", tmp_path / f"test/class{label}/x.mp4")
    found = check_data(tmp_path, RULE, num_workers=1)
    seen = {Path(p.place).name: (p.kind, p.reason, d) for s, p, d in found.problems if s == "train"}
    assert set(seen) == set(expected)
    for name, (kind, words, dropped) in expected.items():
        assert (seen[name][0], seen[name][2]) == (kind, dropped)
        assert words in seen[name][1]
    notes = {Path(file.place).name: file.notes for file in found.files}
    for name, words in odd.items():
        assert words in notes[name]


def test_command_ends_with_1_and_shows_the_list(data, capsys):
    command = ["data", "check", str(data), "--frames", "4", "--workers", "0"]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "layout 'kinetics', as listed in train.csv (comma-separated, no header)" in shown
    assert "missing, left out: gone.mp4: no such file" in shown
    assert "8 problems, 7 of them left out of training" in shown
    shutil.rmtree(data)
    assert main(command) == 2
    assert "does not exist" in capsys.readouterr().err


def test_lists_that_cannot_be_written_stop_the_check_before_it_reads(data, tmp_path):
    for bad in ({"max_lost_share": 2.0}, {"min_frames": 0}, {"timeout_s": float("nan")}):
        with pytest.raises(ValueError, match=r"must be at least 1.*share|nan is not positive"):
            check_data(data, RULE, num_workers=0, **bad)
    with pytest.raises(ValueError, match=r"cannot be written to .*nowhere"):
        check_data(data, RULE, num_workers=0, out=tmp_path / "nowhere")
    (tmp_path / "lists").mkdir()
    check_data(data, RULE, num_workers=0, out=tmp_path / "lists")
    assert not (data / "data-problems.csv").exists()
    assert (tmp_path / "lists/data-problems.csv").exists()


# Files that are lost in the middle of a run


CONFIG = resolve(
    "toy", depths=(1, 1), dims=(8, 16), num_groups=2, windows=(4, 2), temporal_windows=4,
    image_size=16, num_frames=4, num_classes=2, downsample=True, mlp_ratio=2.0,
)  # fmt: skip
TRAIN = TrainConfig(epochs=2, batch_size=8, min_crop_area=0.5)


@pytest.fixture
def split_data(write_clip, tmp_path) -> Path:
    for split, count in (("train", 24), ("val", 3), ("test", 3)):
        for name, level in (("dark", 40), ("light", 200)):
            for i in range(count):
                write_clip(tmp_path / f"data/{split}/{name}/{i:02d}.mp4", [level + i] * 6)
    return tmp_path / "data"


def train(data: Path, out: Path, config: PosMLPConfig = CONFIG) -> list[dict]:
    """Without a cache, so that each file is read in every epoch."""
    options = {"num_workers": 0, "progress": False, "cache_gib": 0.0}
    return fit(config, TRAIN, str(data), [0], out, **options)


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


@pytest.mark.parametrize("split", ["train", "val"])
def test_run_goes_on_as_if_nothing_had_been_when_the_files_are_back(split, split_data, tmp_path):
    kept = shutil.copytree(split_data, tmp_path / "kept")
    reference = train(split_data, tmp_path / "reference")
    broken = sorted((split_data / split / "light").iterdir())
    train_and_break(split_data, tmp_path / "run", broken)
    assert (tmp_path / "run/state.safetensors").is_file()
    for path in broken:
        shutil.copyfile(kept / path.relative_to(split_data), path)
    rows = train(split_data, tmp_path / "run")
    for row, expected in zip(rows, reference, strict=True):
        for name in ("train_loss", "val_loss", "test_loss", "test_top1"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5, nan_ok=True)
    assert (tmp_path / "run/model-seed0.safetensors").is_file()


def test_run_goes_on_without_a_file_that_a_check_leaves_out(split_data, tmp_path):
    broken = sorted((split_data / "test" / "light").iterdir())[:1]
    message = train_and_break(split_data, tmp_path / "run", broken)
    assert "00.mp4" in message
    assert "posmlp data check" in message
    with pytest.raises(ValueError, match="cannot be read"):
        train(split_data, tmp_path / "run")
    assert main(["data", "check", str(split_data), "--frames", "4", "--workers", "0"]) == 1
    rows = train(split_data, tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert read_metrics(tmp_path / "run/metrics.csv")[1]["test_loss"] > 0
    assert "00.mp4" in (tmp_path / "run/config.json").read_text()


def test_run_of_another_data_set_is_still_refused(split_data, tmp_path):
    train(split_data, tmp_path / "run")
    (split_data / "train/light/00.mp4").unlink()
    with pytest.raises(ValueError, match="another configuration"):
        train(split_data, tmp_path / "run")
