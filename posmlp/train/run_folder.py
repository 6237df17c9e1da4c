"""Run folders: what a training run leaves behind.

RUN/config.json              model, training, data and seeds
RUN/environment.json         versions, device, machine and commit
RUN/my_gates.py              copies of the user's own files, if some are named; what is run is
                             in config.json and in the model files
RUN/metrics.csv              a row an epoch and seed (and variant, where there are some): val_* are
                             scored every epoch, test_* once, in the last one's row
RUN/model-seed{k}.safetensors, or model-{variant}-seed{k}.safetensors
RUN/state.safetensors        what resuming needs; removed when the run is complete
RUN/logged.json              how many rows a log was given, if there is one (`logs.py`)
RUN/.lock, RUN/.owner.json   held, and written, by the process that trains
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save as to_bytes
from torch import Tensor

from posmlp.checkpoint import read_tensors, write_atomically
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.config_checks import one_of
from posmlp.shapes import NotWrittenError, fault, not_written
from posmlp.train.environment import environment
from posmlp.train.same_run import as_now, difference, only_lost_clips, wherever_it_starts
from posmlp.train.variants import Member, members


def write_code(folder: Path, code: Mapping[str, str]) -> None:
    """Copies, to read, of the user's own files that a model's configuration holds."""
    for name, source in code.items():
        write_atomically(folder / name, source.encode())


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


LOCK = ".lock"
MEND = "put a sound one back, or train into another folder"


class LengthenedError(ValueError):
    """A run that is complete was asked for `epochs` more."""

    def __init__(self, root: Path, done: int, asked: int) -> None:
        self.epochs = asked - done
        super().__init__(
            f"{root} is complete, and its learning rate came to its end with epoch {done}. For "
            f"epochs={asked} train {self.epochs} more from its model, in another folder, a seed at "
            f"a time: give epochs={self.epochs} and init_from={root / 'model-seedN.safetensors'}"
        )


class RunFolder:
    """One run's files; nothing is written before `begin`.

    Raises ValueError if the folder holds a run of another configuration, and LengthenedError where
    that is the same with fewer epochs, and complete.
    """

    def __init__(self, root: str | Path, config: dict[str, Any]) -> None:
        self.root = Path(root)
        self._config = json.loads(json.dumps(config))
        self._reached: tuple[int, int] | None = None
        self._begun = False
        try:
            stored = self._stored()
        except OSError as error:
            why = f"{error.filename or self.root} cannot be used: {error.strerror}"
            raise NotWrittenError(error.errno, why) from error
        if stored is None or only_lost_clips(as_now(stored), self._config):
            return
        self._begun = True
        if wherever_it_starts(as_now(stored)) == wherever_it_starts(self._config):
            return
        done, asked = (each["train"].get("epochs", 0) for each in (as_now(stored), self._config))
        lengthened = {**as_now(stored), "train": {**as_now(stored)["train"], "epochs": asked}}
        if asked > done and lengthened == self._config and self.is_complete(done):
            raise LengthenedError(self.root, done, asked)
        raise ValueError(
            f"{self.root} holds a run of another configuration "
            f"({difference(stored, self._config)}); give another folder, or the same "
            "configuration to resume"
        )

    def begin(self, device: torch.device, computed: dict[str, Any] | None = None) -> None:
        """Write what is to be trained, and where; `computed` is how, which tells no run apart."""
        with self.keeping():
            if not self._begun:
                for part in ("model", "train"):
                    write_code(self.root, self._config[part].get("code", {}))
                write_json(self.root / "config.json", self._config)
            write_json(self.root / "environment.json", environment(device) | (computed or {}))

    def is_complete(self, epochs: int) -> bool:
        """Whether all is stored that a training of so many epochs leaves, as its rows tell."""
        rows = [] if (self.root / "state.safetensors").exists() else self.rows()
        if not rows or rows[-1]["epoch"] != epochs:
            return False
        self._reached = epochs, 0
        return True

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Within the block, the error for what cannot be written says what is kept."""
        try:
            yield
        except OSError as error:
            why = not_written(self.root, 0, error)
            if self.kept() in str(why):
                raise
            raise NotWrittenError(error.errno, f"{why}. {self.kept()}") from error

    def kept(self) -> str:
        """What is stored, in a sentence."""
        if self._reached is None:
            return f"{self.root} keeps nothing of this training yet"
        epochs, steps = self._reached
        so_far = f"{steps} steps of epoch {epochs + 1}" if steps else f"all of epoch {epochs}"
        return f"{self.root} keeps the training up to {so_far}; the same command goes on from there"

    def _stored(self) -> dict[str, Any] | None:
        if (self.root / "config.json").exists():
            return _described(self.root / "config.json")
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"{self.root} is a file; name a folder for the run")
        if self.root.is_dir() and any(not p.name.startswith(".") for p in self.root.iterdir()):
            raise ValueError(f"{self.root} is not empty and holds no run; give an empty folder")
        return None

    def rows(self) -> list[dict[str, Any]]:
        """The metrics stored so far, a dict an epoch and seed."""
        path = self.root / "metrics.csv"
        return read_metrics(path) if path.exists() else []

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if not_scored(k, v) else v for k, v in row.items()})
        with self.keeping():
            write_atomically(self.root / "metrics.csv", text.getvalue().encode())

    def num_told(self) -> int:
        """How many of the rows a log was given (`logs.py`)."""
        path = self.root / "logged.json"
        mend = "remove it, and the log is given all epochs again"
        return int(sound(path, {"rows": int}, mend)["rows"]) if path.exists() else 0

    def count_told(self, rows: int) -> None:
        with self.keeping():
            write_json(self.root / "logged.json", {"rows": rows})

    def save_state(self, tensors: dict[str, Tensor], epoch: int, steps: int) -> None:
        """Everything needed to go on after `epoch` epochs and so many steps of the next."""
        content = to_bytes({k: v.contiguous() for k, v in tensors.items()}, {"epoch": str(epoch)})
        with self.keeping():
            write_atomically(self.root / "state.safetensors", content)
        self._reached = epoch, steps

    def load_state(self) -> tuple[dict[str, Tensor], int] | None:
        path = self.root / "state.safetensors"
        if not path.exists():
            return None
        try:
            tensors, metadata = read_tensors(path)
            epoch = int(metadata["epoch"])
            self._reached = epoch, int(tensors.get("epoch.steps", torch.tensor(0)))
            return tensors, epoch
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); put a sound one back, or remove it to train again "
                "from the start"
            ) from error

    def drop_state(self, epochs: int) -> None:
        """The training is complete."""
        (self.root / "state.safetensors").unlink(missing_ok=True)
        self._reached = epochs, 0


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Within the block no other process trains there; a folder that stays empty goes at the end.

    Raises ValueError if one does.
    """
    advice = "wait for it, or stop it, or give another folder"
    try:
        with alone(root, root / LOCK, root / ".owner.json", "training", advice):
            yield
    finally:
        with suppress(OSError):
            root.rmdir()


@contextmanager
def alone(
    folder: Path, lock_path: Path, owner_path: Path, what: str, advice: str
) -> Iterator[None]:
    """Within the block no other process holds the lock, which falls with its process.

    Raises ValueError that names process and host if one does. Where a file system has no locks,
    stderr says so.
    """
    lock = FileLock(lock_path, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{folder} is in use by {_owner(owner_path, what)}; {advice}") from error
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", None)
        if number not in (None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise not_written(lock_path, 0, OSError(number, os.strerror(number))) from error
        print(f"{folder} has no locks: see to it that one process writes there", file=sys.stderr)
        yield
        return
    try:
        write_json(owner_path, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        for path in (owner_path, lock_path):  # who waits for a lock that is gone makes it anew
            with suppress(OSError):
                path.unlink()
        lock.release()


def _owner(path: Path, what: str) -> str:
    """Who holds a lock; one that has only just begun has a moment to tell."""
    for _ in range(20):
        with suppress(OSError, ValueError, KeyError, TypeError):
            owner = json.loads(path.read_bytes())
            pid, host = int(owner["pid"]), str(owner["host"])
            if host == socket.gethostname():
                os.kill(pid, 0)  # OSError for one that was killed before
            return f"another {what} (process {pid} on {host})"
        time.sleep(0.1)
    return f"another {what}"


def read_config(run: str | Path) -> dict[str, Any]:
    """What RUN/config.json of a training holds. Raises ValueError if there is none, or no such."""
    path = Path(run) / "config.json"
    if not path.is_file():
        raise ValueError(f"no run at {run}: it has no config.json; give a folder of `train`")
    stored = _described(path)
    if "seeds" not in stored:
        raise ValueError(f"{path} names no seeds, so it is not of `posmlp train`")
    return stored


CALIBRATION = "calibration.json"
"""Of a run folder: what logits of each model are divided by, fitted on val clips."""


def write_temperatures(run: Path, temperatures: dict[str, float]) -> None:
    """Store a temperature by the name of a model's file. Raises NotWrittenError."""
    write_json(run / CALIBRATION, {"temperatures": temperatures})


def temperature_of(model: Path) -> float:
    """What the logits of a run's model are divided by; 1 where none was fitted.

    Raises ValueError if the run's calibration.json is damaged.
    """
    path, mend = model.parent / CALIBRATION, "remove it, or fit it again by posmlp eval --calibrate"
    if not path.is_file():
        return 1.0
    stored = sound(path, {"temperatures": {"*": float | int}}, mend)
    found = float(stored["temperatures"].get(model.name, 1.0))
    if not 0 < found < math.inf:
        raise damaged(path, f"{found} is no temperature", mend)
    return found


def is_training(folder: Path) -> bool:
    """Whether a folder holds a run of `posmlp train`. Raises ValueError if that is damaged."""
    path = folder / "config.json"
    return path.is_file() and "seeds" in _described(path)


_CONFIG = {
    "model": dict,
    "train": dict,
    "source?": str | None,
    "data": {"*": dict},
    "classes": [str | int],
    "seeds?": [int],
    "variants?": {"*": dict},
}


def _described(path: Path) -> dict[str, Any]:
    return sound(path, _CONFIG)


def sound(path: Path, shape: Any, mend: str = MEND) -> Any:
    """What a JSON file of a run holds. Raises ValueError if it is damaged, or of another shape."""
    try:
        stored = json.loads(path.read_bytes())
    except ValueError as error:
        raise damaged(path, error, mend) from error
    if problem := fault(stored, shape):
        raise damaged(path, problem, mend)
    return stored


def damaged(path: Path, reason: object, mend: str = MEND) -> ValueError:
    """The error for a file that cannot be what a run has written."""
    return ValueError(f"{path} is damaged ({reason}); {mend}")


def run_members(run: str | Path) -> list[Member]:
    """What RUN/config.json says is trained there: every variant, if there are some, at every seed.

    Raises ValueError if there is no run, or it is damaged.
    """
    stored = read_config(run)
    try:
        config = PosMLPConfig.from_dict(stored["model"])
        train = TrainConfig.from_dict(stored["train"])
        return members(config, train, stored["seeds"], stored.get("variants") or None)
    except (ValueError, TypeError) as error:
        raise damaged(Path(run) / "config.json", error) from error


def one_variant(run: str | Path, variant: str | None = None) -> list[Member]:
    """A run's members of one variant, a seed each; `variant` is needed where it has several.

    Raises ValueError for one that is not there, and where there are several and none is chosen.
    """
    found = run_members(run)
    names = list(dict.fromkeys(member.variant for member in found))
    if variant is None and len(names) > 1:
        raise ValueError(
            f"{run} holds the variants {', '.join(names)}; choose one, for example "
            f"variant={names[0]!r} (at the command line: --variant {names[0]})"
        )
    if variant is not None and names == [""]:
        raise ValueError(f"variant={variant!r}, but {run} holds no variants; leave it out")
    variant = names[0] if variant is None else variant
    one_of(variant, names, "variant")
    return [member for member in found if member.variant == variant]


def model_path(run: str | Path, member: Member) -> Path:
    """Where the trained model of a member is once the run is complete."""
    return Path(run) / f"model-{member.label}.safetensors"


_TEXTS = ("id", "variant")
"""Columns of names; `ablations publish` writes the first, the cell's, which may look a number."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file, with numbers as numbers and NaN where test clips were not scored.

    In older files test clips were scored every epoch. Raises ValueError if it is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [_numbers(row, f"line {rows.line_num}") for row in rows]
    except (ValueError, csv.Error) as error:
        raise damaged(path, error, "put a sound one back, or move it away") from error


def _numbers(row: dict[str, str], line: str) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ValueError(f"{line} has not as many values as the first")
    found = {
        k: v if k in _TEXTS else math.nan if not v and k.startswith("test_") else _number(v)
        for k, v in row.items()
    }
    if not all(isinstance(found.get(key), int) for key in ("epoch", "seed")):
        raise ValueError(f"{line} has no epoch or no seed")
    if words := [k for k, v in found.items() if isinstance(v, str) and k not in _TEXTS]:
        raise ValueError(f"{line} has {words[0]}={found[words[0]]!r}, no number")
    return found


def not_scored(name: str, value: Any) -> bool:
    """Whether a value of a row stands for test clips that are scored in the last epoch alone."""
    return name.startswith("test_") and math.isnan(value)


def _number(text: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
