"""Lesson 08's checks and scrubber: the stub, the solution, and answers that students give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from analysis import attribute
from lessons import scrubber
from lessons.checks import nb08
from posmlp import create_model


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda v, s, b: abs(v.sum() - (s - b)), "too little it gives 2, expected 0.5"),
        (lambda v, s, b: abs(v.sum() - s) / abs(s), "complete it gives 0.3333, expected 0"),
        (lambda v, s, b: abs(v.sum() - (s - b)) / (s - b), "a falling score it gives -0.5"),
    ],
)
def test_completeness_gap_says_where_an_answer_is_wrong(answer, where):
    assert where in nb08.completeness_gap(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda v, m: v[m].sum() / v.sum(), "for and against it gives"),
        (lambda v, m: abs(v)[m].mean(), "equal everywhere it gives 1, expected 0.25"),
        (lambda v, m: m.mean(), "all on it it gives 0.25, expected 1"),
    ],
)
def test_mass_on_object_says_where_an_answer_is_wrong(answer, where):
    assert where in nb08.mass_on_object(answer).where


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (lambda clip: clip.mean(dim=0, keepdim=True).expand_as(clip), "at [0, 0, 0, 0] it gives"),
        (lambda clip: clip.mean(dim=1, keepdim=True), "the shape is (3, 1, 1, 4), it must be"),
        (lambda clip: clip[:, :1].expand_as(clip), "it gives"),
        (torch.zeros_like, "at [0, 0, 0, 0] it gives 0"),
    ],
)
def test_without_motion_says_where_an_answer_is_wrong(answer, where):
    assert where in nb08.without_motion(answer).where


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


def test_a_frame_without_strength_is_the_clip_alone():
    model = create_model("toy").eval()
    clips = torch.randint(0, 256, (1, 8, 32, 32, 3), dtype=torch.uint8)
    maps = attribute(model, torch.randn(1, 3, 8, 32, 32), 0, "random")
    scrubber.show_frame(maps, clips, frame=3, strength=0.0)
    frame, overlay = plt.gcf().axes[0].images
    np.testing.assert_array_equal(frame.get_array(), clips[0, 3])
    assert not overlay.get_array()[..., 3].any()
