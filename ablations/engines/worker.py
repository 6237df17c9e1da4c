"""A worker process: reads jobs from its standard input, runs them, writes results to its output.

It is a plain program rather than a multiprocessing child, so that a script without a
`__name__ == "__main__"` guard, or a notebook, can start workers. It ends at once when its input
closes, which happens when the driver dies, however it dies. SIGTERM, from the driver or from a
scheduler, lets a training store its middle; the worker then exits with `stopping.EXIT_CODE`.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import queue
import signal
import threading
import traceback
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from posmlp.shapes import NotWrittenError
from posmlp.train.stopping import Stopped, obeyed


class Place(NamedTuple):
    """Where jobs run, one after the other."""

    worker: int
    device: str
    num_threads: int


READY, RESULT, ERROR = "ready", "result", "error"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    # A file of its own: sys.stdin, in which a thread waits, makes Python abort when it ends.
    commands, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints shall not write into the pipe
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    task_bytes = pickle.load(commands)
    threading.Thread(target=_listen, args=(commands, inbox), daemon=True).start()
    task, place = pickle.loads(task_bytes)
    with obeyed():
        _reply(replies, READY, os.getpid())
        while True:
            job = inbox.get()
            _send_output_to(task.log_path(job))
            try:
                _reply(replies, RESULT, task(job, place))
            except Stopped:
                raise
            except BaseException as error:
                kind = "" if isinstance(error, NotWrittenError) else f"{type(error).__name__}: "
                _reply(replies, ERROR, (f"{kind}{error}", traceback.format_exc()))


def _listen(commands: BinaryIO, inbox: queue.SimpleQueue[Any]) -> None:
    """Take jobs in while others run, so that the driver's death is noticed at once."""
    while True:
        try:
            inbox.put(pickle.load(commands))
        except BaseException:
            os._exit(0)


def _reply(replies: BinaryIO, kind: str, content: Any) -> None:
    pickle.dump((kind, content), replies)
    replies.flush()


def _send_output_to(log: Path) -> None:
    """All that this process prints, native code and crashes included, goes to the job's log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    faulthandler.enable()


if __name__ == "__main__":
    main()
