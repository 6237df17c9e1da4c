"""The first reading of the files of a data set: which are readable, and short ones' frames."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from posmlp.data.clips import LONG_FILM, ClipRule, Draw, draw_of, load_clip, load_whole
from posmlp.data.files.frame_cache import FrameCache, over
from posmlp.data.files.frame_file import Kept
from posmlp.data.files.pool import DecodePool, under_way
from posmlp.data.files.video import VideoError, VideoFrames
from posmlp.data.layouts.listing import Listing
from posmlp.data.layouts.problem_list import FileFacts, read_files

NUM_SHOWN = 10  # damaged files that are named on screen; the run's record names all


@dataclass
class Survey:
    kept: Kept
    unreadable: list[VideoError] = field(default_factory=list)
    backends: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, int] = field(default_factory=dict)

    def count(self, path: str, backend: str, num_lacking: int) -> None:
        self.backends[backend] += 1
        if num_lacking > 0:
            self.damaged[path] = num_lacking

    def count_video(self, path: str, declared: int | None, video: VideoFrames) -> None:
        lacking = max(video.num_damaged, (declared or 0) - video.num_frames)
        self.count(path, video.backend, lacking)


def survey_files(listing: Listing, rule: ClipRule, pool: DecodePool, cache_bytes: int) -> Survey:
    """Read every file: whole while the cache has room, then one test clip of each.

    Files whose frames the cache has are not read. Files that a data check has read and that have
    not changed since are read only to be cached.
    """
    known = _still_known(listing)
    why_not = _why_not_cached(known, listing, rule, cache_bytes)
    if why_not:
        survey = _read(listing, rule, pool, known, None)
        survey.kept = Kept("nowhere", why_not)
    else:
        draw = draw_of(listing.split)
        scale = f"{rule.short_side(draw)}{', as decoded' * rule.cuts_as_decoded(draw)}"
        with FrameCache(listing.paths, scale, cache_bytes, tell) as cache:
            survey = _found(listing, cache.found) or _read(listing, rule, pool, known, cache)
    tell(f"cache: {survey.kept}")
    return survey


def _why_not_cached(
    known: dict[str, FileFacts], listing: Listing, rule: ClipRule, cache_bytes: int
) -> str:
    """Why no frames are to be kept, as far as can be told without reading; else nothing."""
    if cache_bytes == 0:
        return "0 GiB are asked for (--cache-gib)"
    return over(cache_bytes) if _cached_bytes(known, listing, rule) > cache_bytes else ""


def _found(listing: Listing, kept: Kept | None) -> Survey | None:
    """What reading told when the frames were cached."""
    if kept is None:
        return None
    survey = Survey(kept)
    for path, declared, video in zip(*_items(listing), kept.videos, strict=True):
        survey.count_video(path, declared, video)
    return survey


def _items(listing: Listing) -> tuple[Sequence[str], Sequence[int | None]]:
    """Paths, and frames as declared."""
    return list(map(str, listing.paths)), listing.num_frames or (None,) * len(listing.paths)


def _read(
    listing: Listing,
    rule: ClipRule,
    pool: DecodePool,
    known: dict[str, FileFacts],
    cache: FrameCache | None,
) -> Survey:
    """Read every file, and add what has to be kept to the cache."""
    survey = Survey(Kept("nowhere"))
    draw = draw_of(listing.split)

    def start(path: str) -> Callable[[], VideoFrames] | FileFacts:
        if cache is not None and cache.room > 0:
            max_frames = cache.room // (3 * rule.image_size**2)
            return pool.submit(load_whole, path, rule, draw, max_frames)
        return known[path] if path in known else pool.submit(load_clip, path, rule, Draw())

    paths, declared = _items(listing)
    started = under_way(map(start, paths), num_ahead=4 * pool.num_workers)
    title = f"reading {listing.name} ({listing.split})"
    hidden = None if _is_first_process() else True
    waits = tqdm(started, title, len(paths), unit="file", disable=hidden)
    for path, expected, wait in zip(paths, declared, waits, strict=True):
        if isinstance(wait, FileFacts):
            survey.count(path, wait.decoder, wait.num_lacking)
            continue
        try:
            video = wait()
        except VideoError as error:
            survey.unreadable.append(error)
            continue
        survey.count_video(path, expected, video)
        if cache is not None and cache.is_open:
            cache.add(video)
    if cache is not None:
        survey.kept = cache.finish(is_complete=not survey.unreadable)
    return survey


def _still_known(listing: Listing) -> dict[str, FileFacts]:
    """Return what a data check knows of the files that are as they were then, by path."""
    facts = read_files(listing.lists or listing.root)
    if not facts:
        return {}
    found = zip(listing.paths, listing.places(), strict=True)
    return {
        str(path): facts[place]
        for path, place in found
        if place in facts and facts[place].still_holds(path)
    }


def _cached_bytes(known: dict[str, FileFacts], listing: Listing, rule: ClipRule) -> int:
    """Return the bytes of all frames as they are kept, or fewer, as far as they are known."""
    total, draw = 0, draw_of(listing.split)
    for path in map(str, listing.paths):
        file = known.get(path)
        if file is not None and file.num_frames * file.height * file.width <= LONG_FILM:
            short, long = sorted((file.height, file.width))
            side = rule.short_side(draw)
            side = min(side, short) if rule.cuts_as_decoded(draw) else side
            total += 3 * file.num_frames * side * (long * side // short)
    return total


def refuse_missing(listing: Listing, max_bad_share: float) -> None:
    """Raise VideoError, before any file is read, if too many are not there."""
    missing = [str(path) for path in listing.paths if not path.exists()]
    errors = [VideoError(path, "no such file; put it there or mend the list") for path in missing]
    if len(errors) > max_bad_share * len(listing.paths):
        raise _refusal(errors, str(listing.root), len(listing.paths), max_bad_share)


def refuse_or_report(survey: Survey, root: str, num_files: int, max_bad_share: float) -> None:
    """Raise if too many files are unreadable; otherwise say which files are lost or damaged."""
    num_bad = len(survey.unreadable)
    if num_bad and (num_bad > max_bad_share * num_files or num_bad == num_files):
        raise _refusal(survey.unreadable, root, num_files, max_bad_share)
    for error in survey.unreadable:
        tell(f"dropped: {error}")
    damaged = [f"{path}: {lost} of its frames are missing" for path, lost in survey.damaged.items()]
    for line in damaged[:NUM_SHOWN]:
        tell(f"damaged: {line}")
    if len(damaged) > NUM_SHOWN:
        tell(f"damaged: {len(damaged) - NUM_SHOWN} more files lack frames")


def tell(line: str) -> None:
    """Print a line to stderr; of the processes that torchrun started, only the first does."""
    if _is_first_process():
        print(line, file=sys.stderr)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _refusal(
    errors: list[VideoError], root: str, num_files: int, max_bad_share: float
) -> VideoError:
    num_bad = len(errors)
    first = "".join(f"\n  {error}" for error in errors[:5])
    more = f"\n  and {num_bad - 5} more" if num_bad > 5 else ""
    return VideoError(
        root,
        f"{num_bad} of {num_files} videos cannot be read, above max_bad_share={max_bad_share}; "
        "repair or remove them, list them once with `posmlp data check` so that training leaves "
        f"them out, or drop them with max_bad_share={np.ceil(1e4 * num_bad / num_files) / 1e4:g}:"
        f"{first}{more}",
    )
