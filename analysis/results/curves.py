"""The curves of a folder of runs: learning, and score against cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cost.costs import counts
from analysis.figures.pictures import png
from analysis.figures.style import check_rows
from analysis.results.draw_learning import draw_learning_curves
from analysis.results.draw_speed import draw_speed_accuracy
from posmlp.checkpoint import write_atomically
from posmlp.config import PosMLPConfig, TrainConfig
from posmlp.data.layouts.listing import as_text
from posmlp.train.run_folder import is_training, read_metrics, run_members


def gather_curves(folder: str | Path) -> pd.DataFrame:
    """Every run's metrics under `folder`, a row a variant, seed and epoch.

    A published grid (`ablations publish`) has them in curves.csv and cells.json. Elsewhere any
    folder below that holds metrics.csv and config.json is a run. A run of `ablations` is named by
    its cell.json, which also lists its axes, and another by its folder, and its variant where it
    has some. Columns: variant, seed, epoch, those of metrics.csv, epochs (that were asked for),
    params, gmacs, axis columns. Raises ValueError if there is no run, one that is damaged, or two
    runs of one variant and seed.
    """
    root = Path(folder)
    if is_published(root):
        return _published_curves(root)
    frames = []
    for run in runs_under(root):
        first = run_members(run)[0]
        _, axes = variant_of(run, root)
        rows = read_metrics(run / "metrics.csv")
        names = [variant_of(run, root, row.get("variant", ""))[0] for row in rows]
        known = {"epochs": first.train.epochs, **_costs(first.config), **axes}
        if rows:
            frames.append(pd.DataFrame(rows).assign(variant=names, **known))
    if not frames:
        raise ValueError(
            f"no run under {root}: none of its folders holds config.json and rows in metrics.csv"
        )
    table = pd.concat(frames, ignore_index=True)
    double = table.loc[table.duplicated(["variant", "seed", "epoch"]), ["variant", "seed"]]
    if len(double):
        first = double.iloc[0].to_dict()
        raise ValueError(f"two runs under {root} are of {first}; give a folder with one of them")
    return table


def is_published(folder: Path) -> bool:
    """Whether a folder is a grid that was published, in which no run folders are."""
    return (folder / "curves.csv").is_file() and (folder / "cells.json").is_file()


def _published_curves(grid: Path) -> pd.DataFrame:
    """The same of a published grid, without trials and what was trained twice under its seed."""
    path, rows = grid / "cells.json", read_metrics(grid / "curves.csv")
    try:
        content = json.loads(path.read_bytes())
        known = {key: _known(cell) for key, cell in content["cells"].items()}
        trials = _seeds_of_trials(content["plan"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); put back what was published, or publish the run again"
        ) from error
    try:
        kept = [row for row in rows if row["repeat"] == 0 and str(row["seed"]) not in trials]
        found = [{**row, **known[row["id"]]} for row in kept]
    except KeyError as error:
        raise ValueError(
            f"{grid / 'curves.csv'} is damaged (it lacks {error}, or {path} does); put back what "
            "was published, or publish the run again"
        ) from error
    if not found:
        raise ValueError(f"no training that is published in {grid} has any epoch")
    return pd.DataFrame(found).drop(columns=["id", "repeat"])


def _known(cell: dict[str, Any]) -> dict[str, Any]:
    """What the curves of a stored cell are drawn against: epochs asked for, costs and axes."""
    config = PosMLPConfig.from_dict(cell["model"])
    return {"epochs": TrainConfig.from_dict(cell["train"]).epochs, **_costs(config), **_axes(cell)}


def _costs(config: PosMLPConfig) -> dict[str, float]:
    return {key: counts(config)[key] for key in ("params", "gmacs")}


def _axes(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell's axes; where one has a value a stage, that is one value of it."""
    axes = dict(cell.get("axes", {})).items()
    return {name: str(value) if isinstance(value, list) else value for name, value in axes}


def no_model_under(folder: str | Path) -> ValueError:
    """The error where trained models are needed and none is there."""
    if is_published(Path(folder)):
        return ValueError(f"{folder} is a published grid without models; give its run's folder")
    return ValueError(f"no finished run with its model under {folder}; let one finish")


def last_epochs(curves: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row a variant and seed: its last epoch; `metric` is NaN where the run is not complete."""
    check_rows(curves, ("variant", "seed", "epoch", "epochs", metric), "analysis.gather_curves")
    last = curves.sort_values("epoch").groupby(["variant", "seed"], sort=False).tail(1)
    last = last.sort_index()
    return last.assign(**{metric: last[metric].where(last["epoch"] >= last["epochs"])})


def write_curves(
    folder: str | Path, out: str | Path | None = None, metric: str = "test_top1"
) -> Path:
    """Draw the learning curves and the cost-score panels of a folder's runs, to `out`.

    Writes learning-curves.png, speed-accuracy.png and runs.csv (the rows that the second shows) to
    `out`, by default FOLDER/curves. Returns the folder. Raises ValueError where there is no run, no
    complete one, or no such metric.
    """
    root = Path(folder)
    target = Path(out) if out else root / "curves"
    curves = gather_curves(root)
    numbers = curves.select_dtypes("number").columns
    if metric not in numbers:
        what = "is not a number" if metric in curves else "is not there"
        raise ValueError(f"metric {metric!r} {what}; use one of the columns {list(numbers)}")
    runs = last_epochs(curves, metric)
    if not runs[metric].notna().any():
        raise ValueError(f"no run under {root} has a {metric} at its last epoch; let one finish")
    title = highest_in_words(runs, metric)
    speed = draw_speed_accuracy(runs, metric=metric, title=title)[0].figure
    learning = draw_learning_curves(curves, metric=metric, title=title).figure
    write_atomically(target / "learning-curves.png", png(learning))
    write_atomically(target / "speed-accuracy.png", png(speed))
    write_atomically(target / "runs.csv", runs.to_csv(index=False).encode())
    return target


def highest_in_words(runs: pd.DataFrame, metric: str) -> str:
    """The variant of the highest mean; intervals in the figure say whether that is certain."""
    means = runs.groupby("variant", sort=False)[metric].mean()
    return f"Highest mean {metric}: {means.idxmax()}, {means.max():.3f}"


def runs_under(folder: str | Path) -> list[Path]:
    """The run folders in or below a folder: those that hold metrics.csv and config.json.

    Not another run: a seed that a grid trained a second time, to see how equal runs differ, a trial
    by which it has chosen, and the population in which some of its cells were trained, since each
    has a run folder of its own. What `posmlp.tasks` trained is none either. Raises ValueError for
    a damaged config.json.
    """
    found = (path.parent for path in sorted(Path(folder).rglob("metrics.csv")))
    return [run for run in found if is_training(run) and not _is_second(run)]


def _is_second(run: Path) -> bool:
    repeats = run.name.endswith("-repeat") and (run.parent / "cell.json").is_file()
    together = run.parent.name == "together" and (run.parents[1] / "cells").is_dir()
    return repeats or together or _is_trial(run)


def _is_trial(run: Path) -> bool:
    """Whether a grid has chosen by this training, and does not compare it."""
    plan = run.parent.parent.parent / "plan.json"
    if not ((run.parent / "cell.json").is_file() and plan.is_file()):
        return False
    try:
        return run.name.removeprefix("seed") in _seeds_of_trials(json.loads(plan.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{plan} is damaged ({error}); run the grid again") from error


def _seeds_of_trials(plan: dict[str, Any]) -> set[str]:
    return {str(seed) for seed in plan.get("trials", {}).get("seeds", ())}


def variant_of(run: Path, root: Path, variant: str = "") -> tuple[str, dict[str, Any]]:
    """A run's name and axes: its cell's, or its folder's name and none; a variant is added.

    Raises ValueError if its cell.json is damaged.
    """
    cell = run.parent / "cell.json"
    if cell.is_file():
        return _read_cell(cell)
    if run == root:
        return variant or as_text(root.resolve().name), {}
    name = as_text(run.relative_to(root).as_posix())
    return "/".join([name, *([variant] if variant else [])]), {}


def _read_cell(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        stored = json.loads(path.read_bytes())
        return str(stored["name"]), _axes(stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); put a sound one back, or move its folder away"
        ) from error
