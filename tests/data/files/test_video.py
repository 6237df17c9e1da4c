from __future__ import annotations

import csv
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from posmlp.data.files import video
from posmlp.data.files.packets import got_on, list_packets
from posmlp.data.files.pool import DecodePool, under_way
from posmlp.data.files.video import VideoError, decoded_sizes, iterate_frames, read_video
from posmlp.data.sampling import segment_indices

LEVELS = [20 + 10 * k for k in range(20)]
X264 = {"x264-params": "keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0:open-gop=%d"}
# Files in which decord 0.6.0 lands on other frames without a word, and their makers.
DECORD_IS_WRONG = {
    "open_gop.mp4": ("libx264", {"x264-params": X264["x264-params"] % 1}),
    "packed.mp4": ("mpeg4", {"g": "10", "bf": "2", "b": "4000000"}),
    "packed.avi": ("mpeg4", {"g": "10", "bf": "2", "b": "4000000"}),
    "untimed.avi": ("libx264", {"x264-params": "keyint=10:bframes=0"}),
    "stream.ts": ("libx264", {"g": "12"}),
    "stream.mpg": ("mpeg2video", {"g": "12"}),
    "windows.wmv": ("wmv2", {"g": "12"}),
    "flash.flv": ("libx264", {"g": "12", "bf": "2"}),
}


def every_third_backwards(num_frames, fps):
    return np.arange(num_frames)[::-3]


def sleep_long(num_frames, fps):
    time.sleep(60)


def kill_own_process(num_frames, fps):
    os.kill(os.getpid(), signal.SIGKILL)


def fail_once(path, how, marker):
    """Hang or die the first time that this is called, and read the second time."""
    if not marker.exists():
        marker.touch()
        how(0, None)
    return read_video(path)


def half_a_frame(num_frames, fps):
    return [0.5]


def own_process(path):
    return os.getpid()


@pytest.fixture(scope="module")
def clip(write_clip, tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "levels.mp4", LEVELS, width=64, fps=25)


def test_all_frames_are_exact(clip, grey_levels):
    video = read_video(clip)
    assert video.frames.shape == (20, 32, 64, 3)
    assert video.frames.dtype == np.uint8
    assert (video.num_frames, video.fps, video.backend) == (20, 25.0, "decord")
    np.testing.assert_allclose(grey_levels(video.frames), LEVELS, atol=2)


@pytest.mark.parametrize("indices", [[7], [3, 3, 3], [19, 0, 12, 0], [0, 5, 19]])
def test_chosen_frames_come_in_the_asked_order(clip, grey_levels, indices):
    video = read_video(clip, lambda num_frames, fps: indices)
    assert video.indices.tolist() == indices
    np.testing.assert_allclose(grey_levels(video.frames), np.take(LEVELS, indices), atol=2)


OTHERS = {
    "closed.mp4": ("libx264", {"x264-params": X264["x264-params"] % 0}),
    "av1.mp4": ("libsvtav1", {"g": "12"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12"}),
    "phone.3gp": ("mpeg4", {"g": "12"}),
    "mpeg2.mov": ("mpeg2video", {"g": "12"}),
    "h264.mkv": ("libx264", {"g": "12"}),
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
    "hevc.mp4": ("libx265", {"g": "12"}),
}


@pytest.mark.parametrize("name", DECORD_IS_WRONG | OTHERS)
def test_files_of_all_kinds_are_read_exactly(name, write_clip, grey_levels, tmp_path):
    codec, options = (DECORD_IS_WRONG | OTHERS)[name]
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV comes without {codec} here")
    # 64 pixels a side and 25 frames a second: with less, some encoders refuse
    size = {"height": 64, "width": 64, "fps": 25}
    path = write_clip(tmp_path / name, LEVELS, codec=codec, options=options, **size)
    if hasattr(os, "sched_getscheduler"):
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    video = read_video(path, every_third_backwards)
    backend = "pyav" if name in DECORD_IS_WRONG else "decord" if name == "closed.mp4" else None
    assert video.backend == (backend or video.backend)
    assert video.num_frames == len(LEVELS)
    np.testing.assert_allclose(grey_levels(video.frames), LEVELS[::-3], atol=4)


def test_width_that_decord_breaks_is_read(write_clip, grey_levels, tmp_path):
    video = read_video(write_clip(tmp_path / "narrow.mp4", LEVELS, width=48))
    assert video.frames.shape == (20, 32, 48, 3)
    np.testing.assert_allclose(grey_levels(video.frames), LEVELS, atol=2)


def test_short_side_reduces_but_never_enlarges(write_clip, grey_levels, tmp_path):
    path = write_clip(tmp_path / "wide.mp4", LEVELS, height=96, width=144)
    for asked, shape in [(32, (34, 52)), (40, (40, 60)), (96, (96, 144)), (200, (96, 144))]:
        video = read_video(path, lambda num_frames, fps: [4, 2], short_side=asked)
        # 32 would give width 48, which decord cannot write; the next even size is taken
        assert video.frames.shape[1:3] == shape
        assert video.backend == "decord"
        np.testing.assert_allclose(grey_levels(video.frames), [60, 40], atol=2)


def test_pyav_reads_the_same_without_decord(clip, grey_levels, monkeypatch):
    with_decord = read_video(clip, every_third_backwards)
    monkeypatch.setitem(sys.modules, "decord", None)  # makes `import decord` fail
    without = read_video(clip, every_third_backwards)
    assert (with_decord.backend, without.backend) == ("decord", "pyav")
    np.testing.assert_array_equal(with_decord.frames, without.frames)


@pytest.mark.parametrize(
    ("indices", "words"),
    [([20], "20 frames"), ([-1], "-1"), ([], "at least one"), ([0.5], "float")],
)
def test_frames_that_do_not_exist_are_refused(clip, indices, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_video(clip, lambda num_frames, fps: indices)
    assert not isinstance(caught.value, VideoError)


def test_unreadable_files_raise_video_error(clip, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:300])
    reasons = {
        "none.mp4": "no such file",
        "": "a folder",
        "empty.mp4": "empty",
        "text.mp4": "video",
    }
    for name, words in (reasons | {"cut.mp4": "cannot"}).items():
        with pytest.raises(VideoError, match=words) as caught:
            read_video(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_file_of_a_header_alone_raises_video_error(clip, tmp_path):
    """Matroska opens when it is cut before its first frame; it then lists none."""
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    with av.open(str(clip)) as source, av.open(str(whole), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(VideoError, match="none of its frames") as caught:
        read_video(cut, lambda num_frames, fps: segment_indices(num_frames, 8))
    assert caught.value.path == str(cut)


def write_frames(folder: Path, numbers: Sequence[int], form: str = "%05d.png") -> Path:
    """Write frames of 48 x 40 whose grey level is 10 times their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", (48, 40), (10 * number,) * 3).save(folder / (form % number), quality=95)
    return folder


def test_frames_in_a_folder_are_a_video(grey_levels, tmp_path):
    folder = write_frames(tmp_path / "7", range(1, 13), "img_%d.png")  # 2 comes before 10
    (folder / "list.txt").touch()
    video = read_video(folder, lambda num_frames, fps: [11, 0, 5, 5])
    assert (video.num_frames, video.fps, video.backend, video.num_damaged) == (
        12,
        None,
        "images",
        0,
    )
    np.testing.assert_array_equal(grey_levels(video.frames), [120, 10, 60, 60])


def test_large_jpeg_frames_are_decoded_at_a_reduced_size(grey_levels, tmp_path):
    for number in (1, 2):
        (tmp_path / "f").mkdir(exist_ok=True)
        Image.new("RGB", (640, 480), (90 * number,) * 3).save(tmp_path / f"f/{number}.jpg")
    video = read_video(tmp_path / "f", short_side=112)
    assert video.frames.shape == (2, 120, 160, 3)  # an eighth would be below 112, a quarter is not
    np.testing.assert_allclose(grey_levels(video.frames), [90, 180], atol=1)


def test_bad_frame_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    write_frames(tmp_path / "twice", [1])
    write_frames(tmp_path / "twice", [1], "x_%d.png")
    write_frames(tmp_path / "broken", [1, 2, 3])
    (tmp_path / "broken/00002.png").write_text("no image")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/frame.png").touch()
    reasons = {
        "empty": "without frames",
        "twice": "have one number 1",
        "broken": "00002.png cannot be read",
        "plain": "no number in its name",
    }
    for name, words in reasons.items():
        with pytest.raises(VideoError, match=words) as caught:
            read_video(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


def test_iterating_gives_what_reading_gives(clip, tmp_path):
    for path in (clip, write_frames(tmp_path / "f", [1, 2, 3])):
        np.testing.assert_array_equal(list(iterate_frames(path)), read_video(path).frames)
    assert decoded_sizes(str(clip)) == {(32, 64): len(LEVELS)}


def test_uneven_frame_times_are_noted(shared):
    notes = {
        name: list_packets(str(shared / "clips" / name)).notes
        for name in ("vfr.mp4", "mdn_rabbit320.webm", "k400_demo_armwrestle.mp4")
    }
    assert "variable frame rate" in notes.pop("vfr.mp4")[0]
    assert set(notes.values()) == {()}  # 33 and 34 ms are rounding


def decoded_from_the_start(path: Path, wanted: set[int]) -> tuple[dict[int, np.ndarray], int]:
    """Frames by their number, and how many there are: PyAV, one after the other, and no more."""
    found, count = {}, 0
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_count = 1  # what stands in for damaged parts depends on it
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue  # damaged on purpose
            for frame in frames:
                if count in wanted:
                    turns = round(frame.rotation / 90) % 4
                    found[count] = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                count += 1
    return found, count


def test_shared_clips_seek_to_the_frames_of_a_full_decode(shared):
    rows = list(csv.DictReader((shared / "clips/manifest.csv").open()))
    for row in rows:
        if row["file"] in ("audio_only.mp4", "mid_corrupt.mp4"):
            continue  # no video; damage between the chosen frames, which decord passes over
        path = shared / "clips" / row["file"]
        some = read_video(path, lambda n, fps: np.random.default_rng(0).integers(0, n, 6))
        expected, count = decoded_from_the_start(path, set(some.indices.tolist()))
        assert some.num_frames == count, row
        assert int(row["decodable frames"] or count) == count, row
        for frame, index in zip(some.frames, some.indices.tolist(), strict=True):
            np.testing.assert_array_equal(frame, expected[index], err_msg=row["file"])


def test_shared_broken_clips_are_read_as_stated_or_refused(shared):
    clips = shared / "clips"
    expected = {  # frames, backend, frames missing
        "cut_copy.mp4": (92, "pyav", 0),
        "decord_corrupted.mp4": (49, "pyav", 1),
        "mid_corrupt.mp4": (297, "pyav", 3),
        "trunc_faststart.mp4": (127, "pyav", 173),
        "one_frame.mp4": (1, "decord", 0),
        "vfr.mp4": (260, "decord", 0),
    }
    with DecodePool(1, timeout_s=20) as pool:  # so that a file that hangs fails the test
        for name, facts in expected.items():
            video = pool.submit(read_video, str(clips / name), short_side=40)()
            assert (video.num_frames, video.backend, video.num_damaged) == facts, name
        with pytest.raises(VideoError, match="no video stream"):
            pool.submit(read_video, str(clips / "audio_only.mp4"))()


def test_shared_rotated_clip_is_upright_in_both_decoders(shared, monkeypatch):
    path = shared / "clips/decord_rot_90.mov"
    upright = read_video(path)
    assert upright.frames.shape[1:3] == (568, 320)
    small = read_video(path, short_side=160)
    assert (small.frames.shape[1:3], small.backend) == ((284, 160), "decord")
    monkeypatch.setitem(sys.modules, "decord", None)
    np.testing.assert_array_equal(read_video(path).frames, upright.frames)
    assert read_video(path, short_side=160).frames.shape[1:3] == (284, 160)


def test_pool_outlives_a_hung_and_a_killed_worker(clip):
    with DecodePool(2, timeout_s=2) as pool:
        waits = [pool.submit(read_video, str(clip)) for _ in range(3)]
        hung = pool.submit(read_video, str(clip), sleep_long)
        killed = pool.submit(read_video, str(clip), kill_own_process)
        waits += [pool.submit(read_video, str(clip)) for _ in range(3)]
        with pytest.raises(VideoError, match=r"timeout_s=2") as caught:
            hung()
        assert caught.value.path == str(clip)
        with pytest.raises(VideoError, match="SIGKILL"):
            killed()
        assert [len(wait().frames) for wait in waits] == [20] * 6


@pytest.mark.parametrize("how", [sleep_long, kill_own_process])
def test_file_is_read_once_more_where_the_machine_was_to_blame(how, clip, tmp_path):
    with DecodePool(1, timeout_s=2) as pool:
        video = pool.submit(fail_once, str(clip), how, tmp_path / "tried")()
    assert len(video.frames) == 20


def test_pool_survives_the_death_of_an_idle_worker(clip):
    with DecodePool(1) as pool:
        worker = pool.submit(own_process, str(clip))()
        os.kill(worker, signal.SIGKILL)
        time.sleep(0.5)
        assert pool.submit(own_process, str(clip))() != worker


def test_pool_passes_errors_on_and_closes(clip):
    with DecodePool(1) as pool:
        worker = pool.submit(own_process, str(clip))()
        with pytest.raises(ValueError, match="float"):
            pool.submit(read_video, str(clip), half_a_frame)()
        with pytest.raises(VideoError, match="no such file"):
            pool.submit(read_video, "none.mp4")()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_in_process_pool_reads_here(clip):
    pool = DecodePool(0)
    assert pool.submit(own_process, str(clip))() == os.getpid()


@pytest.mark.parametrize(("workers", "timeout_s"), [(-1, 20.0), (1, 0.0)])
def test_bad_pool_is_refused(workers, timeout_s):
    with pytest.raises(ValueError, match=r"num_workers=-1|timeout_s=0"):
        DecodePool(workers, timeout_s)


def test_under_way_keeps_order_and_starts_ahead():
    started = []
    items = under_way((started.append(i) or i for i in range(5)), num_ahead=2)
    assert next(items) == 0
    assert started == [0, 1, 2]
    assert list(items) == [1, 2, 3, 4]


def test_decoding_workers_do_not_need_torch():
    code = "import sys, posmlp.data.clips, posmlp.data.files.pool; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- Long files, slow files, odd images ----------------------------------------------------------


@pytest.mark.parametrize("name", ["open_gop.mp4", "stream.ts", "packed.avi", "flash.flv"])
def test_long_file_is_read_from_its_key_frames_as_from_its_start(
    name, write_clip, tmp_path, monkeypatch
):
    codec, options = DECORD_IS_WRONG[name]
    levels = [20 + 2 * k for k in range(100)]
    path = write_clip(tmp_path / name, levels, codec=codec, options=options)
    wanted = [97, 3, 41, 42, 40, 97]
    whole = read_video(path, lambda n, fps: wanted)
    monkeypatch.setattr(video, "LONG", 50)
    if name == "open_gop.mp4":  # the others may fall back, but give the same
        monkeypatch.setattr(video, "_pyav_stream", None)
    sought = read_video(path, lambda n, fps: wanted)
    assert sought.backend == whole.backend == "pyav"
    assert sought.num_frames == whole.num_frames == 100
    np.testing.assert_array_equal(sought.frames, whole.frames)


def test_shared_clips_are_sought_as_decoded_from_the_start(shared, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    for name in ("tc_h265_video.mp4", "vfr.mp4", "k400_demo_armwrestle.mp4", "cut_copy.mp4"):
        path = shared / "clips" / name
        monkeypatch.setattr(video, "LONG", 10**6)
        whole = read_video(path, lambda n, fps: [n - 2, n // 2, n // 3], short_side=40)
        monkeypatch.setattr(video, "LONG", 10)
        sought = read_video(path, lambda n, fps: [n - 2, n // 2, n // 3], short_side=40)
        np.testing.assert_array_equal(sought.frames, whole.frames, err_msg=name)


def get_on_slowly(path):
    for _ in range(8):
        time.sleep(0.25)
        got_on()
    return path


def hang_with_the_lock_of_python(path):
    ctypes.PyDLL(None).sleep(60)


def test_file_may_take_long_while_it_gets_on(tmp_path):
    with DecodePool(1, timeout_s=1) as pool:
        assert pool.submit(get_on_slowly, "a")() == "a"
        with pytest.raises(VideoError, match="no frame of it came for timeout_s=1 seconds"):
            pool.submit(hang_with_the_lock_of_python, "b")()


def test_frames_of_mixed_sizes_are_cut_to_the_first_ones(tmp_path):
    write_frames(tmp_path / "f", [1, 2, 4])
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 18:42] = 90  # the middle, of the first one's shape
    Image.fromarray(wide).save(tmp_path / "f/00003.png")
    frames = read_video(tmp_path / "f").frames
    assert frames.shape == (4, 40, 48, 3)
    assert frames[2].min() > 40
    np.testing.assert_array_equal(
        read_video(tmp_path / "f", lambda n, fps: [2]).frames[0], frames[2]
    )
    assert decoded_sizes(str(tmp_path / "f")) == {(40, 48): 3, (20, 60): 1}


def test_images_that_are_no_frame_of_8_bits_are_refused(tmp_path):
    write_frames(tmp_path / "deep", [1])
    Image.fromarray(np.full((40, 48), 3000, np.uint16)).save(tmp_path / "deep/2.png")
    pictures = [Image.new("RGB", (48, 40), (level,) * 3) for level in (0, 90, 200)]
    for suffix in ("webp", "png"):
        write_frames(tmp_path / suffix, [1])
        moving = tmp_path / suffix / f"2.{suffix}"
        pictures[0].save(moving, save_all=True, append_images=pictures[1:])
    for name, words in (("deep", "more than 8 bits"), ("webp", "animation"), ("png", "animation")):
        with pytest.raises(VideoError, match=rf"frame 2\..* {words}"):
            read_video(tmp_path / name)
