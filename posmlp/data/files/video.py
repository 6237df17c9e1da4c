"""Frames of a video file: decord decodes, PyAV lists the packets first and is the fallback.

decord 0.6.0 returns wrong frames of some files, and says nothing: of those cut by stream copy, of
those in which frames are shown before the key frame that precedes them in the file, and of
containers without a table of their frames. So decord is asked only for files of which it is exact:
see `PacketIndex.decord_is_exact`. A folder of images is read as a video too.

Shapes: `N` frames, `H W` height and width. Frames are RGB, uint8. This file does not import torch:
decoding workers start quickly and stay small.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import ArrayLike, NDArray

from posmlp.data.files.frame_folder import decode_frames, frame_files, is_stored_as_images
from posmlp.data.files.packets import PacketIndex, VideoError, in_short, list_packets, packets_of

# (number of frames, frames per second or None) -> indices of the wanted frames. It may be called
# more than once for a file and must give the same answer for the same arguments.
Choose = Callable[[int, float | None], ArrayLike]

# Output widths at which decord 0.6.0 returns a wrong number of channels.
_DECORD_BROKEN_WIDTHS = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 72})


@dataclass(frozen=True)
class VideoFrames:
    """Chosen frames of one file.

    `num_frames` counts the frames of the file that can be decoded. `num_damaged` counts those that
    it declares and lacks, or that PyAV could not decode; decord does not tell of damage that lies
    between the chosen frames.
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
    path, choose = str(path), choose or _all_frames
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


def count_frames(path: str) -> int:
    """Decode all of a video file, without keeping anything, and return how many frames it has."""
    return sum(1 for _ in _pyav_stream(path, (), None))


def _all_frames(num_frames: int, fps: float | None) -> NDArray[np.int64]:
    return np.arange(num_frames)


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
        frames = reader.get_batch(unique.tolist()).asnumpy()
    except _DecordFailed:
        raise
    except Exception as error:  # decord raises RuntimeError, IndexError and its own Exception
        raise _DecordFailed(in_short(error)) from error
    finally:
        del reader  # an open reader goes on decoding and holds its frames
    if frames.shape[-1] != 3:
        raise _DecordFailed(f"returned {frames.shape[-1]} channels")
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
    """Decode the file from its start, so that every frame found has its true place."""
    expected = index.num_frames
    while True:
        if expected == 0:
            raise VideoError(path, "none of its frames can be decoded; fetch it again or remove it")
        wanted = _checked(choose(expected, index.fps), expected)
        found, num_decoded = _pyav_frames(path, set(wanted.tolist()), short_side)
        if num_decoded == expected:
            break
        expected = num_decoded  # damaged packets: choose again among the frames that exist
    frames = np.stack([found[i] for i in wanted.tolist()])
    num_damaged = index.num_declared - num_decoded
    return VideoFrames(frames, wanted, num_decoded, index.fps, "pyav", num_damaged)


def _pyav_frames(
    path: str, wanted: set[int], short_side: int | None
) -> tuple[dict[int, NDArray[np.uint8]], int]:
    """Return the wanted frames by index, and how many frames the whole file decodes to."""
    found: dict[int, NDArray[np.uint8]] = {}
    num_decoded = 0
    for position, frame in enumerate(_pyav_stream(path, wanted, short_side)):
        num_decoded += 1
        if frame is not None:
            found[position] = frame
    return found, num_decoded


def _pyav_stream(
    path: str, wanted: Container[int], short_side: int | None
) -> Iterator[NDArray[np.uint8] | None]:
    """Decode the whole file; yield each frame that is wanted, and None for each other."""
    size: tuple[int, int] | None = None
    reformatter = VideoReformatter()  # one for all frames: making one costs more than using it
    try:
        with av.open(path) as container:
            stream: Any = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for position, frame in enumerate(_decoded(container, stream)):
                if size is None:  # the first frame's: later ones may differ, in broken files
                    size = (frame.height, frame.width)
                    size = _reduced_size(*size, short_side) if short_side else size
                yield _to_rgb(frame, size, reformatter) if position in wanted else None
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be decoded ({in_short(error)})") from error


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of all packets that can be decoded."""
    for packet in chain(packets_of(container, stream), [None]):  # None empties the decoder
        try:
            yield from stream.codec_context.decode(packet)
        except av.error.InvalidDataError:
            continue  # a damaged packet: the caller sees the count differ


def _to_rgb(frame: Any, size: tuple[int, int], reformatter: VideoReformatter) -> NDArray[np.uint8]:
    rgb = reformatter.reformat(
        frame, width=size[1], height=size[0], format="rgb24", interpolation=Interpolation.BILINEAR
    )
    # decord applies a rotation tag by itself, PyAV only reports it.
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), k=round(frame.rotation / 90) % 4))
