"""The report of a grid: one HTML file that needs no network, made from what the folder stores."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ablations.store import Store, load, read_json
from analysis import (
    bias_maps,
    bias_statistics,
    compare,
    cost,
    draw_accuracy,
    draw_cost_accuracy,
    draw_learning_curves,
    draw_spatial_bias,
    draw_temporal_bias,
    t_interval,
)
from posmlp.checkpoint import load as load_model
from posmlp.checkpoint import write_atomically
from posmlp.config import PosMLPConfig
from posmlp.population import seeded_model

METRIC = "test_top1"
PAIRED = "test_within_pair"


def write_report(root: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of the grid stored in `root` and return its path: root/report.html or `out`.

    Beside it `table.csv`, `table.md` and the figures as PNG files. Raises ValueError if nothing
    has finished there.
    """
    store = Store(root)
    out = Path(out) if out else store.root / "report.html"
    plan, rows = store.plan(), load(root)
    done = rows[rows["status"] == "done"] if len(rows) else rows
    if done.empty:
        raise ValueError(f"no cell in {root} has finished; run `ablations run` first")
    baseline = next(cell["name"] for cell in plan["cells"] if cell["id"] == plan["baseline"])
    table = summary(store, done, baseline)
    figures = list(_figures(store, done, table, baseline))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    page = environment.get_template("report_template.html").render(
        question=plan["question"],
        prediction=plan["prediction"],
        baseline=baseline,
        answers=answers(done, baseline),
        table=table,
        figures=figures,
        failures=rows[rows["status"] == "failed"].to_dict("records"),
        num_done=len(done),
        num_declared=len(plan["cells"]) * len(plan["seeds"]),
        provenance=_provenance(store, done),
        command=plan["command"],
    )
    write_atomically(out, page.encode())
    flat = pd.DataFrame(table).drop(columns="numbers")
    write_atomically(out.with_name("table.csv"), flat.to_csv(index=False).encode())
    write_atomically(out.with_name("table.md"), _markdown(table).encode())
    for figure in figures:
        name = re.sub(r"[^a-z]+", "-", figure["title"].lower()).strip("-")
        write_atomically(out.parent / "figures" / f"{name}.png", base64.b64decode(figure["png"]))
    return out


def summary(store: Store, done: pd.DataFrame, baseline: str) -> list[dict[str, Any]]:
    """One row a variant, baseline first: cost, n, and mean with 95% t-interval of each metric."""
    names = [baseline, *(name for name in done["name"].unique() if name != baseline)]
    table = []
    for name in names:
        runs = done[done["name"] == name]
        if runs.empty:
            continue
        numbers = {
            m: t_interval(runs[m]) for m in (METRIC, PAIRED) if m in runs and _whole(runs[m])
        }
        stored = read_json(store.cell_path(runs["id"].iloc[0]))
        counted = cost(PosMLPConfig.from_dict(stored["model"]))
        table.append(
            {
                "variant": name,
                "params": counted["params"],
                "relation_params": counted["relation_params"],
                "gmacs": counted["gmacs"],
                "num_seeds": len(runs),
                "seconds_a_run": runs["seconds"].median(),
                **{m: interval[0] for m, interval in numbers.items()},
                "numbers": {m: _with_interval(*interval) for m, interval in numbers.items()},
            }
        )
    return table


def _whole(values: pd.Series) -> bool:
    return bool(values.notna().all())


def _with_interval(mean: float, low: float, high: float) -> str:
    spread = f" [{low:.3f}, {high:.3f}]" if low == low else " (one seed: no interval)"
    return f"{mean:.3f}{spread}"


def answers(done: pd.DataFrame, baseline: str) -> list[str]:
    """A sentence a variant: how it compares with the baseline by seed, and what is certain."""
    if baseline not in set(done["name"]):
        return [f"The baseline, {baseline}, has not finished, so nothing can be compared yet."]
    sentences = []
    for row in compare(done, baseline, METRIC, by="name").to_dict("records"):
        if row["name"] != baseline:
            sentences.append(
                f"{row['name']}: {row['difference']:+.3f} top-1 against the baseline over "
                f"{row['n']} paired seeds, 95% interval [{row['low']:+.3f}, {row['high']:+.3f}], "
                f"Holm-corrected p = {row['p_holm']:.2g}: {row['verdict']}."
            )
    return sentences


def _figures(
    store: Store, done: pd.DataFrame, table: list[dict[str, Any]], baseline: str
) -> Iterator[dict[str, str]]:
    """Each figure as a title, a PNG in base64, and a caption."""
    yield _figure(
        "Accuracy", draw_accuracy(done, metric=METRIC, by="name", title="Top-1, held out")
    )
    if PAIRED in done and _whole(done[PAIRED]):
        axes = draw_accuracy(
            done, metric=PAIRED, by="name", chance=0.5, title="Within time-reversed pairs"
        )
        caption = (
            "Share of clips whose true class outscores the class of the same clip played "
            "backwards. A model blind to the order of frames is at exactly 0.5."
        )
        yield _figure("Does it see the order of frames?", axes, caption)
    yield _figure(
        "Learning curves", draw_learning_curves(histories(store, done), metric=METRIC, by="name")
    )
    costs = {row["variant"]: row["gmacs"] for row in table}
    priced = done.assign(gmacs=[costs[name] for name in done["name"]])
    yield _figure(
        "Accuracy against cost", draw_cost_accuracy(priced, x="gmacs", y=METRIC, by="name")
    )
    yield from _bias_figures(store, done, baseline)


def histories(store: Store, done: pd.DataFrame) -> pd.DataFrame:
    """Every finished run's metrics, a row an epoch, with its variant's name."""
    parts = [
        pd.read_csv(store.run_folder(row["id"], row["seed"]) / "metrics.csv").assign(
            name=row["name"]
        )
        for row in done.to_dict("records")
    ]
    return pd.concat(parts, ignore_index=True)


def _bias_figures(store: Store, done: pd.DataFrame, baseline: str) -> Iterator[dict[str, str]]:
    """The baseline's first seed: a temporal and a spatial table, beside the same at the start."""
    runs = done[done["name"] == baseline].sort_values("seed")
    if runs.empty:
        return
    row = runs.iloc[0].to_dict()
    folder = store.run_folder(row["id"], row["seed"])
    trained = load_model(folder / f"model-seed{row['seed']}.safetensors")
    initial = seeded_model(trained.config, row["seed"])
    learned, start = bias_maps(trained), bias_maps(initial)
    statistics = bias_statistics(trained, initial)
    where = f"{baseline}, seed {row['seed']}, block 1 of each stage"
    stages = sorted(learned.loc[learned["branch"] == "T", "stage"].unique())
    if stages:
        size = (3.6 * len(stages), 6.4)
        figure, axes = plt.subplots(
            2, len(stages), figsize=size, squeeze=False, layout="constrained"
        )
        for row_axes, what, maps in zip(
            axes, ("trained", "at the start"), (learned, start), strict=True
        ):
            for ax, stage in zip(row_axes, stages, strict=True):
                first = (maps["branch"] == "T") & (maps["stage"] == stage) & (maps["block"] == 1)
                draw_temporal_bias(maps[first], ax=ax, title=f"stage {stage}, {what}")
                ax.set_xlabel("dt (right: key in the past)")
                if ax.get_legend():
                    ax.get_legend().remove()
        asymmetry = statistics[statistics.branch == "T"]
        caption = (
            f"{where}. Mixing weight against dt = query - key in frames: a positive dt weighs the "
            "past. Upper row trained, lower row at initialisation. Share of antisymmetric energy, "
            f"mean over groups: {asymmetry['temporal_asymmetry'].mean():.2f} trained, "
            f"{asymmetry['temporal_asymmetry_shuffled'].mean():.2f} with offsets shuffled, "
            f"{asymmetry['temporal_asymmetry_initial'].mean():.2f} at the start."
        )
        yield _figure("Learned temporal bias", figure, caption)
    spatial = learned[(learned.branch == "S") & (learned.stage == 1) & (learned.block == 1)]
    if len(spatial):
        for what, maps in (("trained", spatial), ("at the start", start)):
            rows = maps[(maps.branch == "S") & (maps.stage == 1) & (maps.block == 1)]
            axes = draw_spatial_bias(rows, title=f"stage 1, {what}")
            caption = f"{where}. Mixing weight by offset in tokens, one map a channel group."
            yield _figure(f"Learned spatial bias, {what}", axes.flat[0], caption)


def _figure(title: str, drawn: Any, caption: str = "") -> dict[str, str]:
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    plt.close(figure)
    return {
        "title": title,
        "png": base64.b64encode(buffer.getvalue()).decode(),
        "caption": caption,
    }


def _provenance(store: Store, done: pd.DataFrame) -> dict[str, str]:
    """Where the numbers come from, as stored with them; several values where runs differ."""
    environments = [
        read_json(store.run_folder(row["id"], row["seed"]) / "environment.json")
        for row in done.to_dict("records")
    ]
    keys = ("python", "packages", "platform", "cpu", "device", "gpu", "num_threads", "commit")

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {version}" for name, version in value.items())
        return str(value)

    found = {key: sorted({text(e.get(key)) for e in environments}) for key in keys}
    dirty = any(e.get("dirty") for e in environments)
    lines = {key: " | ".join(values) for key, values in found.items() if values != ["None"]}
    if dirty and "commit" in lines:
        lines["commit"] += " with uncommitted changes"
    return lines


def _markdown(table: list[dict[str, Any]]) -> str:
    metrics = list(table[0]["numbers"])
    head = ["variant", "parameters", "GMACs", "seeds", *metrics]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in table:
        cost_cells = [f"{row['params']:,}", f"{row['gmacs']:.3g}", str(row["num_seeds"])]
        lines.append([row["variant"], *cost_cells, *(row["numbers"].get(m, "") for m in metrics)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
