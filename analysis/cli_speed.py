"""The commands of `python -m analysis` that time something: bench, check_gpu, scaling, peers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.arguments import count, device, file, folder

OPTIONS: dict[str, dict[str, Any]] = {
    "--work": {"nargs": "+", "help": "of toy-train, toy-eval, s16-eval, s16-train, memory; or all"},
    "--against": {"metavar": "COMMIT", "help": "measure this commit's posmlp, too"},
    "--only": {},
    "--device": {"type": device, "default": "cpu"},
    "--threads": {"type": count, "help": "CPU threads"},
    "--runs": {"type": count, "default": 5, "help": "counted runs of each row, at least"},
    "--batch": {"type": count, "default": 4, "help": "clips at once for the throughput"},
    "--mode": {
        "nargs": "+",
        "default": ["eager"],
        "help": "rows: eager, bfloat16, compiled, 'compiled bfloat16'; compiling takes minutes",
    },
    "--out": {"type": folder, "help": "the folder to write to"},
}

Command = Callable[[str, Callable[[argparse.Namespace], None]], argparse.ArgumentParser]


def add_commands(command: Command) -> None:
    """Add each by `command(name, run)`, which returns the parser of its arguments."""

    def add(name: str, run: Callable[[argparse.Namespace], None], **options: Any) -> None:
        parser = command(name, run)
        for option, changes in options.items():
            flag = f"--{option}" if f"--{option}" in OPTIONS else option
            parser.add_argument(flag, **(OPTIONS.get(flag, {}) | changes))

    out: dict[str, Any] = {"type": file, "help": "a CSV file to write all columns to"}
    add("bench", _bench, work={}, against={}, threads={}, runs={}, out=out)
    only = {"nargs": "+", "default": [], "help": "some checks, by name; all of them by default"}
    there = {"default": "cuda", "help": "on a CPU sizes are small"}
    add("check_gpu", _check_gpu, device=there, only=only, out={"required": True})
    add("scaling", _scaling, what={"help": "gates or law"}, threads={"default": 1},
        out={"required": True})  # fmt: skip
    add("peers", _peers, batch={}, mode={}, device={}, threads={}, runs={}, out={})


def use_no_screen() -> None:
    """Draw to files alone, as a machine without a display must."""
    import matplotlib as mpl

    mpl.use("Agg")


def _show(table: Any, columns: list[str] | None = None, note: str = "") -> None:
    """Print a table, below the machine that its first row names."""
    first = table.iloc[0]
    about = f"{first['num_threads']} threads, torch {first['torch']}"
    about += f", load {first['load']:.1f} at the start" if "load" in table else ""
    print(f"{first.get('device', 'cpu')}, {about}{note}")
    shown = [name for name in columns or table if table[name].notna().any()]
    print(table[shown].round(3).to_string(index=False))


def _bench(options: argparse.Namespace) -> None:
    """Time what people run beside the plain model, the tests' einsum model and another commit."""
    from analysis.speed.bench import SHOWN, WORKS, bench
    from analysis.speed.speed import write_table

    table = bench(
        options.work or tuple(WORKS),
        against=options.against,
        num_threads=options.threads,
        num_runs=options.runs,
    )
    note = "; vs_X: X's time over the row's, or the row's memory over X's"
    _show(table, [name for name in SHOWN if name in table], note)
    if options.out:
        write_table(table, Path(options.out))


def _check_gpu(options: argparse.Namespace) -> None:
    """Check what works on a GPU, and how fast, a line of JSON a check; under eight minutes."""
    from analysis.speed.check_gpu import check_gpu

    failed: list[str] = []
    for row in check_gpu(options.out, options.device, options.only):
        how = row.get("reason") or row.get("skipped") or "ok"
        print(f"{row['check']:22} {row['seconds']:6.1f} s  {how}", flush=True)
        failed += [] if row["ok"] else [row["check"]]
    if failed:
        raise ValueError(f"failed: {', '.join(failed)}; {options.out}/check_gpu.jsonl says why")


def _scaling(options: argparse.Namespace) -> None:
    """Time gates beside their multiply-adds, or the training step with each of its sizes."""
    use_no_screen()
    from analysis.speed.scaling import write_scaling

    _show(write_scaling(options.what, options.out, options.threads))


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
    note = "; published_top1: % on Kinetics-400 as torchvision documents it, not measured here"
    _show(table, SHOWN, note)
    if options.out:
        print(write_peers(table, options.out))
