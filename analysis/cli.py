"""`python -m analysis all | attribute | bench | bias | curves | inside | ...`, see --help.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence

from analysis.arguments import count, file, folder
from analysis.cli_speed import add_commands, use_no_screen
from posmlp.own.code import TRUST_HELP, trust_all
from posmlp.shapes import print_any_name

VARIANT_HELP = "which of the run's variants, where it has several"
DEVICE_HELP = "cpu, cuda or cuda:N; one GPU, if there is one, where this is left out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a ValueError or an OSError ends with its message and exit code 2."""
    options = _parser().parse_args(arguments)
    print_any_name()
    trust_all(getattr(options, "trust_code", False))
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning(options.command)
            options.run(options)
    except (ValueError, OSError) as error:
        print(f"analysis {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("analysis: stopped", file=sys.stderr)
        return 130
    return 0


def _show_warning(command: str) -> Callable[..., None]:
    def show(message: Warning | str, *_where: object, **_more: object) -> None:
        print(f"analysis {command}: warning: {message}", file=sys.stderr)

    return show


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Look inside trained models, and time them. Every command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        sub.add_argument("--trust-code", action="store_true", help=TRUST_HELP)
        return sub

    whole = command("all", _all)
    whole.add_argument("run_folder", metavar="RUN", help="a run folder of `posmlp train`")
    whole.add_argument("--variant", help=VARIANT_HELP)
    whole.add_argument("--device", help=DEVICE_HELP)
    whole.add_argument("--out", type=file, help="the page to write; RUN/analysis.html by default")

    bias = command("bias", _bias)
    bias.add_argument("run_folder", metavar="RUN", help="a run folder of `posmlp train`")
    bias.add_argument("--seed", type=int, help="which model of the run; its first by default")
    bias.add_argument("--variant", help=VARIANT_HELP)
    bias.add_argument("--out", type=folder, help="the folder to write to; RUN/bias by default")

    inside = command("inside", _inside)
    inside.add_argument(
        "run_folder",
        metavar="RUN",
        help="a run folder of `posmlp train`, or of several seeds, such as cells/ID",
    )
    inside.add_argument("--seed", type=int, help="which model of the run; its first by default")
    inside.add_argument("--variant", help=VARIANT_HELP)
    inside.add_argument("--clips", type=count, default=56, help="of the run's test clips, at most")
    inside.add_argument("--where", default="*", help="names of activations, a shell pattern")
    inside.add_argument("--frames", action="store_true", help="exchange single frames, too")
    inside.add_argument("--out", type=folder, help="the folder to write to; RUN/inside by default")

    knob = command("knob", _knob)
    knob.add_argument(
        "source", metavar="RUN_OR_FILE", help="a run folder, a .safetensors file, or toy-ts"
    )
    knob.add_argument("--seed", type=int, help="which model of the run; its first by default")
    knob.add_argument("--out", type=file, required=True, help="the page, .html; or a picture, .png")

    curves = command("curves", _curves)
    curves.add_argument("folder", metavar="DIR", help="a folder of runs, such as `ablations run`'s")
    curves.add_argument("--metric", default="test_top1", help="a column of metrics.csv")
    curves.add_argument("--out", type=folder, help="the folder to write to; DIR/curves by default")

    classes = command("classes", _classes)
    classes.add_argument(
        "folder", metavar="DIR", help="a folder of runs, such as `ablations run`'s"
    )
    classes.add_argument("--out", type=folder, help="the folder to write to; DIR by default")

    sequential = command("sequential", _sequential)
    sequential.add_argument("--grids", type=count, default=4_000, help="simulated ones, a case")
    sequential.add_argument("--out", type=folder, required=True, help="the folder to write to")

    learned = command("learned", _learned)
    learned.add_argument("folder", metavar="DIR", help="runs of one variant, such as cells/ID")
    learned.add_argument("--variant", help=VARIANT_HELP)
    learned.add_argument("--device", help=DEVICE_HELP)
    learned.add_argument("--out", type=folder, required=True, help="the folder to write to")

    attribute = command("attribute", _attribute)
    attribute.add_argument("run_folder", metavar="RUN", help="a run folder of `posmlp train`")
    attribute.add_argument("video", metavar="VIDEO", help="a video file")
    attribute.add_argument("--method", default="integrated_gradients")
    attribute.add_argument(
        "--target", help="a class's name or number; the predicted one by default"
    )
    attribute.add_argument("--seed", type=int, help="which model of the run; its first by default")
    attribute.add_argument("--variant", help=VARIANT_HELP)
    attribute.add_argument("--device", help=DEVICE_HELP)
    attribute.add_argument(
        "--out", type=folder, help="the folder to write to; RUN/attribution by default"
    )
    attribute.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="key=value",
        dest="settings",
        help="options of the method, e.g. baseline=zero num_steps=64",
    )

    add_commands(command)
    return parser


def _all(options: argparse.Namespace) -> None:
    """Gather everything about a run in one HTML page that needs no network."""
    use_no_screen()
    from analysis.page.page import write_page
    from posmlp.predict import opened_on, tell_device

    with opened_on(options.device) as device:
        print(write_page(options.run_folder, options.out, options.variant))
    tell_device(device)


def _bias(options: argparse.Namespace) -> None:
    """Write a run's mixing weights, their statistics and figures of both to a folder."""
    use_no_screen()
    from analysis.bias.figures import write_bias

    print(write_bias(options.run_folder, options.out, options.seed, options.variant))


def _inside(options: argparse.Namespace) -> None:
    """Write which activations carry the order of frames, and what turning its arrow does."""
    use_no_screen()
    from analysis.page.inside import write_inside

    out = write_inside(
        options.run_folder,
        options.out,
        seed=options.seed,
        variant=options.variant,
        num_clips=options.clips,
        where=options.where,
        frames=options.frames,
    )
    print(out)


def _knob(options: argparse.Namespace) -> None:
    """Write a page that runs a small model while its arrow of time turns, or a moving picture."""
    use_no_screen()
    from analysis.explorer.knob import write_knob

    print(write_knob(options.source, options.out, options.seed))


def _curves(options: argparse.Namespace) -> None:
    """Draw learning curves and score against cost of the runs in a folder."""
    use_no_screen()
    from analysis.results.curves import write_curves

    print(write_curves(options.folder, options.out, options.metric))


def _classes(options: argparse.Namespace) -> None:
    """Score the runs in a folder on each class of their test clips, as a table and a figure."""
    use_no_screen()
    from analysis.results.class_accuracy import write_classes

    print(write_classes(options.folder, options.out))


def _sequential(options: argparse.Namespace) -> None:
    """Simulate how often 'seeds until the verdict' errs, beside a fixed design and peeking."""
    from analysis.results.false_alarms import write_false_alarms

    print(write_false_alarms(options.out, options.grids))


def _learned(options: argparse.Namespace) -> None:
    """Summarise over seeds what one variant learned: maps, interventions, attributions."""
    use_no_screen()
    from analysis.page.learned import write_learned
    from posmlp.predict import opened_on, tell_device

    with opened_on(options.device) as device:
        print(write_learned(options.folder, options.out, options.variant))
    tell_device(device)


def _attribute(options: argparse.Namespace) -> None:
    """Show which pixels of a video a run's model goes by: sheet, animation, shares of frames."""
    use_no_screen()
    from analysis.attribution.explain import explain_video
    from posmlp.predict import opened_on, tell_device
    from posmlp.settings import parse_value

    settings = {}
    for text in options.settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not key=value; write for example baseline=zero")
        if hasattr(options, key):
            raise ValueError(f"{key} is no option of a method; give --{key} in place of {text!r}")
        settings[key] = parse_value(value)
    with opened_on(options.device) as device:
        explain_video(
            options.run_folder,
            options.video,
            method=options.method,
            target=options.target,
            seed=options.seed,
            variant=options.variant,
            out=options.out,
            **settings,
        )
    tell_device(device)
