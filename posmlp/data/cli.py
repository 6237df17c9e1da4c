"""`posmlp data make | check | speed`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
from collections import Counter

from posmlp.settings import configs

DATA_HELP = "moving-digits[:difficulty], a folder of videos, or LAYOUT:FOLDER"
NUM_PROBLEMS = 20  # that `check` shows; the list holds all


def add_data_commands(data: argparse.ArgumentParser) -> None:
    """Add the verbs of `posmlp data` to its parser."""
    verbs = data.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("make", help="Write a generated data set as video files.")
    make.set_defaults(run=_data_make)
    make.add_argument("name", choices=["moving-digits"])
    make.add_argument("root", metavar="DIR")
    make.add_argument("--difficulty", default="medium")
    make.add_argument("--train", type=int, default=4000, dest="num_train", help="training clips")
    make.add_argument("--test", type=int, default=560, dest="num_test", help="test clips, paired")
    make.add_argument("--frames", type=int, default=8)
    make.add_argument("--size", type=int, default=32, help="side in pixels")
    make.add_argument("--seed", type=int, default=0)
    check = verbs.add_parser("check", help="Read every file of a data set; list what is wrong.")
    check.set_defaults(run=_data_check)
    check.add_argument("root", metavar="DIR", help="a folder of videos, or LAYOUT:FOLDER")
    check.add_argument("--frames", type=int, default=8, help="frames of the clip that is tried")
    check.add_argument("--size", type=int, default=32, help="side in pixels of that clip")
    check.add_argument("--workers", type=int, help="decoding processes; one a CPU core")
    check.add_argument("--timeout", type=float, default=20.0, help="seconds for one file")
    check.add_argument("--min-frames", type=int, default=2, help="shorter videos are left out")
    check.add_argument(
        "--max-lost", type=float, default=0.1, help="share of lost frames that training still takes"
    )
    check.add_argument("--out", metavar="DIR", help="where the lists go; the data's own folder")
    speed = verbs.add_parser("speed", help="Time the loading of a data set beside decord alone.")
    speed.set_defaults(run=_data_speed)
    speed.add_argument("root", metavar="DIR", help="a folder of videos, or LAYOUT:FOLDER")
    speed.add_argument("--config", default="toy", help="a preset's name or a YAML file")
    speed.add_argument("--workers", type=int, default=2, help="decoding processes")
    speed.add_argument("--clips", type=int, default=256, help="clips to load in each measurement")
    speed.add_argument(
        "--set", nargs="*", default=[], dest="settings", metavar="key=value", help="as for train"
    )


def _data_make(options: argparse.Namespace) -> None:
    """Write a generated data set as video files."""
    from posmlp.data.synthetic import write_dataset

    root = write_dataset(
        options.root,
        num_train=options.num_train,
        num_test=options.num_test,
        seed=options.seed,
        difficulty=options.difficulty,
        num_frames=options.frames,
        image_size=options.size,
    )
    print(f"{options.num_train} training and {options.num_test} test clips in {root}")


def _data_check(options: argparse.Namespace) -> int:
    """Read every file of a data set and list what is wrong."""
    from posmlp.data.check import check_data
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
    print(
        f"{len(found.problems):,} problems, {found.num_dropped:,} of them left out of training: "
        f"{found.written}"
    )
    if found.written and not found.written.parent.samefile(found.root):
        print(f"these lists stand for {found.root}: train with --data {found.written.parent}")
    return 1 if found.problems else 0


def _data_speed(options: argparse.Namespace) -> None:
    """Time the loading of a data set beside decord alone and the model's step."""
    from posmlp.data.speed import measure_loading

    config, train = configs(options.config, options.settings)
    speeds = measure_loading(
        options.root, config, train, num_workers=options.workers, num_clips=options.clips
    )
    for name, clips_per_s in speeds.items():
        print(f"{clips_per_s:10,.1f} clips/s  {name}")
