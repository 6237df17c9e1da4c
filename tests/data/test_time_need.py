"""What `posmlp data time` says of clips of a planted answer, and of what cannot be answered."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posmlp.cli import _train_toy, main
from posmlp.data.sources import HeldClips
from posmlp.data.time_need import (
    EITHER_WAY,
    MEAN,
    ORDERED,
    REVERSED,
    SORTED,
    WHICH_WAY,
    Clips,
    need_of_time,
    read_need,
)

NUM_FRAMES, SIDE = 6, 16


def planted(what: str, num_clips: int = 60, seed: int = 0) -> Clips:
    """Noise of two classes in 10 groups; a bar rises or falls (order), or lies low or high."""
    rng = np.random.default_rng(seed)
    clips = rng.normal(0, 0.3, (num_clips, NUM_FRAMES, SIDE, SIDE))
    labels = np.arange(num_clips) % 2
    for clip, label in zip(clips, labels, strict=True):
        for time in range(NUM_FRAMES):
            rows = {
                "order": 2 * time if label else 2 * (NUM_FRAMES - 1 - time),
                "still": 10 * label,
                "neither": 2 * time,
            }
            clip[time, rows[what] : rows[what] + 3] += 1
    groups = [str(i // 2 % 10) for i in range(num_clips)]
    grey = (clips * 40 + 100).clip(0, 255).astype(np.uint8)
    frames = np.repeat(grey[..., None], 3, axis=-1)
    return Clips(frames, labels, groups, ("falls", "rises"), "planted")


def test_planted_answer_is_found():
    need = read_need(planted("order"), "planted")
    scores = {reader: need.interval(reader).mean for reader in need.scores}
    assert min(scores[ORDERED], scores[WHICH_WAY]) == 1.0
    assert max(scores[REVERSED.format(reader)] for reader in (ORDERED, WHICH_WAY)) == 0.0
    assert max(scores[reader] for reader in (MEAN, SORTED, EITHER_WAY)) < 0.75
    assert need.sentence().startswith("order carries")
    assert "falls/rises 100% against" in need.sentence()

    still = read_need(planted("still"), "planted")
    assert still.interval(MEAN).mean == 1.0
    assert still.sentence().startswith("no need of order is seen: it carries 0 points")
    said = [read_need(planted("neither", seed=k), "x", 5).sentence() for k in range(4)]
    assert sum("nothing is read" in each for each in said) >= 3  # 95% of such data


def test_interval_is_wider_than_that_of_folds_that_share_nothing():
    """By hand: t of 0.975 at 2 degrees of freedom is 4.303, a third is tested."""
    need = read_need(planted("still", 30), "planted", 3)
    need.scores["by hand"] = np.array([0.4, 0.5, 0.6])
    found = need.interval("by hand")
    assert found.high - found.mean == pytest.approx(4.3027 * np.sqrt((1 / 3 + 1 / 2) * 0.01), 1e-4)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": np.zeros(60, np.int64)}, "of 1 class ['falls']; at least 2 are needed"),
        ({"groups": ["anna"] * 60}, "all clips are of one group (anna), so that none can be"),
        (
            {"groups": ["anna" if i % 2 else str(i % 10) for i in range(60)]},
            "all clips of class 'rises' are of one group (anna)",
        ),
        (
            {"groups": ["both" if i == 1 else "a" if i % 2 else "both" for i in range(60)]},
            "all clips of class 'falls' are of one group (both)",
        ),
    ],
)
def test_data_without_an_answer_are_refused(changed, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_need(planted("order")._replace(**changed), "planted")


def test_fold_without_a_class_is_refused():
    """Three classes, each in two of three groups: of two folds one has all of some class."""
    labels = np.arange(60) % 3
    groups = ["abc"[(label + i // 3 % 2) % 3] for i, label in enumerate(labels)]
    data = planted("order")._replace(labels=labels, groups=groups, classes=("x", "y", "z"))
    with pytest.raises(ValueError, match=r"fold . of 2 has no class '.' to fit.*--folds"):
        read_need(data, "planted", 2)


def write_frames(root: Path, data: Clips) -> Path:
    """A folder of images a clip: CLASS/GROUP/CLIP/*.png."""
    for i, clip in enumerate(data.frames):
        folder = root / data.classes[data.labels[i]] / f"p{data.groups[i]}" / f"{i}"
        folder.mkdir(parents=True)
        for time, frame in enumerate(clip):
            Image.fromarray(frame).save(folder / f"{time}.png")
    return root


def test_command_reads_files_trains_and_draws(tmp_path, capsys, monkeypatch):
    """In place of the toy model stands one that is right where the last bar lies as its class's."""

    def right(learn: HeldClips, test: HeldClips, epochs: int) -> float:
        assert (len(learn), len(test), epochs) == (54, 6, 60)
        assert test.clips.shape == (6, 8, 32, 32, 3)
        rows = test.clips[:, -1].float().mean((2, 3)).argmax(1) > 15
        return float((rows == test.labels).float().mean())

    monkeypatch.setattr("posmlp.cli._train_toy", right)
    root = write_frames(tmp_path / "bars", planted("order"))
    out = tmp_path / "need.png"
    words = [str(root), "--workers", "0", "--train", "--out", str(out)]
    assert main(["data", "time", *words]) == 0
    said = capsys.readouterr().out
    assert re.search(r"toy model, frames in order +100.0%", said)
    assert "trained for 60 epochs on each of 3 folds, reads" in said
    assert "60 clips of 2 classes, 10 groups (folders), 10 folds" in said
    assert "Order carries" in said
    assert Image.open(out).width > 800
    for path in ("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"):
        (tmp_path / "bad" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bad" / path).write_text("garbage")
    for words, told in (
        ([str(tmp_path / "bad"), "--workers", "0"], "none of 4 clips of"),
        ([str(root), "--out", "need.pdf"], "must be a .png"),
        ([str(root), "--clips", "1"], "--clips 1 and --folds 10 must both be at least 2"),
        (["moving-digits:mild"], "unknown difficulty 'mild'"),
        ([str(tmp_path / "nowhere")], "does not exist"),
    ):
        assert main(["data", "time", *words]) == 2
        assert told in capsys.readouterr().err


def test_toy_model_is_trained_and_tested():
    clips = torch.randint(256, (6, 8, 32, 32, 3), dtype=torch.uint8)
    held = HeldClips("noise", ("a", "b"), torch.arange(6) % 2, None, clips, {})
    assert _train_toy(held, held, 1) in {k / 6 for k in range(7)}


def test_generated_digits_need_order():
    need = need_of_time("moving-digits:medium", num_clips=280, num_folds=4)
    reader, gain = need.order()
    assert reader == WHICH_WAY
    assert gain.low > 0
    assert need.interval(EITHER_WAY).mean < need.interval(WHICH_WAY).mean - 0.1
