"""Attribution: which pixels of which frames a model's score for a class rests on.

captum computes what it can; token Grad-CAM is ours, since captum's reads the channels of
(B, T, H, W, C) from axis 1, which is time here, and says nothing.

Shapes: B clips, T frames, H x W pixels, K classes; in a stage, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analysis.attribution.baselines import baseline_clips, warn_of_no_way
from analysis.attribution.method_options import checked_options
from analysis.attribution.methods import METHODS, REFUSED, Chunk, Method, target_scores
from analysis.borrow import borrowed, unwrapped
from analysis.figures.style import plain
from posmlp.config_checks import one_of

LARGE_GAP = 0.05
"""The completeness gap, as a share of the change in score, from which a map is flagged."""
ROUNDING = 1e-5
"""The share below which a gap is rounding, which differs from processor to processor."""


@dataclass(frozen=True)
class Attribution:
    """One map a clip, and how it was made.

    values: (B, T, H, W) float32 on the CPU, in logits a pixel (`signed`: positive speaks for the
    target) or in a unit of its own. target: (B,) int64. score: (B,), the target's logit. options:
    every option of the method, with its value. gap: (B,), sum of the values minus `change`, where
    change (B,) is the score less the baseline's score; both None for methods that do not promise
    that the two are equal.
    """

    values: Tensor
    method: str
    target: Tensor
    score: Tensor
    signed: bool
    options: dict[str, Any]
    gap: Tensor | None = None
    change: Tensor | None = None

    @property
    def baseline(self) -> str | None:
        """The name of the baseline, 'given' for a tensor, None for a method without one."""
        baseline = self.options.get("baseline")
        return "given" if isinstance(baseline, Tensor) else baseline

    @property
    def relative_gap(self) -> Tensor | None:
        """|gap| as a share of |change|, (B,)."""
        return None if self.gap is None or self.change is None else (self.gap / self.change).abs()

    def frame_shares(self) -> Tensor:
        """Each frame's share of its clip's |values|, (B, T); NaN where all values are 0."""
        mass = self.values.abs().double().sum(dim=(2, 3))
        return mass / mass.sum(dim=1, keepdim=True)

    @property
    def made_by(self) -> str:
        """Method and options, in one line."""
        shown = {**self.options, **({"baseline": self.baseline} if self.baseline else {})}
        parts = [self.method, *(f"{k} {_in_words(v)}" for k, v in shown.items())]
        return ", ".join(parts).replace("_", " ")

    def caption(self, clip: int) -> str:
        """Method, options and completeness gap of one clip, in one line."""
        if self.gap is None or self.change is None:
            return self.made_by
        share = (self.gap / self.change)[clip].item()
        gap = f"{plain(100 * share, 2)}%" if abs(share) >= ROUNDING else "below 0.001%"
        said = f"completeness gap {gap} of {self.change[clip]:.2f} logits"
        flag = " (too large: the map does not add up; raise num_steps)" * (abs(share) > LARGE_GAP)
        return f"{self.made_by}, {said}{flag}"


def attribute(
    model: nn.Module,
    clips: Tensor,
    target: int | Sequence[int] | Tensor,
    method: str = "integrated_gradients",
    *,
    internal_batch_size: int = 16,
    **options: Any,
) -> Attribution:
    """How much each pixel of each frame contributes to the logit of `target`.

    Methods and their options:

    - `integrated_gradients`: baseline="mean_frame", num_steps=32 (Gauss-Legendre). The gradient
      averaged on the way from the baseline, times the way; sums to the change in score.
      Source: Sundararajan et al., 2017.
    - `occlusion`: baseline="mean_frame", tube=(t, h, w), stride=(t, h, w). The drop in score when
      a tube of space-time is replaced, averaged over the tubes that hold a pixel; by default tubes
      of a quarter of each axis, half a tube apart. Source: Zeiler and Fergus, 2014.
    - `frame_ablation`: baseline="mean_frame". The drop when a whole frame is replaced, at each of
      its pixels.
    - `grad_cam`: layer. Rectified sum of a stage's channels, each weighted by its mean gradient
      over the tokens (T, H, W), resized trilinearly. `layer`: a stage's number from 1, or a module
      that gives (B, T, H, W, C); by default the last stage of 4 x 4 tokens or more.
      Source: Selvaraju et al., 2017.
    - `saliency`: largest |gradient| over colours. Source: Simonyan et al., 2014.
    - `gradient_x_input`: gradient times pixel, summed over colours.
    - `smooth_grad`: num_samples=16, noise=0.15, seed=0. Saliency of the mean gradient under
      Gaussian noise of `noise` x the clip's range. Source: Smilkov et al., 2017.
    - `random`: seed=0. Uniform noise that looks at nothing: the control of any score.

    Parameters
    ----------
    model : Module
        (B, 3, T, H, W) -> (B, K). It runs in eval mode and is handed back as it was.
    clips : Tensor
        (B, 3, T, H, W) float, normalised as for the model (`posmlp.train.normalise`).
    target : int or (B,)
        The class of all clips, or of each.
    internal_batch_size : int
        Most clips that pass through the model at once; it bounds memory.

    Returns
    -------
    Attribution
        A clip's map does not depend on the clips beside it (that of `random` is drawn from its
        number among them).

    Warns
    -----
    UserWarning
        For clips that equal their baseline, such as still ones and their mean frame: their maps are
        0 everywhere.

    Raises
    ------
    ValueError
        For clips, targets or options that do not fit, an unknown method, and methods that quietly
        compute something else on these models (DeepLift, guided backpropagation, ...).
    """
    run, signed, complete = checked_method(method)
    model = unwrapped(model)
    if not isinstance(internal_batch_size, int) or internal_batch_size < 1:
        raise ValueError(
            f"internal_batch_size={internal_batch_size!r} must be a whole number of at least 1"
        )
    _check_clips(clips)
    options = checked_options(method, options, model, clips)
    if "baseline" in options:
        warn_of_no_way(options["baseline"], clips)
    like = next((p for p in model.parameters() if p.is_floating_point()), clips)
    parts = []
    with borrowed(model), torch.inference_mode(False), torch.enable_grad():
        classes = _checked_target(target, len(clips))
        for rows in torch.arange(len(clips)).split(internal_batch_size):
            chosen = {k: v[rows] if isinstance(v, Tensor) else v for k, v in options.items()}
            chunk = Chunk(
                model,
                clips[rows.to(clips.device)].detach().clone().to(like),
                classes[rows].to(like.device),
                rows,
                internal_batch_size,
            )
            score = target_scores(chunk)
            values = run(chunk, **chosen).detach().float()
            start = score
            if complete:
                clean = baseline_clips(chosen["baseline"], chunk.clips)
                start = target_scores(chunk._replace(clips=clean))
            parts.append([part.float().cpu() for part in (values, score, score - start)])
    values, score, change = (torch.cat(part) for part in zip(*parts, strict=True))
    if not complete:
        return Attribution(values, method, classes, score, signed, options)
    gap = (values.double().sum(dim=(1, 2, 3)) - change).float()
    return Attribution(values, method, classes, score, signed, options, gap, change)


def checked_method(method: str) -> Method:
    """The method of that name. Raises ValueError for another, and for one that is refused."""
    plain = str(method).lower().replace("_", "").replace("-", "")
    if plain in REFUSED:
        raise ValueError(f"method {method!r} is refused: {REFUSED[plain]}")
    one_of(method, METHODS, "method")
    return METHODS[method]


def _check_clips(clips: Tensor) -> None:
    if not isinstance(clips, Tensor) or clips.dim() != 5 or not clips.is_floating_point():
        kind = f"{clips.dtype} of shape {tuple(clips.shape)}" if hasattr(clips, "dtype") else "that"
        raise ValueError(
            f"clips must be a float tensor (B, 3, T, H, W), not {kind}; uint8 clips (B, T, H, W, 3)"
            " go through posmlp.train.normalise first"
        )
    if not clips.numel():
        raise ValueError(f"clips is empty, of shape {tuple(clips.shape)}; give at least one clip")
    finite = clips.isfinite().flatten(1).all(1)
    if not finite.all():
        which = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"clips {which} hold NaN or infinite pixels; leave them out")


def _checked_target(target: int | Sequence[int] | Tensor, num_clips: int) -> Tensor:
    try:
        classes = torch.as_tensor(target).cpu()
    except (TypeError, ValueError, RuntimeError):  # no numbers
        classes = torch.tensor(torch.nan)
    if classes.is_floating_point() or classes.shape not in ((), (num_clips,)):
        raise ValueError(
            f"target {target!r} must be one class number, or one for each of the {num_clips} clips"
        )
    return classes.to(torch.int64).expand(num_clips).clone()


def _in_words(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
