"""Reading a whole data set before it is trained on: what is wrong in it, in one list.

No torch here: decoding workers import this file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from posmlp.data.check.leaks import leaks
from posmlp.data.clips import ClipRule, Draw, load_clip
from posmlp.data.files.packets import list_packets
from posmlp.data.files.pool import DecodePool, under_way
from posmlp.data.files.video import VideoError, decoded_sizes
from posmlp.data.layouts.folders import IMAGE_FOLDERS
from posmlp.data.layouts.layouts import read_listing, say, split_spec
from posmlp.data.layouts.listing import SPLITS, Listing, Problem, SplitMissing, is_frame_folder
from posmlp.data.layouts.problem_list import FileFacts, write_files, write_problems, write_root
from posmlp.data.user_cache import usable_cores

AHEAD = 64  # files in work for each worker: one slow file does not keep the others waiting


@dataclass
class DataCheck:
    """What a check found: problems and whether training leaves their item out, and good files."""

    root: Path
    problems: list[tuple[str, Problem, bool]] = field(default_factory=list)  # split, what, dropped
    files: list[FileFacts] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # what was found in each split, in words
    leaks: list[str] = field(default_factory=list)  # footage that two splits share, in words
    written: Path | None = None

    @property
    def num_dropped(self) -> int:
        return sum(dropped for _, _, dropped in self.problems)

    def decoders(self) -> Counter[str]:
        """How many files each decoder read."""
        return Counter(file.decoder for file in self.files)


def check_data(
    spec: str | Path,
    rule: ClipRule,
    *,
    num_workers: int | None = None,
    timeout_s: float = 20.0,
    min_frames: int = 2,
    max_lost_share: float = 0.1,
    out: str | Path | None = None,
) -> DataCheck:
    """Read every file of every split as training would, and all of its frames; write two lists.

    Listed are files that are missing, empty, unreadable, shorter than `min_frames` (but images), or
    damaged (frames are declared that cannot be decoded), annotations that are malformed, labels
    outside the class list, items listed twice or in two splits. All are left out of training from
    then on but for those in two splits and the damaged ones that lack at most `max_lost_share` of
    their frames. The lists go to `out`, by default the data set's folder, where training looks for
    them; another folder then stands for the data set, and is what training is given. See
    `problem_list`. Footage that two splits share is told, and nothing left out for it.
    `num_workers`: processes, by default one a CPU core that may be used.

    Raises:
        ValueError: there is no data set, or the folder for the lists cannot be written.
    """
    if not (min_frames >= 1 and 0 <= max_lost_share <= 1):
        raise ValueError(
            f"min_frames={min_frames} must be at least 1, and max_lost={max_lost_share:g} a share, "
            "from 0 to 1"
        )
    layout, root, lists = split_spec(spec)
    target = Path(out or lists)
    if not target.is_dir() or not os.access(target, os.W_OK):
        raise ValueError(
            f"the lists cannot be written to {target}; make it a folder that you may write to, or "
            "name another with --out"
        )
    workers = usable_cores() if num_workers is None else num_workers
    check = DataCheck(root)
    with DecodePool(workers, timeout_s) as pool:
        for listing in _listings(spec):
            check.said.append(say(listing))
            check.problems += [(listing.split, problem, True) for problem in listing.problems]
            for item in _read_items(listing, rule, pool):
                _judge(check, listing, *item, min_frames, max_lost_share)
        check.leaks = leaks(root, check.files, pool)
    check.problems += _in_two_splits(check.files)
    check.written = write_problems(target, check.problems)
    write_files(target, check.files)
    if not target.samefile(root):
        write_root(target, layout, root)
    return check


def _listings(spec: str | Path) -> Iterator[Listing]:
    """Yield the listing of each split that there is; one that stands for two splits, once."""
    seen: list[tuple[Path, ...]] = []
    missing: SplitMissing | None = None
    for split in SPLITS:
        try:
            listing = read_listing(spec, split)
        except SplitMissing as error:
            missing = error
            continue
        if listing.paths not in seen:
            seen.append(listing.paths)
            yield listing
    if not seen and missing is not None:
        raise missing


def _read_items(
    listing: Listing, rule: ClipRule, pool: DecodePool
) -> Iterator[tuple[str, int | None, FileFacts | Problem]]:
    """Each item's place, the frames that a list declares for it, and what came of reading it."""
    items = list(zip(listing.places(), listing.paths, listing.labels, strict=True))

    def start(item: tuple[str, Path, int]) -> Callable[[], FileFacts | Problem]:
        place, path, label = item
        if absent := _absent(place, path):
            return lambda: absent
        return pool.submit(read_facts, str(path), rule, listing.split, place, label)

    started = under_way(map(start, items), num_ahead=AHEAD * pool.num_workers)
    title = f"checking {listing.name} ({listing.split})"
    waits = tqdm(started, title, len(items), unit="file", disable=None)
    declared = listing.num_frames or (None,) * len(items)
    for (place, *_), frames, wait in zip(items, declared, waits, strict=True):
        try:
            found = wait()
        except VideoError as error:
            found = Problem(place, "unreadable", error.reason)
        yield place, frames, found


def _absent(place: str, path: Path) -> Problem | None:
    """Return what is wrong with a file that need not be opened to be known as bad."""
    if not path.exists():
        return Problem(place, "missing", "no such file; put it there or mend the list")
    if path.is_dir() and not is_frame_folder(path):
        return Problem(place, "empty", "a folder without frames; extract them or remove it")
    if path.is_file() and path.stat().st_size == 0:
        return Problem(place, "empty", "the file is empty (0 bytes); fetch it again or remove it")
    return None


def read_facts(path: str, rule: ClipRule, split: str, place: str, label: int) -> FileFacts:
    """Read a file as training does, then all of its frames; raises VideoError."""
    video = load_clip(path, rule, Draw())
    status = os.stat(path)
    num_lacking = video.num_damaged
    sizes = decoded_sizes(path)
    num_frames = sum(sizes.values())
    notes: tuple[str, ...] = ()
    if video.backend == "images":
        height, width = next(iter(sizes))
    else:
        index = list_packets(path)
        height, width, notes = index.height, index.width, index.notes
        num_lacking = index.num_declared - num_frames
    if len(sizes) > 1:
        notes += ("frames of several sizes: all are cut to the first one's",)
    return FileFacts(
        split=split,
        place=place,
        label=label,
        size_bytes=status.st_size,
        changed_ns=status.st_mtime_ns,
        num_frames=num_frames,
        num_lacking=num_lacking,
        fps=video.fps,
        width=width,
        height=height,
        decoder=video.backend,
        notes="; ".join(notes),
    )


def _judge(
    check: DataCheck,
    listing: Listing,
    place: str,
    declared: int | None,
    found: FileFacts | Problem,
    min_frames: int,
    max_lost_share: float,
) -> None:
    """File what was read with the good or the bad."""
    if isinstance(found, Problem):
        check.problems.append((listing.split, found, True))
        return
    check.files.append(found)
    min_frames = 1 if listing.layout == IMAGE_FOLDERS else min_frames
    count = found.num_frames
    lacking = max(found.num_lacking, (declared or 0) - count)
    if count < min_frames:
        reason = f"{count} frames, below min_frames={min_frames}"
        check.problems.append((listing.split, Problem(place, "too short", reason), True))
    elif lacking > 0:
        whole = count + lacking
        reason = f"{lacking} of its {whole} frames cannot be decoded or are not there"
        dropped = lacking / whole > max_lost_share
        check.problems.append((listing.split, Problem(place, "damaged", reason), dropped))
    elif declared is not None and declared < count:
        reason = f"the list says {declared} frames, but there are {count}"
        check.problems.append((listing.split, Problem(place, "mislabelled", reason), False))


def _in_two_splits(files: list[FileFacts]) -> list[tuple[str, Problem, bool]]:
    first: dict[str, str] = {}
    found = []
    for file in files:
        before = first.setdefault(file.place, file.split)
        if before != file.split:
            reason = f"is in split {before} too, so that what is tested was trained on"
            found.append((file.split, Problem(file.place, "mislabelled", reason), False))
    return found
