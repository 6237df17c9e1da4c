"""The report's sentences: the answer, how to read it, and what each number may be taken for."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablations.report.data import Study
from ablations.report.labels import BETWEEN, Metric
from analysis.results.draw_comparison import verdict_kind
from analysis.results.paired import SIGNIFICANCE, far_value

KINDS = ("better", "worse", "equal", "cannot tell")
MOST_PAIRS = 3
MOST_NAMED = 3  # variants that the headline names of each kind of verdict
COST_NAMES = {"params": "parameters", "gmacs": "multiply-adds"}


class Finding(NamedTuple):
    """One variant against the baseline, in words."""

    kind: str
    label: str
    verdict: str
    numbers: str
    caution: str
    cost: str


def progress(study: Study) -> str:
    """How much of the ablation has ended, and on what the page therefore rests."""
    done, failed, declared = len(study.done), len(study.failed), study.num_declared
    counts = sorted({len(study.seeds_of(cell)) for cell in study.plan["cells"]})
    seeds = f"{_count(counts[0], 'seed')} each"
    if study.plan.get("until"):
        asked = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
        seeds = f"{asked} of at most {len(study.plan['seeds'])} seeds, until the verdict"
    what = f"{_count(len(study.labels), 'variant')}, {seeds}"
    what += f", tested in turn on {study.folds}" if study.folds else ""
    if done == declared:
        return f"All {declared} declared runs have finished: {what}."
    parts = [f"{done} of {declared} declared runs have finished ({what})"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{declared - done - failed} are still to do"] if declared > done + failed else []
    rests = " This page rests on those that have finished." if done else ""
    return f"{', '.join(parts)}.{rests}"


def headline(study: Study, metric: Metric, table: pd.DataFrame | None) -> str:
    """The answer with its numbers: a sentence on the baseline, and one a kind of verdict."""
    if table is None:
        return (
            f"The baseline, {study.baseline}, has no finished run, so nothing can be compared "
            "with it yet."
        )
    n, mean, *_ = study.interval(study.baseline, metric)
    base = f"the baseline, {study.baseline}, which has {metric.said(mean)}"
    if table.empty:
        only = f"{metric.name} {metric.full(mean)} over {_count(n, 'seed')}"
        return f"Only the baseline, {study.baseline}, has finished: {only}."
    counts = Counter(verdict_kind(verdict) for verdict in table["verdict"])
    if counts["cannot tell"] == len(table):
        which = "it" if len(table) == 1 else f"any of the {len(table)} variants"
        return f"These runs show no clear difference between {which} and {base}."
    said = [f"The baseline, {study.baseline}, has {metric.said(mean)}."]
    said += [_of_kind(study, metric, table, kind) for kind in KINDS if counts[kind]]
    return " ".join(said)


def _of_kind(study: Study, metric: Metric, table: pd.DataFrame, kind: str) -> str:
    """The variants of one kind of verdict with their differences, the largest first."""
    rows = table[table["verdict"].map(verdict_kind) == kind]
    rows = rows.loc[rows["difference"].abs().sort_values(ascending=False, kind="stable").index]
    named = [
        f"{row['label']} ({metric.change(row['difference'])}{metric.points})"
        if row["n"]
        else row["label"]
        for row in rows.head(MOST_NAMED).to_dict("records")
    ]
    if len(rows) > MOST_NAMED:
        named.append(f"{len(rows) - MOST_NAMED} more")
    if kind == "cannot tell":
        return f"No clear difference is shown for {_listed(named)}."
    word = f"equal within {_margin(study, metric)}" if kind == "equal" else kind
    return f"{_listed(named)} {'is' if len(rows) == 1 else 'are'} {word}."


def far_seeds(study: Study, metric: Metric) -> list[str]:
    """A sentence on each variant one of whose seeds lies far from its others."""
    found = []
    for label in study.labels.values():
        runs = study.done[study.done["label"] == label].dropna(subset=[metric.column])
        values = runs[metric.column].to_numpy(float)
        place = far_value(values)
        if place is None:
            continue
        others = np.delete(values, place)
        if abs(values[place] - others.mean()) < (study.margin_of(metric) or 0):
            continue
        low, high = (metric.value(end) for end in (others.min(), others.max()))
        found.append(
            f"Seed {runs['seed'].iloc[place]} of {label} has {metric.full(values[place])}, far "
            f"from its other {len(others)} seeds ({low} to {high}). Look at its curve before you "
            "trust the mean."
        )
    return found


def expected(states: Counter[str]) -> str:
    """How many expectations held, failed or are open, in a sentence; empty where there are none."""
    words = {
        "held": "held",
        "failed": "failed",
        "open": "is still open" if states["open"] == 1 else "are still open",
    }
    parts = [f"{states[state]} {word}" for state, word in words.items() if states[state]]
    number = _count(sum(states.values()), "expectation")
    return f"Of {number}: {_listed(parts)}." if parts else ""


def highest(study: Study, metric: Metric, table: pd.DataFrame | None) -> str:
    """Which variant has the best mean, and whether that means anything."""
    means = {label: study.interval(label, metric)[1] for label in study.labels.values()}
    means = {label: mean for label, mean in means.items() if mean == mean}
    if table is None or len(means) < 2:
        return ""
    best = max(means, key=lambda label: metric.sign * means[label])
    mean, higher, highest = metric.full(means[best]), "higher", "highest"
    if metric.sign < 0:
        higher, highest = "lower", "lowest"
    if best == study.baseline:
        return f"No variant has a {higher} mean than the baseline ({mean})."
    verdict = table.set_index("label").loc[best, "verdict"]
    so_what = {
        "better": "and it is better than the baseline",
        "cannot tell": "but that it is really better than the baseline is not shown",
        "equal": "but that is no more than the baseline has, within the margin",
        "worse": "but on the seeds that both have it is worse than the baseline",
    }[verdict_kind(verdict)]
    return f"The {highest} mean is that of {best} ({mean}), {so_what}."


def _margin(study: Study, metric: Metric) -> str:
    """The largest difference that counts as none, with its unit."""
    return f"{study.margin_of(metric) or 0:g}{metric.points}"


def together(study: Study, table: pd.DataFrame) -> str:
    """Whether two settings give what each gives alone; empty where no pair was compared."""
    metric, pairs = study.metrics[0], table[table["kind"] == "interaction"]
    kinds = pairs["verdict"].map(verdict_kind)
    counts, told = Counter(kinds), pairs[kinds.isin(["better", "worse"])]
    largest = told.loc[told["effect"].abs().nlargest(MOST_PAIRS).index].to_dict("records")
    shown = ", ".join(
        f"{r['levels']}: {metric.change(r['effect'])}{metric.points}" for r in largest
    )
    more = ", ..." * (len(told) > MOST_PAIRS)
    parts = []
    if len(told):
        gives = _give(len(told), len(pairs))
        parts.append(f"{gives} more or less than the sum of each alone ({shown}{more})")
    if counts["equal"]:
        within = _margin(study, metric)
        parts.append(f"{_give(counts['equal'], len(pairs))} the sum of each alone within {within}")
    if parts and counts["cannot tell"]:
        parts.append(f"for {counts['cannot tell']} these runs cannot tell")
    if not parts:
        return ""
    of = "The pair of settings" if len(pairs) == 1 else f"Of {len(pairs)} pairs of settings,"
    return f"{of} {_listed(parts)}."


def findings(study: Study, metric: Metric, table: pd.DataFrame | None) -> list[Finding]:
    """Every variant, those that are told apart first, the largest differences before others."""
    if table is None:
        return []
    of_all = (study.whole or study).comparison(metric)
    assert of_all is not None
    num_tests = int((of_all["n"] > 1).sum())
    found = [
        Finding(
            verdict_kind(row["verdict"]),
            row["label"],
            row["verdict"],
            _numbers(metric, row),
            _caution(row, num_tests),
            cost_note(study, row["label"]),
        )
        for row in table.to_dict("records")
    ]
    sizes = dict(zip(table["label"], table["difference"].abs().fillna(0), strict=True))
    return sorted(found, key=lambda f: (KINDS.index(f.kind), -sizes[f.label]))


def _numbers(metric: Metric, row: dict[str, Any]) -> str:
    if not row["n"]:
        return "no finished run at a seed of the baseline's"
    by_seed = f"{metric.change(row['difference'])}{metric.points} by seed"
    difference = f"{metric.full(row['mean'])}, {by_seed}"
    if row["n"] == 1:
        return f"{difference} (1 seed, hence no interval)"
    spread = f"95% interval {metric.change(row['low'])} to {metric.change(row['high'])}"
    if row.get("from_clips", float("nan")) == row.get("from_clips"):
        seeds, clips = (metric.value(row[part]) for part in ("from_seeds", "from_clips"))
        spread += f", of which seeds give ±{seeds} or more, the choice of clips ±{clips} or less"
    if "look" in row:
        stopped = "stopped" if verdict_kind(row["verdict"]) != "cannot tell" else "last"
        if row["low"] != row["low"]:
            return f"{difference} (no interval yet; last at the look of {row['look']} seeds)"
        return f"{difference} (repeated {spread}; {stopped} at the look of {row['look']} seeds)"
    chance = f"p = {row['p_holm']:.2g}" if row["p_holm"] >= 0.001 else "p < 0.001"
    return f"{difference} ({spread}; {row['n']} seeds; {chance})"


def _caution(row: dict[str, Any], num_tests: int) -> str:
    """Why an interval that leaves out 0 may still not tell."""
    alone = "p" in row and row["n"] > 1 and row["p"] < SIGNIFICANCE <= row["p_holm"]
    if not alone or verdict_kind(row["verdict"]) != "cannot tell":
        return ""
    return f"Alone it would count as a difference, but not as one of {num_tests} comparisons."


def cost_note(study: Study, label: str) -> str:
    """How a variant's cost differs from the baseline's; empty where it does not."""
    ratios = study.cost_ratios(label)
    return _listed([f"{ratio:.3g}× the {COST_NAMES[name]}" for name, ratio in ratios.items()])


def how_to_read(study: Study, table: pd.DataFrame | None) -> str:
    """Level, correction, margin and seeds, for a reader who knows what a mean is."""
    if table is None or table.empty:
        return ""
    metric = study.metrics[0]
    paired = (
        "Each variant is compared with the baseline seed by seed: the same seed gives both the "
        "same clips in the same order. "
    )
    return (
        paired + (_looks(study) if study.design(metric) else _fixed(study, table)) + _parts(table)
    )


def _fixed(study: Study, table: pd.DataFrame) -> str:
    """The same of a grid whose number of seeds is fixed."""
    tested = int((table["n"] > 1).sum())
    seeds = sorted(set(table["n"]))
    shown = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"Here {shown} seeds are shared. Runs differ by luck. A difference counts as real (better, "
        "worse) only if luck alone would give one so clear in fewer than 5% of such studies. With "
        f"{_count(tested, 'comparison')} the bar is raised, so that this holds for all of them "
        "together. The test is a paired t-test with Holm's correction; p is how often luck alone "
        f"would do it, after the correction. {_equality(study)}Everything else is 'cannot tell'. "
        "Beside it stands the number of seeds that would probably settle it (80%), if the "
        "difference seen is the true one. That is a guide for a new study. Seeds added to this "
        "one, and tested again, would find differences that are not there; a grid with 'seeds: "
        "{from, to, until: verdict}' may add them. A 95% interval is the range of true differences "
        "that these runs leave plausible. Over few seeds it is wide, and one of a share may reach "
        "beyond 100%. In figures the thick bar is that of one comparison. The thin bar is as wide "
        "as the correction asks: it leaves out 0 only where a difference counts as real."
    )


def _looks(study: Study) -> str:
    """The same of a grid whose seeds go on until the verdict."""
    design = study.design(study.metrics[0])
    assert design is not None
    *before, last = map(str, design.looks)
    at = f"{', '.join(before)} and {last}" if before else last
    return (
        f"The looks were fixed beforehand, at {at} seeds. A comparison stops at the first look "
        "that decides it. Luck alone would give any false verdict, at any look, in fewer than 5% "
        f"of such studies, for all {_count(design.num_comparisons, 'comparison')} of a metric "
        "together. The method is alpha spending of the O'Brien-Fleming type on paired t-tests, "
        f"with Bonferroni's correction. {_equality(study)}The repeated 95% interval holds at every "
        "look and for all comparisons together, so it is wider than one of a single test. At a "
        "look so early that it bounds nothing, it is left out ('not yet'). 'Cannot tell' says how "
        "many more seeds might decide, if the difference seen is the true one. More than "
        f"{last} are another study, with seeds of its own. The first metric alone decides when a "
        "comparison stops."
    )


def _equality(study: Study) -> str:
    metric = study.metrics[0]
    if study.margin_of(metric) is None:
        return "Nothing is called equal, as the grid names no equal_within. "
    within = _margin(study, metric)
    return (
        "Equal is said only where the true difference is shown, with the same care, to be smaller "
        f"than {within} either way (two one-sided t-tests). The margin of {within} was chosen by "
        "the grid or for this report; it is not a result. "
    )


def _parts(table: pd.DataFrame) -> str:
    """What the two parts of an interval's width are, where they are known."""
    if "from_clips" not in table:
        return ""
    return (
        " Part of an interval's width is the chance of training, part is which clips "
        "happened to be tested; the squares of the two add up. More test clips make the latter "
        "smaller. All variants are tested on the same clips, which spares the differences some of "
        "it, so that part is an upper bound."
    )


def noise_floor(study: Study) -> str:
    """What two runs of one variant at one seed differ by, and what follows."""
    found = {metric: study.noise(metric) for metric in study.metrics}
    if not any(found.values()):
        return (
            "Not measured here: no variant was trained twice under one seed. 'repeat: true' in the "
            "grid file asks for it."
        )
    sizes = _listed([f"{max(d):.3g}{m.points} of {m.name}" for m, d in found.items() if d])
    if all(max(differences) == 0 for differences in found.values() if differences):
        return (
            f"{study.baseline} was trained twice under one seed and gave the same metrics to the "
            "last bit: differences between variants owe nothing to chance in the machine."
        )
    return (
        f"{study.baseline} was trained twice under one seed; the two runs differ by up to {sizes}. "
        "No smaller difference between two runs can be put down to what was varied."
    )


def matching(study: Study) -> str:
    """Whether variants were brought to equal cost, and how near they came."""
    by = study.plan.get("match")
    if not by:
        return ""
    off = (study.costs[by] / study.costs[by].get(study.baseline, float("nan")) - 1).abs().max()
    return (
        f"Variants were resized in width so that their {COST_NAMES[by]} equal the baseline's; the "
        f"largest remaining difference is {off:.1%}."
    )


def label_key(study: Study) -> str:
    """What a label's parts are, for example `gate · layout`."""
    return BETWEEN.join(axis.rpartition(".")[2] for axis in study.axes)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _give(number: int, of: int) -> str:
    verb = "gives" if number == 1 else "give"
    return verb if of == 1 else f"{number} {verb}"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
