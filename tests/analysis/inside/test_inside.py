"""Activations, patching and the arrow of time, on models whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor, nn

from analysis import (
    activations,
    arrow_curve,
    arrow_of_time,
    contributions,
    draw_arrow,
    draw_patching,
    draw_probe,
    draw_tuning,
    patch,
    patch_paths,
    probe,
    save_gate_film,
    tuning,
)
from analysis.inside.activations import hook_points, unit_of
from analysis.inside.tuning import drifting_blobs
from posmlp import GATES, PosMLPConfig, PosMLPVideo, create_model
from posmlp.config_checks import GATE_FORMS
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.sources import GeneratedClips
from posmlp.gates import row_bank
from tests.analysis.bias.test_bias_maps import SMALL, randomised
from tests.analysis.interventions.test_interventions import PairedClips

TWO = replace(SMALL, num_frames=4, temporal_windows=None, layout="T+S", num_classes=3)


def model_of(seed: int = 0, scale: float = 0.5, **changes: Any) -> PosMLPVideo:
    """TWO with changes in float64, of random parameters small enough for answers near 1."""
    model = randomised(create_model(replace(TWO, **changes)), seed).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def clips_of(config: PosMLPConfig, count: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, config.num_frames, *config.size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("gate", GATES)
@settings(max_examples=3)
@given(
    layout=st.sampled_from(["T+S", "T>S", "S>T", "ST", "S+ST>T"]),
    form=st.sampled_from(GATE_FORMS),
    temporal_window=st.sampled_from([4, 2, 1]),
    spread=st.sampled_from(["full", "diagonal", "scalar"]),
    options=st.tuples(*[st.booleans()] * 4),
)
def test_the_arrow_reversed_answers_the_reversed_clip(
    gate: str, layout: str, form: str, temporal_window: int, spread: str, options: tuple[bool, ...]
) -> None:
    bias, softmax, symmetric, by_frames = options
    changes = {"gate": gate, "layout": layout, "gate_form": form, "token_bias": bias}
    softmax |= gate == "centred-gqpe"
    gqpe = {"gqpe_spread": spread, "gqpe_softmax": softmax, "gqpe_symmetric": symmetric}
    with pytest.MonkeyPatch.context() as patched:
        if by_frames:  # as if windows were large
            patched.setattr(row_bank, "LARGE_RELATION", 0)
        model = model_of(temporal_windows=temporal_window, depths=(1, 1), **changes, **gqpe)
    clips = clips_of(model.config, 2)
    with torch.no_grad():
        forward, backward = model(clips), model(clips.flip(2))
        scale = max(1.0, float(forward.abs().max()))
        blind = arrow_of_time(model, 0)
        for found, expected in (
            (arrow_of_time(model, -1)(clips), backward),
            (arrow_of_time(arrow_of_time(model, 0.5), -2)(clips), backward),
            (blind(clips), blind(clips.flip(2))),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * scale)
        assert torch.equal(arrow_of_time(model, 1)(clips), forward)


class Unknown(nn.Module):
    """A caller's own gate, which takes u and v together."""

    def __init__(self, dim: int, window: tuple[int, ...], num_groups: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, h: Tensor) -> Tensor:
        return h[..., : self.dim] * h[..., self.dim :]


def test_the_arrow_refuses_a_gate_that_it_does_not_know_and_a_strength_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"relation of Unknown \(stage 1\) is not known"):
        arrow_of_time(create_model(TWO, gate=Unknown), 0.0)
    for strength in (float("nan"), "1", True):
        with pytest.raises(ValueError, match="strength="):
            arrow_of_time(model_of(), strength)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["T+S>ST", "S>T"])
def test_activations_are_those_of_the_forward_pass_and_the_model_comes_back(layout: str) -> None:
    model = model_of(layout=layout, temporal_windows=2).train()
    model.stages[0].eval()
    parameter = next(model.parameters())
    parameter.grad = torch.ones_like(parameter)
    clips = clips_of(model.config)
    modes = [module.training for module in model.modules()]
    found = activations(model, clips)
    assert [module.training for module in model.modules()] == modes
    assert parameter.requires_grad
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    assert not any(each for pair in hooks for each in pair)
    model.eval()
    features = [x.detach() for x in model.forward_features(clips)]
    assert torch.equal(found["stem"], features[0])
    for number in (1, 2):
        assert torch.equal(found[f"stage{number}"], features[number])
    assert torch.equal(found["logits"], model(clips))
    assert torch.equal(model.head(found["pooled"]), found["logits"])
    assert list(found) == [point.name for point in hook_points(model)]
    for name, x in found.items():
        if name.endswith(".gated"):
            assert torch.equal(x, found[name[:-5] + "mix"] * found[name[:-5] + "v"])
        if x.dim() == 5:
            assert x.shape[:2] == clips.shape[:1] + clips.shape[2:3]
    steps = [name for name in found if name.endswith("step1")]
    first = found["stem"] + sum(found[f"{steps[0]}.{axes}.out"] for axes in layout[:3].split("+")
                                if axes in ("T", "S"))  # fmt: skip
    if layout.startswith("T+S"):
        assert torch.equal(found[steps[0]], first)
    # a clip and its reversal: what a branch over space makes is the same frames, turned
    other = activations(model, clips.flip(2), "stage1.block1.step1.S.*")
    for name, x in other.items():
        torch.testing.assert_close(x.flip(1), found[name], rtol=0, atol=1e-12)


def test_edits_reach_what_follows_and_wrong_ones_are_refused() -> None:
    model, clips = model_of(layout="T>ST"), clips_of(TWO)
    same = activations(model, clips, "logits", {"*": torch.clone})
    with torch.no_grad():
        assert torch.equal(same["logits"], model(clips))
    name = "stage2.block2.step1.T.out"
    edited = activations(model, clips, "stage2.block*", {name: torch.zeros_like})
    plain = activations(model, clips, "stage2.block*")
    assert torch.equal(edited["stage2.block2.step1"], plain["stage2.block1.step2"])
    assert torch.equal(edited["stage2.block1.step2"], plain["stage2.block1.step2"])
    assert not edited[name].any()
    with pytest.raises(ValueError, match=r"the edit of pooled gave \(4, 2\)"):
        activations(model, clips, "logits", {"pooled": lambda x: x[:, :2]})
    with pytest.raises(ValueError, match=r"no activation fits 'stage9\*'; names are stem, stage1"):
        activations(model, clips, "stage9*")
    with pytest.raises(ValueError, match=r"more than 0 MiB, reached at stem; choose fewer"):
        activations(model, clips, max_memory_mib=0)
    names = activations(create_model(TWO, gate=Unknown), clips.float(), "stage1.*.T.*")
    assert [each.rpartition(".")[2] for each in names] == ["norm", "fc1", "gated", "out"]


@pytest.fixture(scope="module")
def planted() -> PosMLPVideo:
    """Only stage 2, block 1, T hears the order of time; S of block 2 hears of it there."""
    return deafened(model_of(num_classes=2, scale=0.7))


def said(axes: Axes) -> str:
    return axes.get_title(loc="left").replace("\n", " ")


def deafened(model: PosMLPVideo) -> PosMLPVideo:
    ear = arrow_of_time(model, 0)
    with torch.no_grad():
        kept = model.stages[1].blocks[0].steps[0]["T"].state_dict()
        ear.stages[1].blocks[0].steps[0]["T"].load_state_dict(kept)
    return ear


def test_patching_finds_the_branch_that_was_planted(planted: PosMLPVideo) -> None:
    clips = clips_of(planted.config)
    found = patch(planted, clips)
    whole = found[found["frame"].isna()].set_index("name")["share"]
    ear = "stage2.block1.step1.T"
    for part in ("mix", "gated", "out"):
        assert whole[f"{ear}.{part}"] == pytest.approx(1, abs=1e-9)
    for name in ("stage2.block1.step1", "stage2", "pooled", "logits"):
        assert whole[name] == pytest.approx(1, abs=1e-9)
    mediators = [name for name in whole.index if name.startswith("stage2.block2.step1.")]
    upstream = whole.drop([*mediators, "stage2", "pooled", "logits", "stage2.block1.step1"])
    blind = upstream.drop([f"{ear}.{part}" for part in ("mix", "gated", "out")])
    blind = blind.drop("stage2.block2.step1")
    assert len(blind) == 28
    assert blind.abs().max() < 1e-9
    assert whole["stage2.block2.step1"] == pytest.approx(1, abs=1e-9)
    assert (whole[[f"stage2.block2.step1.{axes}.out" for axes in "TS"]].abs() > 1e-3).all()
    # what is not turned back in time blames what cannot see it
    unturned = patch(planted, clips, clips.flip(2), "stage1.block1.step1.S.out")
    assert abs(unturned["share"].item()) > 1e-3
    # frames' shares of a part that is linear from there on sum to the whole's
    frames = patch(planted, clips, where="stage2", frames=True)
    assert frames["frame"].isna().tolist() == [True, False, False, False, False]
    assert frames["share"][1:].sum() == pytest.approx(1)
    assert found["n"].unique().tolist() == [4]
    axes = draw_patching(found)
    assert f"{ear} 100%" in said(axes)
    assert [t.get_text() for t in axes.get_xticklabels()][-2:] == ["out", "sum"]
    half = found.assign(share=0.11 * found["share"], seed=1)
    seeds = draw_patching(both := pd.concat([found.assign(seed=0), half]))
    assert f"In all 2 seeds a tenth or more runs through {ear}, stage2.block2" in said(seeds)
    assert said(seeds).endswith("; in some seeds through 1 more")
    means = [line.get_xdata()[0] for line in seeds.get_lines() if line.get_marker() == "D"]
    rows = [tick.get_text() for tick in seeds.get_yticklabels()]
    assert means[rows.index(ear)] == pytest.approx(100 * (1 + 0.11) / 2)
    deaf = draw_patching(pd.concat([both, found.assign(share=0.0, seed=2)]))
    assert said(deaf).startswith("No branch carries a tenth of the difference in all 3 seeds; in")
    by_frame = draw_patching(frames)
    assert [t.get_text() for t in by_frame.get_xticklabels()] == ["all", "0", "1", "2", "3"]


def test_shares_are_the_projection_and_do_not_depend_on_batches_and_memory(
    planted: PosMLPVideo,
) -> None:
    clips = clips_of(planted.config, 5)
    name = "stage2.block2.step1.S.v"
    with torch.no_grad():
        there, back = planted(clips), planted(clips.flip(2))
    moved, size = 0.0, 0.0
    for one, other, of in (
        (clips, clips.flip(2), (there, back)),
        (clips.flip(2), clips, (back, there)),
    ):
        given = activations(planted, other, name)[name].flip(1)
        after = activations(planted, one, "logits", {name: lambda _, x=given: x})["logits"]
        moved += float(((after - of[0]) * (of[1] - of[0])).sum())
        size += float((of[1] - of[0]).square().sum())
    found = patch(planted, clips, where="*.v")
    assert found.set_index("name")["share"][name] == pytest.approx(moved / size)
    portions = patch(planted, clips, where="*.v", batch_size=2, max_memory_mib=0)
    assert portions["share"].tolist() == pytest.approx(found["share"].tolist())
    assert portions["low"].tolist() == pytest.approx(found["low"].tolist())
    paired = torch.stack([clips, clips.flip(2)], dim=1).flatten(0, 1)
    assert patch(planted, paired, where="*.v").equals(found)
    unrelated = patch(planted, clips, clips.roll(1, 0), "*.out")
    assert unrelated["share"].abs().max() > 0.1
    for others in ("backwards", clips[:2], clips * torch.inf):
        with pytest.raises(ValueError, match="others"):
            patch(planted, clips, others)
    with pytest.raises(ValueError, match="clips hold NaN or infinite pixels"):
        patch(planted, clips * torch.nan)


def test_mean_ablation_and_controls_tell_what_is_needed_from_what_is_passed_on(
    planted: PosMLPVideo,
) -> None:
    clips, ear = clips_of(planted.config), "stage2.block1.step1.T.out"
    shares = {
        others: patch(planted, clips, others, "*.out").set_index("name")["share"]
        for others in ("reversed", "unrelated", "mean")
    }
    early = "stage1.block1.step1.S.out"
    assert shares["reversed"][early] == pytest.approx(0, abs=1e-9)
    assert abs(shares["mean"][early]) > 1e-2  # the answer needs it, and it passes on no direction
    assert abs(shares["unrelated"][early]) > 1e-2
    assert shares["mean"][ear] == pytest.approx(1, abs=1e-9)
    # by definition, from both runs and the mean of both, turned back
    with torch.no_grad():
        apart = planted(clips.flip(2)) - planted(clips)
    kept = [activations(planted, each, early)[early] for each in (clips, clips.flip(2))]
    mean = ((kept[0] + kept[1].flip(1)) / 2).mean(0, keepdim=True).expand_as(kept[0])
    one = activations(planted, clips, "logits", {early: lambda _: mean})["logits"]
    other = activations(planted, clips.flip(2), "logits", {early: lambda _: mean.flip(1)})["logits"]
    left = float(((other - one) * apart).sum() / apart.square().sum())
    assert shares["mean"][early] == pytest.approx(1 - left)
    batches = patch(planted, clips, "mean", early, batch_size=1)
    assert batches["share"].item() == pytest.approx(shares["mean"][early])
    roll = patch(planted, clips, clips.roll(1, 0), "*.out")["share"]
    assert roll.tolist() == shares["unrelated"].tolist()
    with pytest.raises(ValueError, match="'unrelated' takes the clip before it"):
        patch(planted, clips[:1], "unrelated", ear)


def test_places_are_exchanged_one_at_a_time_and_drawn_as_a_map(planted: PosMLPVideo) -> None:
    clips = clips_of(planted.config, 2)
    found = patch(planted, clips, where="stage2", places=True)
    sides = planted.config.stage_sizes(*planted.config.size)[1]
    cells = found[found["y"].notna()]
    assert len(cells) == sides[0] * sides[1]
    assert cells["share"].sum() == pytest.approx(1)  # linear from there on, but for the norm
    assert draw_patching(found).images[0].get_array().shape == sides
    beside = draw_patching(
        patch(planted, clips, where="*.out"), control=patch(planted, clips, "unrelated", "*.out")
    )
    labels = [text.get_text() for text in beside.get_xticklabels()]
    assert labels == ["out", "", "out"]
    assert "the control: 2 pairs" in beside.get_xlabel()
    with pytest.raises(ValueError, match="places of several activations"):
        draw_patching(patch(planted, clips, where="stage?", places=True))


def test_paths_run_from_the_planted_branch_to_what_mediates_it(planted: PosMLPVideo) -> None:
    clips, ear = clips_of(planted.config), "stage2.block1.step1.T.out"
    found = patch_paths(planted, clips, "*.T.out").set_index(["sender", "name"])["share"]
    whole = patch(planted, clips, where="*.out").set_index("name")["share"]
    mediators = [f"stage2.block2.step1.{axes}.out" for axes in "TS"]
    for name in mediators:  # all that they tell of the direction came straight from the ear
        assert found[ear, name] == pytest.approx(whole[name])
    assert found["stage1.block1.step1.T.out"].abs().max() < 1e-9
    assert set(found[mediators[0]].index) == {"logits"}
    # past all later branches, by hand and both ways
    with torch.no_grad():
        apart, moved = planted(clips.flip(2)) - planted(clips), 0.0
    for one, sign in ((clips, 1), (clips.flip(2), -1)):
        given, own = activations(planted, one.flip(2), ear)[ear].flip(1), activations(planted, one)
        edit = {name: lambda _, x=own[name]: x for name in mediators}
        after = activations(planted, one, "logits", edit | {ear: lambda _, x=given: x})["logits"]
        moved += sign * float(((after - own["logits"]) * apart).sum()) / 2
    assert found[ear, "logits"] == pytest.approx(moved / float(apart.square().sum()))
    for senders, receivers, words in (
        ("*.u", "*", "no branch's output fits"),
        ("stage2.block2.*", "stage1.*", "comes after one that fits"),
    ):
        with pytest.raises(ValueError, match=words):
            patch_paths(planted, clips, senders, receivers)


def test_a_probe_reads_what_was_planted_and_nothing_else() -> None:
    model = model_of(layout="S", num_classes=2).float()
    generator = torch.Generator().manual_seed(0)
    sources, shades = [], []
    for count in (60, 24, 24):
        shade = torch.rand(count, generator=generator)
        noise = torch.randint(0, 30, (count, 4, 16, 16, 3), generator=generator)
        labels = torch.arange(count) % 2
        clips = noise.double()
        clips[..., 0] += 100 * labels[:, None, None, None]  # red tells the class
        clips[..., 2] += (150 * shade)[:, None, None, None]  # and blue the shade
        sources.append(PairedClips(clips.to(torch.uint8), labels))
        shades.append(shade.double().numpy())
    found = probe(model, *sources, "stage?", "class").set_index("name")
    assert found["test"].min() > 0.9
    assert found.loc["stage1", ["metric", "n", "num_features"]].tolist() == ["accuracy", 24, 4]
    assert found["chance"].eq(0.5).all()
    own = probe(model, *sources, "stage1", {"shade": shades}, over="T")
    assert own["metric"].item() == "r2"
    assert own["test"].item() > 0.9
    assert own["num_features"].item() == 4 * 16
    deaf = {"order": [each.labels.numpy() for each in sources]}
    for source in sources:
        source.clips[1::2] = source.clips[::2].flip(1)
    told = probe(model, *sources, "stage2", deaf)  # a layout of S cannot tell a clip's direction
    assert told["test"].item() <= 0.5 + 1e-9
    both = pd.concat([found.reset_index().assign(model=name) for name in ("trained", "initial")])
    axes = draw_probe(both)
    assert "24 test clips" in axes.get_xlabel()
    assert "full: trained, dashed: initial" in axes.get_xlabel()
    for wanted, words in (
        ("identity", "do not tell 'identity'"),
        ("colour", "colour"),
        ({"own": [shades[0]] * 3}, r"\[60, 60, 60\] values for \[60, 24, 24\] clips"),
    ):
        with pytest.raises(ValueError, match=words):
            probe(model, *sources, "stage1", wanted)
    with pytest.raises(ValueError, match="over='TX'"):
        probe(model, *sources, "stage1", "class", over="TX")


def test_a_probe_of_generated_clips_knows_their_pairs_places_and_digits() -> None:
    small = {"num_frames": 4, "image_size": 16, "difficulty": "easy"}
    splits = [  # of one split, whose pictures are read once
        GeneratedClips(MovingDigits("test", count, seed, paired=seed > 0, **small))
        for seed, count in enumerate((84, 28, 28))
    ]
    model = model_of(num_classes=14).float()
    found = probe(model, *splits, "stem").set_index("target")
    assert list(found.index) == ["class", "pair", "direction", "position", "identity"]
    assert found["n"].tolist() == [28] * 5
    assert found.loc["direction", "chance"] == 0.5
    assert found.loc["position", "num_features"] > found.loc["class", "num_features"]
    truth = MovingDigits("test", 56, difficulty="easy", paired=True)
    digits = truth.identities(torch.arange(56))
    assert torch.equal(digits[::2], digits[1::2])
    named = torch.tensor([truth.classes[label].startswith("zero") for label in truth.labels])
    assert digits[named].eq(0).all()


def test_tuning_is_odd_in_time_alone_and_tells_opposite_directions(planted: PosMLPVideo) -> None:
    options = {"num_directions": 8, "speeds": (1.0, 3.0)}
    found = tuning(planted, "stage?", **options)
    assert len(found) == 2 * 8 * 2
    assert (found["direction"] <= found["response"] * 2).all()
    by = found.groupby("name")["direction"].max()
    assert by["stage1"] < 1e-12 < 1e-4 < by["stage2"]
    opposite = found[found["angle"] < 180].reset_index(drop=True)
    other = found[found["angle"] >= 180].reset_index(drop=True)
    assert opposite["direction"].tolist() == pytest.approx(other["direction"].tolist())
    blobs = drifting_blobs(4, 16, 2.0, torch.tensor([0.0, torch.pi, torch.pi / 2]))
    torch.testing.assert_close(blobs[0].flip(1), blobs[1])
    brightest = blobs[:, 0].flatten(2).argmax(-1)
    assert (brightest[0] % 16).diff().gt(0).all()  # to the right
    assert (brightest[2] // 16).diff().lt(0).all()  # upwards
    answers = tuning(planted, "logits", channels=True, num_directions=8, speeds=(3.0,))
    assert len(answers) == 8 * 2
    with_initial = pd.concat([found.assign(model="trained"), found.assign(model="initial")])
    drawn = draw_tuning(with_initial)
    assert [len(ax.lines) for ax in drawn] == [4, 4]
    assert drawn[0].figure.get_suptitle().startswith("Opposite directions lie apart at stage2, ")
    assert len(draw_tuning(answers)[0].lines) == 2
    for wrong, words in (
        ({"num_directions": 7}, "must be even"),
        ({"speeds": (9.0,)}, "out of the 16"),
    ):
        with pytest.raises(ValueError, match=words):
            tuning(planted, **wrong)
    with pytest.raises(ValueError, match="several activations or speeds"):
        draw_tuning(tuning(planted, channels=True, num_directions=2))


def test_the_film_of_a_gate_shows_message_gate_and_product(
    planted: PosMLPVideo, tmp_path: Path
) -> None:
    clips, branch = clips_of(planted.config, 2), "stage1.block1.step1.T"
    path = save_gate_film(planted, clips, branch, tmp_path / "film.png", clip=1, token=(1, 2))
    with Image.open(path) as film:
        assert film.n_frames == 4
    # a token's parts sum to its message less the token bias
    unit = unit_of(planted, branch)
    found = activations(planted, clips, f"{branch}.*")
    with torch.no_grad():
        u = unit.in_groups(found[f"{branch}.u"][1, :, 1, 2])
        summed = torch.einsum("gts,svg->tvg", unit.relation(), u).flatten(1) + unit.token_bias
    torch.testing.assert_close(summed, found[f"{branch}.mix"][1, :, 1, 2])
    for name, more, words in (
        ("stage9.block1.step1.T", {}, "branches are stage1.block1.step1.S, stage1"),
        (branch, {"token": (99, 0)}, "outside of the stage's"),
        ("stage1.block1.step1.S", {"token": (0, 0)}, "no sum over the clip's frames"),
    ):
        with pytest.raises(ValueError, match=words):
            save_gate_film(planted, clips, name, tmp_path / "no.png", **more)
    with pytest.raises(ValueError, match="must end in one of"):
        save_gate_film(planted, clips, branch, tmp_path / "no.gif")


def test_contributions_sum_to_the_difference(planted: PosMLPVideo) -> None:
    clips = clips_of(planted.config)
    found = contributions(planted, clips).set_index("name")
    assert found.loc["stage1.block1.step1.T.out", "how"] == "patch"
    last = found[found["how"] == "sum"]
    assert [last.index[0], last.index[-1]] == ["stage2.input", "norm"]
    assert last["share"].sum() == pytest.approx(1)
    assert last["share"]["stage2.input"] == pytest.approx(0, abs=1e-9)
    assert abs(last["share"]["stage2.block1.step1.T.out"]) > 0.1
    one_stage = {"depths": (1,), "dims": (4,), "windows": 4, "num_groups": 2, "mlp_ratio": 2.0}
    with pytest.raises(ValueError, match="Sequential is no PosMLPVideo"):
        contributions(torch.nn.Sequential(), clips)
    with pytest.raises(ValueError, match="confidence=95 must lie between 0 and 1"):
        contributions(planted, clips, confidence=95)
    image = contributions(model_of(**one_stage, temporal_windows=4, downsample=True), clips)
    assert image["how"].unique().tolist() == ["sum"]


def test_where_nothing_hears_the_arrow_there_is_nothing_to_move(planted: PosMLPVideo) -> None:
    deaf, clips = arrow_of_time(planted, 0).float(), clips_of(planted.config).float()
    with pytest.warns(UserWarning, match="answers all 4 clips as it answers the others"):
        found = patch(deaf, clips, where="*.out")
    assert found["share"].isna().all()
    assert found["n"].eq(0).all()
    axes = draw_patching(found)
    assert "Nothing in this model" in axes.get_title(loc="left").replace("\n", " ")
    with pytest.warns(UserWarning, match="nothing to move"):
        assert contributions(deaf, clips)["share"].isna().all()


def test_the_curve_of_the_arrow_mirrors_within_pair_accuracy(planted: PosMLPVideo) -> None:
    pixels = torch.randint(0, 256, (6, 4, 16, 16, 3), generator=torch.Generator().manual_seed(1))
    pairs = torch.stack([pixels, pixels.flip(1)], 1).flatten(0, 1).to(torch.uint8)
    data = PairedClips(pairs, torch.tensor([0, 1] * 6))
    curve = arrow_curve(planted.float(), data).set_index("strength")["within_pair"]
    planted.double()
    assert curve[1.0] + curve[-1.0] == pytest.approx(1)
    assert curve[0.0] == 0.5
    axes = draw_arrow(curve.reset_index().assign(top1=0.5, num_clips=12))
    assert f"From {curve[1.0]:.0%} to {curve[-1.0]:.0%}" in axes.get_title(loc="left")
    twice = pd.concat([curve.reset_index().assign(top1=0.5, num_clips=12)] * 2)
    with pytest.raises(ValueError, match="rows of several models or tries"):
        draw_arrow(twice)
