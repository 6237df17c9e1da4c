"""The commands of `python -m analysis` that time something: scaling, bench_gpu, bench, peers."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from analysis.arguments import count, device, file, folder

MODES_HELP = "rows: eager, bfloat16, compiled, 'compiled bfloat16'; compiling takes minutes"

Command = Callable[[str, Callable[[argparse.Namespace], None]], argparse.ArgumentParser]


def add_commands(command: Command) -> None:
    """Add each by `command(name, run)`, which returns the parser of its arguments."""
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
    gpu.add_argument("part", help="model, seeds, gates or roofline")
    gpu.add_argument("--preset", help="in place of the part's own")
    gpu.add_argument("--device", default="cuda")
    gpu.add_argument("--mode", nargs="+", help=f"of model and roofline; {MODES_HELP}")
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


def use_no_screen() -> None:
    """Draw to files alone, as a machine without a display must."""
    import matplotlib as mpl

    mpl.use("Agg")


def _scaling(options: argparse.Namespace) -> None:
    """Time gates beside their multiply-adds, joint windows, or the training step's sizes."""
    use_no_screen()
    from analysis.speed.scaling import write_scaling

    table = write_scaling(options.what, options.out, options.threads)
    print(table.round(3).to_string(index=False))


def _bench_gpu(options: argparse.Namespace) -> None:
    """Time one part of what is worth timing on a GPU: model, seeds, gates or roofline."""
    from analysis.speed.bench_gpu import write_bench_gpu

    table = write_bench_gpu(
        options.part,
        options.out,
        preset=options.preset,
        device=options.device,
        num_runs=options.runs,
        modes=options.mode,
    )
    print(table.round(3).to_string(index=False))


def _bench(options: argparse.Namespace) -> None:
    """Time the model beside the plain formulation that the tests hold it against."""
    from analysis.speed.bench import SHOWN, bench
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
        f"load {first['load']:.1f} at the start; ratio: plain's median over the row's; "
        "ceiling: the highest ratio that the machine's arithmetic permits"
    )
    print(table[SHOWN].dropna(axis="columns", how="all").round(2).to_string(index=False))
    if options.out:
        write_atomically(options.out, table.to_csv(index=False).encode())


def _peers(options: argparse.Namespace) -> None:
    """Compare cost and speed with torchvision's video models, on clips of 16 x 224 x 224."""
    use_no_screen()
    from analysis.speed.peers import SHOWN, compare_peers, write_peers

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
