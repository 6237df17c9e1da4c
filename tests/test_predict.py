"""Predictions for any video, on screen and written into a video."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from posmlp.checkpoint import load
from posmlp.cli import main
from posmlp.clip_scores import (
    FILES,
    ClipScores,
    clip_features,
    draw_confusion,
    link,
    score_files,
)
from posmlp.config import TrainConfig
from posmlp.data.charts import as_png
from posmlp.data.files.video import frame_times, read_video
from posmlp.pictures.annotate import annotate_video
from posmlp.pictures.calibration import (
    SHIFTS,
    Calibration,
    draw_reliability,
    fit_temperature,
)
from posmlp.pictures.card import wilson
from posmlp.pictures.knob_page import clip_of
from posmlp.predict import open_run, predict_parts, predict_video
from posmlp.presets import resolve
from posmlp.train.fitting import fit
from posmlp.train.run_folder import read_metrics, temperature_of
from posmlp.train.scoring import evaluate
from tests.test_cli import SMALL as DIGITS

NAMES = ("dark", "light")
SMALL = {
    "depths": (1, 1), "dims": (8, 16), "num_groups": 2, "windows": (4, 2), "temporal_windows": 4,
    "image_size": 16, "num_frames": 4, "num_classes": 2, "downsample": True, "mlp_ratio": 2.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(write_clip, tmp_path_factory) -> Path:
    """Train a small model to tell dark from light videos of a folder a class."""
    root = tmp_path_factory.mktemp("predict")
    for split, count in (("train", 8), ("test", 2)):
        for name, level in zip(NAMES, (40, 200), strict=True):
            for i in range(count):
                write_clip(root / "data" / split / name / f"{i}.mp4", [level + i] * 6)
    train = TrainConfig(epochs=12, batch_size=8, lr=1e-2, label_smoothing=0.0)
    rows = fit(
        resolve("toy", **SMALL), train, str(root / "data"), [0], root / "run",
        num_workers=0, progress=False,
    )  # fmt: skip
    assert rows[-1]["test_top1"] == 1.0
    return root / "run"


def test_prediction_names_the_class_with_its_probability(run, write_clip, tmp_path):
    trained = open_run(run)
    for name, level in zip(NAMES, (45, 205), strict=True):
        video = write_clip(tmp_path / f"{name}.mp4", [level] * 30, width=48)
        found = predict_video(trained, video, num_views=2, num_crops=3)
        top = found.top(5)
        assert top[0][0] == name
        assert len(top) == 2
        assert sum(p for _, p in top) == pytest.approx(1, abs=1e-5)
        assert (found.num_frames, found.decoder) == (30, "decord")
        assert len(found.indices) == 8  # two views see different frames


def test_shipped_model_tells_a_clip_from_its_reversal_and_names_files(tmp_path, capsys):
    """`posmlp try` and `posmlp predict toy-ts`; the page holds the weights that the model has."""
    page = tmp_path / "try.html"
    assert main(["try", "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"page: {page}"
    shares = [float(share) for share in re.findall(r"([\d.]+)% (?:right|left)", said)]
    assert len(shares) == 4
    assert min(shares[0], shares[3]) > 80
    assert max(shares[1], shares[2]) < 20
    held = page.read_text("utf-8").partition('id="state">')[2].partition("</script>")[0]
    state, model = json.loads(held), load("toy-ts")
    halves = np.frombuffer(base64.b64decode(state["weights"]), "<f2")
    for name, place in state["tensors"].items():
        if not name.startswith("initial."):
            held = halves[place["start"] :][: model.state_dict()[name].numel()]
            assert np.array_equal(held, model.state_dict()[name].numpy().ravel()), name
    for k, frame in enumerate(clip_of(state, 0)):
        Image.fromarray(frame.numpy()).save(tmp_path / f"{k}.png")
    page.unlink()
    assert main(["predict", "toy-ts", str(tmp_path)]) == 0
    assert f"{shares[0]}%  right" in capsys.readouterr().out
    assert main(["predict", "toy-ts", str(tmp_path), "--seed", "3"]) == 2
    assert "seed=3, but toy-ts is one shipped model" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no checkpoint at toy; .* a shipped model: toy-ts"):
        load("toy")


@pytest.mark.parametrize(("views", "crops"), [(1, 3), (4, 1), (4, 3)])
def test_evaluation_averages_the_views_of_the_protocols(run, tmp_path, views, crops):
    """Something-Something's 1x3 and Kinetics' 4x1 and 4x3: `eval` is `predict` over a split."""
    ramp = np.linspace(0, 1, 80)
    for label, name in enumerate(NAMES):
        for k in range(1, 25):  # darker on the left, and brighter from frame to frame
            level = 20 + 120 * label + 60 * ramp + 2 * k
            frame = np.repeat(np.tile(level, (32, 1))[..., None], 3, 2).astype(np.uint8)
            path = tmp_path / "test" / name / "0" / f"{k:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(path)
    model = run / "model-seed0.safetensors"
    scores = evaluate(model, str(tmp_path), clips=views, crops=crops, num_workers=0)
    single = evaluate(model, str(tmp_path), num_workers=0)
    losses = []
    for label, name in enumerate(NAMES):
        video = tmp_path / "test" / name / "0"
        found = predict_video(open_run(run), video, num_views=views, num_crops=crops)
        losses.append(-found.probabilities[label].log().item())
    assert scores["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert scores["loss"] != pytest.approx(single["loss"], rel=1e-6)


def test_evaluation_on_other_classes_is_refused(run, write_clip, tmp_path, capsys):
    for name in ("night", "noon"):
        write_clip(tmp_path / "test" / name / "0.mp4", [60] * 6)
    assert main(["eval", str(run), "--data", str(tmp_path), "--workers", "0"]) == 2
    assert "class 'dark' of the run is 'night'" in capsys.readouterr().err


def test_frame_folders_are_classified_too(run, tmp_path):
    for k in range(1, 8):
        Image.new("RGB", (40, 32), (210,) * 3).save(tmp_path / f"{k:05d}.jpg")
    found = predict_video(open_run(run), tmp_path)
    assert (found.top(1)[0][0], found.decoder, found.num_frames) == ("light", "images", 7)


def test_features_of_videos_are_a_table_of_what_the_classifier_reads(
    run, write_clip, tmp_path, capsys
):
    videos = [
        str(write_clip(tmp_path / f"{i}.mp4", [level] * 9)) for i, level in enumerate((45, 9))
    ]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    command = ["features", str(run), videos[0], str(tmp_path / "bad.mp4"), videos[1]]
    options = ["--clips", "2", "--device", "cpu", "--out"]
    table, arrays = tmp_path / "new" / "f.parquet", tmp_path / "f.npz"
    assert main([*command, *options, str(table)]) == 2  # the bad one is named, the others are there
    shown = capsys.readouterr()
    assert "bad.mp4: cannot be opened as a video" in shown.err
    assert "4 clips of 2 videos; features 16, logits 2" in shown.out
    rows = pd.read_parquet(table)
    assert rows["video"].tolist() == [name for name in videos for _ in range(2)]
    assert rows["view"].tolist() == [0, 1, 0, 1]
    trained = open_run(run)
    logits = rows[[f"logit {name}" for name in NAMES]].to_numpy()
    features = rows[[f"feature {i}" for i in range(16)]].to_numpy()
    with torch.no_grad():
        read = trained.model.head(torch.tensor(features)).numpy()
    np.testing.assert_allclose(read, logits, atol=1e-5)
    mean = torch.tensor(logits[:2]).mean(0).softmax(-1)
    found = predict_video(trained, videos[0], num_views=2).probabilities
    torch.testing.assert_close(mean, found, rtol=0, atol=1e-5)
    assert main([command[0], *command[1:3], command[4], *options, str(arrays)]) == 0
    with np.load(arrays) as held:
        assert {name: held[name].shape for name in held} == {
            "classes": (2,), "video": (4,), "view": (4,), "crop": (4,),
            "features": (4, 16), "logits": (4, 2),
        }  # fmt: skip
        np.testing.assert_array_equal(held["features"], features)
    assert clip_features(trained, videos[0])["crop"].tolist() == [0]
    for words, given in (
        ("must end in .parquet or .npz", [*command, "--out", "f.csv"]),
        ("none of 1 videos can be read", [*command[:2], command[3], "--out", str(arrays)]),
        ("crops=0", [*command, "--out", str(arrays), "--crops", "0"]),
    ):
        assert main(given) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(("height", "width", "least"), [(32, 48, 320), (90, 700, 700)])
def test_annotated_video_keeps_all_frames_above_a_panel(
    run, write_clip, tmp_path, height, width, least
):
    video = write_clip(tmp_path / "in.mp4", [60] * 5 + [160] * 5, height=height, width=width, fps=5)
    out = tmp_path / "new/out.mp4"
    found = predict_video(open_run(run), video)
    before = video.read_bytes()
    with pytest.raises(ValueError, match=r"in\.mp4 is the video itself"):
        annotate_video(found, video)
    assert video.read_bytes() == before
    annotate_video(found, out)
    written = read_video(out)
    assert (len(written.frames), written.fps) == (10, 5.0)
    assert written.frames.shape[2] >= least
    pictures = written.frames[:, : written.frames.shape[2] * height // width - 4]
    np.testing.assert_allclose(pictures[[0, -1]].mean((1, 2, 3)), [60, 160], atol=4)
    panels = written.frames[:, pictures.shape[1] + 8 :]
    assert panels.mean() > 200
    assert (panels[0].astype(int) != panels[-1]).any()  # the mark on the time line has moved
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_command_prints_the_rest_after_a_bad_video(run, write_clip, tmp_path, capsys):
    good = write_clip(tmp_path / "good.mp4", [45] * 8)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert main(["predict", str(run), str(tmp_path / "bad.mp4"), str(good)]) == 2
    shown = capsys.readouterr()
    assert "bad.mp4: cannot be opened as a video" in shown.err
    lines = shown.out.splitlines()
    assert lines[0] == f"{good} (8 frames, read by decord)"
    assert lines[1].split() == [lines[1].split()[0], "dark"]
    assert lines[1].split()[0].endswith("%")
    assert main(["predict", str(run), str(good), "--annotate", str(tmp_path / "x.mp4")]) == 0
    assert (tmp_path / "x.mp4").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{run}", "a.mp4", "b.mp4", "--annotate", "x.mp4"], "takes one video, not 2"),
        (["{run}", "{good}", "--annotate", "x.avi"], "name it x.mp4"),
        (["{run}", "{good}", "--clips", "0"], "num_views=0"),
        (["{run}", "{good}", "--crops", "2"], "num_crops=2"),
        (["{run}", "{good}", "--seed", "7"], "seed=7 is not one of"),
        (["nowhere", "{good}"], "no run at nowhere"),
        (["{run}", "none.mp4"], "no such file"),
        (["{run}", "none.mp4", "--device", "cuda:99"], "device='cuda:99' is not here"),
    ],
)
def test_bad_requests_are_named(run, write_clip, tmp_path, capsys, words, expected):
    good = write_clip(tmp_path / "good.mp4", [45] * 8)
    command = [word.format(run=run, good=good) for word in words]
    assert main(["predict", *command]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1


def flicker(write_clip, path: Path, seconds: list[int], fps: int = 10) -> Path:
    """A recording whose seconds are dark (0) or light (1)."""
    levels = [45 + 160 * second + k % 3 for second in seconds for k in range(fps)]
    return write_clip(path, levels, fps=fps)


def test_parts_of_a_recording_are_answered_as_videos_of_their_own(run, write_clip, tmp_path):
    seconds = [0, 0, 1, 0, 1, 1] * 3 + [1]  # more parts than are decoded at once
    video = flicker(write_clip, tmp_path / "long.mp4", seconds)
    trained = open_run(run)
    parts = list(predict_parts(trained, video, 1.0, num_views=2, num_crops=3))
    assert [part.top(1)[0][0] for part in parts] == [NAMES[second] for second in seconds]
    assert [part.seconds for part in parts] == [(k, k + 1) for k in range(len(seconds))]
    alone = flicker(write_clip, tmp_path / "one.mp4", [seconds[2]])
    whole = predict_video(trained, alone, num_views=2, num_crops=3)
    np.testing.assert_allclose(parts[2].probabilities, whole.probabilities, atol=1e-3)
    assert {int(i) // 10 for i in parts[2].indices} == {2}
    uneven = list(predict_parts(trained, video, 2.0))
    assert uneven[-1].seconds == (18, 19)  # half a part, and no frame is left out
    with pytest.raises(ValueError, match="hold"):
        list(predict_parts(trained, video, 0.01))


@pytest.mark.parametrize(
    ("name", "shown", "said"),
    [
        ("uneven.mp4", [*range(0, 4000, 400), *range(4000, 6000, 50)], [0, 2, 4]),
        ("a pause.mp4", [*range(0, 2000, 100), *range(8000, 10000, 100)], [0, 8]),
        ("header's rate is not kept.mkv", range(7000, 13000, 200), [0, 2, 4]),
    ],
)
def test_seconds_of_parts_are_the_films_own(run, tmp_path, name, shown, said):
    """Frames that are dark in even pairs of seconds and light in odd ones, shown at these ms."""
    with av.open(str(tmp_path / name), "w") as film:
        stream = film.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for ms in shown:
            level = 45 + 160 * ((ms - shown[0]) // 2000 % 2)
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    parts = list(predict_parts(open_run(run), tmp_path / name, 2.0))
    assert [part.seconds[0] for part in parts] == pytest.approx(said)
    assert [part.top(1)[0][0] for part in parts] == [NAMES[s // 2 % 2] for s in said]
    annotate_video(parts, tmp_path / "annotated.mp4")
    played = frame_times(str(tmp_path / "annotated.mp4"))
    np.testing.assert_allclose(played, (np.array(shown) - shown[0]) / 1000, atol=1e-3)


def test_slide_writes_a_table_a_line_and_a_video_that_follow(run, write_clip, tmp_path, capsys):
    video = flicker(write_clip, tmp_path / "long.mp4", [0, 1, 1])
    command = ["predict", str(run), str(video), "--slide", "1"]
    assert main(command) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["start_s"], row["end_s"], row["class"]) for row in rows] == [
        ("0.000", "1.000", "dark"),
        ("1.000", "2.000", "light"),
        ("2.000", "3.000", "light"),
    ]
    out = tmp_path / "out"
    assert main([*command, "--out", str(out), "--annotate", str(out / "x.mp4")]) == 0
    assert list(csv.DictReader((out / "timeline.csv").open())) == rows
    band = np.asarray(Image.open(out / "timeline.png").convert("RGB"))[40]
    assert len({tuple(band[x]) for x in (100, 500, 900)}) == 2
    frames = read_video(out / "x.mp4").frames
    first, last = (np.asarray(frames[k][-120:], int) for k in (3, 25))
    assert np.abs(first - last).max() > 100  # the bars change places of their names
    assert main(["predict", str(run), str(video), "--out", str(out)]) == 2
    assert "--slide SECONDS" in capsys.readouterr().err


# ---- eval ----------------------------------------------------------------------------------------


def answers(logits, labels, names=("a", "b", "c")) -> ClipScores:
    files = tuple(f"{i}.mp4" for i in range(len(labels)))
    return ClipScores("m", names, files, torch.tensor(labels), torch.tensor(logits))


def test_scores_by_class_name_what_top1_hides():
    found = answers([[3.0, 0, 0], [2, 1, 0], [0, 1, 2.5], [5, 0, 0]], [0, 1, 0, 0])
    assert found.metrics()["top1"] == pytest.approx(0.5)
    assert found.metrics()["class_mean"] == pytest.approx((2 / 3 + 0) / 2)  # c has no clips
    assert "top5" not in found.metrics()
    rows = found.by_class()
    assert [row["class"] for row in rows] == ["a", "b"]
    assert [row["num_predicted"] for row in rows] == [3, 0]
    assert [row["taken_for"] for row in rows] == ["c", "a"]
    assert found.confusion().tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert [row["file"] for row in found.by_clip()] == ["2.mp4", "1.mp4", "0.mp4", "3.mp4"]
    assert list(found.say())[-1] == "  never predicted: b"


def test_eval_writes_a_row_a_clip_a_class_and_a_matrix(run, tmp_path, capsys):
    out = tmp_path / "scores"
    assert main(["eval", str(run), "--workers", "0", "--out", str(out)]) == 0
    assert "mean over classes 100.0%" in capsys.readouterr().out
    rows = list(csv.DictReader((out / "clips.csv").open()))
    assert {Path(row["file"]).parent.name for row in rows} == set(NAMES)
    assert all(Path(row["file"]).is_file() and row["truth"] == row["first"] for row in rows)
    likely = [float(row["probability"]) for row in rows]
    assert likely == sorted(likely)
    for row in rows:
        logits = torch.tensor([float(row[f"logit {name}"]) for name in NAMES])
        own = logits.softmax(0)[NAMES.index(row["truth"])]
        assert float(row["probability"]) == pytest.approx(float(own), abs=1e-5)
    table = list(csv.DictReader((out / "confusion.csv").open()))
    assert [[int(row[name]) for name in NAMES] for row in table] == [[2, 0], [0, 2]]
    assert Image.open(out / "confusion.png").size[0] > 60
    assert [*score_files(tmp_path)] == [*score_files(out)] == [out / name for name in FILES]
    assert link(out / "clips.csv", tmp_path / "page") == "../scores/clips.csv"
    assert link(tmp_path / os.fsdecode(b"caf\xe9 1#"), tmp_path) == "caf%E9%201%23"


@pytest.mark.parametrize("num_classes", [1, 3, 60, 400])
def test_confusion_is_drawn_for_any_number_of_classes(num_classes):
    names = [f"class $x_{k}$" for k in range(num_classes)]
    figure = draw_confusion(torch.eye(num_classes, dtype=torch.int64), [*names[:-1], "caf\udce9"])
    names[-1] = "caf\\xe9"
    assert Image.open(io.BytesIO(as_png(figure))).width < 2000
    (ax,) = figure.axes
    told = [text.get_text() for text in ax.get_yticklabels()]
    assert told == (names if num_classes <= 100 else [])
    assert [text.get_text() for text in ax.texts if text.get_text()] == (
        ["100"] * num_classes if num_classes <= 30 else []
    )


# ---- Trust ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory) -> Path:
    """A small run of generated clips."""
    out = tmp_path_factory.mktemp("trust") / "run"
    assert main(["train", "--out", str(out), *DIGITS, "num_val_clips=56", "--seeds", "0,1"]) == 0
    return out


def test_calibration_error_is_that_of_bins_by_hand():
    """Three clips say 0.75, of which two are right; one says 0.95, wrongly."""
    said = torch.tensor([0.75, 0.75, 0.75, 0.95], dtype=torch.float64)
    logits = torch.stack([said, 1 - said], dim=1).log()
    found = Calibration.of(logits, torch.tensor([0, 0, 1, 1]))
    assert found.counts.tolist() == [0] * 7 + [3, 0, 1]
    assert found.error == pytest.approx((3 * (0.75 - 2 / 3) + 0.95) / 4)
    (ax,) = draw_reliability(logits, logits, torch.tensor([0, 0, 1, 1])).axes
    assert [text.get_text() for text in ax.texts] == ["3", "1"]
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([200 / 3, 0])


def test_temperature_is_found_again():
    """Labels are drawn by the probabilities of logits, which are then made three times as sure."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    assert fit_temperature(3 * logits, labels) == pytest.approx(3.0, rel=0.05)
    cooled = Calibration.of(3 * logits, labels, 3.0).error
    assert cooled < 0.03 < 0.1 < Calibration.of(3 * logits, labels).error
    with pytest.raises(ValueError, match="2 of 2 val clips are right"):
        fit_temperature(torch.eye(2), torch.arange(2))


def test_shifts_are_what_they_are_called():
    clips = torch.arange(8, dtype=torch.uint8).view(1, 8, 1, 1, 1).expand(1, 8, 4, 4, 3) * 10
    frames = {name: (shift(clips)[0, :, 0, 0, 0] / 10).tolist() for name, shift in SHIFTS.items()}
    assert frames["frame rate x 0.5"] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert frames["speed x 0.5"] == [2, 2, 3, 3, 4, 4, 5, 5]
    assert frames["speed x 2"] == [0, 0, 0, 2, 4, 6, 7, 7]
    assert frames["resolution x 0.25"] == frames["none"] == list(range(8))
    stripes = torch.tensor([0, 200], dtype=torch.uint8).repeat(2).view(1, 1, 4, 1, 1)
    assert set(SHIFTS["resolution x 0.5"](stripes.expand(1, 2, 4, 4, 3)).flatten().tolist()) == {
        100
    }


def test_eval_fits_temperatures_that_predict_uses(digits_run, tmp_path, capsys, write_clip):
    video = write_clip(tmp_path / "fade.mp4", list(range(20, 220, 10)))
    before = predict_video(open_run(digits_run, 1), video).probabilities
    words = ["eval", str(digits_run), "--calibrate", "--shifts", "--out", str(tmp_path / "scores")]
    assert main(words) == 0
    said = capsys.readouterr().out
    stored = json.loads((digits_run / "calibration.json").read_text())["temperatures"]
    assert list(stored) == ["model-seed0.safetensors", "model-seed1.safetensors"]
    by = temperature_of(digits_run / "model-seed1.safetensors")
    assert f"at temperature {by:.2f}, which predict uses" in said
    after = predict_video(open_run(digits_run, 1), video).probabilities
    torch.testing.assert_close(after, (before.log() / by).softmax(-1))
    rows = list(csv.DictReader((tmp_path / "scores/shifts.csv").open()))
    assert [row["shift"] for row in rows] == 2 * list(SHIFTS)
    assert {float(row["lost"]) for row in rows if row["shift"] == "none"} == {0.0}
    for name in ("reliability", "shifts"):
        assert Image.open(tmp_path / f"scores/{name}.png").width > 300
    (digits_run / "calibration.json").write_text('{"temperatures": {"model-seed1.safetensors": 0}}')
    assert main(["predict", str(digits_run), str(video), "--seed", "1"]) == 2
    assert re.search(r"calibration.json is damaged \(0.0 is no", capsys.readouterr().err)
    (digits_run / "calibration.json").unlink()
    assert math.isclose(temperature_of(digits_run / "model-seed1.safetensors"), 1.0)


def test_card_says_what_a_hub_and_a_reader_ask(digits_run, tmp_path, capsys):
    assert main(["card", str(digits_run)]) == 0
    text = (digits_run / "README.md").read_text()
    head, body = text.split("---\n")[1:]
    about = yaml.safe_load(head)
    assert (about["license"], about["pipeline_tag"]) == ("other", "video-classification")
    (result,) = about["model-index"][0]["results"]
    last = read_metrics(digits_run / "metrics.csv")[-2:]
    mean = sum(row["test_top1"] for row in last) / 2
    assert result["metrics"][0]["value"] == pytest.approx(mean, abs=1e-4)
    low, high = wilson(last[0]["test_top1"], 28)
    assert f"{last[0]['test_top1']:.1%} ({100 * low:.1f} to {100 * high:.1f})" in body
    assert "| mean of 2 |" in body
    assert "It learned from 28 clips, and knows no class but its 14." in body
    assert body.count("*fill in*") == 3
    capsys.readouterr()
    for words, told in (
        ([str(digits_run)], "may be filled in; remove it, or give another --out"),
        ([str(digits_run.parent)], "no run at"),
    ):
        assert main(["card", *words]) == 2
        assert told in capsys.readouterr().err
    damaged = tmp_path / "run"
    for name, content, told in (
        ("environment.json", '{"packages": [1]}', "environment.json is damaged (packages is no"),
        (
            "metrics.csv",
            "epoch,seed,test_top1\n1,0,high\n",
            "test_top1='high', no number",
        ),
        ("scores/classes.csv", "a,b\n1,2\n", "classes.csv is damaged (it has no scores); write it"),
        ("config.json", '{"seeds": [0]}', "config.json is damaged (model is missing)"),
    ):
        shutil.copytree(digits_run, damaged, dirs_exist_ok=True)
        (damaged / "scores").mkdir(exist_ok=True)
        for other in ("clips.csv", "confusion.csv", "confusion.png"):
            (damaged / "scores" / other).touch()
        (damaged / name).write_text(content)
        assert main(["card", str(damaged), "--out", str(tmp_path / "card.md")]) == 2
        assert told in capsys.readouterr().err
        shutil.rmtree(damaged)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_a_file_takes_no_temperature(digits_run, capsys):
    model = str(digits_run / "model-seed0.safetensors")
    assert main(["eval", model, "--data", "moving-digits", "--calibrate"]) == 2
    assert "--calibrate stores in a run folder" in capsys.readouterr().err
