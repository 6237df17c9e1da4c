"""Frames of a video file: decord decodes, PyAV lists the packets first and is the fallback.

decord 0.6.0 returns wrong frames of some files, and says nothing, so it is asked only for those of
which it is exact (`PacketIndex.decord_is_exact`). A folder of images is read as a video too.

Shapes: `N` frames, `H W` height and width. Frames are RGB, uint8. No torch here: decoding workers
import this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posmlp.data.files.frame_folder import (
    decode_frames,
    frame_files,
    frame_sizes,
    is_stored_as_images,
)
from posmlp.data.files.packets import (
    PacketIndex,
    VideoError,
    got_on,
    in_short,
    list_packets,
    packets_of,
    pyav,
)

# (number of frames, frames per second or None) -> indices of the wanted frames. It may be called
# more than once for a file and must give the same answer for the same arguments.
Choose = Callable[[int, float | None], ArrayLike]

# Files of more frames are not decoded from their start, where their packets tell another way.
LONG = 1000
AT_ONCE = 32  # frames in a row that decord is asked for in one call
# Output widths at which decord 0.6.0 returns a wrong number of channels.
_DECORD_BROKEN_WIDTHS = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 72})


@dataclass(frozen=True)
class VideoFrames:
    """Chosen frames of one file.

    `num_frames` counts the frames of the file that can be decoded. `num_damaged` counts those that
    it declares and lacks, or that PyAV could not decode; of a file that decord reads, and of one of
    more than LONG frames, damage that lies between the chosen frames is not told.
    """

    frames: NDArray[np.uint8]  # (N, H, W, 3)
    indices: NDArray[np.int64]  # (N,)
    num_frames: int
    fps: float | None
    backend: Literal["decord", "pyav", "images"]
    num_damaged: int = 0


def read_video(
    path: str | Path, choose: Choose | None = None, *, short_side: int | None = None
) -> VideoFrames:
    """Read the frames that `choose(num_frames, fps)` names, or all of them.

    `path` is a video file, an image, or a folder of images of which each is a frame. Indices may
    repeat and may be unsorted. `short_side` (pixels) asks for decoding at a reduced size: the
    result's short side is at least that, or the file's own if that is smaller;
    `posmlp.data.sampling.resize_short_side` does the exact resizing.

    Raises:
        VideoError: the file cannot be read.
        ValueError: `choose` gave no index, or one that the video does not have.
    """
    path, choose = str(path), choose or (lambda num_frames, _: np.arange(num_frames))
    if is_stored_as_images(path):
        return _read_folder(path, choose, short_side)
    index = list_packets(path)
    if index.decord_is_exact:
        try:
            return _read_with_decord(path, index, choose, short_side)
        except _DecordFailed:
            pass  # PyAV reads the file, or says what is wrong with it; the backend is recorded
    return _read_with_pyav(path, index, choose, short_side)


def iterate_frames(
    path: str | Path, *, short_side: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield all frames (H, W, 3) of a file or frame folder in order, one in memory at a time.

    Raises VideoError as `read_video` does.
    """
    path = str(path)
    if is_stored_as_images(path):
        files, _ = frame_files(path)
        for index in range(len(files)):
            yield decode_frames(path, files, [index], short_side)[0]
        return
    num_frames = list_packets(path).num_frames
    for frame in _pyav_stream(path, range(num_frames), short_side):
        if frame is not None:
            yield frame


def decoded_sizes(path: str) -> Counter[tuple[int, int]]:
    """Decode all of a video file or frame folder: how many frames have which height and width.

    They differ in a folder of mixed images, and in a broken file; all come at the first one's size.
    Raises VideoError as `read_video` does.
    """
    if is_stored_as_images(path):
        for _ in iterate_frames(path, short_side=1):
            pass
        return Counter(frame_sizes(path))
    return Counter((frame.height, frame.width) for frame in _pyav_frames_of(path))


def frame_times(path: str) -> NDArray[np.float64] | None:
    """Seconds (N,) from the first frame to each, as the file tells; None where it does not."""
    if is_stored_as_images(path):
        return None
    index = list_packets(path)
    if index.times is None or not (index.tick_s and len(index.times) > 1):
        return None
    return (index.times - index.times[0]) * index.tick_s


def num_pixels(path: str) -> int:
    """Pixels of all frames of a video file, which tell how long decoding all of it takes.

    0 for images, which are read one by one. Raises VideoError as `read_video` does.
    """
    if is_stored_as_images(path):
        return 0
    index = list_packets(path)
    return index.num_frames * index.height * index.width


def _checked(indices: ArrayLike, num_frames: int) -> NDArray[np.int64]:
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or wanted.size == 0 or not np.issubdtype(wanted.dtype, np.integer):
        raise ValueError(
            f"frame indices of dtype {wanted.dtype} and shape {wanted.shape}: "
            "give a list of at least one integer"
        )
    if wanted.min() < 0 or wanted.max() >= num_frames:
        raise ValueError(
            f"frame indices reach from {wanted.min()} to {wanted.max()}, but the video has "
            f"{num_frames} frames; choose from 0 to {num_frames - 1}"
        )
    return wanted.astype(np.int64)


def _read_folder(path: str, choose: Choose, short_side: int | None) -> VideoFrames:
    files, num_lacking = frame_files(path)
    wanted = _checked(choose(len(files), None), len(files))
    unique, places = np.unique(wanted, return_inverse=True)
    frames = decode_frames(path, files, unique.tolist(), short_side)
    return VideoFrames(frames[places], wanted, len(files), None, "images", num_lacking)


# ---- decord --------------------------------------------------------------------------------------


class _DecordFailed(Exception):
    """decord is missing, or cannot read this file."""


def _read_with_decord(
    path: str, index: PacketIndex, choose: Choose, short_side: int | None
) -> VideoFrames:
    if index.num_frames == 0:  # a Matroska file that was cut after its header
        raise _DecordFailed("the file lists no frames")
    wanted = _checked(choose(index.num_frames, index.fps), index.num_frames)
    # Sorted: unsorted indices cost three times as much and are wrong for HEVC.
    unique, places = np.unique(wanted, return_inverse=True)
    frames = _decord_frames(path, index, unique, short_side)
    num_damaged = index.num_declared - index.num_frames
    return VideoFrames(frames[places], wanted, index.num_frames, index.fps, "decord", num_damaged)


def _decord_frames(
    path: str, index: PacketIndex, unique: NDArray[np.int64], short_side: int | None
) -> NDArray[np.uint8]:
    try:
        import decord
    except ImportError as error:
        raise _DecordFailed("decord is not installed") from error
    decord.logging.set_level(decord.logging.QUIET)
    reader = None
    try:
        reader = decord.VideoReader(path, num_threads=1)
        if len(reader) != index.num_frames:
            raise _DecordFailed(f"counts {len(reader)} frames, the file has {index.num_frames}")
        # A huge negative time means no times (avi): its last frame is then sometimes an old one.
        if not reader.get_frame_timestamp(0)[0] >= -1e-3:
            raise _DecordFailed("has no usable frame times")
        if short_side is not None and min(index.height, index.width) > short_side:
            # Only a decoded frame tells the size after rotation, which is what decord wants.
            height, width = reader[0].shape[:2]
            height, width = _reduced_size(height, width, short_side)
            reader = decord.VideoReader(path, width=width, height=height, num_threads=1)
        frames = _by_runs(reader, unique)
    except _DecordFailed:
        raise
    except Exception as error:  # decord raises RuntimeError, IndexError and its own Exception
        raise _DecordFailed(in_short(error)) from error
    finally:
        del reader  # an open reader goes on decoding and holds its frames
    if frames.shape[-1] != 3:
        raise _DecordFailed(f"returned {frames.shape[-1]} channels")
    return frames


def _by_runs(reader: Any, unique: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Frames of a decord reader, asked for in short runs, so that it is seen to get on."""
    ends = (np.diff(unique) > 1) | (np.arange(1, len(unique)) % AT_ONCE == 0)
    frames: NDArray[np.uint8] | None = None
    start = 0
    for run in np.split(unique, np.flatnonzero(ends) + 1):
        part = reader.get_batch(run.tolist()).asnumpy()
        got_on()
        if frames is None:
            frames = np.empty_like(part, shape=(len(unique), *part.shape[1:]))
        frames[start : start + len(run)] = part
        start += len(run)
    assert frames is not None  # at least one index is asked for
    return frames


def _reduced_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the smallest even size of that aspect that decord can write, or the size as it is."""
    for short in range(short_side + short_side % 2, min(height, width), 2):
        scale = short / min(height, width)
        size = (2 * round(height * scale / 2), 2 * round(width * scale / 2))
        if size[1] not in _DECORD_BROKEN_WIDTHS:
            return size
    return height, width


# ---- PyAV ----------------------------------------------------------------------------------------


def _read_with_pyav(
    path: str, index: PacketIndex, choose: Choose, short_side: int | None
) -> VideoFrames:
    """Decode the file from its start, so that every frame found has its true place.

    A long one is decoded from the key frames before the wanted ones, if those are found there.
    """
    expected = index.num_frames
    if expected > LONG and index.times is not None:
        wanted = _checked(choose(expected, index.fps), expected)
        unique, places = np.unique(wanted, return_inverse=True)
        frames = _pyav_seek(path, index, unique, short_side)
        if frames is not None:
            num_damaged = index.num_declared - expected
            return VideoFrames(frames[places], wanted, expected, index.fps, "pyav", num_damaged)
    while True:
        if expected == 0:
            raise VideoError(path, "none of its frames can be decoded; fetch it again or remove it")
        wanted = _checked(choose(expected, index.fps), expected)
        found = list(_pyav_stream(path, set(wanted.tolist()), short_side))
        if len(found) == expected:
            break
        expected = len(found)  # damaged packets: choose again among the frames that exist
    frames = np.stack([found[i] for i in wanted.tolist()])  # all are wanted
    num_damaged = index.num_declared - expected
    return VideoFrames(frames, wanted, expected, index.fps, "pyav", num_damaged)


def _pyav_seek(
    path: str, index: PacketIndex, unique: NDArray[np.int64], short_side: int | None
) -> NDArray[np.uint8] | None:
    """The frames of sorted places, each from the key frame before it; None if one is not found.

    None as well where that is half of the file or more, which is as quick from its start.
    """
    assert index.times is not None
    assert index.key_times is not None
    targets = index.times[unique]
    keys = np.searchsorted(index.key_times, targets, side="right") - 1
    if keys.min() < 0 or 2 * len(np.unique(keys)) > len(index.key_times):
        return None
    found: list[NDArray[np.uint8]] = []
    as_rgb, av = _AsRgb(short_side), pyav()
    try:
        with av.open(path) as container:
            stream: Any = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for key in np.unique(keys):
                container.seek(int(index.key_times[key]), stream=stream)
                wanted = targets[keys == key].tolist()
                for frame in _decoded(container, stream):
                    if frame.pts is None or frame.pts > wanted[0]:
                        return None
                    if frame.pts == wanted[0]:
                        found.append(as_rgb(frame))
                        if not (wanted := wanted[1:]):
                            break
    except (av.error.FFmpegError, OSError):
        return None  # decoding from the start says what is wrong
    return np.stack(found) if len(found) == len(unique) else None


def _pyav_stream(
    path: str, wanted: Container[int], short_side: int | None
) -> Iterator[NDArray[np.uint8] | None]:
    """Decode the whole file; yield each frame that is wanted, and None for each other."""
    as_rgb = _AsRgb(short_side)
    for position, frame in enumerate(_pyav_frames_of(path)):
        as_rgb.see(frame)
        yield as_rgb(frame) if position in wanted else None


def _pyav_frames_of(path: str) -> Iterator[Any]:
    """Decode the whole file, frame by frame."""
    av = pyav()
    try:
        with av.open(path) as container:
            stream: Any = container.streams.best("video")
            stream.codec_context.thread_count = 1
            yield from _decoded(container, stream)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be decoded ({in_short(error)})") from error


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of all packets that can be decoded."""
    damaged = pyav().error.InvalidDataError
    for packet in chain(packets_of(container, stream), [None]):  # None empties the decoder
        try:
            yield from stream.codec_context.decode(packet)
        except damaged:
            continue  # a damaged packet: the caller sees the count differ


class _AsRgb:
    """Turns frames into upright RGB, all of the first one's size: later ones may differ."""

    def __init__(self, short_side: int | None) -> None:
        self._short_side = short_side
        self._size: tuple[int, int] | None = None
        self._by = pyav().video.reformatter
        self._reformatter = self._by.VideoReformatter()  # making one costs more than using it

    def see(self, frame: Any) -> None:
        if self._size is None:
            self._size = (frame.height, frame.width)
            if self._short_side is not None:
                self._size = _reduced_size(*self._size, self._short_side)

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        self.see(frame)
        assert self._size is not None
        height, width = self._size
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation=self._by.Interpolation.BILINEAR,
        )
        # decord applies a rotation tag by itself, PyAV only reports it.
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), k=round(frame.rotation / 90) % 4))
