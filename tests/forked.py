"""Real processes without a start: a fork of this one, which has imported all that they need.

`python -m MODULE` or `python FILE` takes seconds of a core to import torch, which tests of kills
and signals do not ask about. Those that do start a Python of their own.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any


class Forked(subprocess.Popen):
    """`subprocess.Popen`, in which `python -m MODULE` or `python FILE` is a fork that runs it."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        preexec_fn: Callable[[], object] | None = None,
        **options: Any,
    ) -> None:
        words = [word for word in args if word != "-u"]
        if words[0] == sys.executable and words[1] != "-c":
            first = preexec_fn

            def preexec_fn() -> None:
                _run(words[1:], env, first)

        super().__init__(args, env=env, preexec_fn=preexec_fn, **options)


def _run(words: list[str], env: dict[str, str] | None, first: Callable[[], object] | None) -> None:
    """Be that process; never returns, so that nothing is executed in its place."""
    code = 1
    try:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # one of them tells the parent to go on
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        if first:
            first()
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = ["", *(path for path in paths if path and path not in sys.path)]
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", 1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        warnings.filterwarnings("ignore", module="runpy")
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
