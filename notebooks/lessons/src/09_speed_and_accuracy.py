# %% [markdown]
# # 09 Speed against accuracy
#
# **Question.** Papers rank models by multiply-adds. A clock ranks them, too. When do the two
# disagree, and which variants are worth their time?
#
# **You will be able to** time a model so that the number means something, say why the clock
# disagrees with the count, and draw the front of variants that nobody beats.
#
# You need lessons 02 and 06. About 20 minutes; three exercises.

# %%
from lessons import preflight

preflight.check()

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from analysis import cost, measure_speed, pareto
from lessons import speeds
from lessons.checks import nb09
from posmlp import create_model

# %% [markdown]
# ## One number is no measurement
#
# Run the same model on the same clip 60 times, and look at every single time.
#
# **Your guess:** how much longer than the fastest will the slowest run take?

# %% tags=["timed"]
model, clip = create_model("toy").eval(), torch.randn(1, 3, 8, 32, 32)
times_ms = []
with torch.inference_mode():
    for _ in range(60):
        began = time.perf_counter()
        model(clip)
        times_ms.append(1e3 * (time.perf_counter() - began))

# %% tags=["timed"]
slowest = max(times_ms) / min(times_ms)
fig, ax = plt.subplots(figsize=(6, 2.4))
ax.plot(times_ms, ".-", linewidth=0.6)
ax.axhline(np.median(times_ms), color="0.4", linestyle="--", linewidth=0.9, label="median")
ax.set(xlabel="run", ylabel="ms", ylim=(0, None))
ax.set_title(f"The slowest of sixty runs takes {slowest:.1f} times as long as the fastest")
ax.legend()
plt.show()

# %% tags=["timed"]
low, median, high = np.percentile(times_ms, [25, 50, 75])
print(f"first {times_ms[0]:.1f} ms, fastest {min(times_ms):.1f}, slowest {max(times_ms):.1f}")
print(f"median {median:.1f} ms, inter-quartile range {100 * (high - low) / median:.0f}% of it")

# %% [markdown]
# **Reading.** The first runs are slow (memory is fetched, kernels are chosen) and some later ones
# are hit by whatever else the machine does. So: warm up, run often, take the *median*, and report
# the spread. A median whose inter-quartile range is over a tenth of it should not be trusted to a
# tenth.
#
# ### Exercise 1: median and spread (easy, 4 minutes)
#
# Return the median and the inter-quartile range (75th less 25th percentile) as a share of the
# median.
#
# <details><summary>Hint</summary>
#
# `np.percentile(times_ms, [25, 50, 75])`. Answers are in `lessons/solutions/nb09.py`.
#
# </details>


# %% tags=["exercise"]
def median_and_spread(times_ms: list[float]) -> tuple[float, float]:
    raise NotImplementedError


nb09.median_and_spread(median_and_spread)

# %% [markdown]
# ## Models in turns
#
# To compare two models, do not time one and then the other: the machine may have slowed down in
# between. `measure_speed` runs all models in turns, round by round, and says whether the result is
# `unstable`.
#
# Three layouts of lesson 06, by the count:

# %%
trio = {name: create_model("toy", layout=name) for name in ("T+S", "T>S", "S")}
counts = {name: cost(model)["macs"] for name, model in trio.items()}
for name, macs in counts.items():
    share = macs / counts["T+S"]
    print(f"{name:4} {macs / 1e6:.1f} million multiply-adds, {share:.0%} of those of T+S")

# %% [markdown]
# **Your guess:** and by the clock, in percent of the time of `T+S`?

# %% tags=["timed"]
limits = {"warm_up": 5, "min_runs": 20, "min_seconds": 0.5}
found = measure_speed(trio, **limits)
found["share"] = found.median_ms / found.median_ms[0]
columns = ["model", "share", "median_ms", "q1_ms", "q3_ms", "num_runs", "unstable", "load"]
found[columns].round(2)

# %% [markdown]
# **Reading.** Beside each median stand its quartiles and the machine's load. Ratios between rows
# measured in turns are worth more than the rows.
#
# ## Every variant that was trained
#
# The grids `layouts` and `gates` trained many variants of the toy model. Their times were measured
# together, on one thread, and stored with the command that did it.

# %%
costs = speeds.read()
print(f"{speeds.COMMAND}\nat commit {costs.commit[0]}")
print(f"torch {costs.torch[0]}, {costs.cpu[0]}, {costs.num_threads[0]} thread, batch 1 and 16,")
print(f"at least {costs.num_runs.min()} runs each, load {costs.load.min():.1f}")
print(f"{len(costs)} variants, of which unstable: {costs.unstable.sum()}")

# %% [markdown]
# **Reading.** Most are unstable, at one of the two batch sizes. By the rule above a difference of a
# tenth between two of them is a hint, no more.
#
# Sort them by multiply-adds, and by latency.
#
# ### Exercise 2: count the disagreements (medium, 5 minutes)
#
# How many pairs does the clock put in the opposite order to the count? A tie is no disagreement.
#
# <details><summary>Hint</summary>
#
# Two loops over all pairs. The signs of the two differences are opposite where their product is
# negative.
#
# </details>


# %% tags=["exercise"]
def num_inversions(gmacs: list[float], latency_ms: list[float]) -> int:
    raise NotImplementedError


nb09.num_inversions(num_inversions)

# %% [markdown]
# **Your guess:** of all pairs of variants, how many? And how many of the pairs of one and the same
# count differ in time by more than a tenth?

# %%
x, y = (costs[key].to_numpy() for key in ("gmacs", "latency_ms"))
pairs = [(i, j) for i in range(len(x)) for j in range(i)]
turned = sum((x[i] - x[j]) * (y[i] - y[j]) < 0 for i, j in pairs)
print(f"{turned} of {len(pairs)} pairs are in the opposite order")
alike = [abs(y[i] / y[j] - 1) > 0.1 for i, j in pairs if x[i] == x[j]]
print(f"{sum(alike)} of {len(alike)} pairs of equal count differ in time by more than a tenth")

# %% [markdown]
# **Reading.** What the count leaves out: norms, GELU and the product `u * v`, which a layout of one
# branch has half as often as one of two; moving numbers through memory; starting a kernel, which a
# small model does many times; and how well an operation suits the processor.
#
# ## Latency is not throughput
#
# *Latency* is how long one clip takes. *Throughput* is how many clips a second come out when they
# arrive in batches. A small model is bound by the overhead of starting each operation; a batch
# shares it.
#
# **Your guess:** sixteen clips at once: sixteen times as long as one, or less?

# %%
table = costs.set_index("variant")[["clips_per_s"]].set_axis(["batches of 16"], axis="columns")
table.insert(0, "one at a time", 1e3 / costs.latency_ms.to_numpy())
table["ratio"] = table["batches of 16"] / table["one at a time"]
table.sort_values("ratio").round(2)

# %% [markdown]
# **Reading.** The ratio differs from variant to variant, so the order may change once more. Say
# which of the two you report, at which batch, on which machine, at which precision.
#
# ## Worth its time: the Pareto front
#
# A variant is *beaten* if another one is at most as dear and scores more (or scores the same for
# less). Those that nobody beats form the front.
#
# ### Exercise 3: the front (medium, 8 minutes)
#
# Return the places (from 0) of the variants on the front, cheapest first. Of two at the same cost
# only the better can be on it; a dearer one with an equal score is beaten.
#
# <details><summary>Hint</summary>
#
# Go through them from cheap to dear (of equal cost the better first), and keep each that scores
# more than everything kept so far.
#
# </details>


# %% tags=["exercise"]
def pareto_front(costs: list[float], scores: list[float]) -> list[int]:
    raise NotImplementedError


nb09.pareto_front(pareto_front)

# %% [markdown]
# **Your guess:** is the released model's choice, `T+S` with `lrpe`, on the front by the count? By
# the clock?

# %%
runs = speeds.accuracies().merge(costs, on="variant")
means = runs.groupby("variant", as_index=False, sort=False)[
    ["gmacs", "params", "latency_ms", "test_top1"]
].mean()
for key in ("params", "gmacs", "latency_ms"):
    front = pareto(means, key, "test_top1").variant.tolist()
    said = "on it" if "T+S" in front else "not on it"
    print(f"front by {key:10}: {', '.join(front)}; T+S is {said}")

# %%
speeds.draw_fronts(runs, {"gmacs": "multiply-adds (G)", "latency_ms": "latency of a clip (ms)"})
plt.show()

# %% [markdown]
# **Reading.** The lines answer for the means, and a variant of the same cost that scores a little
# more is enough to be beaten. In the figure variants stand in order of cost, cheap ones above, with
# means and 95% intervals over seeds. Those on the front are orange. Many intervals overlap: a front
# of means is a front of *these* means, and a variant just below it may well belong on it (lesson
# 10).
#
# ## The figure to remember
#
# Multiply-adds and latency of each variant, both as a ratio to those of `T+S` with `lrpe`.
#
# **Your guess:** for which variant does the count mislead most, and which way?

# %%
speeds.draw_ratios(costs)
plt.show()

# %% [markdown]
# **Reading.** The title names it. A depth-wise convolution (`conv`) counts a little less than the
# table's matrix product, and takes longer for one clip. In batches of 16 it need not: small
# tensors cost the number of operations that are started. Where the diamond stands left of the dot
# the count misleads the other way: a joint branch (`ST`) starts few operations, and takes even less
# time than its count says.
#
# ## What to remember
#
# - Multiply-adds are a property of a model, time is one of a model *and* a machine.
# - Warm up, interleave, repeat; report median, spread, threads, batch, precision, and the load.
# - A count that leaves out memory and overhead flatters depth-wise and many-step designs.
# - Fronts inherit the uncertainty of their points.
#
# Next: lesson 10, an ablation of your own.
