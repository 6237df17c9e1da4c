"""All figures in one place.

Every draw_* takes tidy rows first and the rest by keyword, draws on `ax` or on a new figure, and
returns the Axes. A figure of several panels puts them in the place of `ax`, which it hides.
Nothing is shown, saved or computed beyond means and intervals. A `title` should state the finding;
without one the figure only says what it is.
"""

from __future__ import annotations

from analysis.bias.draw_bias import draw_spatial_bias, draw_temporal_bias
from analysis.bias.draw_history import draw_arrow_history, draw_bias_history, save_bias_animation
from analysis.bias.draw_joint_bias import draw_joint_bias
from analysis.figures.draw_layout import draw_layout
from analysis.inside.draw_patching import draw_arrow, draw_patching
from analysis.inside.readout import draw_probe
from analysis.inside.tuning import draw_tuning
from analysis.interventions.draw_effects import draw_exemplars, draw_interventions
from analysis.results.draw_comparison import draw_differences
from analysis.results.draw_learning import draw_learning_curves
from analysis.results.draw_results import draw_accuracy, draw_cost_accuracy
from analysis.results.draw_speed import draw_speed_accuracy
from analysis.speed.draw_peers import draw_peers

__all__ = [
    "draw_accuracy",
    "draw_arrow",
    "draw_arrow_history",
    "draw_bias_history",
    "draw_cost_accuracy",
    "draw_differences",
    "draw_exemplars",
    "draw_interventions",
    "draw_joint_bias",
    "draw_layout",
    "draw_learning_curves",
    "draw_patching",
    "draw_peers",
    "draw_probe",
    "draw_spatial_bias",
    "draw_speed_accuracy",
    "draw_temporal_bias",
    "draw_tuning",
    "save_bias_animation",
]
