# %% [markdown]
# # 02 Token mixing is a matrix
#
# **Question.** A clip becomes N tokens, and a model must let each token see the others. Attention,
# convolution, averaging, and this paper's gating unit all do it by an N x N matrix. What does it
# buy to make that matrix *tied by offset* instead of free?
#
# **You will be able to** write down the mixing matrix of any gate, count its parameters and
# multiply-adds, and say what tying gives up.
#
# You need PyTorch and lesson 01. About 15 minutes; three exercises.

# %%
from lessons import preflight

preflight.check()

# %%
import inspect

import matplotlib.pyplot as plt
import pandas as pd
import torch

from analysis import draw_accuracy, relation_macs, relation_params
from lessons import stored
from lessons.checks import nb02
from posmlp import GATES, create_model, relative_position_index

# %% [markdown]
# ## One matrix, many names
#
# Take T = 8 frames at one place of the picture, and one channel: a vector `u` of 8 numbers. To *mix
# tokens* is to make each output a weighted sum over all inputs:
#
# $$\mathrm{mix}(u)[m] = \sum_n P[m, n]\; u[n]$$
#
# Row `m` of the relation `P` says what output frame `m` takes from each input frame `n`. The gates
# of this package show their `P` by `relation()`, of shape (G, N, N): one matrix for each of G
# channel groups (lesson 05; here G = 1). Only `attention` cannot show all of its `P`, a part of
# which it computes from each clip.
#
# **Your guess, before you run the next cell:** of `none`, `mean`, `conv`, `lrpe` and `dense`, which
# matrix is the identity, which is constant, which is a narrow band, and which looks like noise
# without any pattern?

# %%
names = ("none", "mean", "conv", "lrpe", "dense")
torch.manual_seed(0)
units = {name: GATES[name](dim=4, window=(8,), num_groups=1) for name in names}
for unit in units.values():
    for name, parameter in unit.named_parameters():
        if name != "token_bias":
            torch.nn.init.normal_(parameter)

# %%
fig, axes = plt.subplots(1, 5, figsize=(8.6, 2.5))
for ax, (name, unit) in zip(axes, units.items(), strict=True):
    image = ax.imshow(unit.relation()[0].detach(), vmin=-2.5, vmax=2.5)
    ax.set(title=name, xlabel="input frame n", xticks=[0, 7], yticks=[0, 7])
axes[0].set_ylabel("output frame m")
fig.colorbar(image, ax=axes, label="P[m, n]")
fig.suptitle("Five gates, five matrices: four follow a rule", x=0.01, ha="left", fontweight="bold")
plt.show()

# %% [markdown]
# **Reading.** `none` is the identity and `mean` a constant; `conv` and `lrpe` have the same value
# all along each diagonal, where `m - n` is the same; `dense` has no pattern at all.
#
# That a unit's `mix` is this matrix and nothing else can be checked.

# %%
u = torch.randn(1, 8, 4)  # (batch, N tokens, channels), one group
for unit in units.values():
    by_hand = torch.einsum("mn,bnc->bmc", unit.relation()[0], u)
    torch.testing.assert_close(unit.mix(u), by_hand)
print(f"mix(u) is P u for {', '.join(units)}")

# %% [markdown]
# ## Dense: a free number for each pair
#
# gMLP, the model that this family grew from, learns every entry of `P`: "what frame 5 takes from
# frame 2" and "what frame 6 takes from frame 3" are two unrelated numbers.
#
# **Your guess:** how many numbers has one dense matrix over a window of 16 frames of 14 x 14
# tokens, the released model's windows of time and space taken together? And how many parameters has
# that whole model?

# %%
window = (16, 14, 14)
with torch.device("meta"):  # shapes without memory
    released = sum(parameter.numel() for parameter in create_model("s16").parameters())
print(f"N = {16 * 14 * 14:,} tokens")
print(f"one dense matrix: {relation_params('dense', window, 1, dim=72):,} numbers")
print(f"the whole released model: {released:,} parameters")

# %% [markdown]
# **Reading.** One matrix of one block is nearly as large as the released model: over space and time
# at once a free matrix is out of the question.
#
# ### Exercise 1: count a dense matrix (easy, 2 minutes)
#
# Write the number of entries for a window `(T,)`, `(H, W)` or `(T, H, W)`.
#
# <details><summary>Hint</summary>
#
# N is the product of the sides (`torch.Size(window).numel()`). A matrix has a row for each output
# and a column for each input. An answer is in `lessons/solutions/nb02.py`.
# </details>


# %% tags=["exercise"]
def dense_params(window: tuple[int, ...]) -> int:
    raise NotImplementedError


nb02.dense_params(dense_params)

# %% [markdown]
# ## Tied: a number for each offset
#
# The paper's relation lets `P[m, n]` depend on the *offset* `m - n` alone (the frame written minus
# the frame read, called query minus key; a positive one means that the input is past). "What a
# frame takes from three frames ago" is then **one** number, wherever in the clip that frame stands.
# That is what *tied* means.
#
# All numbers stand in a small table; the index tells which of them each pair reads.
#
# **Your guess:** how many different offsets are there between 8 frames?

# %%
index = relative_position_index((8,))
print(f"{index.numel()} pairs read {index.unique().numel()} numbers; the first rows:")
index[:3].tolist()

# %% [markdown]
# **Reading.** Each row is the row above it moved by one place: this is a *Toeplitz* matrix. Lesson
# 03 builds the index for one, two and three axes.
#
# In code it is a table; the class that it builds on, `Relation`, looks the index up in it.

# %%
relation = units["lrpe"].positions
print(inspect.getsource(type(relation)))
assert torch.equal(relation()[0], relation.table[0][index])  # the look-up, by hand

# %% [markdown]
# ## The same N x N, as an image
#
# Now a window of 4 x 4 tokens, N = 16, read row by row. **Your guess:** a token's offset now has
# two parts, `dy` and `dx`. Will the tied matrix still have one value along each long diagonal?

# %%
torch.manual_seed(0)
pictures = {"dense": GATES["dense"], "tied": GATES["lrpe"]}
pictures = {name: gate(dim=1, window=(4, 4)).positions for name, gate in pictures.items()}
for relation in pictures.values():
    for parameter in relation.parameters():
        torch.nn.init.normal_(parameter)

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.6, 3.5))
for ax, (name, relation) in zip(axes, pictures.items(), strict=True):
    count = sum(p.numel() for p in relation.parameters())
    image = ax.imshow(relation()[0].detach(), vmin=-2.5, vmax=2.5)
    ax.set(title=f"{name}: {count} numbers", xlabel="input token n", ylabel="output token m")
    ax.set(xticks=range(0, 16, 4), yticks=range(0, 16, 4))
    ax.hlines([3.5, 7.5, 11.5], -0.5, 15.5, color="k", linewidth=0.6)
    ax.vlines([3.5, 7.5, 11.5], -0.5, 15.5, color="k", linewidth=0.6)
fig.colorbar(image, ax=axes, label="P[m, n]", shrink=0.8)
plt.show()

# %% [markdown]
# **Reading.** No: in two axes the tied matrix is Toeplitz *by blocks*. A block is a pair of picture
# rows (one `dy`), blocks repeat along the block diagonals, and each block is itself Toeplitz in
# `dx`. Both matrices mix every token with every other; they differ in how many numbers they have to
# say it.
#
# ### Exercise 2: count a tied table (easy, 5 minutes)
#
# The number of table entries for a window and `num_groups` groups, each group with a table of its
# own.
#
# <details><summary>Hint</summary>
#
# Along an axis of w tokens the offset runs from -(w-1) to w-1. Offsets along different axes combine
# freely.
# </details>


# %% tags=["exercise"]
def tied_params(window: tuple[int, ...], num_groups: int) -> int:
    raise NotImplementedError


nb02.tied_params(tied_params)

# %% [markdown]
# ## What tying assumes
#
# A tied matrix treats every place alike. **Your guess:** put a single spike into frame 2, mix, then
# put it into frame 4 instead. How do the two outputs differ under a tied matrix, and how under a
# dense one?

# %%
titles = {"lrpe": "tied: one answer, moved", "dense": "dense: two answers"}
fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.6), sharey=True)
for ax, name in zip(axes, ("lrpe", "dense"), strict=True):
    relation = units[name].relation()[0].detach()
    for spike, marker in ((2, "o"), (4, "x")):
        frames = torch.arange(8) - spike
        ax.plot(frames, relation[:, spike], marker=marker, label=f"spike in frame {spike}")
    ax.set(title=titles[name], xlabel="output frame - frame of the spike")
axes[0].set_ylabel("mix(u)[m]")
axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
shifted = {n: units[n].relation()[0].detach() for n in ("lrpe", "dense")}
for name, relation in shifted.items():
    gap = (relation[2:, 4] - relation[:-2, 2]).abs().max().item()
    print(f"{name}: moved by two frames, the outputs differ by at most {gap:.2f}")

# %% [markdown]
# **Reading.** Tied: the same answer, moved along with the spike; what is learned at one time holds
# at all times. Dense: two unrelated answers, each to be learned from examples of its own.
#
# What is given up: a tied matrix cannot say "frame 0 is special". A model can still learn that
# through the token bias (one number for each output place) and through the window's border.
#
# ## Does tying save computation?
#
# **Your guess:** by how much does a tied matrix reduce the multiply-adds of mixing?

# %%
rows = []
for window in ((8,), (14, 14), (16, 14, 14)):
    offsets = relation_params("lrpe", window, 1, dim=72)
    fourier = 72 * 2 * offsets * offsets.bit_length()  # there and back, roughly
    for gate in ("dense", "lrpe"):
        row = {"window": "x".join(map(str, window)), "gate": gate}
        row["parameters"] = f"{relation_params(gate, window, 8, dim=72):,}"
        row["multiply-adds"] = f"{relation_macs(gate, window, dim=72):,}"
        row["by Fourier transforms"] = f"{fourier:,.0f}" if gate == "lrpe" else "impossible"
        rows.append(row)
pd.DataFrame(rows)

# %% [markdown]
# **Reading.** Not at all, as it is computed here: the matrix that is used is N x N either way, N²
# multiply-adds a channel. The last column is another way to multiply by a tied matrix, about L log
# L for L offsets, which this model does not take. It would save nothing for eight frames and much
# for large windows. As things are, tying buys *parameters* (and with them the data needed to learn
# them), not arithmetic. Arithmetic is saved by smaller windows, and by mixing time and space apart
# (lesson 06).
#
# ### Exercise 3: how many tables fit under one matrix? (medium, 5 minutes)
#
# A tied relation is so small that a unit can afford several, one for each channel group. Give the
# largest number of groups whose tables together have **fewer** entries than a single dense matrix.
#
# <details><summary>Hint</summary>
#
# G tables are smaller while G x (entries of one) < N². Whole numbers: beware of the case where they
# would be equal.
# </details>


# %% tags=["exercise"]
def most_groups(window: tuple[int, ...]) -> int:
    raise NotImplementedError


nb02.most_groups(most_groups)

# %% [markdown]
# ## And what does it cost in accuracy?
#
# Counting is not yet evidence. A grid trained the toy model with each gate, several seeds each, on
# windows so small that a dense matrix is affordable. Beside the two stand `mean`, which mixes
# without learning how, and `none`, which does not mix.
#
# **Your guess:** tied clearly better, dense clearly better, or no clear difference?

# %%
runs = stored.rows("gates")
print(stored.command("gates"))
table = stored.against_baseline(runs, by="gate", shown=("dense", "mean", "none"))

# %%
shown = runs[runs.gate.isin(("lrpe", "dense", "mean", "none"))]
title = f"Tied (lrpe) as the baseline. {stored.in_words(table)}"
draw_accuracy(shown, metric="test_top1", by="gate", chance=1 / 14, title=title)
plt.show()

# %% [markdown]
# **Reading.** The lines above say of each gate: better, worse, equal within two points, or no clear
# difference. (The words are corrected for all gates that the grid compared, of which three are
# shown.) Look at the sizes, too: the step from no mixing (`none`) to learned mixing is far larger
# than what lies between tied and dense. The case for tying is another one: it remains possible when
# windows grow. And where a dense matrix is so large that other layers must shrink to pay for it,
# tied wins (`ablations/FINDINGS.md`: `relation_matched_params`).
#
# ## The figure to remember
#
# **Your guess:** on log-log axes, with tokens N to the right and parameters upwards, what is the
# slope of dense, and what is the slope of tied?

# %%
windows = {
    "(T,)": [(2**k,) for k in range(2, 10)],
    "(H, W)": [(2**k, 2**k) for k in range(1, 6)],
    "(T, H, W)": [(2**k, 2**k, 2**k) for k in range(1, 5)],
}
tokens = 2.0 ** torch.arange(2, 13)
sizes = {
    name: torch.tensor([torch.Size(w).numel() for w in each]) for name, each in windows.items()
}

# %%
fig, ax = plt.subplots(figsize=(6.4, 3.8))
ax.loglog(tokens, tokens**2, color="0.2", label="dense, any window: N²")
for name, each in windows.items():
    counts = [relation_params("lrpe", window, 1, dim=8) for window in each]
    ax.loglog(sizes[name], counts, "o-", label=f"tied, {name}")
ax.set(xlabel="tokens N in a window", ylabel="parameters of one relation")
ax.set_title("Dense grows with N², tied with N")
ax.legend()
plt.show()

# %%
for name, each in windows.items():
    counts = torch.tensor([relation_params("lrpe", window, 1, dim=8) for window in each[-2:]])
    slope = (counts.log().diff() / sizes[name][-2:].log().diff()).item()
    most = sizes[name][-1] ** 2 / counts[-1]
    print(f"tied, {name:10} slope {slope:.2f}; at {each[-1]} dense needs {most:,.0f} x as many")

# %% [markdown]
# **Reading.** Dense has slope 2. Tied has slope 1 for large windows, whatever the axes: nearly 2 N
# numbers in one axis, 4 N in two, 8 N in three. The gap is what can be spent on *groups*.
#
# ## What to remember
#
# - Token mixing is `P u`: one matrix over positions. Gates differ in how `P` is made.
# - *Dense* learns N² numbers, one a pair of tokens. In a *tied* matrix all pairs of the same offset
#   share one number: `(2w-1)` offsets an axis, multiplied over the axes.
# - Tied treats all places alike. It saves parameters, and no multiply-adds.
#
# Next: lesson 03 builds the index that turns a table into `P`.
