"""Lessons import `lessons` from the folder that they lie in, and so do these tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib import pyplot as plt

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))


@pytest.fixture(autouse=True)
def _no_windows() -> Iterator[None]:
    """Checks draw; no figure outlives its test."""
    plt.switch_backend("agg")
    yield
    plt.close("all")
