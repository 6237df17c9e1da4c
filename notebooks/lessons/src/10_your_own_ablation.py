# %% [markdown]
# # 10 Your own ablation
#
# **Question.** You have an idea for a change. How do you find out whether it helps, and how do you
# say so without fooling yourself?
#
# **You will be able to** declare a grid, run it, put your row among stored ones, and state a
# conclusion with its spread.
#
# You need lessons 04 to 06. About 30 minutes; three exercises.

# %%
from lessons import preflight

preflight.check("rich", "scipy")

# %%
import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats

import ablations
from analysis import compare, detectable_effect, draw_accuracy, draw_differences, t_interval
from analysis.results.false_alarms import peeking
from lessons import stored
from lessons.checks import nb10

METRIC = "test_within_pair"

# %% [markdown]
# ## Before anything runs
#
# A grid file is a question, a prediction, a common base, and axes whose values are varied. Here the
# task is tiny (16 x 16 pixels, three short epochs), so that one training takes seconds.
#
# Our idea is a gate of our own. The file below holds it: each token takes from the one before it,
# the first from the last, and nothing is learned about places. **Your guess:** is it better than
# the paper's table, worse, or not to be told from it, and by how many points within reversed pairs?
# Write it into `prediction`.
#
# Once you have come to the end, come back, change what `forward` computes, and run all again. An
# axis may also be a built-in switch: `{"gate_form": ["multiply", "add"]}`, `{"num_groups": [[2, 4,
# 8, 16], 1]}`, `{"token_bias": [True, False]}`; all names are in `posmlp/config.py`.

# %%
GATE_FILE = preflight.new_folder() / "my_gates.py"
GATE_FILE.write_text("""
import torch

class Shift(torch.nn.Module):
    def __init__(self, dim, window, num_groups):
        super().__init__()

    def forward(self, h):  # (B, N, 2 dim) -> (B, N, dim)
        u, v = h.chunk(2, dim=-1)
        return u.roll(1, dims=1) * v
""")
MY_GATE = f"{GATE_FILE}:Shift"

# %%
MY_AXIS = {"gate": ["lrpe", MY_GATE]}
BASE = {
    "recipe": "steady",
    "data": "moving-digits:easy",
    "image_size": 16,
    "windows": [4, 2, 1, 1],
    "train": {"epochs": 3, "num_clips": 700, "lr": 4e-3},
}

# %%
grid = {
    "question": "Is it enough to look one token back?",
    "prediction": "The shift is worse by more than five points.",
    "metric": METRIC,
    "base": BASE,
    "axes": MY_AXIS,
    "seeds": [0, 1],
    "baseline": {name: values[0] for name, values in MY_AXIS.items()},
}

# %% [markdown]
# `plan` reads the grid, checks it, counts what it would cost, and says what it could show. It
# trains nothing. (Without `probe_s=0` it also tries a few steps, to predict the time.)

# %%
print(stored.in_lines(ablations.plan(grid, probe_s=0)))

# %% [markdown]
# **Reading.** Read the last lines first. With two seeds only enormous effects can be seen. That is
# no reason not to run; it is a reason not to conclude much.
#
# A mistake is found before anything runs, with its place and its mend:

# %%
try:
    ablations.plan({**grid, "axes": {"gate": ["lrpe", f"{GATE_FILE}:Shfit"]}})
except ablations.GridError as error:
    print(stored.in_lines(error))

# %% [markdown]
# ### Exercise 1: declare a grid (medium, 8 minutes)
#
# Return a grid of your own over the `base` that you are given: one axis with two values, a
# baseline, at least two seeds, a question and a prediction.
#
# <details><summary>Hint</summary>
#
# Copy `grid` above and change the axis. `seeds` may be a list or a count. An answer is in
# `lessons/solutions/nb10.py`.
#
# </details>


# %% tags=["exercise"]
def my_grid(base: dict) -> dict:
    raise NotImplementedError


nb10.my_grid(my_grid)

# %% [markdown]
# ## Run it
#
# Four trainings. The table fills while they run; each finished one is stored at once, so an
# interrupted run goes on where it stopped.

# %% tags=["timed"]
folder = preflight.new_folder()
mine = ablations.run(grid, folder)

# %% [markdown]
# **Your guess:** run the same grid into the same folder again. How long does it take?

# %%
again = ablations.run(grid, folder, progress=False)
print(f"{len(again)} rows, trained anew: {int((again.finished != mine.finished).sum())}")

# %% [markdown]
# **Reading.** Nothing is trained twice: a cell's folder is named by a hash of everything that
# changes its result. One row a training, with what it takes to repeat it:

# %% tags=["trained"]
columns = ["name", "id", "seed", "status", "test_top1", METRIC, "params", "num_threads", "torch"]
mine[columns].round(3)

# %% [markdown]
# ## Your row among stored ones
#
# The grid `lesson10` ran other variants over this very base, at more seeds. Its baseline is ours.

# %%
others = stored.rows("lesson10")
print(stored.command("lesson10"))
num_variants = others.name.nunique() - 1
print(f"a baseline and {num_variants} variants, seeds {sorted(others.seed.unique().tolist())}")

# %% [markdown]
# **Your guess:** our baseline at seeds 0 and 1 was trained just now, theirs earlier. How far apart
# are they?

# %% tags=["trained"]
pair = mine[mine.baseline].merge(others[others.baseline], on="seed", suffixes=("", "_stored"))
pair[["seed", METRIC, f"{METRIC}_stored"]].round(4)

# %% [markdown]
# **Reading.** The same code, seed, threads and kind of processor give the same numbers; another
# processor rounds otherwise, and after three epochs that may show. This is why a comparison is made
# *within* one run, against its own baseline.
#
# **Your guess:** your row has two seeds, the others more. How many times as wide will its interval
# be?

# %% tags=["trained"]
rows = pd.concat([others, mine[~mine.baseline]], ignore_index=True)
rows["variant"] = rows.name.str.replace("gate=lrpe ", "").str.replace(" layout=T+S", "")
rows.loc[rows.baseline, "variant"] = "baseline (lrpe, T+S)"
look = {"chance": 0.5, "bounds": (0, 1), "title": "Your row (last) among stored ones"}
draw_accuracy(rows, metric=METRIC, by="variant", **look)
plt.show()

# %%
for num_seeds in (2, 3, 5):
    factor = stats.t.ppf(0.975, num_seeds - 1) / num_seeds**0.5
    print(f"{num_seeds} seeds: the interval is the mean -+ {factor:.1f} standard deviations")

# %% [markdown]
# **Reading.** Student's factor is large where the spread itself is known so badly, so that two
# seeds mostly give a wide bar. A short one says that the two happened to agree: do not trust it.
#
# ## Pairs, not heaps
#
# Seed 0 of your variant and seed 0 of the baseline saw the same clips in the same order. Some of
# what makes a seed lucky is common to both, and drops out of their *difference*.
#
# ### Exercise 2: the interval of a mean (medium, 8 minutes)
#
# From the paired differences, one a seed, compute the 95% t-interval of their mean.
#
# <details><summary>Hint</summary>
#
# mean -+ t * s / sqrt(n), with s `pd.Series(differences).std()`, which divides by n - 1, and t
# `stats.t.ppf(0.975, n - 1)`.
#
# </details>


# %% tags=["exercise"]
def interval(differences: list[float]) -> tuple[float, float]:
    raise NotImplementedError


nb10.interval(interval)

# %% [markdown]
# **Your guess:** two differences, one a seed. Does their interval hold zero?

# %% tags=["trained"]
wide = mine.pivot(index="seed", columns="baseline", values=METRIC)
mean, low, high = t_interval(wide[False] - wide[True])
print(f"difference {mean:+.3f}, 95% interval [{low:+.3f}, {high:+.3f}], {len(wide)} seeds")
variant = mine.loc[~mine.baseline, "name"].iloc[0]
baseline = mine.loc[mine.baseline, "name"].iloc[0]
print(
    f"{variant} against {baseline}:",
    compare(mine, baseline, METRIC, by="name", margin=0.02).verdict[0],
)

# %% [markdown]
# **Reading.** At two seeds only a very large difference is told from none, such as the shift's.
#
# From a shell, `ablations report` writes the page on a grid: answer, figure, table and verdicts. It
# has what the cells above found step by step, and your own gate beside the built-in one.
#
# ## Say what it says
#
# An interval that lies on one side of zero tells the direction. One that contains zero tells
# *nothing* about equality, unless it is also narrow: then the two are equal for your purposes,
# within a margin that you chose before.
#
# ### Exercise 3: the word for it (easy, 4 minutes)
#
# Return "better", "worse", "equal" (contains zero, and lies wholly between -margin and margin) or
# "cannot tell". (`compare` has a fifth word, "better, but by less than 0.02": certain, and small.)
#
# <details><summary>Hint</summary>
#
# Four cases; test the direction first.
#
# </details>


# %% tags=["exercise"]
def conclusion(low: float, high: float, margin: float) -> str:
    raise NotImplementedError


nb10.conclusion(conclusion)

# %% [markdown]
# ## Each variant is a chance to be fooled
#
# The stored grid compares many variants with one baseline. At the 5% level, if none differed at
# all, one comparison in twenty would still come out as different; `compare` corrects for their
# number (Holm; column `p_holm`). With `margin=0.02` it also tests whether two are equal within two
# points.
#
# **Your guess:** which of them can be told from the baseline?

# %%
first = others.loc[others.baseline, "name"].iloc[0]
table = compare(others, first, METRIC, by="name", margin=0.02)
lost = table[(table.p < 0.05) & (table.p_holm >= 0.05)].name.tolist()
print(f"told by their own p alone, not after correction: {', '.join(lost) or 'none'}")
table[["name", "difference", "low", "high", "p", "p_holm", "verdict"]].round(3)

# %% [markdown]
# **Reading.** What does not mix over time, or only takes its mean, is told at once. The line above
# the table names rows that would have been told apart by their own p, and are not once all
# comparisons are counted. For rows that cannot be told the table says how many seeds a verdict
# would need if what was seen were the truth: an honest "we do not know yet".
#
# **Your guess:** how much smaller a difference do twice as many seeds detect?

# %%
for num_seeds in (2, 3, 5, 10, 20):
    size = detectable_effect(num_seeds)
    print(f"{num_seeds:2} seeds detect {size:.1f} standard deviations of the differences")

# %% [markdown]
# **Reading.** From two to three seeds gains most; later, four times the seeds halve it.
#
# ## Looking again is another chance to be fooled
#
# The word is "cannot tell". May you add a seed and test again, until a word comes? Each test at 5%
# is a chance of a false alarm, and you would stop at the first. Below, 4,000 pretended studies
# compare two variants that are *equal*. One kind of student tests after every seed. The other fixes
# the looks beforehand, and spends the 5% over them: almost nothing early, most of it at the end.
#
# **Your guess:** of the studies that test after every seed up to 20, how many claim a difference?

# %%
alarms = peeking()
fig, ax = plt.subplots(figsize=(6, 3.2))
ax.plot(alarms.seeds, 100 * alarms.every_seed, color="#D55E00", label="after every seed")
step = {"where": "post", "color": "#0072B2", "label": "looks fixed beforehand"}
ax.step(alarms.seeds, 100 * alarms.designed, **step)
ax.axhline(5, color="0.6", linewidth=0.8, zorder=0)
ax.set(xlabel="seeds so far", ylabel="studies with a false alarm (%)", xticks=range(5, 21, 5))
ax.legend()
ax.set_title("Testing until something is found finds what is not there")
plt.show()

# %% [markdown]
# **Reading.** Testing after every seed is wrong in nearly one study of four, not in one of twenty.
# So never add seeds to this grid because its word did not please you. Say before the run that the
# seeds may go on: `seeds: {from: 3, to: 20, until: verdict}` with `equal_within: 2`. Each variant
# then stops at its first word, and all looks at all variants err in 5% of studies together.
#
# ## The figure to remember
#
# Differences to the baseline, seed by seed: yours at two seeds (last), the stored ones at more.
#
# **Your guess:** draw your own bar before you run this, and the word beside it.

# %% tags=["trained"]
yours = compare(mine, baseline, METRIC, by="name", margin=0.02)
both = pd.concat([table, yours.assign(name=yours.name + " (yours)")])
both[["difference", "low", "high"]] = (100 * both[["difference", "low", "high"]]).clip(-50, 50)
title = "Two seeds (last bar) against five"
draw_differences(both, label="name", margin=2, unit=" points", title=title)
plt.show()

# %% [markdown]
# **Reading.** (Intervals are cut at 50 points.) A bar is for one comparison, a word for all of
# them: a bar may lie on one side of zero where the word is "cannot tell". Your conclusion is one
# sentence: the difference, its interval, the number of seeds, and one of the four words.
#
# ## What to remember
#
# - Question, prediction, baseline and seeds are written down before the run.
# - Compare pairs of the same seed; give the interval; correct for the number of variants.
# - Not significant is not equal.
# - Fix the looks before the run; testing until a word comes is a false alarm in waiting.
# - `ablations plan | run | status | report` do all of this from a shell, over files that survive a
#   kill.
# - A gate in a file of your own is a value like any other. Its source is part of a cell's id, so
#   that an edited file is another cell. Data, metrics and augmentations of your own go the same
#   way.
#
# Next: lesson 11, your own video.
