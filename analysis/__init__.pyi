from .attribution.animation import save_attribution_animation as save_attribution_animation
from .attribution.attribution import Attribution as Attribution, attribute as attribute
from .attribution.baselines import baseline_clips as baseline_clips
from .attribution.draw_attribution import (
    draw_attribution as draw_attribution,
    draw_frame_shares as draw_frame_shares,
    draw_scorecard as draw_scorecard,
)
from .attribution.explain import explain_video as explain_video
from .attribution.faithfulness import (
    curve_areas as curve_areas,
    perturbation_curves as perturbation_curves,
    randomisation_check as randomisation_check,
    reinitialised as reinitialised,
)
from .attribution.localisation import localisation as localisation
from .attribution.scorecard import (
    attribution_scorecard as attribution_scorecard,
    attribution_scores as attribution_scores,
    summarise_scores as summarise_scores,
)
from .bias.draw_bias import draw_spatial_bias as draw_spatial_bias
from .bias.draw_bias import draw_temporal_bias as draw_temporal_bias
from .bias.draw_history import draw_arrow_history as draw_arrow_history
from .bias.draw_history import draw_bias_history as draw_bias_history
from .bias.draw_history import save_bias_animation as save_bias_animation
from .bias.draw_joint_bias import draw_joint_bias as draw_joint_bias
from .bias.figures import bias_figures as bias_figures, write_bias as write_bias
from .bias.history import bias_history as bias_history
from .bias.maps import bias_maps as bias_maps, units as units
from .bias.recurrence import draw_maps_over_seeds as draw_maps_over_seeds
from .bias.recurrence import recurrence as recurrence
from .bias.resize import accuracy_at as accuracy_at, resize_bias as resize_bias
from .bias.statistics import bias_statistics as bias_statistics
from .cost.costs import (
    cost as cost,
    relation_macs as relation_macs,
    relation_params as relation_params,
)
from .cost.memory import activation_memory as activation_memory
from .explorer.explorer import BiasExplorer as BiasExplorer
from .figures.draw_layout import draw_layout as draw_layout
from .inside.activations import activations as activations
from .inside.arrow import arrow_curve as arrow_curve, arrow_of_time as arrow_of_time
from .inside.draw_patching import draw_arrow as draw_arrow
from .inside.draw_patching import draw_patching as draw_patching
from .inside.draw_patching import save_gate_film as save_gate_film
from .inside.patching import patch as patch
from .inside.paths import contributions as contributions, patch_paths as patch_paths
from .inside.readout import draw_probe as draw_probe
from .inside.readout import probe as probe
from .inside.tuning import draw_tuning as draw_tuning
from .inside.tuning import tuning as tuning
from .interventions.draw_effects import draw_exemplars as draw_exemplars
from .interventions.draw_effects import draw_interventions as draw_interventions
from .interventions.intervene import exemplars as exemplars, intervene as intervene
from .interventions.interventions import Intervention as Intervention, knock_outs as knock_outs
from .page.page import write_page as write_page
from .results.curves import (
    gather_curves as gather_curves,
    last_epochs as last_epochs,
    write_curves as write_curves,
)
from .results.draw_comparison import draw_differences as draw_differences
from .results.draw_learning import draw_learning_curves as draw_learning_curves
from .results.draw_results import draw_accuracy as draw_accuracy
from .results.draw_results import draw_cost_accuracy as draw_cost_accuracy
from .results.draw_results import draw_cost_pairs as draw_cost_pairs
from .results.draw_speed import draw_speed_accuracy as draw_speed_accuracy
from .results.effects import effects as effects
from .results.runs import pareto as pareto
from .results.statistics import (
    compare as compare,
    detectable_effect as detectable_effect,
    seeds_needed as seeds_needed,
    t_interval as t_interval,
)
from .speed.draw_peers import draw_peers as draw_peers
from .speed.peers import compare_peers as compare_peers
from .speed.speed import measure_speed as measure_speed
