"""Decoded frames on disk: the same clips, shared, within their bound, and never trusted blindly."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from posmlp.config import TrainConfig
from posmlp.data.check import survey
from posmlp.data.datasets import VideoClips
from posmlp.data.files import frame_cache, frame_file
from posmlp.data.user_cache import cache_folder, usable_cores
from posmlp.presets import resolve
from posmlp.train.fitting import fit
from tests.ablations.ablation_tasks import wait_until

SIZES = {"num_frames": 4, "image_size": 32, "num_workers": 0}
ENTRY_BYTES = 4 * 6 * 32 * 48 * 3
CONFIG = resolve(
    "toy", num_classes=2, depths=(1, 1), dims=(8, 16), num_groups=2, windows=(4, 2),
    temporal_windows=4, image_size=16, num_frames=4, downsample=True, mlp_ratio=2.0,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return where entries go; there are none."""
    if shutil.disk_usage(tmp_path).free < 2 * frame_file.MIN_FREE_BYTES:
        pytest.skip("less than 2 GiB are free, of which the cache leaves one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder("frames")


def write_videos(
    write_clip, root: Path, first: int = 0, num_frames: int = 6, height: int = 32, width: int = 48
) -> Path:
    for split in ("train", "test"):
        for i in range(4):
            levels = [first + 40 * i + 8 * k for k in range(num_frames)]
            write_clip(root / split / "ab"[i // 2] / f"{i}.mp4", levels, height=height, width=width)
    return root


@pytest.fixture
def data(write_clip, tmp_path) -> Path:
    return write_videos(write_clip, tmp_path / "data")


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Return the files that come to be decoded whole."""
    paths: list[str] = []
    real = survey.load_whole

    def noted(path, *rest):
        paths.append(path)
        return real(path, *rest)

    monkeypatch.setattr(survey, "load_whole", noted)
    return paths


def read(clips: VideoClips) -> torch.Tensor:
    """All clips: two random draws and the test view."""
    every = [torch.arange(len(clips))] * 2
    drawn = clips.batches(every, rngs=[np.random.default_rng(s) for s in (1, 2)])
    return torch.cat([*drawn, clips.batch(every[0])])


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.frames"))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("num_frames", "rule"),
    [(4, {}), (6, {}), (4, {"min_crop_area": 0.3}), (6, {"test_short_side": 40})],
    ids=["taken whole", "chosen from", "crops of any size", "a larger test side"],
)
def test_clips_from_the_cache_are_those_decoded(
    write_clip, tmp_path, folder, decoded, num_frames, rule, split
):
    data = write_videos(write_clip, tmp_path / "data", num_frames=num_frames, height=48, width=72)
    options = SIZES | rule
    plain = VideoClips.open(data, split, cache_gib=0.0, **options)
    made = VideoClips.open(data, split, **options)
    assert len(decoded) == 4
    found = VideoClips.open(data, split, **options)
    assert len(decoded) == 4
    assert [clips.kept["where"] for clips in (plain, made, found)] == ["nowhere", "disk", "disk"]
    assert torch.equal(read(made), read(plain))
    assert torch.equal(read(found), read(plain))
    assert made.describe() == found.describe() == plain.describe()


def test_models_with_other_clips_share_an_entry(data, folder, decoded):
    one = VideoClips.open(data, "train", **SIZES)
    other = VideoClips.open(data, "train", sampling="dense", **(SIZES | {"num_frames": 3}))
    assert other.kept == one.kept == {"where": "disk", "why": ""}
    assert len(decoded) == 4
    VideoClips.open(data, "train", **(SIZES | {"image_size": 16}))
    assert len(decoded) == 8


def test_changed_files_are_decoded_again(data, folder, decoded):
    VideoClips.open(data, "train", **SIZES)
    path = data / "train/a/1.mp4"
    before = path.stat()
    path.write_bytes((data / "train/b/2.mp4").read_bytes())
    os.truncate(path, before.st_size)  # so that only the time tells
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    VideoClips.open(data, "train", **SIZES)
    assert len(decoded) == 8


def cut(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("spoil", [cut, flip, empty, swap])
def test_damaged_or_foreign_entries_are_made_again(data, folder, decoded, spoil, capsys):
    expected = read(VideoClips.open(data, "train", **SIZES))
    (mine,) = entries(folder)
    VideoClips.open(data, "test", **SIZES)
    (other,) = set(entries(folder)) - {mine}
    good = mine.read_bytes()
    gc.collect()  # maps of the file, so that it may be spoilt
    spoil(mine, other)
    decoded.clear()
    assert torch.equal(read(VideoClips.open(data, "train", **SIZES)), expected)
    assert len(decoded) == 4
    assert f"{mine.name} cannot be used" in capsys.readouterr().err
    assert mine.read_bytes() == good


def test_entries_used_longest_ago_make_room(write_clip, tmp_path, folder, decoded):
    limit = 2.5 * ENTRY_BYTES
    roots = [write_videos(write_clip, tmp_path / f"data{i}", first=i) for i in range(3)]
    for root in (roots[0], roots[1], roots[0], roots[2]):  # the second is used longest ago
        VideoClips.open(root, "train", cache_gib=limit / 2**30, **SIZES)
        gc.collect()
        assert sum(path.stat().st_size for path in folder.iterdir()) <= limit
    assert len(decoded) == 12
    for root in (roots[0], roots[2]):
        VideoClips.open(root, "train", cache_gib=limit / 2**30, **SIZES)
    assert len(decoded) == 12


def test_entries_in_use_are_not_removed(data, folder, capsys):
    gib = 1.5 * ENTRY_BYTES / 2**30
    train = VideoClips.open(data, "train", cache_gib=gib, **SIZES)
    kept = entries(folder)
    test = VideoClips.open(data, "test", cache_gib=gib, **SIZES)
    assert entries(folder) == kept
    assert (train.kept["where"], test.kept["where"]) == ("disk", "memory")
    assert "leave no room" in test.kept["why"]
    assert "in this process's memory, not on disk: frames in use" in capsys.readouterr().err
    assert torch.equal(read(test), read(VideoClips.open(data, "test", cache_gib=0.0, **SIZES)))
    del train
    gc.collect()
    assert VideoClips.open(data, "test", cache_gib=gib, **SIZES).kept["where"] == "disk"


def test_folder_that_cannot_be_written_leaves_memory(data, folder, capsys, monkeypatch):
    expected = read(VideoClips.open(data, "train", cache_gib=0.0, **SIZES))
    folder.parents[1].write_text("a file where the folder would be")
    clips = VideoClips.open(data, "train", **SIZES)
    assert clips.kept["where"] == "memory"
    assert clips.kept["why"] in capsys.readouterr().err
    assert torch.equal(read(clips), expected)
    monkeypatch.setattr(frame_cache, "MEMORY_BYTES", ENTRY_BYTES - 1)
    clips = VideoClips.open(data, "train", **SIZES)
    assert clips.kept["where"] == "nowhere"
    assert "not on disk" in clips.kept["why"]
    assert torch.equal(read(clips), expected)


@pytest.mark.parametrize("num_videos", [0.5, 2.5, 4], ids=["at first", "midway", "at its end"])
def test_full_disk_leaves_memory_and_no_file(data, folder, num_videos):
    expected = read(VideoClips.open(data, "train", cache_gib=0.0, **SIZES))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(num_videos * ENTRY_BYTES / 4), before[1]))
    try:
        clips = VideoClips.open(data, "train", **SIZES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert clips.kept == {"where": "memory", "why": "File too large"}
    assert torch.equal(read(clips), expected)
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_disk_is_not_filled_to_its_end(data, folder, monkeypatch):
    monkeypatch.setattr(frame_file, "MIN_FREE_BYTES", 2**60)
    clips = VideoClips.open(data, "train", **SIZES)
    assert (clips.kept["where"], clips.kept["why"][:13]) == ("memory", "the disk has ")


OPEN_SLOWLY = """
import os, sys, time
from pathlib import Path
from posmlp.data.check import survey
from posmlp.data.datasets import VideoClips

root, home, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
name = names[-1] if len(names) > 1 and os.fork() else names[0]
sys.stderr = (home / f"{name}.err").open("w", 1)
real, count = survey.load_whole, 0

def slowly(*arguments):
    global count
    count += 1
    (home / f"{name}.started").touch()
    while not (home / "go").exists():
        time.sleep(0.01)
    return real(*arguments)

survey.load_whole = slowly
clips = VideoClips.open(root, "train", num_frames=4, image_size=32, num_workers=0)
print(count, clips.kept["where"], int(clips.batch(clips.labels * 0 + 1).sum()))
"""


def open_slowly(data: Path, home: Path, names: str) -> subprocess.Popen[str]:
    """Processes that open the data, and read no file of it before HOME/go is there.

    `names`: a letter for the one, or two letters. Its standard error is HOME/LETTER.err.
    """
    return subprocess.Popen(
        [sys.executable, "-c", OPEN_SLOWLY, str(data), str(home), names],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_processes_at_once_decode_once(data, folder, tmp_path):
    both = open_slowly(data, tmp_path, "ab")

    def num_waiting() -> int:
        return sum("waiting for" in path.read_text() for path in tmp_path.glob("*.err"))

    try:
        wait_until(num_waiting, both)
        assert num_waiting() == 1
    finally:
        (tmp_path / "go").touch()
    found = sorted(line.split() for line in both.communicate()[0].splitlines())
    assert [count for count, *_ in found] == ["0", "4"]
    assert found[0][1:] == found[1][1:]
    assert found[0][1] == "disk"


def test_maker_that_was_killed_harms_nobody(data, folder, tmp_path):
    maker = open_slowly(data, tmp_path, "m")
    wait_until((tmp_path / "m.started").exists, maker)
    maker.kill()
    maker.communicate()
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".lock"] == [".partial"]
    clips = VideoClips.open(data, "train", **SIZES)
    assert clips.kept["where"] == "disk"
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".lock"] == [".frames"]


def test_numbers_and_resuming_do_not_depend_on_the_cache(data, folder, tmp_path, capsys):
    train = TrainConfig(epochs=2, batch_size=2)

    def rows(name: str, cache_gib: float, epochs: int = 2) -> list[dict[str, object]]:
        found = fit(
            CONFIG, replace(train, epochs=epochs), str(data), out=tmp_path / name, num_workers=0,
            cache_gib=cache_gib,
        )  # fmt: skip
        return [
            {k: v for k, v in r.items() if k not in ("seconds", "data_wait_share")} for r in found
        ]

    plain = rows("plain", 0.0)
    assert rows("cached", 2.0) == plain
    assert "waited for clips: " in capsys.readouterr().err
    made = json.loads((tmp_path / "cached/environment.json").read_text())
    assert made["frames_kept"]["train"] == {"where": "disk", "why": ""}
    assert rows("plain", 2.0) == plain  # it is the same run whether its frames are kept


@pytest.mark.parametrize(
    ("told", "quotas", "cores"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1),
        ("0::/\n", {"cpu.max": "150000 100000"}, 1),  # as a container sees itself
        ("0::/docker/x\n", {"cpu.max": "50000 100000"}, 1),  # its host's name for it
        ("4:cpu,cpuacct:/a\n1:name=systemd:/\n", {"cpu/a/cpu.cfs": "100000 100000"}, 1),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs": "-1 100000"}, None),
        ("0::/a\n", {"a/cpu.max": "9900000 100000"}, None),
        ("", {}, None),
    ],
)
def test_usable_cores_are_those_of_affinity_and_control_groups(
    tmp_path: Path, told: str, quotas: dict[str, str], cores: int | None
) -> None:
    (tmp_path / "cgroup").write_text(told)
    for name, text in quotas.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("cfs"):
            for what, value in zip(("quota", "period"), text.split(), strict=True):
                Path(f"{path}_{what}_us").write_text(f"{value}\n")
        else:
            path.write_text(f"{text}\n")
    allowed = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path / "groups", tmp_path) == (cores or allowed)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone pins processes")
def test_usable_cores_are_those_that_taskset_leaves() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
