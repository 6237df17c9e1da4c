"""What is written of results: figures stand in stored tables, and wanted runs can be started."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import ablations.cli
import analysis.cli
from ablations.grid.costs import costs
from ablations.report.data import Study
from ablations.store.store import Store
from analysis import compare
from analysis.results.paired import t_interval
from analysis.speed.check_gpu import CHECKS
from posmlp.presets import resolve
from posmlp.train.population import seeded_model

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "ablations/results"
GRIDS = sorted(path.parent.name for path in RESULTS.glob("*/grid.yaml"))
FINDINGS = (ROOT / "ablations/FINDINGS.md").read_text()
README = (ROOT / "README.md").read_text()
SPEED = (RESULTS / "speed/README.md").read_text()
NUMBER = r"[+-]?\d*\.\d+"
UNITS = "within pairs|points of top-1|points|frames|tokens"
QUOTED = re.compile(rf"({NUMBER})%?(?: (?:{UNITS}))? \[({NUMBER}), ({NUMBER})\]")

PARSERS = {"ablations": ablations.cli, "analysis": analysis.cli}

Triple = tuple[float, float, float]


def classes_of(name: str) -> pd.DataFrame:
    """The scores by class that are stored with a grid; empty where it has none."""
    store = Store(RESULTS / name)
    return pd.read_csv(io.StringIO(store.table(store.classes_path) or "variant\n"))


def of_rows(name: str, metric: str = "test_top1") -> pd.DataFrame:
    """The comparisons in points of a grid whose rows alone are kept."""
    rows = pd.read_csv(RESULTS / name / "rows.csv")
    return compare(rows.assign(points=100 * rows[metric]), metric="points", by="name", margin=2)


def stored() -> Iterator[Triple]:
    """(mean, low, high) of every metric and difference that a results folder holds."""
    for name in GRIDS:
        study = Study.open(RESULTS / name)
        for metric in study.metrics:
            for label in study.labels.values():
                yield study.interval(label, metric)[1:]
            differences = study.comparison(metric)[["difference", "low", "high"]].dropna()
            yield from differences.itertuples(index=False, name=None)
            in_settings = study.gate_differences(metric)[["difference", "low", "high"]]
            yield from in_settings.itertuples(index=False, name=None)
    tables = [of_rows("starts"), of_rows("starts", "test_within_pair"), of_rows("lips")]
    for table in tables:
        yield from table[["difference", "low", "high"]].itertuples(index=False, name=None)
    scores = pd.read_csv(RESULTS / "lips/rows.csv").groupby("id").test_top1
    for _, own in scores:
        yield t_interval(own)
    for path in (RESULTS / "learned").glob("*.csv"):
        table = pd.read_csv(path)
        yield from table[["mean", "low", "high"]].dropna().itertuples(index=False, name=None)


def shown(stored: Triple, quoted: tuple[str, str, str]) -> bool:
    """Whether the text shows these numbers: as they are, in percent, or as a loss."""
    digits = [len(text.partition(".")[2]) for text in quoted]
    for scale in (1, 100, -1, -100, 0.01):
        mean, low, high = (scale * value for value in stored)
        ends = (mean, *sorted((low, high)))
        exact = zip(ends, quoted, digits, strict=True)
        if all(abs(value - float(text)) <= 0.5001 * 10**-places for value, text, places in exact):
            return True
    return False


QUOTES = sorted({(name, found) for name, text in (("FINDINGS", FINDINGS), ("README", README))
                 for found in QUOTED.findall(" ".join(text.split()))})  # fmt: skip


def test_figures_stand_in_stored_tables() -> None:
    triples = list(stored())
    missing = [each for each in QUOTES if not any(shown(t, each[1]) for t in triples)]
    assert not missing
    assert len(QUOTES) > 80
    assert not any(shown(triple, ("69.1", "60.7", "77.3")) for triple in triples)


def test_letters_are_quoted_as_their_rows_have_them() -> None:
    said = FINDINGS.partition("*The split of the literature*")[2].partition("Limits:")[0]
    scores = pd.read_csv(RESULTS / "letters/rows.csv").test_top1
    assert {f"{100 * score:.1f}" for score in scores} == set(re.findall(r"\d+\.\d", said))


def test_findings_show_what_each_part_of_the_recipe_does() -> None:
    rows = pd.read_csv(RESULTS / "recipe/rows.csv")
    parts = ["train.balanced", "train.relation_lr_scale", "init"]
    for (balanced, rate, start), own in rows.groupby(parts):
        top = 100 * own.test_top1
        line = (
            f"| {'yes' if balanced else 'no'} | {rate:g}x | `{start}` "
            f"| {top.mean():.1f} | {top.std():.1f} | {top.min():.1f} |"
        )
        assert line in FINDINGS, f"not in FINDINGS.md: {line}"
    for part, points in zip(parts, ("6.8", "0.5", "2.2"), strict=True):
        means = rows.groupby(part).test_top1.mean()
        assert f"{100 * (means.max() - means.min()):.1f}" == points
        assert f"{points}" in FINDINGS.partition("Averaged over the others")[2][:100]


def test_steady_recipe_quotes_what_each_part_does_alone() -> None:
    said = " ".join((ROOT / "posmlp/recipes/steady.yaml").read_text().replace("#", " ").split())
    scores = pd.read_csv(RESULTS / "recipe/rows.csv").eval("points = 100 * test_top1")
    parts = scores.groupby(["train.balanced", "train.relation_lr_scale", "init"])["points"]
    mean, sd = parts.mean().round(1), parts.std().round(1)
    none, balanced = (False, 1.0, "normal"), (True, 1.0, "normal")
    assert f"from {mean[none]} to {mean[balanced]}%" in said
    assert f"six seeds from {sd[none]} to {sd[balanced]} points" in said
    for alone in ((False, 5.0, "normal"), (False, 1.0, "steady")):
        assert f"Alone: {mean[alone]}%, {sd[alone]} points" in said


def test_findings_show_starts_and_the_recipe_quotes_them() -> None:
    rows = pd.read_csv(RESULTS / "starts/rows.csv")
    tables = (100 * rows.query("gate == 'lrpe'").set_index("init").test_top1).groupby(level=0)
    top = tables.agg(["mean", "std", "min"])
    for start, own in top.iterrows():
        line = f"| `{start}` | {own['mean']:.1f} | {own['std']:.1f} | {own['min']:.1f} |"
        assert line in FINDINGS, f"not in FINDINGS.md: {line}"
    said = " ".join((ROOT / "posmlp/recipes/steady.yaml").read_text().replace("#", " ").split())
    mean, sd = top["mean"], top["std"]
    before, after = (f"{mean[each]:.1f}%, {sd[each]:.1f} points" for each in ("steady", "contrast"))
    assert f"from {before} to {after} over ten seeds" in said
    val = 100 * rows[rows["baseline"]].val_top1
    assert f"{val.mean():.1f}% with a standard deviation of {val.std():.1f} points, on" in said
    assert f"test clips {mean['contrast']:.1f}% with {sd['contrast']:.1f}, by" in said


def test_worst_seeds_are_those_whose_filters_see_brightness() -> None:
    rows = pd.read_csv(RESULTS / "starts/rows.csv").query("init == 'steady'")
    scores, brightness = 100 * rows.set_index("seed").test_top1.sort_values(), {}
    for seed in scores.index:
        filters = seeded_model(resolve("toy", init="steady"), seed).stem.convs[0].weight
        brightness[seed] = filters.sum((1, 2, 3)).abs().mean().item()
    brightest = sorted(brightness, key=lambda seed: brightness[seed])[-2:]
    assert set(brightest) == set(scores.index[:2])
    assert "{} and {}".format(*sorted(brightest)) in FINDINGS
    assert sum(scores < 74) == 3
    assert "three seeds of ten are below 74%" in FINDINGS


def test_findings_show_the_gates_over_clips() -> None:
    rows = pd.read_csv(RESULTS / "clips/rows.csv").sort_values("seed")
    for gate, own in rows.groupby("gate"):
        by_clips = (100 * own.test_top1).groupby(own["train.num_clips"])
        cells = (", ".join(f"{score:.1f}" for score in scores) for _, scores in by_clips)
        line = f"| `{gate}` | {' | '.join(cells)} |"
        assert line in FINDINGS, f"not in FINDINGS.md: {line}"
        mean = own[own["train.num_clips"] == 16000].test_top1.mean()
        assert gate == "dense" or f"{100 * mean:.1f}%" in README.partition("16,000 clips")[2][:60]


def glance() -> Iterator[str]:
    """The lines of FINDINGS' table of gates and layouts, from what is stored."""
    speeds = pd.read_csv(RESULTS / "speed/lesson09.csv").set_index("variant").clips_per_s
    for folder in ("gates", "layouts"):
        study = Study.open(RESULTS / folder)
        metric = study.metrics[0]
        differences = study.comparison(metric).set_index("label")
        for cell_id, name in study.labels.items():
            cost = costs(study.store.configs(cell_id)[0])
            n, mean, low, high = study.interval(name, metric)
            against = "| baseline"
            if name != study.baseline:
                row = differences.loc[name]
                against = f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}] | {row.verdict}"
            speed = speeds.get("T+S" if name == "lrpe" else name)
            clips = "" if speed is None else f"{float(f'{speed:.1e}'):,.0f}"
            yield (
                f"| `{name}` | {cost['params']:,.0f} | {cost['gmacs']:.4f} | {n} "
                f"| {mean:.1f} [{low:.1f}, {high:.1f}] | {against.partition(' at ')[0]} | {clips} |"
            )


def test_findings_show_gates_and_layouts_at_a_glance() -> None:
    table = "\n".join(glance())
    assert table in FINDINGS, f"not in FINDINGS.md:\n{table}"


def test_findings_count_what_is_decided() -> None:
    studies = [Study.open(RESULTS / name) for name in ("gates", "layouts")]
    said = " ".join(FINDINGS.split())
    counts = [0, 0]
    for study in studies:
        for place, metric in enumerate(study.metrics):
            verdicts = study.comparison(metric).verdict
            counts[place] += sum(not verdict.startswith("cannot") for verdict in verdicts)
    assert "Of these 16 comparisons {} were decided in top-1, and {} within".format(*counts) in said
    seeds = []
    for name in ("gates", "layouts"):
        rows = ablations.load(RESULTS / name)
        scores = 100 * rows[rows["baseline"]].test_top1
        seeds.append(f"{scores.std():.1f} ({len(scores)} seeds)")
    assert f"{seeds[0]} and {seeds[1]}" in said.replace(" points of top-1 (", " (")


def test_findings_count_what_all_grids_decide() -> None:
    """Of `tying` its pairs count, each in its window, as that is what it asks."""
    decided = []
    for name in GRIDS:
        study = Study.open(RESULTS / name)
        metric = study.metrics[0]
        paired = study.gate_differences if name == "tying" else study.comparison
        decided += [not verdict.startswith("cannot") for verdict in paired(metric).verdict]
    of_others = [not v.startswith("cannot") for name in ("lips", "recipe", "starts")
                 for v in of_rows(name).verdict]  # fmt: skip
    text = " ".join(FINDINGS.split())
    said = f"Over all {len(GRIDS)} grids {sum(decided)} of {len(decided)} comparisons are decided"
    assert said in text
    assert f"`starts`), decide {sum(of_others)} of {len(of_others)}" in text


def test_findings_show_the_tuned_gates() -> None:
    study = Study.open(RESULTS / "gates")
    top, pairs = study.metrics
    for cell_id, name in study.labels.items():
        n, mean, low, high = study.interval(name, top)
        _, *within = study.interval(name, pairs)
        params = costs(study.store.configs(cell_id)[0])["params"]
        line = (
            f"| `{name}` | {params:,.0f} | {n} | {mean:.1f} [{low:.1f}, {high:.1f}] "
            f"| {within[0]:.1f} [{within[1]:.1f}, {within[2]:.1f}] |"
        )
        assert line in FINDINGS, f"not in FINDINGS.md: {line}"


def test_findings_say_how_far_val_clips_and_holm_choose_among_mouths() -> None:
    rows = pd.read_csv(RESULTS / "lips/rows.csv")
    finals = rows[rows["train.init_from"].notna()]
    right = [round(18 * own.val_top1.sum()) for _, own in finals.groupby("id", sort=False)]
    assert f"{right[0]}, {right[1]} and {right[2]} of 180 are right" in " ".join(FINDINGS.split())
    p_holm = of_rows("lips")["p_holm"].iloc[-1]
    assert f"(p = {p_holm:.3f})".replace("0.", ".") in FINDINGS


BENCHED = {
    "toy-train": "toy training step",
    "toy-eval": "toy inference",
    "s16-eval": "S16 inference",
    "s16-train": "S16 training step",
    "memory": "S16 training, memory",
    "checkpointed": "with `--checkpoint-activations`",
}


def test_speed_page_quotes_the_bench() -> None:
    table = pd.read_csv(RESULTS / "speed/bench.csv")
    table.loc[table.contender == "as run, checkpointed", "work"] = "checkpointed"
    lines = []
    for work, name in BENCHED.items():
        row = table[(table.work == work) & table.contender.str.startswith("as run")].iloc[0]
        own = f"{row.peak_mb:,.0f} MB" if pd.isna(row.median_ms) else f"{row.median_ms:,.0f} ms"
        ratios = (f"{row[f'vs_{each}']:.2f}x" for each in ("plain", "reference", "against"))
        lines.append(f"| {name} | {own} | {' | '.join(ratios)} |")
    quoted = "\n".join(lines)
    assert quoted in SPEED, f"not in speed/README.md:\n{quoted}"


def commands(name: str) -> list[list[str]]:
    """Our commands in the backticks of a results page, without `timeout` and `python -m`."""
    page, found = (RESULTS / name).read_text(), []
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    for text in [*"".join(blocks).splitlines(), *inline]:
        words = [
            word for word in shlex.split(text) if word not in ("timeout", "600", "python", "-m")
        ]
        if len(words) > 1 and words[0] in PARSERS:
            found.append(words)
    return found


@pytest.mark.parametrize("words", commands("GPU.md"), ids=" ".join)
def test_wanted_run_can_be_started(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)  # where they are wanted to run
    PARSERS[words[0]]._parser().parse_args(words[1:])


def test_every_check_of_a_gpu_is_told() -> None:
    text = (RESULTS / "GPU.md").read_text()
    assert re.findall(r"^\| `(\w+)` ", text, re.MULTILINE) == list(CHECKS)


@pytest.mark.parametrize("folder", sorted(p.name for p in RESULTS.iterdir() if p.is_dir()))
def test_results_folder_is_named_in_a_text(folder: str) -> None:
    texts = FINDINGS + (ROOT / "ablations/README.md").read_text()
    assert re.search(rf"results/{folder}\b|grid `{folder}`|`{folder}/?`", texts)


def test_every_training_is_scored_on_a_class_once() -> None:
    table = classes_of("layouts")
    assert set(table["variant"]) == set(ablations.load(RESULTS / "layouts")["name"])
    assert not table.duplicated(["variant", "seed", "class"]).any()


@pytest.mark.parametrize("name", GRIDS)
def test_published_grid_holds_every_training(name: str) -> None:
    folder, store = RESULTS / name, Store(RESULTS / name)
    files = {"grid.yaml", "cells.json", "curves.csv", "rows.csv", "table.md", "report.html"}
    files |= set(re.findall(r"\w+\.py", (folder / "grid.yaml").read_text()))  # code that it runs
    assert {path.name for path in folder.iterdir()} == files
    assert max((folder / file).stat().st_size for file in files) < 2_500_000
    table, plan = ablations.load(folder), store.plan()
    asked = [cell.get("num_seeds") or len(plan["seeds"]) for cell in plan["cells"]]
    assert len(table) == sum(asked)
    assert (table["status"] == "done").all()
    assert table["commit"].str.fullmatch("[0-9a-f]{40}").all()
    assert (folder / "rows.csv").read_text() == table.to_csv(index=False)
    for row in table.itertuples():
        config = store.json(store.run_folder(row.id, row.seed) / "config.json")
        curve = store.table(store.metrics_path(row.id, row.seed))
        assert config["train"]["epochs"] == len(pd.read_csv(io.StringIO(curve)))


def test_findings_quote_the_simulated_errors() -> None:
    table = pd.read_csv(RESULTS / "sequential/sequential.csv")
    null = table[table["difference"] == 0]
    for _, own in null.groupby("noise"):
        quoted = " | ".join(f"{100 * share:.1f}%" for share in own["any_false"])
        assert f"| {quoted} |" in FINDINGS
    known = null[null["noise"] != "bad seeds in variants alone"]
    ours = known[known["design"] == "looks fixed beforehand"]
    assert len(ours) == 3
    assert (ours["any_false"] < 0.057).all()
