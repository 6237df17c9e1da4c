from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data import clips as clips_module
from posmlp.data.check import survey
from posmlp.data.clips import ClipRule, Draw
from posmlp.data.datasets import VideoClips
from posmlp.data.files import pool
from posmlp.data.files.video import VideoError
from posmlp.data.layouts import layouts
from posmlp.train import fitting

SIZES = {"num_frames": 4, "image_size": 32, "num_workers": 0}


def level(clip: int, frame: int) -> int:
    """Return the grey level of a frame: no two frames of the first clips have the same."""
    return 20 + 40 * clip + 8 * frame


@pytest.fixture(scope="module")
def folders(write_clip, tmp_path_factory) -> Path:
    """Write ROOT/{train,test}/{a,b}, 2 wide clips of 6 frames each: levels name clip and frame."""
    root = tmp_path_factory.mktemp("folders")
    for i in range(4):
        for split in ("train", "test"):
            path = root / split / "ab"[i // 2] / f"{i}.mp4"
            write_clip(path, [level(i, k) for k in range(6)], width=64)
    (root / "train/a/notes.txt").write_text("not a video")
    (root / "train/.hidden").mkdir()
    return root


@pytest.fixture(scope="module")
def listed(write_clip, tmp_path_factory) -> Path:
    """Write a data set with dataset.json and csv files, whose order is not that of the names."""
    root = tmp_path_factory.mktemp("listed")
    rows = [("test/right/0.mp4", 0), ("test/left/1.mp4", 1), ("test/right/2.mp4", 0)]
    for i, (path, _) in enumerate(rows):
        write_clip(root / path, [level(i, k) for k in range(4)])
    with (root / "test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("path", "label", "class"), *((p, k, "") for p, k in rows)])
    about = {
        "name": "arrows",
        "classes": ["right", "left"],
        "reverse_of": {"right": "left", "left": "right"},
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def spoil(root: Path, names: list[str]) -> None:
    for name in names:
        (root / "train" / name).write_bytes(b"no video")


@pytest.fixture
def spoilt(folders, tmp_path) -> Path:
    """Copy the folders and add one unreadable file."""
    for path in (folders / "train").rglob("*.mp4"):
        copy = tmp_path / "train" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    spoil(tmp_path, ["a/00.mp4"])
    return tmp_path


def test_class_folders_give_files_and_labels_in_order(folders):
    clips = VideoClips.open(folders, "train", **SIZES)
    assert clips.classes == ("a", "b")
    assert clips.labels.tolist() == [0, 0, 1, 1]
    assert clips.labels.dtype == torch.int64
    assert [Path(p).name for p in clips.paths] == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert (len(clips), clips.reverse_of, clips.unreadable) == (4, None, [])
    assert clips.backends == Counter(decord=4)


def test_listing_gives_its_own_order_and_reversals(listed, grey_levels):
    clips = VideoClips.open(listed, "test", **SIZES)
    assert (clips.name, clips.classes) == ("arrows", ("right", "left"))
    assert clips.labels.tolist() == [0, 1, 0]
    assert clips.reverse_of is not None
    assert clips.reverse_of.tolist() == [1, 0]
    found = grey_levels(clips.batch(torch.tensor([1, 2])))
    np.testing.assert_allclose(found, [[level(i, k) for k in range(4)] for i in (1, 2)], atol=2)


def test_test_clips_follow_the_segment_rule(folders, grey_levels):
    clips = VideoClips.open(folders, "test", **SIZES)
    batch = clips.batch(torch.tensor([2, 0]))
    assert batch.shape == (2, 4, 32, 32, 3)
    assert batch.dtype == torch.uint8
    # 6 frames in 4 segments of 5/4: frames 0, 1, 2, 4
    expected = [[level(i, k) for k in (0, 1, 2, 4)] for i in (2, 0)]
    np.testing.assert_allclose(grey_levels(batch), expected, atol=2)


@pytest.mark.parametrize("cache_gib", [0.0, 2.0])
def test_videos_of_exactly_t_frames_are_taken_whole(listed, cache_gib):
    clips = VideoClips.open(listed, "test", cache_gib=cache_gib, **SIZES)
    test = clips.batch(torch.arange(3))
    train = clips.batch(torch.arange(3), rng=np.random.default_rng(0))
    assert torch.equal(test, train)
    assert all(len(frames.unique(dim=0)) == 4 for frames in test)


@pytest.mark.parametrize("training", [False, True])
def test_clips_do_not_depend_on_workers_cache_or_batches(folders, training):
    def read(num_workers: int, cache_gib: float) -> torch.Tensor:
        clips = VideoClips.open(
            folders, "train", num_frames=3, image_size=20, num_workers=num_workers,
            cache_gib=cache_gib,
        )  # fmt: skip
        assert clips.cached == (cache_gib > 0)
        rngs = [np.random.default_rng(s) for s in (5, 6)] if training else None
        batches = list(clips.batches([torch.tensor([3, 1]), torch.tensor([0, 2])], rngs=rngs))
        clips.close()
        return torch.cat(batches)

    reference = read(0, 2.0)
    assert torch.equal(read(0, 0.0), reference)
    assert torch.equal(read(2, 0.0), reference)
    assert torch.equal(read(1, 2.0), reference)


def test_cache_stays_within_its_bound(folders):
    bytes_of_a_file = 6 * 32 * 64 * 3
    for num_files, cached in ((3.9, False), (4.1, True)):
        cache_gib = num_files * bytes_of_a_file / 2**30
        clips = VideoClips.open(folders, "test", cache_gib=cache_gib, **SIZES)
        assert clips.cached == cached
        assert clips.backends == Counter(decord=4)


def test_random_clips_differ_by_seed_and_keep_order(folders, grey_levels):
    clips = VideoClips.open(folders, "train", **SIZES)
    drawn = [clips.batch(torch.tensor([0]), rng=np.random.default_rng(s)) for s in range(12)]
    levels = np.stack([grey_levels(clip)[0] for clip in drawn])
    assert (np.diff(levels, axis=1) > -2).all()
    assert len({tuple(np.round(row / 8)) for row in levels}) > 3
    again = clips.batch(torch.tensor([0]), rng=np.random.default_rng(3))
    assert torch.equal(again, drawn[3])


def test_crops_are_left_centre_and_right(tmp_path):
    for name in ("a/0.mkv", "b/0.mkv"):  # lossless: columns of black, grey, white
        path = tmp_path / "test" / name
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=8)
            stream.width, stream.height, stream.pix_fmt = 96, 32, "bgr0"
            image = np.repeat(np.array([0, 128, 255], np.uint8), 32)[None, :, None]
            frame = av.VideoFrame.from_ndarray(np.tile(image, (32, 1, 3)), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    clips = VideoClips.open(tmp_path, "test", **SIZES)
    crops = [
        clips.batch(torch.tensor([0]), crop=c, num_crops=3).unique().tolist() for c in range(3)
    ]
    assert crops == [[0], [128], [255]]
    assert clips.batch(torch.tensor([0])).unique().tolist() == [128]
    many = [clips.batch(torch.tensor([0]), rng=np.random.default_rng(s)) for s in range(20)]
    assert len({tuple(clip.unique().tolist()) for clip in many}) > 1


def quadrants(path: Path) -> None:
    """Write one lossless frame of 64 x 96: left half black, right half white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"
        image = np.zeros((64, 96, 3), np.uint8)
        image[:, 48:] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_single_test_crop_may_be_cut_from_a_larger_frame(tmp_path):
    for name in ("a", "b"):
        quadrants(tmp_path / "test" / name / "0.mkv")
    shares = {}
    for side in (0, 64):
        clips = VideoClips.open(tmp_path, "test", test_short_side=side, **SIZES)
        assert clips.cached
        shares[side] = [
            (clips.batch(torch.tensor([0]), crop=c, num_crops=n) > 128).float().mean().item()
            for c, n in ((0, 1), (0, 3), (2, 3))
        ]
    # Of the 64 x 96 frame the centre 32 are half white; shrunk to 32 x 48 so are they, but with a
    # softer edge. Three crops come from 32 x 48 in either case: 8 of the left 32 columns are white.
    assert shares[64] == pytest.approx([0.5, 0.25, 0.75], abs=0.02)
    assert shares[0] == pytest.approx(shares[64], abs=0.02)
    one = VideoClips.open(tmp_path, "test", test_short_side=64, **SIZES)
    edge = one.batch(torch.tensor([0]))[0, 0, 0, :, 0]
    assert set(edge.tolist()) == {0, 255}  # no resizing


def test_training_crops_may_be_resized(tmp_path):
    for name in ("a", "b"):
        quadrants(tmp_path / "train" / name / "0.mkv")
    clips = VideoClips.open(tmp_path, "train", min_crop_area=0.08, **SIZES)
    assert clips.cached
    drawn = [clips.batch(torch.tensor([0]), rng=np.random.default_rng(s)) for s in range(30)]
    assert {clip.shape for clip in drawn} == {(1, 4, 32, 32, 3)}
    white = np.array([(clip > 128).float().mean() for clip in drawn])
    assert white.min() < 0.05  # small crops: one side only
    assert white.max() > 0.95
    assert torch.equal(drawn[3], clips.batch(torch.tensor([0]), rng=np.random.default_rng(3)))
    assert all(torch.equal(clip[0, 0], clip[0, 3]) for clip in drawn)  # one box for all frames


@pytest.mark.parametrize("num_frames", [4, 40])
def test_training_clips_may_span_a_part_of_the_video(num_frames):
    rule = ClipRule(4, 32, min_time_share=0.5)
    drawn = np.array([rule.indices(num_frames, None, Draw(s)) for s in range(200)])
    spans = drawn.max(1) - drawn.min(1)
    assert (drawn.min(), drawn.max()) == (0, num_frames - 1)
    assert (np.diff(drawn) >= 0).all()
    assert len(set(drawn[:, 0].tolist())) > num_frames // 4
    assert np.median(spans) < 0.75 * num_frames
    whole = ClipRule(4, 32)
    assert np.array_equal(
        rule.indices(num_frames, None, Draw()), whole.indices(num_frames, None, Draw())
    )


def test_unreadable_files_are_refused_by_name(spoilt):
    with pytest.raises(VideoError, match=r"1 of 5 videos.*max_bad_share=0.2(?s:.)*a/00.mp4"):
        VideoClips.open(spoilt, "train", **SIZES)
    spoil(spoilt, [f"b/x{i}.mp4" for i in range(6)])
    with pytest.raises(VideoError, match=r"and 2 more"):
        VideoClips.open(spoilt, "train", max_bad_share=0.5, **SIZES)


@pytest.mark.parametrize("cache_gib", [0.0, 2.0])
def test_tolerated_files_are_dropped_and_never_replaced(spoilt, cache_gib, grey_levels, capsys):
    clips = VideoClips.open(spoilt, "train", max_bad_share=0.2, cache_gib=cache_gib, **SIZES)
    assert len(clips) == 4
    assert clips.labels.tolist() == [0, 0, 1, 1]
    assert [Path(e.path).name for e in clips.unreadable] == ["00.mp4"]
    assert "00.mp4" in capsys.readouterr().err
    first_frames = grey_levels(clips.batch(torch.arange(4)))[:, 0]
    np.testing.assert_allclose(first_frames, [level(i, 0) for i in range(4)], atol=2)
    assert json.loads(json.dumps(clips.describe()))["unreadable"][0]["reason"]


def test_file_that_vanishes_later_is_an_error(spoilt):
    clips = VideoClips.open(spoilt, "train", max_bad_share=0.2, cache_gib=0.0, **SIZES)
    Path(clips.paths[2]).unlink()
    with pytest.raises(VideoError, match=r"b/2.mp4"):
        clips.batch(torch.tensor([0, 2]))


def test_description_depends_on_files_and_order(folders, spoilt):
    one = VideoClips.open(folders, "train", **SIZES).describe()
    same = VideoClips.open(spoilt, "train", max_bad_share=0.2, **SIZES).describe()
    assert one["num_clips"] == 4
    assert one["num_other_files"] == 1
    assert (one["layout"], one["backends"]) == ("split-folders", {"decord": 4})
    assert one["sha256"] == same["sha256"]
    (spoilt / "train/b/3.mp4").write_bytes((spoilt / "train/b/3.mp4").read_bytes() + b"\0")
    other = VideoClips.open(spoilt, "train", max_bad_share=0.2, **SIZES).describe()
    assert one["sha256"] != other["sha256"]


def test_damaged_and_odd_files_are_counted(shared, tmp_path, capsys):
    for name, label in {"mid_corrupt.mp4": "a", "one_frame.mp4": "b", "cut_copy.mp4": "b"}.items():
        (tmp_path / "test" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / label / name).write_bytes((shared / "clips" / name).read_bytes())
    clips = VideoClips.open(tmp_path, "test", num_frames=4, image_size=32, num_workers=1)
    assert {Path(p).name: n for p, n in clips.damaged.items()} == {"mid_corrupt.mp4": 3}
    assert clips.backends == Counter(pyav=2, decord=1)
    assert "mid_corrupt.mp4: 3 of its frames" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: root / "none", "does not exist"),
        (lambda root: root / "file.txt", "is a file"),
        (lambda root: root / "empty", "is empty"),
        (lambda root: root / "bare", "no class folders"),
        (lambda root: root / "no_videos", r"class folder .*one.* holds no video"),
        (lambda root: root / "single", r"1 class \['only'\]"),
        (lambda root: root / "lonely", "has 1 video"),
        (lambda root: root / "only_test", r"split='train'.*\['test'\]"),
        (lambda root: root / "bad_label", r"train.csv:2: label '7'"),
        (lambda root: root / "bad_columns", "it needs 'path' and 'label'"),
        (lambda root: root / "bad_json", "dataset.json is not as expected"),
    ],
)
def test_folders_that_are_no_data_set_are_named(make, words, tmp_path):
    files = {
        "file.txt": "",
        "bare/readme.txt": "",
        "no_videos/train/one/x.txt": "",
        "single/train/only/1.mp4": "",
        "lonely/a/1.mp4": "",
        "lonely/b/1.mp4": "",
        "only_test/test/a/1.mp4": "",
        "bad_label/dataset.json": '{"classes": ["a", "b"]}',
        "bad_label/train.csv": "path,label\nx.mp4,7\n",
        "bad_columns/dataset.json": '{"classes": ["a", "b"]}',
        "bad_columns/train.csv": "x.mp4 1\n",
        "bad_json/dataset.json": '{"classes": ["a", "b"], "reverse_of": {"a": "c"}}',
        "bad_json/train.csv": "path,label\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=words):
        layouts.list_videos(make(tmp_path), "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"image_size": 0}, "image_size=0"),
        ({"sampling": "loop"}, "sampling='loop'"),
        ({"max_bad_share": 1.5}, "max_bad_share=1.5"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"cache_gib": -1.0}, "cache_gib=-1"),
        ({"cache_gib": float("nan")}, "cache_gib=nan"),
        ({"cache_gib": float("inf")}, "cache_gib=inf"),
        ({"min_crop_area": 0.0}, "min_crop_area=0"),
        ({"test_short_side": 31}, "test_short_side=31 holds no crop of 32"),
    ],
)
def test_bad_arguments_are_named(folders, change, words):
    with pytest.raises(ValueError, match=words):
        VideoClips.open(folders, "train", **(SIZES | change))


def test_bad_batches_are_named(listed):
    clips = VideoClips.open(listed, "test", **SIZES)
    with pytest.raises(IndexError, match="clips 0 to 2"):
        clips.batch(torch.tensor([3]))
    with pytest.raises(IndexError, match="from -1"):
        clips.batch(torch.tensor([-1]))
    with pytest.raises(ValueError, match="view=1"):
        clips.batch(torch.tensor([0]), view=1)
    with pytest.raises(ValueError, match="one generator a batch"):
        list(clips.batches([torch.tensor([0])] * 2, rngs=[np.random.default_rng(0)]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_long_film_is_decoded_clip_by_clip_beside_cached_ones(
    num_workers, write_clip, tmp_path, monkeypatch
):
    for i in range(4):
        path = tmp_path / "train" / "ab"[i // 2] / f"{i}.mp4"
        write_clip(path, [level(i, k % 10) for k in range(60 if i == 1 else 6)], width=64)
    sizes = SIZES | {"num_workers": num_workers}
    monkeypatch.setattr(clips_module, "LONG_FILM", 32 * 64 * 20)
    if num_workers:  # a worker knows nothing of the patch
        monkeypatch.setattr(survey, "load_whole", load_whole_but_of_60)
    plain = VideoClips.open(tmp_path, "train", **(sizes | {"cache_gib": 0.0}))
    kept = VideoClips.open(tmp_path, "train", **sizes)
    again = VideoClips.open(tmp_path, "train", **sizes)
    order = [torch.tensor([3, 1, 0, 2])] * 2

    def read(clips):
        with closing(clips):
            drawn = clips.batches(order, rngs=[np.random.default_rng(s) for s in (1, 2)])
            return torch.cat([*drawn, clips.batch(order[0])])

    assert [clips.kept["where"] for clips in (plain, kept, again)] == ["nowhere", "disk", "disk"]
    expected = read(plain)
    assert torch.equal(read(kept), expected)
    assert torch.equal(read(again), expected)


@pytest.mark.parametrize("cache_gib", [0.0, 2.0])
def test_splits_share_their_decoding_workers(cache_gib, folders, tmp_path, monkeypatch):
    started, plain = [], pool._Workers.Process

    def start(*arguments, **options):
        started.append(plain(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(pool._Workers, "Process", start)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = PosMLPConfig(num_frames=4, image_size=32, num_classes=2)
    opened = fitting.open_splits(str(folders), config, TrainConfig(), 1, cache_gib)
    with ExitStack() as stack:
        for clips in opened:
            stack.enter_context(closing(clips))
        assert [clips.split for clips in opened] == ["train", "test"]
        assert len(started) == 1
        assert started[0].is_alive() == (cache_gib == 0)
        for clips in opened:
            assert len(list(clips.batches([torch.arange(2)]))) == 1
    assert len(started) == 1
    assert not started[0].is_alive()


def test_training_says_which_files_are_tested_too_and_which_classes_are_not_learned(
    write_clip, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(5):
        write_clip(tmp_path / f"data/v/{i}.mp4", [40 * i] * 6)
    for split, own in (("train", ["0.mp4,a", "1.mp4,b", "2.mp4,a"]),
                       ("test", ["2.mp4,a", "3.mp4,b", "4.mp4,c"])):  # fmt: skip
        rows = "\n".join(f"v/{row}" for row in own)
        (tmp_path / f"data/{split}.csv").write_text(f"path,label\n{rows}")
    config = PosMLPConfig(num_frames=4, image_size=32, num_classes=3)
    for clips in fitting.open_splits(str(tmp_path / "data"), config, TrainConfig(), 0):
        clips.close()
    said = capsys.readouterr().err
    assert "1 file(s) of test are in train too, the first" in said
    assert "2.mp4, so that what is scored was trained on" in said
    assert "no training clip is of c, which test clips are of" in said


def load_whole_but_of_60(path, *rest):
    clips_module.LONG_FILM = 32 * 64 * 20
    return clips_module.load_whole(path, *rest)


def test_script_without_a_guard_trains(write_clip, tmp_path):
    for i in range(12):
        write_clip(
            tmp_path / "data" / "ab"[i % 2] / f"{i}.mp4", [level(i % 4, k) for k in range(6)]
        )
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys\n"
        "from posmlp.train import TrainConfig, fit\n"
        "print('begun')\n"
        "fit('toy', TrainConfig(epochs=1, batch_size=4), sys.argv[1], num_workers=1)\n"
        "print('trained')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == ["begun", "trained"], done.stderr
