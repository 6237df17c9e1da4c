"""A run's page, bias folder and curves, read back from the files that they write."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from analysis import bias_maps, cost, draw_speed_accuracy, gather_curves, last_epochs, write_page
from analysis.bias.draw_bias import growth
from analysis.cli import main
from analysis.figures.style import plain
from analysis.interventions.run_clips import independent_clips, run_clips
from analysis.page import attribution as page_attribution
from analysis.page import reliance
from analysis.page import sections as page_sections
from analysis.page.costs import unreliable
from analysis.page.page import SECTIONS
from analysis.results.curves import highest_in_words
from posmlp.checkpoint import load, write_atomically
from posmlp.clip_scores import FILES
from posmlp.config import TrainConfig
from posmlp.data.digits.moving_digits import MovingDigits
from posmlp.data.digits.synthetic import write_dataset
from posmlp.data.sources import GeneratedClips
from posmlp.train.fitting import fit
from posmlp.train.population import seeded_model
from tests.train.test_population import DIGITS, TINY

CONFIG = replace(TINY, dims=(8, 20), num_groups=(2, 10), windows=(4, 1), **DIGITS)


@pytest.fixture(scope="module", autouse=True)
def _few_scored_clips() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_attribution, "NUM_SCORED_CLIPS", 4)
        yield


def trained(out: Path, seeds: tuple[int, ...] = (0,), every: int = 0, **changes: object) -> Path:
    train, test = (
        GeneratedClips(MovingDigits(split, 28, num_frames=4, image_size=16, paired=split == "test"))
        for split in ("train", "test")
    )
    config = replace(CONFIG, **changes)
    how = TrainConfig(epochs=2, batch_size=14, checkpoint_every=every)
    fit(config, how, (train, test), seeds, out, progress=False)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "run", (3, 5), every=1)


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    for name in FILES:
        write_atomically(run / "eval" / name, b"")
    return write_page(run)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "dense", gate="dense", layout="S")


def sections(page: Path) -> dict[str, str]:
    """The HTML of each section by its title."""
    parts = re.split(r'<h2 id="[^"]*">([^<]*)</h2>', page.read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def reason(section: str) -> str | None:
    found = re.search(r'<p class="reason">(.*?)</p>', section, re.S)
    return found[1] if found else None


def test_page_gathers_every_section_in_one_file(run: Path, page: Path) -> None:
    assert page == run / "analysis.html"
    found = sections(page)
    assert list(found) == list(SECTIONS)
    assert re.findall(r'<a href="([^"]+)">eval/', found["Accuracy"]) == [f"eval/{n}" for n in FILES]
    assert [reason(text) for text in found.values()] == [None] * len(found)
    assert not re.search(r'(src|href)="(?!data:|#|eval/)', page.read_text())
    assert not plt.get_fignums()
    for encoded in re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text()):
        with Image.open(BytesIO(base64.b64decode(encoded))) as image:
            assert image.width > 200
    assert found["Where it looks"].count("<img") == 4
    story = found["Where the order of frames becomes the answer"]
    assert story.count("<img") == 2
    assert "<td>stage2.block1.step1.T</td><td>sum</td>" in story
    assert "28 test clips" in story
    pictures = re.findall(r'base64,([^"]+)"', found["How the weights came to be"])
    counts = []
    for picture in pictures:
        with Image.open(BytesIO(base64.b64decode(picture))) as image:
            counts.append(getattr(image, "n_frames", 1))
    # of T and of S a sheet, the arrow of time, then three epochs in motion
    assert counts == [1, 1, 1, 3, 3]


def test_page_shows_the_numbers_of_the_run(run: Path, page: Path) -> None:
    found = sections(page)
    metrics = pd.read_csv(run / "metrics.csv").query("epoch == 2")
    for seed, score in zip(metrics["seed"], metrics["test_top1"], strict=True):
        cell = f"{100 * score:.1f}"
        assert re.search(rf"<td>{seed}</td><td>2</td>.*<td>{cell}</td>", found["Accuracy"])
    assert "<th>test within pair (%)</th>" in found["Accuracy"]
    verdict = re.search(r'<div class="verdict">(.*?)</div>', page.read_text(), re.S)
    assert verdict
    for part in (
        f"{metrics['test_top1'].mean():.0%} of test clips are answered right, mean of 2 seeds",
        "Nothing in this model tells a clip from its reversal.",
        "Tables set to 0 change within-pair accuracy: all of branch",
        "<strong>Distrust</strong> ",
        "as a rule: it is of seed 3 alone",
    ):
        assert part in " ".join(verdict[1].split())
    counted = cost(CONFIG)
    assert f"{counted['params']:,}" in found["Cost"]
    assert f"keeps {plain(counted['saved_bytes'] / 1e6)} MB" in found["Cost"]
    for title, text in found.items():
        said = re.sub(r'(src|srcdoc)="[^"]*"', "", text)
        assert title == "Provenance" or not re.search(r"\de[+-]\d\d", said)
    assert re.search(r"<td>1</td><td>[\d.]+</td>.*<td>16</td><td>[\d.]+</td>", found["Cost"], re.S)
    framed = re.search(r'srcdoc="([^"]+)"', found["Mixing weights"])
    assert framed
    assert '<script type="application/json" id="state">' in html.unescape(framed[1])
    assert "28 test clips" in found["Which groups the model uses"]
    assert found["Which groups the model uses"].count(", group ") == 2 * (2 + 10)
    assert found["Which groups the model uses"].count("<img") == 4  # two have exemplars, T and S
    assert json.loads((run / "environment.json").read_text())["platform"] in found["Provenance"]


def test_titles_on_the_page_state_what_was_found(run: Path) -> None:
    metrics = pd.read_csv(run / "metrics.csv").query("epoch == 2")
    [(_, curves)] = page_sections.accuracy(run).figures
    title = curves.axes[0].get_title(loc="left").replace("\n", " ")
    assert f"test top-1 {metrics['test_top1'].mean():.0%}" in title
    maps, start = (
        bias_maps(model)
        for model in (load(run / "model-seed3.safetensors"), seeded_model(CONFIG, 3))
    )
    first = [table.query("stage == 1 and branch == 'T'") for table in (maps, start)]
    drawn = page_sections.maps(run).figures[0][1]
    assert drawn.get_suptitle() == f"Trained weights: {growth(*first)}"
    knocked = reliance.group_knock_outs(run)
    titles = [f.axes[0].get_title(loc="left").replace("\n", " ") for _, f in knocked.figures]
    cells = {row[0]: float(row[2].split(" ")[0]) for row in knocked.tables[0].rows}
    alone = min(value for name, value in cells.items() if "group" in name)
    whole = re.search(r"all groups of ([TS]) together ([+-]\d+)$", titles[1])
    assert f"each group alone {alone:+.1f} points at most, " in titles[1]
    assert whole
    assert float(whole[2]) == pytest.approx(cells[f"{whole[1]} of all stages"], abs=0.51)
    assert f"all of branch {whole[1]} by {whole[2]} points" in titles[0]
    assert list(cells)[:6] == [
        f"{branch} of {stage}" for branch in "TS" for stage in ("all stages", "stage 1", "stage 2")
    ]
    card = page_attribution.scorecard(run)
    rows = card.tables[0].rows
    masses = {row[0]: float(row[3]) for row in rows if row[1] == "mass on object (%)"}
    best = max(masses, key=masses.__getitem__)
    assert f"moving object: {best}, {masses[best]:.0f}% [" in card.figures[0][1].get_suptitle()
    ticks = [ax.get_xlim() for ax in card.figures[0][1].axes]
    assert max(high for _, high in ticks) < 1.1  # no share of more than all


def test_page_says_why_a_section_does_not_apply(dense: Path, tmp_path: Path) -> None:
    stored = json.loads((dense / "config.json").read_text())
    gone = tmp_path / "gone"
    gone.mkdir()
    for path in dense.iterdir():
        (gone / path.name).write_bytes(path.read_bytes())
    stored["data"]["test"] = {"name": "videos", "root": "v"}
    stored["source"] = "no/such/folder"
    (gone / "config.json").write_text(json.dumps(stored))
    (gone / "metrics.csv").unlink()
    found = {title: reason(text) for title, text in sections(write_page(gone)).items()}
    story = found["Where the order of frames becomes the answer"] or ""
    assert "layout S over 4 frames never mixes over time" in story
    assert "no metrics.csv" in (found["Accuracy"] or "")
    assert "has no table of free numbers" in (found["Which groups the model uses"] or "")
    assert "no folder at" in (found["Where it looks"] or "")
    assert "epochs [0, 2] only; train with" in (found["How the weights came to be"] or "")
    assert "these clips are videos" in (found["Which attribution can be believed"] or "")
    assert found["Mixing weights"] is found["Cost"] is None


def test_a_timing_is_unreliable_on_a_busy_machine_or_where_batches_disagree() -> None:
    timed = pd.DataFrame({"batch_size": [1, 16], "median_ms": [2.0, 9.0], "load": [0.4, 0.9]})
    assert unreliable(timed, cores=1) == ""
    assert unreliable(timed.assign(load=[2.0, 6.5]), cores=4).startswith("load 6.5 on 4 cores")
    faster = timed.assign(median_ms=[30.0, 9.0])
    assert unreliable(faster, cores=1) == "a larger batch came out faster than a smaller one"


def test_numbers_are_told_without_exponents() -> None:
    told = [plain(value) for value in (1234.5, 0.000213, 24.31, 2.0, 0.0, -0.0042)]
    assert told == ["1,234", "0.000213", "24.3", "2", "0", "-0.0042"]


def test_run_clips_are_the_tested_ones_in_pairs(run: Path) -> None:
    whole = MovingDigits("test", 28, num_frames=4, image_size=16, paired=True)
    held = run_clips(run, 8)
    assert held.labels[1::2].tolist() == whole.reverse_of[held.labels[::2]].tolist()
    assert len(held) == 8
    first, last = held.clips[0], held.clips[-1]
    rendered = GeneratedClips(whole).clips
    assert (first == rendered[0]).all()
    assert (last == rendered[-1]).all()
    assert held.truth is not None
    assert (held.truth.clips == held.clips).all()
    fresh = independent_clips(run, 4)
    assert fresh is not None
    assert not (fresh.clips[1] == fresh.clips[0].flip(0)).all()


def test_video_files_of_ours_are_found_from_the_run_folder_with_their_truth(
    dense: Path, tmp_path: Path
) -> None:
    look = {"num_frames": 4, "image_size": 32}
    write_dataset(tmp_path / "data", num_train=2, num_val=2, num_test=6, **look, progress=False)
    run = tmp_path / "runs" / "of"
    run.mkdir(parents=True)
    stored = json.loads((dense / "config.json").read_text())
    stored |= {"source": "data", "data": {"test": {"name": "data"}}}
    stored["model"]["image_size"] = 32
    (run / "config.json").write_text(json.dumps(stored))
    made = MovingDigits("test", 6, **look, paired=True).render(torch.tensor([0, 1, 4, 5]))
    held = run_clips(run, 4)
    assert held.truth is not None
    for label, masks in zip(made.labels, made.masks, strict=True):
        assert (held.truth.masks[held.labels == label] == masks).all()
    fresh = independent_clips(run, 3)
    assert fresh is not None
    assert (fresh.clips == MovingDigits("test", 6, **look).render(torch.arange(3)).clips).all()
    stored["model"]["image_size"] = 16
    (run / "config.json").write_text(json.dumps(stored))
    assert run_clips(run, 2).truth is independent_clips(run, 2) is None


def test_bias_command_writes_maps_statistics_and_a_figure_a_unit(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bias", str(run), "--seed", "5"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "bias")
    expected = bias_maps(load(run / "model-seed5.safetensors"))
    written = pd.read_csv(run / "bias" / "maps.csv")
    np.testing.assert_allclose(written["bias"], expected["bias"])
    statistics = pd.read_csv(run / "bias" / "statistics.csv")
    assert {"entropy", "entropy_initial", "entropy_shuffled"} <= set(statistics)
    units = expected[["stage", "block", "branch"]].drop_duplicates()
    assert len(list((run / "bias").glob("*.png"))) == len(units) - 1  # S over one token has no map
    assert main(["bias", str(run / "bias")]) == 2


def test_commands_refuse_what_cannot_be_used_before_they_compute(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = str(run / "config.json"), str(run)
    cases = {
        ("bias", folder, "--out", file): "is a file; name a folder",
        ("all", folder, "--out", folder): "is a folder; name a file",
        ("peers", "--device", "tpu"): "device='tpu' is not here",
        ("peers", "--device", "meta"): "device='meta' is not here",
        ("peers", "--device", "cuda:99"): "device='cuda:99' is not here (torch sees",
        ("peers", "--batch", "0"): "'0' must be a whole number of at least 1",
        ("peers", "--runs", "-1"): "'-1' must be a whole number of at least 1",
    }
    for words, message in cases.items():
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    learned, attribute = ("learned", "--out", folder), ("attribute", "x.mp4")
    for name, *more in (("all",), ("inside",), ("classes",), learned, attribute):
        assert main([name, folder, *more, "--device", "cuda:99"]) == 2
        assert "device='cuda:99' is not here" in capsys.readouterr().err
    assert main(["bias", str(run), "--out", f"{file}/below"]) == 2
    assert f"{file}/below" in capsys.readouterr().err


def test_curves_command_gathers_runs_by_folder_and_leaves_out_the_unfinished(
    run: Path, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, source in (("a", run), ("b", dense)):
        (tmp_path / name).mkdir()
        for file in ("config.json", "metrics.csv"):
            (tmp_path / name / file).write_text((source / file).read_text())
    short = pd.read_csv(tmp_path / "b" / "metrics.csv").query("epoch == 1")
    short.to_csv(tmp_path / "b" / "metrics.csv", index=False)
    curves = gather_curves(tmp_path)
    assert curves.groupby("variant").size().to_dict() == {"a": 4, "b": 1}
    last = last_epochs(curves, "test_top1").set_index(["variant", "seed"])
    assert last["test_top1"].isna().to_dict() == {("a", 3): False, ("a", 5): False, ("b", 0): True}
    assert highest_in_words(last.reset_index(), "test_top1").startswith("Highest mean test_top1: a")
    assert main(["curves", str(tmp_path)]) == 0
    names = sorted(path.name for path in (tmp_path / "curves").iterdir())
    assert names == ["learning-curves.png", "runs.csv", "speed-accuracy.png"]
    capsys.readouterr()
    assert main(["curves", str(tmp_path / "curves")]) == 2
    assert "no run under" in capsys.readouterr().err


def speeds() -> pd.DataFrame:
    costs = {"a": (1.0, 10.0, 100.0), "b": (2.0, 20.0, 60.0), "c": (4.0, 40.0, 80.0)}
    scores = {"a": 0.3, "b": 0.5, "c": 0.6}
    return pd.DataFrame(
        [
            {"variant": v, "seed": s, "test_top1": scores[v] + 0.01 * s,
             "params": p, "latency_ms": ms, "clips_per_s": speed}
            for v, (p, ms, speed) in costs.items() for s in (0, 1)
        ]
    )  # fmt: skip


def test_speed_accuracy_has_a_panel_a_cost_with_its_front() -> None:
    axes = draw_speed_accuracy(speeds().assign(gmacs=np.nan))
    assert [ax.get_xlabel().split(" ")[0] for ax in axes] == ["parameters", "latency", "throughput"]
    fronts = [
        next(line for line in ax.get_lines() if line.get_drawstyle() == "steps-post") for ax in axes
    ]
    assert fronts[0].get_xdata().tolist() == [1, 2, 4, 4]
    np.testing.assert_allclose(fronts[0].get_ydata(), [0.305, 0.505, 0.605, 0.605])
    # b is both slower and worse than c: at a throughput it is not on the front, which runs left
    assert fronts[2].get_xdata().tolist() == [100, 80, 60]
    assert all(ax.get_xscale() == "log" for ax in axes)
    with pytest.raises(ValueError, match="no column of params, gmacs"):
        draw_speed_accuracy(speeds()[["variant", "seed", "test_top1"]])


def test_speed_accuracy_joins_families_marks_layouts_and_keeps_published_scores_hollow() -> None:
    kinds = {"a": ("lrpe", "T+S"), "b": ("lrpe", "ST"), "c": ("dense", "T+S")}
    df = speeds().assign(
        gate=lambda rows: [kinds[name][0] for name in rows["variant"]],
        layout=lambda rows: [kinds[name][1] for name in rows["variant"]],
        source=lambda rows: np.where(rows["variant"] == "c", "published", "measured"),
        latency_q1_ms=lambda rows: 0.9 * rows["latency_ms"],
        latency_q3_ms=lambda rows: 1.5 * rows["latency_ms"],
        gmacs=2.0, num_views=6, device="cpu", mode="eager", torch="2.9",
    )  # fmt: skip
    axes = draw_speed_accuracy(df, family="gate", marker="layout")
    dots = [line for line in axes[0].get_lines() if line.get_marker() in ("o", "s")]
    assert [dot.get_marker() for dot in dots] == ["o", "s", "o"]
    assert dots[0].get_color() == dots[1].get_color() != dots[2].get_color()
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, False, True]
    joined = [line.get_xdata() for line in axes[0].get_lines() if line.get_alpha()]
    assert [list(xs) for xs in joined] == [[1, 2], [4]]
    front = next(line for line in axes[0].get_lines() if line.get_drawstyle() == "steps-post")
    assert front.get_xdata().tolist() == [1, 2, 2], "a published score is on the front"
    spans = [list(line.get_xdata()) for line in axes[2].get_lines()]
    assert [9.0, 15.0] in spans
    assert axes[1].get_xlabel().startswith("multiply-adds of a clip x views")
    assert dots[0].get_xdata()[0] == 1
    assert {line.get_xdata()[0] for line in axes[1].get_lines() if line.get_marker() == "o"} == {12}
    caption = axes[0].figure.get_supxlabel()
    for part in ("front", "hollow: from the paper", "cpu", "eager", "torch 2.9"):
        assert part in caption
    with pytest.raises(ValueError, match="no column 'kind'"):
        draw_speed_accuracy(df, family="kind")


def test_speed_accuracy_labels_do_not_overlap() -> None:
    one_place = pd.concat(
        [speeds().query("variant == 'c'").assign(variant=f"variant-{i}") for i in range(5)]
    )
    figure = draw_speed_accuracy(one_place)[0].figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 5
    heights = sorted(box.y0 for box in boxes)
    assert min(np.diff(heights)) >= 0.9 * boxes[0].height
    assert all(box.x1 <= figure.axes[0].bbox.x1 + 1 for box in boxes)


def test_inside_command_writes_tables_and_figures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inside", str(run), "--clips", "4", "--where", "*.out", "--seed", "5"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    names = {"arrow.csv", "arrow.png", "contributions.csv", "patching.csv", "patching.png"}
    names |= {"control.csv", "mean.csv", "paths.csv"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert main([*words[:2], "--clips", "2"]) == 2
    assert "--clips 2 leaves one pair" in capsys.readouterr().err
    summands = pd.read_csv(tmp_path / "contributions.csv").query("how == 'sum'")["name"]
    assert summands.tolist() == [
        *("stage2.input", "stage2.block1.step1.T.out", "stage2.block1.step1.S.out", "norm")
    ]
    seeds = tmp_path / "seeds"
    assert main(["inside", str(run.parent), *words[2:6], "--out", str(seeds)]) == 0
    assert pd.read_csv(seeds / "patching.csv").groupby("seed").size().to_dict() == {3: 4, 5: 4}
    assert pd.read_csv(seeds / "seeds.csv")["n"].tolist() == [0] * 4  # no pair's answers differ
    assert (seeds / "patching.png").stat().st_size > 1000
    capsys.readouterr()
    assert main([*words, "--where", "stage9"]) == 2
    assert "no activation fits 'stage9'" in capsys.readouterr().err
