"""The first reading of all files of a data set: which are readable, and short ones' frames."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from posmlp.data.clips import ClipRule, Draw, load_clip, load_whole
from posmlp.data.layouts import Listing
from posmlp.data.pool import DecodePool, under_way
from posmlp.data.video import VideoError, VideoFrames


@dataclass
class Survey:
    videos: list[VideoFrames] | None  # all frames of each readable file, if they are to be cached
    unreadable: list[VideoError] = field(default_factory=list)
    backends: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, int] = field(default_factory=dict)


def survey_files(listing: Listing, rule: ClipRule, pool: DecodePool, cache_bytes: int) -> Survey:
    """Read every file: whole while the cache has room, then one test clip of each."""
    survey = Survey(videos=[])
    room = cache_bytes

    def start(path: str) -> tuple[str, Callable[[], VideoFrames]]:
        if survey.videos is None:
            return path, pool.submit(load_clip, path, rule, Draw())
        max_frames = room // (3 * rule.image_size**2)
        return path, pool.submit(load_whole, path, rule, max_frames)

    started = under_way(map(start, map(str, listing.paths)), num_ahead=4 * pool.num_workers)
    title = f"reading {listing.name} ({listing.split})"
    for path, wait in tqdm(started, title, len(listing.paths), unit="file", disable=None):
        try:
            video = wait()
        except VideoError as error:
            survey.unreadable.append(error)
            continue
        survey.backends[video.backend] += 1
        if video.num_damaged:
            survey.damaged[path] = video.num_damaged
        if survey.videos is None:
            continue
        room -= video.frames.nbytes
        if room < 0 or len(video.frames) < video.num_frames:
            survey.videos = None
        else:
            survey.videos.append(video)
    return survey


def refuse_or_report(survey: Survey, root: str, num_files: int, max_bad_share: float) -> None:
    """Raise if too many files are unreadable; otherwise say which files are lost or damaged."""
    num_bad = len(survey.unreadable)
    if num_bad and (num_bad > max_bad_share * num_files or num_bad == num_files):
        first = "".join(f"\n  {error}" for error in survey.unreadable[:5])
        more = f"\n  and {num_bad - 5} more" if num_bad > 5 else ""
        raise VideoError(
            root,
            f"{num_bad} of {num_files} videos cannot be read, above max_bad_share={max_bad_share}; "
            "repair or remove them, or drop them with "
            f"max_bad_share={np.ceil(1e4 * num_bad / num_files) / 1e4:g}:{first}{more}",
        )
    for error in survey.unreadable:
        print(f"dropped: {error}", file=sys.stderr)
    for path, num_damaged in survey.damaged.items():
        print(f"damaged: {path}: {num_damaged} of its frames are missing", file=sys.stderr)
