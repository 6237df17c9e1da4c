"""Attributions scored against a planted mover, and checks of whether they can be believed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from analysis.attribution.attribution import Attribution, attribute
from analysis.attribution.faithfulness import (
    curve_areas,
    perturbation_curves,
    randomisation_check,
    reinitialised,
)
from analysis.attribution.localisation import localisation
from analysis.attribution.scorecard import (
    METRICS,
    attribution_scorecard,
    attribution_scores,
    summarise_scores,
)
from analysis.results.statistics import t_interval
from posmlp import create_model
from posmlp.data.augment import normalise
from posmlp.data.digits.moving_digits import MovingDigits, RenderedClips

T, SIDE = 6, 12


class SeesBright(nn.Module):
    """Logit 0 sums what is brighter than grey; logit 1 is its negative."""

    def forward(self, clips: Tensor) -> Tensor:
        bright = clips.clamp(min=0).sum(dim=(1, 2, 3, 4)) / 100
        return torch.stack([bright, -bright], dim=1)


class SeesMotion(nn.Module):
    """Logit 0 is the energy of differences between neighbouring frames; logit 1 its negative."""

    def forward(self, clips: Tensor) -> Tensor:
        motion = clips.diff(dim=2).square().sum(dim=(1, 2, 3, 4)) / 100
        return torch.stack([motion, -motion], dim=1)


def planted() -> RenderedClips:
    """Two clips of a white square on black that moves right in frames 2 to 4 of 0 to 5."""
    clips = torch.zeros(2, T, SIDE, SIDE, 3, dtype=torch.uint8)
    masks = torch.zeros(2, T, SIDE, SIDE, dtype=torch.bool)
    for clip, top in enumerate((2, 6)):
        for t, left in enumerate((1, 1, 1, 4, 7, 7)):
            masks[clip, t, top : top + 3, left : left + 3] = True
    clips[masks] = 255
    moving = torch.tensor([[False, False, True, True, True, False]] * 2)
    return RenderedClips(clips, torch.zeros(2, dtype=torch.int64), masks, moving)


def inputs(clips: RenderedClips) -> Tensor:
    return normalise(clips.clips)


@pytest.fixture(scope="module")
def digits() -> RenderedClips:
    return MovingDigits("test", 4, difficulty="easy").render(torch.arange(4))


def test_a_planted_mover_is_found() -> None:
    clips = planted()
    for method in ("gradient_x_input", "saliency", "integrated_gradients"):
        options = {"baseline": "zero"} if method == "integrated_gradients" else {}
        maps = attribute(SeesBright(), inputs(clips), 0, method, **options)
        found = localisation(maps, clips.masks, clips.moving)
        np.testing.assert_allclose(found["mass_on_object"], 1, atol=1e-6)
        np.testing.assert_allclose(found["pointing_game"], 1)
        np.testing.assert_allclose(found["mass_in_moving_frames"], 0.5, atol=1e-6)
        np.testing.assert_allclose(found["uniform_mass_on_object"], 9 / SIDE**2)
        np.testing.assert_allclose(found["uniform_mass_in_moving_frames"], 0.5)


def test_a_motion_detector_looks_at_moving_frames() -> None:
    clips = planted()
    for method in ("saliency", "gradient_x_input", "integrated_gradients"):
        maps = attribute(SeesMotion(), inputs(clips), 0, method)
        found = localisation(maps, clips.masks, clips.moving)
        np.testing.assert_allclose(found["mass_in_moving_frames"], 1, atol=1e-6)
        assert (found["mass_on_object"] < 0.9).all()  # where the object was speaks too


def test_localisation_by_hand() -> None:
    values = torch.zeros(2, 2, 2, 2)
    masks = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    values[0, 0] = torch.tensor([[-6.0, 1.0], [1.0, 0.0]])  # its largest |value| is negative
    values[0, 1] = torch.tensor([[2.0, 2.0], [0.0, 0.0]])  # two largest, one on the object
    masks[0, :, 0, 0] = True
    values[1, 0, 1, 1] = 5.0
    masks[1, 0, 0, :] = True  # seen in the first frame only
    moving = torch.tensor([[True, False], [False, False]])
    found = localisation(values, masks, moving)
    assert found["clip"].tolist() == [0, 1]
    assert found["mass_on_object"].tolist() == pytest.approx([8 / 12, 0])
    assert found["pointing_game"].tolist() == [0.75, 0.0]
    assert found["mass_in_moving_frames"].tolist()[0] == pytest.approx(8 / 12)
    assert np.isnan(found["mass_in_moving_frames"][1])  # nothing moves
    assert found["uniform_mass_on_object"].tolist() == [0.25, 0.25]
    assert found["uniform_pointing_game"].tolist() == [0.25, 0.5]


def test_localisation_of_nothing_is_not_a_number() -> None:
    masks = np.ones((1, 2, 2, 2), bool)
    empty = localisation(np.zeros((1, 2, 2, 2)), masks)
    assert empty[["mass_on_object", "pointing_game"]].isna().all(axis=None)
    assert "mass_in_moving_frames" not in empty
    unseen = localisation(np.ones((1, 2, 2, 2)), ~masks)
    assert unseen[["mass_on_object", "pointing_game"]].isna().all(axis=None)


@given(st.integers(0, 2**31), st.floats(0.01, 100), st.sampled_from([-1, 1]))
@settings(max_examples=25)
def test_localisation_ignores_scale_and_sign_and_splits_the_mass(
    seed: int, scale: float, sign: int
) -> None:
    rng = np.random.default_rng(seed)
    values, masks = rng.normal(size=(2, 3, 4, 5)), rng.random((2, 3, 4, 5)) < 0.5
    found = localisation(values, masks)
    pd.testing.assert_frame_equal(found, localisation(sign * scale * values, masks))
    rest = localisation(values, ~masks)
    np.testing.assert_allclose(found["mass_on_object"] + rest["mass_on_object"], 1)
    np.testing.assert_allclose(found["pointing_game"] + rest["pointing_game"], 1)


@pytest.mark.parametrize(
    ("values", "masks", "message"),
    [
        (np.ones((1, 3, 2, 2, 2)), np.ones((1, 2, 2, 2), bool), r"is not \(B, T, H, W\)"),
        (np.ones((1, 2, 2, 2)), np.ones((1, 2, 2, 2)), "masks of float64"),
        (np.ones((1, 2, 2, 2)), np.ones((2, 2, 2, 2), bool), r"must be bool and \(1, 2, 2, 2\)"),
        (np.full((1, 2, 2, 2), np.nan), np.ones((1, 2, 2, 2), bool), "NaN or infinity"),
    ],
)
def test_localisation_refuses(values: np.ndarray, masks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        localisation(values, masks)


def as_attribution(values: Tensor) -> Attribution:
    zeros = torch.zeros(len(values))
    return Attribution(values, "given", zeros.long(), zeros, True, {})


def test_perturbation_curves_follow_the_order_of_the_map() -> None:
    clips = torch.zeros(1, 3, 1, 2, 2)
    clips[0, :, 0] = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    weight = torch.tensor([[0.4, 0.3], [0.2, 0.1]])

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = (x.sign() * weight).sum(dim=(1, 2, 3, 4)) / 3
            return torch.stack([score, torch.zeros_like(score)], dim=1)

    curves = perturbation_curves(
        Sum(), clips, as_attribution(weight[None, None]), baseline="zero", num_steps=4
    )
    wide = curves.pivot(index="share", columns="curve", values="probability")
    assert wide.index.tolist() == [0, 0.25, 0.5, 0.75, 1]
    scores = np.array([1.0, 0.6, 0.3, 0.1, 0.0])  # left after taking the largest away
    np.testing.assert_allclose(wide["deletion"], 1 / (1 + np.exp(-scores)), rtol=1e-6)
    np.testing.assert_allclose(wide["insertion"], 1 / (1 + np.exp(scores - 1)), rtol=1e-6)
    areas = curve_areas(curves)
    expected = np.convolve(wide["deletion"], [0.125, 0.125], mode="valid").sum()
    assert areas["deletion_auc"].item() == pytest.approx(expected)
    assert areas.columns.tolist() == ["clip", "deletion_auc", "insertion_auc"]


def test_a_true_map_has_better_areas_than_its_opposite() -> None:
    clips = planted()
    maps = attribute(SeesMotion(), inputs(clips), 0, baseline="mean_frame")
    opposite = as_attribution(-maps.values)
    good, bad = (
        curve_areas(perturbation_curves(SeesMotion(), inputs(clips), m)).iloc[0]
        for m in (maps, opposite)
    )
    assert good["deletion_auc"] < bad["deletion_auc"]
    assert good["insertion_auc"] > bad["insertion_auc"]


def test_equal_values_are_not_taken_in_the_order_of_time() -> None:
    """A constant map must remove pixels of all frames at each step, not the first frames first."""

    class FirstFrame(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = x[:, :, 0].mean(dim=(1, 2, 3))
            return torch.stack([score, -score], dim=1)

    clips = torch.ones(1, 3, 4, 16, 16)
    curves = perturbation_curves(
        FirstFrame(), clips, as_attribution(torch.ones(1, 4, 16, 16)), baseline="zero", num_steps=4
    )
    left = curves.query("curve == 'deletion'")["probability"].to_numpy()
    np.testing.assert_allclose(np.log(left / (1 - left)) / 2, [1, 0.75, 0.5, 0.25, 0], atol=0.08)


def test_perturbation_curves_refuse_other_clips() -> None:
    maps = as_attribution(torch.ones(1, 4, 16, 16))
    with pytest.raises(ValueError, match="give the clips that it was made from"):
        perturbation_curves(SeesMotion(), torch.ones(2, 3, 4, 16, 16), maps)
    with pytest.raises(ValueError, match="num_steps=0"):
        perturbation_curves(SeesMotion(), torch.ones(1, 3, 4, 16, 16), maps, num_steps=0)


def test_randomisation_tells_what_ignores_the_model(digits: RenderedClips) -> None:
    torch.manual_seed(1)  # seed 0 is that of the random weights
    model = create_model("toy")
    clips = inputs(digits)
    noise = attribute(model, clips, digits.labels, "random")
    ignores = randomisation_check(model, clips, noise)
    np.testing.assert_allclose(ignores["rank_correlation"], 1)
    learned = attribute(model, clips, digits.labels, "gradient_x_input")
    depends = randomisation_check(model, clips, learned)
    assert depends["rank_correlation"].abs().max() < 0.3
    assert (depends["rank_correlation_magnitude"] > depends["rank_correlation"]).all()


def test_reinitialised_changes_weights_by_its_seed_and_nothing_else() -> None:
    torch.manual_seed(5)
    model = create_model("toy", num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    first, again, other = (reinitialised(model, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(first[name], again[name]) for name in before)
    assert not torch.equal(first["head.weight"], before["head.weight"])
    assert not torch.equal(first["head.weight"], other["head.weight"])
    foreign = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten())
    drawn = reinitialised(foreign)
    assert not torch.equal(drawn[0].weight, foreign[0].weight)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(2))

    with pytest.raises(ValueError, match=r"no reset_parameters\(\)"):
        reinitialised(Bare())


def test_scorecard_has_a_row_a_model_method_and_metric(digits: RenderedClips) -> None:
    torch.manual_seed(0)
    models = {"a": create_model("toy"), "b": create_model("toy", gate="mean")}
    methods = {
        "ig zero": {"method": "integrated_gradients", "baseline": "zero", "num_steps": 4},
        "random": {"method": "random"},
    }
    scores = attribution_scores(models, methods, digits, num_steps=3)
    assert scores[["model", "method"]].value_counts().tolist() == [4] * 4
    assert scores.loc[scores["model"] == "a", "label"].tolist() == digits.labels.tolist() * 2
    assert scores["probability"].between(0, 1).all()

    card = summarise_scores(scores)
    pd.testing.assert_frame_equal(card, attribution_scorecard(models, methods, digits, num_steps=3))
    row = card.query("model == 'b' and method == 'random' and metric == 'pointing_game'").iloc[0]
    values = scores.query("model == 'b' and method == 'random'")["pointing_game"]
    assert tuple(row[["mean", "low", "high"]]) == pytest.approx(t_interval(values))
    assert row["n"] == 4
    assert row["uniform"] == pytest.approx(scores["uniform_pointing_game"].mean())
    scores.loc[0, "pointing_game"] = np.nan  # a clip that shows no object
    assert summarise_scores(scores).query("metric == 'pointing_game'")["n"].tolist() == [3, 4, 4, 4]
    of_random = card.query("method == 'random' and model == 'a'")["metric"].tolist()
    assert of_random == [m for m in METRICS if m != "completeness_gap"]
    assert set(card.query("method == 'ig zero'")["metric"]) == set(METRICS)


def test_scorecard_refuses(digits: RenderedClips) -> None:
    with pytest.raises(ValueError, match=r"must be a list, for example \['saliency'\]"):
        attribution_scorecard({"a": create_model("toy")}, "saliency", digits)
    with pytest.raises(ValueError, match="names no method"):
        attribution_scorecard({"a": create_model("toy")}, {"ig": {"baseline": "zero"}}, digits)
    with pytest.raises(ValueError, match="at least one model"):
        attribution_scorecard({}, ["saliency"], digits)
