"""Run folders: what a training run leaves behind.

RUN/config.json              model, training, data and seeds
RUN/environment.json         versions, device, machine and commit
RUN/metrics.csv              a row an epoch and seed (and variant, where there are some): val_* are
                             scored every epoch, test_* once, in the last one's row
RUN/model-seed{k}.safetensors, or model-{variant}-seed{k}.safetensors
RUN/state.safetensors        what resuming needs; removed when the run is complete
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from posmlp.checkpoint import write_atomically
from posmlp.shapes import fault
from posmlp.train.environment import environment
from posmlp.train.same_run import as_now, difference, only_lost_clips, wherever_it_starts


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


class RunFolder:
    """One run's files; `computed` is how it is computed, which does not tell it from others.

    Raises ValueError if the folder holds a run of another configuration.
    """

    def __init__(
        self,
        root: str | Path,
        config: dict[str, Any],
        device: torch.device,
        computed: dict[str, Any] | None = None,
    ) -> None:
        self.root = Path(root)
        config = json.loads(json.dumps(config))
        stored = self._stored()
        if stored is None or only_lost_clips(as_now(stored), config):
            write_json(self.root / "config.json", config)
        elif wherever_it_starts(as_now(stored)) != wherever_it_starts(config):
            raise ValueError(
                f"{self.root} holds a run of another configuration "
                f"({difference(stored, config)}); give another folder, or the same "
                "configuration to resume"
            )
        write_json(self.root / "environment.json", environment(device) | (computed or {}))

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
            writer.writerow({k: "" if _not_scored(k, v) else v for k, v in row.items()})
        write_atomically(self.root / "metrics.csv", text.getvalue().encode())

    def save_state(self, tensors: dict[str, Tensor], epoch: int) -> None:
        """Everything needed to go on after `epoch` epochs."""
        content = to_bytes({k: v.contiguous() for k, v in tensors.items()}, {"epoch": str(epoch)})
        write_atomically(self.root / "state.safetensors", content)

    def load_state(self) -> tuple[dict[str, Tensor], int] | None:
        path = self.root / "state.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(str(path), "pt") as file:
                epoch = int(file.metadata()["epoch"])
            return load_file(str(path)), epoch
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); put a sound one back, or remove it to train again "
                "from the start"
            ) from error

    def drop_state(self) -> None:
        (self.root / "state.safetensors").unlink(missing_ok=True)


def read_config(run: str | Path) -> dict[str, Any]:
    """What RUN/config.json of a training holds. Raises ValueError if there is none, or no such."""
    path = Path(run) / "config.json"
    if not path.is_file():
        raise ValueError(f"no run at {run}: it has no config.json; give a folder of `train`")
    stored = _described(path)
    if "seeds" not in stored:
        raise ValueError(f"{path} names no seeds, so it is not of `posmlp train`")
    return stored


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
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
        if problem := fault(stored, _CONFIG):
            raise ValueError(problem)
    except ValueError as error:
        raise damaged(path, error) from error
    return stored


def damaged(path: Path, reason: Exception) -> ValueError:
    """The error for a config.json that cannot be what a run has written."""
    return ValueError(
        f"{path} is damaged ({reason}); put a sound one back, or train into another folder"
    )


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
        raise ValueError(
            f"{path} is damaged ({error}); put a sound one back, or move it away"
        ) from error


def _numbers(row: dict[str, str], line: str) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ValueError(f"{line} has not as many values as the first")
    found = {
        k: v if k in _TEXTS else math.nan if not v and k.startswith("test_") else _number(v)
        for k, v in row.items()
    }
    if not all(isinstance(found.get(key), int) for key in ("epoch", "seed")):
        raise ValueError(f"{line} has no epoch or no seed")
    return found


def _not_scored(name: str, value: Any) -> bool:
    return name.startswith("test_") and math.isnan(value)


def _number(text: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
