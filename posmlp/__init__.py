"""PosMLP-Video as a readable reference model with switchable parts.

Names are imported on first use, so that `import posmlp` and the command line stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posmlp.checkpoint import inflate, load, load_released, save
    from posmlp.config import PRESET_SOURCES, PRESETS, PosMLPConfig, TrainConfig
    from posmlp.gates.registry import GATES
    from posmlp.gating import PositionalGatingUnit
    from posmlp.model import PosMLP, PosMLPVideo, create_model
    from posmlp.positions import relative_position_index
    from posmlp.train import evaluate, fit

__version__ = "0.1.0"

_HOMES = {
    "checkpoint": ("inflate", "load", "load_released", "save"),
    "config": ("PRESETS", "PRESET_SOURCES", "PosMLPConfig", "TrainConfig"),
    "gates.registry": ("GATES",),
    "gating": ("PositionalGatingUnit",),
    "model": ("PosMLP", "PosMLPVideo", "create_model"),
    "positions": ("relative_position_index",),
    "train": ("evaluate", "fit"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "GATES",
    "PRESETS",
    "PRESET_SOURCES",
    "PosMLP",
    "PosMLPConfig",
    "PosMLPVideo",
    "PositionalGatingUnit",
    "TrainConfig",
    "create_model",
    "evaluate",
    "fit",
    "inflate",
    "load",
    "load_released",
    "relative_position_index",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'posmlp' has no attribute {name!r}")
    return getattr(importlib.import_module(f"posmlp.{_HOME_OF[name]}"), name)
