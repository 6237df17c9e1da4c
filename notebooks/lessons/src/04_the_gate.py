# %% [markdown]
# # 04 The gate
#
# **Question.** After mixing, the paper's unit *multiplies* the mixed half of the channels by the
# other half. Why not add, or simply mix? And what happens in the first steps of training, when the
# tables start at zero, as they do in the released code?
#
# **You will be able to** write the unit's forward pass, say what the product makes possible that a
# sum does not, and predict which parameters learn first under a given initialisation.
#
# You need lessons 02 and 03. About 20 minutes, of which training takes some twenty seconds; three
# exercises.

# %%
from lessons import preflight

preflight.check()

# %%
import inspect

import matplotlib.pyplot as plt
import torch

from lessons.checks import nb04
from lessons.clips import GeneratedClips, MovingDigits
from posmlp import GATES, TrainConfig, create_model, fit

# %% [markdown]
# ## Three statements
#
# The unit receives h with 2C channels for each of N tokens (a linear layer, `fc1`, doubled them,
# and a GELU followed), and gives C:
#
# 1. split h into halves u and v;
# 2. mix u over positions, and add a *token bias*: one number for each output position;
# 3. multiply by v.

# %%
gelu, cross_entropy = torch.nn.functional.gelu, torch.nn.functional.cross_entropy
unit = GATES["lrpe"](dim=1, window=(8,))
print(inspect.getsource(unit.forward))
print(inspect.getsource(unit.mix))

# %% [markdown]
# (`biased` adds, `gated` multiplies. `u`, `v` and `mixed` change nothing: they are there to be
# watched. `check` refuses wrong shapes.) Only u ever travels between tokens. v stays where it is,
# and decides *how much of what arrived is let through*, channel by channel: it is the gate.
#
# **Your guess, before you run the next cell:** two tokens, one channel; token 0 receives u from
# token 1 and the other way round. u = (1, 2), v = (10, 100). What comes out?

# %%
swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # the relation: each reads the other
u, v = torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0], [100.0]])
print("mix(u)     ", (swap @ u).flatten().tolist())
print("mix(u) * v ", ((swap @ u) * v).flatten().tolist())

# %% [markdown]
# **Reading.** Token 0 receives its neighbour's 2 and lets it through tenfold; token 1 receives 1
# and lets it through a hundredfold. The message comes from elsewhere, the gate from the token
# itself.
#
# **Your guess:** v comes out of a GELU. How far below zero can it get?

# %%
x = torch.linspace(-8, 8, 16_001)
lowest = gelu(x).argmin()
print(f"the lowest value of a GELU is {gelu(x)[lowest]:.2f}, at x = {x[lowest]:.2f}")

# %% [markdown]
# **Reading.** Hardly: so v is a valve, anywhere from shut to wide open, and it all but never turns
# a sign round. Whether a token counts as plus or as minus stands in the table.
#
# ### Exercise 1: write the forward (medium, 10 minutes)
#
# `h` (N, 2C), `relation` (N, N) and `token_bias` (N,) give (N, C). Two traps, which the check
# knows: which half is mixed, and where the bias goes.
#
# <details><summary>Hint</summary>
#
# `h.chunk(2, dim=-1)` gives u, then v. The bias belongs to an output *position* and is added to the
# mixed u **before** the product: `token_bias[:, None]`. An answer is in
# `lessons/solutions/nb04.py`.
# </details>


# %% tags=["exercise"]
def gate_forward(h: torch.Tensor, relation: torch.Tensor, token_bias: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


nb04.gate_forward(gate_forward)

# %% [markdown]
# ## Multiply, add, or only mix
#
# The package has all three as `gate_form`: `multiply` gives mix(u) * v, `add` gives mix(u) + v, and
# `mix` gives mix(u) alone and needs no v.
#
# How much does output m react to a small change of u at token n? That is the derivative d out[m] /
# d u[n], an N x N map.
#
# **Your guess:** take two different clips, hence two different h. Under which forms does the map
# change from clip to clip?

# %%
torch.manual_seed(0)
contents = {"clip A": gelu(torch.randn(8, 2)), "clip B": gelu(torch.randn(8, 2))}
table = torch.randn(1, 15)
responses = {}
for form in ("multiply", "add", "mix"):
    unit = GATES["lrpe"](dim=1, window=(8,), form=form)
    unit.positions.table.data = table
    for name, h in contents.items():
        inputs = h[:, : unit.in_features]
        jacobian = torch.autograd.functional.jacobian(unit, inputs)  # (8, 1, 8, in_features)
        responses[form, name] = jacobian[:, 0, :, 0]

# %%
titles = {"multiply": "multiply: by clip", "add": "add: always alike", "mix": "mix: always alike"}
fig, axes = plt.subplots(2, 3, figsize=(7.4, 4.4), sharex=True, sharey=True)
for i, name in enumerate(contents):
    for ax, form in zip(axes[i], titles, strict=True):
        image = ax.imshow(responses[form, name], vmin=-2.5, vmax=2.5)
        ax.set_title(titles[form] if i == 0 else "")
    axes[i, 0].set_ylabel(f"{name}\noutput frame m")
axes[1, 1].set_xlabel("changed frame n of u")
fig.colorbar(image, ax=axes, label="d out[m] / d u[n]")
plt.show()

# %% [markdown]
# **Reading.** `add` and `mix` react to every clip in the same way: the relation itself. `multiply`
# scales each row of the relation by that clip's v: *how much* a token takes from the others depends
# on what the token is. *From where* it takes does not, since a row keeps its pattern.

# %%
h = contents["clip A"]
row_scales = responses["multiply", "clip A"] / responses["mix", "clip A"]
torch.testing.assert_close(row_scales, h[:, 1:].expand(8, 8))
print("under `multiply`, row m of the response is row m of the relation, times v[m]")

# %% [markdown]
# So far all channels share one table. **Your guess:** with G channel groups, each with a table of
# its own (lesson 05), how many independent patterns can one token show over many clips?

# %%
for name, groups in (("lrpe", 1), ("lrpe", 2), ("lrpe", 4), ("attention", 1)):
    unit = GATES[name](dim=4, window=(8,), num_groups=groups)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    clips = gelu(torch.randn(40, 8, 8)).requires_grad_()
    unit(clips)[:, 3].sum().backward()  # output frame 3, all channels
    patterns = clips.grad[..., :4].sum(-1)  # a row a clip: the reaction to u of each frame
    rank = torch.linalg.matrix_rank(patterns, rtol=1e-4)
    print(f"{name:9} G = {groups}: rank {rank} of 8")

# %% [markdown]
# **Reading.** G of them: by its v a token chooses among G fixed patterns and weighs them against
# each other, no more. Attention makes a new pattern for each clip.

# %% [markdown]
# ### Exercise 2: what v costs (medium, 5 minutes)
#
# Count all parameters of one temporal branch (norm, fc1, unit, fc2) of `dim` channels over
# `num_frames` frames, for each form. Norm: a weight and a bias a channel. fc1 and fc2 have biases,
# a GELU has no parameters.
#
# <details><summary>Hint</summary>
#
# fc1 makes u and v, 2C channels, unless the form is `mix`: then only C. fc2 maps C to C. The unit
# has `num_groups` tables and one token bias a frame.
# </details>


# %% tags=["exercise"]
def branch_params(dim: int, form: str, num_frames: int, num_groups: int) -> int:
    raise NotImplementedError


nb04.branch_params(branch_params)

# %% [markdown]
# ## Zero tables
#
# In the released code a loop that should have started the tables with small random numbers never
# finds them, so that they start at **zero** (the package repeats this as `init="released"`; its
# default, `normal`, does what was intended).
#
# **Your guess:** with tables and token biases at zero, what does a whole *block* compute?

# %%
torch.manual_seed(0)
x = torch.randn(1, 1, 8, 4, 16)  # (clips, windows, T, n, C)
for init in ("released", "normal"):
    model = create_model("toy", init=init, windows=(2, 2, 2, 1))
    block = model.stages[0].blocks[0]
    with torch.no_grad():
        change = (block(x) - x).abs().max().item()
    print(f"{init:9} the block changes its input by at most {change:.1e}")

# %% [markdown]
# **Reading.** Nothing at all: mix(u) = 0, times v is 0, and only the residual connection remains.
# Every block starts as the identity; the model begins as stem, down-sampling and head.
#
# ### Which parameters can learn?
#
# **Your guess:** if the unit's output is exactly 0, the gradient of fc2's weight is 0 too. What of
# the table's own gradient? Of fc1's?

# %% tags=["trained"]
print(f"{'':9}", *(f"{kind:>10}" for kind in nb04.KINDS))
for init in ("released", "normal", "unit_bias"):
    torch.manual_seed(0)
    model = create_model("toy", init=init)
    clips, labels = torch.randn(4, 3, 8, 32, 32), torch.arange(4)
    cross_entropy(model(clips), labels).backward()
    branch = model.stages[0].blocks[0].steps[0]["T"]
    norms = {kind: 0.0 for kind in nb04.KINDS}
    for name, parameter in branch.named_parameters():
        norms[nb04.kind_of(name)] += parameter.grad.square().sum().item()
    print(f"{init:9}", *(f"{x**0.5:10.0e}" if x else f"{0:10}" for x in norms.values()))

# %% [markdown]
# **Reading.** Zero tables are not stuck: the table's gradient needs u and v, which are not zero,
# and the token bias's needs v. But in the first step nothing else in the branch moves except fc2's
# bias; fc1 and the norm must wait until tables and token biases have left zero. (All the zeros here
# are exact.)
#
# ### Exercise 3: predict the first step (hard, 10 minutes)
#
# For an initialisation (`released`: tables and token biases exactly 0; `normal`: small random
# tables) and a form, return the set of those kinds of parameters that get a gradient in the first
# step: `norm`, `fc1`, `table`, `token_bias`, `fc2.weight`, `fc2.bias`. Mind `add`.
#
# <details><summary>Hint</summary>
#
# Backwards from the loss: fc2's bias always has one. fc2's weight needs a non-zero output of the
# unit. The table needs u (and v, if it multiplies). fc1 is reached through u if the table is not 0,
# or through v if what v is multiplied by is not 0; in `add`, v passes straight on.
# </details>


# %% tags=["exercise"]
def first_gradients(init: str, form: str) -> set[str]:
    raise NotImplementedError


nb04.first_gradients(first_gradients)

# %% [markdown]
# ## Three starts
#
# `unit_bias` is gMLP's start: tables almost zero, but token biases of 1, so that the unit first
# passes v straight on. We train from all three, one seed each.

# %% tags=["trained"]
train_clips = GeneratedClips(MovingDigits("train", num_clips=240, difficulty="easy"))
test_clips = GeneratedClips(MovingDigits("test", num_clips=28, difficulty="easy", paired=True))
recipe = TrainConfig(epochs=5, batch_size=12, lr=6e-3)
losses = {}
for init in ("normal", "released", "unit_bias"):
    config = create_model("toy", init=init).config
    rows = fit(config, recipe, data=(train_clips, test_clips), seeds=[0], progress=False)
    losses[init] = [row["train_loss"] for row in rows]

# %% [markdown]
# **Your guess:** which of the three has the lowest loss in the second epoch, which in the last?

# %% tags=["trained"]
guessing = torch.tensor(14.0).log().item()
print(f"guessing has loss {guessing:.2f}")
for init, values in losses.items():
    print(f"{init:9} loss in epoch 2 {values[1]:.2f}, in epoch 5 {values[-1]:.2f}")

# %% [markdown]
# **Reading.** Zero tables do learn: they delay fc1 by a single step. One seed says no more than
# that; small gaps between the three may be its own.
#
# ## The figure to remember
#
# The losses that you have just made.
#
# **Your guess:** sketch the three curves. Where do they part, and do they meet again?

# %% tags=["trained"]
fig, ax = plt.subplots(figsize=(6, 3.4))
for init, values in losses.items():
    ax.plot(range(1, 6), values, "o-", label=init)
ax.axhline(guessing, color="0.5", linestyle="--")
ax.set(xlabel="epoch of 240 clips", xticks=range(1, 6))
ax.set_ylabel("training loss (dashed: guessing)")
last = ", ".join(f"{init} {values[-1]:.2f}" for init, values in losses.items())
ax.set_title(f"In the end: {last}")
ax.legend(title="init, one seed each")
plt.show()

# %% [markdown]
# **Reading.** All start near the loss of guessing, the zero tables too, and all leave it.
#
# ## What to remember
#
# - The unit: split, mix u, add a bias for each position, multiply by v. As v comes out of a GELU it
#   is a valve; signs stand in the table.
# - *Gated* is the mixed half of the channels, by the other half: positions decide who sends to
#   whom, the receiving token's own content decides how much passes. Adding cannot do that. With G
#   groups a token chooses among G fixed patterns.
# - With zero tables and a product a block is the identity, and only tables, token biases and fc2's
#   bias learn in the first step.
#
# Next: lesson 05 gives different channels different tables.
