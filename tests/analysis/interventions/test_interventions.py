"""Interventions on models whose answer is known by construction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis import (
    Intervention,
    bias_maps,
    draw_exemplars,
    draw_interventions,
    exemplars,
    intervene,
    knock_outs,
    t_interval,
)
from analysis.bias.maps import units
from analysis.interventions.intervene import logits_after
from analysis.interventions.interventions import changed_tables, free_tables
from posmlp import PosMLPConfig, PosMLPVideo, create_model
from posmlp.config import TrainConfig
from posmlp.data.augment import normalise
from posmlp.data.sources import open_clips
from posmlp.train.scoring import evaluate, metrics
from tests.analysis.bias.test_bias_maps import SMALL, model_with, randomised


@dataclass(frozen=True)
class PairedClips:
    """Two classes, each the other's time reversal; clip 2k + 1 is clip 2k backwards."""

    clips: Tensor
    labels: Tensor
    name: str = "pairs"
    classes: tuple[str, ...] = ("one", "other")
    reverse_of: Tensor | None = torch.tensor([1, 0])  # noqa: RUF009

    def __len__(self) -> int:
        return len(self.clips)

    def batches(self, index_batches: Iterable[Tensor], **views: Any) -> Iterator[Tensor]:
        return (self.clips[indices] for indices in index_batches)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


def random_pairs(num_pairs: int, config: PosMLPConfig, noise: int) -> Tensor:
    """One random clip and its reversal, both `num_pairs` times with pixel noise of their own."""
    generator = torch.Generator().manual_seed(3)
    shape = (config.num_frames, *config.size, 3)
    clip = torch.randint(0, 256 - noise, shape, generator=generator)
    grain = torch.randint(0, noise, (num_pairs, *shape), generator=generator)
    forward = (clip + grain).to(torch.uint8)
    return torch.stack([forward, forward.flip(1)], dim=1).flatten(0, 1)


def labelled_by(model: PosMLPVideo, clips: Tensor) -> PairedClips:
    """Clips whose labels are what the model tells of their order in time, as far as it does."""
    with torch.no_grad():
        logits = model.eval()(normalise(clips))
        lead = logits[:, 1] - logits[:, 0]
        model.head.bias[1] -= lead.quantile(0.5)  # between the two in the middle, not on one
    forward = (lead[::2] > lead[1::2]).long()
    return PairedClips(clips, torch.stack([forward, 1 - forward], dim=1).flatten())


TWO = replace(
    SMALL, num_classes=2, num_frames=4, temporal_windows=None, layout="T+S", token_bias=False
)


@pytest.fixture(scope="module")
def one_clock() -> tuple[PosMLPVideo, PairedClips]:
    """A model that tells time by group 1 of stage 2, block 1 alone, and clips it gets right."""
    model = randomised(create_model(TWO), seed=6)
    with torch.no_grad():
        for table in free_tables(model):
            if table.place.branch == "T":
                kept = table.values[1].clone()
                table.values.zero_()
                if table.place[:2] == (2, 1):
                    table.values[1] = 20 * kept
    return model, labelled_by(model, random_pairs(12, TWO, noise=20))


def test_the_only_temporal_group_takes_the_order_of_time_with_it(one_clock) -> None:
    model, data = one_clock
    effects = intervene(model, data, knock_outs(model))
    assert len(effects) == 2 * 2 * 3
    clock = (effects[["stage", "block", "group"]] == [2, 1, 1]).all(axis=1)
    clock &= effects["branch"] == "T"
    lost = effects[clock].iloc[0]
    assert lost["within_pair"] == 0.5
    assert lost["within_pair_change"] < -0.2
    assert lost["within_pair_high"] < 0
    assert lost["changed"] > 0.2
    # the other temporal tables are zero: knocking them out changes nothing at all
    rest = effects[~clock & (effects["branch"] == "T")]
    assert (rest[["top1_change", "within_pair_change", "changed"]] == 0).all(axis=None)
    assert rest["within_pair"].tolist() == pytest.approx([evaluate(model, data)["within_pair"]] * 5)


def test_symmetrised_in_time_the_clock_is_blind_to_order(one_clock) -> None:
    model, data = one_clock
    effects = intervene(
        model, data, [Intervention("symmetrise"), Intervention("truncate", branch="T", radius=0)]
    )
    assert effects["within_pair"].tolist() == [0.5, 0.5]


def test_exemplars_are_the_frames_in_which_a_group_says_most(one_clock) -> None:
    model, data = one_clock
    clips = normalise(data.clips[:6])
    place = next(p for p in units(model) if p[:4] == (2, 1, 1, "T"))
    found = exemplars(model, clips, "stage2.block1.step1.T", 1, batch_size=4)
    assert found.equals(exemplars(model, clips, place, 1))
    assert len(found) == 6 * 4
    assert found["change"].is_monotonic_decreasing
    with torch.no_grad():
        before = model(clips)
        kept = place.unit.positions.table.clone()
        place.unit.positions.table[1] = 0
        change = (model(clips) - before).square().mean(1).sqrt()
        place.unit.positions.table.copy_(kept)
    of_clips = found.groupby("clip")["answer"].first()
    assert of_clips.tolist() == pytest.approx(change.tolist())
    assert (exemplars(model, clips, place, 0)[["change", "answer"]] == 0).all(axis=None)
    pixels, maps = data.clips[:6], bias_maps(model).query("stage == 2 and block == 1")
    of_group = maps[(maps["branch"] == "T") & (maps["group"] == 1)]
    drawn = draw_exemplars(found, pixels, of_group, num_clips=2)
    assert [ax.get_ylabel().split("\n")[0] for ax in drawn[1:]] == [
        f"clip {clip}" for clip in found["clip"].drop_duplicates()[:2]
    ]
    (frame,) = drawn[1].patches
    assert frame.get_x() == found["frame"][0] * 16 - 0.5
    assert (
        drawn[0].lines[-1].get_ydata().tolist() == of_group["bias"].tolist()[::-1]
    )  # earlier left
    over_space = maps[(maps["branch"] == "S") & (maps["group"] == 1)]
    assert draw_exemplars(found, pixels, over_space)[0].images[0].get_array().shape == (3, 3)
    for wrong, words in (((pixels[:2], of_group), "all 6"), ((pixels, maps), "maps of groups")):
        with pytest.raises(ValueError, match=words):
            draw_exemplars(found, *wrong)
    for unit, group, words in (("stage2.T", 0, "no unit 'stage2.T'"), (place, 7, "no table")):
        with pytest.raises(ValueError, match=words):
            exemplars(model, clips, unit, group)


def every_kind(model: PosMLPVideo) -> list[Intervention]:
    """Some of each kind, in no order, of groups, units, stages and the whole model."""
    return [
        Intervention("shuffle", stage=2, seed=1),
        *knock_outs(model)[::-3],
        Intervention("truncate", radius=1),
        Intervention("symmetrise", stage=2, block=2),
        Intervention("transplant", stage=1, group=1, donor="other"),
        Intervention("knock_out", branch="S"),
    ]


@pytest.mark.parametrize("gate", ["lrpe", "lrpe+dense", "attention", "conv"])
@pytest.mark.parametrize("max_bytes", [1, 2**30])
def test_vectorised_equals_one_by_one(gate: str, max_bytes: int) -> None:
    config = replace(TWO, layout="T>S+ST", gate=gate)
    model, other = (randomised(create_model(config), seed).eval() for seed in (0, 1))
    data = PairedClips(random_pairs(3, config, noise=200), torch.tensor([0, 1] * 3))
    interventions = every_kind(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = logits_after(model, data, interventions, {"other": other}, 4, max_bytes)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    single = create_model(config).eval()
    for i, intervention in enumerate([None, *interventions]):
        changed = changed_tables(intervention, model, {"other": other}) if intervention else {}
        single.load_state_dict(before | changed)
        with torch.no_grad():
            alone = single(normalise(data.clips))
        torch.testing.assert_close(found[i], alone, rtol=1e-4, atol=1e-4, msg=str(intervention))
    largest = (found[1:] - found[:1]).abs().amax(dim=(1, 2))
    assert (largest > 1e-3).sum() > len(interventions) / 2, "most did nothing that would be seen"


def test_scores_and_intervals_are_those_of_each_clip_against_itself(one_clock) -> None:
    model, data = one_clock
    interventions = [Intervention("knock_out", stage=2), Intervention("shuffle", seed=0)]
    effects = intervene(model, data, interventions, confidence=0.9, batch_size=5)
    logits = logits_after(model, data, interventions, None, 24, 2**30)
    right = (logits.argmax(-1) == data.labels).double()
    for i in (0, 1):
        row, expected = effects.iloc[i], metrics(logits[i + 1], data.labels, data.reverse_of)
        assert row["top1"] == pytest.approx(expected["top1"])
        assert row["within_pair"] == pytest.approx(expected["within_pair"])
        of_pairs = (right[i + 1] - right[0]).reshape(-1, 2).mean(-1).numpy()
        assert row[["top1_change", "top1_low", "top1_high"]].tolist() == pytest.approx(
            t_interval(of_pairs, 0.9)
        )
        assert row["changed"] == (logits[i + 1].argmax(-1) != logits[0].argmax(-1)).double().mean()
    assert effects["num_units"].tolist() == [12, 12]
    assert effects["intervention"].tolist() == ["knock out stage 2", "shuffle all (seed 0)"]


def test_clips_that_are_no_pairs_are_resampled_one_by_one(one_clock) -> None:
    model, data = one_clock
    order = torch.tensor([0, 2, 1, 3])
    alone = PairedClips(data.clips[order], torch.tensor([0, 0, 1, 1]), reverse_of=None)
    effects = intervene(model, alone, [Intervention("knock_out")])
    assert effects["num_units"].tolist() == [4]
    assert "within_pair" not in effects.columns
    mixed = PairedClips(data.clips[order], torch.tensor([0, 0, 1, 1]))
    assert intervene(model, mixed, [Intervention("knock_out")])["num_units"].tolist() == [4]


def test_knock_outs_name_every_group_once() -> None:
    model = create_model("toy", layout="T>S")
    listed = knock_outs(model)
    assert len(listed) == len(set(listed)) == 2 * (2 + 4 + 8 + 8 + 16)
    assert str(listed[-1]) == "knock out stage 4 block 1 step 2 S group 15"
    changed = changed_tables(listed[3], randomised(model))
    [(name, table)] = changed.items()
    assert name == "stages.0.blocks.0.steps.1.S.gate.positions.table"
    assert (table[1] == 0).all()
    assert torch.equal(table[0], model.state_dict()[name][0])


def table_after(table: Any, intervention: Intervention, **options: Any) -> Tensor:
    [(_, changed)] = changed_tables(intervention, model_with(table, **options)).items()
    return changed


def test_symmetrise_averages_dt_with_its_opposite_at_the_same_place() -> None:
    changed = table_after([[1, 2, 3, 4, 9], [0, 0, 5, 4, 0]], Intervention("symmetrise", group=0))
    assert changed.tolist() == [[5, 3, 3, 3, 5], [0, 0, 5, 4, 0]]
    joint = torch.zeros(1, 5, 3, 3)
    joint[0, 4, 0, 1] = 2
    changed = table_after(joint, Intervention("symmetrise"), layout="ST")
    assert changed.nonzero().tolist() == [[0, 0, 0, 1], [0, 4, 0, 1]]


def test_truncate_keeps_frames_and_tokens_within_the_radius() -> None:
    ones = torch.ones(1, 5)
    assert table_after(ones, Intervention("truncate", radius=1)).tolist() == [[0, 1, 1, 1, 0]]
    joint = table_after(torch.ones(1, 5, 3, 3), Intervention("truncate", radius=1), layout="ST")
    cross = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert joint[0].tolist() == [np.zeros((3, 3)).tolist(), *[cross] * 3, np.zeros((3, 3)).tolist()]
    space = {"layout": "S", "windows": 3, "image_size": 12}
    kept = table_after(torch.ones(1, 5, 5), Intervention("truncate", radius=2**0.5), **space)
    assert kept.sum() == 9


def test_shuffle_permutes_each_group_by_its_seed_and_place_alone() -> None:
    model = model_with(torch.arange(10).reshape(2, 5).repeat(1, 1))
    tables = {
        key: next(iter(changed_tables(Intervention("shuffle", **key_options), model).values()))
        for key, key_options in {
            "all": {"seed": 0},
            "one": {"seed": 0, "stage": 1, "group": 1},
            "other": {"seed": 1},
        }.items()
    }
    assert tables["all"].sort(dim=1).values.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert tables["one"][0].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(tables["one"][1], tables["all"][1])
    assert (tables["all"][1] - 5).tolist() != tables["all"][0].tolist()
    assert not torch.equal(tables["other"], tables["all"])
    twins = create_model(SMALL, layout="T>T", num_frames=6)
    for table in free_tables(twins):
        table.values.data[:] = torch.arange(11)
    orders = changed_tables(Intervention("shuffle", group=0, seed=0), twins).values()
    assert len({tuple(table[0].tolist()) for table in orders}) == 2 * 3  # one a unit


def test_transplant_takes_the_donors_group_at_the_same_place() -> None:
    model, other = (randomised(create_model(SMALL), seed) for seed in (0, 1))
    change = Intervention("transplant", stage=2, block=2, branch="T", group=1, donor="other")
    [(name, table)] = changed_tables(change, model, {"other": other}).items()
    assert torch.equal(table[1], other.state_dict()[name][1])
    assert torch.equal(table[0], model.state_dict()[name][0])
    with pytest.raises(ValueError, match=r"no donor 'other' among \['twin'\]"):
        changed_tables(change, model, {"twin": other})
    with pytest.raises(ValueError, match="resize it with resize_bias"):
        changed_tables(change, model, {"other": create_model(SMALL, num_frames=2)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "knock-out"}, "Did you mean 'knock_out'"),
        ({"kind": "shuffle"}, "'shuffle' needs a seed, got None"),
        ({"kind": "knock_out", "radius": 2}, "'knock_out' takes no radius, got 2"),
        ({"kind": "truncate", "radius": -1}, "radius=-1 must be at least 0"),
        ({"kind": "transplant", "seed": 3}, "takes no seed"),
        ({"kind": "knock_out", "branch": "TS"}, "unknown branch 'TS'"),
    ],
)
def test_interventions_are_checked_when_made(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Intervention(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": 3}, "chooses no table; the model has .*: 1.1.1 T .2 groups., 1.1.1 S"),
        ({"group": 2}, "chooses no table"),
        ({"kind": "symmetrise", "branch": "S"}, "no table with a time axis"),
    ],
)
def test_an_intervention_on_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed_tables(Intervention(**{"kind": "knock_out"} | values), create_model(SMALL))


@pytest.mark.parametrize(
    ("gate", "unit"),
    [("gqpe", "GQPE"), ("dense", "Dense"), ("mean", "MeanGate"), ("none", "NoMixing")],
)
def test_gates_without_a_table_are_refused(gate: str, unit: str) -> None:
    with pytest.raises(ValueError, match=f"gate {unit} .stage 1. has no table"):
        knock_outs(create_model(SMALL, gate=gate))


def test_intervene_opens_data_by_name() -> None:
    model = randomised(create_model("toy", num_frames=2, image_size=16, windows=(2, 2, 1, 1)))
    train = TrainConfig(num_test_clips=140)
    effects = intervene(
        model, "moving-digits:easy", [Intervention("knock_out", stage=4)], train=train
    )
    assert effects[["num_clips", "num_units"]].values.tolist() == [[140, 70]]
    source = open_clips("moving-digits:easy", "test", model.config, train=train)
    state = model.state_dict() | changed_tables(Intervention("knock_out", stage=4), model)
    model.load_state_dict(state)
    assert effects["top1"].item() == pytest.approx(evaluate(model, source)["top1"], abs=0.01)


def effects_table(num_rows: int) -> pd.DataFrame:
    change = np.linspace(-0.3, 0.1, num_rows)[::-1]
    return pd.DataFrame(
        {
            "branch": ["T", None] * (num_rows // 2),
            "intervention": [f"number {i}" for i in range(num_rows)],
            "num_clips": 560,
            "num_units": 280,
            **{
                f"{name}{suffix}": change + shift
                for name in ("top1", "within_pair")
                for suffix, shift in [("", 0.9), ("_change", 0), ("_low", -0.05), ("_high", 0.05)]
            },
        }
    )


def test_draw_interventions_shows_the_largest_losses_first_and_says_what_it_left_out() -> None:
    ax = draw_interventions(effects_table(10), most=4)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["number 9", "number 8", "number 7", "number 6"]
    assert ax.yaxis_inverted()
    assert "the 4 largest of 10" in ax.get_xlabel()
    assert "intact 90.0%" in ax.get_xlabel()
    assert "280 pairs" in ax.get_xlabel()
    points = {tuple(xy) for line in ax.get_lines() for xy in line.get_xydata().round(6)}
    assert (-30.0, 0.0) in points
    assert ax.get_legend().get_texts()[0].get_text() == "several"
    assert "largest of" not in draw_interventions(effects_table(4)).get_xlabel()


def test_interventions_of_two_models_are_drawn_together_and_of_half_precision_too() -> None:
    model = create_model("toy", num_frames=2, image_size=16, windows=(2, 2, 1, 1))
    changes, train = knock_outs(model)[:2], TrainConfig(num_test_clips=28)
    found = [
        intervene(each, "moving-digits:easy", changes, train=train)
        for each in (model, model.bfloat16())
    ]
    assert len(draw_interventions(pd.concat(found)).get_yticklabels()) == 4


def test_draw_interventions_refuses_a_metric_that_is_not_there() -> None:
    effects = effects_table(2).drop(columns=["within_pair_change"])
    assert "top-1" in draw_interventions(effects).get_xlabel()
    with pytest.raises(ValueError, match=r"metrics \['top1'\], asked for 'within_pair'"):
        draw_interventions(effects, metric="within_pair")


def test_draw_interventions_refuses_what_would_be_an_empty_figure() -> None:
    effects = effects_table(2)
    with pytest.raises(ValueError, match="no row has a value of 'within_pair_change'"):
        draw_interventions(effects.assign(within_pair_change=np.nan))
    for most in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"most={most} must be a whole number of at least 1"):
            draw_interventions(effects, most=most)
    for missing in ("within_pair_low", "num_units", "branch"):
        with pytest.raises(ValueError, match=f"no column '{missing}'; give rows of"):
            draw_interventions(effects.drop(columns=missing))


def test_draw_interventions_reads_the_intact_score_where_there_is_a_change() -> None:
    effects = effects_table(2)
    effects.loc[0, "within_pair_change"] = np.nan
    assert "intact 90.0%" in draw_interventions(effects).get_xlabel()
