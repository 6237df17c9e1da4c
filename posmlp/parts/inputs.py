"""What a model takes: clips that fit its configuration, or images as clips of one frame."""

from __future__ import annotations

from torch import Tensor, nn

from posmlp.config import PosMLPConfig


def check_clips(clips: Tensor, config: PosMLPConfig) -> None:
    """Raise ValueError unless clips are floating point (B, C, T, H, W) that `config` takes."""
    if clips.dim() != 5 or clips.shape[1] != config.in_channels:
        raise ValueError(
            f"clips of shape {tuple(clips.shape)} are not (B, {config.in_channels}, T, H, W)"
        )
    if not clips.is_floating_point():
        raise ValueError(
            f"clips of {clips.dtype} must be floating point; posmlp.train.normalise makes them"
        )
    config.check_clip(*clips.shape[2:])


class TakesImages(nn.Module):
    """Lets a video model of one frame take images: (B, 3, H, W), or clips (B, 3, 1, H, W)."""

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """The stem's output and each stage's, every one (B, H, W, C)."""
        if images.dim() != 4 and not (images.dim() == 5 and images.shape[2] == 1):
            raise ValueError(f"images of shape {tuple(images.shape)} are not (B, 3, H, W)")
        clips = images[:, :, None] if images.dim() == 4 else images
        return [x.squeeze(1) for x in super().forward_features(clips)]  # type: ignore[misc]
