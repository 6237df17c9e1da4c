"""`python -m analysis all | attribute | bench | bias | classes | curves | learned | peers`.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from analysis.arguments import count, device, file, folder

MODES_HELP = "rows: eager, bfloat16, compiled, 'compiled bfloat16'; compiling takes minutes"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a ValueError or an OSError ends with its message and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
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
    whole.add_argument("--out", type=file, help="the page to write; RUN/analysis.html by default")

    bias = command("bias", _bias)
    bias.add_argument("run_folder", metavar="RUN", help="a run folder of `posmlp train`")
    bias.add_argument("--seed", type=int, help="which model of the run; its first by default")
    bias.add_argument("--out", type=folder, help="the folder to write to; RUN/bias by default")

    curves = command("curves", _curves)
    curves.add_argument("folder", metavar="DIR", help="a folder of runs, such as `ablations run`'s")
    curves.add_argument("--metric", default="test_top1", help="a column of metrics.csv")
    curves.add_argument("--out", type=folder, help="the folder to write to; DIR/curves by default")

    classes = command("classes", _classes)
    classes.add_argument(
        "folder", metavar="DIR", help="a folder of runs, such as `ablations run`'s"
    )
    classes.add_argument("--out", type=folder, help="the folder to write to; DIR by default")

    learned = command("learned", _learned)
    learned.add_argument("folder", metavar="DIR", help="runs of one variant, such as cells/ID")
    learned.add_argument("--out", type=folder, required=True, help="the folder to write to")

    attribute = command("attribute", _attribute)
    attribute.add_argument("run_folder", metavar="RUN", help="a run folder of `posmlp train`")
    attribute.add_argument("video", metavar="VIDEO", help="a video file")
    attribute.add_argument("--method", default="integrated_gradients")
    attribute.add_argument(
        "--target", help="a class's name or number; the predicted one by default"
    )
    attribute.add_argument("--seed", type=int, help="which model of the run; its first by default")
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

    scaling = command("scaling", _scaling)
    scaling.add_argument("what", help="gates, joint or law")
    scaling.add_argument("--threads", type=count, default=1, help="CPU threads")
    scaling.add_argument(
        "--out",
        type=folder,
        required=True,
        help="the folder to write a table and figure to",
    )

    gpu = command("bench_gpu", _bench_gpu)
    gpu.add_argument("part", help="model, seeds or gates")
    gpu.add_argument("--preset", help="in place of the part's own")
    gpu.add_argument("--device", default="cuda")
    gpu.add_argument("--runs", type=count, default=20, help="counted runs of each row")
    gpu.add_argument(
        "--out",
        type=folder,
        default="ablations/results/speed",
        help="the folder to write to",
    )

    bench = command("bench", _bench)
    bench.add_argument("--preset", default="s16")
    bench.add_argument("--batch", type=count, nargs="+", default=[1, 2], help="batch sizes")
    bench.add_argument("--phase", nargs="+", default=["forward", "training"])
    bench.add_argument("--mode", nargs="+", default=["eager"], help=MODES_HELP)
    bench.add_argument("--device", type=device, default="cpu")
    bench.add_argument("--threads", type=count, help="CPU threads")
    bench.add_argument("--runs", type=count, default=10, help="counted runs of each row")
    bench.add_argument("--out", type=file, help="a CSV file to write all columns to")

    peers = command("peers", _peers)
    peers.add_argument("--batch", type=count, default=4, help="clips at once for the throughput")
    peers.add_argument("--mode", nargs="+", default=["eager"], help=MODES_HELP)
    peers.add_argument("--device", type=device, default="cpu")
    peers.add_argument("--threads", type=count, help="CPU threads")
    peers.add_argument("--runs", type=count, default=5, help="counted runs of each row")
    peers.add_argument("--out", type=folder, help="a folder to write peers.csv and peers.png to")
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


def _classes(options: argparse.Namespace) -> None:
    """Score the runs in a folder on each class of their test clips, as a table and a figure."""
    _use_no_screen()
    from analysis.class_accuracy import write_classes

    print(write_classes(options.folder, options.out))


def _learned(options: argparse.Namespace) -> None:
    """Summarise over seeds what one variant learned: maps, interventions, attributions."""
    _use_no_screen()
    from analysis.learned import write_learned

    print(write_learned(options.folder, options.out))


def _use_no_screen() -> None:
    import matplotlib as mpl

    mpl.use("Agg")


def _bench_gpu(options: argparse.Namespace) -> None:
    """Time one part of what is worth timing on a GPU: model, seeds or gates."""
    from analysis.bench_gpu import write_bench_gpu

    table = write_bench_gpu(
        options.part,
        options.out,
        preset=options.preset,
        device=options.device,
        num_runs=options.runs,
    )
    print(table.round(3).to_string(index=False))


def _scaling(options: argparse.Namespace) -> None:
    """Time gates beside their multiply-adds, joint windows, or the training step's sizes."""
    _use_no_screen()
    from analysis.scaling import write_scaling

    table = write_scaling(options.what, options.out, options.threads)
    print(table.round(3).to_string(index=False))


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


def _peers(options: argparse.Namespace) -> None:
    """Compare cost and speed with torchvision's video models, on clips of 16 x 224 x 224."""
    _use_no_screen()
    from analysis.peers import SHOWN, compare_peers, write_peers

    table = compare_peers(
        batch_size=options.batch,
        modes=options.mode,
        device=options.device,
        num_threads=options.threads,
        warm_up=1,
        min_runs=options.runs,
        min_seconds=0.0,
        max_seconds=600.0,
    )
    first = table.iloc[0]
    print(
        f"{first['device']}, threads {first['num_threads']}, torch {first['torch']}, load "
        f"{first['load']:.1f} at the start; published_top1: % on Kinetics-400 as torchvision "
        "documents its weights, not measured here"
    )
    print(table[SHOWN].round(2).to_string(index=False))
    if options.out:
        print(write_peers(table, options.out))


def _attribute(options: argparse.Namespace) -> None:
    """Show which pixels of a video a run's model goes by: sheet, animation, shares of frames."""
    _use_no_screen()
    from analysis.explain import explain_video
    from posmlp.settings import parse_value

    settings = {}
    for text in options.settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not key=value; write for example baseline=zero")
        if hasattr(options, key):
            raise ValueError(f"{key} is no option of a method; give --{key} in place of {text!r}")
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
