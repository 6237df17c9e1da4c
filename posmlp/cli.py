"""`posmlp try | train | eval | predict | features | card | data | convert | export | info`.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posmlp.config import TrainConfig
from posmlp.data.cli import DATA_HELP, add_data_commands
from posmlp.data.user_cache import CACHE_GIB, CACHE_HELP, NUM_WORKERS
from posmlp.own.code import TRUST_HELP, trust_all
from posmlp.presets import PRESET_SOURCES, PRESETS, resolve
from posmlp.settings import configs
from posmlp.shapes import NO_ROOM, not_written, print_any_name
from posmlp.train.logs import LOG_HELP

if TYPE_CHECKING:
    from posmlp.data.sources import HeldClips
    from posmlp.predict import Prediction

DEVICE_HELP = "cpu, cuda or cuda:N; one GPU, if there is one, where this is left out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a ValueError or OSError ends with its message and exit code 2.

    Exit code 1: the command has done its work, and found something wrong (`data check`). 75: a
    signal stopped a training, whose middle is stored (`train/stopping.py`). 130: Ctrl-C.
    """
    options = _parsed(arguments)
    print_any_name()
    trust_all(getattr(options, "trust_code", False))
    try:
        return options.run(options) or 0
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            error = not_written(_written_to(options), 0, error)
        print(f"posmlp {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one ends what still has to be closed
        print(f"posmlp {options.command}: stopped", file=sys.stderr)
        return 130
    return 0


def _written_to(options: argparse.Namespace) -> Path:
    """Where a command writes."""
    names = ("annotate", "target", "out", "root")
    return Path(next((found for n in names if (found := getattr(options, n, None))), "."))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; argparse takes one group of settings, so those after an option are added."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    options.words = sys.argv[1:] if arguments is None else list(arguments)
    if rest and not (hasattr(options, "settings") and all(re.match(r"\w+=", w) for w in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="posmlp", description="Train a video model, score it, and let it name videos."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None]
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        return sub

    tried = command("try", _try)
    tried.add_argument("--out", default="runs/try.html", help="the page; %(default)s by default")

    train = command("train", _train)
    train.add_argument("--config", default="toy", help="a preset, a recipe or a YAML file")
    train.add_argument("--data", default="moving-digits", help=DATA_HELP)
    train.add_argument("--seeds", default="0", help="comma-separated, for example 0,1,2")
    train.add_argument("--out", required=True, help="the run folder; an interrupted run goes on")
    train.add_argument(
        "--micro-batches", type=int, default=1, help="take each batch in so many parts"
    )
    train.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="need less memory, take a third more time",
    )
    train.add_argument("--compile", action="store_true", help="send blocks through torch.compile")
    train.add_argument("--log", metavar="WHERE", help=LOG_HELP)
    train.add_argument("settings", nargs="*", metavar="key=value", help="e.g. gate=dense lr=1e-3")

    evaluate = command("eval", _eval)
    evaluate.add_argument(
        "run_folder", metavar="RUN", help="a run folder, a .safetensors file, or toy-ts"
    )
    evaluate.add_argument("--data", help="as for train; the run's own if left out")
    evaluate.add_argument("--split", choices=("val", "test"), default="test")
    evaluate.add_argument(
        "--out", metavar="DIR", help="write tables a clip and a class, confusion and reliability"
    )
    evaluate.add_argument(
        "--calibrate", action="store_true", help="fit a temperature to val clips, for predict"
    )
    evaluate.add_argument(
        "--shifts",
        action="store_true",
        help="score clips of other rates, speeds and sizes, and compressed",
    )

    guess, features = command("predict", _predict), command("features", _features)
    features.add_argument("--out", metavar="FILE", required=True, help="FILE.parquet or FILE.npz")
    guess.add_argument(
        "--slide", type=float, metavar="SECONDS", help="answer every so many seconds, as a table"
    )
    guess.add_argument("--out", metavar="DIR", help="write that table there, and a coloured line")
    guess.add_argument("--annotate", metavar="OUT.mp4", help="write the one video with its classes")

    for asks in (guess, features):
        asks.add_argument("run_folder", metavar="RUN", help="a run folder, or toy-ts")
        asks.add_argument("videos", metavar="VIDEO", nargs="+", help="files or frame folders")
        asks.add_argument("--seed", type=int, help="which of the run's models; else its first")
        asks.add_argument("--variant", help="which of the run's variants, where it has several")
    for loads in (evaluate, guess, features):
        loads.add_argument("--clips", type=int, default=1, help="temporal views a video")
        loads.add_argument("--crops", type=int, default=1, help="spatial crops a view: 1 or 3")
        loads.add_argument("--trust-code", action="store_true", help=TRUST_HELP)
    for reads in (train, evaluate):
        reads.add_argument("--workers", type=int, default=NUM_WORKERS, help="decoding processes")
        reads.add_argument("--cache-gib", type=float, default=CACHE_GIB, help=CACHE_HELP)
    for computes in (train, evaluate, guess, features):
        computes.add_argument("--device", help=DEVICE_HELP)

    card = command("card", _card)
    card.add_argument("run_folder", metavar="RUN", help="a run folder")
    card.add_argument("--out", metavar="FILE", help="the file to write; README.md of the run")

    data = commands.add_parser("data", help="Make, check or time a data set.")
    add_data_commands(data, configs, _train_toy)

    convert = command("convert", _convert)
    convert.add_argument("source", metavar="SRC", help=".pth or .safetensors of a released model")
    convert.add_argument("target", metavar="DST", help=".safetensors to write")

    export = command("export", _export)
    export.add_argument("source", metavar="MODEL", help="a model-seed*.safetensors of a run")
    export.add_argument("target", metavar="OUT", help="OUT.pt2 (torch.export) or OUT.onnx")
    export.add_argument("--trust-code", action="store_true", help=TRUST_HELP)

    info = command("info", _info)
    info.add_argument("preset", metavar="PRESET", nargs="?", help="all presets if left out")
    return parser


def _train_toy(learn: HeldClips, test: HeldClips, epochs: int) -> float:
    """The top-1 on test clips of a toy model that learned from others."""
    from posmlp.train.fitting import fit

    train = TrainConfig(epochs=epochs, batch_size=min(16, len(learn)))
    return float(fit("toy", train, (learn, test), progress=False)[-1]["test_top1"])


def _try(options: argparse.Namespace) -> None:
    """Ask a shipped model about a clip and its reversal; write the page with its knob."""
    if Path(options.out).suffix not in (".html", ".htm"):
        raise ValueError(f"--out {options.out} must end in .html, as it is a page")
    from posmlp.pictures.knob_page import try_shipped

    found = try_shipped(options.out)
    print(
        f"{found.model}, a model of {found.num_parameters:,} parameters, watches a clip of "
        f"{found.num_frames} frames, then the same frames backwards:"
    )
    for what, shares in (("clip", found.forward), ("backwards", found.backward)):
        told = ", ".join(
            f"{share:.1%} {name}" for share, name in zip(shares, found.classes, strict=True)
        )
        print(f"  {what:10} {told}")
    print("Only its tables over time tell it the order. Open the page, and turn them round:")
    print(f"page: {found.page}")


def _train(options: argparse.Namespace) -> None:
    """Train a model at one or more seeds.

    For several GPUs or machines call: torchrun --nproc-per-node N -m posmlp train ...
    """
    _refuse_srun_alone(options.out)
    _tell_lost_layout(options.settings)
    config, train = configs(options.config, options.settings, options.data)
    try:
        seeds = [int(text) for text in options.seeds.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds {options.seeds!r} must be whole numbers, as in 0,1,2") from error
    from posmlp.train.fitting import fit
    from posmlp.train.run_folder import LengthenedError

    try:
        rows = fit(
            config,
            train,
            options.data,
            seeds,
            options.out,
            device=options.device,
            num_workers=options.workers,
            cache_gib=options.cache_gib,
            micro_batches=options.micro_batches,
            checkpoint_activations=options.checkpoint_activations,
            compiled=options.compile,
            log=options.log,
        )
    except LengthenedError as error:
        commands = "".join(f"\nnext: {_longer(options, seed, error.epochs)}" for seed in seeds)
        raise ValueError(f"{error}{commands}") from error
    if os.environ.get("RANK", "0") != "0":  # torchrun's other processes say nothing
        return
    for row in rows[-len(seeds) :]:
        tested = {key: value for key, value in row.items() if key.startswith("test_")}
        print(_line(f"seed {row['seed']} on test clips:", tested))
    print(f"run folder: {options.out}")


def _tell_lost_layout(settings: Sequence[str]) -> None:
    """Say so where a shell has taken `layout=T>S` for `layout=T` and a file `S` to write to."""
    layout = next((text for text in reversed(settings) if text.startswith("layout=")), None)
    with suppress(OSError):
        target = os.fstat(1)
        for name in os.listdir() if layout and stat.S_ISREG(target.st_mode) else ():
            if re.fullmatch(r"[A-Z]+([+-][A-Z]+)*", name) and os.path.samestat(
                os.stat(name), target
            ):
                print(
                    f"posmlp train: {layout} is trained, and what is printed goes to a file "
                    f"{name!r}. In a shell write {layout}-{name}, or put {layout}>{name} in quotes",
                    file=sys.stderr,
                )


def _refuse_srun_alone(out: str) -> None:
    """Raise ValueError where srun or mpirun started several of this, each of which would train."""
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        count = os.environ.get(name, "1")
        if count not in ("", "1") and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise ValueError(
                f"{name}={count}: {count} processes would each train all of {out}; start one a "
                "machine (srun --ntasks-per-node=1), and in it torchrun --nproc-per-node N -m "
                "posmlp train ..., so that they share each batch"
            )


def _longer(options: argparse.Namespace, seed: int, epochs: int) -> str:
    """The command that trains a finished run's model of one seed on, in a folder beside it."""
    words = [word for word in options.words if not word.startswith(("epochs=", "init_from="))]
    start = Path(options.out) / f"model-seed{seed}.safetensors"
    more = ["--out", f"{Path(options.out)}-more-seed{seed}", "--seeds", str(seed)]
    more += [f"epochs={epochs}", f"init_from={start}"]
    return shlex.join(["posmlp", *words, *more])  # of an option that comes twice the last counts


def _eval(options: argparse.Namespace) -> None:
    """Score a run's models on its test clips, or its val clips."""
    from posmlp.checkpoint import shipped
    from posmlp.clip_scores import ClipScores, write_scores
    from posmlp.pictures.calibration import (
        FEW_CLIPS,
        fit_temperature,
        say_calibration,
        shifted_scores,
        write_trust,
    )
    from posmlp.predict import tell_device
    from posmlp.train.fitting import usable_device
    from posmlp.train.run_folder import (
        CALIBRATION,
        read_config,
        temperature_of,
        write_temperatures,
    )
    from posmlp.train.scoring import logits_of

    run = shipped(options.run_folder) or Path(options.run_folder)
    if run.suffix == ".safetensors":
        paths, spec, train, classes = [run], options.data, TrainConfig(), None
    else:
        stored = read_config(run)
        paths, spec = sorted(run.glob("model-*.safetensors")), options.data or stored.get("source")
        train, classes = TrainConfig.from_dict(stored["train"]), stored["classes"]
        if not paths:
            raise ValueError(f"{run} holds no trained model yet; run `posmlp train` to its end")
    if spec is None:
        raise ValueError("a bare checkpoint does not name its data; give --data")
    device = str(usable_device(options.device))
    answer = partial(
        logits_of,
        clips=options.clips,
        crops=options.crops,
        num_workers=options.workers,
        cache_gib=options.cache_gib,
        train=train,
        classes=classes,
        device=device,
    )
    if options.calibrate:
        if run.is_dir() and stored.get("multi_label"):
            raise ValueError("--calibrate fits one answer a clip, and clips have several labels")
        if not run.is_dir():
            raise ValueError(f"--calibrate stores in a run folder, and {run} is a file; give one")
        fitted = {}
        for path in paths:
            logits, val = answer(path, spec, split="val")
            fitted[path.name] = fit_temperature(logits, val.labels)
        write_temperatures(run, fitted)
        print(f"written: {run / CALIBRATION}")
        if (count := len(val)) < FEW_CLIPS:
            print(f"  warning: {count} val clips are few to fit a temperature to")
    answers, temperatures, shifts = [], [], []
    for path in paths:
        logits, source = answer(path, spec, split=options.split)
        answers.append(ClipScores.of(path.stem, logits, source))
        temperatures.append(temperature_of(path))
        print(_line(path.name, answers[-1].metrics()))
        for line in answers[-1].say():
            print(line)
        if not answers[-1].multi_label:
            print(f"  {say_calibration(logits, source.labels, temperatures[-1])}")
        if options.shifts:
            rows = shifted_scores(partial(answer, path), source)
            shifts += [{"model": path.stem, **row} for row in rows]
            for row in rows[1:]:
                print(f"  {row['shift']}: top-1 {row['top1']:.1%}, {100 * row['lost']:.1f} lost")
    tell_device(device)
    if options.out:
        written = write_scores(answers, options.out)
        written += write_trust(answers, temperatures, shifts, options.out)
        print("written: " + ", ".join(map(str, written)))


_SHARES = {
    "top1": "top-1",
    "top5": "top-5",
    "within_pair": "within pairs",
    "class_mean": "mean over classes",
    "map": "mean average precision",
}


def _line(name: str, scores: dict[str, Any]) -> str:
    """Scores for people: shares in percent, by their names."""
    words = [name]
    for key, value in scores.items():
        score = key.removeprefix("test_")
        words.append(
            f"{_SHARES[score]} {value:.1%}" if score in _SHARES else f"{score} {value:.4f}"
        )
    return "  ".join(words)


def _predict(options: argparse.Namespace) -> int:
    """Name the five likeliest classes of videos, with their probabilities."""
    from posmlp.data.files.packets import VideoError
    from posmlp.pictures.annotate import annotate_video
    from posmlp.predict import (
        open_run,
        opened_on,
        predict_parts,
        predict_video,
        tell_device,
    )

    for option in ("annotate", "out"):
        if getattr(options, option) and len(options.videos) > 1:
            raise ValueError(
                f"--{option} {getattr(options, option)} takes one video, not "
                f"{len(options.videos)}; run the command once for each"
            )
    if options.out and options.slide is None:
        raise ValueError(f"--out {options.out} is for the table of --slide SECONDS; give both")
    with opened_on(options.device) as device:
        trained = open_run(options.run_folder, options.seed, options.variant)
    views = {"num_views": options.clips, "num_crops": options.crops}
    failed = 0
    for video in options.videos:
        try:
            if options.slide is not None:
                found = list(predict_parts(trained, video, options.slide, **views))
                _tell_parts(found, options.out)
            else:
                found = [predict_video(trained, video, **views)]
                _tell_video(found[0])
        except VideoError as error:  # the others are still worth reading
            print(f"posmlp predict: {error}", file=sys.stderr)
            failed = 2
            continue
        if options.annotate:
            annotate_video(found, options.annotate)
            print(f"annotated: {options.annotate}", file=sys.stderr)
    if not failed:
        tell_device(device)
    return failed


def _tell_video(found: Prediction) -> None:
    lacking = f", {found.num_damaged} more are damaged" if found.num_damaged else ""
    print(f"{found.video} ({found.num_frames} frames{lacking}, read by {found.decoder})")
    for name, probability in found.top(5):
        print(f"  {probability:6.1%}  {name}")


def _tell_parts(found: list[Prediction], out: str | None) -> None:
    """Print the table of a recording's parts, or write it and the coloured line to a folder."""
    from posmlp.checkpoint import write_atomically
    from posmlp.pictures.timeline import draw_timeline, timeline_csv

    table = timeline_csv(found)
    if out is None:
        print(table.decode(errors="surrogateescape"), end="")
        return
    picture = io.BytesIO()
    draw_timeline(found).save(picture, "png")
    for name, content in (("timeline.csv", table), ("timeline.png", picture.getvalue())):
        write_atomically(Path(out) / name, content)
        print(f"written: {Path(out) / name}")


def _card(options: argparse.Namespace) -> None:
    """Write a run's model card, in the form that model hubs read."""
    from posmlp.checkpoint import write_atomically
    from posmlp.pictures.card import model_card

    out = Path(options.out or Path(options.run_folder) / "README.md")
    text = model_card(options.run_folder)
    if out.exists():
        raise ValueError(f"{out} is there, and may be filled in; remove it, or give another --out")
    write_atomically(out, text.encode(errors="backslashreplace"))  # names need not be UTF-8
    print(f"written: {out}; fill in its licence, and what is marked so")


def _features(options: argparse.Namespace) -> int:
    """Write videos' pooled features and logits as a table, a row a clip."""
    from posmlp.clip_scores import check_table, clip_features, write_features
    from posmlp.data.files.packets import VideoError
    from posmlp.predict import open_run, opened_on, tell_device

    out = check_table(options.out)
    with opened_on(options.device) as device:
        trained = open_run(options.run_folder, options.seed, options.variant)
    rows, views = [], {"num_views": options.clips, "num_crops": options.crops}
    for video in options.videos:
        try:
            rows.append(clip_features(trained, video, **views))
        except VideoError as error:  # the others are still worth having
            print(f"posmlp features: {error}", file=sys.stderr)
    if not rows:
        raise ValueError(f"none of {len(options.videos)} videos can be read; {out} is not written")
    shapes = write_features(rows, trained.classes, out)
    said = f"features {shapes['features'][1]}, logits {shapes['logits'][1]}"
    print(f"written: {out} ({shapes['features'][0]} clips of {len(rows)} videos; {said})")
    tell_device(device)
    return 0 if len(rows) == len(options.videos) else 2


def _convert(options: argparse.Namespace) -> None:
    """Convert a released checkpoint to this package's format."""
    from posmlp.checkpoint import load_released, save

    model = load_released(options.source)
    save(model, options.target, source=Path(options.source).name)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.target}: {type(model).__name__}, {count:,} parameters")


def _export(options: argparse.Namespace) -> None:
    """Write a trained model as a file that runs without this package."""
    from posmlp.checkpoint import load
    from posmlp.export import export

    difference = export(load(options.source), options.target)
    print(f"{options.target}: read back, largest difference of logits {difference:.1e}")


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
