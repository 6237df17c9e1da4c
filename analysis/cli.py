"""`python -m analysis all | attribute | bench | bias | curves`.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a ValueError or a missing file ends with its message and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(f"analysis {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("analysis: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        return sub

    whole = command("all", _all)
    whole.add_argument("run_folder", metavar="RUN", help="a run folder of `posmlp train`")
    whole.add_argument("--out", help="the page to write; RUN/analysis.html by default")

    bias = command("bias", _bias)
    bias.add_argument("run_folder", metavar="RUN", help="a run folder of `posmlp train`")
    bias.add_argument("--seed", type=int, help="which model of the run; its first by default")
    bias.add_argument("--out", help="the folder to write to; RUN/bias by default")

    curves = command("curves", _curves)
    curves.add_argument("folder", metavar="DIR", help="a folder of runs, such as `ablations run`'s")
    curves.add_argument("--metric", default="test_top1", help="a column of metrics.csv")
    curves.add_argument("--out", help="the folder to write to; DIR/curves by default")

    attribute = command("attribute", _attribute)
    attribute.add_argument("run_folder", metavar="RUN", help="a run folder of `posmlp train`")
    attribute.add_argument("video", metavar="VIDEO", help="a video file")
    attribute.add_argument("--method", default="integrated_gradients")
    attribute.add_argument(
        "--target", help="a class's name or number; the predicted one by default"
    )
    attribute.add_argument("--seed", type=int, help="which model of the run; its first by default")
    attribute.add_argument("--out", help="the folder to write to; RUN/attribution by default")
    attribute.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="key=value",
        dest="settings",
        help="options of the method, e.g. baseline=zero num_steps=64",
    )

    bench = command("bench", _bench)
    bench.add_argument("--preset", default="s16")
    bench.add_argument("--batch", type=int, nargs="+", default=[1, 2], help="batch sizes")
    bench.add_argument("--phase", nargs="+", default=["forward", "training"])
    bench.add_argument("--mode", nargs="+", default=["eager"])
    bench.add_argument("--device", default="cpu")
    bench.add_argument("--threads", type=int, help="CPU threads")
    bench.add_argument("--runs", type=int, default=10, help="counted runs of each row")
    bench.add_argument("--out", help="a CSV file to write all columns to")
    return parser


def _all(options: argparse.Namespace) -> None:
    """Gather everything about a run in one HTML page that needs no network."""
    _use_no_screen()
    from analysis.page import write_page

    print(write_page(options.run_folder, options.out))


def _bias(options: argparse.Namespace) -> None:
    """Write a run's mixing weights, their statistics and figures of both to a folder."""
    _use_no_screen()
    from analysis.bias_figures import write_bias

    print(write_bias(options.run_folder, options.out, options.seed))


def _curves(options: argparse.Namespace) -> None:
    """Draw learning curves and score against cost of the runs in a folder."""
    _use_no_screen()
    from analysis.curves import write_curves

    print(write_curves(options.folder, options.out, options.metric))


def _use_no_screen() -> None:
    import matplotlib as mpl

    mpl.use("Agg")


def _bench(options: argparse.Namespace) -> None:
    """Time the model beside the plain formulation that the tests hold it against."""
    from analysis.bench import SHOWN, bench
    from posmlp.checkpoint import write_atomically

    table = bench(
        options.preset,
        batch_sizes=options.batch,
        phases=options.phase,
        modes=options.mode,
        device=options.device,
        num_threads=options.threads,
        num_runs=options.runs,
    )
    first = table.iloc[0]
    print(
        f"{first['device']}, {first['num_threads']} threads, torch {first['torch']}, "
        f"load {first['load']:.1f} at the start; ratio: plain's median over the row's"
    )
    print(table[SHOWN].dropna(axis="columns", how="all").round(2).to_string(index=False))
    if options.out:
        write_atomically(options.out, table.to_csv(index=False).encode())


def _attribute(options: argparse.Namespace) -> None:
    """Show which pixels of a video a run's model goes by: sheet, animation, shares of frames."""
    _use_no_screen()
    from analysis.explain import explain_video
    from posmlp.cli import parse_value

    settings = {}
    for text in options.settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not key=value; write for example baseline=zero")
        settings[key] = parse_value(value)
    explain_video(
        options.run_folder,
        options.video,
        method=options.method,
        target=options.target,
        seed=options.seed,
        out=options.out,
        **settings,
    )
