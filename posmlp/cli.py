"""`posmlp try | train | eval | predict | features | card | data | convert | export | info`.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
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
from posmlp.train.stopping import EXIT_CODE, Stopped, obeyed

if TYPE_CHECKING:
    from posmlp.data.sources import HeldClips
    from posmlp.predict import Prediction

DEVICE_HELP = "cpu, cuda or cuda:N; one GPU, if there is one, where this is left out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a ValueError or OSError ends with its message and exit code 2.

    Exit code 1: the command has done its work, and found something wrong (`data check`). 75: a
    signal stopped a training, whose middle is stored (`train/stopping.py`). 130: Ctrl-C.
    """
    given = _given(arguments)
    command, run, *_ = (given.pop(name, None) for name in ("command", "run", "verb", "name"))
    print_any_name()
    trust_all(given.pop("trust_code", False))
    try:
        return run(**given) or 0
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            names = ("annotate", "target", "out", "root")
            error = not_written(Path(next(filter(None, map(given.get, names)), ".")), 0, error)
        print(f"posmlp {command}: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"posmlp {command}: stopped by {stop.cause}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one ends what still has to be closed
        print(f"posmlp {command}: stopped", file=sys.stderr)
        return 130
    return 0


def _given(arguments: Sequence[str] | None) -> dict[str, Any]:
    """The options; argparse takes one group of settings, so those after an option are added."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    given = vars(options)
    if rest and not ("settings" in given and all(re.match(r"\w+=", word) for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        given["settings"] = [*given["settings"], *rest]
    if given["run"] is _train:
        given["words"] = sys.argv[1:] if arguments is None else list(arguments)
    return given


def _parser() -> argparse.ArgumentParser:
    """Of each command, whose function takes the arguments by their names."""
    parser = argparse.ArgumentParser(
        prog="posmlp", description="Train a video model, score it, and let it name videos."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[..., int | None]) -> Callable[..., Any]:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        return sub.add_argument

    command("try", _try)("--out", default="runs/try.html", help="the page; %(default)s by default")

    train = add = command("train", _train)
    add("--config", default="toy", help="a preset, a recipe or a YAML file")
    add("--data", default="moving-digits", help=DATA_HELP)
    add("--seeds", default="0", help="comma-separated, for example 0,1,2")
    add("--out", required=True, help="the run folder; an interrupted run goes on")
    add("--micro-batches", type=int, default=1, help="take each batch in so many parts")
    less = "need less memory, take a third more time"
    add("--checkpoint-activations", action="store_true", help=less)
    sent = "send blocks through torch.compile"
    add("--compile", dest="compiled", action="store_true", help=sent)
    add("--log", metavar="WHERE", help=LOG_HELP)
    add("settings", nargs="*", metavar="key=value", help="e.g. gate=dense lr=1e-3")

    evaluate = add = command("eval", _eval)
    add("run_folder", metavar="RUN", help="a run folder, a .safetensors file, or toy-ts")
    add("--data", help="as for train; the run's own if left out")
    add("--split", choices=("val", "test"), default="test")
    tables = "write tables a clip and a class, confusion and reliability"
    add("--out", metavar="DIR", help=tables)
    add("--calibrate", action="store_true", help="fit a temperature to val clips, for predict")
    shifted = "score clips of other rates, speeds and sizes, and compressed"
    add("--shifts", action="store_true", help=shifted)

    features = command("features", _features)
    features("--out", metavar="FILE", required=True, help="FILE.parquet or FILE.npz")
    guess = add = command("predict", _predict)
    slid = "answer every so many seconds, as a table"
    add("--slide", type=float, metavar="SECONDS", help=slid)
    add("--out", metavar="DIR", help="write that table there, and a coloured line")
    add("--annotate", metavar="OUT.mp4", help="write the one video with its classes")

    for add in (guess, features):
        add("run_folder", metavar="RUN", help="a run folder, or toy-ts")
        add("videos", metavar="VIDEO", nargs="+", help="video files or frame folders")
        add("--seed", type=int, help="which of the run's models; its first if left out")
        add("--variant", help="which of the run's variants, where it has several")
    for add in (evaluate, guess, features):
        add("--clips", type=int, default=1, help="temporal views a video")
        add("--crops", type=int, default=1, help="spatial crops a view: 1 or 3")
        add("--trust-code", action="store_true", help=TRUST_HELP)
    for add in (train, evaluate):
        workers = "decoding processes"
        add("--workers", dest="num_workers", type=int, default=NUM_WORKERS, help=workers)
        add("--cache-gib", type=float, default=CACHE_GIB, help=CACHE_HELP)
    for add in (train, evaluate, guess, features):
        add("--device", help=DEVICE_HELP)

    add = command("card", _card)
    add("run_folder", metavar="RUN", help="a run folder")
    add("--out", metavar="FILE", help="the file to write; README.md of the run")

    data = commands.add_parser("data", help="Make, check or time a data set.")
    add_data_commands(data, configs, _train_toy)

    add = command("convert", _convert)
    add("source", metavar="SRC", help=".pth or .safetensors of a released model")
    add("target", metavar="DST", help=".safetensors to write")

    add = command("export", _export)
    add("source", metavar="MODEL", help="a model-seed*.safetensors of a run")
    add("target", metavar="OUT", help="OUT.pt2 (torch.export) or OUT.onnx")
    add("--trust-code", action="store_true", help=TRUST_HELP)

    command("info", _info)("preset", metavar="PRESET", nargs="?", help="all presets if left out")
    return parser


def _train_toy(learn: HeldClips, test: HeldClips, epochs: int) -> float:
    """The top-1 on test clips of a toy model that learned from others."""
    from posmlp.train.fitting import fit

    train = TrainConfig(epochs=epochs, batch_size=min(16, len(learn)))
    return float(fit("toy", train, (learn, test), progress=False)[-1]["test_top1"])


def _try(out: str) -> None:
    """Ask a shipped model about a clip and its reversal; write the page with its knob."""
    if Path(out).suffix not in (".html", ".htm"):
        raise ValueError(f"--out {out} must end in .html, as it is a page")
    from posmlp.pictures.knob_page import try_shipped

    found = try_shipped(out)
    print(
        f"{found.model}, a model of {found.num_parameters:,} parameters, watches a clip of "
        f"{found.num_frames} frames, then the same frames backwards:"
    )
    for what, shares in (("clip", found.forward), ("backwards", found.backward)):
        each = zip(shares, found.classes, strict=True)
        print(f"  {what:10} {', '.join(f'{share:.1%} {name}' for share, name in each)}")
    print("It reads the order from its tables over time. Open the page, and turn them round:")
    print(f"page: {found.page}")


@obeyed()  # while frames are cached, too, when the loop has not begun
def _train(
    config: str,
    settings: Sequence[str],
    data: str,
    seeds: str,
    out: str,
    words: Sequence[str],
    **how: Any,
) -> None:
    """Train a model at one or more seeds.

    For several GPUs or machines call: torchrun --nproc-per-node N -m posmlp train ...
    """
    _refuse_srun_alone(out)
    _tell_lost_layout(settings)
    model, train = configs(config, settings, data)
    try:
        numbers = [int(text) for text in seeds.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds {seeds!r} must be whole numbers, as in 0,1,2") from error
    from posmlp.train.fitting import fit
    from posmlp.train.run_folder import LengthenedError

    try:
        rows = fit(model, train, data, numbers, out, **how)
    except LengthenedError as error:
        more = "".join(f"\nnext: {_longer(words, out, seed, error.epochs)}" for seed in numbers)
        raise ValueError(f"{error}{more}") from error
    if os.environ.get("RANK", "0") != "0":  # torchrun's other processes say nothing
        return
    for row in rows[-len(numbers) :]:
        tested = {key: value for key, value in row.items() if key.startswith("test_")}
        print(_line(f"seed {row['seed']} on test clips:", tested))
    print(f"run folder: {out}")


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


def _longer(words: Sequence[str], out: str, seed: int, epochs: int) -> str:
    """The command that trains a finished run's model of one seed on, in a folder beside it."""
    words = [word for word in words if not word.startswith(("epochs=", "init_from="))]
    start = Path(out) / f"model-seed{seed}.safetensors"
    more = ["--out", f"{Path(out)}-more-seed{seed}", "--seeds", str(seed)]
    more += [f"epochs={epochs}", f"init_from={start}"]
    return shlex.join(["posmlp", *words, *more])  # of an option that comes twice the last counts


def _eval(
    run_folder: str,
    data: str | None,
    split: str,
    out: str | None,
    calibrate: bool,
    shifts: bool,
    device: str | None,
    **how: Any,
) -> None:
    """Score a run's models on its test clips, or its val clips."""
    from posmlp.checkpoint import shipped
    from posmlp.clip_scores import ClipScores, write_scores
    from posmlp.data.sources import with_own
    from posmlp.pictures.calibration import (
        FEW_CLIPS,
        fit_temperature,
        say_calibration,
        shifted_scores,
        write_trust,
    )
    from posmlp.predict import tell_device
    from posmlp.train.fitting import usable_device
    from posmlp.train.run_folder import CALIBRATION, read_config, temperature_of, write_temperatures
    from posmlp.train.scoring import logits_of, own_scores

    run = shipped(run_folder) or Path(run_folder)
    if run.suffix == ".safetensors":
        paths, spec, train, classes = [run], data, TrainConfig(), None
    else:
        stored = read_config(run)
        paths, spec = sorted(run.glob("model-*.safetensors")), data or stored.get("source")
        train, classes = TrainConfig.from_dict(stored["train"]), stored["classes"]
        if not paths:
            raise ValueError(f"{run} holds no trained model yet; run `posmlp train` to its end")
    if spec is None:
        raise ValueError("a bare checkpoint does not name its data; give --data")
    if data:
        spec, train = with_own(data, train)
    device = str(usable_device(device))
    answer: Callable[..., Any] = partial(
        logits_of, train=train, classes=classes, device=device, **how
    )
    if calibrate:
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
    answers, temperatures, shifted = [], [], []
    for path in paths:
        logits, source = answer(path, spec, split=split)
        answers.append(ClipScores.of(path.stem, logits, source))
        temperatures.append(temperature_of(path))
        print(_line(path.name, answers[-1].metrics() | own_scores(train, logits, source.labels)))
        for line in answers[-1].say():
            print(line)
        if not answers[-1].multi_label:
            print(f"  {say_calibration(logits, source.labels, temperatures[-1])}")
        if shifts:
            rows = shifted_scores(partial(answer, path), source)
            shifted += [{"model": path.stem, **row} for row in rows]
            for row in rows[1:]:
                print(f"  {row['shift']}: top-1 {row['top1']:.1%}, {100 * row['lost']:.1f} lost")
    tell_device(device)
    if out:
        written = write_scores(answers, out)
        written += write_trust(answers, temperatures, shifted, out)
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


def _predict(
    run_folder: str,
    videos: Sequence[str],
    seed: int | None,
    variant: str | None,
    device: str | None,
    clips: int,
    crops: int,
    slide: float | None,
    out: str | None,
    annotate: str | None,
) -> int:
    """Name the five likeliest classes of videos, with their probabilities."""
    from posmlp.data.files.packets import VideoError
    from posmlp.pictures.annotate import annotate_video
    from posmlp.predict import open_run, opened_on, predict_parts, predict_video, tell_device

    for option, value in (("annotate", annotate), ("out", out)):
        if value and len(videos) > 1:
            raise ValueError(
                f"--{option} {value} takes one video, not {len(videos)}; run the command once for "
                "each"
            )
    if out and slide is None:
        raise ValueError(f"--out {out} is for the table of --slide SECONDS; give both")
    with opened_on(device) as used:
        trained = open_run(run_folder, seed, variant)
    views = {"num_views": clips, "num_crops": crops}
    failed = 0
    for video in videos:
        try:
            if slide is not None:
                found = list(predict_parts(trained, video, slide, **views))
                _tell_parts(found, out)
            else:
                found = [predict_video(trained, video, **views)]
                _tell_video(found[0])
        except VideoError as error:  # the others are still worth reading
            print(f"posmlp predict: {error}", file=sys.stderr)
            failed = 2
            continue
        if annotate:
            annotate_video(found, annotate)
            print(f"annotated: {annotate}", file=sys.stderr)
    if not failed:
        tell_device(used)
    return failed


def _tell_video(found: Prediction) -> None:
    lacking = f", {found.num_damaged} more are damaged" if found.num_damaged else ""
    print(f"{found.video} ({found.num_frames} frames{lacking}, read by {found.decoder})")
    for name, probability in found.top(5):
        print(f"  {probability:6.1%}  {name}")


def _tell_parts(found: list[Prediction], out: str | None) -> None:
    """Print the table of a recording's parts, or write it and the coloured line to a folder."""
    from posmlp.checkpoint import write_atomically
    from posmlp.data.charts import as_png
    from posmlp.pictures.timeline import draw_timeline, timeline_csv

    table, whole = timeline_csv(found), found[0]
    if whole.num_damaged:
        lacking = f"{whole.num_damaged} frames are damaged and left out of its seconds"
        print(f"{whole.video}: {lacking}", file=sys.stderr)
    if out is None:
        print(table.decode(errors="surrogateescape"), end="")
        return
    picture = as_png(draw_timeline(found))
    for name, content in (("timeline.csv", table), ("timeline.png", picture)):
        write_atomically(Path(out) / name, content)
        print(f"written: {Path(out) / name}")


def _card(run_folder: str, out: str | None) -> None:
    """Write a run's model card, in the form that model hubs read."""
    from posmlp.checkpoint import write_atomically
    from posmlp.pictures.card import model_card

    path = Path(out or Path(run_folder) / "README.md")
    text = model_card(run_folder)
    if path.exists():
        raise ValueError(f"{path} is there, and may be filled in; remove it, or give another --out")
    write_atomically(path, text.encode(errors="backslashreplace"))  # names need not be UTF-8
    print(f"written: {path}; fill in its licence, and what is marked so")


def _features(
    run_folder: str,
    videos: Sequence[str],
    seed: int | None,
    variant: str | None,
    device: str | None,
    clips: int,
    crops: int,
    out: str,
) -> int:
    """Write videos' pooled features and logits as a table, a row a clip."""
    from posmlp.clip_scores import check_table, clip_features, write_features
    from posmlp.data.files.packets import VideoError
    from posmlp.predict import open_run, opened_on, tell_device

    path = check_table(out)
    with opened_on(device) as used:
        trained = open_run(run_folder, seed, variant)
    rows = []
    for video in videos:
        try:
            rows.append(clip_features(trained, video, num_views=clips, num_crops=crops))
        except VideoError as error:  # the others are still worth having
            print(f"posmlp features: {error}", file=sys.stderr)
    if not rows:
        raise ValueError(f"none of {len(videos)} videos can be read; {path} is not written")
    shapes = write_features(rows, trained.classes, path)
    said = f"features {shapes['features'][1]}, logits {shapes['logits'][1]}"
    print(f"written: {path} ({shapes['features'][0]} clips of {len(rows)} videos; {said})")
    tell_device(used)
    return 0 if len(rows) == len(videos) else 2


def _convert(source: str, target: str) -> None:
    """Convert a released checkpoint to this package's format."""
    from posmlp.checkpoint import load_released, save

    model = load_released(source)
    save(model, target, source=Path(source).name)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{target}: {type(model).__name__}, {count:,} parameters")


def _export(source: str, target: str) -> None:
    """Write a trained model as a file that runs without this package."""
    from posmlp.checkpoint import load
    from posmlp.export import export

    difference = export(load(source), target)
    print(f"{target}: read back, largest difference of logits {difference:.1e}")


def _info(preset: str | None) -> None:
    """Show presets, or one preset's fields, with its source and parameters."""
    if preset:
        resolve(preset)
        print(json.dumps(PRESETS[preset].to_dict(), indent=2))
    import torch

    from posmlp.model import create_model

    for name in [preset] if preset else PRESETS:
        with torch.device("meta"):
            count = sum(p.numel() for p in create_model(name).parameters())
        print(f"{name:8} {count:>11,} parameters  {PRESET_SOURCES[name]}")


if __name__ == "__main__":
    sys.exit(main())
