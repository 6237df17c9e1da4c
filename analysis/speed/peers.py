"""Models of other makers beside ours, at one clip size: what each costs and how fast it is.

torchvision's video models, an optional extra: `pip install posmlp-workbench[peers]`. Weights are
random, for nothing here depends on them; nothing is downloaded.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from torch import nn

from analysis.cost.costs import cost
from analysis.figures.pictures import png
from analysis.speed.draw_peers import draw_peers
from analysis.speed.speed import measure_speed, write_table
from posmlp.checkpoint import write_atomically
from posmlp.config_checks import one_of
from posmlp.presets import resolve
from posmlp.train.population import seeded_model

CLIP_SHAPE = (3, 16, 224, 224)
DATA = "Kinetics-400"
QUARTILES = {"median_ms": "latency_ms", "q1_ms": "latency_q1_ms", "q3_ms": "latency_q3_ms"}
CIRCUMSTANCES = ["device", "num_threads", "load", "torch"]
SHOWN = ["model", "mode", "params", "gmacs", "saved_mb", "peak_mb", "latency_ms", "clips_per_s"]
SHOWN += ["unstable", "published_top1"]


class Peer(NamedTuple):
    """A torchvision model: its builder, and the weights whose accuracy torchvision publishes."""

    builder: str
    weights: str
    family: str


PEERS = {
    "MViTv2-S": Peer("mvit_v2_s", "MViT_V2_S_Weights", "transformer"),
    "Video Swin-T": Peer("swin3d_t", "Swin3D_T_Weights", "transformer"),
    "R(2+1)D-18": Peer("r2plus1d_18", "R2Plus1D_18_Weights", "convolution"),
    "S3D": Peer("s3d", "S3D_Weights", "convolution"),
}
"""Source: MViTv2, Li et al., 2022; Video Swin, Liu et al., 2022; R(2+1)D, Tran et al., 2018; S3D,
Xie et al., 2018."""

VARIANTS = {"PosMLP S16": "lrpe", "dense S16": "dense", "attention S16": "attention"}
"""Our own: the released video configuration with its own gate, gMLP's, and attention's."""

PAPER_TOP1 = 82.1
"""Of PosMLP-Video on Kinetics-400 (%) in its paper's abstract, which does not say of which size; so
it belongs to no row of costs."""


def peer(name: str) -> nn.Module:
    """A torchvision model with random weights, in eval mode.

    Raises ValueError for an unknown name, or where torchvision is not installed.
    """
    one_of(name, PEERS, "peer")
    builder: Any = getattr(_torchvision(), PEERS[name].builder)
    return builder(weights=None).eval()


def peer_models() -> dict[str, nn.Module]:
    """Our three variants and every peer, by name."""
    ours = {
        name: seeded_model(resolve("s16", gate=gate), 0).eval() for name, gate in VARIANTS.items()
    }
    return ours | {name: peer(name) for name in PEERS}


def compare_peers(
    models: Mapping[str, nn.Module] | None = None,
    *,
    clip_shape: tuple[int, ...] = CLIP_SHAPE,
    batch_size: int = 4,
    **options: Any,
) -> pd.DataFrame:
    """Cost and speed of models side by side: our variants and torchvision's, unless others.

    Latency is that of one clip, throughput that of `batch_size` clips at once; `options` are those
    of `measure_speed` (device, modes, num_threads, min_runs, ...). Models that are not PEERS count
    to the family "this project".

    Returns
    -------
    DataFrame
        One row a model and mode: model, family, params, gmacs, saved_mb and peak_mb (activations of
        a clip: for training, and alive at once in inference), mode, latency_ms with its quartiles
        latency_q1_ms and latency_q3_ms, clips_per_s, batch_size (of the throughput), unstable (in
        either), published_top1 (% on Kinetics-400, as `published` gives it; NaN for our own),
        device, num_threads, load, torch.

    Raises
    ------
    ValueError
        For no models, and for peers where torchvision is not installed.
    """
    models = peer_models() if models is None else models
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            f"models={reprlib.repr(models)} must be a dictionary of one or more models by name"
        )
    scores = published() if models.keys() & PEERS.keys() else {}
    costs = pd.DataFrame([_cost_row(name, model, clip_shape) for name, model in models.items()])
    sizes = sorted({1, batch_size})
    speeds = measure_speed(models, clip_shape=clip_shape, batch_sizes=sizes, **options)
    table = costs.merge(_one_row_a_mode(speeds, batch_size), on="model")
    table["published_top1"] = table["model"].map(scores)
    return table


def published() -> dict[str, float]:
    """Top-1 (%) on Kinetics-400 of each peer's weights, as torchvision documents it.

    Not measured here, and not at one protocol: frames, clips a video and pre-training differ.
    """
    module = _torchvision()
    found = {}
    for name, each in PEERS.items():
        weights: Any = getattr(module, each.weights).DEFAULT
        found[name] = float(weights.meta["_metrics"][DATA]["acc@1"])
    return found


def write_peers(table: pd.DataFrame, out: str | Path) -> Path:
    """Write rows of `compare_peers` as peers.csv and its first mode as peers.png; the folder."""
    folder = Path(out)
    axes = draw_peers(table[table["mode"] == table["mode"].iloc[0]], paper_top1=PAPER_TOP1)
    write_table(table, folder / "peers.csv")
    write_atomically(folder / "peers.png", png(axes[0].figure))
    return folder


def _torchvision() -> Any:
    try:
        from torchvision.models import video
    except ImportError as error:
        raise ValueError(
            "torchvision is not installed; pip install 'posmlp-workbench[peers]' (the build that "
            "fits your torch)"
        ) from error
    return video


def _cost_row(name: str, model: nn.Module, clip_shape: tuple[int, ...]) -> dict[str, Any]:
    found = cost(model, clip_shape=clip_shape)
    return {
        "model": name,
        "family": PEERS[name].family if name in PEERS else "this project",
        "params": found["params"],
        "gmacs": found["gmacs"],
        "saved_mb": found["saved_bytes"] / 1e6,
        "peak_mb": found["peak_bytes"] / 1e6,
    }


def _one_row_a_mode(speeds: pd.DataFrame, batch_size: int) -> pd.DataFrame:
    """Latency from the rows of one clip, throughput from those of a batch."""
    kept = ["model", "mode", *QUARTILES, "unstable", *CIRCUMSTANCES]
    alone = speeds.loc[speeds["batch_size"] == 1, kept].rename(columns=QUARTILES)
    kept = ["model", "mode", "clips_per_s", "batch_size", "unstable"]
    batch = speeds.loc[speeds["batch_size"] == batch_size, kept]
    both = alone.merge(batch, on=["model", "mode"], suffixes=("", "_batch"))
    both["unstable"] |= both.pop("unstable_batch")
    return both
