"""Files of two splits that show the same footage, so that what is tested was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from posmlp.data.files.pictures import Pictures, enough, pictures_of, shared_pictures
from posmlp.data.files.pool import DecodePool, under_way
from posmlp.data.files.video import VideoError
from posmlp.data.layouts.problem_list import FileFacts

MOST_FILES = 1000  # of a split, evenly spaced
MOST_PICTURES = 100  # of a file, evenly spaced
NUM_SHOWN = 5


def leaks(root: Path, files: Sequence[FileFacts], pool: DecodePool) -> list[str]:
    """A line for each two splits that share footage, which names some of the files.

    Images that stand alone are not compared: many of one kind look alike.
    """
    of_split: dict[str, list[FileFacts]] = {}
    for file in files:
        if file.num_frames > 1:
            of_split.setdefault(file.split, []).append(file)
    if len(of_split) < 2:
        return []
    seen = {split: dict(_pictures(root, _some(found), pool)) for split, found in of_split.items()}
    lines = []
    for one, other in combinations(seen, 2):
        pairs = list(_shared(seen[one], seen[other]))
        if not pairs:
            continue
        shown = "; ".join(f"{first} and {second}" for first, second in pairs[:NUM_SHOWN])
        more = f" and {len(pairs) - NUM_SHOWN} more" if len(pairs) > NUM_SHOWN else ""
        most = max(len(of_split[one]), len(of_split[other]))
        only = f" ({MOST_FILES} files of {most} were compared)" if most > MOST_FILES else ""
        lines.append(
            f"the same footage is in {one} and {other}: {shown}{more}{only}; put each recording on "
            "one side (a groups.csv says which files belong together)"
        )
    return lines


def _some(files: list[FileFacts]) -> list[FileFacts]:
    return [files[i] for i in np.unique(np.linspace(0, len(files) - 1, MOST_FILES).astype(int))]


def _pictures(
    root: Path, files: list[FileFacts], pool: DecodePool
) -> Iterator[tuple[str, Pictures]]:
    waits = (pool.submit(pictures_of, str(root / file.place), MOST_PICTURES) for file in files)
    started = under_way(waits, num_ahead=4 * pool.num_workers)
    title = f"comparing ({files[0].split})"
    for file, wait in zip(files, tqdm(started, title, len(files), disable=None), strict=True):
        try:
            yield file.place, wait()
        except VideoError:  # it was read before, and training says so if it cannot be any more
            continue


def _shared(one: dict[str, Pictures], other: dict[str, Pictures]) -> Iterator[tuple[str, str]]:
    """Pairs of files that show the same footage, the first of `one` for each of `other`."""
    for place, pictures in other.items():
        if place in one or not one:
            continue
        shared = np.maximum(*shared_pictures(pictures, list(one.values())))
        for (first, seen), count in zip(one.items(), shared.tolist(), strict=True):
            if count >= enough(pictures, seen):
                yield first, place
                break
