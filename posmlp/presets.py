"""The presets, where each comes from, and how a config is made from one; needs no torch."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from posmlp.config import PosMLPConfig
from posmlp.config_checks import one_of

_S16 = PosMLPConfig(
    num_classes=174,
    num_frames=16,
    image_size=224,
    depths=(3, 4, 9, 3),
    dims=(72, 144, 288, 576),
    num_groups=(8, 16, 32, 64),
    windows=(14, 14, 14, 7),
    drop_path=0.1,
    init="released",
)
_B_DEPTHS = (4, 6, 15, 4)
_WIDE: dict[str, Any] = {"dims": (112, 224, 392, 784), "num_groups": (8, 16, 28, 56)}
_IMAGE_T = PosMLPConfig(
    num_classes=1000,
    num_frames=1,
    image_size=224,
    depths=(2, 2, 18, 2),
    dims=(96, 192, 384, 768),
    num_groups=(8, 16, 32, 64),
    windows=(14, 14, 14, 7),
    layout="S",
    gate="gqpe",
    mlp_ratio=(4.0, 4.0, 4.0, 2.0),
    drop_path=0.1,
    init="released",
    kind="image",
    stem_convs=3,
    downsample_depthwise=True,
    norm_eps=1e-6,
)
_REPAIRED = (
    "repaired: the released file of this size sets no windows, temporal windows or groups and does "
    "not run; temporal window = frames, groups 8, 16, 28, 56 (the widths allow no 32 and 64)"
)
_WIDTHS_96 = "the released history: S16 at the image model's widths 96 to 768"
_REPAIRED_32 = (
    "repaired: the released 32-frame file builds MorphMLP or does not run; this is the 16-frame "
    "size with 32 frames"
)

_PRESETS: dict[str, tuple[PosMLPConfig, str]] = {
    "toy": (PosMLPConfig(), "ours: 8x32x32 clips, trains in about a minute on two CPU cores"),
    "toy-16": (
        PosMLPConfig(num_frames=16, image_size=64, windows=(8, 8, 4, 2)),
        "ours: the toy at 16x64x64",
    ),
    "s16": (_S16, "released: SSV1_S16, the one released video configuration that runs"),
    "s16-96": (replace(_S16, dims=(96, 192, 384, 768)), _WIDTHS_96),
    "s16-112": (replace(_S16, **_WIDE), _REPAIRED),
    "s32-112": (replace(_S16, **_WIDE, num_frames=32, temporal_windows=None), _REPAIRED_32),
    "b16": (replace(_S16, depths=_B_DEPTHS), "ours: B's depths at the released S16's widths"),
    "b16-96": (
        replace(_S16, depths=_B_DEPTHS, dims=(96, 192, 384, 768)),
        _WIDTHS_96 + ", B's depths",
    ),
    "b16-112": (replace(_S16, **_WIDE, depths=_B_DEPTHS), _REPAIRED),
    "b32-112": (
        replace(_S16, **_WIDE, depths=_B_DEPTHS, num_frames=32, temporal_windows=None),
        _REPAIRED_32,
    ),
    "image-t": (_IMAGE_T, "released: PosMLP-T (ACM MM 2022), GQPE"),
    "image-s": (
        replace(_IMAGE_T, dims=(128, 256, 512, 1024)),
        "released: PosMLP-S (ACM MM 2022), GQPE",
    ),
    "image-b": (
        replace(_IMAGE_T, dims=(192, 384, 768, 1536)),
        "PosMLP-B: widths inferred from the published 82 M parameters",
    ),
}

PRESETS: dict[str, PosMLPConfig] = {name: config for name, (config, _) in _PRESETS.items()}
PRESET_SOURCES: dict[str, str] = {name: source for name, (_, source) in _PRESETS.items()}


_A_STAGE = ("depths", "dims", "num_groups", "windows", "temporal_windows", "mlp_ratio", "layout")


def _for_as_many_stages(config: PosMLPConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    """The config's fields of one value a stage, for as many stages as the overrides name."""
    named = [overrides[name] for name in ("depths", "dims") if name in overrides]
    counts = {len(value) for value in named if isinstance(value, tuple | list)}
    if len(counts) != 1 or counts == {config.num_stages}:
        return {}  # nothing to do, or nothing that fits, of which the config itself will tell
    (count,) = counts
    found = {}
    for name, places in (*((name, count) for name in _A_STAGE), ("downsample", count - 1)):
        value = getattr(config, name)
        if isinstance(value, tuple):
            alike = len(set(value)) == 1
            found[name] = value[:1] * places if alike else value[:places]
    return found


def resolve(config: PosMLPConfig | str, **overrides: Any) -> PosMLPConfig:
    """The config itself or the preset of that name, with fields replaced.

    Where `depths` or `dims` name fewer stages than the config has, its other fields of one value a
    stage keep those of its first stages; where they name more, those that are alike everywhere
    stay so. Raises ValueError for an unknown preset or field.
    """
    if not isinstance(config, PosMLPConfig):
        one_of(config, PRESETS, "preset")
        config = PRESETS[config]
    names = [field.name for field in fields(PosMLPConfig)]
    for key in overrides:
        one_of(key, names, "config key")
    whole_clip = all(t == config.num_frames for t in config.temporal_windows)
    if "num_frames" in overrides and whole_clip:
        overrides.setdefault("temporal_windows", None)
    overrides = _for_as_many_stages(config, overrides) | overrides
    return replace(config, **overrides)
