"""The attribution methods behind `analysis.attribute`, each from a chunk of clips to maps.

Shapes: k clips of a chunk, T frames, H x W pixels, K classes. A map is (k, T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.attribution.baselines import Baseline, baseline_clips

_BACKPROPAGATION = (
    "captum's version changes only ReLU layers, and these models have GELU; it silently returns "
    "the plain gradient; use 'saliency'"
)
REFUSED = {
    "deeplift": "captum has no rule for GELU or for products of gating units. It silently equals "
    "(input - baseline) x gradient, whose sum is not the change in score; use "
    "'integrated_gradients', or 'gradient_x_input' for what it would return",
    "guidedbackprop": _BACKPROPAGATION,
    "deconvolution": _BACKPROPAGATION,
    "guidedgradcam": _BACKPROPAGATION + " and 'grad_cam'",
    "layergradcam": "captum's version takes axis 1 for channels and averages over the rest. On "
    "tokens (B, T, H, W, C) that mixes channels and keeps time; use 'grad_cam'",
    "lrp": "captum has no rules for these layers (norms over tokens, products in gating units); "
    "use 'integrated_gradients'",
}
REFUSED["deepliftshap"] = REFUSED["deeplift"]


def _captum() -> Any:
    """captum's methods, imported when one is used. Raises ValueError where they are missing."""
    try:
        from captum import attr
    except ImportError as error:
        raise ValueError(f"this method needs captum ({error}); pip install captum") from error
    return attr


class Chunk(NamedTuple):
    """Clips (k, 3, T, H, W) to explain together, their classes and their numbers, both (k,)."""

    model: nn.Module
    clips: Tensor
    target: Tensor
    numbers: Tensor
    internal_batch_size: int

    @property
    def copies(self) -> int:
        """Variants of each clip that may pass through the model at once."""
        return max(1, self.internal_batch_size // len(self.clips))


class Method(NamedTuple):
    """`signed`: positive values speak for the target. `complete`: they sum to its change."""

    run: Callable[..., Tensor]
    signed: bool
    complete: bool = False


@torch.no_grad()
def target_scores(chunk: Chunk) -> Tensor:
    """The logit of each clip's target, (k,). Raises ValueError if there is no such class."""
    return _chosen(chunk.model(chunk.clips), chunk.target)


def _chosen(logits: Tensor, target: Tensor) -> Tensor:
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the model gives a {type(logits).__name__}, not logits (clips, classes); wrap it in "
            "a module whose forward returns the logits alone"
        )
    if logits.dim() != 2 or len(logits) != len(target):
        raise ValueError(f"the model gives {tuple(logits.shape)}, not (clips, classes)")
    num_classes = logits.shape[1]
    if not 0 <= int(target.min()) <= int(target.max()) < num_classes:
        raise ValueError(
            f"target {target.tolist()} is out of range for {num_classes} classes; use 0 to "
            f"{num_classes - 1}"
        )
    return logits.gather(1, target[:, None])[:, 0]


def _integrated_gradients(
    chunk: Chunk, *, baseline: Baseline = "mean_frame", num_steps: int = 32
) -> Tensor:
    values = (
        _captum()
        .IntegratedGradients(chunk.model)
        .attribute(
            chunk.clips,
            baseline_clips(baseline, chunk.clips),
            target=chunk.target,
            n_steps=num_steps,
            method="gausslegendre",
            internal_batch_size=chunk.internal_batch_size,
        )
    )
    return values.sum(dim=1)


def _occlusion(
    chunk: Chunk,
    *,
    baseline: Baseline = "mean_frame",
    tube: tuple[int, ...] = (),
    stride: tuple[int, ...] = (),
) -> Tensor:
    colours = chunk.clips.shape[1]
    values = (
        _captum()
        .Occlusion(chunk.model)
        .attribute(
            chunk.clips,
            sliding_window_shapes=(colours, *tube),
            strides=(colours, *stride),
            baselines=baseline_clips(baseline, chunk.clips),
            target=chunk.target,
            perturbations_per_eval=chunk.copies,
        )
    )
    return values[:, 0]  # tubes span all colours, which therefore share one value


def _frame_ablation(chunk: Chunk, *, baseline: Baseline = "mean_frame") -> Tensor:
    num_frames = chunk.clips.shape[2]
    frames = torch.arange(num_frames, device=chunk.clips.device).view(1, 1, -1, 1, 1)
    values = (
        _captum()
        .FeatureAblation(chunk.model)
        .attribute(
            chunk.clips,
            baselines=baseline_clips(baseline, chunk.clips),
            target=chunk.target,
            feature_mask=frames.expand(1, *chunk.clips.shape[1:]).contiguous(),
            perturbations_per_eval=chunk.copies,
        )
    )
    return values[:, 0]


def _grad_cam(chunk: Chunk, *, layer: int | nn.Module | None = None) -> Tensor:
    stages: Any = getattr(chunk.model, "stages", ())
    module: Any = stages[layer - 1] if isinstance(layer, int) else layer
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        score = _chosen(chunk.model(_leaf(chunk.clips)), chunk.target)
    finally:
        handle.remove()
    if not outputs:
        raise ValueError("layer is no part of the model that runs; name a stage by its number")
    tokens = outputs[-1]
    if not isinstance(tokens, Tensor):
        raise ValueError(
            f"layer gives a {type(tokens).__name__}, not (B, T, H, W, C); name a stage by number"
        )
    if tokens.dim() != 5 or len(tokens) != len(chunk.clips):
        raise ValueError(
            f"layer gives {tuple(tokens.shape)} for {len(chunk.clips)} clips, not (B, T, H, W, C); "
            "name a stage by its number"
        )
    (gradient,) = torch.autograd.grad(score.sum(), tokens)
    weights = gradient.mean(dim=(1, 2, 3), keepdim=True)  # (k, 1, 1, 1, C)
    cam = (weights * tokens).sum(dim=-1).relu()
    size = chunk.clips.shape[2:]
    return F.interpolate(cam[:, None], size, mode="trilinear", align_corners=False)[:, 0]


def _leaf(clips: Tensor) -> Tensor:
    """A copy of which a gradient can be asked."""
    return clips.detach().clone().requires_grad_()


def _saliency(chunk: Chunk) -> Tensor:
    return (
        _captum()
        .Saliency(chunk.model)
        .attribute(_leaf(chunk.clips), target=chunk.target)
        .amax(dim=1)
    )


def _gradient_x_input(chunk: Chunk) -> Tensor:
    values = (
        _captum().InputXGradient(chunk.model).attribute(_leaf(chunk.clips), target=chunk.target)
    )
    return values.sum(dim=1)


def _smooth_grad(
    chunk: Chunk, *, num_samples: int = 16, noise: float = 0.15, seed: int = 0
) -> Tensor:
    """One clip at a time, each from the same seed, so that no clip changes another's map."""
    tunnel = _captum().NoiseTunnel(_captum().Saliency(chunk.model))
    on_gpu = [chunk.clips.device] if chunk.clips.is_cuda else []
    maps = []
    for clip, target in zip(chunk.clips.split(1), chunk.target, strict=True):
        with torch.random.fork_rng(devices=on_gpu):
            torch.manual_seed(seed)
            gradient = tunnel.attribute(
                _leaf(clip),
                target=target,
                nt_samples=num_samples,
                nt_samples_batch_size=min(num_samples, chunk.internal_batch_size),
                stdevs=noise * float(clip.max() - clip.min()),
                abs=False,
            )
        maps.append(gradient.abs().amax(dim=1))
    return torch.cat(maps)


def _random(chunk: Chunk, *, seed: int = 0) -> Tensor:
    shape = chunk.clips.shape[2:]
    maps = [np.random.default_rng([seed, n]).random(shape) for n in chunk.numbers.tolist()]
    return torch.from_numpy(np.stack(maps))


METHODS: dict[str, Method] = {
    "integrated_gradients": Method(_integrated_gradients, signed=True, complete=True),
    "occlusion": Method(_occlusion, signed=True),
    "frame_ablation": Method(_frame_ablation, signed=True),
    "grad_cam": Method(_grad_cam, signed=False),
    "saliency": Method(_saliency, signed=False),
    "gradient_x_input": Method(_gradient_x_input, signed=True),
    "smooth_grad": Method(_smooth_grad, signed=False),
    "random": Method(_random, signed=False),
}
