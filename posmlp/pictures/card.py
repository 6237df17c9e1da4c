"""A run's model card, in the form that model hubs read: `posmlp card RUN`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from posmlp.clip_scores import score_files
from posmlp.config import TrainConfig
from posmlp.shapes import fault
from posmlp.train.run_folder import (
    damaged,
    model_path,
    read_config,
    read_metrics,
    run_members,
    sound,
    temperature_of,
)

SCORES = {
    **{"test_top1": "top-1", "test_top5": "top-5", "test_within_pair": "within reversed pairs"},
    "test_map": "mean average precision",
}
OF_CLASSES = ("top1", "average_precision")  # columns of classes.csv
FILL_IN = "other"  # hubs' word for a licence that they have no name for
NUM_LOWEST = 5  # classes that are named


def model_card(run: str | Path) -> str:
    """The card of a finished run as Markdown: data, recipe, scores with intervals, limits, use.

    What only its owner knows, the licence and what the model is for, is left to fill in. Raises
    ValueError if there is no finished run of one model and its seeds.
    """
    run = Path(run)
    stored, members = read_config(run), run_members(run)
    if problem := fault(stored["data"], {"train": dict, "test": {"name": str}}):
        raise damaged(run / "config.json", problem)
    rows = read_metrics(run / "metrics.csv") if (run / "metrics.csv").is_file() else []
    last = [row for row in rows if row["epoch"] == members[0].train.epochs]
    lost = [m for m in members if not model_path(run, m).is_file()]
    if lost or len(last) < len(members):
        raise ValueError(f"{run} holds no finished run yet; run `posmlp train` to its end")
    if members[0].variant:
        raise ValueError(f"{run} holds several variants, and a card is of one; train that alone")
    name = run.resolve().name
    lines = [_head(name, stored, last), f"# {name}", "", *_data(stored), *_recipe(stored)]
    lines += [*_scores(stored, last), *_limits(run, stored), *_use(run, stored, len(last))]
    return "\n".join(lines) + "\n"


def _head(name: str, stored: dict[str, Any], last: Sequence[dict[str, Any]]) -> str:
    """What hubs read, between lines of dashes."""
    data = stored["data"]["test"]["name"]
    metrics = [
        {"type": "accuracy", "name": words, "value": round(_mean(last, key), 4)}
        for key, words in SCORES.items()
        if key in last[0]
    ]
    result = {
        "task": {"type": "video-classification"},
        "dataset": {"name": data, "type": data, "split": "test"},
        "metrics": metrics,
    }
    head = {
        "license": FILL_IN,
        "library_name": "posmlp-workbench",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", "posmlp"],
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [result]}],
    }
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    text = text.replace(f"license: {FILL_IN}\n", f"license: {FILL_IN}  # fill in\n")
    return f"---\n{text}---\n"


def _data(stored: dict[str, Any]) -> Iterator[str]:
    model, classes = stored["model"], ", ".join(map(str, stored["classes"]))
    yield "What it is for: *fill in*. Licence of the model and of its data: *fill in*."
    yield ""
    yield "## Data"
    yield ""
    yield f"Clips of {model['num_frames']} frames, of {len(stored['classes'])} classes: {classes}."
    yield ""
    yield "| split | clips | how it was made |"
    yield "|---|---:|---|"
    for split, about in stored["data"].items():
        rule = about.get("split_rule") or f"generated, {about.get('difficulty', '')}".strip(", ")
        yield f"| {split} | {about.get('num_clips', 0):,} | {about['name']}: {rule} |"
    yield ""


def _recipe(stored: dict[str, Any]) -> Iterator[str]:
    train, model = stored["train"], stored["model"]
    usual = TrainConfig().to_dict()
    changed = {k: v for k, v in train.items() if v != usual.get(k)}
    said = ", ".join(f"{k}={v}" for k, v in changed.items() if k != "init_from")
    size = model["image_size"]
    yield "## Recipe"
    yield ""
    yield f"Layout `{model['layout']}`, gate `{model['gate']}`, frames of {size} pixels. AdamW,"
    yield f"{train['epochs']} epochs, batch {train['batch_size']}, rate {train['lr']:g}; other than"
    yield f"the defaults: {said or 'nothing'}."
    if train["init_from"]:
        yield f"It started from the weights of `{Path(train['init_from']).name}`."
    yield ""


def _scores(stored: dict[str, Any], last: Sequence[dict[str, Any]]) -> Iterator[str]:
    num_clips = stored["data"]["test"].get("num_clips", 0)
    yield "## Scores"
    yield ""
    yield f"On {num_clips:,} test clips, scored once, with 95% intervals: of a seed Wilson's over"
    yield "clips, of the mean Student's over seeds. Neither tells of other recordings or persons."
    yield ""
    names = {key: words for key, words in SCORES.items() if key in last[0]}
    yield f"| seed | {' | '.join(names.values())} |"
    yield f"|---|{'---:|' * len(names)}"
    for row in last:
        shares = {k: f" ({_percent(wilson(row[k], num_clips))})" for k in names if k != "test_map"}
        cells = (f"{row[k]:.1%}{shares.get(k, '')}" for k in names)
        yield f"| {row['seed']} | {' | '.join(cells)} |"
    if len(last) > 1:
        cells = (f"{_mean(last, k):.1%} ({_percent(_student(last, k))})" for k in names)
        yield f"| mean of {len(last)} | {' | '.join(cells)} |"
    if "test_within_pair" in names:
        yield ""
        yield "A model that is blind to the order of frames is right in half of the reversed pairs."
    yield ""


def _limits(run: Path, stored: dict[str, Any]) -> Iterator[str]:
    yield "## Limits"
    yield ""
    num_train, num_classes = stored["data"]["train"].get("num_clips", 0), len(stored["classes"])
    yield f"- It learned from {num_train:,} clips, and knows no class but its {num_classes}."
    for split, about in stored["data"].items():
        if left := len(about.get("unreadable") or ()) + len(about.get("dropped") or ()):
            yield f"- {left} {split} clips could not be read, and were left out."
    for path in score_files(run):
        if path.name == "classes.csv":
            try:
                with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                    table = list(csv.DictReader(file))
                score = next(name for name in OF_CLASSES if name in table[0])
                rows = sorted((float(r[score]), r["class"], r["num_clips"]) for r in table)
            except (LookupError, StopIteration, TypeError, ValueError) as error:
                why = str(error) or "it has no scores"
                raise damaged(path, why, "write it again with posmlp eval --out") from error
            low = [f"{name} {share:.1%} of {count}" for share, name, count in rows]
            yield f"- Lowest classes ({path.parent.name}): {', '.join(low[:NUM_LOWEST])}."
            break
    found = {m.seed: temperature_of(model_path(run, m)) for m in run_members(run)}
    if set(found.values()) == {1.0}:
        yield "- Its probabilities are not calibrated (`posmlp eval RUN --calibrate`)."
    else:
        said = ", ".join(f"{by:.2f} (seed {seed})" for seed, by in found.items())
        yield f"- Its logits are divided by a temperature fitted on val clips: {said}."
    yield "- Whom it serves worse, and what must not be done with it: *fill in*."
    yield ""


def _use(run: Path, stored: dict[str, Any], num_models: int) -> Iterator[str]:
    file = f"{run.resolve().name}"
    first = file if num_models == 1 else f"{file}/{model_path('', run_members(run)[0]).name}"
    yield "## Use"
    yield ""
    yield "```python"
    yield "import posmlp"
    yield ""
    yield f"model = posmlp.load({first!r})  # clips (B, 3, T, H, W) -> logits"
    yield "```"
    yield ""
    yield f"`posmlp predict {file} some.mp4` names the classes of a video."
    environment = run / "environment.json"
    if environment.is_file():
        packages = sound(environment, {"packages?": {"*": str}}).get("packages", {})
        yield f"Trained with torch {packages.get('torch', 'of an unknown version')}."


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` clips. Source: Wilson (1927), by scipy."""
    from scipy.stats import binomtest

    if not count:
        return 0.0, 1.0
    found = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return found.low, found.high


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return float(sum(row[key] for row in rows) / len(rows))


def _student(rows: Sequence[dict[str, Any]], key: str) -> tuple[float, float]:
    from scipy.stats import sem, t

    values = [row[key] for row in rows]
    low, high = t.interval(0.95, len(values) - 1, _mean(rows, key), max(sem(values), 1e-12))
    return max(0.0, low), min(1.0, high)


def _percent(interval: tuple[float, float]) -> str:
    return " to ".join(f"{100 * end:.1f}" for end in interval)
