# %% [markdown]
# # 05 Channel groups
#
# **Question.** One table holds one opinion on "which offsets matter". A tied relation is so small
# that a unit can have several, each serving a group of channels. What do groups buy, what do they
# cost, and does a trained model use them?
#
# **You will be able to** say which channel uses which table, tell a reshape that is wrong from one
# that is right though both run, and judge from learned tables whether more groups were needed.
#
# You need lessons 02 to 04. About 20 minutes, of which training takes some twenty seconds; three
# exercises.

# %%
from lessons import preflight

preflight.check()

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from analysis import bias_maps, bias_statistics, cost, draw_accuracy, draw_temporal_bias
from lessons import stored
from lessons.checks import nb05
from lessons.clips import GeneratedClips, MovingDigits
from posmlp import GATES, TrainConfig, create_model, fit, load

# %% [markdown]
# ## One table is one opinion
#
# Suppose that a good model needs each of eight channels to look at another frame: one of them four
# frames ahead, the next three, and so on to three frames back. Eight channels, eight different
# tables. We may only have G of them, so that 8/G channels share a table.
#
# The best that sharing channels can do is the *mean* of what they want. A group of V channels that
# want V different frames gets 1/V of each.
#
# **Your guess, before you run the next cell:** which share of the wanted signal is missed with G =
# 1, 2, 4, 8?

# %%
torch.manual_seed(0)
u = torch.randn(2000, 8, 8)  # (clips, frames, channels)
wanted = torch.eye(8, 15).roll(3, dims=1)  # a table a channel: one frame each, dt from -4 to 3
teacher = GATES["lrpe"](dim=8, window=(8,), num_groups=8, form="mix")
teacher.positions.table.data = wanted
missed = {}
for groups in (1, 2, 4, 8):
    student = GATES["lrpe"](dim=8, window=(8,), num_groups=groups, form="mix")
    student.positions.table.data = wanted.view(-1, groups, 15).mean(0)
    with torch.no_grad():
        error = (student(u) - teacher(u)).square().mean() / teacher(u).square().mean()
    missed[groups] = error.item()

# %%
for groups, share in missed.items():
    by_hand = f"by hand 1 - G/8 = {1 - groups / 8:.2f}"
    print(f"G = {groups}: {share:.2f} of the signal is missed; {by_hand}")

# %% [markdown]
# **Reading.** With one group seven eighths are lost, with eight nothing: the measurement agrees
# with the derivation. Groups buy *different opinions for different channels*.
#
# ## Which channel is in which group
#
# The released code interleaves: **channel c uses table c % G**. Channels 0, G, 2G, ... share table
# 0.
#
# **Your guess:** 12 channels, G = 3. Which table does channel 7 use?

# %%
fig, axes = plt.subplots(3, 1, figsize=(6.6, 2.5), sharex=True)
for ax, groups in zip(axes, (1, 3, 12), strict=True):
    group = torch.arange(12) % groups
    ax.imshow(group[None], cmap="Set3", aspect="auto", vmin=0, vmax=11)
    for channel, number in enumerate(group.tolist()):
        ax.text(channel, 0, number, ha="center", va="center", fontsize=9)
    ax.set(yticks=[0], yticklabels=[f"G = {groups}"], xticks=range(12))
axes[0].set_title("Neighbouring channels use different tables")
axes[-1].set_xlabel("channel c (the number in a cell is its table)")
plt.show()

# %% [markdown]
# **Reading.** 7 % 3 = 1: table 1, as channels 1, 4 and 10. With as many groups as channels each has
# a table of its own.
#
# ### Exercise 1: who shares a table? (easy, 2 minutes)
#
# Return the list of channels, of `dim` in `num_groups` groups, that use the table of `group`.
#
# <details><summary>Hint</summary>
#
# `range` takes a start, an end and a step. An answer is in `lessons/solutions/nb05.py`.
# </details>


# %% tags=["exercise"]
def channels_of(group: int, dim: int, num_groups: int) -> list[int]:
    raise NotImplementedError


nb05.channels_of(channels_of)

# %% [markdown]
# ## A fault that runs
#
# To mix all groups at once the channels are unfolded into (V, G) or (G, V), mixed, and folded back.
# Both orders give the right shape, and with G = 1 or G = C even the right numbers.
#
# ### Exercise 2: find the planted fault (medium, 10 minutes)
#
# `u` is (N, C), `relation` (G, N, N), the result (N, C). Delete the first line of the function, run
# the cell, and read where the result differs. Then repair it.
#
# <details><summary>Hint</summary>
#
# In `c % G` the group is what changes *fastest* from channel to channel. When a row-major axis is
# unfolded into two, which of the two changes fastest: the first or the last?
# </details>


# %% tags=["exercise"]
def mix_groups(u: torch.Tensor, relation: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError  # delete this line
    num_groups = len(relation)
    x = u.reshape(len(u), num_groups, -1)
    mixed = torch.einsum("gmn,ngv->mgv", relation, x)
    return mixed.reshape(u.shape)


nb05.mix_groups(mix_groups)

# %% [markdown]
# Would training notice such a fault? **Your guess:** a model *trained* with the wrong grouping: is
# it worse? And a checkpoint trained with the right one, then run with the wrong one?

# %%
trained = load("toy-ts")
unit = trained.stages[1].blocks[0].steps[0]["T"].gate  # 32 channels, 4 groups
torch.manual_seed(0)
u = torch.randn(100, 8, 32)
with torch.no_grad():
    right = unit.mix(u)
    x = u.unflatten(-1, (4, -1))  # the fault
    faulty = torch.einsum("gmn,bngv->bmgv", unit.relation(), x).flatten(-2)
error = (faulty - right).square().mean() / right.square().mean()
print(f"with the wrong grouping a trained unit's output is off by {error.sqrt():.0%} of its size")

# %% [markdown]
# **Reading.** Trained from scratch it would do as well, by symmetry: no channel has a meaning yet,
# and no loss curve shows this fault. But a checkpoint made elsewhere is read as nonsense. Only a
# comparison with known numbers finds it, which is why the package is tested against the released
# code's outputs.
#
# ## What groups cost
#
# **Your guess:** how do parameters and multiply-adds grow from G = 1 to G = 16?

# %%
rows = []
for groups in (1, 2, 4, 8, 16):
    found = cost(create_model("toy", num_groups=groups))
    row = {"groups": groups, "parameters": f"{found['params']:,}"}
    row["of them tables"] = f"{found['relation_params']:,}"
    row["million multiply-adds"] = f"{found['macs'] / 1e6:.2f}"
    rows.append(row)
pd.DataFrame(rows)

# %% [markdown]
# **Reading.** Tables grow in proportion, the model by about one part in a hundred, the
# multiply-adds not at all: every channel is mixed by an N x N matrix, be it shared or not.
#
# ## Do more groups help?
#
# Four models, alike but for G; tables start at **zero** (`init="released"`), so that all that is in
# them was learned. One seed each.

# %% tags=["trained"]
train_clips = GeneratedClips(MovingDigits("train", num_clips=480, difficulty="easy"))
test_clips = GeneratedClips(MovingDigits("test", num_clips=140, difficulty="easy", paired=True))
recipe = TrainConfig(epochs=3, batch_size=16, lr=6e-3)
runs = preflight.new_folder()
models, scores = {}, {}
for groups in (1, 2, 4, 8):
    config = create_model("toy", num_groups=groups, init="released").config
    out = runs / str(groups)
    rows = fit(config, recipe, data=(train_clips, test_clips), out=out, progress=False)
    models[groups] = load(out / "model-seed0.safetensors")
    scores[groups] = rows[-1]["test_within_pair"]

# %% [markdown]
# **Your guess:** the order of the four by accuracy within reversed pairs. Would you bet on it?

# %% tags=["trained"]
for groups, score in scores.items():
    print(f"G = {groups}: within reversed pairs {score:.3f}")

# %% [markdown]
# **Reading.** Whatever their order, it is that of one seed and a short training. A grid trained the
# toy model for each G with more clips and several seeds (where four numbers stand, they are the
# groups of the four stages; the first is the toy model's own).
#
# **Your guess:** from which G on is there nothing more to gain?

# %%
stored_runs = stored.rows("groups")
print(stored.command("groups"))
table = stored.against_baseline(stored_runs, by="num_groups")

# %%
baseline = stored_runs.num_groups[stored_runs.baseline].iloc[0]
title = f"Against {baseline}. {stored.in_words(table)}"
draw_accuracy(stored_runs, metric="test_top1", by="num_groups", title=title)
plt.show()

# %% [markdown]
# **Reading.** No number of groups is better than the toy model's own. Four in every stage do as
# well; one and 16 are a point behind, which took fifteen seeds to see. A table for every channel
# costs most: each table then learns from one channel alone. What a part *could* do, as in the first
# section, and what it *does* on given data are two questions; the second needs seeds (lesson 10).
#
# ## Do eight groups say eight different things?
#
# Put the tables of a unit into a (G, offsets) matrix. If all groups are multiples of one curve its
# rank is 1, however many groups there are. The **effective rank** is a soft count: with q the
# singular values divided by their sum, exp(-sum q ln q). It lies between 1 and G.
#
# ### Exercise 3: write the effective rank (medium, 5 minutes)
#
# `tables` is (G, offsets); return one number.
#
# <details><summary>Hint</summary>
#
# `torch.linalg.svdvals(tables)`. Where q = 0 the term q ln q is 0, but a computer says nan:
# `torch.special.entr` knows.
# </details>


# %% tags=["exercise"]
def effective_rank(tables: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


nb05.effective_rank(effective_rank)

# %% [markdown]
# ## The figure to remember
#
# Temporal tables of stage 2, learned with 1 group and with 8, on one scale; and the effective rank
# of all tables of stages 1 to 3, against the number of groups. (In stage 4 a window is one place.)
#
# **Your guess:** with a single table for time, what could it be? With eight, will they be eight
# different curves? Will the rank follow the dashed line (every group an opinion of its own)?

# %% tags=["trained"]
rows = []
for groups, model in models.items():
    found = bias_statistics(model).query("group == 0 and stage < 4")
    for branch in ("T", "S"):
        rank = found[found["branch"] == branch]["effective_rank"].mean()
        rows.append({"groups": groups, "branch": branch, "rank": rank})
ranks = pd.DataFrame(rows).pivot(index="groups", columns="branch", values="rank")

# %% tags=["trained"]
fig, (one, eight, right) = plt.subplots(1, 3, figsize=(10.5, 3.4), width_ratios=[1, 1, 0.9])
eight.sharey(one)
for ax, groups, title in ((one, 1, "1 group: one curve"), (eight, 8, "8 groups: many curves")):
    maps = bias_maps(models[groups]).query("stage == 2 and block == 1 and branch == 'T'")
    draw_temporal_bias(maps, view="by offset", ax=ax, title=title)
    ax.set(xlabel="dt (frames; right: past)", ylabel="mixing weight" if ax is one else "")
    ax.get_legend().remove()
for branch in ("T", "S"):
    right.plot(ranks.index, ranks[branch], "o-", label=f"branch {branch}")
right.plot([1, 8], [1, 8], color="0.6", linestyle="--", label="every group its own")
right.set(xlabel="groups G", xticks=[1, 2, 4, 8], title="Effective rank: less than G")
right.legend()
plt.show()

# %% tags=["trained"]
for groups, row in ranks.iterrows():
    print(f"G = {groups}: effective rank T {row['T']:.2f}, S {row['S']:.2f}")

# %% [markdown]
# **Reading.** One curve has to serve all 32 channels; eight differ in sign and in shape, such as a
# difference between past and future beside a mean. The rank grows with G but falls behind it, in
# time more than in space: later groups repeat, in part, what others say. And a high rank alone is
# no virtue, for unrelated noise has full rank as well.
#
# ## What to remember
#
# - Channel c uses table c % G. Unfolded the other way the code runs, trains, and reads checkpoints
#   wrong.
# - *Groups buy* different offsets for different channels; they cost table entries, and no
#   arithmetic. That a task needs them has to be shown, over seeds.
# - Effective rank says how many different opinions were learned; compare it with G.
# - A group's number is nobody's name: another seed learns much the same shapes under other numbers,
#   and with other signs (`analysis.recurrence`, and `ablations/FINDINGS.md`).
#
# Next: lesson 06 asks how the temporal and the spatial unit should be wired.
