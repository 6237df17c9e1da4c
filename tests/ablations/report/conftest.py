"""Reports whose words matter, not their pictures."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis.cost.costs import cost

BLANK = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)


counted_once = cache(cost)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures without rendering them, and count a model's cost once for all tests."""

    def savefig(self: Figure, file: Any, **_: Any) -> None:
        file.write(BLANK)

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr("ablations.report.data.cost", counted_once)
