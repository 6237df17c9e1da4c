"""Which files of a folder can be cut into windows: whole, long enough, each scene once.

No torch here. Shapes: N frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posmlp.data.files.packets import VideoError, list_packets, packets_of
from posmlp.data.files.pictures import SIDE, Pictures, enough, picture, shared_pictures
from posmlp.data.files.video import iterate_frames
from posmlp.data.layouts.listing import VIDEO_SUFFIXES, place_of

MOST_COMPARED = 1000  # frames of a file, evenly spaced


@dataclass(frozen=True)
class Footage:
    """A file that can be cut; `times` are its frames', in the file's own usual frame step."""

    path: Path
    place: str  # relative to the folder
    times: NDArray[np.float64]  # (N,), from 0, increasing

    def frames_at(self, times: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """The frames that are shown nearest to `times`, so that uneven files play evenly."""
        middles = (self.times[1:] + self.times[:-1]) / 2
        return np.searchsorted(middles, times).astype(np.int64)


def find_footage(
    folder: Path, span: int, progress: bool = True
) -> tuple[list[Footage], dict[str, str]]:
    """Files of `folder`, and folders in it, that last `span` frame steps; why others are left out.

    Left out are files that cannot be read, lack frames or are too short, and of files that show the
    same footage all but the longest, since they would be trained on and tested on. Two files do if
    they share at least eight pictures; a film cut into two without overlap is not noticed.
    Raises ValueError if there is no folder, or no video in it.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}; give a folder of videos")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no videos ({' '.join(VIDEO_SUFFIXES)}); put some there")
    left_out: dict[str, str] = {}
    found: list[tuple[Footage, Pictures]] = []
    for path in tqdm(paths, "reading", unit="file", disable=None if progress else True):
        place = place_of(path, folder)
        try:
            found.append(_read(path, place, span))
        except VideoError as error:
            left_out[place] = error.reason
    found.sort(key=lambda pair: -len(pair[0].times))
    kept: list[tuple[Footage, Pictures]] = []
    for file, pictures in found:
        same = next((other for other, seen in kept if _same_footage(pictures, seen)), None)
        if same is None:
            kept.append((file, pictures))
        else:
            left_out[file.place] = f"shows the same footage as {same.place}"
    return sorted((file for file, _ in kept), key=lambda file: file.place), left_out


def _read(path: Path, place: str, span: int) -> tuple[Footage, Pictures]:
    """A file and pictures of its frames."""
    promised = list_packets(str(path)).num_declared
    thumbs = [picture(frame) for frame in iterate_frames(path, short_side=SIDE)]
    if len(thumbs) < promised:
        lost = promised - len(thumbs)
        raise VideoError(str(path), f"damaged: {lost} of its {promised} frames cannot be decoded")
    times = _frame_times(path, len(thumbs))
    if len(times) < 2 or times[-1] < span:
        raise VideoError(str(path), f"too short: {len(times)} frames, a window takes {span + 1}")
    some = np.unique(np.linspace(0, len(thumbs) - 1, MOST_COMPARED).astype(int))
    return Footage(path, place, times), np.stack([thumbs[i] for i in some])


def _frame_times(path: Path, num_frames: int) -> NDArray[np.float64]:
    """When each frame is shown, in steps of the usual length; by number if the file tells none."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        packets = packets_of(container, stream)
        shown = [p.pts for p in packets if p.pts is not None and not p.is_discard]
    times = np.unique(np.asarray(shown, np.float64))
    if len(times) != num_frames or num_frames < 2:
        return np.arange(num_frames, dtype=np.float64)
    return (times - times[0]) / np.median(np.diff(times))


def _same_footage(first: Pictures, second: Pictures) -> bool:
    return bool(shared_pictures(first, [second])[0][0] >= enough(first, second))
