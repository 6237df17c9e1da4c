"""`python -m posmlp.tasks detect | micro`: train and score the paper's two other tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from posmlp.settings import configs

NUM_TEST_CLIPS = 200
"""Generated clips that a detector is tested on."""
NUM_SUBJECTS = 24
"""Of generated micro-expressions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one task; a ValueError or OSError ends with its message and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"posmlp.tasks {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m posmlp.tasks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], recipe: str) -> None:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        sub.add_argument("--config", default=recipe, help="a recipe, a YAML file or a preset")
        sub.add_argument("--data", metavar="ROOT", help="annotated clips; generated if left out")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--device", default="cpu")
        sub.add_argument("--out", required=True, help="the run folder")
        sub.add_argument("settings", nargs="*", metavar="key=value", help="e.g. epochs=3")

    command("detect", _detect, "recipes/moving-boxes.yaml")
    command("micro", _micro, "recipes/tiny-deformations.yaml")
    return parser


def _detect(options: argparse.Namespace) -> None:
    """Find actors' boxes and name their actions: frame-mAP at 0.5."""
    from posmlp.tasks.ava import read_ava
    from posmlp.tasks.moving_boxes import moving_boxes

    try:
        from posmlp.tasks.detection import train_detector
    except ImportError as error:
        raise ValueError(
            f"RoIAlign needs torchvision ({error}); pip install posmlp-workbench[vision]"
        ) from error
    config, train = configs(options.config, options.settings)
    if options.data:
        learn, test = (read_ava(options.data, split, config, train) for split in ("train", "test"))
    else:
        shape = {"num_frames": config.num_frames, "image_size": config.size[0]}
        learn = moving_boxes("train", train.num_clips, **shape)
        test = moving_boxes("test", NUM_TEST_CLIPS, **shape)
    config = replace(config, num_classes=len(learn.classes))
    _, history = train_detector(
        config, train, (learn, test), options.out, seed=options.seed, device=options.device
    )
    last = history[-1]
    names = enumerate(learn.classes)
    each = [f"{name} {last[f'test_ap{k}']:.3f}" for k, name in names if f"test_ap{k}" in last]
    print(f"frame-mAP {last['test_map']:.3f} on {len(test)} key frames:  {'  '.join(each)}")


def _micro(options: argparse.Namespace) -> None:
    """Name micro-expressions, each subject by a model of the others: UF1 and UAR."""
    from posmlp.tasks.micro_expressions import (
        leave_one_subject_out,
        read_micro_expressions,
        tiny_deformations,
    )

    config, train = configs(options.config, options.settings)
    if options.data:
        data = read_micro_expressions(Path(options.data), config)
    else:
        if train.num_clips < NUM_SUBJECTS:
            raise ValueError(
                f"num_clips={train.num_clips} is less than one for each of {NUM_SUBJECTS} subjects"
            )
        data = tiny_deformations(
            NUM_SUBJECTS,
            train.num_clips // NUM_SUBJECTS,
            num_frames=config.num_frames,
            image_size=config.size[0],
        )
    config = replace(config, num_classes=len(data.classes))
    (scores,) = leave_one_subject_out(
        config, train, data, options.out, seeds=[options.seed], device=options.device
    )
    print(
        f"UF1 {scores['uf1']:.3f}  UAR {scores['uar']:.3f}  (guessing: UAR "
        f"{1 / len(data.classes):.3f}) over {len(set(data.subjects))} subjects"
    )


if __name__ == "__main__":
    sys.exit(main())
