"""The report of real, tiny trainings: one page, right numbers, no network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from report_folders import fill

from ablations import load, run
from ablations.cli import main
from ablations.report.bias import bias
from ablations.report.clips import NUM_EACH, chosen
from ablations.report.data import Study
from ablations.report.page import write_report
from analysis import units
from analysis.interventions.run_clips import run_clips
from posmlp import create_model
from posmlp.checkpoint import save
from posmlp.predict import open_run
from posmlp.train.scoring import predict

GRID = {
    "question": "Is <time> needed?",
    "prediction": "Yes: S stays at chance.",
    "base": {
        "preset": "toy",
        "data": "moving-digits:easy",
        "depths": [1, 1],
        "dims": [8, 16],
        "num_groups": 2,
        "windows": [4, 2],
        "temporal_windows": 4,
        "mlp_ratio": 2.0,
        "downsample": True,
        "num_frames": 4,
        "image_size": 16,
        "train": {
            **{"epochs": 2, "batch_size": 16, "num_clips": 16},
            **{"num_val_clips": 28, "num_test_clips": 56},
        },
    },
    "axes": {"layout": ["T+S", "S"]},
    "seeds": [0, 1],
    "baseline": {"layout": "T+S"},
    "repeat": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("grid") / "run"
    table = run(GRID, root, progress=False)
    assert (table["status"] == "done").all()
    return root


@pytest.fixture(scope="module")
def page(folder, rendered) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", rendered)
        return write_report(folder).read_text()


def test_report_holds_question_prediction_and_every_variant(page):
    assert "Is &lt;time&gt; needed?" in page
    assert "Yes: S stays at chance." in page
    assert "It names settings of these variants: <strong>S</strong> (" in page
    assert "All 4 declared runs have finished: 2 variants, 2 seeds each." in page
    assert "<strong>S</strong>: " in page


def test_report_numbers_are_the_runs(folder, page):
    for _, runs in load(folder).groupby("name"):
        assert f'<td class="">{100 * runs["test_top1"].mean():.1f}<br><small>[' in page
    text = (folder / "table.md").read_text()
    assert "| 50.0 [50.0, 50.0] |" in text, "layout S is at chance within pairs"


def test_first_screen_draws_the_difference_and_links_the_runs(page):
    (plot,) = re.findall(r'<svg class="dots".*?</svg>', page, re.DOTALL)
    assert "Top-1 on test clips: difference to the baseline, in points" in plot
    assert re.search(r"<title>S: \d+\.\d%, .*points against T\+S\n95% interval of this", plot)
    for seed in (0, 1):
        assert re.search(rf'seed {seed}: <a href="cells/[0-9a-f]+/seed{seed}/">\d', page)


def test_report_needs_no_network(page):
    """Its one script sorts tables; what it links lies beside it."""
    beside = r"#|data:|table\.|rows\.csv|cells/[0-9a-f]+/seed"
    assert not re.search(rf'(src|href)="(?!{beside})', page)
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert page.count("<script") == 1
    assert page.count('<table class="sortable">') == 1
    assert page.count('src="data:image/png;base64,') >= 10


def test_report_shows_what_was_learned_beside_the_start(folder, page):
    assert "learned temporal bias" in page
    assert "learned spatial bias" in page
    for name in ("learned-temporal-bias", "learned-spatial-bias-S", "accuracy", "cost-gmacs"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000, name


def test_report_shows_clips_with_what_each_variant_answers(folder, page):
    shown = re.findall(r'<figure><img class="strip".*?</figure>', page, re.DOTALL)
    assert 1 <= len(shown) <= 2 * NUM_EACH
    for figure in shown:
        assert len(re.findall(r'<a href="cells/[0-9a-f]+/seed[01]/">', figure)) == 2
    label, seed, run = Study.open(folder).best_run()
    held = run_clips(run, 56)
    logits = predict(open_run(run, seed).model, held)
    first = held.classes[held.labels[chosen(logits, held.labels)[0]]]
    assert f'alt="a clip of {first}"' in shown[0]
    assert f"{label}, seed {seed}</a>: <span" in shown[0]


def test_the_surest_clips_are_right_ones_then_wrong_ones_each_of_another_class():
    labels = torch.tensor([0, 0, 1, 1, 2])
    answers, sure = torch.tensor([0, 0, 1, 2, 0]), torch.tensor([3.0, 9.0, 5.0, 8.0, 2.0])
    logits = torch.nn.functional.one_hot(answers, 3) * sure[:, None]
    assert chosen(logits, labels) == [1, 2, 3, 4]


def test_report_finds_no_noise_on_a_cpu(page):
    assert "T+S was trained twice under one seed and gave the same metrics to the last bit" in page


def test_report_without_kept_models_and_histories_leaves_them_out(folder, tmp_path):
    copied = tmp_path / "copy"
    for path in folder.rglob("*"):
        if path.name in ("cell.json", "result.json", "plan.json"):
            target = copied / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    page = write_report(copied).read_text()
    assert "learned temporal bias" not in page
    assert "by epoch" not in page
    assert "All 4 declared runs have finished" in page


def test_report_command_writes_elsewhere_and_refuses_a_bad_margin(folder, tmp_path, capsys):
    out = tmp_path / "new" / "other.html"
    assert main(["report", str(folder), "--out", str(out), "--margin", "3"]) == 0
    assert "smaller than 3 points either way" in out.read_text()
    written = {path.name for path in out.parent.iterdir()}
    tables = {"table.csv", "table.parquet", "table.md", "table.tex", "rows.csv"}
    assert written == {"other.html", "figures", *tables}, "nothing temporary is left"
    assert main(["report", str(folder), "--margin", "0"]) == 2
    assert "margin=0.0 must be above 0 points" in capsys.readouterr().err
    text = tmp_path / "report.txt"
    assert main(["report", str(folder), "--out", str(text)]) == 2
    assert "report.txt': a report is a page; name it FILE.html" in capsys.readouterr().err
    assert not text.exists()


def test_report_looks_inside_the_best_run(folder, tmp_path, monkeypatch, capsys):
    stand_in = "import sys; open(sys.argv[3], 'w').write(sys.argv[1])"  # for a page of 40 s
    monkeypatch.setattr("ablations.report.page.ANALYSIS", (sys.executable, "-c", stand_in))
    out = tmp_path / "new" / "report.html"
    assert main(["report", str(folder), "--out", str(out), "--look-inside"]) == 0
    page = out.with_name("analysis.html")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"page of the best run: {page}", f"report: {out}"]
    table = load(folder)
    best = table[table["test_top1"] == table["test_top1"].max()].iloc[0]
    run = Path("cells", best["id"], f"seed{best['seed']}")
    assert Path(page.read_text()).relative_to(folder) == run
    assert f'<a href="analysis.html">what {best["layout"]}, seed' in out.read_text()
    failing = (sys.executable, "-c", "raise SystemExit('analysis: no such clips')")
    monkeypatch.setattr("ablations.report.page.ANALYSIS", failing)
    assert main(["report", str(folder), "--out", str(out), "--look-inside"]) == 2
    assert re.search("no page of .*, seed .: analysis: no such clips", capsys.readouterr().err)


def test_report_of_nothing_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no ablation" in capsys.readouterr().err


def test_report_of_a_folder_with_damage_says_what_it_lacks(tmp_path: Path) -> None:
    grid = {"axes": {"gate": ["lrpe", "mean"]}, "seeds": 1, "repeat": False}
    root = fill(tmp_path / "run", grid, lambda cell, seed: {"test_top1": 0.5})
    (root / "grid.yaml").write_bytes(b"\xff[")
    for name in ("cell.json", "metrics.csv"):
        next(root.glob(f"cells/**/{name}")).write_text("")
    with pytest.warns(UserWarning, match="has no costs") as warned:
        write_report(root)
    said = [str(warning.message) for warning in warned]
    for part in ("has no costs", "has no curve", "has no expectations", "grid.yaml is no text"):
        assert any(part in text for text in said), part
    assert "mean" in (root / "report.html").read_text()


def test_a_model_that_diverged_has_no_maps_and_a_warning(tmp_path: Path) -> None:
    model = create_model("toy", layout="ST")
    with torch.no_grad():
        next(units(model)).unit.bias_table().fill_(torch.nan)
    save(model, tmp_path / "model-seed0.safetensors")
    study = SimpleNamespace(model_path=lambda label: tmp_path / "model-seed0.safetensors")
    with pytest.warns(UserWarning, match="ST has no maps: .* of the model are not finite"):
        assert list(bias(study, "ST", "learned-")) == []
