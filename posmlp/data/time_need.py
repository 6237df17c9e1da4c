"""Whether the labels of a data set need the order of frames: `posmlp data time`.

Ridge classifiers read small grey frames and are tested on groups that they were not fitted on. One
reads the mean frame, one each pixel's values sorted over time, one the frames in order. What the
last gains over the second, order carries: both see the same values. Two more read motion: products
of neighbouring pixels in neighbouring frames, pooled over places. Their sum with the products of
the reversed clip is the same both ways, their difference tells which way. So motion is read
wherever it is, in front of any background, which pixels in order do not allow.

With `--train` the toy model is trained, too: on one frame repeated, on frames shuffled, in order.

Shapes: n clips, T frames, P pixels, K classes, F folds.
"""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from posmlp.data.charts import BLUE, GREY, ORANGE, SKY, drawn, new_chart
from posmlp.data.check.survey import refuse_missing, tell
from posmlp.data.digits.catalogue import MOVING_DIGITS
from posmlp.data.files.pool import DecodePool, under_way
from posmlp.data.files.video import VideoError, read_video
from posmlp.data.layouts.layouts import all_videos
from posmlp.data.layouts.listing import as_text
from posmlp.data.layouts.splits import GROUP_FILE, folds_of
from posmlp.data.sampling import by_turns
from posmlp.data.user_cache import NUM_WORKERS

if TYPE_CHECKING:
    from posmlp.data.sources import HeldClips

NEED_FILE = "need.png"
"""The figure, by the name that reports look for in the folder of their data."""
FRAMES, SIDE = 12, 16  # of a clip as ridges read it; the toy model's side is twice that
MOST_CLIPS, MOST_FOLDS = 1000, 10
CHANCE, MAJORITY = "chance", "majority"
MEAN, SORTED, ORDERED = "mean frame", "frames sorted by value", "frames in order"
EITHER_WAY, WHICH_WAY = "motion, either way", "motion, and which way"
BLIND_TO = {ORDERED: SORTED, WHICH_WAY: EITHER_WAY}
"""Readers that see order, and what sees the same without it."""
REVERSED = "{}, tested reversed"
ONE, SHUFFLED, TRAINED = (
    f"toy model, {what}" for what in ("one frame repeated", "frames shuffled", "frames in order")
)
TRAINED_FRAMES, TRAINED_FOLDS = 8, 3
TRAINED_CLIPS, MOST_EPOCHS = 12_000, 60  # that a training sees, of as few clips as there may be
Train = Callable[["HeldClips", "HeldClips", int], float]
"""Trains on the first clips for so many epochs; the share of the others that is right."""
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, over the mean square of a clip
INNER_FOLDS = 3  # by which a strength is chosen
CELLS, PARTS, STEPS = 4, 3, (1, 2)  # motion: cells a side, parts of a clip, pixels between two
WAYS = ((0, 1), (1, 0), (1, 1), (1, -1))
NUM_PAIRS = 5  # that are named
LEVEL = 0.05  # of intervals, and of the test that a pair of classes needs order, over all pairs
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Places to fit on, and to test on."""
Floats = NDArray[np.float32]
Array = NDArray[np.float64]


class Clips(NamedTuple):
    """Frames (n, T, S, S, 3) uint8, labels and groups (n,), class names, and what groups are."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: list[str]
    classes: tuple[str, ...]
    grouped_by: str


class Interval(NamedTuple):
    """A mean over folds, and where it lies with 95% confidence."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:5.1%}  ({self.low:.1%} to {self.high:.1%})"


class Pair(NamedTuple):
    """Two classes that order tells apart, by a sign test over clips, at LEVEL over all pairs.

    Shares of their clips whose own class outscores the other: by a reader in order, by a blind one.
    """

    names: str
    ordered: float
    blind: float

    def __str__(self) -> str:
        return f"{self.names} {self.ordered:.0%} against {self.blind:.0%}"


@dataclass(frozen=True)
class TimeNeed:
    """What readers score in each fold, (F,) by name, and by which pairs of classes need order."""

    name: str
    num_clips: int
    num_classes: int
    num_groups: int
    grouped_by: str
    scores: dict[str, Array]
    test_share: float
    pairs: dict[str, tuple[Pair, ...]]
    epochs: int = 0
    """For which the toy model was trained."""

    def interval(self, reader: str, over: str = "", level: float = LEVEL) -> Interval:
        """A reader's accuracy, or how much it is above another's, and its 1 - level interval.

        Folds share clips to fit on, which widens the interval as Nadeau and Bengio (2003) say.
        """
        from scipy.stats import t

        values = self.scores[reader]
        count = len(values)
        values = values - (self.scores[over][:count] if over else 0.0)
        mean = float(values.mean())
        overlap = 1 / count + self.test_share / (1 - self.test_share)
        spread = math.sqrt(overlap * float(values.var(ddof=1)))
        half = float(t.ppf(1 - level / 2, count - 1)) * spread
        return Interval(mean, mean - half, mean + half)

    def order(self) -> tuple[str, Interval]:
        """The reader that gains most by order, by the least that it gains, and what it gains.

        A gain is over the reader that is blind to order, or over the majority where that is more
        often right. The interval allows for the choice between the readers.
        """
        found, readers = {}, BLIND_TO | ({TRAINED: SHUFFLED} if self.epochs else {})
        for reader, blind in readers.items():
            level = LEVEL / len(readers)
            over = [self.interval(reader, other, level) for other in (blind, MAJORITY)]
            found[reader] = min(over, key=lambda gain: gain.low)
        best = max(found, key=lambda reader: found[reader].low)
        return best, found[best]

    def lines(self) -> list[str]:
        """What was read, a line a reader with its accuracy and 95% interval, and the sentence."""
        width = max(map(len, self.scores))
        said = self.sentence()
        lines = [f"  {name:{width}}  {self.interval(name)}" for name in self.scores]
        lines = [self.about(), *lines, said[0].upper() + said[1:] + "."]
        if self.epochs:
            gain, folds = self.interval(TRAINED, SHUFFLED), len(self.scores[TRAINED])
            how = f"The toy model, trained for {self.epochs} epochs on each of {folds} folds"
            lines.append(f"{how}, reads {_points(gain)} more in order than shuffled.")
        return lines

    def about(self) -> str:
        """How many clips, groups and folds there are."""
        return (
            f"{self.name}: {self.num_clips:,} clips of {self.num_classes} classes, "
            f"{self.num_groups:,} groups ({self.grouped_by}), {len(self.scores[ORDERED])} folds"
        )

    def sentence(self) -> str:
        """What the table says of time."""
        reader, gain = self.order()
        if gain.low > 0:
            said = f"order carries {_points(gain)}, by {reader}"
            if pairs := self.pairs.get(reader):
                more = len(pairs) - NUM_PAIRS
                said += "; pairs that need it: " + ", ".join(map(str, pairs[:NUM_PAIRS]))
                said += f" and {more} more" if more > 0 else ""
            return said
        readers = [r for r in self.scores if r not in (CHANCE, MAJORITY)]
        if max(self.interval(r, MAJORITY, LEVEL / len(readers)).low for r in readers) <= 0:
            return "nothing is read from these clips, in order or not; a larger model may read more"
        change = self.interval(SORTED, MEAN)
        said = f"no need of order is seen: it carries {_points(gain)}, by {reader}"
        if change.low > 0:
            said += f"; what changes, in whatever order, carries {_points(change)}"
        return said


def _points(gain: Interval) -> str:
    return f"{100 * gain.mean:.0f} points ({100 * gain.low:.0f} to {100 * gain.high:.0f})"


# ---- Clips ---------------------------------------------------------------------------------------


def need_of_time(
    spec: str | Path,
    *,
    num_clips: int = MOST_CLIPS,
    num_folds: int = MOST_FOLDS,
    num_workers: int = NUM_WORKERS,
    train: Train | None = None,
) -> TimeNeed:
    """What ridge classifiers read from a data set's clips with and without the order of frames.

    `spec`: a folder, `LAYOUT:FOLDER`, or `moving-digits[:difficulty]`; clips of all its splits
    are taken together, at most `num_clips`, drawn class by class. Folds hold whole groups
    (`layouts/splits.py`). `train`: what trains a model that reads them, too. Raises ValueError for
    data of one class or one group, for a class that is in one group alone, for a fold that lacks a
    class, and for what cannot be read.
    """
    if num_clips < 2 or num_folds < 2:
        raise ValueError(f"--clips {num_clips} and --folds {num_folds} must both be at least 2")
    name = str(spec)
    if name.partition(":")[0] == MOVING_DIGITS:
        return read_need(_generated(name, num_clips), name, num_folds, train)
    return read_need(_read(spec, num_clips, num_workers), name, num_folds, train)


def _generated(name: str, num_clips: int) -> Clips:
    import torch

    from posmlp.data.digits.moving_digits import MovingDigits

    difficulty = name.partition(":")[2] or "medium"
    digits = MovingDigits("train", num_clips, difficulty=difficulty)
    rendered = digits.render(torch.arange(num_clips))
    frames, labels = rendered.clips.numpy(), rendered.labels.numpy()
    groups = [str(i) for i in range(num_clips)]
    return Clips(frames, labels, groups, digits.classes, "each clip its own")


def _read(spec: str | Path, num_clips: int, num_workers: int) -> Clips:
    listing, groups, grouped_by = all_videos(spec)
    refuse_missing(listing, 0.0)
    if listing.several:
        raise ValueError(f"clips of {listing.root} have several labels; readers answer one a clip")
    chosen = sorted(by_turns(listing.labels, np.random.default_rng(0))[:num_clips])
    if len(chosen) < len(groups):
        tell(f"{len(chosen)} of {len(groups)} clips are read (--clips)")
    clips: list[NDArray[np.uint8]] = []
    kept: list[int] = []
    longest = 0
    with DecodePool(num_workers) as pool:
        started = under_way(
            ((i, pool.submit(read_square, str(listing.paths[i]))) for i in chosen),
            num_ahead=4 * num_workers,
        )
        for i, wait in tqdm(started, "reading", len(chosen), unit="clip", disable=None):
            try:
                clip, num_frames = wait()
            except VideoError as error:
                tell(f"left out: {error}")
                continue
            longest = max(longest, num_frames)
            clips.append(clip)
            kept.append(i)
    if not clips:
        raise ValueError(f"none of {len(chosen)} clips of {listing.root} can be read; mend them")
    if longest < 2:
        raise ValueError(f"{listing.root} holds single images, which have no time; give videos")
    labels = np.array([listing.labels[i] for i in kept], np.int64)
    own = [groups[i] for i in kept]
    return Clips(np.stack(clips), labels, own, listing.classes, grouped_by)


def read_square(path: str) -> tuple[NDArray[np.uint8], int]:
    """FRAMES evenly spaced frames of a file, each squeezed into a square, and its frames in all.

    Raises VideoError.
    """
    video = read_video(
        path, lambda count, _: np.rint(np.linspace(0, count - 1, FRAMES)).astype(int),
        short_side=2 * SIDE,
    )  # fmt: skip
    size, box = (2 * SIDE, 2 * SIDE), Image.Resampling.BOX
    squares = [Image.fromarray(frame).resize(size, box) for frame in video.frames]
    return np.stack([np.asarray(square) for square in squares]), video.num_frames


def _small(frames: NDArray[np.uint8]) -> Floats:
    """Frames (T, S, S, 3) as grey ones (T, P)."""
    each = (Image.fromarray(frame).convert("L") for frame in frames)
    size, box = (SIDE, SIDE), Image.Resampling.BOX
    return np.stack([np.asarray(f.resize(size, box), np.float32).ravel() for f in each])


# ---- Readers -------------------------------------------------------------------------------------


def read_need(
    data: Clips, name: str, num_folds: int = MOST_FOLDS, train: Train | None = None
) -> TimeNeed:
    """The same of clips that are there already. Raises ValueError as `need_of_time` does."""
    folds = _folds(data, num_folds)
    present, places = np.unique(data.labels, return_inverse=True)
    clips = np.stack([_small(frames) for frames in data.frames])
    clips -= clips.mean((1, 2), keepdims=True)
    clips /= clips.std((1, 2), keepdims=True) + 1e-6
    either, which = _motion(clips)
    inputs = {
        MEAN: clips.mean(1),
        SORTED: np.sort(clips, axis=1).reshape(len(clips), -1),
        ORDERED: clips.reshape(len(clips), -1),
        EITHER_WAY: either,
        WHICH_WAY: np.concatenate([either, which], axis=1),
    }
    backwards = {
        ORDERED: clips[:, ::-1].reshape(len(clips), -1),
        WHICH_WAY: np.concatenate(_motion(clips[:, ::-1]), axis=1),
    }
    majority = np.tile(np.bincount(places) / len(places), (len(places), 1))
    answers = {MAJORITY: majority}
    bar = tqdm(total=len(inputs) * len(folds), desc="fitting", unit="fit", disable=None)
    for reader, x in inputs.items():
        tested = {reader: x}
        if reader in backwards:
            tested[REVERSED.format(reader)] = backwards[reader]
        answers |= {each: np.zeros_like(majority) for each in tested}
        for fitted, test in folds:
            groups = [data.groups[i] for i in fitted]
            read = _ridge(x[fitted], places[fitted], groups, [y[test] for y in tested.values()])
            for each, scores in zip(tested, read, strict=True):
                answers[each][test] = scores
            bar.update()
    bar.close()
    by_fold = {CHANCE: np.full(len(folds), 1 / len(present))}
    for each, found in answers.items():
        right = found.argmax(1) == places
        by_fold[each] = np.array([right[test].mean() for _, test in folds])
    epochs = 0
    if train is not None:
        epochs = min(MOST_EPOCHS, math.ceil(TRAINED_CLIPS / len(places)))
        by_fold |= _trained(data, folds[:TRAINED_FOLDS], train, epochs)
    names = [data.classes[k] for k in present]
    return TimeNeed(
        name,
        len(places),
        len(present),
        len(set(data.groups)),
        data.grouped_by,
        by_fold,
        float(np.mean([len(test) for _, test in folds])) / len(places),
        {reader: _pairs(answers, places, names, reader) for reader in BLIND_TO},
        epochs,
    )


def _trained(data: Clips, folds: Sequence[Fold], train: Train, epochs: int) -> dict[str, Array]:
    """What a model that is trained anew in each fold reads from each form of the clips.

    A shuffled clip keeps its order of frames in all epochs.
    """
    import torch

    from posmlp.data.sources import HeldClips

    places = np.rint(np.linspace(0, data.frames.shape[1] - 1, TRAINED_FRAMES)).astype(int)
    frames, labels = torch.from_numpy(data.frames[:, places]), torch.from_numpy(data.labels)
    draws = torch.rand(frames.shape[:2], generator=torch.Generator().manual_seed(0))
    shown = {
        ONE: frames[:, TRAINED_FRAMES // 2, None].expand_as(frames),
        SHUFFLED: frames[torch.arange(len(frames))[:, None], draws.argsort(1)],
        TRAINED: frames,
    }
    found = {}
    title = f"training for {epochs} epochs"
    with tqdm(total=len(shown) * len(folds), desc=title, unit="training", disable=None) as bar:
        for reader, clips in shown.items():
            scores = []
            for fold in folds:
                learn, test = (
                    HeldClips(reader, data.classes, labels[part], None, clips[part], {})
                    for part in map(torch.from_numpy, fold)
                )
                scores.append(train(learn, test, epochs))
                bar.update()
            found[reader] = np.array(scores)
    return found


def _motion(clips: Floats) -> tuple[Floats, Floats]:
    """What moves in clips (n, T, P), the same both ways, and which way, which reversal negates.

    Frames less the mean frame, so that a still background is none. Source: the opponent energy of
    a correlation detector (Hassenstein and Reichardt, 1956).
    """
    n, num_frames, _ = clips.shape
    moving = (clips - clips.mean(1, keepdims=True)).reshape(n, num_frames, SIDE, SIDE)
    before, after = moving[:, :-1], moving[:, 1:]
    sums, differences = [], []
    for step in STEPS:
        for way in WAYS:
            shift = partial(np.roll, shift=[-step * each for each in way], axis=(2, 3))
            there, back = before * shift(after), after * shift(before)
            sums.append(_pooled(there + back, 1))
            differences.append(_pooled(there - back, PARTS))
    return np.concatenate(sums, axis=1), np.concatenate(differences, axis=1)


def _pooled(products: Floats, parts: int) -> Floats:
    """Means (n, parts x cells) of (n, T - 1, SIDE, SIDE)."""
    n, side = len(products), SIDE // CELLS
    some = np.stack([part.mean(1) for part in np.array_split(products, parts, axis=1)], axis=1)
    return some.reshape(n, parts, CELLS, side, CELLS, side).mean((3, 5)).reshape(n, -1)


def _folds(data: Clips, num_folds: int) -> list[Fold]:
    """Places to fit on and to test on; each group, and about a share of each class, in one fold."""
    groups_of_class: dict[int, set[str]] = defaultdict(set)
    for label, group in zip(data.labels.tolist(), data.groups, strict=True):
        groups_of_class[label].add(group)
    groups = set(data.groups)
    mend = f"a row of {GROUP_FILE} or a folder below the class's names a clip's group"
    if len(groups_of_class) < 2:
        names = [data.classes[k] for k in groups_of_class]
        raise ValueError(f"the clips are of {len(names)} class {names}; at least 2 are needed")
    if len(groups) < 2:
        raise ValueError(
            f"all clips are of one group ({min(groups)}), so that none can be held out; {mend}"
        )
    for label, own in sorted(groups_of_class.items()):
        if len(own) < 2:
            raise ValueError(
                f"all clips of class {data.classes[label]!r} are of one group ({min(own)}), so "
                f"that no fold both fits and tests it; add clips of another group, or leave the "
                f"class out ({mend})"
            )
    count = min(num_folds, len(groups))
    fold = np.array(folds_of(data.groups, data.labels.tolist(), count))
    folds = [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(count)]
    for number, (train, test) in enumerate(folds):
        lost = sorted(set(data.labels[test].tolist()) - set(data.labels[train].tolist()))
        if lost or not len(test):
            what = f"class {data.classes[lost[0]]!r} to fit" if lost else "clips to test"
            raise ValueError(
                f"fold {number} of {count} has no {what}, as groups are few and whole; give "
                f"another number of folds (--folds), at most {len(groups)}"
            )
    return folds


def _ridge(
    x: Floats, places: NDArray[np.int64], groups: Sequence[str], tested: Sequence[Floats]
) -> list[Array]:
    """Scores (m, K) of each array of clips (m, D) by a ridge that is fitted on x (n, D).

    Features are standardised. The strength is the one that reads held-out groups best.
    """
    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 1e-6, std, np.inf) * math.sqrt(x.shape[1])
    x = (x - mean) / std
    products = (x @ x.T).astype(np.float64)  # as there are fewer clips than features
    targets = np.eye(int(places.max()) + 1)[places]
    targets -= targets.mean(0)

    def weights(fit: NDArray[np.int64], strength: float) -> Array:
        own = products[np.ix_(fit, fit)]
        return np.asarray(np.linalg.solve(own + strength * np.eye(len(fit)), targets[fit]))

    right = np.zeros(len(STRENGTHS))
    fold = np.array(folds_of(groups, places.tolist(), INNER_FOLDS))
    splits = [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in set(fold.tolist())]
    for fit, held in splits if len(splits) > 1 else ():
        for i, strength in enumerate(STRENGTHS):
            read = products[np.ix_(held, fit)] @ weights(fit, strength)
            right[i] += (read.argmax(1) == places[held]).sum()
    strength = STRENGTHS[len(STRENGTHS) - 1 - int(right[::-1].argmax())]  # of equals the strongest
    chosen = weights(np.arange(len(x)), strength)
    return [((each - mean) / std) @ x.T @ chosen for each in tested]


def _pairs(
    answers: dict[str, Array],
    places: NDArray[np.int64],
    names: Sequence[str],
    reader: str,
) -> tuple[Pair, ...]:
    """The pairs of classes that a reader tells apart better by order than without, best first."""
    from scipy.stats import binomtest

    found = []
    count = len(names) * (len(names) - 1) // 2
    for a, b in combinations(range(len(names)), 2):
        own = (places == a) | (places == b)
        sign = np.where(places[own] == a, 1.0, -1.0)
        ordered, blind = (
            sign * (answers[each][own, a] - answers[each][own, b]) > 0
            for each in (reader, BLIND_TO[reader])
        )
        won, lost = int((ordered & ~blind).sum()), int((blind & ~ordered).sum())
        if won > lost and count * float(binomtest(won, won + lost).pvalue) < LEVEL:
            shares = float(ordered.mean()), float(blind.mean())
            found.append(Pair(f"{names[a]}/{names[b]}", *shares))
    return tuple(sorted(found, key=lambda pair: pair.blind - pair.ordered))


# ---- Figure --------------------------------------------------------------------------------------


@drawn
def draw_need(need: TimeNeed) -> Figure:
    """A bar a reader, with its 95% interval, and what they say."""
    colours = dict.fromkeys((*BLIND_TO, TRAINED), BLUE)
    colours |= dict.fromkeys((*BLIND_TO.values(), SHUFFLED), ORANGE)
    colours |= {REVERSED.format(reader): SKY for reader in BLIND_TO}
    said = [f"{need.about()}; lines: 95% intervals", *need.lines()[1 + len(need.scores) :]]
    notes = [line for each in said for line in textwrap.wrap(each, 140)]
    figure, (ax,) = new_chart(9, 0.8 + 0.26 * len(need.scores) + 0.16 * len(notes))
    for reader in need.scores:
        found = need.interval(reader)
        mean, low, high = (100 * share for share in found)
        ax.barh(reader, mean, color=colours.get(reader, GREY))
        ax.plot((low, high), (reader, reader), color="black", linewidth=1.5)
        ax.text(102, reader, str(found).strip(), verticalalignment="center")
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="clips of held-out groups that are right (%)")
    figure.supxlabel(as_text("\n".join(notes)), x=0.01, ha="left", fontsize=8)
    return figure
