"""The report's table of variants: as numbers (CSV, parquet) and as text (HTML, Markdown, LaTeX)."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.report.data import Study
from ablations.report.labels import MINUS, Metric
from ablations.store.table import load
from analysis.results.draw_comparison import verdict_kind
from posmlp.checkpoint import write_atomically

NOTHING = "–"
_SHORTER = {
    r": needs about (\d+) seeds.*": r" (\1 seeds?)",
    r" at \d+ of .*: about (\d+) more might decide": r" (\1 more seeds?)",
    r" (at|yet)\b.*: .*": "",
    r", but by (less than .+)": r" (by \1)",
    r" (within .+)": r" (\1)",
}
"""What a verdict's explanation becomes in a narrow column."""
_LATEX = {
    **{char: rf"\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "·": r"$\cdot$",
    "×": r"$\times$",
    MINUS: "$-$",
    "–": "--",
    "Δ": r"$\Delta$",
}


def variants(study: Study) -> pd.DataFrame:
    """A row a variant, baseline first: name, label, axes, cost, runs; and of each metric its mean
    and t-interval in percent, and its difference to the baseline in points with p and verdict.
    """
    tables = {metric: study.comparison(metric) for metric in study.metrics}
    comparisons = {
        metric: {} if table is None else table.set_index("label").to_dict("index")
        for metric, table in tables.items()
    }
    cells = {cell["id"]: cell for cell in study.plan["cells"]}
    costs = study.costs.to_dict("index")
    num_done, num_failed = (each["id"].value_counts() for each in (study.done, study.failed))
    measured = ["train_seconds", "peak_memory_mb"]
    medians = study.done[measured].astype(float).groupby(study.done["id"]).median().to_dict("index")
    rows = []
    for cell_id, label in study.labels.items():
        row: dict[str, Any] = {"variant": cells[cell_id]["name"], "label": label, "id": cell_id}
        row |= {axis: _plain(cells[cell_id]["axes"].get(axis)) for axis in study.axes}
        row |= costs.get(label, {})
        row |= {"num_done": num_done.get(cell_id, 0), "num_failed": num_failed.get(cell_id, 0)}
        row |= medians.get(cell_id) or dict.fromkeys(measured, float("nan"))
        for metric, compared in comparisons.items():
            row |= _measured(study, label, metric, compared.get(label))
        rows.append(row)
    return pd.DataFrame(rows)


def _plain(value: Any) -> Any:
    """An axis' value as one type a column: text, since an axis may mix numbers and lists."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _measured(
    study: Study, label: str, metric: Metric, compared: dict[str, Any] | None
) -> dict[str, Any]:
    """One variant's columns of one metric; `compared`: its row of the comparison."""
    name = metric.column
    row: dict[str, Any] = dict(
        zip((f"{name}_n", name, f"{name}_low", f"{name}_high"), study.interval(label, metric),
            strict=True)
    )  # fmt: skip
    if compared is not None:
        row[f"{name}_difference"] = compared["difference"]
        keys = ("low", "high", "from_seeds", "from_clips", "p", "p_holm", "p_equal_holm", "look")
        row |= {
            f"{name}_difference_{key}": compared[key]
            for key in (*keys, "verdict")
            if key in compared
        }
    return row


def shown(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The table as text, fit for a page, a README or a paper."""
    columns: dict[str, list[str]] = {"variant": table["label"].tolist()}
    rows = table.to_dict("records")
    for metric in study.metrics:
        columns[metric.short + metric.percent] = [_interval(row, metric) for row in rows]
        columns[f"Δ {metric.short}"] = [_difference(row, metric) for row in rows]
        columns[f"verdict ({metric.short})"] = [_verdict(study, row, metric) for row in rows]
    columns["parameters"] = [_cost(study, row, "params", ",.0f") for row in rows]
    columns["GMACs"] = [_cost(study, row, "gmacs", ".3g") for row in rows]
    failed = [f" ({row['num_failed']} failed)" if row["num_failed"] else "" for row in rows]
    columns["seeds"] = [f"{row['num_done']}{more}" for row, more in zip(rows, failed, strict=True)]
    columns["s a run"] = [_number(row["train_seconds"], ".0f") for row in rows]
    return pd.DataFrame(columns)


def _interval(row: dict[str, Any], metric: Metric) -> str:
    mean, low, high = (row[f"{metric.column}{key}"] for key in ("", "_low", "_high"))
    if mean != mean:
        return NOTHING
    spread = f" [{metric.value(low)}, {metric.value(high)}]" if low == low else ""
    return f"{metric.value(mean)}{spread}".replace("-", MINUS)


def _difference(row: dict[str, Any], metric: Metric) -> str:
    nothing = float("nan")
    keys = ("", "_low", "_high")
    mean, low, high = (row.get(f"{metric.column}_difference{key}", nothing) for key in keys)
    if mean != mean:
        return NOTHING
    spread = f" [{metric.change(low)}, {metric.change(high)}]" if low == low else ""
    if not spread and f"{metric.column}_difference_look" in row:
        spread = " [not yet]"
    return metric.change(mean) + spread


def _verdict(study: Study, row: dict[str, Any], metric: Metric) -> str:
    if row["label"] == study.baseline:
        return "baseline"
    verdict = row.get(f"{metric.column}_difference_verdict")
    if not isinstance(verdict, str):
        return NOTHING
    for pattern, shorter in _SHORTER.items():
        verdict = re.sub(pattern, shorter, verdict)
    return verdict


def _cost(study: Study, row: dict[str, Any], name: str, form: str) -> str:
    """The cost, and where it differs from the baseline's how many times that it is."""
    ratio = study.cost_ratios(row["label"]).get(name)
    return _number(row.get(name), form) + (f" (×{ratio:.3g})" if ratio else "")


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None or value != value else f"{value:{form}}"


def write_readable(study: Study, text: pd.DataFrame, folder: Path) -> None:
    """table.md with the text, and rows.csv with what `ablations.load` gives, a row a run."""
    write_atomically(folder / "table.md", _markdown(study, text).encode())
    rows = load(study.store.root)
    write_atomically(folder / "rows.csv", rows.to_csv(index=False).encode())


def write_tables(study: Study, table: pd.DataFrame, text: pd.DataFrame, folder: Path) -> None:
    """table.csv and table.parquet with the numbers, and table.tex with the text."""
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    contents = {
        "csv": table.to_csv(index=False).encode(),
        "parquet": parquet.getvalue(),
        "tex": _latex(study, text).encode(),
    }
    for suffix, content in contents.items():
        write_atomically(folder / f"table.{suffix}", content)


def _markdown(study: Study, text: pd.DataFrame) -> str:
    head = [*text.columns]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *text.to_numpy().tolist()]
    rows = [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    ]
    return "\n".join([*rows, "", _note(study)]) + "\n"


def _latex(study: Study, text: pd.DataFrame) -> str:
    """A booktabs table that stands by itself in a document with \\usepackage{booktabs}."""
    columns = "l" + "r" * (len(text.columns) - 1)
    table = text.map(latex).rename(columns=latex)
    made = table.to_latex(index=False, column_format=columns, caption=latex(_note(study)))
    return f"% needs \\usepackage{{booktabs}}\n{made}"


def latex(text: str) -> str:
    """Text with every character that LaTeX would take for a command written out."""
    return "".join(_LATEX.get(char, char) for char in text)


def _note(study: Study) -> str:
    """What the numbers are, for who sees the table alone."""
    until = study.plan.get("until")
    parts = [
        "Mean and 95% t-interval over seeds, accuracies in percent",
        f"Δ: difference to the baseline, {study.baseline}, paired by seed, accuracies in points"
        + ", with its repeated 95% interval over all comparisons" * bool(until),
    ]
    if until:
        parts += ["verdict of the first look that decided, at 5% over all looks and comparisons"]
    else:
        parts += ["verdict at 5% after Holm's correction"]
    margins = {m: study.margin_of(m) for m in study.metrics}
    within = [f"{margin:g}{m.points} of {m.name}" for m, margin in margins.items() if margin]
    parts += [f"equal meaning within {', '.join(within)}"] if within else []
    return "; ".join(parts) + "."


def kind_of(cell: str) -> str:
    """The kind of verdict that a cell of `shown` holds, for its colour; empty if it holds none."""
    known = cell.startswith(("better", "worse", "equal", "cannot tell"))
    return verdict_kind(cell) if known else ""


def two_lines(cell: str) -> tuple[str, str]:
    """A cell of `shown` as its number or verdict, and what stands in brackets behind it."""
    found = re.fullmatch(r"(.+?) ([\[(].*[\])])", cell)
    return (found[1], found[2]) if found else (cell, "")
