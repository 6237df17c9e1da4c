"""Histories of mixing weights: what a run left behind, drawn epoch by epoch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image, ImageSequence

from analysis import (
    bias_history,
    bias_maps,
    bias_statistics,
    draw_arrow_history,
    draw_bias_history,
    save_bias_animation,
)
from analysis.bias.draw_bias import growth
from analysis.figures.pictures import RATES, raster, to_apng, to_mp4
from posmlp.checkpoint import load
from posmlp.config import TrainConfig
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import GeneratedClips
from posmlp.train.fitting import fit
from posmlp.train.population import seeded_model
from tests.train.test_population import DIGITS, TINY

pytestmark = pytest.mark.usefixtures("plain_figures")

CONFIG = replace(TINY, dims=(8, 20), num_groups=(2, 10), windows=(4, 2), **DIGITS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clips = GeneratedClips(MovingDigits("train", 28, num_frames=4, image_size=16))
    out = tmp_path_factory.mktemp("runs") / "run"
    train = TrainConfig(epochs=5, batch_size=14, checkpoint_every=2)
    fit(CONFIG, train, (clips, clips), [0, 7], out, progress=False)
    return out


@pytest.fixture(scope="module")
def history(run: Path) -> pd.DataFrame:
    return bias_history(run)


def test_history_runs_from_the_seeded_start_to_the_last_model(
    run: Path, history: pd.DataFrame
) -> None:
    maps = bias_maps(seeded_model(CONFIG, 7))
    assert list(history.columns) == ["epoch", "seed", *maps.columns]
    assert history.groupby("seed")["epoch"].unique().map(list).to_dict() == {
        0: [0, 2, 4, 5],
        7: [0, 2, 4, 5],
    }
    sources = {
        0: maps,
        2: bias_maps(load(run / "checkpoints" / "epoch2-seed7.safetensors")),
        5: bias_maps(load(run / "model-seed7.safetensors")),
    }
    for epoch, expected in sources.items():
        rows = history[(history["seed"] == 7) & (history["epoch"] == epoch)].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows.drop(columns=["epoch", "seed"]), expected)
    assert (bias_history(run, [7])["seed"] == 7).all()


def test_history_of_an_interrupted_run_ends_at_its_last_checkpoint(
    run: Path, tmp_path: Path
) -> None:
    cut = shutil.copytree(run, tmp_path / "cut")
    for path in [*cut.glob("model-*"), cut / "checkpoints" / "epoch4-seed0.safetensors"]:
        path.unlink()
    found = bias_history(cut).groupby("seed")["epoch"].max()
    assert found.to_dict() == {0: 2, 7: 4}
    shutil.rmtree(cut / "checkpoints")
    with pytest.raises(ValueError, match=r"no trained model of seed 0; train with checkpoint_ev"):
        bias_history(cut)


def test_history_reads_a_run_made_before_checkpoints_existed(run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run, tmp_path / "old")
    shutil.rmtree(old / "checkpoints")
    stored = json.loads((old / "config.json").read_text())
    del stored["train"]["checkpoint_every"]
    (old / "config.json").write_text(json.dumps(stored))
    assert bias_history(old, [0])["epoch"].unique().tolist() == [0, 5]


def test_history_refuses_what_is_no_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it has no config\.json; give a folder of `train`"):
        bias_history(tmp_path)
    with pytest.raises(ValueError, match=r"seeds=\[1\] must be some of the run's, \[0, 7\]"):
        bias_history(run, [1])


def unit_rows(history: pd.DataFrame, stage: int, branch: str) -> pd.DataFrame:
    return history.query("seed == 0 and stage == @stage and branch == @branch")


def test_history_of_statistics_shows_when_the_arrow_appears(run: Path) -> None:
    found = bias_history(run, [7], statistics=True)
    last = found[found["epoch"] == 5].drop(columns=["epoch", "seed"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(last, bias_statistics(load(run / "model-seed7.safetensors")))
    ax = draw_arrow_history(found)
    over_time = last[(last["stage"] == 2) & (last["branch"] == "T")]
    odd, even = ((over_time[f"temporal_{name}"] ** 2).sum() for name in ("odd", "even"))
    lines = [line for line in ax.get_lines() if line.get_linestyle() == "-"]
    drawn = {line.get_label(): line.get_ydata()[-1] for line in lines}
    assert drawn["stage 2"] == pytest.approx(100 * odd / (odd + even))


def test_temporal_history_has_a_panel_an_epoch_with_a_line_a_group(history: pd.DataFrame) -> None:
    rows = unit_rows(history, 1, "T")
    axes = draw_bias_history(rows)
    assert axes.shape == (1, 4)
    assert [ax.get_title(loc="left") for ax in axes[0]] == [f"epoch {n}" for n in (0, 2, 4, 5)]
    first, last = (rows[rows["epoch"] == epoch] for epoch in (0, 5))
    title = axes[0, 0].figure.get_suptitle().replace("\n", " ")
    assert title.endswith(f"seed 0: {growth(last, first, 'first shown')}")
    assert len({ax.get_ylim() for ax in axes[0]}) == 1
    for ax, epoch in zip(axes[0], (0, 2, 4, 5), strict=True):
        lines = {line.get_label(): line for line in ax.get_lines() if len(line.get_xdata()) == 7}
        expected = rows[(rows["epoch"] == epoch) & (rows["group"] == 1)].sort_values("dt")["bias"][
            ::-1
        ]
        assert list(lines["1"].get_ydata()) == expected.tolist()
        assert set(lines) == {"0", "1"}


def test_temporal_history_of_many_groups_is_a_heatmap_in_one_order(history: pd.DataFrame) -> None:
    rows = unit_rows(history, 2, "T")
    axes = draw_bias_history(rows, epochs=[0, 5])[0]
    order = [int(label.get_text()) for label in axes[0].get_yticklabels()]
    assert sorted(order) == list(range(10))
    for ax, epoch in zip(axes, (0, 5), strict=True):
        table = rows[rows["epoch"] == epoch].pivot(index="group", columns="dt", values="bias")
        shown = np.asarray(ax.images[0].get_array())
        assert shown.tolist() == table.loc[order].to_numpy()[:, ::-1].tolist()
    assert (np.diff(np.abs(shown).argmax(axis=1)) >= 0).all()  # by the peak at the last epoch
    assert len({ax.images[0].norm.vmax for ax in axes}) == 1


def test_spatial_history_has_a_column_an_epoch_on_one_scale(history: pd.DataFrame) -> None:
    rows = unit_rows(history, 1, "S")
    axes = draw_bias_history(rows, epochs=[0, 4], title="A finding")
    assert axes.shape == (2, 2)
    limit = np.percentile(rows[rows["epoch"].isin([0, 4])]["bias"].abs(), 99)
    assert {ax.images[0].norm.vmax for ax in axes.flat} == {limit}
    expected = rows.query("epoch == 4 and group == 1").pivot(index="dy", columns="dx")["bias"]
    assert (
        np.asarray(axes[1, 1].images[0].get_array()).tolist()
        == expected.to_numpy()[::-1, ::-1].tolist()
    )
    turned = draw_bias_history(rows, epochs=[4], view="by offset")[1, 0]
    assert np.asarray(turned.images[0].get_array()).tolist() == expected.to_numpy().tolist()
    assert axes[0, 0].figure.get_suptitle() == "A finding"


def test_history_figures_choose_few_epochs_and_groups_and_say_so(history: pd.DataFrame) -> None:
    rows = unit_rows(history, 2, "S")
    loud = rows["group"].isin([0, 3])
    rows = rows.assign(bias=rows["bias"].where(loud, 0.01 * rows["bias"]))
    axes = draw_bias_history(rows, epochs=[5])
    assert axes.shape == (8, 1)
    assert {"group 0", "group 3"} <= {ax.get_ylabel() for ax in axes[:, 0]}
    over_time = unit_rows(history, 1, "T").query("epoch == 0")
    long = pd.concat([over_time.assign(epoch=n) for n in range(21)])
    panels = draw_bias_history(long)[0]
    assert [ax.get_title(loc="left") for ax in panels][::7] == ["epoch 0", "epoch 20"]
    assert len(panels) == 8
    assert "8 of its groups" in axes[0, 0].figure.get_suptitle().replace("\n", " ")


def test_history_figures_refuse_rows_of_more_than_one_picture(history: pd.DataFrame) -> None:
    both = history.query("stage == 1 and branch == 'S'")
    with pytest.raises(ValueError, match=r"more than one row|rows of seeds \[0, 7\]"):
        draw_bias_history(both)
    with pytest.raises(ValueError, match="rows of 2 units"):
        draw_bias_history(history.query("seed == 0 and branch == 'S'"))
    with pytest.raises(ValueError, match="no column 'epoch'"):
        draw_bias_history(both.drop(columns="epoch"))
    with pytest.raises(ValueError, match=r"epochs=\[3\] must be some of \[0, 2, 4, 5\]"):
        draw_bias_history(unit_rows(history, 1, "S"), epochs=[3])


@pytest.mark.parametrize(("stage", "branch"), [(2, "T"), (1, "S")])
def test_animation_has_a_picture_an_epoch(
    history: pd.DataFrame, tmp_path: Path, stage: int, branch: str
) -> None:
    path = save_bias_animation(
        unit_rows(history, stage, branch), tmp_path / "bias.png", frames_per_s=4
    )
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.n_frames == 4
        assert image.info["duration"] == 250
        assert image.info["loop"] == 0
    assert [item.name for item in tmp_path.iterdir()] == ["bias.png"]
    assert not plt.get_fignums()


def test_animation_as_a_video_has_a_frame_an_epoch(history: pd.DataFrame, tmp_path: Path) -> None:
    path = save_bias_animation(unit_rows(history, 1, "T"), tmp_path / "bias.mp4", frames_per_s=4)
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert float(video.streams.video[0].average_rate) == 4
    assert len(frames) == 4
    assert (frames[0] != frames[3]).any()


def test_animation_refuses_a_gif_and_a_rate_of_zero(history: pd.DataFrame, tmp_path: Path) -> None:
    rows = unit_rows(history, 1, "T")
    with pytest.raises(ValueError, match=r"must end in one of .png, .apng, .mp4"):
        save_bias_animation(rows, tmp_path / "bias.gif")
    with pytest.raises(ValueError, match="frames_per_s=0 must lie between"):
        save_bias_animation(rows, tmp_path / "bias.png", frames_per_s=0)


@pytest.mark.parametrize("encode", [to_apng, to_mp4])
def test_animations_are_written_at_every_rate_that_is_not_refused(
    encode: Callable[..., bytes],
) -> None:
    pictures = [np.full((16, 16, 3), shade, np.uint8) for shade in (0, 200)]
    for rate in RATES:
        assert encode(pictures, rate)
    for rate in (float("inf"), float("nan"), 1e-9, 1e9, -1.0):
        with pytest.raises(ValueError, match=r"frames_per_s=.* must lie between 0.001 and 1000"):
            encode(pictures, rate)


def test_an_apng_shows_its_pictures_in_order() -> None:
    figure = plt.figure(figsize=(1, 1), facecolor="red")
    pictures = [raster(figure), np.full((100, 100, 3), 9, np.uint8)]
    assert pictures[0].shape == (100, 100, 3)
    assert pictures[0][0, 0].tolist() == [255, 0, 0]
    shown = decoded(to_apng(pictures, 2))
    assert [picture[0, 0].tolist() for picture in shown] == [[255, 0, 0], [9, 9, 9]]
    with pytest.raises(ValueError, match=r"pictures of shapes \[\(50, 100, 3\)"):
        to_apng([pictures[0], pictures[1][:50]], 2)


def test_an_apng_takes_the_smaller_of_palette_and_full_colour() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert palette_of(to_apng([noise, noise[::-1]], 2))  # full colour cannot be packed
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 64, 3)).copy()
    ramp[..., 1] = ramp[::-1, :, 0]
    pictures = [ramp, np.roll(ramp, 64, axis=0)]
    encoded = to_apng(pictures, 2)
    assert not palette_of(encoded)
    np.testing.assert_array_equal(decoded(encoded), pictures)


def decoded(apng: bytes) -> list[np.ndarray]:
    with Image.open(BytesIO(apng)) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def palette_of(apng: bytes) -> bool:
    with Image.open(BytesIO(apng)) as image:
        return image.mode == "P"
