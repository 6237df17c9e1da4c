"""Where the values of each epoch go beside metrics.csv: TensorBoard, or a function of the user's.

Such a function is called as `log(run, row)`, once for each row of metrics.csv after that is stored.
`run` is a path that names one training, of one seed; `row` has the epoch, the seed, the rate and
the scores (test_* in the last epoch alone).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Log = Callable[[Path, Row], None]
_PROCESS = f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
LOG_HELP = "tensorboard, or your function, as module:function or file.py:function"


def log_of(name: str) -> Log:
    """The log of a name: tensorboard, `module:function` or `file.py:function`, which is imported.

    Raises ValueError if there is none.
    """
    if name == "tensorboard":
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "log 'tensorboard' needs TensorBoard, which is not installed; install it with: "
                'pip install -e ".[tensorboard]"'
            )
        return to_tensorboard
    place, colon, function = name.rpartition(":")
    if not colon or not function.isidentifier():
        raise ValueError(f"log {name!r} must be tensorboard, module:function or file.py:function")
    try:
        found = getattr(_module(place), function, None)
    except Exception as error:
        raise ValueError(
            f"log {name!r} cannot be imported ({type(error).__name__}: {error}); mend {place}"
        ) from error
    if not callable(found):
        raise ValueError(f"log {name!r} is no function of {place}; define {function}(run, row)")
    return found


def _module(place: str) -> Any:
    """The module of a file, or of a name, which is looked for in the working folder, too."""
    if not place.endswith(".py"):
        folders, sys.path[:] = sys.path[:], ["", *sys.path]
        try:
            return importlib.import_module(place)
        finally:
            sys.path[:] = folders
    if not Path(place).is_file():
        raise FileNotFoundError(f"no file at {place}")
    spec = importlib.util.spec_from_file_location(f"log_{Path(place).stem}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def to_tensorboard(run: Path, row: Row) -> None:
    """Append a row's numbers to this process's event file of a run, in `tensorboard` beside it."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    path = run.parent / "tensorboard" / run.name / f"events.out.tfevents.{_PROCESS}"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in row.items()
        if isinstance(value, int | float) and name not in ("epoch", "seed")
    ]
    events = [Event(step=row["epoch"], summary=Summary(value=values))]
    if not path.exists():
        events.insert(0, Event(file_version="brain.Event:2"))
    with path.open("ab") as file:
        for event in events:
            event.wall_time = time.time()
            RecordWriter(file).write(event.SerializeToString())
