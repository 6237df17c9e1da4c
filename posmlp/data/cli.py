"""`posmlp data make | check | show | time | speed`.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.user_cache import NUM_WORKERS

if TYPE_CHECKING:
    from PIL.Image import Image

    from posmlp.data.time_need import Train

DATA_HELP = "moving-digits[:difficulty], a folder of videos, or LAYOUT:FOLDER"
NUM_PROBLEMS = 20  # that `check` shows; the list holds all
Configs = Callable[[str, Sequence[str]], tuple[PosMLPConfig, TrainConfig]]


def add_data_commands(data: argparse.ArgumentParser, configs: Configs, train: Train) -> None:
    """Add the verbs of `posmlp data` to its parser.

    `configs` reads `--config` and `--set`; `train` trains the model of `time --train`.
    """
    verbs = data.add_subparsers(dest="verb", required=True)
    _add_make_commands(verbs.add_parser("make", help="Write a data set as video files."))
    check = verbs.add_parser("check", help="Read every file of a data set; list what is wrong.")
    check.set_defaults(run=_data_check)
    check.add_argument("root", metavar="DIR", help="a folder of videos, or LAYOUT:FOLDER")
    check.add_argument("--frames", type=int, default=8, help="frames of the clip that is tried")
    check.add_argument("--size", type=int, default=32, help="side in pixels of that clip")
    check.add_argument("--workers", type=int, help="decoding processes; one a usable CPU core")
    check.add_argument("--timeout", type=float, default=20.0, help="seconds to wait for a frame")
    check.add_argument("--min-frames", type=int, default=2, help="shorter videos are left out")
    check.add_argument(
        "--max-lost", type=float, default=0.1, help="share of lost frames that training still takes"
    )
    check.add_argument("--out", metavar="DIR", help="where the lists go; the data's own folder")
    show = verbs.add_parser("show", help="Draw training clips, as augmented, with their labels.")
    show.set_defaults(run=partial(_data_show, configs))
    show.add_argument("root", metavar="DIR", help=DATA_HELP)
    show.add_argument("--config", default="toy", help="a preset's name or a YAML file")
    show.add_argument("--clips", type=int, default=12, help="clips to show")
    show.add_argument("--seed", type=int, default=0, help="another seed shows others")
    show.add_argument("--workers", type=int, default=2, help="decoding processes")
    show.add_argument("--out", metavar="PNG", default="clips.png", help="the picture to write")
    show.add_argument(
        "--set", nargs="*", default=[], dest="settings", metavar="key=value", help="as for train"
    )
    need = verbs.add_parser("time", help="Tell whether the labels need the order of frames.")
    need.set_defaults(run=partial(_data_time, train))
    need.add_argument("root", metavar="DIR", help=DATA_HELP)
    need.add_argument("--clips", type=int, default=1000, help="clips to read, of all classes")
    need.add_argument("--folds", type=int, default=10, help="of the cross-validation over groups")
    need.add_argument("--train", action="store_true", help="train the toy model, too: some minutes")
    need.add_argument("--workers", type=int, default=NUM_WORKERS, help="decoding processes")
    need.add_argument("--out", metavar="PNG", help="a figure; reports link the data's own need.png")
    speed = verbs.add_parser("speed", help="Time the loading of a data set beside decord alone.")
    speed.set_defaults(run=partial(_data_speed, configs))
    speed.add_argument("root", metavar="DIR", help="a folder of videos, or LAYOUT:FOLDER")
    speed.add_argument("--config", default="toy", help="a preset's name or a YAML file")
    speed.add_argument("--workers", type=int, default=NUM_WORKERS, help="decoding processes")
    speed.add_argument("--clips", type=int, default=256, help="clips to load in each measurement")
    speed.add_argument(
        "--set", nargs="*", default=[], dest="settings", metavar="key=value", help="as for train"
    )


def _add_make_commands(make: argparse.ArgumentParser) -> None:
    names = make.add_subparsers(dest="name", required=True)
    digits = names.add_parser("moving-digits", help="Generated clips in reversed pairs.")
    digits.set_defaults(run=_make_digits)
    digits.add_argument("--difficulty", default="medium")
    digits.add_argument("--train", type=int, default=4000, dest="num_train", help="training clips")
    digits.add_argument("--val", type=int, dest="num_val", help="val clips; as many, at most 560")
    digits.add_argument(
        "--test", type=int, default=2800, dest="num_test", help="test clips, paired"
    )
    playback = names.add_parser(
        "playback", help="Windows of your videos, played in ways to be told apart."
    )
    playback.set_defaults(run=_make_playback)
    playback.add_argument("--videos", required=True, metavar="FOLDER", help="videos to cut")
    playback.add_argument("--windows", type=int, default=100, help="drawn from each file")
    playback.add_argument("--stride", type=int, default=1, help="2 makes windows twice as long")
    playback.add_argument(
        "--min-motion", type=float, default=2.0, help="grey levels; stiller windows are left out"
    )
    playback.add_argument(
        "--motion-gain",
        type=float,
        default=0.0,
        help="show what moves, amplified, without the scene",
    )
    playback.add_argument("--folds", type=int, default=10, help="of a cross-validation over files")
    for each in (digits, playback):
        each.add_argument("root", metavar="DIR")
        each.add_argument("--frames", type=int, default=8)
        each.add_argument("--size", type=int, default=32, help="side in pixels")
        each.add_argument("--seed", type=int, default=0)


def _make_digits(options: argparse.Namespace) -> None:
    """Write moving digits as video files."""
    from posmlp.data.digits.synthetic import write_dataset

    root = write_dataset(
        options.root,
        num_train=options.num_train,
        num_val=options.num_val,
        num_test=options.num_test,
        seed=options.seed,
        difficulty=options.difficulty,
        num_frames=options.frames,
        image_size=options.size,
    )
    made = [
        f"{len(list((root / split).rglob('*.mp4')))} {split}" for split in ("train", "val", "test")
    ]
    print(f"{', '.join(made)} clips in {root}")


def _make_playback(options: argparse.Namespace) -> None:
    """Write windows of a folder of videos, played in six ways."""
    from posmlp.data.playback.playback import Cut, write_playback

    cut = Cut(
        num_windows=options.windows,
        num_frames=options.frames,
        image_size=options.size,
        stride=options.stride,
        min_motion=options.min_motion,
        motion_gain=options.motion_gain,
        seed=options.seed,
    )
    sources = write_playback(options.root, options.videos, cut, num_folds=options.folds)
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
        print(f"{options.root}/fold-{fold}: tested on {files}")


def _data_check(options: argparse.Namespace) -> int:
    """Read every file of a data set and list what is wrong."""
    from posmlp.data.check.check import check_data
    from posmlp.data.clips import ClipRule

    found = check_data(
        options.root,
        ClipRule(options.frames, options.size),
        num_workers=options.workers,
        timeout_s=options.timeout,
        min_frames=options.min_frames,
        max_lost_share=options.max_lost,
        out=options.out,
    )
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


def _data_show(configs: Configs, options: argparse.Namespace) -> None:
    """Draw training clips, as augmented, with their labels."""
    from posmlp.data.show import show_data

    _check_picture(options.out)
    config, train = configs(options.config, options.settings)
    sheet = show_data(
        options.root,
        config,
        train,
        num_clips=options.clips,
        seed=options.seed,
        num_workers=options.workers,
    )
    _save_picture(sheet, options.out)


def _check_picture(out: str) -> None:
    if not out.lower().endswith(".png"):
        raise ValueError(f"--out {out} must be a .png, which is what is drawn")


def _save_picture(picture: Image, out: str) -> None:
    from posmlp.checkpoint import write_atomically

    content = io.BytesIO()
    picture.save(content, "png")
    write_atomically(out, content.getvalue())
    print(f"written: {out}")


def _data_time(train: Train, options: argparse.Namespace) -> None:
    """Tell whether the labels need the order of frames."""
    from posmlp.data.time_need import draw_need, need_of_time

    if options.out:
        _check_picture(options.out)
    need = need_of_time(
        options.root,
        num_clips=options.clips,
        num_folds=options.folds,
        num_workers=options.workers,
        train=train if options.train else None,
    )
    for line in need.lines():
        print(line)
    if options.out:
        _save_picture(draw_need(need), options.out)


def _data_speed(configs: Configs, options: argparse.Namespace) -> None:
    """Time the loading of a data set beside decord alone and the model's step."""
    from posmlp.data.speed import measure_loading

    config, train = configs(options.config, options.settings)
    speeds = measure_loading(
        options.root, config, train, num_workers=options.workers, num_clips=options.clips
    )
    for name, clips_per_s in speeds.items():
        print(f"{clips_per_s:10,.1f} clips/s  {name}")
