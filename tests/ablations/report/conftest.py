"""Reports whose words matter, not their pictures."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from matplotlib.figure import Figure

BLANK = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures without rendering them."""

    def savefig(self: Figure, file: Any, **_: Any) -> None:
        file.write(BLANK)

    monkeypatch.setattr(Figure, "savefig", savefig)
