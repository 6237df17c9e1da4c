"""The commands: ablations plan | run | status | why | repeat | report | compare | publish | bench.

Only what a command needs is imported, so that status and why answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posmlp.data.user_cache import CACHE_GIB, CACHE_HELP
from posmlp.own.code import TRUST_HELP, trust_all
from posmlp.shapes import NotWrittenError, print_any_name
from posmlp.train.logs import LOG_HELP

DEVICE_HELP = "cpu, cuda:N, or cuda: workers take turns on all GPUs; default: cuda if there is one"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Exit code: 0; 1 something failed; 2 wrong input, or a path that cannot be used; 75 stopped by
    SIGTERM or SIGUSR1, for a scheduler to requeue; 130 Ctrl-C.
    """
    given = vars(_parser().parse_args(arguments))
    print_any_name()
    trust_all(given.pop("trust_code", False))
    command = given.pop("command")
    code = 1 if command is _run else 0  # where a closed pipe stops it
    try:
        code = command(**given)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:
        is_path = isinstance(error, OSError) and command not in (_run, _repeat, _bench)
        more = "; give a path that can be used" if is_path else ""
        more = "; what is finished is kept" if command is _run else more
        from ablations.engines.processes import EngineError

        is_sentence = isinstance(error, NotWrittenError | EngineError)
        kind = "" if is_sentence else f"{type(error).__name__}: "
        print(f"ablations: {kind}{error}{more}", file=sys.stderr)
        return 2 if is_path else 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one ends what still has to be closed
        print("ablations: stopped", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    """Of each command, whose function takes the arguments by their names."""
    parser = argparse.ArgumentParser(
        prog="ablations",
        description="Ablation grids: see what one costs, run it, read what came out. Running "
        "again is resuming: what is finished is never trained twice.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def added(name: str, command: Callable[..., int], words: str) -> argparse.ArgumentParser:
        new = commands.add_parser(name, help=words)
        new.set_defaults(command=command)
        return new

    plan = added("plan", _plan, "show cells, parameters, cost and time; train nothing")
    run = added("run", _run, "train what is missing; end with exit code 1 if any of it failed")
    for add in (plan.add_argument, run.add_argument):
        add("grid", type=Path, help="a grid file (YAML)")
        add("--out", type=Path, help="the folder to write to; runs/NAME/grid by default")
        add("--data", help="data to use in place of the grid's")
        add("--workers", type=int, default=1, help="how many trainings run at once")
        add("--device", help=DEVICE_HELP)
        _threads(add, "CPU threads of each worker")
    seconds = "how long a few steps of new cells may be timed"
    plan.add_argument("--probe-seconds", dest="probe_s", type=float, default=60.0, help=seconds)
    add = run.add_argument
    add("--engine", default="local", help="local, or ray for several machines")
    add("--address", help="the Ray cluster's, auto or HOST:PORT; by default one is started")
    add("--per-gpu", type=int, default=1, help="how many trainings share one of Ray's GPUs")
    add("--together", type=int, help="trainings that advance as one; up to 32 on a GPU by default")
    add("--timeout", type=float, metavar="SECONDS", help="end a training that takes longer")
    taken = "take finished trainings from DIR"
    add("--reuse", type=Path, action="append", default=[], metavar="DIR", help=taken)
    add("--retry-failed", action="store_true", help="also run what failed before")
    add("--log", metavar="WHERE", help=LOG_HELP)
    add("--cache-gib", type=float, default=CACHE_GIB, help=CACHE_HELP)
    add("--join", action="store_true", help="share the work with all that join in this folder")
    add("--shard", help="i/n: run the i-th of n parts alone, in a folder of its own")
    add("--quiet", dest="progress", action="store_false", help="show no progress")

    status = added("status", _status, "say what is done, has failed and is to do")
    why = added("why", _why, "say how one cell ended, and what command repeats it")
    repeat = added("repeat", _repeat, "train one cell again elsewhere, and compare")
    report = added("report", _report, "write report.html and tables")
    compare = added("compare", _compare, "say what changed between grids, cell by cell")
    folders = "--out of runs, or published; the first is the before"
    compare.add_argument("folders", type=Path, nargs="+", help=folders)
    compare.add_argument("--out", type=Path, metavar="FILE.csv", help="write the table there, too")
    publish = added("publish", _publish, "copy finished results to a folder, to commit it")
    for command in (status, why, repeat, report, publish):
        command.add_argument("folder", type=Path, help="the --out of a run")
    for command in (repeat, report):
        command.add_argument("--trust-code", action="store_true", help=TRUST_HELP)
    for command in (why, repeat):
        command.add_argument("cell", help="its id, the start of that, or its name")
    status.add_argument("--watch", action="store_true", help="again and again, until all is done")
    why.add_argument("--seed", type=int, help="default: all seeds")
    add = repeat.add_argument
    add("--seed", type=int, required=True)
    add("--device", default="cpu")
    _threads(add, "CPU threads")
    add("--to", type=Path, help="a new folder for the run (default: temporary)")
    add = report.add_argument
    add("--out", type=Path, help="the HTML file (default: FOLDER/report.html)")
    inside = "also analyse the best run, as `python -m analysis all` does"
    add("--look-inside", action="store_true", help=inside)
    add("--margin", type=float, help="the largest difference that counts as none, in points")
    add = publish.add_argument
    add("to", type=Path, help="the folder to write to")
    weights = "take each cell's first weights"
    add("--models", default="none", choices=("none", "first"), help=weights)
    ended = "copy what has ended; --reuse TO goes on from it"
    add("--unfinished", action="store_true", help=ended)

    words = "time what a job costs beside its training, here and in other runners"
    add = added("bench", _bench, words).add_argument
    what = "runners: what each costs a job; scale: grids of many cells that have finished"
    add("what", nargs="?", default="runners", choices=("runners", "scale"), help=what)
    add("--jobs", type=int, default=24, help="how many jobs each runner gets")
    sizes = "the sizes of grids of scale"
    add("--cells", type=int, nargs="+", default=[1000, 10000], help=sizes)
    add("--seconds", type=float, default=1.0, help="how long a job lasts that does something")
    add("--only", default="", help="time the runners alone whose name has this part")
    add("--grid", type=Path, help="time this grid instead, as populations and by a pool")
    add("--device", default="cpu", help="where --grid is trained")
    add("--workers", type=int, default=2, help="how many processes the pool of --grid has")
    add("--runs", type=int, default=1, help="how often --grid is trained each way")
    return parser


def _threads(add: Callable[..., object], words: str) -> None:
    add("--threads", dest="num_threads", metavar="THREADS", type=int, default=1, help=words)


def _plan(grid: Path, out: Path | None, **how: Any) -> int:
    from ablations.plan.planned import plan

    print(plan(grid, out or _default_out(grid), **how))
    return 0


def _run(grid: Path, out: Path | None, **how: Any) -> int:
    from ablations.run import run
    from ablations.store.alike import FailedAlikeError

    out = out or _default_out(grid)
    try:
        table = run(grid, out, **how)
    except FailedAlikeError as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 1
    num_failed = 0 if table.empty else int((table["status"] == "failed").sum())
    with contextlib.suppress(BrokenPipeError):  # whoever does not read it, all has been run
        from ablations.commands import command

        print(f"next: {command('report', out)}")
    return 1 if num_failed else 0


def _default_out(grid: Path) -> Path:
    return Path("runs") / grid.stem / "grid"


def _status(folder: Path, watch: bool) -> int:
    if watch:
        from ablations import progress

        progress.watch(folder)
        return 0
    from ablations.store.status import status

    print(status(folder))
    return 0


def _why(folder: Path, cell: str, seed: int | None) -> int:
    from ablations.store.status import why

    print(why(folder, cell, seed))
    return 0


def _repeat(folder: Path, cell: str, seed: int, **how: Any) -> int:
    from ablations.repeat import repeat

    text, same = repeat(folder, cell, seed, **how)
    print(text)
    return 0 if same else 1


def _report(folder: Path, out: Path | None, margin: float | None, look_inside: bool) -> int:
    from ablations.report.page import write_report

    written = write_report(folder, out, margin, look_inside=look_inside)
    if look_inside:
        print(f"page of the best run: {written.with_name('analysis.html')}")
    print(f"report: {written}")
    return 0


def _compare(folders: Sequence[Path], out: Path | None) -> int:
    from ablations.report.compare import Comparison
    from ablations.store.files import write_durably

    found = Comparison.of(folders)
    print(found)
    if out:
        write_durably(out, found.table.to_csv(index=False).encode())
        print(f"table: {out}")
    return 0


def _publish(folder: Path, to: Path, **how: Any) -> int:
    from ablations.report.publish import publish

    print(f"published: {publish(folder, to, **how)}")
    return 0


def _bench(what: str, cells: Sequence[int], grid: Path | None, **how: Any) -> int:
    from ablations.bench import scale
    from ablations.bench.grid import bench_grid
    from ablations.bench.overhead import bench

    if what == "scale":
        lines = scale.bench(cells)
    elif grid is not None:
        lines = bench_grid(grid, how["device"], how["workers"], how["runs"])
    else:
        lines = bench(how["jobs"], how["seconds"], how["only"])
    for line in lines:
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
