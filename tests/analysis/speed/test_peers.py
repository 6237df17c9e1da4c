"""Models of other makers: counted as torch counts them, and placed beside ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from torch.utils.flop_counter import FlopCounterMode

from analysis import compare_peers, cost, draw_peers
from analysis.speed.peers import CLIP_SHAPE, PEERS, peer, published, write_peers
from posmlp import create_model

CLIP = (3, 8, 64, 64)


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def video() -> Any:
    return pytest.importorskip(
        "torchvision", reason="torchvision is missing: pip install posmlp-workbench[peers]"
    ).models.video


def test_costs_of_peers_equal_torchs_counter(video: Any) -> None:
    for name in PEERS:
        # MViT's positions and S3D's last pooling are made for one size
        smaller = {"spatial_size": CLIP[2:], "temporal_size": CLIP[1]}
        model = video.mvit_v2_s(**smaller) if name == "MViTv2-S" else peer(name)
        shape = CLIP_SHAPE if name == "S3D" else CLIP
        found = cost(model, clip_shape=shape, memory=False)
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.to("meta")(torch.zeros(1, *shape))
        assert 2 * found["macs"] == counter.get_total_flops(), name
        assert found["params"] == sum(p.numel() for p in model.parameters())
        assert found["by_module"]["macs"].sum() == found["macs"]
        assert "num_tokens" not in found


def test_published_scores_are_those_of_torchvisions_weights(video: Any) -> None:
    found = published()
    assert list(found) == list(PEERS)
    assert (
        found["S3D"] == video.S3D_Weights.KINETICS400_V1.meta["_metrics"]["Kinetics-400"]["acc@1"]
    )
    assert all(50 < score < 90 for score in found.values())


@pytest.fixture(scope="module")
def table(video: Any) -> pd.DataFrame:
    models = {"toy": create_model("toy-16", num_frames=8), "R(2+1)D-18": peer("R(2+1)D-18")}
    return compare_peers(
        models, clip_shape=CLIP, batch_size=2, num_threads=1,
        warm_up=0, min_runs=2, min_seconds=0.0,
    )  # fmt: skip


def test_comparison_has_every_cost_of_every_model(table: pd.DataFrame) -> None:
    rows = table.set_index("model")
    assert list(rows.index) == ["toy", "R(2+1)D-18"]
    assert rows["family"].tolist() == ["this project", "convolution"]
    numbers = ["params", "gmacs", "saved_mb", "peak_mb", "latency_ms", "clips_per_s"]
    assert (rows[numbers] > 0).all(axis=None)
    assert (rows["latency_q1_ms"] <= rows["latency_ms"]).all()
    assert (rows["batch_size"] == 2).all()
    assert rows.loc["R(2+1)D-18", "params"] == 31_505_325
    assert np.isnan(rows.loc["toy", "published_top1"])
    assert rows.loc["R(2+1)D-18", "published_top1"] == published()["R(2+1)D-18"]


def test_figure_keeps_published_scores_hollow_and_apart(table: pd.DataFrame) -> None:
    axes = draw_peers(table, paper_top1=82.1)
    assert len(axes) == 5
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == ["toy", "R(2+1)D-18", "PosMLP-Video (from the paper)"]  # by multiply-adds
    dots = [[line for line in ax.get_lines() if line.get_marker() == "o"] for ax in axes]
    assert [len(each) for each in dots] == [2, 2, 2, 2, 3]
    assert {dot.get_markerfacecolor() for dot in dots[-1]} == {"white"}
    assert not any(dot.get_markerfacecolor() == "white" for each in dots[:-1] for dot in each)
    assert dots[-1][-1].get_xydata().tolist() == [[82.1, 2]]
    with pytest.raises(ValueError, match=r"modes \['eager', 'compiled'\]; give the rows of one"):
        draw_peers(pd.concat([table, table.assign(mode="compiled")]))


@pytest.mark.parametrize("missing", ["model", "gmacs", "latency_q1_ms", "torch"])
def test_figure_names_a_missing_column(missing: str) -> None:
    row = dict.fromkeys(["model", "family", "mode", "device", "torch"], "a")
    numbers = ["params", "gmacs", "latency_ms", "latency_q1_ms", "latency_q3_ms", "clips_per_s"]
    row |= dict.fromkeys([*numbers, "batch_size", "num_threads", "published_top1"], 1)
    rows = pd.DataFrame([row])
    draw_peers(rows)
    with pytest.raises(ValueError, match=f"no column '{missing}'; give rows of analysis.compare"):
        draw_peers(rows.drop(columns=missing))
    with pytest.raises(ValueError, match="the rows are empty"):
        draw_peers(rows[:0])


def test_table_and_figure_are_written(table: pd.DataFrame, tmp_path: Path) -> None:
    folder = write_peers(pd.concat([table, table.assign(mode="bfloat16")]), tmp_path / "peers")
    assert sorted(path.name for path in folder.iterdir()) == ["peers.csv", "peers.png"]
    assert len(pd.read_csv(folder / "peers.csv")) == 4
    with pytest.raises(ValueError, match=r"unknown peer 'S4D'.*Use one of: MViTv2-S, "):
        peer("S4D")


def test_no_models_are_refused_before_anything_is_measured() -> None:
    for models in ({}, [create_model("toy")]):
        with pytest.raises(ValueError, match="must be a dictionary of one or more models by name"):
            compare_peers(models)


def test_own_models_are_compared_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    options = {"clip_shape": (3, 4), "warm_up": 0, "min_runs": 1, "min_seconds": 0.0}
    found = compare_peers({"ours": torch.nn.Linear(4, 2)}, **options)
    assert found["published_top1"].isna().all()
    with pytest.raises(ValueError, match="torchvision is not installed"):
        compare_peers({"S3D": torch.nn.Linear(4, 2)}, **options)
