# %% [markdown]
# # 12 Where does the model read the arrow of time?
#
# **Question.** A clip and its reversal hold the same frames. Where in the network does their order
# become the answer?
#
# **You will be able to** exchange activations between two runs, choose the control that isolates
# one cause, and turn a model's arrow of time by a knob.
#
# You need lessons 06 and 07. About 25 minutes; three exercises.

# %%
from lessons import preflight

preflight.check()

# %%
import matplotlib.pyplot as plt
import torch
from IPython.display import Image

import analysis
from lessons import stored
from lessons.checks import nb12
from lessons.clips import GeneratedClips, MovingDigits, moving, normalise

# %% [markdown]
# ## The same frames, another answer
#
# Test clips come in pairs: each odd one is the even one before it, run backwards. The toy model is
# the one of lesson 07, four stages of layout `T+S`.
#
# **Your guess:** below, a clip and its reversal play. Could you tell them apart by any one frame?

# %%
model = stored.model()
data = GeneratedClips(MovingDigits("test", 112, paired=True))
clips = normalise(data.clips)
with torch.no_grad():
    logits = model(clips)
lead = logits[range(112), data.labels] - logits[range(112), data.reverse_of[data.labels]]
print(f"the true class outscores its reversal in {(lead > 0).float().mean():.0%} of 112 clips")

# %%
moving(data.clips[:2], [data.classes[label] for label in data.labels[:2]])

# %% [markdown]
# **Reading.** No frame tells: each is in both clips. What differs is their order, and nothing else.
# So whatever pulls the two answers apart has come from the order.
#
# ## What the network holds on the way
#
# `activations` names what one pass makes. `where` chooses names by a pattern. Each tensor is
# (clips, frames, rows, columns, channels), whatever windows the model works in.
#
# **Your guess:** how many places are left in stage 4?

# %%
for name, x in analysis.activations(model, clips[:2], "*.block1.*.T.mix").items():
    print(name, tuple(x.shape))

# %% [markdown]
# **Reading.** One place, eight frames: stage 4 sees no more than a course over time.
#
# Take now the activations of the reversal. A part that never mixes frames makes of the reversed
# clip the same frames, in reversed order. To compare the two runs, the second must be turned back.
#
# ### Exercise 1: turn back in time (easy, 2 minutes)
#
# From (B, T, H, W, C) make the same with the frames in reversed order.
#
# <details><summary>Hint</summary>
#
# `flip` takes the number of an axis; time is not the first. Answers are in
# `lessons/solutions/nb12.py`.
#
# </details>


# %% tags=["exercise"]
def turn_back(x: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


nb12.turn_back(turn_back)

# %% [markdown]
# **Your guess:** once turned back, in which stages does the output of branch T differ between a
# clip and its reversal, and by how much?

# %%
forward, backward = (analysis.activations(model, clips[k::2], "*.out") for k in (0, 1))
for name, x in forward.items():
    gap = (backward[name].flip(1) - x).square().mean().sqrt() / x.square().mean().sqrt()
    print(f"{name:26} differs by {gap:5.1%} of its size")

# %% [markdown]
# **Reading.** Branch S of stage 1 differs by nothing: it cannot see time. Branch T differs from
# stage 1 on, and what follows it inherits that. But a difference is no cause: the answer may not
# hear of it.
#
# ## Exchange one, and watch the answer
#
# Run the clip again with *one* activation replaced by that of its reversal, turned back. If the
# answer becomes that of the reversal, all of the order goes through there.
#
# ### Exercise 2: the share of an exchange (medium, 5 minutes)
#
# `before` are the logits of the clip, `other` those of its reversal, `after` those of the clip with
# the exchange. How far along the way from `before` to `other` did it go? 0 is nothing, 1 all of it.
#
# <details><summary>Hint</summary>
#
# Project `after - before` on d = `other - before`: two dot products, the second of d with itself.
#
# </details>


# %% tags=["exercise"]
def share(before: torch.Tensor, after: torch.Tensor, other: torch.Tensor) -> float:
    raise NotImplementedError


nb12.share(share)

# %% [markdown]
# **Your guess:** branch T of stage 1, of stage 3, and of stage 4: which carries how much for the
# first pair?

# %%
d = logits[1] - logits[0]
for stage in (1, 3, 4):
    name = f"stage{stage}.block1.step1.T.out"
    given = backward[name][:1].flip(1)
    changed = {name: lambda own, given=given: given}
    after = analysis.activations(model, clips[:1], "logits", changed)["logits"][0]
    print(f"{name}: {(after - logits[0]) @ d / (d @ d):.3f} of the way")

# %% [markdown]
# **Reading.** Of these three only the temporal branch of stage 4 turns the answer into that of the
# reversal.
#
# `patch` does the same for all activations, over many pairs and both ways.
#
# **Your guess:** within that branch, from which part on: `norm`, `fc1`, `u`, `v`, `mix`, `gated` or
# `out`?

# %%
patched = analysis.patch(model, clips[:28])
analysis.draw_patching(patched)
plt.show()

# %% [markdown]
# **Reading.** From `mix` on. What comes into the mixing of stage 4 (`u`) and what gates it (`v`) is
# the same for a clip and its reversal, as far as the answer needs it. The multiplication by the
# temporal table is where order becomes the answer.
#
# ## A tempting story
#
# Had we no exact reversals, we would exchange with *some other clip*, as is often done.
#
# **Your guess:** which branches T carry something then?

# %%
unrelated = analysis.patch(model, clips[:28], "unrelated", "*.T.out").set_index("name")["share"]
reversal = patched.set_index("name")["share"]
for name, found in unrelated.items():
    print(f"{name}: {found:4.0%} with another clip, {abs(reversal[name]):4.0%} with its reversal")

# %% [markdown]
# **Reading.** *"The model reads motion step by step: each temporal branch adds its part."* It looks
# so in the first column. But another clip differs in all things: which digit, where, how bright, in
# front of what. Stages 1 to 3 carry these. Of the direction of time they carry nothing.
#
# The second trap is in the turning back. **Your guess:** a branch over space cannot see time. What
# share does it get if the reversal's activations are put in as they are?

# %%
unturned = analysis.patch(model, clips[:28:2], clips[1:28:2], "*.S.out")
for name, found in unturned.set_index("name")["share"].items():
    print(f"{name}: {abs(found):4.1%} not turned back, {abs(reversal[name]):4.1%} turned back")

# %% [markdown]
# **Reading.** Not turned back, blind branches are blamed: the exchange has put every frame's detail
# into another frame. A control must change one thing.
#
# ## Is it there earlier, and not used?
#
# A linear probe asks another question: can the direction be *read* from a stage's mean, by anyone?
#
# **Your guess:** how well from stage 3, and how well from stage 4?

# %% tags=["trained"]
train, val = GeneratedClips(MovingDigits("train", 280)), GeneratedClips(MovingDigits("val", 84))
probed = analysis.probe(model, train, val, data, target=["direction", "pair", "position"])
last = probed[probed.target == "direction"].set_index("stage").test
title = f"Direction can be read from stage 4 ({last[4]:.0%}), not from stage 3 ({last[3]:.0%})"
analysis.draw_probe(probed, title=title)
plt.show()

# %% [markdown]
# **Reading.** Which pair a clip is of, and where the mover is, can be read earlier. Its direction
# comes with stage 4. Probe and patch agree here; where they do not, believe the patch. A probe
# finds what is there, and not what is used.
#
# ## A gate at work
#
# What do the earlier branches do, then? Here is the first one: its message |mix(u)|, its gate |v|
# and their product, at each of 8 x 8 places.
#
# **Your guess:** in which of the three maps will a few places stand out from all others?

# %%
film = preflight.new_folder() / "film.png"
Image(analysis.save_gate_film(model, clips, "stage1.block1.step1.T", film).read_bytes())

# %% [markdown]
# **Reading.** The message is large nearly everywhere, over still ground, too. The product is large
# at a few places, where the gate is open. This is detail of the scene: exchanged with that of the
# reversal, it moved no answer.
#
# ## The knob
#
# Split each temporal table (and token bias) into an even part, which treats past and future alike,
# and an odd part. Multiply the odd part by a strength s.
#
# ### Exercise 3: turn the knob (medium, 5 minutes)
#
# From a table b over dt = -n to n make that of strength s.
#
# <details><summary>Hint</summary>
#
# Even: (b(dt) + b(-dt)) / 2; odd: (b(dt) - b(-dt)) / 2. `table.flip(0)` is b(-dt).
#
# </details>


# %% tags=["exercise"]
def turned(table: torch.Tensor, strength: float) -> torch.Tensor:
    raise NotImplementedError


nb12.turned(turned)

# %% [markdown]
# `arrow_of_time` does it to a whole model.
#
# **Your guess:** how often is the order right at s = 0, and at s = -1?

# %%
mirrored = analysis.arrow_of_time(model, -1.0)
with torch.no_grad():
    gap = (mirrored(clips[::2]) - logits[1::2]).abs().max()
print(f"s = -1 answers each clip as s = 1 answers its reversal, to 0.0001: {bool(gap < 1e-4)}")
curve = analysis.arrow_curve(model, data, (1.0, 0.5, 0.0, -0.5, -1.0))
analysis.draw_arrow(curve)
plt.show()

# %% [markdown]
# **Reading.** At 0 half of the pairs, which is chance: a model with even tables cannot know. At -1
# what was right is wrong. This is a theorem, with its proof in `arrow_of_time`'s docstring, and not
# a finding about this model. The finding is where its odd part does its work.
#
# ## The figure to remember
#
# On the left what each temporal branch carries, by both controls; on the right the knob.
#
# **Your guess:** which of the two colours would you have published?

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=[1.2, 1])
names = [name.removesuffix(".step1.T.out") for name in unrelated.index]
for shift, (label, found) in enumerate(
    {"its reversal": reversal, "another clip": unrelated}.items()
):
    places = [i + 0.4 * shift - 0.2 for i in range(len(names))]
    left.barh(places, 100 * found[unrelated.index], height=0.4, label=f"exchanged with {label}")
left.set(yticks=range(len(names)), yticklabels=names, xlabel="share of the difference (%)")
left.invert_yaxis()
left.legend(loc="lower center", bbox_to_anchor=(0.4, 1.12))
left.set_title("One branch reads the order of frames")
analysis.draw_arrow(curve, ax=right)
plt.show()

# %% [markdown]
# **Reading.** The exact reversal singles out one branch. The other clip makes five branches look
# like readers of time.
#
# ## What to remember
#
# - A difference, a probe and an exchange answer three questions: is it other, is it there, is it
#   used.
# - An exchange is as good as its control. Exact reversals change the order of frames alone, if what
#   is put in is turned back.
# - Shares are of this model and of these clips. Another seed may read time elsewhere: try it.
# - What is odd in time can be turned by a knob, and at -1 the model answers the reversed clip.
#
# This was the last lesson. `README.md` names the commands, `ablations/grids` the open questions.
