"""Where a report's numbers come from, and what makes them again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from ablations.report.data import Study
from ablations.store.files import in_checkout
from posmlp.clip_scores import link
from posmlp.data.time_need import NEED_FILE


def provenance(study: Study) -> Iterator[tuple[str, str]]:
    """Where the numbers come from, as stored with them; several values where runs differ."""
    results = study.made
    environments = [result.get("environment") or {} for result in results]
    workers = [result.get("worker") or {} for result in results]
    commits = {
        f"{e['commit']}{' with uncommitted changes' if e.get('dirty') else ''}"
        for e in environments
        if e.get("commit")
    }
    yield "commit", " | ".join(sorted(commits)) or "not recorded: not run from a git checkout"
    for key in ("device", "num_threads", "host"):
        yield key.replace("num_", ""), _values(workers, key)
    for key in ("gpu", "cpu", "platform", "python", "packages"):
        yield key, _values(environments, key)
    timings = [result["timings"] for result in results if result.get("timings")]
    if timings:
        yield "started", min(timing["started"] for timing in timings)
        yield "last finished", max(timing["finished"] for timing in timings)
        hours = sum(timing["seconds"] for timing in timings) / 3600
        yield "time of all runs", f"{hours:.2g} hours, one after the other"
    yield "data", _values(results, "data")
    if study.folds:
        yield "folds", f"seeds are tested in turn on {study.folds}, and paired so"
    for key, words in (
        ("init_from", "started from"),
        ("init_sha256", "SHA-256 of what it started from"),
        ("reused_from", "taken over from"),
        ("memory_steps", "when memory ran out"),
    ):
        found = {str(result[key]) for result in results if result.get(key)}
        if found:
            yield words, " | ".join(sorted(found))


def time_need(study: Study, folder: Path) -> list[str]:
    """Figures of `posmlp data time` in the data's own folders, as seen from `folder`."""
    roots = {str(result.get("data", "")).rpartition(":")[2] for result in study.made}
    figures = (Path(root) / NEED_FILE for root in sorted(roots))
    return [link(figure, folder) for figure in figures if figure.is_file()]


class Linked(NamedTuple):
    """A finished run; paths as seen from the report's folder, empty where there is nothing."""

    seed: int
    score: str
    folder: str
    page: str


def links(study: Study, folder: Path) -> dict[str, list[Linked]]:
    """The finished runs of each variant, with their folders and analysis pages."""
    if not study.metrics:
        return {}
    metric, found = study.metrics[0], {}
    for label, runs in study.done.groupby("label", sort=False):
        found[str(label)] = [
            Linked(
                row["seed"],
                metric.full(row[metric.column]),
                *paths_of(study.store.run_folder(row["id"], row["seed"]), folder),
            )
            for row in runs.sort_values("seed").to_dict("records")
        ]
    return found


def paths_of(run: Path, folder: Path) -> tuple[str, str]:
    """Of a run folder and its page, relative to where the report stands."""
    page = run / "analysis.html"
    return (
        f"{quote(os.path.relpath(run, folder))}/" if run.is_dir() else "",
        quote(os.path.relpath(page, folder)) if page.is_file() else "",
    )


def _values(records: list[dict[str, Any]], key: str) -> str:
    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {version}" for name, version in value.items())
        return str(value)

    return " | ".join(sorted({text(r[key]) for r in records if r.get(key) is not None})) or "-"


def reproduce(study: Study) -> str:
    """The commands that make these runs again, in a checkout of the code."""
    recorded = [(result.get("environment") or {}).get("commit") for result in study.made]
    commits = {str(commit) for commit in recorded if commit}
    checkout = [f"git checkout {commit}" for commit in commits] if len(commits) == 1 else []
    folder = shlex.quote(str(in_checkout(study.store.root)))
    report = f"ablations report {folder}" + (f" --margin {study.margin:g}" if study.margin else "")
    return "\n".join([*checkout, study.plan["command"], report])


def is_dirty(study: Study) -> bool:
    """Whether any run was made with changes that its commit does not hold."""
    return any((result.get("environment") or {}).get("dirty") for result in study.made)


def grid_text(study: Study) -> str:
    """The grid file as it was run; empty if the folder has lost it."""
    path = study.store.root / "grid.yaml"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
