"""Where the values of each epoch go beside metrics.csv: TensorBoard, or a function of the user's.

Such a function is called as `log(run, row)`, once for each row of metrics.csv after that is stored.
`run` is a path that names one training, of one seed; `row` has the epoch, the seed, the rate and
the scores (test_* in the last epoch alone).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from posmlp.config_checks import is_own
from posmlp.own.code import file_of, thing
from posmlp.own.names import read

Row = dict[str, Any]
Log = Callable[[Path, Row], None]
LOG_HELP = "tensorboard, or your function, as module:function or file.py:function"


def log_of(name: str) -> Log:
    """The log of a name: tensorboard, or `file.py:function` or `module:function`, which is run.

    Raises ValueError if there is none, or its file fails.
    """
    if name == "tensorboard":
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "log 'tensorboard' needs TensorBoard, which is not installed; install it with: "
                'pip install -e ".[tensorboard]"'
            )
        return to_tensorboard
    if not is_own(name):
        raise ValueError(f"log {name!r} must be tensorboard, file.py:function or module:function")
    name, source = read(name)
    return thing(name, {file_of(name): source})


def to_tensorboard(run: Path, row: Row) -> None:
    """Append a row's numbers to this process's event file of a run, in `tensorboard` beside it."""
    writer = _writer(run.parent / "tensorboard" / run.name)
    for name, value in row.items():
        if isinstance(value, int | float) and name not in ("epoch", "seed"):
            writer.add_scalar(name, value, row["epoch"])
    writer.flush()


@cache
def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
