"""Measures and figures of trained models: functions return tidy DataFrames, draw_* take them.

Names are imported on first use, so that `import analysis` and the command line stay quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.bias_maps import bias_maps, bias_statistics, units
    from analysis.cost import cost, relation_macs, relation_params
    from analysis.draw import (
        draw_accuracy,
        draw_cost_accuracy,
        draw_learning_curves,
        draw_spatial_bias,
        draw_temporal_bias,
    )
    from analysis.statistics import compare, detectable_effect, seeds_needed, t_interval

_HOMES = {
    "bias_maps": ("bias_maps", "bias_statistics", "units"),
    "cost": ("cost", "relation_macs", "relation_params"),
    "draw": (
        "draw_accuracy",
        "draw_cost_accuracy",
        "draw_learning_curves",
        "draw_spatial_bias",
        "draw_temporal_bias",
    ),
    "statistics": ("compare", "detectable_effect", "seeds_needed", "t_interval"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "bias_maps",
    "bias_statistics",
    "compare",
    "cost",
    "detectable_effect",
    "draw_accuracy",
    "draw_cost_accuracy",
    "draw_learning_curves",
    "draw_spatial_bias",
    "draw_temporal_bias",
    "relation_macs",
    "relation_params",
    "seeds_needed",
    "t_interval",
    "units",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(f"analysis.{_HOME_OF[name]}"), name)


class _Package(ModuleType):
    """Keeps `analysis.cost` the function once the import system has loaded the file cost.py.

    Loading a submodule sets it as an attribute of its package, under a name that some of our
    functions share with their file; here the function is set instead.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        shared = isinstance(value, ModuleType) and _HOME_OF.get(name) == name
        super().__setattr__(name, getattr(value, name) if shared else value)


sys.modules[__name__].__class__ = _Package
