"""No test sees what a user has probed; figures are drawn, and rendered where a test asks for it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

BLANK = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder that no other test has filled."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def rendered() -> Iterator[Callable[..., None]]:
    """Return `Figure.savefig`, in place of which a blank picture is written."""
    savefig = Figure.savefig

    def blank(self: Figure, file: Any, **_: Any) -> None:
        file.write(BLANK)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", blank)
        yield savefig
