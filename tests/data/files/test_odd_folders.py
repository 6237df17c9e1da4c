"""Data sets as they are met in practice: links, odd names, lists that lie or look otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from ablations.grid.datasets import describe
from posmlp.cli import main
from posmlp.data.check.check import check_data
from posmlp.data.clips import ClipRule
from posmlp.data.datasets import VideoClips
from posmlp.data.layouts.class_names import class_names
from posmlp.data.layouts.layouts import list_videos, read_listing, say, split_spec
from posmlp.data.layouts.listing import Listing

RULE = ClipRule(4, 32)
SIZES = {"num_frames": 4, "image_size": 32, "num_workers": 0}
HEADER = "label,youtube_id,time_start,time_end,split\n"


def text(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def touch(*paths: Path) -> None:
    for path in paths:
        text(path, "")


def found(listing: Listing) -> list[tuple[str, str]]:
    """Each item's place and the name of its class; every file is there."""
    assert all(path.exists() for path in listing.paths)
    names = [listing.classes[label] for label in listing.labels]
    return list(zip(listing.places(), names, strict=True))


# ---- Kinetics' lists -----------------------------------------------------------------------------


def test_official_list_finds_videos_in_linked_folders_and_outlives_a_circle(tmp_path):
    disk = tmp_path / "disk"
    touch(disk / "a_000000_000010.mp4", disk / "deep/b_000003_000013.MKV")
    (disk / "deep/up").symlink_to(disk)
    root = tmp_path / "root"
    text(root / "train.csv", HEADER + "x,a,0,10,train\ny,b,3,13,train\n")
    (root / "videos").symlink_to(disk)
    wanted = [("videos/a_000000_000010.mp4", "x"), ("videos/deep/b_000003_000013.MKV", "y")]
    assert found(list_videos(root, "train")) == wanted


def test_official_test_list_without_labels_gives_way_to_the_validation_list(tmp_path):
    touch(*(tmp_path / f"{name}_000000_000010.mp4" for name in "abcd"))
    text(tmp_path / "train.csv", HEADER + "x,a,0,10,train\ny,b,0,10,train\n")
    text(tmp_path / "val.csv", HEADER + "y,c,0,10,val\nx,d,0,10,val\n")
    text(tmp_path / "test.csv", "youtube_id,time_start,time_end,split\ne,0,10,test\n")
    for split, labels in (("train", (0, 1)), ("test", (1, 0))):
        listing = list_videos(tmp_path, split)
        assert (listing.classes, listing.labels) == (("x", "y"), labels)


@pytest.mark.parametrize(
    "name",
    ["annotations/train.csv", "splits/train.txt", "kinetics400_train_list_videos.txt"],
)
def test_lists_are_found_beside_and_by_mmactions_names(name, tmp_path):
    touch(tmp_path / "videos_train/a.mp4", tmp_path / "videos_train/b.mp4")
    text(tmp_path / name, "a.mp4 0\nb.mp4 1\n")
    listing = list_videos(tmp_path, "train")
    assert listing.layout == "kinetics"
    assert found(listing) == [("videos_train/a.mp4", "0"), ("videos_train/b.mp4", "1")]


def test_other_tables_beside_folders_are_no_kinetics_lists(tmp_path):
    touch(*(tmp_path / "train" / name / "0.mp4" for name in "xy"))
    text(tmp_path / "annotations/train.csv", "speaker,mood\n1,2\n")
    text(tmp_path / "notes_train.txt", "a note on these videos\n")
    assert list_videos(tmp_path, "train").layout == "split-folders"


@pytest.mark.parametrize(
    "lines",
    [
        '"a, b.mp4",0\nc d.mp4,1\n',
        '"a, b.mp4","0"\n"c d.mp4","1"\n',
        "a, b.mp4,0\nc d.mp4,1\n",
        'path,label\n"a, b.mp4",0\nc d.mp4,1\n',
        "path label\na, b.mp4 0\nc d.mp4 1\n",
        '"a, b.mp4" 0\n"c d.mp4" 1\n',
        "a, b.mp4\t0\r\nc d.mp4\t1\r\n",
    ],
)
def test_paths_may_hold_the_separator(lines, tmp_path):
    touch(tmp_path / "a, b.mp4", tmp_path / "c d.mp4")
    text(tmp_path / "train.csv", "\ufeff" + lines)
    assert found(list_videos(tmp_path, "train")) == [("a, b.mp4", "0"), ("c d.mp4", "1")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("kinetics_400_labels.csv", "id,name\n0,abseiling\n1,tai chi, slow\n"),
        ("class_names.csv", "abseiling,1\ntai chi, slow,2\n"),
        ("kinetics_classnames.json", '{"\\"tai chi, slow\\"": 1, "\\"abseiling\\"": 0}'),
    ],
)
def test_class_files_may_be_tables_or_json(name, content, tmp_path):
    text(tmp_path / "train_labels.csv", "a.mp4,0\n")  # a split's: not a list of classes
    text(tmp_path / name, content)
    assert class_names(tmp_path) == ("abseiling", "tai chi, slow")


# ---- The layout that is written here -------------------------------------------------------------


def test_listed_rows_that_lack_a_field_are_named(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    text(tmp_path / "dataset.json", '{"classes": ["x", "y"]}')
    text(tmp_path / "train.csv", "\ufefflabel,path\r\n0,a.mp4\r\n1,b.mp4\r\n")
    assert found(list_videos(tmp_path, "train")) == [("a.mp4", "x"), ("b.mp4", "y")]
    text(tmp_path / "train.csv", "label,path\n0,a.mp4\n1\n0,c.mp4,9\n")
    with pytest.raises(ValueError, match=r"(?s)train.csv:3: not label,path.*train.csv:4"):
        list_videos(tmp_path, "train")


# ---- Folders -------------------------------------------------------------------------------------


def test_names_in_any_script_links_and_capitals_are_read(write_clip, tmp_path, capsys):
    """Spaces, commas, quotes, other scripts, capital suffixes, linked class folders."""
    store = tmp_path / "store"
    for name in ("跑 步", 'naïve, "quoted"'):
        for i in range(2):
            write_clip(store / name / f"été {i},视频.mp4", [60] * 6).rename(
                store / name / f"été {i},视频.MP4"
            )
        for split in ("train", "test"):
            (tmp_path / "data" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / split / name).symlink_to(store / name)
    found = check_data(tmp_path / "data", RULE, num_workers=0)
    assert [problem for _, problem, dropped in found.problems if dropped] == []
    clips = VideoClips.open(tmp_path / "data", "train", cache_gib=0.0, **SIZES)
    assert clips.classes == ('naïve, "quoted"', "跑 步")
    assert clips.batch(torch.arange(4)).shape == (4, 4, 32, 32, 3)


def test_file_names_that_are_no_text_are_read_and_listed(write_clip, tmp_path, capsys):
    folder = os.fsencode(tmp_path / "data/train/a")
    os.makedirs(folder)
    write_clip(tmp_path / "data/train/b/0.mp4", [60] * 6)
    for i in range(2):
        clip = write_clip(tmp_path / "clip.mp4", [60] * 6)
        os.rename(os.fsencode(clip), folder + b"/caf\xe9 %d.mp4" % i)
    with open(folder + b"/caf\xe9 bad.mp4", "wb") as bad:
        bad.write(b"no video")
    command = ["data", "check", str(tmp_path / "data"), "--frames", "4", "--workers", "0"]
    assert main(command) == 1
    assert "1 problems, 1 of them left out" in capsys.readouterr().out
    clips = VideoClips.open(tmp_path / "data", "train", cache_gib=0.0, **SIZES)
    assert len(clips) == 3
    assert clips.batch(torch.arange(3)).shape == (3, 4, 32, 32, 3)
    assert len(clips.describe()["sha256"]) == 64
    (tmp_path / "data/test").symlink_to("train")
    assert describe(str(tmp_path / "data")).num_train == 3


def test_folder_of_a_split_without_classes_says_how_to_go_on(tmp_path):
    touch(*(tmp_path / name / f"{i}.mp4" for name in ("bus", "train") for i in range(3)))
    with pytest.raises(ValueError, match=r"train holds no class folders.*class-folders:") as caught:
        list_videos(tmp_path, "train")
    assert list_videos(str(caught.value).split()[-1], "train").classes == ("bus", "train")


def test_link_to_nowhere_is_a_missing_file(write_clip, tmp_path):
    for name in ("a", "b"):
        write_clip(tmp_path / "train" / name / "0.mp4", [60] * 6)
    (tmp_path / "train/a/1.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with pytest.raises(ValueError, match=r"1 of 3 videos.*(?s:.)*1.mp4: no such file"):
        VideoClips.open(tmp_path, "train", **SIZES)
    check_data(tmp_path, RULE, num_workers=0)
    assert len(VideoClips.open(tmp_path, "train", **SIZES)) == 2


def test_images_are_not_too_short(tmp_path):
    for split in ("train", "val"):
        for name in ("x", "y"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (40, 32), (i,) * 3).save(tmp_path / split / name / f"{i}.JPEG")
    (tmp_path / "train/x/1.JPEG").write_bytes(b"no image")
    found = check_data(tmp_path, RULE, num_workers=0)
    assert [problem.place for _, problem, _ in found.problems] == ["train/x/1.JPEG"]
    assert len(list_videos(tmp_path, "train").paths) == 5


# ---- Lists elsewhere -----------------------------------------------------------------------------


def test_lists_elsewhere_stand_for_a_data_set_that_is_not_written_to(write_clip, tmp_path, capsys):
    data, lists = tmp_path / "data", tmp_path / "lists"
    for split in ("train", "test"):
        for i, name in enumerate("aabb"):
            write_clip(data / split / name / f"{i}.mp4", [60] * 6)
    (data / "train/a/bad.mp4").write_bytes(b"no video")
    lists.mkdir()
    before = sorted(data.rglob("*"))
    command = ["data", "check", f"split-folders:{data}", "--frames", "4", "--workers", "0"]
    assert main([*command, "--out", str(lists)]) == 1
    assert f"train with --data {lists}" in capsys.readouterr().out
    assert sorted(data.rglob("*")) == before
    assert split_spec(lists) == ("split-folders", data.resolve(), lists)
    with pytest.raises(ValueError, match=r"bad.mp4: cannot be opened"):
        VideoClips.open(data, "train", **SIZES)
    clips = VideoClips.open(lists, "train", cache_gib=0.0, **SIZES)
    assert [Path(path).name for path in clips.paths] == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert set(clips.describe()["dropped"]) == {"train/a/bad.mp4"}
    (lists / "data-problems.csv").unlink()
    assert main(["data", "check", str(lists), "--frames", "4", "--workers", "0"]) == 1
    assert (lists / "data-problems.csv").is_file()
    assert sorted(data.rglob("*")) == before


# ---- Files beside the videos ---------------------------------------------------------------------


def test_thumbnails_do_not_make_pictures_of_videos(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            touch(folder / "1.mp4", folder / "1.jpg", folder / "2.JPG", folder / "cover.xcf")
    listing = list_videos(tmp_path, "train")
    assert (listing.layout, len(listing.paths)) == ("split-folders", 2)
    assert "6 other files left alone (4 .jpg, 2 .xcf)" in say(listing)
    touch(tmp_path / "overview.mp4", tmp_path / "train" / "3.webm", tmp_path / "test" / "4.webm")
    said = say(list_videos(tmp_path, "train"))
    assert "8 other files left alone (4 .jpg, 2 .xcf, 1 .mp4, 1 .webm in no class folder)" in said


def test_folder_of_videos_with_thumbnails_is_no_video(tmp_path):
    for name in ("a", "b"):
        for person in ("ann", "bea", "cay", "dot", "eve", "fay"):
            folder = tmp_path / name / person
            touch(folder / "1.mp4", folder / "1.jpg", folder / "raw")
    listings = [read_listing(tmp_path, split) for split in ("train", "val", "test")]
    assert {path.name for listing in listings for path in listing.paths} == {"1.mp4"}
    assert "(12 .jpg, 12 without suffix)" in say(listings[0])
