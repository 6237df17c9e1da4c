"""Figures: what is drawn where, read back from the artists."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.image import AxesImage

from analysis import (
    bias_maps,
    draw_accuracy,
    draw_cost_accuracy,
    draw_cost_pairs,
    draw_differences,
    draw_joint_bias,
    draw_learning_curves,
    draw_spatial_bias,
    draw_temporal_bias,
    t_interval,
    units,
)
from analysis.bias.draw_bias import growth
from analysis.bias.figures import bias_figures, content_note, content_spreads
from analysis.results.draw_comparison import tally
from posmlp import create_model

pytestmark = pytest.mark.usefixtures("plain_figures")

RUNS = pd.DataFrame(
    {
        "variant": ["S"] * 3 + ["T+S"] * 3 + ["dead"] * 2,
        "seed": [0, 1, 2, 0, 1, 2, 0, 1],
        "accuracy": [0.3, 0.4, 0.35, 0.7, 0.75, np.nan, np.nan, np.nan],
        "gmacs": [1.0] * 3 + [4.0] * 3 + [2.0] * 2,
    }
)


def unit_maps(num_groups: int, *, frames: int = 1, side: int = 1) -> pd.DataFrame:
    """Rows of one unit; the bias says where it stands: 1000 group + 100 dt + 10 dy + dx."""
    axes = [np.arange(1 - n, n) for n in (frames, side, side)]
    grid = np.meshgrid(np.arange(num_groups), *axes, indexing="ij")
    rows = dict(zip(("group", "dt", "dy", "dx"), (g.ravel() for g in grid), strict=True))
    bias = 1000 * rows["group"] + 100 * rows["dt"] + 10 * rows["dy"] + rows["dx"]
    branch = ("T" if side == 1 else "S") if frames == 1 or side == 1 else "ST"
    return pd.DataFrame({"stage": 1, "block": 2, "step": 1, "branch": branch, **rows, "bias": bias})


def value_at(image: AxesImage, x: float, y: float) -> float:
    """What the image shows at a point in data coordinates."""
    array = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    column = int((x - left) / (right - left) * array.shape[1])
    return float(array[int((y - top) / (bottom - top) * array.shape[0]), column])


def test_temporal_bias_draws_a_line_a_group() -> None:
    ax = draw_temporal_bias(unit_maps(3, frames=4), title="A finding")
    lines = {line.get_label(): line for line in ax.get_lines() if len(line.get_xdata()) == 7}
    assert set(lines) == {"0", "1", "2"}
    assert list(lines["2"].get_xdata()) == [-3, -2, -1, 0, 1, 2, 3]
    # earlier keys on the left: dt = query - key runs from 3 to -3
    assert list(lines["2"].get_ydata()) == [2300, 2200, 2100, 2000, 1900, 1800, 1700]
    assert len({line.get_color() for line in lines.values()}) == 3
    assert ax.get_title(loc="left") == "A finding"
    assert ax.get_xlabel() == "key before (-) or after (+) the token (frames)"
    turned = draw_temporal_bias(unit_maps(3, frames=4), view="by offset")
    assert turned.get_lines()[2].get_ydata().tolist()[0] == -300
    assert turned.get_xlabel().startswith("dt = query - key")
    with pytest.raises(
        ValueError, match="view='past' must be one of 'from the token', 'by offset'"
    ):
        draw_temporal_bias(unit_maps(3, frames=4), view="past")


def test_temporal_bias_above_eight_groups_is_a_heatmap_sorted_by_peak() -> None:
    maps = unit_maps(10, frames=3)
    peaks = dict(enumerate([2, -2, 1, 0, -1, 2, 1, 0, -1, -2]))
    maps["bias"] = np.where(maps["dt"] == -maps["group"].map(peaks), -5.0, 0.1)
    ax = draw_temporal_bias(maps)
    image = ax.images[0]
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == ["1", "9", "4", "8", "3", "7", "2", "6", "0", "5"]
    assert value_at(image, -2, 0) == -5.0
    assert value_at(image, 2, 9) == -5.0
    assert value_at(image, 2, 0) == 0.1
    assert image.norm.vmin == -image.norm.vmax == -5.0


def test_temporal_heatmap_takes_an_order_of_its_groups() -> None:
    maps, order = unit_maps(10, frames=3), [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    ax = draw_temporal_bias(maps, order=order)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(map(str, order))
    assert value_at(ax.images[0], 0, 0) == maps.query("group == 3 and dt == 0")["bias"].item()
    with pytest.raises(ValueError, match="must hold each group"):
        draw_temporal_bias(maps, order=[0, 1])


def test_growth_compares_root_mean_squares() -> None:
    after, before = (pd.DataFrame({"bias": values}) for values in ([3.0, -4.0], [1.0, 1.0]))
    assert growth(after, before) == "rms 3.5, 3.5 times the initial"
    assert growth(after, 0 * before, "start") == "rms 3.5, start 0"


def test_growth_of_a_relation_that_is_not_tied_is_that_of_the_relation() -> None:
    model = create_model("toy", depths=(1,), dims=(8,), windows=4, num_frames=4, image_size=16,
                         gate="dense", num_groups=2, temporal_windows=4, downsample=())  # fmt: skip
    relation = next(units(model)).unit.relation().detach().double()
    maps = bias_maps(model).query("branch == 'T'")
    found = growth(maps, maps.assign(bias=1.0, bias_std=0.0))
    rms = float(relation.square().mean().sqrt())
    assert found == f"rms {rms:.2g}, {rms:.2g} times the initial"
    hidden = np.sqrt((maps["bias_std"] ** 2).mean())
    assert hidden > 0.2 * rms  # a mean over pairs hides the rest
    title = draw_temporal_bias(maps).get_title(loc="left").replace("\n", " ")
    assert "not tied by offset: means over pairs, which hide a standard deviation of 0" in title


def test_note_on_attention_tells_how_far_content_moves_its_scores() -> None:
    small = {"depths": (1,), "dims": (8,), "windows": 4, "num_frames": 4, "image_size": 16}
    small |= {"temporal_windows": 4, "downsample": (), "layout": "T"}
    model, clips = create_model("toy", gate="attention", **small), torch.randn(2, 3, 4, 16, 16)
    linear = next(units(model)).unit.query_key
    [spread] = content_spreads(model, [next(units(model)).unit], clips)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.mul_(2)  # queries and keys: scores are products of both
    assert content_spreads(model, [next(units(model)).unit], clips) == pytest.approx([4 * spread])
    assert not linear._forward_hooks
    assert model.training
    title = f"standard deviation of {4 * spread:.2g} to {4 * spread:.2g}"
    assert content_note(model, clips).endswith(title)
    assert content_note(create_model("toy", **small)) == ""
    maps = bias_maps(model)
    [unit] = bias_figures(maps, maps, note=content_note(model))
    assert [ax.get_ylabel() for ax in unit.figure.axes] == ["position score"] * 2


def test_spatial_bias_maps_stand_at_their_offsets_in_one_scale() -> None:
    maps = unit_maps(3, side=3)
    [left, *_] = draw_spatial_bias(maps)  # what lies to the left and above has positive offsets
    assert value_at(left.images[0], -2, -1) == 12
    axes = draw_spatial_bias(maps, view="by offset")
    assert len(axes) == 3
    limits = {ax.images[0].norm.vmax for ax in axes} | {-ax.images[0].norm.vmin for ax in axes}
    assert limits == {np.percentile(maps["bias"].abs(), 99)}
    for group, ax in enumerate(axes):
        image = ax.images[0]
        assert image.get_interpolation() == "nearest"
        assert value_at(image, 2, -1) == 1000 * group - 10 + 2
        assert value_at(image, -2, 1) == 1000 * group + 10 - 2
        assert ax.yaxis_inverted()  # y runs down, as in the image
        assert ax.get_title(loc="left") == f"group {group}"


def test_spatial_bias_draws_chosen_groups_on_given_axes() -> None:
    figure, given = plt.subplots(1, 3)
    drawn = draw_spatial_bias(unit_maps(4, side=2), groups=[3, 1], axes=given)
    assert list(drawn) == list(given[:2])
    assert value_at(drawn[0].images[0], 0, 0) == 3000
    assert not given[2].images
    assert figure.get_axes()[-1].get_ylabel() == "mixing weight"
    with pytest.raises(ValueError, match="3 axes cannot hold 4 groups"):
        draw_spatial_bias(unit_maps(4, side=2), axes=given)
    with pytest.raises(ValueError, match=r"groups=\[7\] must be some of \[0, 1"):
        draw_spatial_bias(unit_maps(4, side=2), groups=[7])


def test_spatial_bias_of_zeros_has_a_scale() -> None:
    axes = draw_spatial_bias(unit_maps(1, side=2).assign(bias=0.0))
    assert axes[0].images[0].norm.vmax == 1.0


def test_joint_bias_has_a_slice_a_dt_in_one_scale_and_its_margin() -> None:
    maps = unit_maps(3, frames=3, side=2)
    maps["bias"] += 7 * (maps["group"] == 0)
    seen = draw_joint_bias(maps.query("abs(dt) < 2"), groups=[2])
    titles = [ax.get_title(loc="center") for ax in seen[0]]
    assert titles == ["1 before", "same", "1 after", "x-t"]
    assert value_at(seen[0, 0].images[0], -1, 1) == 2000 + 100 - 10 + 1
    axes = draw_joint_bias(maps, view="by offset")
    assert axes.shape == (3, 6)
    assert axes[2, -1].images[0].get_array()[0, 2] == 2000 - 200 + 0 + 1  # dt -2, dx 1
    axes = axes[:, :-1]
    assert [ax.get_title(loc="center") for ax in axes[0]] == [f"dt {n}" for n in (-2, -1, 0, 1, 2)]
    for group, line in enumerate(axes):
        for dt, ax in zip(range(-2, 3), line, strict=True):
            value = 1000 * group + 100 * dt + 10 * 1 - 1 + 7 * (group == 0)
            assert value_at(ax.images[0], -1, 1) == value
            assert (ax.spines["left"].get_linewidth() > 1) == (dt == 0)
    assert {ax.images[0].norm.vmax for ax in axes.flat} == {np.percentile(maps["bias"].abs(), 99)}
    margin = axes[0, 0].figure.axes[18]
    curves = {line.get_label(): line for line in margin.get_lines()}
    slice_of = maps.query("group == 1 and dt == -2")["bias"].abs()
    assert curves["group 1"].get_ydata()[0] == pytest.approx(slice_of.mean())


def test_joint_bias_puts_the_control_under_each_group_and_says_what_it_leaves_out() -> None:
    maps = unit_maps(6, frames=9, side=2)
    axes = draw_joint_bias(maps, control=maps.assign(bias=-1.0), control_name="shuffled")
    assert axes.shape == (8, 10)  # the four largest groups, every second dt of 17, and x-t
    labels = [line[0].get_ylabel() for line in axes]
    assert labels[:3] == ["group 2\ntrained", "group 2\nshuffled", "group 3\ntrained"]
    assert value_at(axes[1, 0].images[0], 0, 0) == -1.0
    figure = axes[0, 0].figure
    assert figure.get_suptitle().replace("\n", " ").endswith("4 of 6 groups; 9 of 17 slices")
    assert [ax.get_title(loc="center") for ax in axes[0]][4] == "same"
    dashed = [line for line in figure.axes[80].get_lines() if line.get_linestyle() == "--"]
    assert [line.get_label() for line in dashed[4:]] == ["shuffled"]  # for the legend alone
    assert len(dashed[0].get_xdata()) == 17
    with pytest.raises(ValueError, match="has no joint map; use draw_temporal_bias"):
        draw_joint_bias(unit_maps(2, frames=3))
    with pytest.raises(ValueError, match=r"groups=\[9\] must be some of \[0, 1, 2, 3, 4, 5\]"):
        draw_joint_bias(maps, groups=[9])


@pytest.mark.parametrize(
    ("draw", "frames", "side"),
    [(draw_temporal_bias, 3, 1), (draw_spatial_bias, 1, 2), (draw_joint_bias, 3, 2)],
)
def test_bias_figures_refuse_weights_that_are_not_finite(
    draw: Callable[..., object], frames: int, side: int
) -> None:
    maps = unit_maps(10, frames=frames, side=side)
    message = rf"of the {len(maps)} weights of stage 1, block 2, .* are not finite, the first"
    for bias in (np.nan, np.inf, "x"):
        with pytest.raises(ValueError, match=message):
            draw(maps.assign(bias=maps["bias"].astype(object).where(maps["group"] > 0, bias)))


def test_joint_bias_refuses_a_control_that_is_not_of_the_same_places() -> None:
    maps = unit_maps(3, frames=3, side=2)
    first = r"places are in only one of maps and control, the first {'group': 0, 'dt': -2,"
    for control in (maps.query("group > 0"), maps.query("dt > -2")):
        with pytest.raises(ValueError, match=first):
            draw_joint_bias(maps, control=control)
    with pytest.raises(ValueError, match=r"weights of the control, stage 1.* are not finite"):
        draw_joint_bias(maps, control=maps.assign(bias=np.nan))
    with pytest.raises(ValueError, match="control_name='trained' is what the other rows"):
        draw_joint_bias(maps, control=maps, control_name="trained")


def test_bias_figures_refuse_rows_of_more_than_one_picture() -> None:
    joint = unit_maps(2, frames=2, side=2)
    with pytest.raises(ValueError, match=r"fix dy and dx.*dy == 0 and dx == 0"):
        draw_temporal_bias(joint)
    with pytest.raises(ValueError, match=r"fix dt, for example maps.query\('dt == 0'\)"):
        draw_spatial_bias(joint)
    two = pd.concat([unit_maps(2, side=2), unit_maps(2, side=2).assign(block=3)])
    with pytest.raises(ValueError, match="rows of 2 units"):
        draw_spatial_bias(two)
    with pytest.raises(ValueError, match="are empty"):
        draw_spatial_bias(two.query("stage == 5"))
    assert len(draw_spatial_bias(joint.query("dt == 1"))) == 2


def test_accuracy_shows_means_intervals_seeds_and_missing_runs() -> None:
    ax = draw_accuracy(RUNS, metric="accuracy", chance=0.1)
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "S",
        "T+S (2/3 runs)",
        "dead (0/2 runs)",
    ]
    lines = [line.get_xydata() for line in ax.get_lines()]
    mean, low, high = t_interval([0.3, 0.4, 0.35])
    assert any(line.tolist() == [[mean, 0]] for line in lines)
    assert any(np.array_equal(line, [[low, 0], [high, 0]]) for line in lines)
    assert any(sorted(line[:, 0]) == [0.3, 0.35, 0.4] for line in lines)
    assert any((line[:, 0] == 0.1).all() for line in lines)
    assert ax.yaxis_inverted()  # the first variant is at the top
    assert "2 to 3 seeds" in ax.get_xlabel()


def test_cost_accuracy_places_variants_on_a_log_axis() -> None:
    ax = draw_cost_accuracy(RUNS, y="accuracy")
    assert ax.get_xscale() == "log"
    points = [line.get_xydata().tolist() for line in ax.get_lines() if line.get_marker() == "o"]
    assert points == [[[1.0, pytest.approx(0.35)]], [[4.0, pytest.approx(0.725)]]]
    assert {text.get_text() for text in ax.texts} == {"S", "T+S"}
    assert "no finished run: dead" in ax.get_xlabel()


def test_cost_accuracy_labels_of_one_place_do_not_overlap() -> None:
    rows = [{"variant": f"variant {i}", "accuracy": 0.5, "gmacs": 1.0} for i in range(4)]
    rows += [{"variant": "far", "accuracy": 0.9, "gmacs": 2.0}]
    ax = draw_cost_accuracy(pd.DataFrame(rows), y="accuracy")
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_cost_accuracy_labels_stay_within_the_axes() -> None:
    costs, scores = (1.0, 1.05, 1.1, 3.0), (97.0, 98.0, 98.0, 10.0)
    names = [f"a rather long name {i}" for i in range(4)]
    df = pd.DataFrame({"variant": names, "gmacs": costs, "accuracy": scores})
    ax = draw_cost_accuracy(df, y="accuracy", bounds=(0.0, 100.0))
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1 for box in boxes)


def test_cost_accuracy_draws_quartiles_of_a_cost_that_varies() -> None:
    df = pd.DataFrame({"variant": "a", "accuracy": [0.5, 0.5, 0.5], "latency_ms": [1.0, 2.0, 9.0]})
    ax = draw_cost_accuracy(df, x="latency_ms")
    spans = [line.get_xdata().tolist() for line in ax.get_lines()]
    assert [1.5, 5.5] in spans
    assert [2.0] in spans
    assert "ms" in ax.get_xlabel()


PAIRS = pd.DataFrame(
    [
        {"gate": gate, "setting": setting, "gmacs": cost, "accuracy": score}
        for gate, setting, cost, score in (
            ("lrpe", "small", 1.0, 40.0),
            ("dense", "small", 2.0, 50.0),
            ("lrpe", "large", 2.0, 70.0),
            ("dense", "large", 64.0, 60.0),
        )
    ]
)


def test_cost_pairs_join_the_gates_of_a_setting() -> None:
    ax = draw_cost_pairs(PAIRS, x="gmacs")
    lines = [line.get_xydata().tolist() for line in ax.get_lines() if line.get_color() == "0.7"]
    assert lines == [[[1, 40], [2, 50]], [[2, 70], [64, 60]]]
    assert {text.get_text(): text.xy[0] for text in ax.texts} == {"small": 2, "large": 64}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["lrpe", "dense"]


def test_result_figures_leave_out_trials_and_repetitions() -> None:
    others = [RUNS.assign(accuracy=0.0, role="trial"), RUNS.assign(accuracy=0.0, repeat=1)]
    table = pd.concat([RUNS.assign(role="final", repeat=0), *others])
    axes = [draw_accuracy(each, metric="accuracy") for each in (RUNS, table)]
    axes += [draw_cost_accuracy(each, y="accuracy") for each in (RUNS, table)]
    drawn = [[line.get_xydata().tolist() for line in ax.lines] for ax in axes]
    np.testing.assert_equal(drawn[::2], drawn[1::2])


def test_result_figures_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(ValueError, match="no column 'top1'"):
        draw_accuracy(RUNS, metric="top1")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_accuracy(RUNS[RUNS["variant"] == "dead"], metric="accuracy")
    with pytest.raises(ValueError, match="log axis needs positive"):
        draw_cost_accuracy(RUNS.assign(gmacs=0.0), y="accuracy")
    with pytest.raises(ValueError, match="no column 'flops'"):
        draw_cost_accuracy(RUNS, x="flops", y="accuracy")


def test_drawing_uses_the_given_axes_and_leaves_settings_alone() -> None:
    before = dict(mpl.rcParams)
    _, given = plt.subplots(1, 3)
    assert draw_temporal_bias(unit_maps(2, frames=2), ax=given[0]) is given[0]
    assert draw_accuracy(RUNS, metric="accuracy", ax=given[1]) is given[1]
    assert draw_cost_accuracy(RUNS, y="accuracy", ax=given[2]) is given[2]
    assert plt.get_fignums() == [1]
    assert dict(mpl.rcParams) == before


def test_draw_learning_curves_draws_mean_and_band_of_those_highlighted():
    rows = [
        {"variant": name, "seed": seed, "epoch": epoch, "top1": level + 0.1 * seed + 0.01 * epoch}
        for name, level in (("a", 0.2), ("b", 0.5), ("c", 0.3))
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    ]
    ax = draw_learning_curves(pd.DataFrame(rows), metric="top1")
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["b"].get_ydata(), [0.56, 0.57, 0.58])
    assert len({line.get_color() for line in ax.lines}) == 3
    bounds = ax.collections[1].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([bounds.min(), bounds.max()], [0.51, 0.63])
    assert "2 seeds" in ax.get_xlabel()
    few = draw_learning_curves(pd.DataFrame(rows), metric="top1", highlight=["c", "a"])
    shown = {line.get_label(): line.get_color() for line in few.lines}
    assert shown["c"] == lines["a"].get_color(), "colours go by the order of highlight"
    assert shown["a"] == lines["b"].get_color()
    assert len(few.lines) == 3
    assert len(few.collections) == 2
    with pytest.raises(ValueError, match="no column 'epoch'"):
        draw_learning_curves(pd.DataFrame(rows).drop(columns="epoch"), metric="top1")
    clips = pd.DataFrame(rows).rename(columns={"epoch": "num_clips"}).replace({3: 4000})
    ax = draw_learning_curves(clips, metric="top1", x="num_clips")
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.56, 0.57, 0.58])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "4,000"]


def test_draw_learning_curves_draws_val_by_epoch_and_test_as_a_mark():
    """Test clips are scored at the end; in runs of before val clips, every epoch."""
    new = [
        {"variant": "new", "seed": seed, "epoch": epoch, "val_top1": 0.1 * epoch + 0.02 * seed}
        | ({"test_top1": 0.5 + 0.02 * seed} if epoch == 3 else {})
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    ]
    old = [
        {"variant": "old", "seed": 0, "epoch": epoch, "test_top1": 0.2 * epoch}
        for epoch in (1, 2, 3)
    ]
    ax = draw_learning_curves(pd.DataFrame(new), metric="test_top1")
    curve, mark = ax.lines
    np.testing.assert_allclose(curve.get_ydata(), [0.11, 0.21, 0.31])
    assert (mark.get_xdata().tolist(), mark.get_ydata().tolist()) == ([3], [pytest.approx(0.51)])
    assert ax.get_ylabel() == "val_top1 (mark: test_top1)"
    ax = draw_learning_curves(pd.DataFrame(old), metric="test_top1")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.2, 0.4, 0.6])
    assert (len(ax.lines), ax.get_ylabel()) == (1, "test_top1, scored every epoch")
    ax = draw_learning_curves(pd.DataFrame(new + old), metric="test_top1")
    assert [len(line.get_xdata()) for line in ax.lines] == [3, 1, 3]
    assert ax.get_ylabel() == "val_top1 (mark: test_top1; runs of before: test_top1)"
    pair = pd.DataFrame(new).drop(columns="val_top1")
    ax = draw_learning_curves(pair, metric="test_top1")
    assert [line.get_marker() for line in ax.lines] == ["D"]


def test_draw_cost_accuracy_draws_the_front_and_names_those_highlighted():
    costs = {"cheap": 1.0, "good": 2.0, "beaten": 3.0, "best": 4.0}
    scores = {"cheap": 0.2, "good": 0.6, "beaten": 0.5, "best": 0.7}
    rows = [{"variant": name, "gmacs": costs[name], "accuracy": scores[name]} for name in costs]
    ax = draw_cost_accuracy(pd.DataFrame(rows), front=True, highlight=["best", "good"])
    front = next(line for line in ax.lines if line.get_drawstyle() == "steps-post")
    assert list(front.get_xdata()) == [1.0, 2.0, 4.0, 4.0]
    assert list(front.get_ydata()) == [0.2, 0.6, 0.7, 0.7]
    assert {text.get_text() for text in ax.texts} == {"good", "best"}


def test_draw_differences_colours_verdicts_and_shades_the_margin():
    names = ["up", "down", "same", "open", "alone"]
    table = pd.DataFrame(
        {
            "variant": names,
            "difference": [5.0, -4.0, 0.1, 1.0, np.nan],
            "low": [4.0, -5.0, -0.5, -3.0, np.nan],
            "high": [6.0, -3.0, 0.7, 5.0, np.nan],
            "verdict": [
                "better, but by less than 9",
                "worse",
                "equal within 2 points",
                "cannot tell: needs about 9 seeds",
                "cannot tell: no seed in common with the baseline",
            ],
        }
    )
    ax = draw_differences(table, margin=2, unit=" points")
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    shown = {line.get_label(): line for line in ax.lines if line.get_marker() == "D"}
    assert list(shown) == ["better", "worse", "equal", "cannot tell"]
    assert len({line.get_color() for line in shown.values()}) == 4
    assert list(shown["worse"].get_xdata()) == [-4.0]
    assert list(shown["worse"].get_ydata()) == [1]
    (band,) = ax.patches
    assert (band.get_x(), band.get_width()) == (-2, 4)
    words = ["higher", "below the sum", "equal within 2 points", "above the sum", "cannot tell: 9"]
    rows = table.assign(verdict=words).rename(columns={"difference": "effect"})
    effects = draw_differences(rows)  # of analysis.effects, whose column has another name
    assert effects.get_xlabel().startswith("effect (")
    shown = [line.get_label() for line in effects.lines if line.get_marker() == "D"]
    assert shown == ["higher / above", "below", "equal", "cannot tell"]
    with pytest.raises(ValueError, match="are empty; give rows of"):
        draw_differences(table.head(0))
    with pytest.raises(ValueError, match="margin=-2 must be above 0"):
        draw_differences(table, margin=-2)
    with pytest.raises(ValueError, match="no column 'effect'"):
        draw_differences(table, label="effect")


@pytest.mark.parametrize("verdict", ["fine", "betterment", "", None])
def test_draw_differences_refuses_a_verdict_in_other_words(verdict: str | None) -> None:
    table = pd.DataFrame({"variant": ["a"], "difference": 1.0, "low": 0.0, "high": 2.0})
    message = f"verdict {verdict!r} must begin with one of better, higher, above, worse"
    with pytest.raises(ValueError, match=message):
        draw_differences(table.assign(verdict=[verdict]))


def test_tally_counts_verdicts_by_kind() -> None:
    verdicts = ["worse", "cannot tell: needs about 9 seeds", "better, by a little", "worse"]
    assert tally(pd.Series(verdicts)) == "1 better, 2 worse, 1 cannot tell"
    assert tally(pd.Series(["equal within 2 points"])) == "1 equal"


def test_columns_without_numbers_are_refused() -> None:
    words = RUNS.assign(gmacs="many", note="fine", epoch=1)
    message = r"column 'note' holds no numbers; those that do are \['seed', 'accuracy'"
    for draw in (draw_accuracy, draw_learning_curves):
        with pytest.raises(ValueError, match=message):
            draw(words, metric="note")
    with pytest.raises(ValueError, match="column 'gmacs' holds no numbers"):
        draw_cost_accuracy(words)
    with pytest.raises(ValueError, match="no row has a value of 'accuracy'"):
        draw_learning_curves(words[:0], metric="accuracy")
