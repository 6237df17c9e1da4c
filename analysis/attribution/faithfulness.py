"""Whether an attribution can be believed: it should depend on the model, and predict its answers.

Shapes: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from analysis.attribution.attribution import Attribution, attribute
from analysis.attribution.baselines import Baseline, baseline_clips
from analysis.borrow import borrowed, unwrapped
from posmlp.model import PosMLPVideo, create_model

CURVES = ("deletion", "insertion")


def perturbation_curves(
    model: nn.Module,
    clips: Tensor,
    attribution: Attribution,
    *,
    baseline: Baseline = "mean_frame",
    num_steps: int = 16,
    internal_batch_size: int = 64,
    seed: int = 0,
) -> pd.DataFrame:
    """The target's probability as pixels are taken away or put in, largest values first.

    `deletion` starts from the clip and replaces its pixels (all colours of a place and frame) by
    the baseline's; a faithful map makes it fall early. `insertion` starts from the baseline and
    puts the clip's pixels in; it should rise early. Equal values are taken in an order drawn from
    `seed`. An attribution made with this very baseline plays at home. A blurred clip is no good
    baseline: motion survives it.

    Parameters
    ----------
    clips : Tensor
        (B, 3, T, H, W), those of the attribution.
    num_steps : int
        Points a curve, beside the start.

    Returns
    -------
    DataFrame
        Columns clip, curve, share (of pixels changed, 0 to 1), probability (softmax).

    Raises
    ------
    ValueError
        If clips and attribution do not belong together, or num_steps is below 1.

    Source: Petsiuk et al., RISE, 2018.
    """
    shape = (len(clips), *clips.shape[2:])
    if tuple(attribution.values.shape) != shape:
        raise ValueError(
            f"attribution of {tuple(attribution.values.shape)} for clips of {shape}; give the "
            "clips that it was made from"
        )
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    ranks = _ranks(attribution.values, seed)
    starts = baseline_clips(baseline, clips)
    device = next((p.device for p in model.parameters()), clips.device)
    cases = torch.cartesian_prod(
        torch.arange(len(clips)), torch.arange(len(CURVES)), torch.arange(num_steps + 1)
    )
    probabilities = []
    with borrowed(model), torch.no_grad():
        for part in cases.split(internal_batch_size):
            clip, curve, step = part.T
            changed = ranks[clip] < (step / num_steps).view(-1, 1, 1, 1)
            # deletion shows the clip where nothing changed, insertion where something did
            shown = (changed == curve.view(-1, 1, 1, 1).bool())[:, None].to(clips.device)
            mixed = torch.where(shown, clips[clip], starts[clip]).to(device)
            chosen = model(mixed).float().softmax(-1).cpu()
            probabilities.append(chosen.gather(1, attribution.target[clip, None])[:, 0])
    clip, curve, step = cases.T.numpy()
    return pd.DataFrame(
        {
            "clip": clip,
            "curve": np.array(CURVES)[curve],
            "share": step / num_steps,
            "probability": torch.cat(probabilities).numpy().astype(float),
        }
    )


def curve_areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Area under each clip's curves: a row a clip with clip, deletion_auc, insertion_auc.

    Trapezoids over the share of pixels changed, so that an area is the mean probability, 0 to 1; a
    lower one is better for deletion, a higher one for insertion. `curves`: rows of
    `perturbation_curves`. Source: Petsiuk et al., RISE, 2018.
    """
    rows = [
        (clip, f"{curve}_auc", float(integrate.trapezoid(points["probability"], points["share"])))
        for (clip, curve), points in curves.groupby(["clip", "curve"])
    ]
    table = pd.DataFrame(rows, columns=["clip", "curve", "area"])
    wide = table.pivot(index="clip", columns="curve", values="area")
    return wide.rename_axis(columns=None).reset_index()


def randomisation_check(
    model: nn.Module,
    clips: Tensor,
    attribution: Attribution,
    *,
    seed: int = 0,
    internal_batch_size: int = 16,
) -> pd.DataFrame:
    """Spearman correlation of each map with the same method's on a re-initialised model.

    A map that explains what the model has learned cannot survive other weights: 0 is good, 1 means
    that it shows the clip, not the model. `rank_correlation` is of the values as they are,
    `rank_correlation_magnitude` of |values|: signs alone may hide a common shape. NaN where a map
    is constant. Source: Adebayo et al., Sanity checks for saliency maps, 2018.
    """
    options = attribution.options
    if isinstance(options.get("layer"), nn.Module):
        raise ValueError(
            "grad_cam on a module of the trained model has no counterpart in the re-initialised "
            "one; name the stage by its number"
        )
    other = attribute(
        reinitialised(model, seed),
        clips,
        attribution.target,
        attribution.method,
        internal_batch_size=internal_batch_size,
        **options,
    )
    pairs = list(zip(attribution.values.flatten(1), other.values.flatten(1), strict=True))
    return pd.DataFrame(
        {
            "clip": range(len(pairs)),
            "rank_correlation": [_spearman(a, b) for a, b in pairs],
            "rank_correlation_magnitude": [_spearman(a.abs(), b.abs()) for a, b in pairs],
        }
    )


def reinitialised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the model with the weights of a fresh one, drawn from `seed`.

    Raises ValueError for a model of other makers with parameters that no `reset_parameters` draws.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"{model!r} is no model; give a torch module")
    model = unwrapped(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(model, PosMLPVideo):
            fresh: nn.Module = create_model(model.config)
        else:
            fresh = _with_parameters_reset(copy.deepcopy(model))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return fresh.to(device).eval()


def _with_parameters_reset(model: nn.Module) -> nn.Module:
    for name, module in model.named_modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        elif list(module.parameters(recurse=False)):
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) has parameters but no "
                "reset_parameters(), so it cannot be re-initialised; give it one"
            )
    return model


def _ranks(values: Tensor, seed: int) -> Tensor:
    """Each position's place in its clip, largest first, as a share in [0, 1), (B, T, H, W)."""
    flat = values.flatten(1)
    count = flat.shape[1]
    shuffle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    places = (torch.arange(count, dtype=torch.float64) / count).expand_as(order)
    return torch.zeros_like(places).scatter(1, order, places).view_as(values)


def _spearman(a: Tensor, b: Tensor) -> float:
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(stats.spearmanr(a.numpy(), b.numpy()).statistic)
