"""Says before a lesson what its environment lacks, and how to mend it. Needs Python alone.

Where nothing is lacking figures get the project's style. `new_folder` is for what a lesson writes.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lessons.figures import LiveLoss

PACKAGES = ("torch", "matplotlib", "pandas", "sklearn", "skimage", "anywidget")
OURS = ("posmlp", "analysis", "ablations")
OLDEST = (3, 11)


def missing(more: Sequence[str] = ()) -> list[str]:
    """What is not there, a sentence each; `more` are packages that this lesson needs besides."""
    found = []
    if sys.version_info < OLDEST:
        found.append(
            f"this kernel is Python {sys.version.split()[0]}, 3.11 or newer is needed: "
            "start JupyterLab by `make lab`"
        )
    lacking = [name for name in OURS if importlib.util.find_spec(name) is None]
    if lacking:
        found.append(
            f"{', '.join(lacking)} cannot be imported: start JupyterLab by `make lab` in the "
            "repository, or run `pip install --editable .` there with this kernel's Python, "
            f"{sys.executable}"
        )
    others = [name for name in (*PACKAGES, *more) if importlib.util.find_spec(name) is None]
    if others:
        found.append(
            f"{', '.join(others)} cannot be imported: `pip install --editable .` in the "
            "repository installs all that the lessons need"
        )
    return found


def check(*more: str) -> None:
    """Print `ready`, or what is missing and how to mend it."""
    lacking = missing(more)
    if not lacking:
        _set_style()
    print("\n".join(f"- {each}" for each in lacking) or "ready")


def _set_style() -> None:
    from matplotlib import pyplot as plt

    from analysis.figures.style import STYLE

    plt.style.use(STYLE)


def live_loss() -> LiveLoss:
    """A figure of losses that grows while `fit` trains."""
    from lessons.figures import LiveLoss

    return LiveLoss()


def new_folder() -> Path:
    """A new folder outside the notebooks', for what a lesson trains or makes."""
    return Path(tempfile.mkdtemp())
