"""Contact sheet, animation and scorecard figure, read back; and the command line on real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.contour import QuadContourSet
from PIL import Image
from torch import Tensor

from analysis.attribution.animation import save_attribution_animation
from analysis.attribution.attribution import Attribution
from analysis.attribution.draw_attribution import (
    colour_map,
    draw_attribution,
    draw_frame_shares,
    draw_scorecard,
    overlay_image,
)
from analysis.cli import main
from posmlp import create_model
from posmlp.checkpoint import save
from posmlp.config import TrainConfig

T, SIDE = 10, 8
WriteClip = Callable[..., Path]


@pytest.fixture
def maps() -> Attribution:
    values = torch.randn(2, T, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    two = torch.tensor([0.5, -0.25])
    options = {"baseline": "mean_frame", "num_steps": 32}
    return Attribution(
        values, "integrated_gradients", torch.tensor([1, 0]), two, True, options, two / 100, two
    )


@pytest.fixture
def clips() -> Tensor:
    shape = (2, T, SIDE, SIDE, 3)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture
def masks() -> Tensor:
    masks = torch.zeros(2, T, SIDE, SIDE, dtype=torch.bool)
    masks[:, :5, 2:4, 2:6] = True
    return masks


def contours(ax: plt.Axes) -> list[QuadContourSet]:
    return [artist for artist in ax.collections if isinstance(artist, QuadContourSet)]


def test_sheet_shows_eight_frames_their_overlays_and_all_bars(
    maps: Attribution, clips: Tensor, masks: Tensor
) -> None:
    moving = torch.zeros(2, T, dtype=torch.bool)
    moving[1, 3:5] = True
    axes = draw_attribution(maps, clips, clip=1, masks=masks, moving=moving, target_name="up")
    assert len(axes) == 8 + 8 + 1
    shown = [0, 1, 3, 4, 5, 6, 8, 9]
    assert [ax.get_title() for ax in axes[:8]] == [f"t = {t}" for t in shown]
    for t, top, overlay in zip(shown, axes[:8], axes[8:16], strict=True):
        assert np.array_equal(top.images[0].get_array(), clips[1, t].numpy())
        assert np.array_equal(overlay.images[1].get_array(), overlay_image(maps, 1, t))
        assert bool(contours(overlay)) == (t < 5)  # where there is an object
    bars = axes[-1]
    heights = [bar.get_height() for bar in bars.containers[0]]
    mass = maps.values[1].abs().sum((1, 2))
    np.testing.assert_allclose(heights, mass / mass.sum(), rtol=1e-5)
    shaded = [patch.get_x() for patch in bars.patches if patch.get_width() == 1]
    assert shaded == [2.5, 3.5]
    figure = axes[0].figure
    share = float((maps.values[1].abs() * masks[1]).sum() / maps.values[1].abs().sum())
    assert f"'up': {share:.0%} of the relevance lies on the object" in figure.get_suptitle()
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "integrated gradients, baseline mean frame, num steps 32" in caption
    assert "completeness gap 1% of -0.25 logits" in caption
    assert "99th percentile" in figure.axes[-1].get_ylabel()


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (-2.5e-5, "gap -0.0025%"),
        (9e-6, "gap below 0.001%"),
        (-9e-6, "gap below 0.001%"),
        (0, "gap below 0.001%"),
    ],
)
def test_caption_leaves_the_digits_of_rounding_out(
    maps: Attribution, share: float, said: str
) -> None:
    assert maps.change is not None
    assert f"{said} of" in replace(maps, gap=share * maps.change).caption(1)


def test_contour_surrounds_the_objects_pixels(
    maps: Attribution, clips: Tensor, masks: Tensor
) -> None:
    overlay = draw_attribution(maps, clips, masks=masks, frames=[0])[1]
    points = np.concatenate([path.vertices for path in contours(overlay)[0].get_paths()])
    assert points.min(0).tolist() == pytest.approx([1.5, 1.5])  # x, y: columns 2-5, rows 2-3
    assert points.max(0).tolist() == pytest.approx([5.5, 3.5])
    assert overlay.yaxis_inverted()


def test_overlay_has_one_scale_over_the_clip(maps: Attribution) -> None:
    limit = np.percentile(np.abs(maps.values[0].numpy()), 99)
    image = overlay_image(maps, 0, 4)
    values = maps.values[0, 4].numpy()
    np.testing.assert_allclose(image[..., 3], 0.85 * np.minimum(np.abs(values) / limit, 1))
    strongest = np.unravel_index(values.argmax(), values.shape)
    weakest = np.unravel_index(values.argmin(), values.shape)
    assert image[(*strongest, 0)] > image[(*strongest, 2)]  # red speaks for
    assert image[(*weakest, 0)] < image[(*weakest, 2)]  # blue speaks against
    unsigned = Attribution(
        maps.values.abs(), "saliency", maps.target, maps.score, signed=False, options={}
    )
    sheet = overlay_image(unsigned, 0, 4)
    scale = colormaps[colour_map(unsigned)](np.minimum(np.abs(values) / limit, 1))
    np.testing.assert_allclose(sheet[..., :3], scale[..., :3])  # as the colour bar, from 0


def test_sheet_without_truth_names_the_target(maps: Attribution, clips: Tensor) -> None:
    axes = draw_attribution(maps, clips, frames=[2, 7])
    assert len(axes) == 5
    assert axes[0].figure.get_suptitle() == "What speaks for 'class 1', logit 0.50"
    _, given = plt.subplots()
    assert draw_frame_shares(maps, ax=given) is given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips": torch.zeros(2, 3, T, SIDE, SIDE)}, "before they were normalised"),
        ({"clip": 2}, "clip=2 is not one of 2"),
        ({"frames": [T]}, r"frames=\[10\] must be some of 0 to 9"),
    ],
)
def test_sheet_refuses(
    maps: Attribution, clips: Tensor, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_attribution(**{"attribution": maps, "clips": clips} | change)


def test_frame_shares_refuse_a_clip_that_is_not_there_and_other_frames(maps: Attribution) -> None:
    for clip in (9, -1):
        with pytest.raises(ValueError, match=f"clip={clip} is not one of 2; count from 0"):
            draw_frame_shares(maps, clip=clip)
    with pytest.raises(ValueError, match=r"moving of shape \(3,\) must be \(10,\)"):
        draw_frame_shares(maps, moving=np.ones(3, bool))


def test_animation_has_a_picture_a_frame(
    tmp_path: Path, maps: Attribution, clips: Tensor, masks: Tensor
) -> None:
    three = Attribution(
        maps.values[:, :3], maps.method, maps.target, maps.score, True, maps.options
    )
    clips, masks = clips[:, :3], masks[:, :3]
    path = save_attribution_animation(three, clips, tmp_path / "a.png", masks=masks)
    with Image.open(path) as picture:
        assert picture.n_frames == 3
        assert picture.info["duration"] == 250
        frames = []
        for i in range(3):
            picture.seek(i)
            frames.append(np.asarray(picture.convert("RGB")))
    assert all(not np.array_equal(a, b) for a, b in pairwise(frames))
    video = save_attribution_animation(three, clips, tmp_path / "a.mp4", frames_per_s=2)
    with av.open(str(video)) as container:
        assert len(list(container.decode(video=0))) == 3
        assert container.streams.video[0].average_rate == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "a.png"]
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match=r"must end in one of \.png, \.apng, \.mp4"):
        save_attribution_animation(three, clips, tmp_path / "a.gif")


def test_scorecard_figure_places_means_and_intervals() -> None:
    rows = [
        ("toy", method, metric, "higher", 5, mean, mean - 0.1, mean + 0.1, 0.05)
        for metric in ("mass_on_object", "pointing_game")
        for method, mean in (("saliency", 0.3), ("random", 0.1))
    ]
    columns = ["model", "method", "metric", "better", "n", "mean", "low", "high", "uniform"]
    card = pd.DataFrame(rows, columns=columns)
    axes = draw_scorecard(card)
    assert [ax.get_title(loc="left").split("\n")[0] for ax in axes] == [
        "mass on object",
        "pointing game",
    ]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["saliency", "random"]
    lines = [line.get_xydata().tolist() for line in axes[0].get_lines()]
    assert [[0.3, 0.0]] in lines
    assert [[0.05, 1.0]] in lines
    assert any(np.allclose(line, [[0.2, 0], [0.4, 0]]) for line in lines if len(line) == 2)
    with pytest.raises(ValueError, match="are empty; give rows of"):
        draw_scorecard(card[:0])
    with pytest.raises(ValueError, match="have no column 'low'; give rows of"):
        draw_scorecard(card.drop(columns="low"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two classes that was not trained."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = create_model("toy", num_classes=2)
    config = {"classes": ["up", "down"], "seeds": [3], "train": TrainConfig().to_dict()}
    config |= {"model": model.config.to_dict(), "data": {}}
    (folder / "config.json").write_text(json.dumps(config))
    save(model, folder / "model-seed3.safetensors")
    return folder


def test_command_explains_any_video(
    run_folder: Path, tmp_path: Path, write_clip: WriteClip, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_clip(tmp_path / "v.mp4", list(range(0, 240, 20)))
    words = ["--target", "down", "--method", "occlusion", "--out", str(tmp_path / "out"), "--set"]
    words += ["tube=[4, 16, 16]", "stride=[4,16,16]", "baseline=zero"]
    assert main(["attribute", str(run_folder), str(video), *words]) == 0
    said = capsys.readouterr().out
    assert "down: occlusion, baseline zero, tube 4 x 16 x 16, stride 4 x 16 x 16" in said
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["v-occlusion.csv", "v-occlusion.mp4", "v-occlusion.png"]
    table = pd.read_csv(tmp_path / "out" / "v-occlusion.csv")
    assert len(table) == 8
    assert table["share"].sum() == pytest.approx(1)
    assert table["video_frame"].is_monotonic_increasing
    with Image.open(tmp_path / "out" / "v-occlusion.png") as sheet:
        assert sheet.width > 900


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "deep_lift"], "method 'deep_lift' is refused"),
        (["--target", "dwn"], "Did you mean 'down'"),
        (["--target", "2"], "target 2 is out of range; use 0 to 1"),
        (["--set", "num_steps=many"], "num_steps='many' must be a whole number"),
        (["--set", "zero"], "'zero' is not key=value"),
        (["--set", "target=1"], "target is no option of a method; give --target in place"),
        (["--set", "model=3"], "has no option 'model'; it takes baseline, num_steps"),
        (["--set", "clips=3", "--method", "saliency"], "'clips'; it takes no options"),
        (["--set", "internal_batch_size=x"], "internal_batch_size='x' must be a whole number"),
        (["--seed", "4"], r"seed=4 is not one of the run's seeds [3]"),
    ],
)
def test_command_ends_with_one_line_and_exit_code_2(
    run_folder: Path,
    tmp_path: Path,
    write_clip: WriteClip,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    video = write_clip(tmp_path / "v.mp4", [0] * 8)
    given = ["attribute", str(run_folder), str(video), "--out", str(tmp_path / "out"), *words]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("analysis attribute: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a command."""

    def write(_maps: object, _clips: object, path: str, **_options: object) -> None:
        Path(path).write_bytes(b"moving")

    monkeypatch.setattr("analysis.attribution.explain.save_attribution_animation", write)
    monkeypatch.setattr("analysis.attribution.explain.png", lambda _sheet: b"still")


@pytest.mark.usefixtures("_no_pictures")
def test_command_keeps_apart_what_equal_names_would_overwrite(
    run_folder: Path, tmp_path: Path, write_clip: WriteClip
) -> None:
    first, second = (
        write_clip(tmp_path / "a/v.mp4", [0] * 8),
        write_clip(tmp_path / "v.mov", [9] * 8),
    )
    out = tmp_path / "out"
    given = ["--method", "frame_ablation", "--out", str(out), "--set", "baseline=zero"]

    def explain(video: Path, *words: str) -> set[str]:
        before = {path: path.read_bytes() for path in out.glob("*")}
        assert main(["attribute", str(run_folder), str(video), *given, *words]) == 0
        assert all(path.read_bytes() == content for path, content in before.items())
        return {path.name for path in out.glob("*")} - {path.name for path in before}

    stem = "v-frame_ablation"
    assert explain(first) == {f"{stem}.csv", f"{stem}.mp4", f"{stem}.png"}
    assert explain(second) == {f"{stem}-2.csv", f"{stem}-2.mp4", f"{stem}-2.png"}
    assert explain(first, "baseline=blur") == {f"{stem}-3.csv", f"{stem}-3.mp4", f"{stem}-3.png"}
    assert explain(second) == set()
    (out / f"{stem}.csv").write_bytes(b"")
    assert explain(first) == {f"{stem}-4.csv", f"{stem}-4.mp4", f"{stem}-4.png"}


@pytest.mark.usefixtures("_no_pictures")
def test_command_warns_where_a_still_video_equals_its_baseline(
    run_folder: Path, tmp_path: Path, write_clip: WriteClip, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_clip(tmp_path / "v.mp4", [200] * 8)
    given = ["attribute", str(run_folder), str(video), "--out", str(tmp_path / "out")]
    assert main([*given, "--set", "num_steps=1"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("analysis attribute: warning: 1 of 1 clips")
    assert "equal the baseline 'mean_frame'" in error
    assert "so that every value is 0." in error
    assert "; use another baseline (zero)\n" in error
    assert main([*given, "--set", "num_steps=1", "baseline=zero"]) == 0
    assert "warning" not in capsys.readouterr().err
