"""Measures and figures of trained models: functions return tidy DataFrames, draw_* take them.

Names are imported on first use, so that `import analysis` and the command line stay quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.animation import save_attribution_animation
    from analysis.attribution import Attribution, attribute
    from analysis.baselines import baseline_clips
    from analysis.bias_figures import bias_figures, write_bias
    from analysis.bias_history import bias_history
    from analysis.bias_maps import bias_maps, units
    from analysis.bias_statistics import bias_statistics
    from analysis.cost import cost, relation_macs, relation_params
    from analysis.curves import gather_curves, last_epochs, write_curves
    from analysis.draw import (
        draw_accuracy,
        draw_bias_history,
        draw_cost_accuracy,
        draw_differences,
        draw_interventions,
        draw_joint_bias,
        draw_learning_curves,
        draw_peers,
        draw_spatial_bias,
        draw_speed_accuracy,
        draw_temporal_bias,
        save_bias_animation,
    )
    from analysis.draw_attribution import draw_attribution, draw_frame_shares, draw_scorecard
    from analysis.draw_layout import draw_layout
    from analysis.effects import effects
    from analysis.explain import explain_video
    from analysis.explorer import BiasExplorer
    from analysis.faithfulness import (
        curve_areas,
        perturbation_curves,
        randomisation_check,
        reinitialised,
    )
    from analysis.intervene import intervene
    from analysis.interventions import Intervention, knock_outs
    from analysis.localisation import localisation
    from analysis.memory import activation_memory
    from analysis.page import write_page
    from analysis.pareto import pareto
    from analysis.peers import compare_peers
    from analysis.resize_bias import accuracy_at, resize_bias
    from analysis.scorecard import attribution_scorecard, attribution_scores, summarise_scores
    from analysis.speed import measure_speed
    from analysis.statistics import compare, detectable_effect, seeds_needed, t_interval

_HOMES = {
    "animation": ("save_attribution_animation",),
    "attribution": ("Attribution", "attribute"),
    "baselines": ("baseline_clips",),
    "bias_figures": ("bias_figures", "write_bias"),
    "bias_history": ("bias_history",),
    "bias_maps": ("bias_maps", "units"),
    "bias_statistics": ("bias_statistics",),
    "cost": ("cost", "relation_macs", "relation_params"),
    "curves": ("gather_curves", "last_epochs", "write_curves"),
    "draw": (
        "draw_accuracy",
        "draw_bias_history",
        "draw_cost_accuracy",
        "draw_differences",
        "draw_interventions",
        "draw_joint_bias",
        "draw_learning_curves",
        "draw_peers",
        "draw_spatial_bias",
        "draw_speed_accuracy",
        "draw_temporal_bias",
        "save_bias_animation",
    ),
    # not in draw: they need captum, which takes two seconds to load
    "draw_attribution": ("draw_attribution", "draw_frame_shares", "draw_scorecard"),
    "draw_layout": ("draw_layout",),
    "effects": ("effects",),
    "explain": ("explain_video",),
    "explorer": ("BiasExplorer",),
    "faithfulness": (
        "curve_areas",
        "perturbation_curves",
        "randomisation_check",
        "reinitialised",
    ),
    "intervene": ("intervene",),
    "interventions": ("Intervention", "knock_outs"),
    "localisation": ("localisation",),
    "memory": ("activation_memory",),
    "page": ("write_page",),
    "pareto": ("pareto",),
    "peers": ("compare_peers",),
    "resize_bias": ("accuracy_at", "resize_bias"),
    "scorecard": ("attribution_scorecard", "attribution_scores", "summarise_scores"),
    "speed": ("measure_speed",),
    "statistics": ("compare", "detectable_effect", "seeds_needed", "t_interval"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Attribution",
    "BiasExplorer",
    "Intervention",
    "accuracy_at",
    "activation_memory",
    "attribute",
    "attribution_scorecard",
    "attribution_scores",
    "baseline_clips",
    "bias_figures",
    "bias_history",
    "bias_maps",
    "bias_statistics",
    "compare",
    "compare_peers",
    "cost",
    "curve_areas",
    "detectable_effect",
    "draw_accuracy",
    "draw_attribution",
    "draw_bias_history",
    "draw_cost_accuracy",
    "draw_differences",
    "draw_frame_shares",
    "draw_interventions",
    "draw_joint_bias",
    "draw_layout",
    "draw_learning_curves",
    "draw_peers",
    "draw_scorecard",
    "draw_spatial_bias",
    "draw_speed_accuracy",
    "draw_temporal_bias",
    "effects",
    "explain_video",
    "gather_curves",
    "intervene",
    "knock_outs",
    "last_epochs",
    "localisation",
    "measure_speed",
    "pareto",
    "perturbation_curves",
    "randomisation_check",
    "reinitialised",
    "relation_macs",
    "relation_params",
    "resize_bias",
    "save_attribution_animation",
    "save_bias_animation",
    "seeds_needed",
    "summarise_scores",
    "t_interval",
    "units",
    "write_bias",
    "write_curves",
    "write_page",
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
        shared = isinstance(value, ModuleType) and name in _HOME_OF and hasattr(value, name)
        super().__setattr__(name, getattr(value, name) if shared else value)


sys.modules[__name__].__class__ = _Package
