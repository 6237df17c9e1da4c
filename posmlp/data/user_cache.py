"""The user's cache folder: where it is, and how much of it decoded frames may fill."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_GIB = 2.0
"""Decoded frames that the user's cache folder is to hold, unless another number is given."""
CACHE_HELP = "GiB of decoded frames that the user's cache folder is to hold; 0: none"


def cache_folder(kind: str) -> Path:
    """The user's folder for things of a kind that can be made again; it need not exist."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "posmlp-workbench" / kind
