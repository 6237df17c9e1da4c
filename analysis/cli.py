"""`python -m analysis all | attribute | bench | bias | curves | inside | ...`, see --help.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from analysis import cli_speed
from analysis.arguments import count, file, folder
from posmlp.own.code import TRUST_HELP, trust_all
from posmlp.shapes import print_any_name

OPTIONS: dict[str, dict[str, Any]] = {
    "run_folder": {"metavar": "RUN", "help": "a run folder of `posmlp train`"},
    "source": {"metavar": "RUN_OR_FILE", "help": "a run folder, a .safetensors file, or toy-ts"},
    "folder": {"metavar": "DIR", "help": "a folder of runs, such as `ablations run`'s"},
    "video": {"metavar": "VIDEO", "help": "a video file"},
    "--seed": {"type": int, "help": "which model of the run; its first by default"},
    "--variant": {"help": "which of the run's variants, where it has several"},
    "--device": {"help": "cpu, cuda or cuda:N; one GPU, if there is one, where this is left out"},
    "--clips": {"type": count, "default": 56, "help": "of the run's test clips, at most"},
    "--where": {"default": "*", "help": "names of activations, a shell pattern"},
    "--frames": {"action": "store_true", "help": "exchange single frames, too"},
    "--metric": {"default": "test_top1", "help": "a column of metrics.csv"},
    "--grids": {"type": count, "default": 4_000, "help": "simulated ones, a case"},
    "--method": {"default": "integrated_gradients"},
    "--target": {"help": "a class's name or number; the predicted one by default"},
    "--set": {
        "nargs": "+",
        "default": [],
        "metavar": "key=value",
        "dest": "settings",
        "help": "options of the method, e.g. baseline=zero num_steps=64",
    },
    "--out": {"type": folder, "help": "the folder to write to"},
    **cli_speed.OPTIONS,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a ValueError or an OSError ends with its message and exit code 2."""
    given = vars(_parser().parse_args(arguments))
    print_any_name()
    trust_all(given.pop("trust_code"))
    name, run = given.pop("command"), given.pop("run")
    if name != "check_gpu":  # which tells what cannot be imported
        _use_no_screen()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning(name)
            run(**given)
    except (ValueError, OSError) as error:
        print(f"analysis {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("analysis: stopped", file=sys.stderr)
        return 130
    return 0


def _show_warning(command: str) -> Callable[..., None]:
    def show(message: Warning | str, *_where: object, **_more: object) -> None:
        print(f"analysis {command}: warning: {message}", file=sys.stderr)

    return show


def _use_no_screen() -> None:
    """Draw to files alone, as a machine without a display must."""
    import matplotlib as mpl

    mpl.use("Agg")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Look inside trained models, and time them. Every command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(run: Callable[..., None], **options: dict[str, Any]) -> None:
        """The command of a function; it takes its arguments by name, each as OPTIONS has it."""
        name = run.__name__.removeprefix("_")
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        sub.add_argument("--trust-code", action="store_true", help=TRUST_HELP)
        for option, changes in options.items():
            flag = f"--{option}" if f"--{option}" in OPTIONS else option
            sub.add_argument(flag, **(OPTIONS.get(flag, {}) | changes))

    def out(default: str, what: str = "folder", **changes: Any) -> dict[str, Any]:
        return {"help": f"the {what} to write to; {default} by default", **changes}

    run: dict[str, dict[str, Any]] = {"run_folder": {}, "seed": {}, "variant": {}}
    page = out("RUN/analysis.html", "page", type=file)
    add(_all, run_folder={}, variant={}, device={}, out=page)
    add(_bias, **run, out=out("RUN/bias"))
    several = {"help": "a run folder of `posmlp train`, or of several seeds, such as cells/ID"}
    swapped: dict[str, dict[str, Any]] = {"clips": {"dest": "num_clips"}, "where": {}, "frames": {}}
    add(_inside, **(run | {"run_folder": several} | swapped), device={}, out=out("RUN/inside"))
    picture = {"type": file, "help": "the page, .html; or a picture, .png"}
    add(_knob, source={}, seed={}, out=picture | {"required": True})
    add(_curves, folder={}, metric={}, out=out("DIR/curves"))
    add(_classes, folder={}, device={}, out=out("DIR"))
    add(_sequential, grids={}, out={"required": True})
    cells = {"help": "runs of one variant, such as cells/ID"}
    add(_learned, folder=cells, variant={}, device={}, out={"required": True})
    method: dict[str, dict[str, Any]] = {"video": {}, "method": {}, "target": {}, "set": {}}
    add(_attribute, **run, **method, device={}, out=out("RUN/attribution"))
    cli_speed.add_commands(add)
    return parser


@contextmanager
def _models_on(device: str | None) -> Iterator[None]:
    """Models are opened on the device, which is told at the end."""
    from posmlp.predict import opened_on, tell_device

    with opened_on(device) as found:
        yield
    tell_device(found)


def _all(run_folder: str, out: str | None, variant: str | None, device: str | None) -> None:
    """Gather everything about a run in one HTML page that needs no network."""
    from analysis.page.page import write_page

    with _models_on(device):
        print(write_page(run_folder, out, variant))


def _bias(run_folder: str, **how: Any) -> None:
    """Write a run's mixing weights, their statistics and figures of both to a folder."""
    from analysis.bias.figures import write_bias

    print(write_bias(run_folder, **how))


def _inside(run_folder: str, device: str | None, **how: Any) -> None:
    """Write which activations carry the order of frames, and what turning its arrow does."""
    from analysis.page.inside import write_inside

    with _models_on(device):
        print(write_inside(run_folder, **how))


def _knob(source: str, out: str, seed: int | None) -> None:
    """Write a page that runs a small model while its arrow of time turns, or a moving picture."""
    from analysis.explorer.knob import write_knob

    print(write_knob(source, out, seed))


def _curves(folder: str, out: str | None, metric: str) -> None:
    """Draw learning curves and score against cost of the runs in a folder."""
    from analysis.results.curves import write_curves

    print(write_curves(folder, out, metric))


def _classes(folder: str, out: str | None, device: str | None) -> None:
    """Score the runs in a folder on each class of their test clips, as a table and a figure."""
    from analysis.results.class_accuracy import write_classes

    with _models_on(device):
        print(write_classes(folder, out))


def _sequential(out: str, grids: int) -> None:
    """Simulate how often 'seeds until the verdict' errs, beside a fixed design and peeking."""
    from analysis.results.false_alarms import write_false_alarms

    print(write_false_alarms(out, grids))


def _learned(folder: str, out: str, variant: str | None, device: str | None) -> None:
    """Summarise over seeds what one variant learned: maps, interventions, attributions."""
    from analysis.page.learned import write_learned

    with _models_on(device):
        print(write_learned(folder, out, variant))


def _attribute(
    run_folder: str, video: str, settings: Sequence[str], device: str | None, **how: Any
) -> None:
    """Show which pixels of a video a run's model goes by: sheet, animation, shares of frames."""
    from analysis.attribution.explain import explain_video
    from posmlp.settings import parse_value

    taken = {*how, "run", "video", "device"}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not key=value; write for example baseline=zero")
        if key in taken:
            raise ValueError(f"{key} is no option of a method; give --{key} in place of {text!r}")
        how[key] = parse_value(value)
    with _models_on(device):
        explain_video(run_folder, video, **how)
