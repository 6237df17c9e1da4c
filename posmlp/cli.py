"""`posmlp train | eval | data | convert | info`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from posmlp.config import PRESET_SOURCES, PRESETS, PosMLPConfig, TrainConfig, one_of, resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a ValueError or a missing file ends with its message and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(f"posmlp {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("posmlp: stopped; the same command goes on from the last epoch", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="posmlp", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        return sub

    train = command("train", _train)
    train.add_argument("--config", default="toy", help="a preset's name or a YAML file")
    train.add_argument("--data", default="moving-digits", help="moving-digits[:difficulty] or DIR")
    train.add_argument("--seeds", default="0", help="comma-separated, for example 0,1,2")
    train.add_argument("--out", required=True, help="the run folder; an interrupted run goes on")
    train.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    train.add_argument("--workers", type=int, default=2, help="video decoding processes")
    train.add_argument("settings", nargs="*", metavar="key=value", help="e.g. gate=dense lr=1e-3")

    evaluate = command("eval", _eval)
    evaluate.add_argument("run_folder", metavar="RUN", help="a run folder or a .safetensors file")
    evaluate.add_argument("--data", help="as for train; the run's own if left out")
    evaluate.add_argument("--clips", type=int, default=1, help="temporal views a video")
    evaluate.add_argument("--crops", type=int, default=1, help="spatial crops a view: 1 or 3")
    evaluate.add_argument("--workers", type=int, default=2, help="video decoding processes")

    data = commands.add_parser("data", help="Make or check a data set.")
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
    check.add_argument("root", metavar="DIR")
    check.add_argument("--frames", type=int, default=8)
    check.add_argument("--size", type=int, default=32)
    check.add_argument("--workers", type=int, default=2)

    convert = command("convert", _convert)
    convert.add_argument("source", metavar="SRC", help=".pth or .safetensors of a released model")
    convert.add_argument("target", metavar="DST", help=".safetensors to write")

    info = command("info", _info)
    info.add_argument("preset", metavar="PRESET", nargs="?", help="all presets if left out")
    return parser


def parse_value(text: str) -> Any:
    """A setting's value: a YAML scalar or list, with 1e-3 read as a number."""
    import yaml

    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value
    except (ValueError, yaml.YAMLError):
        return text


def configs(source: str, settings: Sequence[str]) -> tuple[PosMLPConfig, TrainConfig]:
    """Model and training configs from a preset or YAML file, with `key=value` settings on top.

    A YAML file has any fields of the two and, to start from a preset, `preset`. Raises ValueError.
    """
    values: dict[str, Any] = {}
    if source not in PRESETS and (source.endswith((".yaml", ".yml")) or Path(source).exists()):
        values = _read_yaml(Path(source))
        source = values.pop("preset", "toy")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is not key=value; write for example gate=dense")
        values[key] = parse_value(text)
    model_keys = [field.name for field in fields(PosMLPConfig)]
    train_keys = [field.name for field in fields(TrainConfig)]
    for key in values:
        one_of(key, [*model_keys, *train_keys], "config key")
    model = resolve(source, **{k: v for k, v in values.items() if k in model_keys})
    return model, TrainConfig.from_dict({k: v for k, v in values.items() if k in train_keys})


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise ValueError(f"no file at {path}; give a preset ({', '.join(PRESETS)}) or a YAML file")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold 'key: value' lines, not {type(values).__name__}")
    return {k: parse_value(v) if isinstance(v, str) else v for k, v in values.items()}


def _train(options: argparse.Namespace) -> None:
    """Train a model at one or more seeds."""
    config, train = configs(options.config, options.settings)
    try:
        seeds = [int(text) for text in options.seeds.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds {options.seeds!r} must be whole numbers, as in 0,1,2") from error
    from posmlp.train import fit

    rows = fit(
        config,
        train,
        options.data,
        seeds,
        options.out,
        device=options.device,
        num_workers=options.workers,
    )
    for row in rows[-len(seeds) :]:
        print(_line(f"seed {row['seed']}", {k: v for k, v in row.items() if k[:5] == "test_"}))
    print(f"run folder: {options.out}")


def _eval(options: argparse.Namespace) -> None:
    """Score a run's models on the test split."""
    from posmlp.train import evaluate

    run = Path(options.run_folder)
    if run.suffix == ".safetensors":
        paths, spec, train = [run], options.data, TrainConfig()
    else:
        if not (run / "config.json").is_file():
            raise ValueError(f"no run at {run}: it has no config.json; give a folder of `train`")
        stored = json.loads((run / "config.json").read_text())
        paths, spec = sorted(run.glob("model-seed*.safetensors")), options.data or stored["source"]
        train = TrainConfig.from_dict(stored["train"])
        if not paths:
            raise ValueError(f"{run} holds no trained model yet; run `posmlp train` to its end")
    if spec is None:
        raise ValueError("a bare checkpoint does not name its data; give --data")
    for path in paths:
        scores = evaluate(
            path,
            spec,
            clips=options.clips,
            crops=options.crops,
            num_workers=options.workers,
            train=train,
        )
        print(_line(path.name, scores))


def _line(name: str, scores: dict[str, Any]) -> str:
    return name + "  " + "  ".join(f"{key} {value:.4f}" for key, value in scores.items())


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


def _data_check(options: argparse.Namespace) -> None:
    """Read every file of a data set and list what is wrong."""
    from posmlp.data.datasets import VideoClips

    bad = 0
    for split in ("train", "test"):
        clips = VideoClips.open(
            options.root,
            split,
            num_frames=options.frames,
            image_size=options.size,
            num_workers=options.workers,
            max_bad_share=1.0,
        )
        decoders = ", ".join(f"{count} by {name}" for name, count in clips.backends.items())
        print(f"{split}: {len(clips)} readable videos in {len(clips.classes)} classes ({decoders})")
        for error in clips.unreadable:
            print(f"  {error}")
        bad += len(clips.unreadable)
        clips.close()
    if bad:
        raise ValueError(f"{bad} of the files cannot be read; mend or remove them")


def _convert(options: argparse.Namespace) -> None:
    """Convert a released checkpoint to this package's format."""
    from posmlp.checkpoint import load_released, save

    model = load_released(options.source)
    save(model, options.target, source=Path(options.source).name)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.target}: {type(model).__name__}, {count:,} parameters")


def _info(options: argparse.Namespace) -> None:
    """Show presets, or one preset's fields, with its source and parameters."""
    if options.preset:
        resolve(options.preset)
        print(json.dumps(PRESETS[options.preset].to_dict(), indent=2))
    import torch

    from posmlp.model import create_model

    for name in [options.preset] if options.preset else PRESETS:
        with torch.device("meta"):
            count = sum(p.numel() for p in create_model(name).parameters())
        print(f"{name:8} {count:>11,} parameters  {PRESET_SOURCES[name]}")


if __name__ == "__main__":
    sys.exit(main())
