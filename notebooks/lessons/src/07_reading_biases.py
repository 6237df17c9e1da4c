# %% [markdown]
# # 07 Reading learned biases honestly
#
# **Question.** The relation of this model is a small table that anyone can plot. What may be
# concluded from such a picture, and what not?
#
# **You will be able to** put a map beside its controls, test a story about it by intervention, and
# say what a model uses rather than what it could use.
#
# You need lessons 02 to 06. About 25 minutes; three exercises.

# %%
from lessons import preflight

preflight.check()

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import analysis
from lessons import figures, stored
from lessons.checks import nb07
from lessons.clips import GeneratedClips, MovingDigits
from posmlp import evaluate

# %% [markdown]
# ## Three models
#
# - **trained**: the toy model, layout `T+S`, gate `lrpe`, six epochs of moving digits
#   (`posmlp/README.md` has the command);
# - **initial**: the same model before its first step, from the same seed;
# - **shuffled**: the trained one, with the offsets of every table permuted. It has the same weights
#   in the same tables, only at meaningless places.
#
# A map that is worth a story must differ from both controls. Test clips come in pairs that are
# exact time reversals of each other, so chance *within pairs* is one half.
#
# **Your guess:** shuffling keeps every weight. Does the shuffled model still work a little?

# %%
trained, initial = stored.model(), stored.model(initial=True)
shuffled = stored.changed(trained, analysis.Intervention("shuffle", seed=0))
models = {"trained": trained, "initial": initial, "shuffled": shuffled}

clips = GeneratedClips(MovingDigits("test", 280, paired=True))
for name, model in models.items():
    found = evaluate(model, clips)
    print(f"{name:8} top-1 {found['top1']:.3f}, within reversed pairs {found['within_pair']:.3f}")

# %% [markdown]
# **Reading.** *Where* a weight stands carries all of it. Within pairs the shuffled model is not at
# chance but below: it takes clips for their reversals. Remember this; it will be explained by the
# maps.
#
# ## A first look: stage 1
#
# Figures show a table as the token that mixes sees it: keys before it stand on the left, keys after
# it on the right. (In code dt = query - key, so a positive dt means that the key lies in the
# *past*.) A unit of stage 1 mixes 8 frames, so a key stands up to 7 frames away; it has two channel
# groups.
#
# **Your guess:** the task needs the direction of time. Will the trained tables be larger towards
# the past than towards the future?

# %%
temporal = {
    name: analysis.bias_maps(model).query("block == 1 and branch == 'T'")
    for name, model in models.items()
}

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 2.7), sharey=True)
for ax, (name, maps) in zip(axes, temporal.items(), strict=True):
    analysis.draw_temporal_bias(maps.query("stage == 1"), ax=ax, title=f"{name}, stage 1")
    ax.set(xlabel="frames before (-) or after (+)")
    if name != "shuffled":
        ax.get_legend().remove()
        ax.set_ylabel("mixing weight")
plt.show()

# %% [markdown]
# **Reading.** Beautiful, and unlike both controls: one group adds the frames a little before and a
# little after, the other subtracts them, and neither looks at "now" itself. But both are nearly
# *symmetric*: they treat past and future alike.
#
# ## Numbers beside their controls
#
# Two numbers say what the eye saw. Let p be each offset's share of the table's energy, b² /
# sum(b²).
#
# - *Effective reach*: the root mean squared dt under p, in frames. 0 looks at "now" alone.
# - *Temporal asymmetry*: the share of energy in the odd part of the table. 0 treats past and future
#   alike, 1 is only their difference; random weights are near 0.5.
#
# ### Exercise 1: effective reach (easy, 5 minutes)
#
# `table` has an odd length; its middle is dt = 0.
#
# <details><summary>Hint</summary>
#
# `dt = np.arange(len(table)) - len(table) // 2`. Weigh by *squares*, so that negative weights
# count. Answers are in `lessons/solutions/nb07.py`.
#
# </details>


# %% tags=["exercise"]
def effective_reach(table: np.ndarray) -> float:
    raise NotImplementedError


nb07.effective_reach(effective_reach)

# %% [markdown]
# ### Exercise 2: the odd part (easy, 3 minutes)
#
# Every table is the sum of a symmetric part and an antisymmetric one. Return the antisymmetric
# part: half the difference between b(dt) and b(-dt).
#
# <details><summary>Hint</summary>
#
# `table[::-1]` is b(-dt).
#
# </details>


# %% tags=["exercise"]
def odd_part(table: np.ndarray) -> np.ndarray:
    raise NotImplementedError


nb07.odd_part(odd_part)

# %% [markdown]
# `bias_statistics` computes such numbers for every group of every unit, each beside its controls.
#
# **Your guess:** odd parts of tables are one way to tell forwards from backwards (token biases are
# another). In which of the four stages does this model have them?

# %%
statistics = analysis.bias_statistics(trained, initial).query("branch == 'T'")
names = ("locality_temporal", "temporal_asymmetry")
columns = [name + control for name in names for control in ("", "_initial", "_shuffled")]
table = statistics.groupby("stage")[columns].mean().round(2)
table.columns = pd.MultiIndex.from_product([["reach (frames)", "asymmetry"], models])
table

# %% [markdown]
# **Reading.** In stages 1 to 3 training has made the tables far *more* symmetric than they were,
# and than the same values in another order are. In stage 4 the odd share is about that of both
# controls: odd tables were not made there, they were left. Reach tells the stages apart, too: it
# has shrunk in the first, and grown in the last.
#
# Must there be odd tables at all? The stored grid on gates has a control, gate `none`, whose frames
# never meet: each has a token bias of its own, and that is all.

# %%
alone = stored.rows("gates").query("gate == 'none'").test_within_pair
print(f"gate none, {len(alone)} seeds: within pairs {alone.mean():.2f}, at best {alone.max():.2f}")
assert alone.max() > 0.5

# %% [markdown]
# **Reading.** No: a bias for each frame tells early from late, which is enough for some clips.
# Whether *this* model uses its odd tables has to be tried.
#
# ## The last stage
#
# Sixteen groups are too many lines: `draw_temporal_bias` turns to a heat map, groups sorted by the
# place of their peak.
#
# **Your guess:** all three maps are sorted in the same way. Will the two controls look structured,
# too?

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.2))
for ax, (name, maps) in zip(axes, temporal.items(), strict=True):
    analysis.draw_temporal_bias(maps.query("stage == 4"), ax=ax, title=f"{name}, stage 4")
    ax.set(xlabel="frames before (-) or after (+)")
plt.show()

# %% [markdown]
# **Reading.** Sorting alone draws a diagonal through pure noise: without the controls that would
# have been a story about "groups tuned to different delays". (Each map has its own colour scale;
# read the bars.) What is special in the trained map is not the diagonal but rows of one sign in the
# past and the other in the future.
#
# ## Walk through it yourself
#
# The explorer shows any table, and the row of the relation that a query reads from it. First its
# picture:

# %%
explorer = analysis.BiasExplorer(trained, initial, names=["trained", "initial"])
explorer.draw()
plt.show()

# %% [markdown]
# **Reading.** The query, frame 4, reads its neighbours with large weights and itself hardly at all:
# the notch at dt = 0 again, seen from one frame. The initial model has nothing like it.
#
# Now the explorer itself. Run the cell, choose stage, block, branch and group, click a query token
# or use the arrow keys.

# %%
explorer

# %% [markdown]
# Python reads what you have chosen: run the next cell again after a choice.

# %%
chosen = explorer.rows().query("model == 'trained'")
print(explorer.selection)
print(f"largest |weight| {chosen.bias.abs().max():.3f} at dt, dy, dx =", end=" ")
print(chosen.loc[chosen.bias.abs().idxmax(), ["dt", "dy", "dx"]].tolist())

# %% [markdown]
# ## What the model uses: interventions
#
# A table may hold structure that nothing downstream reads. So change it and look at the *answers*:
# `knock_out` sets it to 0, `symmetrise` removes its odd part, `shuffle` permutes its offsets. Each
# clip is its own control, so the change has a paired interval.
#
# **Your guess:** which costs more within reversed pairs: to take away all of the beautiful tables
# of stage 1, or to take only the odd part of those of stage 4?

# %%
changes = [
    analysis.Intervention(kind, stage=stage, branch="T", seed=0 if kind == "shuffle" else None)
    for kind in ("knock_out", "symmetrise", "shuffle")
    for stage in (1, 2, 3, 4)
]
changes.append(analysis.Intervention("knock_out", branch="S"))
effects = analysis.intervene(trained, clips, changes)
title = f"Within pairs odd parts are needed in {figures.needed(effects, 'symmetrise')}"
analysis.draw_interventions(effects, metric="within_pair", title=title)
plt.show()
assert figures.needed(effects, "symmetrise") == figures.needed(effects, "knock_out") == "stage 4"

# %% [markdown]
# **Reading.** The direction of time is read in stage 4, from the odd part of its tables. The tables
# of stage 1 are real, smooth, unlike any control, and this question can do without them.
#
# And the shuffled model below chance? Shuffling gives the tables of stage 4 new odd parts at
# random. **Your guess:** were other permutations as bad?

# %%
again = [analysis.Intervention("shuffle", stage=4, branch="T", seed=seed) for seed in range(6)]
for row in analysis.intervene(trained, clips, again).itertuples():
    print(f"{row.intervention}: within pairs {row.within_pair:.2f}, top-1 {row.top1:.2f}")

# %% [markdown]
# **Reading.** It hangs on the permutation: the sign of what is read may come out right, or turned.
# One control from one seed would have told another story.
#
# Of no use for this question need not mean of no use. Take the same changes, for the choice among
# all fourteen classes. **Your guess:** which stages count now?

# %%
for kind in ("knock_out", "symmetrise", "shuffle"):
    print(f"top-1 is lost by {kind} of {figures.needed(effects, kind, metric='top1')}")
title = f"Top-1 needs the tables of {figures.needed(effects, 'knock_out', metric='top1')}"
analysis.draw_interventions(effects, metric="top1", title=title)
plt.show()

# %% [markdown]
# **Reading.** The lines name the stages whose interval leaves out zero. Which stages count hangs on
# the change: knocked out a table is silent, shuffled it says something else. With these clips the
# other intervals hold zero, which is no proof that those tables are not needed.
#
# But each change left the other stages as they were, and one stage may stand in for another.
# **Your guess:** what is left of top-1 without the tables of stages 1 *and* 2, or of 1 to 3?

# %%
for last, lost in enumerate(("no stage", "stage 1", "stages 1 and 2", "stages 1 to 3")):
    changes = [analysis.Intervention("knock_out", stage=k, branch="T") for k in range(1, last + 1)]
    found = evaluate(stored.changed(trained, *changes), clips)
    found = {name: f"{value:.3f}" for name, value in found.items()}
    print(f"{lost:14} without tables: top-1 {found['top1']}, within pairs {found['within_pair']}")
alone = effects.query("kind == 'knock_out' and branch == 'T' and stage <= 2").top1_change.sum()
print(f"stages 1 and 2, each alone, lose {-alone:.3f} of top-1 in sum")

# %% [markdown]
# **Reading.** Stages 1 and 2 together cost far more than the sum of each alone: what one loses the
# other still has. "This stage costs little" was true of the change that was made, and of no other.
# The sign of time is different: it does hang on stage 4, whatever the others lose.
#
# ## A tempting story
#
# *"The groups with the largest weights matter most: look at the strongest rows to see how the model
# works."* Sixteen groups of stage 4 can be knocked out one at a time.
#
# **Your guess:** the rank correlation between a group's size and what its loss costs, between -1
# and 1.

# %%
single = [each for each in analysis.knock_outs(trained) if (each.stage, each.branch) == (4, "T")]
costs = analysis.intervene(trained, clips, single)
last = temporal["trained"].query("stage == 4").assign(square=lambda rows: rows.bias**2)
sizes = np.sqrt(last.groupby("group").square.mean())
odd = statistics.query("stage == 4").set_index("group").temporal_asymmetry
losses = -100 * costs.top1_change

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
points = ax.scatter(sizes, losses, c=odd, cmap="viridis", vmin=0, vmax=1)
for group, (x, y) in enumerate(zip(sizes, losses, strict=True)):
    place = (4, 3) if y >= 0 else (4, -9)
    ax.annotate(group, (x, y), xytext=place, textcoords="offset points", fontsize=7)
ax.set(xlabel="root mean squared weight of a group", ylabel="loss of top-1 (points)")
ax.set_title(f"Sixteen groups, {losses.nunique()} different losses")
ax.margins(y=0.12)
fig.colorbar(points, label="temporal asymmetry")
plt.show()

# %% [markdown]
# **Reading.** Each point is a group, with its number. Do not read a single one: of sixteen groups
# tried on these few clips some come out high, and some below zero, by chance. Many share a loss, as
# it counts clips.
#
# ### Exercise 3: put a number to it (medium, 8 minutes)
#
# Write Spearman's rank correlation of two lists: Pearson's correlation of their ranks. Values that
# are equal share the mean of their ranks.
#
# <details><summary>Hint</summary>
#
# `pd.Series(x).rank()` are the ranks; `np.corrcoef(a, b)[0, 1]` is Pearson's correlation.
#
# </details>


# %% tags=["exercise"]
def rank_agreement(sizes: np.ndarray, losses: np.ndarray) -> float:
    raise NotImplementedError


nb07.rank_agreement(rank_agreement)

# %% [markdown]
# **Your guess:** the worst single group costs how much within pairs, if all sixteen together cost
# what you have seen?

# %%
ranks = [pd.Series(np.asarray(x)).rank() for x in (sizes, losses)]  # equal values share a rank
found = np.corrcoef(*ranks)[0, 1]
rng = np.random.default_rng(0)
by_chance = [np.corrcoef(ranks[0], rng.permutation(ranks[1]))[0, 1] for _ in range(2000)]
p = np.mean(np.abs(by_chance) >= abs(found))
print(f"rank correlation {found:.2f}; shuffled losses come as far from 0 in {p:.0%} of tries")
worst = -100 * costs.within_pair_change.min()
whole = -100 * effects.query("kind == 'knock_out' and stage == 4").within_pair_change.iloc[0]
print(f"within pairs the worst single group costs {worst:.1f} points, all sixteen {whole:.1f}")
assert worst < whole / 10

# %% [markdown]
# **Reading.** Where shuffled losses agree with the sizes as well, more often than once in twenty
# tries, sixteen groups are too few to claim that size tells use. And no single group is "the motion
# detector": each can be spared, all together cannot. Knocking out one at a time *underestimates*
# what is shared among many. So does every method that removes one thing at a time, attribution
# included (lesson 08).
#
# ## The figure to remember
#
# All tables of the first blocks beside their controls, a row a stage, and on the right what taking
# them away, or their odd part, costs within reversed pairs.
#
# **Your guess:** cover the right column. Which stages would you call important?

# %%
figures.draw_maps_beside_effects(temporal, effects)
plt.show()

# %% [markdown]
# **Reading.** On the left every stage has structure that its controls lack. On the right each of
# three stages can lose all of it, alone, and the interval of what that costs within pairs holds 0.
#
# ## What to remember
#
# - These tables multiply values. They are *mixing weights*, not attention, and no explanation by
#   themselves.
# - A map goes beside its initial and its shuffled version, drawn in the same way.
# - A statistic says what a table could do; an intervention says what the model does with it: with
#   that table, while the others stand.
# - One model is one sample: repeat over seeds before you write "the model learns". This lesson did
#   not. Over fifteen seeds the offsets that a unit weighs come again; a group's number and its sign
#   do not (`analysis.draw_maps_over_seeds`, and `ablations/FINDINGS.md`).
#
# Next: lesson 08 asks the same honesty of attribution maps.
