"""Fixtures for all tests: the shared folder, where there is one, and small real video files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.browser import open_browser
from tests.forked import Forked

WriteClip = Callable[..., Path]

# One thread: tests are small, and two contending threads take longer than one. What the tests start
# (kernels, trainings) takes it from the environment.
torch.set_num_threads(1)
# A GPU is not for the tests: what they start would take it, and is exact on a CPU alone.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A busy machine is no failure, and what failed once fails again.
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("tests")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed before the fixtures, so that a test draws what it would draw alone."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, in place of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    """No figure outlives its test."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of modules are forks of this one: see `forked.py`."""
    if hasattr(os, "fork"):
        monkeypatch.setattr(subprocess, "Popen", Forked)


@pytest.fixture
def plain_figures() -> Iterator[None]:
    """Matplotlib's own settings."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context():
        mpl.rcdefaults()
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless browser; skips where there is none."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of golden values and odd clips that lies beside the repository."""
    folder = Path(__file__).parents[1] / "../shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    return folder.resolve()


@pytest.fixture(scope="session")
def write_clip() -> WriteClip:
    """Return a function that writes a file whose frame k is of one grey level, `levels[k]`."""

    def write(
        path: Path,
        levels: Sequence[int],
        *,
        height: int = 32,
        width: int = 32,
        fps: int = 8,
        codec: str = "libx264",
        options: dict[str, str] | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        intra_only = {"qp": "10", "preset": "ultrafast", "g": "1", "x264-params": "keyint=1"}
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options or intra_only)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for level in levels:
                grey = np.full((height, width, 3), level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode())
        # SVT-AV1, run by root, gives its caller a real-time priority, which would starve whatever
        # other processes the tests start and wait for.
        if hasattr(os, "sched_setscheduler"):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return path

    return write


@pytest.fixture(scope="session")
def grey_levels() -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from frames (..., H, W, 3) to their mean levels (...)."""
    return lambda frames: np.asarray(frames, dtype=np.float64).mean((-3, -2, -1))
