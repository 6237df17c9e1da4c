"""Each layout on real files: clips of one grey level each, in folders as distributed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posmlp.data.clips import ClipRule, Draw, load_clip
from posmlp.data.datasets import VideoClips
from posmlp.data.files.video import read_video
from posmlp.data.layouts.class_names import class_names
from posmlp.data.layouts.layouts import LAYOUTS, list_videos, read_listing, say, split_spec
from posmlp.data.layouts.listing import SPLITS
from posmlp.data.mirror import mirror_of

SIZES = {"num_frames": 4, "image_size": 32, "num_workers": 0}
NUM_FRAMES = 6

Put = Callable[[str, int], None]
Build = Callable[[Path, Put, Put], None]


def level(clip: int) -> int:
    """The grey level of clip 0, 1, ..."""
    return 30 + 30 * clip


def texts(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def put(write_clip, tmp_path) -> Put:
    """Return a function that writes the video of a clip at a path below the root."""

    def write(name: str, clip: int) -> None:
        vp8 = {"codec": "libvpx", "options": {"deadline": "realtime"}}
        write_clip(
            tmp_path / name,
            [level(clip)] * NUM_FRAMES,
            **(vp8 if name.endswith(".webm") else {}),
        )

    return write


@pytest.fixture
def put_frames(tmp_path) -> Put:
    """Return a function that writes a folder of frames; `%d` in the name is the frame's number."""

    def write(name: str, clip: int) -> None:
        for number in range(1, NUM_FRAMES + 1):
            path = tmp_path / (name % number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 32), (level(clip),) * 3).save(path, quality=95)

    return write


# ---- One builder a layout: train clips 0 to 2 of classes 0, 1, 0 and test clips 3, 4 of 1, 0 -----

PLACES = ["u/0.mp4", "v/1.mp4", "u/2.mp4", "v/3.mp4", "u/4.mp4"]
LABELS = [0, 1, 0, 1, 0]
NAMES = ("Pulling something from left to right", "Pulling something from right to left")


def kinetics(separator: str, header: str = "", names: str = "") -> Build:
    def build(root: Path, put: Put, put_frames: Put) -> None:
        for clip, place in enumerate(PLACES):
            put(place, clip)
        rows = [f"{p}{separator}{k}" for p, k in zip(PLACES, LABELS, strict=True)]
        texts(root, {"train.csv": "\n".join([*filter(None, [header]), *rows[:3]]) + "\n"})
        texts(root, {"val.csv": "\n".join([*filter(None, [header]), *rows[3:]])})
        if names:
            texts(root, {"kinetics_400_categroies.txt": names})

    return build


def kinetics_official(root: Path, put: Put, put_frames: Put) -> None:
    for clip in range(5):
        put(
            f"clips/{'train' if clip < 3 else 'val'}/-id{clip}_{clip:06d}_{clip + 10:06d}.mp4", clip
        )
    header = "label,youtube_id,time_start,time_end,split"
    names = ["air drumming", "zumba"]
    rows = [f"{names[k]},-id{i},{i},{i + 10},train" for i, k in enumerate(LABELS)]
    texts(
        root,
        {"train.csv": "\n".join([header, *rows[:3]]), "val.csv": "\n".join([header, *rows[3:]])},
    )


def ssv1_official(root: Path, put: Put, put_frames: Put) -> None:
    for clip in range(5):
        put_frames(f"20bn-something-something-v1/{100 + clip}/%05d.jpg", clip)
    rows = [f"{100 + i};{NAMES[k]}" for i, k in enumerate(LABELS)]
    stem = "something-something-v1"
    texts(
        root,
        {f"{stem}-train.csv": "\n".join(rows[:3]), f"{stem}-validation.csv": "\n".join(rows[3:])},
    )
    texts(root, {f"{stem}-labels.csv": "\n".join(NAMES), f"{stem}-test.csv": "100\n101"})


def released_frame_lists(version: str) -> Build:
    def build(root: Path, put: Put, put_frames: Put) -> None:
        for clip in range(5):
            put_frames(f"frames/{100 + clip}/%06d.jpg", clip)
        rows = [f"{100 + i} {NUM_FRAMES} {k}" for i, k in enumerate(LABELS)]
        stem = f"somesome{version}_rgb"
        texts(root, {f"{stem}_train_split.txt": "\n".join(rows[:3])})
        texts(root, {f"{stem}_validation_split.txt": "\n".join(rows[3:])})
        texts(root, {"category.txt": "\n".join(NAMES)})

    return build


def ssv2_official(root: Path, put: Put, put_frames: Put) -> None:
    templates = ["Pulling [something] from left to right", "Pulling [something] from right to left"]
    for clip in range(5):
        put(f"20bn-something-something-v2/{100 + clip}.webm", clip)
    entries = [
        {
            "id": str(100 + i),
            "label": "pulling a cup",
            "template": templates[k],
            "placeholders": ["a cup"],
        }
        for i, k in enumerate(LABELS)
    ]
    stem = "labels/something-something-v2"
    texts(root, {f"{stem}-train.json": json.dumps(entries[:3])})
    texts(root, {f"{stem}-validation.json": json.dumps(entries[3:])})
    texts(root, {f"{stem}-test.json": json.dumps([{"id": "100"}])})
    texts(root, {f"{stem}-labels.json": json.dumps({NAMES[1]: "1", NAMES[0]: "0"})})


def ssv2_frame_tables(root: Path, put: Put, put_frames: Put) -> None:
    for clip in range(5):
        put_frames(f"{100 + clip}/{100 + clip}_%06d.jpg", clip)
    header = "original_vido_id video_id frame_id path labels"

    def table(clips: list[int], label: str) -> str:
        rows = [
            f'{100 + c} {c} {n} {100 + c}/{100 + c}_{n + 1:06d}.jpg "{label or LABELS[c]}"'
            for c in clips
            for n in range(NUM_FRAMES)
        ]
        return "\n".join([header, *rows])

    texts(root, {"train.csv": table([0, 1, 2], ""), "val.csv": table([3, 4], "")})
    texts(root, {"category.txt": "\n".join(NAMES)})


def ucf101(root: Path, put: Put, put_frames: Put) -> None:
    names = [f"{'Archery' if k == 0 else 'YoYo'}/v_{i} a.avi" for i, k in enumerate(LABELS)]
    for clip, name in enumerate(names):
        put(f"UCF-101/{name}", clip)
    train = "\n".join(f"{n} {k + 1}" for n, k in zip(names[:3], LABELS, strict=False))
    texts(root, {"ucfTrainTestlist/classInd.txt": "1 Archery\n2 YoYo\n"})
    texts(
        root,
        {
            "ucfTrainTestlist/trainlist01.txt": train,
            "ucfTrainTestlist/testlist01.txt": "\n".join(names[3:]),
        },
    )
    other = "\n".join(f"{n} {k + 1}" for n, k in zip(names[3:], LABELS[3:], strict=True))
    texts(
        root,
        {
            "ucfTrainTestlist/trainlist02.txt": other,
            "ucfTrainTestlist/testlist02.txt": "\n".join(names[:3]),
        },
    )


def hmdb51(root: Path, put: Put, put_frames: Put) -> None:
    for clip, label in enumerate(LABELS):
        put(f"{'brush_hair' if label == 0 else 'wave'}/a#{clip} (1).avi", clip)
    put("wave/unused.avi", 0)
    texts(
        root,
        {"splits/brush_hair_test_split1.txt": "a#0 (1).avi 1 \na#2 (1).avi 1 \na#4 (1).avi 2 \n"},
    )
    texts(root, {"splits/wave_test_split1.txt": "a#1 (1).avi 1 \na#3 (1).avi 2 \nunused.avi 0 \n"})
    texts(
        root,
        {"splits/brush_hair_test_split2.txt": "a#0 (1).avi 2 \na#2 (1).avi 1 \na#4 (1).avi 1 \n"},
    )
    texts(root, {"splits/wave_test_split2.txt": "a#1 (1).avi 2 \na#3 (1).avi 1 \nunused.avi 0 \n"})


def split_folders(root: Path, put: Put, put_frames: Put) -> None:
    for clip, label in enumerate(LABELS):
        put(f"{'train' if clip < 3 else 'val'}/{'xy'[label]}/{clip}.mkv", clip)


def split_folders_of_frames(root: Path, put: Put, put_frames: Put) -> None:
    for clip, label in enumerate(LABELS):
        put_frames(f"{'train' if clip < 3 else 'test'}/{'xy'[label]}/{clip}/img_%05d.png", clip)


BUILDERS: dict[str, tuple[Build, str, tuple[str, ...]]] = {
    "kinetics comma": (kinetics(","), "kinetics", ("u", "v")),
    "kinetics space": (kinetics(" "), "kinetics", ("u", "v")),
    "kinetics comma, header": (kinetics(",", "path,label"), "kinetics", ("u", "v")),
    "kinetics space, header": (kinetics(" ", "path label"), "kinetics", ("u", "v")),
    "kinetics, named": (
        kinetics(",", "", "zumba\t1\nair drumming\t0"),
        "kinetics",
        ("air drumming", "zumba"),
    ),
    "kinetics official": (kinetics_official, "kinetics", ("air drumming", "zumba")),
    "ssv1 official": (ssv1_official, "ssv1", NAMES),
    "ssv1 released": (released_frame_lists("v1"), "ssv1", NAMES),
    "ssv2 official": (ssv2_official, "ssv2", NAMES),
    "ssv2 released": (released_frame_lists("v2"), "ssv2", NAMES),
    "ssv2 frame tables": (ssv2_frame_tables, "ssv2", NAMES),
    "frame list": (released_frame_lists(""), "frame-list", NAMES),
    "ucf101": (ucf101, "ucf101", ("Archery", "YoYo")),
    "hmdb51": (hmdb51, "hmdb51", ("brush_hair", "wave")),
    "folders": (split_folders, "split-folders", ("x", "y")),
    "folders of frames": (split_folders_of_frames, "split-folders", ("x", "y")),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_layout_is_recognised_and_read(name, put, put_frames, tmp_path, grey_levels, capsys):
    build, layout, classes = BUILDERS[name]
    build(tmp_path, put, put_frames)
    for split, wanted in (("train", [0, 1, 2]), ("test", [3, 4])):
        clips = VideoClips.open(tmp_path, split, **SIZES)
        assert f"layout '{layout}'" in capsys.readouterr().err
        assert clips.classes == classes
        batch = clips.batch(torch.arange(len(clips)))
        found = np.round((grey_levels(batch).mean(1) - 30) / 30).astype(int).tolist()
        assert sorted(found) == wanted
        assert clips.labels.tolist() == [LABELS[clip] for clip in found]
        assert clips.damaged == {}
    named = list_videos(f"{layout}:{tmp_path}", "train")
    assert (named.layout, named.classes, len(named.paths)) == (layout, classes, 3)


SHARED = (
    "k400_demo_armwrestle.mp4", "skv_carphone.mp4", "tc_h265_video.mp4", "mmaction_part0.mp4",
    "v_GGSY1Qvo990.mp4",
)  # fmt: skip
"""H.264 and HEVC, for clips 0 to 4."""
SHARED_OF = {
    ".webm": ("mdn_rabbit320.webm",),
    ".avi": ("mmaction_test.avi",),
    ".mkv": ("flipping_a_pancake.mkv",),
}
"""VP8, MPEG-4 and H.264, where the layout wants another container: the same clip throughout."""


@pytest.mark.parametrize(
    "name", ["kinetics official", "ssv1 official", "ssv2 official", "ucf101", "folders"]
)
def test_layout_of_shared_clips_gives_their_frames(name, shared, tmp_path):
    """Real videos of each container, or their frames as images, where a layout wants them."""
    build, layout, _ = BUILDERS[name]
    source: dict[str, Path] = {}  # the shared clip of each item, by its place

    def original(clip: int, suffix: str) -> Path:
        files = SHARED_OF.get(suffix, SHARED)
        return shared / "clips" / files[clip % len(files)]

    def put(place: str, clip: int) -> None:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(original(clip, path.suffix))
        source[place] = path

    def put_frames(place: str, clip: int) -> None:
        frames = read_video(original(clip, ".mp4"), lambda n, fps: np.arange(NUM_FRAMES)).frames
        for number, frame in enumerate(frames, 1):
            path = tmp_path / (place % number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(path, quality=95)
            source[path.parent.relative_to(tmp_path).as_posix()] = original(clip, ".mp4")

    build(tmp_path, put, put_frames)
    rule = ClipRule(SIZES["num_frames"], SIZES["image_size"])
    found = {}
    for split, count in (("train", 3), ("test", 2)):
        clips = VideoClips.open(tmp_path, split, cache_gib=0.0, **SIZES)
        assert (len(clips), clips.describe()["layout"]) == (count, layout)
        found |= dict(zip(clips.paths, clips.batch(torch.arange(count)), strict=True))
    for path, clip in found.items():
        place = Path(path).relative_to(tmp_path).as_posix()
        if Path(path).is_dir():
            expected = read_video(
                source[place], lambda n, fps: rule.indices(NUM_FRAMES, fps, Draw())
            )
            expected = rule.crop(expected.frames, Draw())
            near = np.abs(clip.numpy().astype(int) - expected.astype(int))
            assert near.mean() < 4, place  # they went through jpg
        else:
            expected = load_clip(str(source[place].resolve()), rule, Draw()).frames
            np.testing.assert_array_equal(clip, expected, err_msg=place)


def test_second_fold_is_another_split(put, put_frames, tmp_path):
    ucf101(tmp_path, put, put_frames)
    first = list_videos(f"ucf101:{tmp_path}", "train")
    assert list_videos(f"ucf101-2:{tmp_path}", "test").paths == first.paths
    with pytest.raises(ValueError, match=r"split='train' is not in .*trainlist01"):
        list_videos(f"ucf101-3:{tmp_path}", "train")


def test_frame_tables_without_labels_take_those_of_the_json(put, put_frames, tmp_path):
    ssv2_frame_tables(tmp_path, put, put_frames)
    for name in ("train.csv", "val.csv"):
        lines = (tmp_path / name).read_text().splitlines()
        bare = [line.rsplit(" ", 1)[0] + ' ""' for line in lines[1:]]
        (tmp_path / name).write_text("\n".join([lines[0], *bare]))
    with pytest.raises(
        ValueError, match=r"3 of its annotations.*(?s:.)*train.csv:2: video 100 has no"
    ):
        list_videos(tmp_path, "train")
    stem = "something-something-v2"
    entries = [{"id": str(100 + i), "template": NAMES[k]} for i, k in enumerate(LABELS)]
    texts(tmp_path, {f"{stem}-train.json": json.dumps(entries[:3])})
    texts(tmp_path, {f"{stem}-validation.json": json.dumps(entries[3:])})
    texts(tmp_path, {f"{stem}-labels.json": json.dumps({n: str(k) for k, n in enumerate(NAMES)})})
    assert list_videos(tmp_path, "train").labels == (0, 1, 0)
    assert list_videos(tmp_path, "test").labels == (1, 0)


def test_nameless_classes_are_counted_over_all_splits(put, put_frames, tmp_path):
    kinetics(",")(tmp_path, put, put_frames)
    (tmp_path / "train.csv").write_text("u/0.mp4,0\nv/1.mp4,1\nu/2.mp4,1\n")
    (tmp_path / "val.csv").write_text("v/3.mp4,5\nu/4.mp4,0\n")
    assert list_videos(tmp_path, "train").classes == tuple("012345")


def test_frames_that_the_list_promises_and_lack_are_counted(put, put_frames, tmp_path):
    released_frame_lists("v1")(tmp_path, put, put_frames)
    (tmp_path / "frames/101/000006.jpg").unlink()  # the last: only the list knows
    (tmp_path / "frames/102/000003.jpg").unlink()  # a gap
    clips = VideoClips.open(tmp_path, "train", **SIZES)
    assert {Path(p).name: n for p, n in clips.damaged.items()} == {"101": 1, "102": 1}


BAD_LISTS = {
    "kinetics": ("a.mp4,0\nb.mp4\nc.mp4,x\nd.mp4,1\ne.mp4,0\n", ["train.csv:2", "train.csv:3"]),
    "kinetics, first line": ("a.mp4;0\nb.mp4,1\nc d.mp4,0\n", ["train.csv:1"]),
    "kinetics header": ("path,label\na.mp4,0\nb.mp4\nc.mp4,1,2\nd.mp4,1\n", ["csv:3", "csv:4"]),
    "kinetics names": (
        "a.mp4 0\nb.mp4 1\na.mp4 1\n",
        ["csv:3: a.mp4 was listed before, in train.csv:1"],
    ),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_bad_lines_are_listed_with_their_numbers(name, tmp_path):
    text, places = BAD_LISTS[name]
    texts(tmp_path, {"train.csv": text, "val.csv": "path,label\nz.mp4,0\n"})
    with pytest.raises(ValueError, match=f"{len(places)} of its annotations") as caught:
        list_videos(tmp_path, "train")
    for place in places:
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"train.csv": "a.mp4,0\nb.mp4,2\n", "classes.txt": "x\ny\n"},
            r"train.csv:2: label '2'.*0 to 1",
        ),
        ({"train.csv": "a.mp4,x\nb.mp4,z\n", "classes.txt": "x\ny\n"}, r"train.csv:2: label 'z'"),
        ({"train.csv": "a.mp4,0\nb.mp4,1\n", "classes.txt": "x\t0\ny\t2\n"}, "do not count"),
        ({"train.csv": "a.mp4,0\nb.mp4,1\n", "classes.txt": "x\nx\n"}, "each class once"),
        (
            {
                "train.csv": "air_drumming/a.mp4,0\nair_drumming/b.mp4,1\n",
                "classes.txt": "Air drumming\nZumba\n",
            },
            r"train.csv:2: air_drumming/b.mp4 has label 1, Zumba, but its folder is 0's",
        ),
        ({"train.csv": "\n"}, "is empty"),
        ({"x_train.txt": "1 8 0\n2 eight 1\n3 8 1\n"}, r"x_train.txt:2: not `folder"),
        ({"v1-train.csv": "1;x\n2;\n3;y\n"}, r"v1-train.csv:2: not `id;label"),
        (
            {"train.json": "[1", "labels.json": '{"x": "0", "y": "1"}'},
            "train.json is not valid JSON",
        ),
        (
            {
                "train.json": '[{"id": "1", "template": "q"}, {"id": "2"}]',
                "labels.json": '{"x": "0", "y": "1"}',
            },
            r"(?s)2 of its annotations.*entry 2.*id 1: template 'q'",
        ),
        (
            {"train.json": '[{"id": "1"}]', "labels.json": '{"x": "0", "y": "2"}'},
            "do not count from 0",
        ),
        (
            {"classInd.txt": "1 A\n2 B\n", "trainlist01.txt": "A/1.avi 1\nB/2.avi 1\nC/3.avi 3\n"},
            r"(?s)trainlist01.txt:2: .*classInd.txt says 2 B.*trainlist01.txt:3",
        ),
        (
            {"a_test_split1.txt": "1.avi 7\n", "b_test_split1.txt": "1.avi 1\n"},
            "a_test_split1.txt:1",
        ),
    ],
)
def test_annotations_that_cannot_be_used_are_named(files, words, tmp_path):
    texts(tmp_path, files)
    with pytest.raises(ValueError, match=words):
        list_videos(tmp_path, "train")


def test_missing_files_are_refused_before_any_is_read(put, put_frames, tmp_path):
    kinetics(",")(tmp_path, put, put_frames)
    (tmp_path / "u/0.mp4").write_bytes(b"not read")
    (tmp_path / "v/1.mp4").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 videos.*(?s:.)*v/1.mp4: no such file") as caught:
        VideoClips.open(tmp_path, "train", **SIZES)
    assert "u/0.mp4" not in str(caught.value)


@pytest.mark.parametrize("layout", ["kinetics", "ssv1", "ssv2", "ucf101", "hmdb51", "frame-list"])
def test_named_layout_that_is_not_there_is_said(layout, put, put_frames, tmp_path):
    split_folders(tmp_path, put, put_frames)
    with pytest.raises(ValueError, match="no lists of this layout"):
        list_videos(f"{layout}:{tmp_path}", "train")


@pytest.mark.parametrize(
    ("layout", "file"), [("listed", "dataset.json"), ("labelled", "labels.csv")]
)
def test_named_layout_without_its_file_says_which(layout, file, put, put_frames, tmp_path):
    split_folders(tmp_path, put, put_frames)
    for split in SPLITS:
        with pytest.raises(ValueError, match=rf"{file} is not there, which layout '{layout}'"):
            list_videos(f"{layout}:{tmp_path}", split)


def test_spec_names_layout_and_folder(tmp_path):
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b/x").touch()
    assert split_spec(tmp_path / "a:b") == (None, tmp_path / "a:b", tmp_path / "a:b")
    assert split_spec(f"ssv2:{tmp_path}") == ("ssv2", tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"unknown layout 'ssv3'. Did you mean 'ssv"):
        split_spec(f"ssv3:{tmp_path}")
    assert {"kinetics", "ssv1", "ssv2", "ucf101-3", "hmdb51-2"} <= set(LAYOUTS)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "b\t1\na\t0\n",
            "0 a\n1 b\n",
            "2 b\n1 a\n",
            "a\nb",
            '"a"\t0\n"b"\t1',
            "ID Name\n0 a\n1 b\n",
        ),
        *("class_id,class_name\n0,a\n1,b\n", "id;name\n1;b\n0;a\n", "0|a\n1|b\n", "name\na\nb\n"),
        *('"id","name"\n"0","a"\n"1","b"\n', "name,id,group\na,0,x\nb,1,x\n", "sep=;\n0;a\n1;b\n"),
        *('{"0": "a", "1": "b"}', '["a", "b"]', '\ufeff{"b": 1, "a": 0}'),
    ],
)
def test_class_files_are_read_by_number_or_by_line(text, tmp_path):
    texts(tmp_path, {f"classes.{'json' if text.strip(chr(0xFEFF))[0] in '{[' else 'txt'}": text})
    assert class_names(tmp_path) == ("a", "b")


LISTED = {
    "backslashes": ("a\\0.mp4,0\nb\\1.mp4,1\n", "utf-8", ""),
    "backslashes below a folder": (".\\a\\0.mp4 0\r\nb\\1.mp4 1\r\n", "utf-8", ""),
    "semicolons": ("path;label\na/0.mp4;0\nb/1.mp4;1\n", "utf-8", ""),
    "semicolons, no header": ("a/0.mp4;0\nb/1.mp4;1\n", "utf-8", ""),
    "a spreadsheet's": (
        'sep=;\r\n"video_path";"class"\r\na/0.mp4;0\r\nb/1.mp4;1\r\n',
        "utf-8-sig",
        "",
    ),
    "names": ("clip,class_name\na/0.mp4,a\nb/1.mp4,b\n", "utf-8", ""),
    "bars": ("a/0.mp4|0\nb/1.mp4|1\n", "utf-8", ""),
    "byte-order mark": ("path,label\na/0.mp4,0\nb/1.mp4,1\n", "utf-8-sig", ""),
    "utf-16": ("path\tlabel\r\na\\0.mp4\t0\r\nb\\1.mp4\t1\r\n", "utf-16", ""),
    "from 1": ("a/0.mp4 1\nb/1.mp4 2\n", "utf-8", ""),
    "from 1, classes numbered from 1": ("a/0.mp4,1\nb/1.mp4,2\n", "utf-8", "1 a\n2 b\n"),
    "from 1, classes in lines": ("path,label\na/0.mp4,1\nb/1.mp4,2\n", "utf-8", "a\nb\n"),
}


@pytest.mark.parametrize("name", LISTED)
def test_lists_as_other_systems_write_them_are_read(name: str, tmp_path: Path) -> None:
    text, encoding, classes = LISTED[name]
    for path in ("a/0.mp4", "b/1.mp4"):
        texts(tmp_path, {path: "a video"})
    (tmp_path / "train.csv").write_bytes(text.encode(encoding))
    if classes:
        texts(tmp_path, {"classes.txt": classes})
    listing = list_videos(tmp_path, "train")
    assert listing.layout == "kinetics"
    assert listing.classes == ("a", "b")
    assert listing.places() == ["a/0.mp4", "b/1.mp4"]
    assert listing.labels == (0, 1)
    assert ("labels from 1" in listing.split_rule) == name.startswith("from 1")
    (tmp_path / "train.csv").rename(tmp_path / "train.tsv")
    assert list_videos(tmp_path, "train").labels == listing.labels


def test_columns_of_a_list_that_are_not_read_are_said(tmp_path: Path) -> None:
    texts(tmp_path, {"a/0.mp4": "", "b/1.mp4": ""})
    texts(tmp_path, {"train.csv": "path,start,end,label\na/0.mp4,0,2,0\nb/1.mp4,1,4,1\n"})
    assert "with header; not read: start, end)" in list_videos(tmp_path, "train").split_rule


FRAMES_FROM_1 = {"train.txt": ("a\\0 8 1\nb\\1 8 3\n", "utf-8"), "val.txt": ("c\\2 8 2\n", "utf-8")}
NAMED = {"classes.txt": ("x\ny\nz\n", "utf-8-sig")}
ELSEWHERE = {
    "frame-list": (FRAMES_FROM_1, ("1", "2", "3"), (0, 2)),
    "frame-list, named": (FRAMES_FROM_1 | NAMED, ("x", "y", "z"), (0, 2)),
    "frame-list, val from 0": (
        FRAMES_FROM_1 | {"val.txt": ("c\\2 8 0\n", "utf-8")}, ("0", "1", "2", "3"), (1, 3),
    ),
    "ucf101": (
        {
            "classInd.txt": ("1 a\r\n2 b\r\n", "utf-16"),
            "trainlist01.txt": ("a\\0.avi 1\r\nb\\1.avi 2\r\n", "utf-16"),
        },
        ("a", "b"), (0, 1),
    ),
    "frame-list, commas": (
        {"train.txt": ("a/0,8,0\nb/1,8,1\n", "utf-8")} | NAMED, ("x", "y", "z"), (0, 1),
    ),
    "hmdb51, tabs": (
        {f"{c}_test_split1.txt": (f"{k}.avi\t1\n", "utf-8") for k, c in enumerate("ab")},
        ("a", "b"), (0, 1),
    ),
    "ssv1, with header": (
        {"v1-train.csv": ('id;label\na/0;"x"\nb/1;"y"\n', "utf-8")}, ("x", "y"), (0, 1),
    ),
    "listed": (
        {
            "dataset.json": ('{"classes": ["y", "x"]}', "utf-8"),
            "train.csv": ("path;label\r\n\r\na\\0.avi;0\r\n\"b\\1.avi\";1\r\n", "utf-8-sig"),
        },
        ("y", "x"), (0, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_other_layouts_lists_may_come_from_other_systems_too(name: str, tmp_path: Path) -> None:
    files, classes, labels = ELSEWHERE[name]
    for file, (text, encoding) in files.items():
        (tmp_path / file).write_bytes(text.encode(encoding))
    listing = list_videos(tmp_path, "train")
    assert (listing.classes, listing.labels) == (classes, labels)
    assert [place.partition(".")[0] for place in listing.places()] == ["a/0", "b/1"]
    assert listing.problems == ()
    from_1 = name in ("frame-list", "frame-list, named")
    assert ("labels from 1" in listing.split_rule) == from_1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("what,which\na/0.mp4,0\nb/1.mp4,1\n", "train.csv:1: no video and its label, nor a header"),
        ("# mine\na/0.mp4,0\nb/1.mp4,1\n", "train.csv:1: no video and its label, nor a header"),
        ("Datei;Klasse\na/0.mp4;a\nb/1.mp4;b\n", "train.csv:1: no video and its label, nor a hea"),
    ],
)
def test_first_line_that_is_no_video_is_no_class(text: str, said: str, tmp_path: Path) -> None:
    texts(tmp_path, {"train.csv": text})
    assert read_listing(tmp_path, "train").classes == ("a", "b")
    with pytest.raises(ValueError, match=said):
        list_videos(tmp_path, "train")


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (("Train", "Test"), "has the folders Test, Train; call splits train, val and test"),
        (("training", "validation"), "if they are classes, name the layout: class-folders:"),
        (("train", "test", "Validation"), "has the folders Validation, test, train; call splits"),
    ],
)
def test_folders_of_splits_by_other_names_are_no_classes(folders, said, tmp_path) -> None:
    places = [f"{f}/{c}/{f}{c}{i}.mp4" for f in folders for c in "ab" for i in range(3)]
    texts(tmp_path, dict.fromkeys(places, "a video"))
    with pytest.raises(ValueError, match=said):
        list_videos(tmp_path, "train")
    assert set(folders) == set(list_videos(f"class-folders:{tmp_path}", "train").classes)


def test_classes_that_differ_in_spelling_alone_are_said(tmp_path: Path) -> None:
    texts(tmp_path, {f"{c}/{i}.mp4": "" for c in ("Run", "run", "walk") for i in range(3)})
    assert "classes Run and run differ in spelling alone" in say(list_videos(tmp_path, "train"))


@pytest.mark.parametrize("names", [("s01", "s02"), ("Person_1", "person_12"), ("actor-03", "P7")])
def test_folders_of_persons_outside_classes_are_said(names, tmp_path: Path) -> None:
    texts(tmp_path, {f"{p}/{c}/{i}.mp4": "" for p in names for c in "ab" for i in range(3)})
    assert "look like persons: put the folders of classes outer" in say(
        list_videos(tmp_path, "train")
    )
    texts(tmp_path, {f"walk/{names[0]}/{i}.mp4": "" for i in range(3)})
    assert "look like persons" not in say(list_videos(tmp_path, "train"))


def test_mirrored_labels_swap_only_directions():
    assert mirror_of(["Opening something", *NAMES]) == (0, 2, 1)
    assert mirror_of(["clockwise", "counterclockwise", "upright"]) == (1, 0, 2)
    assert (
        mirror_of(["Turning the camera left while filming something", "Holding something"]) is None
    )
    swapped = mirror_of([str(k) for k in range(174)])
    assert swapped is not None
    moved = {k: m for k, m in enumerate(swapped) if k != m}
    assert moved == {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}
