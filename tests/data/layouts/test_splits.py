"""Which clips are train, val and test where a data set does not say: whole groups of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posmlp.data.check.check import check_data
from posmlp.data.clips import ClipRule
from posmlp.data.layouts.layouts import list_videos
from posmlp.data.layouts.listing import SPLITS, SplitMissing
from posmlp.data.layouts.splits import CLASS_FOLDERS, groups_of, parts_of


def put(root: Path, places: Iterable[str]) -> Path:
    """Empty files: a listing reads none."""
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()
    return root


def sides(root: Path, spec: str = "") -> dict[str, str]:
    """The split of every file, by its place."""
    found = {}
    for split in SPLITS:
        for place in list_videos(spec or root, split).places():
            assert place not in found
            found[place] = split
    return found


def assert_whole(found: dict[str, str], groups: dict[str, list[str]]) -> None:
    """No group is on two sides, and every side has one."""
    of_group = {name: {found[place] for place in places} for name, places in groups.items()}
    assert all(len(on) == 1 for on in of_group.values()), of_group
    assert set.union(*of_group.values()) == set(SPLITS)


NAMED = {
    "ucf101": ("{c}/v_{c}_g{g:02d}_c{p:02d}.avi", False),
    "ucf50 folders": ("{c}/v_{c}_{g:02d}/v_{c}_{g:02d}_{p:02d}.mpg", True),
    "kth persons": ("{c}/person{g:02d}_{c}_d{p}_uncomp.avi", True),
    "parts": ("{c}/lecture {g} - part {p}.mp4", True),
    "kinetics times": ("{c}/-Zx{g}vk_{p:06d}_{p}00010.mp4", True),
    "hmdb51": ("{c}/Film_{g}_{c}_u_cm_np1_fr_med_{p}.avi", True),
    "brackets": ("{c}/take{g}a ({p}).mov", True),
    "ntu": ("{c}/S00{p}C002P10{g}R001A013_rgb.avi", True),
    "ravdess": ("{c}/01-01-05-01-0{p}-01-0{g}.mp4", True),
    "person before camera": ("{c}/Cook.{c}_p{g:02d}_r01_v0{p}_c03.mp4", True),
    "subjects": ("{c}/rec{p}_subject {g}-take2.mp4", True),
    "gopro chapters": ("{c}/GH0{p}010{g}.MP4", True),
    "gopro chapters, cut": ("{c}/gx01{g:04d}_{p}.mp4", True),
    "cut by times": ("{c}/film {g}-00.00.0{p}.000-00.00.1{p}.500-seg{p}.mp4", True),
    "cut by seconds": ("{c}/film{g}x_{p}.25_1{p}.75.mp4", True),
    "cut by units": ("{c}/film{g}x_1m{p}0s.mp4", True),
    "persons": ("{c}/anna{g}x/{p}.mp4", True),
    "persons, sessions": ("{c}/anna{g}x/day{p}/walk.mp4", True),
}


@pytest.mark.parametrize("name", NAMED)
def test_class_folders_keep_recordings_on_one_side(tmp_path, name):
    pattern, across = NAMED[name]
    groups: dict[str, list[str]] = {}
    for c in ("Archery", "Yo_Yo"):
        for g in range(1, 9):
            places = [pattern.format(c=c, g=g, p=p) for p in range(1, 5)]
            groups.setdefault(str(g) if across else f"{c}{g}", []).extend(places)
    root = put(tmp_path, [place for places in groups.values() for place in places])
    found = sides(root)
    assert len(found) == 64
    assert_whole(found, groups)
    for c in ("Archery", "Yo_Yo"):
        own = [split for place, split in found.items() if place.startswith(c)]
        assert {split: own.count(split) // 4 for split in SPLITS} == {
            "train": 5, "val": 1, "test": 2,
        }  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:04d}.mp4" for i in range(20)],
        [f"IMG_{i:04d}.mp4" for i in range(20)],
        [f"clip{i}.mp4" for i in range(20)],
        [f"Archery_{i}.mp4" for i in range(20)],
        [f"{chr(97 + i)}.mp4" for i in range(20)],
    ],
)
def test_names_that_only_count_are_split_file_by_file(tmp_path, names):
    put(tmp_path, [f"{c}/{name}" for c in ("Archery", "Biking") for name in names])
    found = sides(tmp_path)
    for c in ("Archery", "Biking"):
        own = [split for place, split in found.items() if place.startswith(c)]
        assert (own.count("test"), own.count("val")) == (4, 2)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"a": ["DAY_{p}", "NIGHT_{p}"], "b": ["DAY_{p}", "NIGHT_{p}"]}, "names show 2 only"),
        ({"a": ["DAY_{p}", "NIGHT_{p}"], "b": ["x{p}"]}, "names show 2 only (DAY, NIGHT)"),
        ({"a": ["v_a_g01_c{p}"], "b": ["v_b_g02_c{p}"]}, "names show 1 only (v__g01)"),
        (
            {"a": ["v_a_g1_c{p}", "v_a_g2_c{p}", "v_a_g3_c{p}"], "b": ["v_b_g4_c{p}"]},
            "recordings, by their names (v__g1, ...); in b: files, as names show 1 only (v__g4)",
        ),
        (
            {"a": ["anna/{p}", "bert/{p}", "carl/{p}"], "b": ["anna/{p}"], "c": ["carl/x{p}y"]},
            "groups: folders; in b: files, as folders show 1 only (anna)",
        ),
        ({"a": ["IMG_{p}"], "b": ["IMG_{p}"]}, None),
    ],
)
def test_recordings_that_fill_a_class_are_said(tmp_path, names, told):
    put(
        tmp_path,
        [
            f"{c}/{name.format(p=p)}.mp4"
            for c, own in names.items()
            for name in own
            for p in range(9)
        ],
    )
    rule = list_videos(tmp_path, "test").split_rule
    assert told in rule if told else rule.endswith("groups: files")


def test_person_whose_name_begins_as_a_class_of_one_letter_is_one_group():
    """Of the classes R and S, s01 is a person in both."""
    places = [f"{c}/s{g:02d}/{c}{i}.mp4" for c in "RS" for g in range(3) for i in range(2)]
    found, what = groups_of(Path("none"), places, [0] * 6 + [1] * 6, ["R", "S"])
    assert (set(found), what) == ({"s00", "s01", "s02"}, "folders")


def test_groups_file_decides(tmp_path):
    places = [f"{c}/{i}.mp4" for c in "ab" for i in range(30)]
    put(tmp_path, places)
    groups: dict[str, list[str]] = {}
    for i, place in enumerate(places):
        groups.setdefault(f"night {i % 7}", []).append(place)
    rows = [f"{place.replace('/', chr(92))};{g}" for g, own in groups.items() for place in own]
    (tmp_path / "groups.csv").write_text("\ufeffpath;group\r\n" + "\r\n".join(rows))
    assert_whole(sides(tmp_path), groups)
    assert "groups of groups.csv" in list_videos(tmp_path, "val").split_rule
    (tmp_path / "groups.csv").write_text("path;person\n" + "\n".join(rows))
    assert "each person of groups.csv" in list_videos(tmp_path, "val").split_rule
    spelt = [
        f".\\{row.upper() if i % 2 else row} ".replace(".MP4", ".mp4") for i, row in enumerate(rows)
    ]
    spelt = [row.replace("\\A", "\\a").replace("\\B", "\\b") for row in spelt]
    (tmp_path / "groups.csv").write_text("Path; Group\n" + "\n".join(spelt))
    assert_whole(sides(tmp_path), groups)
    (tmp_path / "groups.csv").write_text("path;group\n" + "\n".join([*rows, rows[0] + "0"]))
    with pytest.raises(ValueError, match=r"both 'night 0' and 'night 00' of a/0.mp4; drop one"):
        list_videos(tmp_path, "train")
    (tmp_path / "groups.csv").write_text("path,group\n" + rows[0].replace(";", ","))
    with pytest.raises(ValueError, match=r"groups.csv names no group of \S+ \(59 such\); add its"):
        list_videos(tmp_path, "train")
    (tmp_path / "groups.csv").write_text("file,person\n")
    with pytest.raises(ValueError, match="it needs 'path' and 'group'"):
        list_videos(tmp_path, "train")


def test_split_does_not_depend_on_what_else_there_is(tmp_path):
    """Another class moves no clip, and more clips of a group go with it."""
    names = [f"v_{c}_g{g:02d}_c{p:02d}.avi" for c in "ab" for g in range(10) for p in range(3)]
    put(tmp_path, [f"{name[2]}/{name}" for name in names])
    before = sides(tmp_path)
    put(tmp_path, [f"c/v_c_g{g:02d}_c01.avi" for g in range(20, 30)])
    put(tmp_path, [f"a/v_a_g{g:02d}_c00.avi" for g in range(10)])
    after = sides(tmp_path)
    assert {place: after[place] for place in before} == before
    for g in range(10):
        assert after[f"a/v_a_g{g:02d}_c00.avi"] == after[f"a/v_a_g{g:02d}_c01.avi"]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=80),
    st.booleans(),
)
def test_no_group_is_divided_and_each_class_keeps_some_to_train(items, shared):
    labels = [label for label, _ in items]
    groups = [str(g) if shared else f"{label}-{g}" for label, g in items]
    parts = parts_of(groups, labels, CLASS_FOLDERS)
    of_group = dict(zip(groups, parts, strict=True))
    assert [of_group[group] for group in groups] == parts
    reverse = parts_of(groups[::-1], labels[::-1], CLASS_FOLDERS)
    assert reverse[::-1] == parts
    for label in set(labels):
        own = {group for group, k in zip(groups, labels, strict=True) if k == label}
        counts = [of_group[group] for group in own]
        assert counts.count("train") >= 1
        if not shared:
            assert counts.count("test") == (max(1, round(0.2 * len(own))) if len(own) > 1 else 0)
            assert counts.count("val") == (max(1, round(0.1 * len(own))) if len(own) > 2 else 0)


def test_class_with_two_files_trains_and_tests_without_val(tmp_path):
    put(tmp_path, ["a/0.mp4", "a/1.mp4", "b/0.mp4", "b/1.mp4"])
    assert [len(list_videos(tmp_path, split).paths) for split in ("train", "test")] == [2, 2]
    with pytest.raises(SplitMissing, match="has no val clips, and too few groups of train"):
        list_videos(tmp_path, "val")
    (tmp_path / "b/1.mp4").unlink()
    with pytest.raises(ValueError, match=r"b has 1 video\(s\), of too few groups \(files\)"):
        list_videos(tmp_path, "train")


def official(root: Path, with_val: bool) -> None:
    """UCF101's lists; its clips are named by group."""
    places = [f"{c}/v_{c}_g{g:02d}_c{p:02d}.avi" for c in "ab" for g in range(25) for p in range(3)]
    put(root, [f"UCF-101/{place}" for place in places])
    lists = {"test": places[:21] + places[75:96], "train": places[21:75] + places[96:]}
    if with_val:
        lists["val"] = [place for place in lists["train"] if "g10" in place]
        lists["train"] = [place for place in lists["train"] if "g10" not in place]
    for split, own in lists.items():
        (root / f"{split}list01.txt").write_text("\n".join(own))
    (root / "classInd.txt").write_text("1 a\n2 b\n")


def test_official_lists_keep_theirs_and_give_a_share_of_train_groups(tmp_path):
    official(tmp_path, with_val=False)
    found = sides(tmp_path)
    test = [place for place, split in found.items() if split == "test"]
    assert {place[14:17] for place in test} == {f"g{g:02d}" for g in range(7)}
    val = [place for place, split in found.items() if split == "val"]
    assert len(val) == 2 * 2 * 3  # two of each class's 18 groups
    groups: dict[str, list[str]] = {}
    for place in found:
        groups.setdefault(place[:-8], []).append(place)
    assert_whole(found, groups)
    assert "10% of its groups are val" in list_videos(tmp_path, "train").split_rule


def test_official_val_list_is_val(tmp_path):
    official(tmp_path, with_val=True)
    found = sides(tmp_path)
    assert {place[14:17] for place, split in found.items() if split == "val"} == {"g10"}
    assert list_videos(tmp_path, "train").split_rule == "as listed in trainlist01.txt"


def test_val_in_place_of_test_leaves_val_to_train(tmp_path):
    """Kinetics' val list is what is tested on where test labels are not given."""
    for split, count in (("train", 20), ("val", 5)):
        places = [f"{split}/{c}/{i}.mp4" for c in "ab" for i in range(count)]
        put(tmp_path, places)
        rows = [f"{place},{place.split('/')[1]}" for place in places]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
    found = sides(tmp_path)
    assert [list(found.values()).count(split) for split in SPLITS] == [36, 4, 10]
    assert {place.split("/")[0] for place, split in found.items() if split == "val"} == {"train"}


def test_val_of_folders_and_tables_is_their_own(tmp_path):
    put(tmp_path, [f"{s}/{c}/{s}{i}.mp4" for s in SPLITS for c in "ab" for i in range(4)])
    assert all(place.startswith(split) for place, split in sides(tmp_path).items())
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": ["a", "b"]}))
    for split in SPLITS:
        rows = [f"{split}/{c}/{split}{i}.mp4,{'ab'.index(c)}" for c in "ab" for i in range(4)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
    found = sides(tmp_path)
    assert list_videos(tmp_path, "val").layout == "listed"
    assert all(place.startswith(split) for place, split in found.items())


def test_one_recording_in_the_words_of_several_systems():
    """Names of one class, whose name is no part of a group."""
    names = ["p1_run_1", "p1_run_2", "run_p2-3", "p3.run.4", "p3.run.5"]
    groups, words = groups_of(Path("."), [f"{n}.mp4" for n in names], [0] * 5, ["run"])
    assert groups == ["p1", "p1", "p2", "p3", "p3"]
    assert words == "recordings, by their names (p1, ...)"
    acted = [
        f"{actor}_{said}_ANG_XX.flv" for actor in (1001, 1002, 1003) for said in ("DFA", "IEO")
    ]
    groups, _ = groups_of(Path("."), acted, [0] * 6, ["ANG"])
    assert groups == ["1001", "1001", "1002", "1002", "1003", "1003"]


@pytest.mark.parametrize("layout", ["split-folders", "kinetics"])
def test_check_tells_footage_that_is_on_both_sides(tmp_path, write_clip, layout):
    """A scene whose part is tested: other cuts of it are trained on. Whatever names it has."""
    import av
    import numpy as np

    def film(place: str, seed: int, start: int) -> None:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        picture = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=15)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(start, start + 20):
                frame = np.ascontiguousarray(np.roll(picture, 2 * i, 1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())

    rows: dict[str, list[str]] = {"train": [], "test": []}
    for k, c in enumerate("ab"):
        for split, name, seed, start in (
            ("train", "x", 1, 0), ("train", "y", 2, 0), ("test", "z", 3, 0), ("test", "cut", 1, 9),
        ):  # fmt: skip
            place = f"{split if layout == 'split-folders' else 'v'}/{c}/{name}.mp4"
            film(place, 10 * k + seed, start)
            rows[split].append(f"{place},{k}")
    if layout == "kinetics":
        for split, own in rows.items():
            (tmp_path / f"{split}.csv").write_text("\n".join(own))
    found = check_data(f"{layout}:{tmp_path}", ClipRule(4, 32), num_workers=0)
    (line,) = found.leaks
    assert "the same footage is in train and test: " in line
    assert line.count("cut.mp4") == 2
    assert "z.mp4" not in line
    assert found.problems == []


def test_folds_hold_whole_groups_and_each_is_tested_once(tmp_path):
    people = {f"p{g}": [f"{c}/p{g}/{i}.mp4" for c in "xy" for i in range(3)] for g in range(7)}
    root = put(tmp_path, [place for places in people.values() for place in places])
    tested: list[str] = []
    for fold in range(3):
        found = sides(root, f"fold{fold}of3:{root}")
        assert_whole(found, people)
        assert len(found) == 42
        tested += [place for place, side in found.items() if side == "test"]
        following = sides(root, f"fold{(fold + 1) % 3}of3:class-folders:{root}")
        assert {p for p in found if found[p] == "val"} == {
            p for p in following if following[p] == "test"
        }
    assert sorted(tested) == sorted(found)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fold3of3", "fold3of3: folds count from 0, and there are at least 3"),
        ("fold0of2", "fold0of2: folds count from 0"),
        ("fold0of9", "has 4 groups (folders), too few for 9 folds"),
        ("fold0of3:fold1of3", "has a fold of a fold"),
        ("fold0of4", "fold0of4 has no training clips of class 'y'"),
    ],
)
def test_folds_that_cannot_be_are_refused(tmp_path, spec, said):
    """Class y is of two persons; with a person a fold one is test and one val, for some fold."""
    places = [f"x/p{g}/{i}.mp4" for g in range(4) for i in range(3)]
    root = put(tmp_path, [*places, *(f"y/p{g}/{i}.mp4" for g in range(2) for i in range(3))])
    with pytest.raises(ValueError, match=re.escape(said)):
        list_videos(f"{spec}:{root}", "train")
