"""What the lessons' checks say of answers that students are likely to give, and their helpers."""

from __future__ import annotations

import importlib
import math

import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from analysis import activations, attribute, bias_statistics, cost, patch
from analysis.bias.maps import unit_tables
from lessons import scrubber, speeds, wiring
from lessons.checks.nb04 import KINDS
from lessons.solutions import nb01, nb03, nb04, nb07, nb10, nb12
from posmlp import create_model
from posmlp.data.digits.catalogue import CLASSES


def halving_from_stage_one(num_frames, side, dims):
    return [(num_frames, side // 2 ** (i + 2), side // 2 ** (i + 2), c) for i, c in enumerate(dims)]


def halving_time_too(num_frames, side, dims):
    shapes = nb01.feature_shapes(num_frames, side, dims)
    return [(t // 2 ** max(i - 1, 0), *rest) for i, (t, *rest) in enumerate(shapes)]


def ties_as_wrong(logits, labels, reverse_of):
    clip = torch.arange(len(labels))
    return (logits[clip, labels] > logits[clip, reverse_of[labels]]).float().mean()


def top1(logits, labels, reverse_of):
    return (logits.argmax(-1) == labels).float().mean()


def row_length_from_height(height, width):
    token = torch.arange(height * width)
    dy = token[:, None] // width - token[None, :] // width + height - 1
    dx = token[:, None] % width - token[None, :] % width + width - 1
    return dy * (2 * height - 1) + dx


def one_long_axis(height, width):
    return nb03.index_1d(height * width)


def halves_swapped(h, relation, token_bias):
    v, u = h.chunk(2, dim=-1)
    return (relation @ u + token_bias[:, None]) * v


def bias_after_the_product(h, relation, token_bias):
    u, v = h.chunk(2, dim=-1)
    return (relation @ u) * v + token_bias[:, None]


def always_two_halves(dim, form, num_frames, num_groups):
    return nb04.branch_params(dim, "add", num_frames, num_groups)


def no_token_bias(dim, form, num_frames, num_groups):
    return nb04.branch_params(dim, form, num_frames, num_groups) - num_frames


def contiguous(group, dim, num_groups):
    size = dim // num_groups
    return list(range(group * size, (group + 1) * size))


def planted_fault(u, relation):
    x = u.reshape(len(u), len(relation), -1)
    return torch.einsum("gmn,ngv->mgv", relation, x).reshape(u.shape)


def folded_back_wrong(u, relation):
    x = u.reshape(len(u), -1, len(relation))
    return torch.einsum("gmn,nvg->mgv", relation, x).reshape(u.shape)


def without_shares(tables):
    return torch.special.entr(torch.linalg.svdvals(tables)).sum().exp()


def _tables(window, groups):
    return groups * math.prod(2 * side - 1 for side in window)


def _reach(table, share):
    dt = np.arange(len(table)) - len(table) // 2
    return float(np.sqrt((share * dt**2).sum()))


def _pairs(first, second, opposite):
    n = len(first)
    return sum(opposite(first[i] - first[j], second[i] - second[j]) for i in range(n) for j in range(n))  # fmt: skip  # noqa: E501


def _weakly(costs, scores):
    """Drops only what is beaten in both."""
    n = range(len(costs))
    kept = [i for i in n if not any(costs[j] < costs[i] and scores[j] > scores[i] for j in n)]
    return sorted(kept, key=lambda i: costs[i])


def _my_grid(**change):
    return lambda base: {**nb10.my_grid(base), **change}


def _without_baseline(base):
    return {key: value for key, value in nb10.my_grid(base).items() if key != "baseline"}


def _z_interval(differences, ddof):
    mean, n = np.mean(differences), len(differences)
    reach = 1.96 * np.std(differences, ddof=ddof) / np.sqrt(n)
    return mean - reach, mean + reach


WRONG = {
    "nb01.play_backwards": [
        (lambda clips: clips.flip(1), "at [0, 0, 0, 0, 0] it gives 0, expected 4"),
        (lambda clips: clips.flip(3), "it gives 30, expected 4"),
    ],
    "nb01.feature_shapes": [
        (halving_from_stage_one, "preset toy the shape is (4, 4), it must be (5, 4)"),
        (halving_time_too, "preset toy at [2, 0] it gives 4, expected 8"),
    ],
    "nb01.within_pair": [
        (ties_as_wrong, "blind model it gives 0, expected 0.5"),
        (top1, "blind model it gives 0.25"),
    ],
    "nb02.dense_params": [
        (lambda window: math.prod(window), "8 frames it gives 8, expected 64"),
        (lambda window: window[0] ** 2, "4x4 it gives 16, expected 256"),
    ],
    "nb02.tied_params": [
        (lambda window, groups: groups * (2 * math.prod(window) - 1), "4x4 G = 1 it gives 31"),
        (lambda window, groups: math.prod(2 * w - 1 for w in window), "G = 4 it gives 15"),
    ],
    "nb02.most_groups": [
        (lambda window: math.prod(window) ** 2 // math.prod(window), "8 frames it gives 8"),
        (lambda window: math.prod(window) // 2 ** len(window) + 1, "8 frames it gives 5"),
    ],
    "nb03.index_1d": [
        (lambda w: nb03.index_1d(w).T, "at [0, 1] it gives 4, expected 2"),
        (lambda w: nb03.index_1d(w) - w + 1, "at [0, 0] it gives 0, expected 3"),
    ],
    "nb03.index_2d": [
        (row_length_from_height, "2 x 3 tokens at [0, 0] it gives 5, expected 7"),
        (one_long_axis, "2 x 2 tokens at [0, 0] it gives 3, expected 4"),
    ],
    "nb03.offset_of": [
        (lambda entry, h, w: divmod(entry, 2 * w - 1), "at [0] it gives 3, expected 0"),
        (lambda entry, h, w: divmod(entry, w), "entry 24 of a 4 x 4 window at [0] it gives 6"),
    ],
    "nb04.gate_forward": [
        (halves_swapped, "for no token bias at [0, 0]"),
        (bias_after_the_product, "for a token bias at [1, 0]"),
    ],
    "nb04.branch_params": [
        (always_two_halves, "mix C = 16, G = 2 it gives 886, expected 614"),
        (no_token_bias, "multiply C = 16, G = 2 it gives 878, expected 886"),
    ],
    "nb04.first_gradients": [
        (lambda init, form: set(KINDS), "['fc1', 'fc2.weight', 'norm'] get exactly no"),
        (lambda init, form: {"fc2.bias"}, "['table', 'token_bias'] do get a gradient"),
    ],
    "nb05.channels_of": [
        (contiguous, "group 0 of 2, 8 channels at [1] it gives 1, expected 2"),
        (lambda group, dim, groups: group % groups, "the shape is (), it must be (4,)"),
    ],
    "nb05.mix_groups": [
        (planted_fault, "for 2 groups, 6 channels at [0, 1]"),
        (folded_back_wrong, "for 2 groups, 6 channels at [0, 1]"),
    ],
    "nb05.effective_rank": [
        (lambda tables: torch.linalg.matrix_rank(tables), "one large, three small it gives 4"),
        (without_shares, "four multiples of one table it gives "),
    ],
    "nb06.parse": [
        (lambda layout: layout.split(">"), "for 'S' at [0] it gives 'S'"),
        (lambda layout: [part.split(">") for part in layout.split("+")], "for 'T+S' it has 2"),
    ],
    "nb06.st_params": [
        (_tables, "2x2x2 G = 1 it gives 27, expected 35"),
        (lambda w, g: _tables(w, g) + g * math.prod(w), "G = 4 it gives 140, expected 116"),
    ],
    "nb06.num_seen": [
        (lambda layout, t, n: t * n, "S T=8, n=4 it gives 32, expected 4"),
        (lambda layout, t, n: n * ("S" in layout) + t * ("T" in layout), "T+S T=8, n=4 it gives"),
    ],
    "nb07.effective_reach": [
        (lambda b: _reach(b, b / b.sum()), "now less then it gives"),
        (lambda b: _reach(b, abs(b) / abs(b).sum()), "now less then it gives 1.254"),
    ],
    "nb07.odd_part": [
        (lambda b: (b + b[::-1]) / 2, "at [1] it gives -0.5, expected 0.5"),
        (lambda b: b - b[::-1], "at [1] it gives 1, expected 0.5"),
    ],
    "nb07.rank_agreement": [
        (lambda a, b: float(np.corrcoef(a, b)[0, 1]), "same order it gives"),
        (lambda a, b: float(np.corrcoef(np.argsort(a), np.argsort(b))[0, 1]), "two swapped"),
    ],
    "nb08.completeness_gap": [
        (lambda v, s, b: abs(v.sum() - (s - b)), "too little it gives 2, expected 0.5"),
        (lambda v, s, b: abs(v.sum() - s) / abs(s), "complete it gives 0.3333, expected 0"),
    ],
    "nb08.mass_on_object": [
        (lambda v, m: v[m].sum() / v.sum(), "for and against it gives"),
        (lambda v, m: abs(v)[m].mean(), "equal everywhere it gives 1, expected 0.25"),
    ],
    "nb08.without_motion": [
        (lambda clip: clip.mean(dim=0, keepdim=True).expand_as(clip), "at [0, 0, 0, 0] it gives"),
        (lambda clip: clip.mean(dim=1, keepdim=True), "the shape is (3, 1, 1, 4), it must be"),
    ],
    "nb09.median_and_spread": [
        (lambda t: (float(np.mean(t)), float(np.std(t))), "steady at [0] it gives 5.04"),
        (lambda t: (sorted(t)[len(t) // 2], max(t) - min(t)), "steady at [1] it gives 0.3"),
    ],
    "nb09.num_inversions": [
        (lambda a, b: _pairs(a, b, lambda x, y: x * y < 0), "one pair turned it gives 2"),
        (lambda a, b: _pairs(a, b, lambda x, y: x * y <= 0) // 2, "same order it gives 2"),
    ],
    "nb09.pareto_front": [
        (lambda costs, scores: list(range(len(costs))), "one beats all the shape is (3,)"),
        (lambda costs, scores: sorted(_weakly(costs, scores)), "not sorted at [0] it gives 0"),
    ],
    "nb10.my_grid": [
        (_my_grid(seeds=1), "it has 1 seed"),
        (_my_grid(axes={"token_bias": [True, False], "gate": ["lrpe", "conv"]}), "is 2 cells"),
        (_my_grid(axes={"tokenbias": [True, False]}), "Did you mean 'token_bias'?"),
        (_my_grid(baseline={"token_bias": "maybe"}), "token_bias"),
        (_my_grid(axes={"gate": ["lrpe", "conv", "mean"]}, baseline={"gate": "lrpe"}), "3 cells"),
        (_my_grid(prediction=""), "question and prediction"),
        (_my_grid(base={"preset": "toy"}), "base must be the one"),
        (_without_baseline, "baseline"),
    ],
    "nb10.interval": [
        (lambda d: _z_interval(d, 1), "2 seeds at [0] it gives 0.0056, expected -0.1556"),
        (lambda d: _z_interval(d, 0), "2 seeds at [0] it gives"),
    ],
    "nb10.conclusion": [
        (lambda low, high, margin: "better" if low + high > 0 else "worse", "wide, around zero"),
        (
            lambda low, high, margin: "better" if low > 0 else "worse" if high < 0 else "equal",
            "wide, around zero it gives 'equal', expected 'cannot tell'",
        ),
    ],
    "nb11.frames_seen": [
        (lambda n, t: np.linspace(0, n - 1, t).astype(int).tolist(), "at [0] it gives 0"),
        (lambda n, t: list(range(t)), "N = 24, T = 8 at [0] it gives 0, expected 1"),
    ],
    "nb11.mirrored": [
        (lambda name: name, "right it gives 'right', expected 'left'"),
        (lambda name: CLASSES[CLASSES.index(name) ^ 1], "down it gives 'up', expected 'down'"),
    ],
    "nb11.over_views": [
        (lambda logits: logits.softmax(-1).mean(0), "two views at [0] it gives"),
        (lambda logits: logits.mean(0), "two views at [0] it gives 2"),
    ],
    "nb12.turn_back": [
        (lambda x: x.flip(0), "at [0, 0, 0, 0, 0] it gives 0, expected 8"),
        (lambda x: x.flip(-1), "at [0, 0, 0, 0, 0] it gives 1, expected 8"),
    ],
    "nb12.share": [
        (lambda b, a, o: float((a - b) @ (o - b)), "half of the way it gives 2.5, expected 0.5"),
        (lambda b, a, o: float((a - b).norm() / (o - b).norm()), "backwards it gives 1, expected"),
    ],
    "nb12.turned": [
        (lambda b, s: s * b, "for blind, s = 0 at [0] it gives 0, expected -0.5"),
        (lambda b, s: (b + s * b.flip(0)) / 2, "for blind, s = 0 at [0] it gives 0, expected"),
    ],
}


@pytest.mark.parametrize("exercise", WRONG)
def test_check_says_where_an_answer_is_wrong(exercise):
    lesson, _, name = exercise.partition(".")
    check = getattr(importlib.import_module(f"lessons.checks.{lesson}"), name)
    for answer, where in WRONG[exercise]:
        assert where in check(answer).where


def test_a_token_of_the_stem_sees_7_by_7_pixels_as_the_lesson_says():
    torch.manual_seed(0)
    frame = torch.randn(1, 3, 32, 32, requires_grad=True)
    create_model("toy").eval().stem(frame)[0, :, 4, 4].sum().backward()
    rows, columns = torch.nonzero(frame.grad[0].abs().sum(0) > 0).unbind(-1)
    assert rows.unique().numel() == columns.unique().numel() == 7


def test_seen_is_a_cross_for_parallel_branches_and_all_for_sequential_ones():
    cross = wiring.seen("T+S", frame=2, place=5)
    assert cross[2].all()
    assert cross[:, 1, 1].all()
    assert cross.sum() == 16 + 3
    assert wiring.seen("T>S").all()
    assert wiring.seen("S>S")[1].all()
    assert wiring.seen("S>S").sum() == 16


def test_builder_follows_what_is_typed(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(wiring, "show", lambda layout: drawn.append(layout))
    line = wiring.builder("T").children[0]
    assert isinstance(line, ipywidgets.Text)
    line.value = "T>S"
    assert drawn == ["T", "T>S"]


def test_reach_and_odd_part_agree_with_the_package():
    model = create_model("toy", layout="T")
    found = bias_statistics(model)
    tables = [group.ravel() for _, table, _ in unit_tables(model) for group in table]
    reaches = [nb07.effective_reach(table) for table in tables]
    np.testing.assert_allclose(reaches, found.locality_temporal)
    shares = [(nb07.odd_part(b) ** 2).sum() / (b**2).sum() for b in tables]
    np.testing.assert_allclose(shares, found.temporal_asymmetry)


def test_scrubber_draws_the_frame_and_strength_that_are_set(monkeypatch):
    model = create_model("toy").eval()
    clips = torch.randint(0, 256, (1, 8, 32, 32, 3), dtype=torch.uint8)
    maps = attribute(model, torch.randn(1, 3, 8, 32, 32), 0, "random")
    drawn = []
    monkeypatch.setattr(
        scrubber, "show_frame", lambda *_, frame, strength: drawn.append((frame, strength))
    )
    sliders = scrubber.scrubber(maps, clips).children[0].children
    sliders[0].value = 5
    sliders[1].value = 0.25
    assert drawn == [(0, 1.0), (5, 1.0), (5, 0.25)]
    monkeypatch.undo()
    scrubber.show_frame(maps, clips, frame=3, strength=0.0)
    frame, overlay = plt.gcf().axes[0].images
    np.testing.assert_array_equal(frame.get_array(), clips[0, 3])
    assert not overlay.get_array()[..., 3].any()


def test_every_variant_with_an_accuracy_has_its_time_and_cost():
    times, scores = speeds.read(), speeds.accuracies()
    assert set(times.variant) == set(scores.variant) == set(speeds.configs())
    assert not times.variant.duplicated().any()
    assert not scores.duplicated(["variant", "seed"]).any()
    assert (times.latency_q1_ms <= times.latency_ms).all()
    assert (times.latency_ms <= times.latency_q3_ms).all()
    assert times[["device", "num_threads", "load", "torch", "cpu"]].notna().all(axis=None)


@pytest.mark.parametrize("variant", ["T+S", "ST", "attention"])
def test_stored_costs_are_what_the_package_counts(variant):
    row = speeds.read().set_index("variant").loc[variant]
    found = cost(speeds.configs()[variant])
    assert row.params == found["params"]
    assert row.gmacs == pytest.approx(found["gmacs"])


def test_share_agrees_with_the_package():
    model = create_model("toy", token_bias=True).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    clip, name = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64), "stage2.block1.step1.T.out"
    given = [nb12.turn_back(activations(model, x, name)[name]) for x in (clip.flip(2), clip)]
    shares = []
    for own, other, put in ((clip, clip.flip(2), given[0]), (clip.flip(2), clip, given[1])):
        after = activations(model, own, "logits", {name: lambda _, x=put: x})["logits"][0]
        ends = [activations(model, x, "logits")["logits"][0] for x in (own, other)]
        shares.append(nb12.share(ends[0], after, ends[1]))
    assert patch(model, clip, where=name)["share"].item() == pytest.approx(sum(shares) / 2)
