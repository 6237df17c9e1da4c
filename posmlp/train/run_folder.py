"""Run folders: what a training run leaves behind, and where it was made.

RUN/config.json              model, training, data and seeds
RUN/environment.json         versions, device, machine and commit
RUN/metrics.csv              a row an epoch and seed (and variant, where there are some)
RUN/model-seed{k}.safetensors, or model-{variant}-seed{k}.safetensors
RUN/state.safetensors        what resuming needs; removed when the run is complete
"""

from __future__ import annotations

import csv
import io
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from posmlp.checkpoint import write_atomically
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.shapes import fault

_REPORTED = ("torch", "numpy", "decord", "av", "scikit-learn", "scikit-image", "safetensors")


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, device, threads and commit that a result depends on, in plain values."""
    device = torch.device(device)
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "packages": {name: found for name in _REPORTED if (found := _version(name))},
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        **commit(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> dict[str, Any]:
    """The source tree's commit and whether it had changes; None outside a git checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # git is not installed here
            return ""
        return told.stdout.strip()

    head = git("rev-parse", "HEAD")
    if not head:
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(git("status", "--porcelain"))}


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
        if stored is None or _only_lost_clips(_filled(stored), config):
            write_json(self.root / "config.json", config)
        elif wherever_it_starts(_filled(stored)) != wherever_it_starts(config):
            raise ValueError(
                f"{self.root} holds a run of another configuration "
                f"({_difference(stored, config)}); give another folder, or the same "
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
        writer.writerows(rows)
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


def _filled(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration as it would be written now: fields that came to be are at defaults.

    Whether frames were cached was part of it once.
    """
    model = PosMLPConfig.from_dict(stored["model"]).to_dict()
    train = TrainConfig.from_dict(stored["train"]).to_dict()
    data = {
        split: {k: v for k, v in about.items() if k != "cached"}
        for split, about in stored["data"].items()
    }
    return {**stored, "model": model, "train": train, "data": data}


def wherever_it_starts(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the path of the model file that it starts from, whose hash counts."""
    if not config.get("init_sha256"):
        return config
    return {**config, "train": {**config["train"], "init_from": ""}}


_OF_THE_CLIPS = ("num_clips", "unreadable", "dropped", "damaged", "backends", "sha256")


def _only_lost_clips(stored: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether the two differ only by clips that a data check has left out since the run began."""
    before, now = stored["data"], asked["data"]
    if before.keys() != now.keys() or _lost(before) == _lost(now):
        return False
    same_total = all(_num_listed(before[split]) == _num_listed(now[split]) for split in now)
    bare = [
        {split: {k: v for k, v in about.items() if k not in _OF_THE_CLIPS} for split, about in d}
        for d in (before.items(), now.items())
    ]
    return same_total and bare[0] == bare[1] and {**stored, "data": now} == asked


def _lost(data: dict[str, Any]) -> list[Any]:
    return [about.get("dropped") for about in data.values()]


def _num_listed(about: dict[str, Any]) -> int:
    """Clips that the data set lists, whether they are used or not."""
    lost = len(about.get("unreadable") or ()) + len(about.get("dropped") or ())
    return int(about.get("num_clips", 0)) + lost


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
    """Rows of a metrics file, with numbers as numbers. Raises ValueError if it is damaged."""
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
    found = {k: v if k in _TEXTS else _number(v) for k, v in row.items()}
    if not all(isinstance(found.get(key), int) for key in ("epoch", "seed")):
        raise ValueError(f"{line} has no epoch or no seed")
    return found


def _number(text: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def _difference(stored: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> str:
    """The first few keys in which two nested configurations differ, with both values."""
    found: list[str] = []
    for key in sorted({*stored, *asked}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [text for text in [_difference(old, new, f"{prefix}{key}.")] if text]
        elif old != new:
            found.append(f"{prefix}{key}: {old!r} there, {new!r} asked")
    return "; ".join(found[:4])
