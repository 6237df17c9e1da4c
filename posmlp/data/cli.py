"""`posmlp data make | check | show | time | speed`.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.user_cache import NUM_WORKERS

if TYPE_CHECKING:
    from posmlp.data.time_need import Train

DATA_HELP = "moving-digits[:difficulty], a folder of videos, LAYOUT:FOLDER, or file.py:Class"
NUM_PROBLEMS = 20  # that `check` shows; the list holds all
Configs = Callable[[str, Sequence[str]], tuple[PosMLPConfig, TrainConfig]]


def add_data_commands(data: argparse.ArgumentParser, configs: Configs, train: Train) -> None:
    """Add the verbs of `posmlp data` to its parser; each one's function takes them by name.

    `configs` reads `--config` and `--set`; `train` trains the model of `time --train`.
    """
    verbs = data.add_subparsers(dest="verb", required=True)

    def verb(of: Any, name: str, run: Callable[..., int | None], words: str) -> Callable[..., Any]:
        sub = of.add_parser(name, help=words)
        sub.set_defaults(run=run)
        return sub.add_argument

    made = verbs.add_parser("make", help="Write a data set as video files.")
    names = made.add_subparsers(dest="name", required=True)
    digits = add = verb(names, "moving-digits", _make_digits, "Generated clips in reversed pairs.")
    add("--difficulty", default="medium")
    add("--train", type=int, default=4000, dest="num_train", help="training clips")
    add("--val", type=int, dest="num_val", help="val clips; as many, at most 560")
    add("--test", type=int, default=2800, dest="num_test", help="test clips, paired")
    words = "Windows of your videos, played in ways to be told apart."
    playback = add = verb(names, "playback", _make_playback, words)
    add("--videos", required=True, metavar="FOLDER", help="videos to cut")
    add("--windows", dest="num_windows", type=int, default=100, help="drawn from each file")
    add("--stride", type=int, default=1, help="2 makes windows twice as long")
    add("--min-motion", type=float, default=2.0, help="grey levels; stiller windows are left out")
    gain = "show what moves, amplified, without the scene"
    add("--motion-gain", type=float, default=0.0, help=gain)
    folds = "of a cross-validation over files"
    add("--folds", dest="num_folds", type=int, default=10, help=folds)
    for add in (digits, playback):
        add("root", metavar="DIR")
        add("--frames", dest="num_frames", type=int, default=8)
        add("--size", dest="image_size", type=int, default=32, help="side in pixels")
        add("--seed", type=int, default=0)

    add = verb(verbs, "check", _data_check, "Read every file of a data set; list what is wrong.")
    add("root", metavar="DIR", help="a folder of videos, or LAYOUT:FOLDER")
    add("--frames", type=int, default=8, help="frames of the clip that is tried")
    add("--size", type=int, default=32, help="side in pixels of that clip")
    workers = "decoding processes; one a usable CPU core"
    add("--workers", dest="num_workers", type=int, help=workers)
    add("--timeout", dest="timeout_s", type=float, default=20.0, help="seconds to wait for a frame")
    add("--min-frames", type=int, default=2, help="shorter videos are left out")
    lost = "share of lost frames that training still takes"
    add("--max-lost", dest="max_lost_share", type=float, default=0.1, help=lost)
    add("--out", metavar="DIR", help="where the lists go; the data's own folder")

    words = "Draw training clips, as augmented, with their labels."
    show = add = verb(verbs, "show", partial(_data_show, configs), words)
    add("root", metavar="DIR", help=DATA_HELP)
    add("--clips", dest="num_clips", type=int, default=12, help="clips to show")
    add("--seed", type=int, default=0, help="another seed shows others")
    add("--out", metavar="PNG", default="clips.png", help="the picture to write")

    words = "Tell whether the labels need the order of frames."
    need = add = verb(verbs, "time", partial(_data_time, train), words)
    add("root", metavar="DIR", help=DATA_HELP)
    read = "clips to read, of all classes"
    add("--clips", dest="num_clips", type=int, default=1000, help=read)
    folds = "of the cross-validation over groups"
    add("--folds", dest="num_folds", type=int, default=10, help=folds)
    add("--train", action="store_true", help="train the toy model, too: some minutes")
    add("--out", metavar="PNG", help="a figure; reports link the data's own need.png")

    words = "Time the loading of a data set beside decord alone."
    speed = add = verb(verbs, "speed", partial(_data_speed, configs), words)
    add("root", metavar="DIR", help="a folder of videos, or LAYOUT:FOLDER")
    clips = "clips to load in each measurement"
    add("--clips", dest="num_clips", type=int, default=256, help=clips)

    for add in (show, need, speed):
        workers = "decoding processes"
        add("--workers", dest="num_workers", type=int, default=NUM_WORKERS, help=workers)
    for add in (show, speed):
        add("--config", default="toy", help="a preset's name or a YAML file")
        how = {"dest": "settings", "metavar": "key=value", "help": "as for train"}
        add("--set", nargs="*", default=[], **how)


def _make_digits(root: str, **how: Any) -> None:
    """Write moving digits as video files."""
    from posmlp.data.digits.synthetic import write_dataset

    made = write_dataset(root, **how)
    counts = (f"{len([*(made / s).rglob('*.mp4')])} {s}" for s in ("train", "val", "test"))
    print(f"{', '.join(counts)} clips in {made}")


def _make_playback(root: str, videos: str, num_folds: int, **fields: Any) -> None:
    """Write windows of a folder of videos, played in six ways."""
    from posmlp.data.playback.playback import Cut, write_playback

    sources = write_playback(root, videos, Cut(**fields), num_folds=num_folds)
    used = [source for source in sources if not source.left_out]
    for source in sources:
        if source.left_out:
            print(f"left out: {source.file}: {source.left_out}")
    print(
        f"{sum(s.windows for s in used):,} windows of {len(used)} files, six clips each; "
        f"{sum(s.hardly_moving for s in used):,} more hardly move and are left out"
    )
    for fold in sorted({source.fold for source in used if source.fold is not None}):
        files = ", ".join(source.file for source in used if source.fold == fold)
        print(f"{root}/fold-{fold}: tested on {files}")


def _data_check(root: str, frames: int, size: int, **how: Any) -> int:
    """Read every file of a data set and list what is wrong."""
    from posmlp.data.check.check import check_data
    from posmlp.data.clips import ClipRule

    found = check_data(root, ClipRule(frames, size), **how)
    for line in found.said:
        print(line)
    decoders = ", ".join(f"{count:,} by {name}" for name, count in found.decoders().items())
    print(f"{len(found.files):,} files can be read ({decoders or 'by no decoder'})")
    notes = Counter(note for file in found.files for note in file.notes.split("; ") if note)
    for note, count in notes.most_common():
        print(f"  {count:,} of them: {note}")
    for split, problem, dropped in found.problems[:NUM_PROBLEMS]:
        use = "left out" if dropped else "still used"
        print(f"  {problem.kind}, {use}: {problem} [{split}]")
    if len(found.problems) > NUM_PROBLEMS:
        print(f"  and {len(found.problems) - NUM_PROBLEMS:,} more")
    for line in found.leaks:
        print(f"  warning: {line}")
    print(
        f"{len(found.problems):,} problems, {found.num_dropped:,} of them left out of training: "
        f"{found.written}"
    )
    if found.written and not found.written.parent.samefile(found.root):
        print(f"these lists stand for {found.root}: train with --data {found.written.parent}")
    return 1 if found.problems else 0


def _data_show(
    configs: Configs, root: str, config: str, settings: Sequence[str], out: str, **how: Any
) -> None:
    """Draw training clips, as augmented, with their labels."""
    from posmlp.data.show import show_data

    _check_picture(out)
    content = io.BytesIO()
    show_data(root, *configs(config, settings), **how).save(content, "png")
    _write_picture(content.getvalue(), out)


def _check_picture(out: str) -> None:
    if not out.lower().endswith(".png"):
        raise ValueError(f"--out {out} must be a .png, which is what is drawn")


def _write_picture(content: bytes, out: str) -> None:
    from posmlp.checkpoint import write_atomically

    write_atomically(out, content)
    print(f"written: {out}")


def _data_time(toy: Train, root: str, train: bool, out: str | None, **how: Any) -> None:
    """Tell whether the labels need the order of frames."""
    from posmlp.data.charts import as_png
    from posmlp.data.time_need import draw_need, need_of_time

    if out:
        _check_picture(out)
    need = need_of_time(root, train=toy if train else None, **how)
    for line in need.lines():
        print(line)
    if out:
        _write_picture(as_png(draw_need(need)), out)


def _data_speed(
    configs: Configs, root: str, config: str, settings: Sequence[str], **how: Any
) -> None:
    """Time the loading of a data set beside decord alone and the model's step."""
    from posmlp.data.speed import measure_loading

    for name, clips_per_s in measure_loading(root, *configs(config, settings), **how).items():
        print(f"{clips_per_s:10,.1f} clips/s  {name}")
