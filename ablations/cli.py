"""The commands: ablations plan | run | status | why | repeat | report | compare | publish | bench.

Only what a command needs is imported, so that status and why answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

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
    options = _parser().parse_args(arguments)
    print_any_name()
    trust_all(getattr(options, "trust_code", False))
    code = 1 if options.command is _run else 0  # where a closed pipe stops it
    try:
        code = options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:
        is_path = isinstance(error, OSError) and options.command not in (_run, _repeat, _bench)
        more = "; give a path that can be used" if is_path else ""
        more = "; what is finished is kept" if options.command is _run else more
        from ablations.engines.processes import EngineError

        is_sentence = isinstance(error, NotWrittenError | EngineError)
        kind = "" if is_sentence else f"{type(error).__name__}: "
        print(f"ablations: {kind}{error}{more}", file=sys.stderr)
        return 2 if is_path else 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one ends what still has to be closed
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ablations",
        description="Ablation grids: see what one costs, run it, read what came out. Running "
        "again is resuming: what is finished is never trained twice.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="show cells, parameters, cost and time; train nothing")
    plan.set_defaults(command=_plan)
    run = commands.add_parser(
        "run", help="train what is missing; end with exit code 1 if any of it failed"
    )
    run.set_defaults(command=_run)
    for command in (plan, run):
        command.add_argument("grid", type=Path, help="a grid file (YAML)")
        command.add_argument(
            "--out", type=Path, help="the folder to write to; runs/NAME/grid by default"
        )
        command.add_argument("--data", help="data to use in place of the grid's")
        command.add_argument(
            "--workers", type=int, default=1, help="how many trainings run at once"
        )
        command.add_argument("--device", help=DEVICE_HELP)
        command.add_argument("--threads", type=int, default=1, help="CPU threads of each worker")
    plan.add_argument(
        "--probe-seconds",
        type=float,
        default=60.0,
        help="how long a few steps of new cells may be timed",
    )
    run.add_argument(
        "--engine", default="local", help="where trainings run: local, or ray for several machines"
    )
    run.add_argument(
        "--address", help="the Ray cluster's, auto or HOST:PORT; by default one is started"
    )
    run.add_argument(
        "--per-gpu", type=int, default=1, help="how many trainings share one of Ray's GPUs"
    )
    run.add_argument(
        "--together",
        type=int,
        help="how many trainings advance as one; up to 32 on a GPU by default",
    )
    run.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="end a training that takes longer"
    )
    run.add_argument(
        "--reuse",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="take finished trainings from DIR",
    )
    run.add_argument("--retry-failed", action="store_true", help="also run what failed before")
    run.add_argument("--log", metavar="WHERE", help=LOG_HELP)
    run.add_argument("--cache-gib", type=float, default=CACHE_GIB, help=CACHE_HELP)
    run.add_argument(
        "--join", action="store_true", help="share the work with all that join in this folder"
    )
    run.add_argument("--shard", help="i/n: run the i-th of n parts alone, in a folder of its own")
    run.add_argument("--quiet", action="store_true", help="show no progress")

    status = commands.add_parser("status", help="say what is done, has failed and is to do")
    status.set_defaults(command=_status)
    why = commands.add_parser("why", help="say how one cell ended, and what command repeats it")
    why.set_defaults(command=_why)
    repeat = commands.add_parser("repeat", help="train one cell again elsewhere, and compare")
    repeat.set_defaults(command=_repeat)
    report = commands.add_parser("report", help="write report.html and tables")
    report.set_defaults(command=_report)
    compare = commands.add_parser("compare", help="say what changed between grids, cell by cell")
    compare.set_defaults(command=_compare)
    compare.add_argument(
        "folders", type=Path, nargs="+", help="--out of runs, or published; the first is the before"
    )
    compare.add_argument("--out", type=Path, metavar="FILE.csv", help="write the table there, too")
    publish = commands.add_parser("publish", help="copy finished results to a folder, to commit it")
    publish.set_defaults(command=_publish)
    for command in (status, why, repeat, report, publish):
        command.add_argument("folder", type=Path, help="the --out of a run")
    for command in (repeat, report):
        command.add_argument("--trust-code", action="store_true", help=TRUST_HELP)
    for command in (why, repeat):
        command.add_argument("cell", help="its id, the start of that, or its name")
    status.add_argument("--watch", action="store_true", help="again and again, until all is done")
    why.add_argument("--seed", type=int, help="default: all seeds")
    repeat.add_argument("--seed", type=int, required=True)
    repeat.add_argument("--device", default="cpu")
    repeat.add_argument("--threads", type=int, default=1, help="CPU threads")
    report.add_argument("--out", type=Path, help="the HTML file (default: FOLDER/report.html)")
    report.add_argument(
        "--look-inside",
        action="store_true",
        help="also analyse the best run, as `python -m analysis all` does",
    )
    report.add_argument(
        "--margin", type=float, help="the largest difference that counts as none, in points"
    )
    repeat.add_argument("--to", type=Path, help="a new folder for the run (default: temporary)")
    publish.add_argument("to", type=Path, help="the folder to write to")
    publish.add_argument(
        "--models", default="none", choices=("none", "first"), help="take each cell's first weights"
    )
    publish.add_argument(
        "--unfinished", action="store_true", help="copy what has ended; --reuse TO goes on from it"
    )
    bench = commands.add_parser(
        "bench", help="time what a job costs beside its training, here and in other runners"
    )
    bench.set_defaults(command=_bench)
    bench.add_argument("--jobs", type=int, default=24, help="how many jobs each runner gets")
    bench.add_argument(
        "what",
        nargs="?",
        default="runners",
        choices=("runners", "scale"),
        help="runners: what each costs a job; scale: grids of many cells that have finished",
    )
    bench.add_argument(
        "--cells", type=int, nargs="+", default=[1000, 10000], help="the sizes of grids of scale"
    )
    bench.add_argument(
        "--seconds", type=float, default=1.0, help="how long a job lasts that does something"
    )
    bench.add_argument("--only", default="", help="time the runners alone whose name has this part")
    bench.add_argument(
        "--grid", type=Path, help="time this grid instead, as populations and by a pool"
    )
    bench.add_argument("--device", default="cpu", help="where --grid is trained")
    bench.add_argument(
        "--workers", type=int, default=2, help="how many processes the pool of --grid has"
    )
    bench.add_argument("--runs", type=int, default=1, help="how often --grid is trained each way")
    return parser


def _plan(options: argparse.Namespace) -> int:
    from ablations.plan.planned import plan

    out = options.out or _default_out(options.grid)
    found = plan(
        options.grid,
        out,
        data=options.data,
        workers=options.workers,
        device=options.device,
        num_threads=options.threads,
        probe_s=options.probe_seconds,
    )
    print(found)
    return 0


def _run(options: argparse.Namespace) -> int:
    from ablations.run import run
    from ablations.store.alike import FailedAlikeError

    out = options.out or _default_out(options.grid)
    try:
        table = run(
            options.grid,
            out,
            data=options.data,
            engine=options.engine,
            workers=options.workers,
            device=options.device,
            num_threads=options.threads,
            address=options.address,
            per_gpu=options.per_gpu,
            together=options.together,
            cache_gib=options.cache_gib,
            timeout=options.timeout,
            log=options.log,
            retry_failed=options.retry_failed,
            reuse=options.reuse,
            shard=options.shard,
            join=options.join,
            progress=not options.quiet,
        )
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


def _status(options: argparse.Namespace) -> int:
    if options.watch:
        from ablations.progress import watch

        watch(options.folder)
        return 0
    from ablations.store.status import status

    print(status(options.folder))
    return 0


def _why(options: argparse.Namespace) -> int:
    from ablations.store.status import why

    print(why(options.folder, options.cell, options.seed))
    return 0


def _repeat(options: argparse.Namespace) -> int:
    from ablations.repeat import repeat

    text, same = repeat(
        options.folder,
        options.cell,
        options.seed,
        device=options.device,
        num_threads=options.threads,
        to=options.to,
    )
    print(text)
    return 0 if same else 1


def _report(options: argparse.Namespace) -> int:
    from ablations.report.page import write_report

    look = options.look_inside
    written = write_report(options.folder, options.out, options.margin, look_inside=look)
    if look:
        print(f"page of the best run: {written.with_name('analysis.html')}")
    print(f"report: {written}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from ablations.report.compare import Comparison
    from ablations.store.files import write_durably

    found = Comparison.of(options.folders)
    print(found)
    if options.out:
        write_durably(options.out, found.table.to_csv(index=False).encode())
        print(f"table: {options.out}")
    return 0


def _publish(options: argparse.Namespace) -> int:
    from ablations.report.publish import publish

    how = {"models": options.models, "unfinished": options.unfinished}
    print(f"published: {publish(options.folder, options.to, **how)}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from ablations.bench import scale
    from ablations.bench.grid import bench_grid
    from ablations.bench.overhead import bench

    if options.what == "scale":
        lines = scale.bench(options.cells)
    elif options.grid is not None:
        lines = bench_grid(options.grid, options.device, options.workers, options.runs)
    else:
        lines = bench(options.jobs, options.seconds, options.only)
    for line in lines:
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
