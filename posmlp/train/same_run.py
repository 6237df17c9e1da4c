"""Whether a stored configuration is that of the run that is asked for now; no torch here."""

from __future__ import annotations

from typing import Any

from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.own.names import shown


def as_now(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration as it would be written now: fields that came to be are at defaults."""
    model = PosMLPConfig.from_dict(stored["model"]).to_dict()
    train = TrainConfig.from_dict(stored["train"]).to_dict()
    return {**stored, "model": model, "train": train}


def wherever_it_starts(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the path of the model file that it starts from, whose hash counts."""
    if not config.get("init_sha256"):
        return config
    return {**config, "train": {**config["train"], "init_from": ""}}


_OF_THE_CLIPS = ("num_clips", "unreadable", "dropped", "damaged", "backends", "sha256")


def only_lost_clips(stored: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether the two differ only by clips that a data check has left out since the run began."""
    lost = [[about.get("dropped") for about in each["data"].values()] for each in (stored, asked)]
    return lost[0] != lost[1] and _with_all_listed(stored) == _with_all_listed(asked)


def _with_all_listed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that tells of its clips only how many are listed, be they used or not."""
    data = {}
    for split, about in config["data"].items():
        lost = len(about.get("unreadable") or ()) + len(about.get("dropped") or ())
        bare = {k: v for k, v in about.items() if k not in _OF_THE_CLIPS}
        data[split] = {**bare, "listed": about.get("num_clips", 0) + lost}
    return {**config, "data": data}


def difference(stored: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> str:
    """The first few keys in which two nested configurations differ, with both values."""
    found: list[str] = []
    for key in sorted({*stored, *asked}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [text for text in [difference(old, new, f"{prefix}{key}.")] if text]
        elif old != new:
            if prefix.endswith("code."):
                old, new = shown(old), shown(new)
            found.append(f"{prefix}{key}: {old!r} there, {new!r} asked")
    return "; ".join(found[:4])
