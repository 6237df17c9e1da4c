"""Times of the variants whose accuracies are stored.

`python -m lessons.speeds` in `notebooks` measures them, in about a minute on one quiet CPU core,
and writes ablations/results/speed/lesson09.csv.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt

from analysis import cost, measure_speed, pareto, t_interval
from lessons import stored
from posmlp import PosMLPConfig
from posmlp.checkpoint import write_atomically
from posmlp.presets import resolve
from posmlp.train.environment import environment

PATH = stored.RESULTS / "speed" / "lesson09.csv"
COMMAND = "cd notebooks && python -m lessons.speeds"
BATCH_SIZES = (1, 16)
CLOCK = "#D55E00"


def accuracies() -> pd.DataFrame:
    """The stored runs of grids `layouts` and `gates`, a row a variant and seed.

    `variant` is the layout (gate lrpe), or the gate (layout T+S).
    """
    layouts = stored.rows("layouts")
    gates = stored.rows("gates").query("gate != 'lrpe'")  # lrpe is layout T+S of the other grid
    tables = [layouts.assign(variant=layouts.layout), gates.assign(variant=gates.gate)]
    return pd.concat(tables, ignore_index=True)[["variant", "seed", "test_top1"]]


def configs() -> dict[str, PosMLPConfig]:
    """The configuration of each variant, by its name."""
    layouts = [str(each) for each in stored.rows("layouts").layout.unique()]
    gates = [str(each) for each in stored.rows("gates").gate.unique() if each != "lrpe"]
    found = {layout: resolve("toy", layout=layout) for layout in layouts}
    return found | {gate: resolve("toy", gate=gate) for gate in gates}


def measure() -> pd.DataFrame:
    """Costs, and times on this machine on one thread, in turns; a row a variant."""
    timed = measure_speed(configs(), batch_sizes=BATCH_SIZES, num_threads=1)
    rows = []
    for name, config in configs().items():
        counted = cost(config, memory=False)
        alone, batch = (
            timed[(timed.model == name) & (timed.batch_size == size)].iloc[0]
            for size in BATCH_SIZES
        )
        row = {"variant": name, "params": counted["params"], "gmacs": counted["gmacs"]}
        row |= {f"latency_{part}": alone[part] for part in ("q1_ms", "median_ms", "q3_ms")}
        row |= {"clips_per_s": batch.clips_per_s, "unstable": alone.unstable or batch.unstable}
        row |= {key: alone[key] for key in ("num_runs", "device", "num_threads", "load", "torch")}
        rows.append(row | {key: environment("cpu")[key] for key in ("cpu", "commit", "dirty")})
    return pd.DataFrame(rows).rename(columns={"latency_median_ms": "latency_ms"})


def read() -> pd.DataFrame:
    """What `measure` gave when the results were stored.

    Raises FileNotFoundError, naming the command, if that was never done.
    """
    if not PATH.exists():
        raise FileNotFoundError(f"no {PATH}; measure it by `{COMMAND}`")
    return pd.read_csv(PATH)


def draw_ratios(costs: pd.DataFrame) -> None:
    """Multiply-adds and latency of each variant over those of `T+S`, joined; a line a variant."""
    both = costs.set_index("variant")[["gmacs", "latency_ms"]]
    ratios = (both / both.loc["T+S"]).drop("T+S").sort_values("latency_ms")
    places = range(len(ratios))
    _, ax = plt.subplots(figsize=(6.6, 4))
    ax.hlines(places, ratios.gmacs, ratios.latency_ms, color="0.7", zorder=1)
    ax.plot(ratios.gmacs, places, "o", color="0.5", label="multiply-adds")
    ax.plot(ratios.latency_ms, places, "D", color=CLOCK, label="latency, one clip")
    ax.axvline(1, color="0.8", linewidth=0.8, zorder=0)
    ax.set(yticks=places, yticklabels=ratios.index, xlabel="ratio to T+S with lrpe")
    name = (ratios.latency_ms / ratios.gmacs).idxmax()
    count, clock = ratios.loc[name]
    ax.set_title(f"{name}: {count:.2f} times the multiply-adds, {clock:.2f} times the time")
    ax.legend()


def draw_fronts(runs: pd.DataFrame, costs: Mapping[str, str]) -> None:
    """A panel a cost, a line a variant from cheap to dear: its top-1, the front's in another hue.

    `runs`: a row a variant and seed, with test_top1 and the columns that `costs` names in words.
    """
    means = runs.groupby("variant", as_index=False)[["test_top1", *costs]].mean()
    size = (4.8 * len(costs), 0.27 * len(means) + 1)
    _, axes = plt.subplots(1, len(costs), figsize=size, sharex=True, squeeze=False)
    for ax, (name, words) in zip(axes.flat, costs.items(), strict=True):
        front = set(pareto(means, name, "test_top1").variant)
        ordered = means.sort_values([name, "test_top1"], ascending=[True, False])
        for place, variant in enumerate(ordered.variant):
            hue = CLOCK if variant in front else "0.6"
            mean, low, high = t_interval(runs.loc[runs.variant == variant, "test_top1"])
            ax.plot([100 * low, 100 * high], [place, place], color=hue, linewidth=2)
            ax.plot(100 * mean, place, "D", color=hue)
        labels = [f"{row.variant}  {getattr(row, name):.3g}" for row in ordered.itertuples()]
        ax.set(yticks=range(len(labels)), yticklabels=labels, xlabel="top-1 on test clips (%)")
        ax.invert_yaxis()
        ax.set_title(f"By {words}: {len(front)} on the front")


if __name__ == "__main__":
    table = measure()
    write_atomically(PATH, table.to_csv(index=False).encode())
    print(table.to_string())
    print(PATH)
