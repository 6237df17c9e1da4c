"""The commands of `python -m analysis` that time something: bench, check_gpu, scaling, peers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.arguments import count, device, file

OPTIONS: dict[str, dict[str, Any]] = {
    "--work": {
        "nargs": "+",
        "dest": "works",
        "help": "of toy-train, toy-eval, s16-eval, s16-train, memory; or all",
    },
    "--against": {"metavar": "COMMIT", "help": "measure this commit's posmlp, too"},
    "--only": {
        "nargs": "+",
        "default": [],
        "help": "some checks, by name; all of them by default",
    },
    "--threads": {
        "type": count,
        "dest": "num_threads",
        "metavar": "THREADS",
        "help": "CPU threads",
    },
    "--runs": {
        "type": count,
        "default": 5,
        "dest": "num_runs",
        "metavar": "RUNS",
        "help": "counted runs of each row, at least",
    },
    "--batch": {"type": count, "default": 4, "help": "clips at once for the throughput"},
    "--mode": {
        "nargs": "+",
        "default": ["eager"],
        "help": "rows: eager, bfloat16, compiled, 'compiled bfloat16'; compiling takes minutes",
    },
}


def add_commands(add: Callable[..., None]) -> None:
    """Add each by `add(run, **options)`."""
    table = {"type": file, "help": "a CSV file to write all columns to"}
    add(_bench, work={}, against={}, threads={}, runs={}, out=table)
    here, there = {"type": device, "default": "cpu"}, {"type": device, "default": "cuda"}
    small = {"help": "on a CPU sizes are small"}
    add(_check_gpu, device=there | small, only={}, out={"required": True})
    what = {"help": "gates or law"}
    add(_scaling, what=what, threads={"default": 1}, out={"required": True})
    add(_peers, batch={}, mode={}, device=here | {"help": None}, threads={}, runs={}, out={})


def _show(table: Any, columns: list[str] | None = None, note: str = "") -> None:
    """Print a table, below the machine that its first row names."""
    first = table.iloc[0]
    about = f"{first['num_threads']} threads, torch {first['torch']}"
    about += f", load {first['load']:.1f} at the start" if "load" in table else ""
    print(f"{first.get('device', 'cpu')}, {about}{note}")
    shown = [name for name in columns or table if table[name].notna().any()]
    print(table[shown].round(3).to_string(index=False))


def _bench(works: list[str] | None, out: str | None, **how: Any) -> None:
    """Time what people run beside the plain model, the tests' einsum model and another commit."""
    from analysis.speed.bench import SHOWN, WORKS, bench
    from analysis.speed.speed import write_table

    table = bench(works or tuple(WORKS), **how)
    note = "; vs_X: X's time over the row's, or the row's memory over X's"
    _show(table, [name for name in SHOWN if name in table], note)
    if out:
        write_table(table, Path(out))


def _check_gpu(out: str, device: str, only: list[str]) -> None:
    """Check what works on a GPU, and how fast, a line of JSON a check; under eight minutes."""
    from analysis.speed.check_gpu import check_gpu

    failed: list[str] = []
    for row in check_gpu(out, device, only):
        how = row.get("reason") or row.get("skipped") or "ok"
        print(f"{row['check']:22} {row['seconds']:6.1f} s  {how}", flush=True)
        failed += [] if row["ok"] else [row["check"]]
    if failed:
        raise ValueError(f"failed: {', '.join(failed)}; {out}/check_gpu.jsonl says why")


def _scaling(what: str, out: str, num_threads: int) -> None:
    """Time gates beside their multiply-adds, or the training step with each of its sizes."""
    from analysis.speed.scaling import write_scaling

    _show(write_scaling(what, out, num_threads))


def _peers(batch: int, mode: list[str], num_runs: int, out: str | None, **how: Any) -> None:
    """Compare cost and speed with torchvision's video models, on clips of 16 x 224 x 224."""
    from analysis.speed.peers import SHOWN, compare_peers, write_peers

    how |= {"warm_up": 1, "min_runs": num_runs, "min_seconds": 0.0, "max_seconds": 600.0}
    table = compare_peers(batch_size=batch, modes=mode, **how)
    note = "; published_top1: % on Kinetics-400 as torchvision documents it, not measured here"
    _show(table, SHOWN, note)
    if out:
        print(write_peers(table, out))
