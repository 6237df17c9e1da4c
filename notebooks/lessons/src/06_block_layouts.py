# %% [markdown]
# # 06 Block layouts: parallel, sequential, joint
#
# **Question.** A clip's tokens differ in time and in place. Should a block mix over both at once,
# over one after the other, or over both side by side, and what can each of these never see?
#
# **You will be able to** read a layout string, draw its wiring, predict its parameters, and say
# which tokens an output depends on.
#
# You need lessons 02 and 05. About 20 minutes; three exercises.

# %%
from lessons import preflight

preflight.check("ipywidgets")

# %%
import inspect

import matplotlib.pyplot as plt
import pandas as pd

from analysis import cost, draw_layout, relation_macs, relation_params
from lessons import stored, wiring
from lessons.checks import nb06
from posmlp import create_model

# %% [markdown]
# ## A layout is a short string
#
# A branch is norm, linear layer, GELU, gating unit, linear layer (lessons 01, 04 and 05). Three
# kinds differ only in the window that their unit mixes over:
#
# - `T` over the frames, at one place of the picture;
# - `S` over the places of a window, within one frame;
# - `ST` over both: every place of the window in every frame.
#
# `+` puts branches side by side: all read the same tokens, and their outputs are added in *one*
# residual step. `>` goes on to the *next* residual step, which reads what the step before it has
# made. The released model is `T+S`.
#
# **Your guess:** how many residual steps has `T+S>ST`, and what does the joint branch read: the
# block's input, or something that `T` and `S` have changed?

# %%
for layout in ("T+S", "T>S", "T+S>ST"):
    print(f"{layout:8} -> {wiring.parse_layout(layout)}")

# %% [markdown]
# **Reading.** Two steps; `ST` reads the sum of the input and what `T` and `S` returned. `>` binds
# weaker than `+`: the string is split at `>` first.
#
# ### Exercise 1: parse a layout (easy, 3 minutes)
#
# Return the residual steps as a list of lists: `"T+S>ST"` is `[["T", "S"], ["ST"]]`.
#
# <details><summary>Hint</summary>
#
# `"a>b".split(">")` is `["a", "b"]`. What binds weaker is split first. An answer is in
# `lessons/solutions/nb06.py`.
#
# </details>


# %% tags=["exercise"]
def parse(layout: str) -> list[list[str]]:
    raise NotImplementedError


nb06.parse(parse)

# %% [markdown]
# ## The wiring
#
# **Your guess:** before you look, draw `T>S` and `T+S` on paper. In which of them does `S` read
# what `T` has written?

# %%
names = ("T+S", "T>S", "S>T", "ST", "ST+S", "T", "S", "T+S>ST")
fig, axes = plt.subplots(2, 4, figsize=(8.8, 3.2))
for ax, name in zip(axes.flat, names, strict=True):
    draw_layout(name, ax=ax)
    ax.set(xlim=(-0.6, 5.9), ylim=(-0.45, 2.4))
plt.show()

# %% [markdown]
# **Reading.** Only in `T>S`. The line below is the residual: at each circle the step's branches are
# added to what went in. In code a step adds the sum of its branches to what went in, and a block
# takes step after step. (`drop_path` may leave an update out while a model is trained; this is
# stochastic depth, and the toy model does without.)

# %%
block = create_model("toy").stages[0].blocks[0]
print(inspect.getsource(block.steps[0].forward))
print(inspect.getsource(block.forward))

# %% [markdown]
# ## What can an output see?
#
# Take one block and one window of 4 frames of 4 x 4 places. One output token, in frame 1, depends
# on an input token exactly where its gradient there is not zero. So we need no theory: we ask
# autograd.
#
# **Your guess:** of the 64 tokens of the window, how many does one output of `T+S` depend on? And
# of `T>S`?


# %%
shown = ("S", "T", "T+S", "T>S", "ST")
fig, axes = plt.subplots(len(shown), 4, figsize=(4.6, 5.6))
for row, layout in zip(axes, shown, strict=True):
    reach = wiring.seen(layout)
    row[0].set_ylabel(f"{layout}\n{int(reach.sum())} of 64", rotation=0, ha="right", va="center")
    for t, ax in enumerate(row):
        wiring.draw_places(reach[t], ax, title=f"frame {t}" if layout == shown[0] else "")
    row[1].plot(1, 1, "o", color="#D55E00")
fig.suptitle("What one output (dot) of one block depends on", fontweight="bold")
plt.show()

# %% [markdown]
# **Reading.** `S` sees its own frame and nothing of another; `T` its own place and nothing beside
# it. `T+S` sees a cross: its own place at all times, and its own frame at all places. An object
# that *moves* is at another place at another time, which lies outside the cross. `T>S` sees all 64,
# since `S` reads tokens that have already looked through time; so does `ST`.
#
# ## But a model has many blocks
#
# **Your guess:** does a second `T+S` block close the gap? And does any number of `S` blocks?

# %%
for layout in ("T+S", "T+S>T+S", "S", "S>S>S>S", "T>T>T>T"):
    print(f"{layout:10} sees {int(wiring.seen(layout).sum()):2} of 64")

# %% [markdown]
# **Reading.** Two `T+S` steps see everything. `S` alone never leaves its frame, however deep: only
# the final mean over frames joins them, and a mean does not know their order. `T` alone never
# leaves its place within a stage; what moves reaches it through the strided convolutions *between*
# stages.
#
# Seeing is not all: `T>S` reaches a token at another time and place by the *product* of two
# weights, one for the time offset and one for the place offset; `ST` has a weight of its own for
# every (dt, dy, dx). So `ST` can weigh "two to the left, one frame ago" without also weighing "two
# to the left" now.
#
# ### Exercise 2: count what is seen (hard, 10 minutes)
#
# Give the number of tokens, of a window of `num_frames` frames of `num_places` places, that one
# output of a block with this layout depends on.
#
# <details><summary>Hint</summary>
#
# Number the tokens from 0 to T n - 1 and keep a matrix: entry (m, k) is not zero if m depends on k.
# With `import numpy as np` `T` is `np.kron(np.ones((T, T)), np.eye(n))`, and `S` is
# `np.kron(np.eye(T), np.ones((n, n)))`. A step multiplies what is there by the identity (the
# residual) plus the sum of its branches.
#
# </details>


# %% tags=["exercise"]
def num_seen(layout: str, num_frames: int, num_places: int) -> int:
    raise NotImplementedError


nb06.num_seen(num_seen)

# %% [markdown]
# ## What does it cost?
#
# `cost` counts parameters and multiply-adds of one clip by tracing the model (1 GMAC = 10^9).
#
# **Your guess:** `T+S` and `T>S` have the same branches. Which one has more parameters? And is
# `ST`, with one branch instead of two, cheaper or dearer?

# %%
layouts = ("T+S", "T>S", "S>T", "ST", "ST+S", "T", "S")
costs = {layout: cost(create_model("toy", layout=layout)) for layout in layouts}
table = pd.DataFrame(costs, index=["params", "relation_params", "gmacs"]).T
table.assign(
    params=table.params.map("{:,.0f}".format),
    relation_params=table.relation_params.map("{:,.0f}".format),
    gmacs=table.gmacs.map("{:.4f}".format),
)

# %% [markdown]
# **Reading.** Parallel and sequential count exactly the same: wiring is free. `ST` saves a branch's
# two linear layers, and pays for it in the relation: its table has an entry for each offset in
# *three* axes. On the toy's small windows this saves parameters and multiply-adds. Whether it
# learns as well is asked below.
#
# **Your guess:** does it still save on the windows of the released model?

# %%
sizes = {"toy": (8, 4), "S16 of the paper": (16, 14), "twice the frames": (32, 14)}
for name, (frames, side) in sizes.items():
    time, space, joint = (frames,), (side, side), (frames, side, side)
    entries = {w: relation_params("lrpe", w, 1, dim=1) for w in (time, space, joint)}
    macs = {w: relation_macs("lrpe", w, dim=1) for w in (time, space, joint)}
    apart = side**2 * macs[time] + frames * macs[space]  # a T window a place, an S window a frame
    print(f"{name:17} table entries a group: T+S {entries[time] + entries[space]:,}, ", end="")
    print(f"ST {entries[joint]:,}; multiply-adds of mixing, ST over T+S: {macs[joint] / apart:.1f}")

# %% [markdown]
# **Reading.** No: mixing costs N² for N tokens of a window, and joint windows multiply what
# separate ones add. This is why the released model mixes time and space apart.
#
# ### Exercise 3: predict the parameters of `ST` (medium, 5 minutes)
#
# The gating unit of an `ST` branch over a window `(T, h, w)`: its tables, one for each channel
# group, and its token biases, one for each token of the window and shared by all channels.
#
# <details><summary>Hint</summary>
#
# An axis of w tokens has 2w - 1 offsets. There are T h w tokens.
#
# </details>


# %% tags=["exercise"]
def st_params(window: tuple[int, int, int], num_groups: int) -> int:
    raise NotImplementedError


nb06.st_params(st_params)

# %% [markdown]
# ## A layout of your own
#
# Here is `T>S+ST` as a picture with its cost. **Your guess:** what does `ST` read in it?


# %%
wiring.show("T>S+ST")

# %% [markdown]
# **Reading.** What `T` has changed: `+` binds closer than `>`, so that `S` and `ST` stand side by
# side in the second step. Run the next cell and type another layout: the picture follows. What is
# not a layout is refused with a reason.

# %%
wiring.builder("T>S+ST")

# %% [markdown]
# Stages may differ, too: early ones see fine detail, late ones little space but all of time. One
# layout a stage is written as a list. **Your guess:** does it save more to leave `T` out of the
# early stages, or out of the late ones?

# %%
for layout in ("T+S", ("S", "S", "T+S", "T+S"), ("T+S", "T+S", "S", "S")):
    found = cost(create_model("toy", layout=layout))
    print(f"{layout!s:33} {found['params']:,} parameters, {found['gmacs']:.4f} GMACs")

# %% [markdown]
# **Reading.** Out of the late ones. In parameters by far: with twice the channels a stage's linear
# layers have four times as many. In multiply-adds only because stage 3 has two blocks: with a
# quarter of the tokens a linear layer costs the same in every stage.
#
# ## Which learns most?
#
# Every layout was trained on the same clips by the same recipe, each at its best learning rate
# (`ablations/grids/layouts.yaml`). Test clips come in exactly reversed pairs: a model that does not
# see the order of frames scores one half within pairs.
#
# **Your guess:** which layouts can be told from the released `T+S` at all?

# %%
runs = stored.rows("layouts")
print(stored.command("layouts"))
table = stored.against_baseline(runs, by="layout")

# %%
for layout in layouts:
    within = runs.loc[runs.layout == layout, "test_within_pair"]
    print(f"{layout:5} within reversed pairs {within.mean():.1%} (from {within.min():.1%})")
blind = runs.loc[runs.layout == "S", "test_within_pair"]
assert (blind == 0.5).all()

# %% [markdown]
# **Reading.** Layouts with a time branch can tell a clip from its reversal; `S` is at one half
# exactly, at every seed. That is not an estimate but a theorem, since `S` never mixes over time.
# For the other layouts go by the words, which are corrected for the number of comparisons.
#
# ## The figure to remember
#
# **Your guess:** cover the points: which wiring would you pay for?

# %%
title = f"Top-1 against T+S. {stored.in_words(table)}"
wiring.draw_beside_scores(runs, costs, title)
plt.show()
assert min(costs, key=lambda layout: costs[layout]["macs"]) == "T"

# %% [markdown]
# **Reading.** `T` has the fewest multiply-adds (by the clock the order is another, lesson 09), and
# sees space as well, through the strided convolutions between the stages. Parallel and sequential
# count the same, and what `T+S` does not see in one block it sees in the next.
#
# ## What to remember
#
# - `+` adds branches in one residual step, `>` makes another step; both count the same.
# - One block of `S` sees its own frame, one of `T` its own place at all times, one of `T+S` the
#   cross of both, one of `T>S` or `ST` the whole window. Depth closes the gap of `T+S`; nothing
#   gives `S` the order of frames, and `T` leaves its place only between stages.
# - `ST` has a weight for every (dt, dy, dx). Its table and its multiply-adds grow with the product
#   of frames and places.
#
# Next: lesson 07 reads what the tables have learned.
