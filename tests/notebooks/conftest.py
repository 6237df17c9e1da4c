"""Lessons import `lessons` from the folder that they lie in, and so do these tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from lessons.make_notebooks import SharedKernel

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))


@pytest.fixture(autouse=True)
def _no_windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checks draw; no figure outlives its test.

    Tests of answers go by words alone: pictures are those of test_sources.py.
    """
    from lessons.checks import verdict

    plt.switch_backend("agg")
    if request.path.name == "test_answers.py":
        monkeypatch.setattr(verdict, "_draw", lambda *_: None)
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def kernel() -> Iterator[SharedKernel]:
    """A kernel for all lessons that this process runs."""
    from lessons.make_notebooks import SharedKernel

    shared = SharedKernel()
    yield shared
    shared.stop()
