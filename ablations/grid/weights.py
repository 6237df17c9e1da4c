"""The model file that `train.init_from` names: what it holds tells cells apart, not its path."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from posmlp.config import PosMLPConfig


def sha256(path: str) -> str:
    """The hash of the file's content; empty for the empty path, which names none.

    Raises ValueError if there is no such file, or it cannot be read.
    """
    if not path:
        return ""
    from posmlp.checkpoint import model_file

    try:
        with model_file(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(
            f"train.init_from={path!r} cannot be read ({error.strerror}); give a model file, for "
            "example RUN/model-seed0.safetensors"
        ) from error


@lru_cache(maxsize=1024)
def check(path: str, content: str, config: PosMLPConfig) -> None:
    """Raise ValueError where a model of `config` cannot start from the file, of hash `content`.

    The hash tells a file from another that was at the path before.
    """
    if not path:
        return
    from posmlp.train.population import seeded_model

    try:
        seeded_model(config, 0, path)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"train.init_from={path!r} cannot be used: {reason}") from error


def check_unchanged(path: str, content: str) -> None:
    """Raise ValueError if the file no longer holds what it did; `content` is empty if not known."""
    found = sha256(path)
    if content and found != content:
        raise ValueError(
            f"train.init_from={path!r} holds sha256:{found[:12]}, not the sha256:{content[:12]} "
            "that this cell starts from; put that file back, or give the `ablations run` command "
            "again, which makes a new cell of it"
        )
