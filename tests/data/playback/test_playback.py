"""Laws of the ways of playing: exact pairs, nothing leaks between files, and what is left out."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from posmlp.cli import main
from posmlp.data.files.video import read_video
from posmlp.data.layouts.layouts import list_videos
from posmlp.data.playback.footage import Footage, find_footage
from posmlp.data.playback.playback import (
    CLASSES,
    Cut,
    Source,
    draw_windows,
    smallest_step,
    write_playback,
)

CUT = Cut(num_windows=4, image_size=32)
NUM_FRAMES = 44


def picture(seed: int, shift: int) -> NDArray[np.uint8]:
    """A texture of its own for each seed, 48 x 64, `shift` pixels along."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 40, 3), dtype=np.uint8)
    wide = blocks.repeat(8, 0).repeat(8, 1)
    return wide[:, shift : shift + 64]


def film(
    path: Path,
    seed: int,
    shifts: list[int],
    codec: str = "libx264",
    skipped: frozenset = frozenset(),
) -> Path:
    """Write a file that pans over a texture; frames in `skipped` are missing from its clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"qp": "10", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for k, shift in enumerate(shifts):
            if k in skipped:
                continue
            frame = av.VideoFrame.from_ndarray(picture(seed, shift), format="rgb24")
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three moving films, and one of each kind that cannot be used."""
    root = tmp_path_factory.mktemp("videos")
    pan = list(range(NUM_FRAMES))
    film(root / "a.mp4", 1, pan)
    film(root / "deeper/b.mp4", 2, pan[::-1])
    film(root / "c.mkv", 3, pan)
    film(root / "c-again.mp4", 3, pan[:36])
    film(root / "still.mp4", 4, [0] * NUM_FRAMES)
    film(root / "short.mp4", 5, pan[:20])
    (root / "broken.mp4").write_bytes(b"not a video")
    (root / "notes.txt").write_text("not a video either")
    return root


@pytest.fixture(scope="module")
def made(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Source]]:
    root = tmp_path_factory.mktemp("made") / "playback"
    return root, write_playback(root, videos, CUT, num_folds=3, progress=False)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def frames_of(root: Path, row: dict[str, str]) -> NDArray[np.uint8]:
    return read_video(root / "fold-0" / row["path"]).frames


# ------------------------------------------------------------------------------- ways of playing


@pytest.mark.parametrize("num_frames", [4, 8, 16])
@pytest.mark.parametrize("stride", [1, 3])
def test_ways_of_playing_begin_and_end_alike(num_frames: int, stride: int) -> None:
    cut = Cut(num_frames=num_frames, stride=stride)
    even, quickening, starting = (cut.times(pair) for pair in range(3))
    for times in (even, quickening, starting):
        assert (times[0], times[-1], len(times)) == (0, cut.span, num_frames)
    assert len(set(np.diff(even))) == 1
    assert (np.diff(np.diff(quickening)) == stride).all()
    assert (np.diff(starting)[: num_frames // 2 - 1] == 0).all()
    assert len(set(np.diff(starting)[num_frames // 2 - 1 :])) == 1


def test_clips_of_a_pair_are_exact_reversals(made: tuple[Path, list[Source]]) -> None:
    root, _ = made
    for split in ("train", "test"):
        table = rows(root / "fold-0" / f"{split}.csv")
        assert table
        for first, second in zip(table[::2], table[1::2], strict=True):
            assert first["pair"] == second["pair"]
            assert int(first["label"]) ^ 1 == int(second["label"])
            clip = frames_of(root, first)
            assert np.array_equal(clip, frames_of(root, second)[::-1])
            assert not np.array_equal(clip, clip[::-1])


def test_clips_show_what_their_class_says(made: tuple[Path, list[Source]]) -> None:
    """The pan is one pixel a frame, so that a clip's steps tell how its frames were taken."""
    root, _ = made
    for row in rows(root / "fold-0/train.csv"):
        steps = np.abs(np.diff(frames_of(root, row).astype(float), axis=0)).mean((1, 2, 3))
        early, late = steps[:3].mean(), steps[-3:].mean()
        assert (steps[:3].max() == 0) == (row["class"] == "starting")
        assert (steps[-3:].max() == 0) == (row["class"] == "stopping")
        if row["class"] == "quickening":
            assert late > 1.3 * early
        if row["class"] == "slowing":
            assert early > 1.3 * late


def test_motion_gain_removes_the_scene_and_keeps_pairs(videos: Path, tmp_path: Path) -> None:
    cut = Cut(num_windows=2, motion_gain=2.0)
    write_playback(tmp_path / "out", videos, cut, progress=False)
    table = rows(tmp_path / "out/fold-0/train.csv")
    for first, second in zip(table[::2], table[1::2], strict=True):
        clip = frames_of(tmp_path / "out", first)
        assert np.array_equal(clip, frames_of(tmp_path / "out", second)[::-1])
        assert np.abs(clip.mean(axis=0) - 128).mean() < 16, "the mean frame is grey"
        assert clip.std() > 20


def test_forward_is_as_filmed_and_other_ways_are_filmed_both_ways(videos: Path) -> None:
    files, _ = find_footage(videos, CUT.span, progress=False)
    windows = draw_windows(files[0], Cut(num_windows=60))
    ends = np.array([w.frames(files[0], CUT)[:, [0, -1]] for w in windows])
    filmed_forward = ends[..., 0] < ends[..., 1]
    assert filmed_forward[:, 0].all()
    assert (np.abs(filmed_forward[:, 1:].mean(axis=0) - 0.5) < 0.2).all()


def test_windows_spread_over_time_and_crops(videos: Path) -> None:
    file = find_footage(videos, CUT.span, progress=False)[0][0]
    windows = draw_windows(file, Cut(num_windows=50))
    room = file.times[-1] - CUT.span
    parts = [int(w.start / room * 50) for w in windows]
    assert parts == list(range(50))
    left, top, side = np.array([w.box for w in windows]).T
    assert min(np.ptp(left), np.ptp(top)) > 0.8
    assert side.min() >= 0.5
    assert side.max() <= 1


# -------------------------------------------------------------------------------------- leakage


def test_no_file_is_in_training_and_test(made: tuple[Path, list[Source]]) -> None:
    root, sources = made
    tested = []
    for fold in range(3):
        train = {row["source"] for row in rows(root / f"fold-{fold}/train.csv")}
        test = {row["source"] for row in rows(root / f"fold-{fold}/test.csv")}
        assert not train & test
        assert train | test == {s.file for s in sources if not s.left_out}
        assert json.loads((root / f"fold-{fold}/dataset.json").read_text())["test_files"] == [*test]
        tested += test
    assert sorted(tested) == ["a.mp4", "c.mkv", "deeper/b.mp4"], "each is tested once"


def test_every_class_has_as_many_clips(made: tuple[Path, list[Source]]) -> None:
    root, _ = made
    counts = Counter(row["class"] for row in rows(root / "fold-0/train.csv"))
    assert set(counts) == set(CLASSES)
    assert set(counts.values()) == {8}, "2 films of 4 windows, all of which move"


# ------------------------------------------------------------------------- what is left out, errors


def test_what_is_left_out_is_named(made: tuple[Path, list[Source]]) -> None:
    reasons = {source.file: source.left_out for source in made[1]}
    assert "cannot be opened as a video" in reasons["broken.mp4"]
    assert reasons["c-again.mp4"] == "shows the same footage as c.mkv"  # which is longer
    assert reasons["c.mkv"] == ""
    assert reasons["short.mp4"] == "too short: 20 frames, a window takes 29"
    assert reasons["still.mp4"] == "hardly moves: all 4 windows are too still"
    listed = {row["file"]: row["left_out"] for row in rows(made[0] / "sources.csv")}
    assert listed == reasons


def test_still_windows_are_left_out_and_counted(tmp_path: Path) -> None:
    half = [0] * 60 + list(range(60))
    for seed in (1, 2):
        film(tmp_path / f"in/{seed}.mp4", seed, half)
    cut = Cut(num_windows=12)
    sources = write_playback(tmp_path / "out", tmp_path / "in", cut, progress=False)
    for source in sources:
        assert source.windows + source.hardly_moving == cut.num_windows
        assert 3 <= source.windows <= 8
    for row in rows(tmp_path / "out/fold-0/train.csv"):
        if row["class"] == "forward":
            assert smallest_step(frames_of(tmp_path / "out", row)) > 1


def test_damaged_file_is_left_out(videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos, tmp_path / "in")
    film(tmp_path / "in/cut.mkv", 6, list(range(NUM_FRAMES)))
    data = (tmp_path / "in/cut.mkv").read_bytes()
    (tmp_path / "in/cut.mkv").write_bytes(data[: len(data) // 2])
    sources = write_playback(tmp_path / "out", tmp_path / "in", CUT, progress=False)
    reasons = {source.file: source.left_out for source in sources}
    assert reasons["cut.mkv"].startswith(("too short", "damaged")), reasons["cut.mkv"]


def test_uneven_file_is_played_by_its_clock(tmp_path: Path) -> None:
    """Of a file that lost frames, the frames shown nearest to the wanted times are taken."""
    film(tmp_path / "uneven.mp4", 1, list(range(60)), skipped=frozenset(range(20, 30)))
    (file,), _ = find_footage(tmp_path, 28, progress=False)
    assert len(file.times) == 50
    assert file.times[19:21].tolist() == pytest.approx([19, 30])
    assert file.frames_at(np.array([0.0, 10, 19.4, 24, 26, 31, 59])).tolist() == [
        0, 10, 19, 19, 20, 21, 49,
    ]  # fmt: skip


def few(tmp_path: Path, name: str) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    if name in ("one", "twice"):
        film(root / "a.mp4", 1, list(range(NUM_FRAMES)))
    if name == "twice":
        film(root / "b.mp4", 1, list(range(NUM_FRAMES)))
    return root


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("empty", [], "holds no videos"),
        ("one", [], "has 1 files that can be cut"),
        ("twice", [], "shows the same footage as"),
        ("one", ["--folds", "1"], "num_folds=1 leaves nothing to train on"),
        ("one", ["--frames", "7"], "num_frames=7 must be even"),
        ("one", ["--size", "48"], "image_size=48 is a width that decord reads with wrong"),
        ("one", ["--windows", "0"], "num_windows=0 must be at least 1"),
        ("one", ["--min-motion", "-1"], "min_motion=-1.0 must not be negative"),
    ],
)
def test_bad_input_is_one_clear_error(
    name: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = few(tmp_path, name)
    out = tmp_path / "out"
    assert main(["data", "make", "playback", str(out), "--videos", str(folder), *options]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["in"], "nothing is left behind"


def test_full_folder_and_missing_videos_are_refused(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(ValueError, match="no folder at"):
        write_playback(tmp_path / "out", tmp_path / "nowhere", progress=False)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something already"):
        write_playback(tmp_path, videos, progress=False)


# ---------------------------------------------------------------------------------------- as data


def test_same_files_and_seed_give_the_same_clips(
    made: tuple[Path, list[Source]], videos: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    write_playback(again, videos, CUT, num_folds=3, progress=False)
    for row in rows(made[0] / "fold-0/test.csv"):
        assert np.array_equal(frames_of(made[0], row), frames_of(again, row))
    other = tmp_path / "other"
    write_playback(other, videos, Cut(num_windows=4, seed=1), num_folds=3, progress=False)
    first = [frames_of(root, rows(root / "fold-0/train.csv")[0]) for root in (again, other)]
    assert not np.array_equal(*first)


def test_windows_do_not_depend_on_other_files() -> None:
    times = np.arange(50.0)
    here, there = (Footage(Path(folder) / "a.mp4", "a.mp4", times) for folder in ("x", "y"))
    assert draw_windows(here, CUT) == draw_windows(there, CUT)
    for other in ("b", os.fsdecode(b"caf\xe9.mp4")):
        assert draw_windows(here, CUT) != draw_windows(Footage(Path("b"), other, times), CUT)


def test_command_makes_folds_that_train(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--windows", "4", "--folds", "3"]
    assert main(["data", "make", "playback", str(out), "--videos", str(videos), *words]) == 0
    said = capsys.readouterr().out
    assert "12 windows of 3 files, six clips each; 0 more hardly move" in said
    assert "left out: broken.mp4: " in said
    assert len(list_videos(out / "fold-2", "train").paths) == 48
    run = ["--out", str(tmp_path / "run"), "layout=S", "epochs=1", "batch_size=16"]
    assert main(["train", "--data", str(out / "fold-0"), "--workers", "0", *run]) == 0
    assert "within pairs 50.0%" in capsys.readouterr().out, "blind to order, at chance"
